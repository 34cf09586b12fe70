//! A newer process takes over from an older one, step by step: what it asks for, and what is given to it. Both ends stand here; what
//! they say to each other is in `relay/src/program/succession.rs`.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::Duration;

use directory::{DeviceId, Writer};
use following::Present;
use relay::program::succession::{Ask, Facts, Inheritance, Named, SuccessionError};
use relay::program::{Inherited, InheritedError};
use relay::server::{Attachment, Bound};
use relay::workers::Workers;
use rustix::fs::{MemfdFlags, memfd_create};
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use super::{Running, UpError, all_ended};
use crate::config::Config;
use crate::fleet::attached;
use crate::state::{StateDirectory, StateLock};

/// What each descriptor is for.
const LOCK: &str = "lock";
const DNS_UDP: &str = "dns-udp";
const DNS_TCP: &str = "dns-tcp";
const DOT: &str = "dot";
const FRONT: &str = "front";
const HTTP: &str = "http";
const UDP: &str = "udp";
const PUBLIC_PORT: &str = "public-port";
const PREDECESSOR: &str = "visitors";
const PRESENT: &str = "present";
const ADMIN: &str = "admin";

/// How long the changes may take that have begun when nothing is to change any more.
const HOLD_TIME: Duration = Duration::from_secs(10);

/// How long the name server may take to leave its sockets. It needs a quarter of a second.
const NAMES_TIME: Duration = Duration::from_secs(10);

/// Where the holder of a connection takes its packets: the place of the UDP socket, and the holder's generation.
fn packets(socket: usize, generation: u8) -> String {
    format!("packets-{socket}-{generation}")
}

/// While this is kept nothing changes in the database.
#[derive(Debug)]
pub(super) struct Holds {
    _devices: OwnedMutexGuard<Writer>,
    _relays: OwnedMutexGuard<()>,
}

/// The right to work on `state`. That is asked for before anything that an older process cannot take back, and refused if the
/// `config` has something that only a restart can change.
pub(crate) async fn take_state(
    inheritance: &mut Inheritance,
    state: &StateDirectory,
    config: &Config,
) -> Result<(StateLock, Option<Facts>), UpError> {
    let (mut given, facts) = inheritance.ask(Ask::State).await?;
    if let Some(facts) = &facts {
        check(facts, config)?;
    }
    let lock = match given.descriptors(LOCK).pop() {
        Some(lock) => StateLock::handed_over(lock, state)?,
        None => state.lock()?,
    };
    Ok((lock, facts))
}

/// Whether the listeners of the older process are where they are to be.
fn check(facts: &Facts, config: &Config) -> Result<(), InheritedError> {
    facts.check(FRONT, config.relay.front)?;
    facts.check(ADMIN, config.admin.listen)?;
    if let Some(http) = config.relay.http {
        facts.check(HTTP, http)?;
    }
    if let Some(ddns) = &config.ddns {
        facts.check(DNS_TCP, ddns.listen)?;
        if let Some(dot) = ddns.dot {
            facts.check(DOT, dot)?;
        }
    }
    Ok(())
}

/// What a successor is told of the process with this `relay`.
pub(crate) fn facts(relay: &relay::server::Handle, workers: &Workers, admin: SocketAddr) -> Facts {
    let mut listeners = vec![(FRONT, relay.front()), (ADMIN, admin)];
    listeners.extend(relay.http().map(|http| (HTTP, http)));
    let listeners = listeners.into_iter();
    Facts {
        generation: relay.generation(),
        workers: workers.count(),
        listeners: listeners.map(|(name, at)| (name.to_owned(), at)).collect(),
    }
}

/// The same right, for the successor.
pub(crate) fn give_lock(lock: &StateLock) -> io::Result<Named> {
    Ok(vec![(LOCK.to_owned(), lock.share()?)])
}

