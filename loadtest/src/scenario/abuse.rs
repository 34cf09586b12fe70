//! Floods and slow attacks on a relay, each bounded in count and time, and a bystander who should not notice.
//!
//! ```text
//!   bystander at a fixed load ─► the attack on a port that nobody serves: what the machine leaves it anyway
//!                             ─► the same attack on the front: what the relay leaves it, and what that costs the relay
//! ```

mod apart;
mod attack;
mod counters;
mod ground;
mod seen;
mod watch;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpSocket, UdpSocket};

pub(crate) use attack::Attack;
use attack::{Attackers, Needs};
use ground::Ground;
use seen::Seen;
use watch::{Growth, Lookout};

use super::bystander::Bystander;
use super::{Effort, ScenarioError};
use crate::progress::Progress;
use crate::report::{Round, Table};
use crate::world::Place;

pub(crate) const NAME: &str = "abuse";

/// How often a free port is looked for that both TCP and UDP can have.
const PORT_TRIES: usize = 16;

/// How hard it is attacked, beside how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Force {
    /// New connections a second, or packets where there are no connections.
    pub(crate) rate: u32,
    /// Of these so many in all.
    pub(crate) attempts: u64,
}

pub(crate) async fn run(
    place: &Place,
    attacks: &[Attack],
    force: Force,
    effort: Effort,
    progress: &Progress,
) -> Result<Table, ScenarioError> {
    let carrier = place.carrier().map(|carrier| carrier.to_string());
    let connections = (effort.connections, "attackers");
    let mut table = Table::new(NAME, connections, effort.seconds, carrier);
    let mut usual = None;
    for round in 0..effort.rounds {
        for &attack in attacks {
            let battle = Battle {
                attack,
                force,
                effort,
                round,
                progress: progress.clone(),
            };
            let own_carrier = || {
                let carrier = place.carrier();
                carrier.ok_or(ScenarioError::NotOurs(attack.name()))
            };
            let outcome = match attack.needs() {
                Needs::Strangers => apart::fight(own_carrier()?, battle).await?,
                Needs::FewDescriptors => {
                    let mut ground = Ground::with_few_descriptors(own_carrier()?).await?;
                    battle.fight(&mut ground).await?
                }
                Needs::LittleMemory => {
                    let mut ground = Ground::with_little_memory(own_carrier()?).await?;
                    battle.fight(&mut ground).await?
                }
                Needs::Nothing | Needs::Identity | Needs::Neighbour => {
                    let ground = match &mut usual {
                        Some(ground) => ground,
                        none => none.insert(Ground::reach(place).await?),
                    };
                    battle.fight(ground).await?
                }
            };
            for note in outcome.notes {
                table.note(format!("{}, {note}", attack.name()));
            }
            table.add(attack.name(), outcome.figures);
        }
    }
    Ok(table)
}

/// One attack in one round.
struct Battle {
    attack: Attack,
    force: Force,
    effort: Effort,
    round: u32,
    progress: Progress,
}

/// What came of it.
struct Outcome {
    figures: Round,
    notes: Vec<String>,
}

impl Battle {
    async fn fight(&self, ground: &mut Ground) -> Result<Outcome, ScenarioError> {
        ground.prepare(self.attack).await?;
        let nobody = Nobody::new().await?;
        self.begin("baseline");
        let baseline = self.attacked(ground, nobody.address).await?;
        self.begin("the relay");
        let seen = self.attacked(ground, ground.front()).await?;
        Ok(Outcome {
            figures: seen.figures(self.attack, &baseline),
            notes: seen.notes(self.round),
        })
    }

    fn begin(&self, against: &str) {
        let what = format!("{}, {against}", self.attack.name());
        let title = self.effort.title(NAME, &what, self.round);
        self.progress.begin(title, self.effort.seconds * 1000);
    }

    /// The bystander while the attack goes to `front`.
    async fn attacked(&self, ground: &Ground, front: SocketAddr) -> Result<Seen, ScenarioError> {
        let device = &ground.device;
        let watched = device.watched;
        let bystander = Bystander::start(device)?;
        bystander.is_served().await?;
        let [relay, agent] =
            [watched.relay, watched.agent].map(|process| process.map(Growth::watch).transpose());
        let (relay, agent) = (relay?, agent?);
        let lookout = match device.admin {
            Some(admin) => Some(Lookout::begin(admin).await?),
            None => None,
        };
        let target = ground.target(front)?;
        let attackers = Attackers::start(self.attack, target, self.force, self.effort.connections);
        let count = || bystander.received();
        let observed = bystander
            .load
            .observe(self.effort.length(), watched, &self.progress, count)
            .await?;
        if observed.count == 0.0 {
            return Err(ScenarioError::Nothing {
                workload: self.attack.name(),
                cause: bystander
                    .load
                    .why()
                    .unwrap_or_else(|| "nothing has come to the bystander".to_owned()),
            });
        }
        let told = match lookout {
            Some(lookout) => Some(lookout.end().await?),
            None => None,
        };
        Ok(Seen {
            observed,
            requests: bystander.clock.observed() as f64,
            p99: bystander.clock.milliseconds(0.99),
            arrivals_p99: bystander.arrivals.milliseconds(0.99),
            failures: bystander.load.failures() as f64,
            why: bystander.load.why(),
            attackers: attackers.end().await?,
            relay: relay.map(|growth| growth.seen()),
            agent: agent.map(|growth| growth.seen()),
            budget: ground.memory,
            told,
        })
    }
}

/// A port of loopback that is taken, and at which nobody listens or receives.
struct Nobody {
    address: SocketAddr,
    _sockets: (TcpSocket, UdpSocket),
}

impl Nobody {
    async fn new() -> io::Result<Self> {
        let mut tries = 0;
        loop {
            let tcp = TcpSocket::new_v4()?;
            tcp.bind((Ipv4Addr::LOCALHOST, 0).into())?;
            let address = tcp.local_addr()?;
            match UdpSocket::bind(address).await {
                Ok(udp) => {
                    return Ok(Self {
                        address,
                        _sockets: (tcp, udp),
                    });
                }
                Err(error) if tries == PORT_TRIES => return Err(error),
                Err(_) => tries += 1,
            }
        }
    }
}
