//! A server of our own, and the agent of one device that is attached to it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use directory::PublicPort;

use super::server::{Server, give_port, register};
use super::{Carrier, Ends, READY, Watched, WorldError, check_carrier, read};
use crate::part::up::Scarce;
use crate::part::{Part, agents};
use crate::process::Child;

/// What a device's agent leads to.
#[derive(Clone, Debug)]
pub(super) struct Service {
    /// Its URL.
    pub(super) origin: String,
    /// Where it speaks HTTP/3, if it does.
    pub(super) http3: Option<SocketAddr>,
    /// The file that describes the services instead.
    pub(super) file: Option<PathBuf>,
    /// The public port that this file has.
    pub(super) public: Option<PublicPort>,
}

impl From<String> for Service {
    fn from(origin: String) -> Self {
        Self {
            origin,
            http3: None,
            file: None,
            public: None,
        }
    }
}

/// Both of them, running.
#[derive(Debug)]
pub(super) struct Tunnel {
    agent: Child, // ends before the server does
    pub(super) server: Server,
    /// What vouches for the server and for the device, in PEM.
    pub(super) trust_root: String,
}

impl Tunnel {
    /// Makes `service` reachable by the device's `name`. The server is near and the agent far.
    pub(super) async fn start(
        folder: &Path,
        carrier: Carrier,
        name: &str,
        service: Service,
        ends: &Ends,
        scarce: Scarce,
    ) -> Result<Self, WorldError> {
        let (port, front) = (service.public, ends.near.any_port());
        let server = Server::offering(port, folder, carrier, front, scarce).await?;
        let order = agents::Order {
            front: server.ready.front,
            several_relays: false,
            trust_root: read(&server.ready.ca)?,
            origin: service.origin,
            http3: service.http3,
            services: service.file,
            answer_seconds: None,
            devices: vec![agents::Device {
                state: folder.join(name),
                invitation: Some(register(&server.ready.state, name).await?),
                one_tunnel: false,
            }],
            at_once: 1,
            stay: true,
        };
        if let Some(port) = port {
            give_port(&server.ready.state, name, port).await?;
        }
        let mut agent = Child::start(ends.far.namespace, Part::Agents, &order, folder)?;
        let status: agents::Status = agent
            .until_said(READY, |status: &agents::Status| status.attached() == 1)
            .await?;
        check_carrier(&status, carrier)?;
        Ok(Self {
            agent,
            server,
            trust_root: order.trust_root,
        })
    }

    pub(super) fn watched(&self) -> Watched {
        Watched {
            relay: Some(self.server.child.id()),
            agent: Some(self.agent.id()),
        }
    }
}