/// The name server's sockets.
pub(super) async fn take_names(
    inheritance: &mut Inheritance,
    config: Option<&ddns::Config>,
) -> Result<ddns::Bound, UpError> {
    let (mut given, _) = inheritance.ask(Ask::Names).await?;
    let Some(config) = config else {
        return Ok(ddns::Bound::default());
    };
    let dot = config.dot.map(|dot| given.listener(DOT, dot)).transpose()?;
    Ok(ddns::Bound {
        udp: given.datagrams(DNS_UDP, config.listen)?,
        tcp: given.listener(DNS_TCP, config.listen)?,
        dot: dot.flatten(),
    })
}

/// The relay's listeners among what a service manager has. Nothing else can be there.
pub(crate) fn take_from_manager(
    inheritance: &mut Inheritance,
    config: &relay::server::Config,
) -> Result<Bound, UpError> {
    let mut inherited = inheritance.of_the_manager();
    let bound = listeners(&mut inherited, config)?;
    inherited.all_taken()?;
    Ok(bound)
}

fn listeners(
    given: &mut Inherited,
    config: &relay::server::Config,
) -> Result<Bound, InheritedError> {
    let http = config.http.map(|http| given.listener(HTTP, http));
    Ok(Bound {
        front: given.listeners(FRONT, config.front)?,
        http: http.transpose()?.flatten(),
        ..Bound::default()
    })
}

/// The sockets of relay and admin listener, and the ways to the older process, where there is one; else what the manager had.
pub(crate) async fn take_front(
    inheritance: &mut Inheritance,
    config: &Config,
    of_manager: Bound,
) -> Result<(Bound, Option<TcpListener>), UpError> {
    let (mut given, Some(facts)) = inheritance.ask(Ask::Front).await? else {
        return Ok((of_manager, None));
    };
    let udp = given.datagrams(UDP, config.relay.front)?;
    let holders = |socket| {
        let holds = |generation| {
            let channel = given.descriptors(&packets(socket, generation)).pop()?;
            Some((generation, channel))
        };
        (0..=u8::MAX).filter_map(holds).collect()
    };
    let earlier = (0..udp.len()).map(holders).collect();
    let present = given.descriptors(PRESENT).pop();
    let present = present.map_or(Ok(Vec::new()), read_present);
    let bound = Bound {
        udp,
        ports: given.listeners(PUBLIC_PORT, (config.relay.front.ip(), 0).into())?,
        generation: facts.generation.wrapping_add(1),
        earlier,
        predecessor: given.descriptors(PREDECESSOR),
        present: present.map_err(UpError::Present)?,
        ..listeners(&mut given, &config.relay)?
    };
    Ok((bound, given.listener(ADMIN, config.admin.listen)?))
}

/// What the successor of this `relay` gets, and of this `admin` listener. Nobody is taken in here any more.
pub(crate) fn give_front(relay: &relay::server::Handle, admin: OwnedFd) -> io::Result<Named> {
    let Bound {
        front,
        http,
        udp,
        ports,
        generation: _, // it counts for itself
        earlier,
        predecessor,
        present,
    } = relay.hand_over()?;
    relay.give_way();
    let front = front.into_iter().map(|front| (FRONT, front.into()));
    let http = http.into_iter().map(|http| (HTTP, http.into()));
    let udp = udp.into_iter().map(|udp| (UDP, udp.into()));
    let ports = ports.into_iter().map(|port| (PUBLIC_PORT, port.into()));
    let predecessor = predecessor.into_iter().map(|way| (PREDECESSOR, way));
    let others = [(PRESENT, write_present(&present)?), (ADMIN, admin)];
    let mut given = named(
        front
            .chain(http)
            .chain(udp)
            .chain(ports)
            .chain(predecessor)
            .chain(others),
    );
    for (socket, holders) in earlier.into_iter().enumerate() {
        for (generation, channel) in holders {
            given.push((packets(socket, generation), channel));
        }
    }
    Ok(given)
}

