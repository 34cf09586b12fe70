//! A server, relays of it with a process of their own, agents at all of them, and a bystander's device at the server's own relay.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use relay::agent::{State, StateError};
use relay::tls::Roots;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::apart::{self, RelayApart};
use super::ends::End;
use super::fleet::time_for;
use super::server::{Server, register, register_all, start_origin};
use super::{Carrier, Device, READY, Watched, WorldError, read};
use crate::part::Part;
use crate::part::agents::{self, AtRelays, Order, Status};
use crate::part::up::Scarce;
use crate::process::{Child, Namespace, ProcessId};
use crate::progress::Progress;
use crate::visitor::Door;

/// So many agents share a process, which has 20,000 descriptors: each has two sockets and one for whoever asks how it is, and more
/// while it dials.
const AGENTS_PER_PROCESS: usize = 2500;

/// How many of one process are on their way at a time while nothing is measured.
const AT_ONCE: usize = 64;

/// The bystander's device.
const BYSTANDER: &str = "bystander";

/// How often it is looked whether all are there.
const LOOK: std::time::Duration = std::time::Duration::from_millis(20);

/// All of them.
#[derive(Debug)]
pub(crate) struct Several {
    agents: Vec<Child>, // end before their relays do
    orders: Vec<Order>,
    names: Vec<String>,
    relays: Vec<RelayApart>,
    bystander: (Child, Device),
    server: Server,
    trust_root: String,
    _origin: Child,
    folder: TempDir,
}

/// How a device keeps its tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// One, however many relays there are.
    One,
    /// Two where there are two relays.
    Two,
}

/// A device that was at a relay.
#[derive(Clone, Debug)]
pub(crate) struct Visited {
    pub(crate) host: String,
    pub(crate) habit: Habit,
}

/// Where visitors find devices.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    /// The zone's name server.
    pub(crate) dns: SocketAddr,
    /// To where an address leads that it answers with.
    pub(crate) fronts: BTreeMap<Ipv4Addr, SocketAddr>,
    pub(crate) roots: Roots,
}

impl Several {
    /// Starts the server, then so many `relays` beside it, and pairs `count` devices. Of several devices every other keeps one
    /// tunnel.
    pub(crate) async fn gather(
        relays: u8,
        count: usize,
        progress: &Progress,
    ) -> Result<Self, WorldError> {
        let folder = tempfile::tempdir()?;
        let server = Server::start(
            folder.path(),
            Carrier::Quic,
            End::HERE.any_port(),
            Scarce::default(),
        )
        .await?;
        let trust_root = read(&server.ready.ca)?;
        let (origin, service) = start_origin(Namespace::Here, folder.path()).await?;
        let service = format!("http://{service}");
        // As long as there is one relay only, that is where it goes, and there it stays.
        let mut order = order_for(&server, &trust_root, &service);
        order.devices.push(agents::Device {
            state: folder.path().join(BYSTANDER),
            invitation: Some(register(&server.ready.state, BYSTANDER).await?),
            one_tunnel: true,
        });
        let mut bystander = start_agents(&order, folder.path())?;
        let is_there = |status: &Status| status.attached() == 1;
        bystander.until_said(READY, is_there).await?;
        let host = format!("{BYSTANDER}.{}", server.ready.zone);
        let door = Door::new(server.ready.front, &host, Roots::from_pem(&trust_root)?);
        let watched = Watched::default();
        let device = Device::behind(
            door.ok_or(WorldError::BadName(host))?,
            server.ready.zone.clone(),
            watched,
        );

        let mut several = Self {
            agents: Vec::new(),
            orders: Vec::new(),
            names: (0..count).map(|number| format!("nas-{number}")).collect(),
            relays: Vec::new(),
            bystander: (bystander, device),
            server,
            trust_root,
            _origin: origin,
            folder,
        };
        for number in 0..relays {
            several.add_relay(number).await?;
        }
        several.pair(&service, progress).await?;
        Ok(several)
    }

    async fn add_relay(&mut self, number: u8) -> Result<(), WorldError> {
        let name = format!("relay{number}");
        let wish = apart::Wish {
            name: &name,
            public: Ipv4Addr::new(127, 0, 0, number.saturating_add(2)),
            is_held: false, // one that is gone is to refuse whoever comes
        };
        let folder = self.folder.path().join(&name);
        let relay = RelayApart::join(&self.server, wish, folder).await?;
        self.relays.push(relay);
        Ok(())
    }

    /// Each has its keys, its certificate, and the list of relays.
    async fn pair(&mut self, service: &str, progress: &Progress) -> Result<(), WorldError> {
        let state = &self.server.ready.state;
        let invitations = register_all(state, &self.names, progress).await?;
        let devices = self.names.iter().zip(invitations).enumerate();
        let devices: Vec<_> = devices
            .map(|(number, (name, invitation))| agents::Device {
                state: self.state_of(name),
                invitation: Some(invitation),
                one_tunnel: habit(number) == Habit::One,
            })
            .collect();
        progress.begin("pairing them".to_owned(), devices.len() as u64);
        let mut paired = 0;
        for some in devices.chunks(AGENTS_PER_PROCESS) {
            let mut order = order_for(&self.server, &self.trust_root, service);
            order.devices = some.to_vec();
            order.stay = false;
            let mut agents = start_agents(&order, self.folder.path())?;
            let all = agents.until_said(time_for(some.len()), |status: &Status| {
                progress.at((paired + status.left) as u64);
                status.left == some.len()
            });
            all.await?;
            paired += some.len();
            order.stay = true;
            for device in &mut order.devices {
                device.invitation = None;
            }
            self.orders.push(order);
        }
        Ok(())
    }

