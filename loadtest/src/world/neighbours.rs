//! A server and some devices of it, each with an agent and a service of its own: what happens to one is not to be noticed by another.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use relay::tls::Roots;
use tempfile::TempDir;

use super::server::{Server, register, start_origin, visitors_of};
use super::{
    Carrier, Device, Ends, READY, RelayApart, Watched, WorldError, apart, check_carrier, port, read,
};
use crate::admin::Metrics;
use crate::part::up::Scarce;
use crate::part::{Part, agents, failing_origin};
use crate::process::{Child, Namespace, ProcessId};
use crate::visitor::Door;

/// What the operator calls a relay with a process of its own.
const APART: &str = "apart";

/// Names of its devices lead here, where nobody is: visitors are told the way.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The server, near.
#[derive(Debug)]
pub(crate) struct Neighbours {
    server: Server,
    trust_root: String,
    folder: TempDir,
}

/// Where a device's agent and its service are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Where the server is.
    Near,
    /// At the other end of the link.
    Far,
}

/// What a device's agent and its service are to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) name: &'static str,
    pub(crate) side: Side,
    /// Whether its service fails when it is asked to.
    pub(crate) fails: bool,
    /// How long its agent waits for an answer of the service, in seconds; absent: as agents do.
    pub(crate) answer_seconds: Option<u64>,
    /// Where its agent finds the server, whatever the names; absent: at its front, and every other relay at its own.
    pub(crate) front: Option<SocketAddr>,
}

impl Wish {
    /// A device like any other, near.
    pub(crate) fn plain(name: &'static str, front: Option<SocketAddr>) -> Self {
        Self {
            name,
            side: Side::Near,
            fails: false,
            answer_seconds: None,
            front,
        }
    }
}

/// One of the devices.
#[derive(Debug)]
pub(crate) struct Neighbour {
    /// Its relay's front is the server's.
    pub(crate) device: Device,
    /// Its agent's state directory.
    pub(crate) state: PathBuf,
    agent: Child,
    origin: Child,
    origin_at: SocketAddr,
    order: agents::Order,
    namespace: Namespace,
    folder: PathBuf,
}

impl Neighbours {
    /// A server whose agents are where it is.
    pub(crate) async fn together(carrier: Carrier) -> Result<Self, WorldError> {
        Self::at(carrier, Ipv4Addr::LOCALHOST).await
    }

    /// One whose agents may be at the far one of `ends`.
    pub(crate) async fn apart(carrier: Carrier, ends: &Ends) -> Result<Self, WorldError> {
        Self::at(carrier, ends.near.address).await
    }

    async fn at(carrier: Carrier, ip: Ipv4Addr) -> Result<Self, WorldError> {
        let folder = tempfile::tempdir()?;
        let listener = port::listener(ip).map_err(WorldError::NoPort)?;
        let front = listener.local_addr()?;
        drop(listener);
        let server = Server::start(folder.path(), carrier, front, Scarce::default()).await?;
        Ok(Self {
            trust_root: read(&server.ready.ca)?,
            server,
            folder,
        })
    }

    pub(crate) fn front(&self) -> SocketAddr {
        self.server.ready.front
    }

    pub(crate) fn relay(&self) -> ProcessId {
        self.server.child.id()
    }

    pub(crate) async fn metrics(&self) -> Result<Metrics, WorldError> {
        Ok(Metrics::ask(self.server.ready.admin).await?)
    }

    /// Visitors of one of the devices now, as the relay knows them.
    pub(crate) async fn visitors_of(&self, neighbour: &Neighbour) -> Result<usize, WorldError> {
        visitors_of(&self.server.ready.state, neighbour.device.door.host()).await
    }

    /// Without a word.
    pub(crate) fn kill_server(&mut self) {
        self.server.child.kill();
    }

    /// The same state and front in a new process.
    pub(crate) async fn restart_server(&mut self) -> Result<(), WorldError> {
        self.server.restart(self.folder.path()).await
    }

    /// Registers one more device, which nobody runs.
    pub(crate) async fn add(&self, name: &str) -> Result<(), WorldError> {
        register(&self.server.ready.state, name).await.map(drop)
    }