/// Who is present, in a file that has no name.
fn write_present(present: &[(DeviceId, Attachment)]) -> io::Result<OwnedFd> {
    let present: Vec<_> = present
        .iter()
        .map(|(device, attachment)| attached::present(device, attachment))
        .collect();
    let mut file = File::from(memfd_create("present", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(&present)?)?;
    file.rewind()?;
    Ok(file.into())
}

/// The same read. Who makes no sense to this version is not present to it until it comes.
fn read_present(file: OwnedFd) -> io::Result<Vec<(DeviceId, Attachment)>> {
    let mut text = Vec::new();
    File::from(file).read_to_end(&mut text)?;
    let present: Vec<Present> = serde_json::from_slice(&text)?;
    Ok(present
        .into_iter()
        .filter_map(attached::attachment)
        .collect())
}

impl Running {
    /// What the successor gets that asks for this.
    ///
    /// # Errors
    /// If it cannot be had.
    pub async fn give(&mut self, ask: Ask) -> Result<(Named, Facts), SuccessionError> {
        let given = match ask {
            Ask::State => {
                let held = timeout(HOLD_TIME, async {
                    Holds {
                        _devices: self.cloud.devices.hold().await,
                        _relays: self.cloud.fleet.hold().await,
                    }
                });
                let held = held.await.map_err(|_| io::ErrorKind::TimedOut);
                self.holds = Some(held.map_err(io::Error::from)?);
                give_lock(&self.lock)?
            }
            Ask::Names => {
                self.given = Some(ask);
                self.names().await?
            }
            Ask::Front => {
                self.given = Some(ask);
                self.leaving.cancel();
                self.demo_end.retire.cancel();
                give_front(&self.relay, self.admin.hand_over()?)?
            }
            Ask::Serving => {
                self.names_end.cancel();
                if let Some(names) = &self.names
                    && timeout(NAMES_TIME, names.left()).await.is_err()
                {
                    tracing::warn!(
                        "the name server still answers; its successor takes updates all the same"
                    );
                }
                Named::new()
            }
        };
        Ok((given, self.facts()))
    }

    fn facts(&self) -> Facts {
        let mut facts = facts(&self.relay, &self.workers(), self.admin.address);
        let names = [(DNS_TCP, self.dns), (DOT, self.dot)].into_iter();
        let names = names.filter_map(|(name, at)| Some((name.to_owned(), at?)));
        facts.listeners.extend(names);
        facts
    }

    /// The name server's sockets, once nothing more is written to its log.
    async fn names(&self) -> Result<Named, SuccessionError> {
        let Some(names) = &self.names else {
            return Ok(Named::new());
        };
        names.give_up_updates().await.map_err(io::Error::other)?;
        let ddns::Bound { udp, tcp, dot } = names.sockets()?;
        let udp = udp.into_iter().map(|udp| (DNS_UDP, OwnedFd::from(udp)));
        let tcp = tcp.into_iter().map(|tcp| (DNS_TCP, tcp.into()));
        let dot = dot.into_iter().map(|dot| (DOT, dot.into()));
        Ok(named(udp.chain(tcp).chain(dot)))
    }

    /// The last that a successor has been given and that cannot be taken back.
    pub fn has_given(&self) -> Option<Ask> {
        self.given
    }

    /// After a successor that came to nothing: changes go on.
    pub fn takes_back(&mut self) {
        self.holds = None;
    }

    /// Serves whom it has until they have gone, but no longer than `leave` and `drain` say. The successor has everything else.
    pub async fn leave_to_successor(self) {
        self.stop.cancel();
        self.end.cancel();
        self.relay.shutdown().await;
        self.demo_end.stop.cancel();
        all_ended(self.parts, &self.cloud_visitors, &self.cloud.fleet).await;
    }
}

fn named(descriptors: impl Iterator<Item = (&'static str, OwnedFd)>) -> Named {
    descriptors
        .map(|(name, descriptor)| (name.to_owned(), descriptor))
        .collect()
}