    fn state_of(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// All relays run, and every agent has come anew and is whole.
    pub(crate) async fn begin(&mut self, progress: &Progress) -> Result<(), WorldError> {
        self.agents.clear();
        for relay in &mut self.relays {
            relay.start().await?;
        }
        let mut agents = Vec::new();
        for order in &self.orders {
            let some = start_agents(order, self.folder.path())?;
            some.give_way()?; // elsewhere each would have a processor of its own
            agents.push(some);
        }
        self.agents = agents;
        let (begun, time) = (Instant::now(), time_for(self.names.len()));
        loop {
            let whole = self.whole(&[])?;
            progress.at(whole as u64);
            if whole == self.names.len() {
                return Ok(());
            }
            if begun.elapsed() > time {
                return Err(WorldError::NotWhole {
                    whole,
                    of: self.names.len(),
                });
            }
            sleep(LOOK).await;
        }
    }

    /// How many agents have as many tunnels as there are relays for them but those at `lost`.
    pub(crate) fn whole(&self, lost: &[String]) -> Result<usize, WorldError> {
        let there = self.relays.len() + 1 - lost.len();
        let is_whole = |alike: &AtRelays| {
            let here = alike.relays.iter().filter(|relay| !lost.contains(relay));
            here.count() == if alike.one_tunnel { 1 } else { there.min(2) }
        };
        let mut whole = 0;
        for agents in &self.agents {
            let status: Status = agents.said()?.unwrap_or_default();
            let alike = status.at_relays.iter().filter(|alike| is_whole(alike));
            whole += alike.map(|alike| alike.agents).sum::<usize>();
        }
        Ok(whole)
    }

    /// Some devices whose first relay is the first of those apart; at most so many of each habit.
    pub(crate) fn at_the_first_relay(&self, most: usize) -> Result<Vec<Visited>, WorldError> {
        let Some(relay) = self.relays.first() else {
            return Ok(Vec::new());
        };
        let mut visited: Vec<Visited> = Vec::new();
        for (number, name) in self.names.iter().enumerate() {
            let habit = habit(number);
            let alike = visited.iter().filter(|visited| visited.habit == habit);
            if alike.count() < most && first_of(&self.state_of(name))? == relay.name() {
                let host = format!("{name}.{}", self.server.ready.zone);
                visited.push(Visited { host, habit });
            }
        }
        Ok(visited)
    }

    /// The first of the relays apart, as `host:port`.
    pub(crate) fn first_relay(&self) -> Option<String> {
        let first = self.relays.first();
        first.map(|relay| relay.name().to_owned())
    }

    /// Kills it.
    pub(crate) fn kill_relay(&mut self) {
        if let Some(relay) = self.relays.first_mut() {
            relay.kill();
        }
    }

    /// From now on it does nothing any more, and nobody is told so.
    pub(crate) fn still_relay(&self) -> Result<(), WorldError> {
        self.relays.first().map_or(Ok(()), RelayApart::stand_still)
    }

    /// Kills the server and starts it again.
    pub(crate) async fn restart_server(&mut self) -> Result<(), WorldError> {
        self.server.restart(self.folder.path()).await
    }

    pub(crate) fn bystander(&self) -> &Device {
        &self.bystander.1
    }

    /// The relays but those at `lost`, the server's own first: where each says what it counts, and its process.
    pub(crate) fn relays_but(&self, lost: &[String]) -> Vec<(SocketAddr, ProcessId)> {
        let own = (self.server.ready.admin, self.server.child.id());
        let apart = self.relays.iter();
        let apart = apart.filter(|relay| lost.iter().all(|lost| lost != relay.name()));
        let running = apart.filter_map(RelayApart::running);
        [own].into_iter().chain(running).collect()
    }

    /// Where the server says what it counts.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.server.ready.admin
    }

    pub(crate) fn way(&self) -> Result<Way, WorldError> {
        let ready = &self.server.ready;
        let mut fronts = BTreeMap::from([(Ipv4Addr::LOCALHOST, ready.front)]);
        let apart = self.relays.iter();
        fronts.extend(apart.map(|relay| (relay.public(), relay.front())));
        Ok(Way {
            dns: ready.dns,
            fronts,
            roots: Roots::from_pem(&self.trust_root)?,
        })
    }
}

fn habit(number: usize) -> Habit {
    match number.is_multiple_of(2) {
        true => Habit::One,
        false => Habit::Two,
    }
}

fn order_for(server: &Server, trust_root: &str, service: &str) -> Order {
    Order {
        front: server.ready.front,
        several_relays: true,
        trust_root: trust_root.to_owned(),
        origin: service.to_owned(),
        http3: None,
        services: None,
        answer_seconds: None,
        devices: Vec::new(),
        at_once: AT_ONCE,
        stay: true,
    }
}

fn start_agents(order: &Order, folder: &Path) -> Result<Child, WorldError> {
    Ok(Child::start(Namespace::Here, Part::Agents, order, folder)?)
}

/// The relay where an agent begins.
fn first_of(state: &Path) -> Result<String, WorldError> {
    let pairing = State::open(state).and_then(|state| state.pairing());
    let pairing = pairing.map_err(|error: StateError| io::Error::other(error))?;
    Ok(pairing.relays.first().cloned().unwrap_or_default())
}