    /// Registers and pairs a device, and returns when its agent is attached.
    pub(crate) async fn settle(&self, wish: Wish, ends: &Ends) -> Result<Neighbour, WorldError> {
        let Wish { name, front, .. } = wish;
        let namespace = match wish.side {
            Side::Near => ends.near.namespace,
            Side::Far => ends.far.namespace,
        };
        let folder = self.folder.path().join(name);
        std::fs::create_dir(&folder)?;
        let state = folder.join("state");
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let (origin, origin_at) = match wish.fails {
            true => start_failing_origin(namespace, any, &folder).await?,
            false => start_origin(namespace, &folder).await?,
        };
        let mut order = agents::Order {
            front: front.unwrap_or(self.front()),
            several_relays: front.is_none(),
            trust_root: self.trust_root.clone(),
            origin: format!("http://{origin_at}"),
            http3: None,
            services: None,
            answer_seconds: wish.answer_seconds,
            devices: vec![agents::Device {
                state: state.clone(),
                invitation: Some(register(&self.server.ready.state, name).await?),
                one_tunnel: false,
            }],
            at_once: 1,
            stay: true,
        };
        let agent = start_agent(&order, namespace, &folder, Some(self.server.carrier)).await?;
        for device in &mut order.devices {
            device.invitation = None;
        }
        let host = format!("{name}.{}", self.server.ready.zone);
        Ok(Neighbour {
            device: Device::behind(
                self.door(&host, self.front())?,
                self.server.ready.zone.clone(),
                Watched {
                    relay: Some(self.relay()),
                    agent: Some(agent.id()),
                },
            ),
            state,
            agent,
            origin,
            origin_at,
            order,
            namespace,
            folder,
        })
    }

    /// A relay that has joined the server, and whose front is ours.
    pub(crate) async fn relay_apart(&self) -> Result<RelayApart, WorldError> {
        let wish = apart::Wish {
            name: APART,
            public: ELSEWHERE,
            is_held: true,
        };
        RelayApart::join(&self.server, wish, self.folder.path().join(APART)).await
    }

    /// A device of the server, visited through `relay`.
    pub(crate) fn device_at(
        &self,
        relay: &RelayApart,
        neighbour: &Neighbour,
    ) -> Result<Device, WorldError> {
        let watched = Watched {
            relay: relay.running().map(|(_, process)| process),
            agent: neighbour.device.watched.agent,
        };
        let door = self.door(neighbour.device.door.host(), relay.front())?;
        Ok(Device::behind(
            door,
            self.server.ready.zone.clone(),
            watched,
        ))
    }

    /// The door of `host` at `front`.
    fn door(&self, host: &str, front: SocketAddr) -> Result<Door, WorldError> {
        let roots = Roots::from_pem(&self.trust_root)?;
        Door::new(front, host, roots).ok_or_else(|| WorldError::BadName(host.to_owned()))
    }
}

impl Neighbour {
    /// Without a word.
    pub(crate) fn kill_agent(&mut self) {
        self.agent.kill();
    }

    /// Another agent with the same state. Returns when it is attached.
    pub(crate) async fn start_agent(&mut self) -> Result<(), WorldError> {
        self.agent = start_agent(&self.order, self.namespace, &self.folder, None).await?;
        Ok(())
    }

    /// Where its agent and its service are.
    pub(crate) fn namespace(&self) -> Namespace {
        self.namespace
    }

    /// Where its service listens, or has listened.
    pub(crate) fn origin_at(&self) -> SocketAddr {
        self.origin_at
    }

    /// Without a word.
    pub(crate) fn kill_origin(&mut self) {
        self.origin.kill();
    }

    /// Another service that fails when it is asked to, where the one before was.
    pub(crate) async fn start_failing_origin(&mut self) -> Result<(), WorldError> {
        let started = start_failing_origin(self.namespace, self.origin_at, &self.folder);
        (self.origin, _) = started.await?;
        Ok(())
    }
}

/// The carrier is checked if it is known.
async fn start_agent(
    order: &agents::Order,
    namespace: Namespace,
    folder: &Path,
    carrier: Option<Carrier>,
) -> Result<Child, WorldError> {
    let mut agent = Child::start(namespace, Part::Agents, order, folder)?;
    let attached = agent.until_said(READY, |status: &agents::Status| status.attached() == 1);
    let status: agents::Status = attached.await?;
    if let Some(carrier) = carrier {
        check_carrier(&status, carrier)?;
    }
    Ok(agent)
}

/// One that fails when it is asked to, and where it listens.
async fn start_failing_origin(
    namespace: Namespace,
    listen: SocketAddr,
    folder: &Path,
) -> Result<(Child, SocketAddr), WorldError> {
    let order = failing_origin::Order { listen };
    let mut origin = Child::start(namespace, Part::FailingOrigin, &order, folder)?;
    let ready = origin.until_said(READY, |_: &failing_origin::Ready| true);
    let ready = ready.await?;
    Ok((origin, ready.address))
}
