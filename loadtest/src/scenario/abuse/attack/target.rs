//! What is attacked: the relay, or nobody in its place, and everybody who is reached by it.

use std::io;
use std::net::SocketAddr;

use relay::tls::{AgentCertificate, Roots};

use crate::entrance::Entrance;
use crate::scenario::download::Download;
use crate::visitor::Door;

/// What must be there for an attack, beside a relay and a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Needs {
    Nothing,
    /// A relay that has few descriptors.
    FewDescriptors,
    /// One that may have little memory.
    LittleMemory,
    /// Addresses that packets can come from and that nobody has.
    Strangers,
    /// A paired device whose agent is away.
    Identity,
    /// Another device that is attached.
    Neighbour,
}

/// See the module.
#[derive(Debug)]
pub(in super::super) struct Target {
    /// Where it is attacked.
    pub(in super::super) front: SocketAddr,
    pub(in super::super) zone: String,
    /// The door of the device that the bystander visits too.
    pub(in super::super) device: Door,
    /// What to ask the device for that is long.
    pub(in super::super) bulk: String,
    /// That of another device.
    pub(in super::super) neighbour: Option<Door>,
    /// The key of another one.
    pub(in super::super) identity: Option<AgentCertificate>,
}

/// Who ends a visitor's TLS and speaks HTTP with it.
#[derive(Clone, Debug)]
pub(super) struct HttpEnd {
    pub(super) host: String,
    /// A path that takes bodies.
    pub(super) takes: String,
    /// A path with a long answer.
    pub(super) gives: String,
}

impl Target {
    /// What vouches for everybody's certificate.
    pub(super) fn roots(&self) -> &Roots {
        self.device.roots()
    }

    pub(super) fn identity(&self) -> io::Result<&AgentCertificate> {
        self.identity.as_ref().ok_or_else(not_there)
    }

    /// A download from the device at so many octets a second.
    pub(super) fn download(&self, rate: u64) -> Download {
        self.download_from(&self.device, rate)
    }

    /// The same from the other device.
    pub(super) fn download_of_neighbour(&self, rate: u64) -> io::Result<Download> {
        let neighbour = self.neighbour.as_ref().ok_or_else(not_there)?;
        Ok(self.download_from(neighbour, rate))
    }

    fn download_from(&self, door: &Door, rate: u64) -> Download {
        Download {
            entrance: Entrance {
                front: self.front,
                ..door.entrance()
            },
            path: self.bulk.clone(),
            rate,
        }
    }

    /// The device's agent and `cloud.<zone>` in turn.
    pub(super) fn http_end(&self, number: u64) -> HttpEnd {
        match number.is_multiple_of(2) {
            true => HttpEnd {
                host: self.device.host().to_owned(),
                takes: self.bulk.clone(),
                gives: self.bulk.clone(),
            },
            false => HttpEnd {
                host: format!("cloud.{}", self.zone),
                takes: "/api/nothing".to_owned(),
                gives: "/api/openapi.json".to_owned(),
            },
        }
    }
}

fn not_there() -> io::Error {
    io::ErrorKind::NotFound.into()
}
