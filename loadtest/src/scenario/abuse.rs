//! Floods and slow attacks on a relay, each bounded in count and time, and a bystander who should not notice.
//!
//! ```text
//!   bystander at a fixed load ─► the attack on a port that nobody serves: what the machine leaves it anyway
//!                             ─► the same attack on the front: what the relay leaves it, and what that costs the relay
//! ```

mod attack;
pub(super) mod bystander;
mod download;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::time::interval;
use tokio_util::task::AbortOnDropHandle;

pub(crate) use attack::Attack;
use attack::{Attackers, Counted};
use bystander::Bystander;

use super::{Effort, FAILURES, Observed, ScenarioError};
use crate::process::{ProcessId, UsageError};
use crate::progress::Progress;
use crate::report::{Column, Round, Table};
use crate::world::{Device, Place};

pub(crate) const NAME: &str = "abuse";

/// How often the relay's memory is looked at.
const LOOK: Duration = Duration::from_millis(50);

static ATTEMPTED: Column = Column {
    key: "attempted",
    heading: "attempted",
    decimals: 0,
};
static HELD: Column = Column {
    key: "most_held",
    heading: "most held",
    decimals: 0,
};
static TURNED_AWAY: Column = Column {
    key: "turned_away",
    heading: "turned away",
    decimals: 0,
};
static MEMORY: Column = Column {
    key: "relay_mib_more",
    heading: "relay MiB more",
    decimals: 1,
};
static CPU: Column = Column {
    key: "relay_cpu_percent",
    heading: "relay CPU %",
    decimals: 0,
};
static RATE: Column = Column {
    key: "bystander_mbit_per_s",
    heading: "bystander Mbit/s",
    decimals: 0,
};
static RATE_KEPT: Column = Column {
    key: "bystander_mbit_kept_percent",
    heading: "kept %",
    decimals: 0,
};
static REQUESTS: Column = Column {
    key: "bystander_requests_per_s",
    heading: "requests/s",
    decimals: 0,
};
static REQUESTS_KEPT: Column = Column {
    key: "bystander_requests_kept_percent",
    heading: "kept %",
    decimals: 0,
};
static P99: Column = Column {
    key: "bystander_p99_ms",
    heading: "p99 ms",
    decimals: 1,
};
static P99_BEFORE: Column = Column {
    key: "baseline_p99_ms",
    heading: "baseline p99 ms",
    decimals: 1,
};

/// How hard it is attacked, beside how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Force {
    /// New connections a second.
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
    let device = Device::reach(place, NAME).await?;
    let front = device.door.entrance().front;
    if !front.ip().is_loopback() {
        return Err(ScenarioError::NotHere(front));
    }
    let carrier = place.carrier().map(|carrier| carrier.to_string());
    let mut table = Table::new(
        NAME,
        (effort.connections, "attackers"),
        effort.seconds,
        carrier,
    );
    for round in 0..effort.rounds {
        for &attack in attacks {
            let title =
                |against| effort.title(NAME, &format!("{}, {against}", attack.name()), round);
            progress.begin(title("baseline"), effort.seconds * 1000);
            let nobody = Nobody::new()?;
            let before = attacked(&device, attack, nobody.address, force, effort, progress).await?;
            progress.begin(title("the relay"), effort.seconds * 1000);
            let seen = attacked(&device, attack, front, force, effort, progress).await?;
            if let Some(why) = &seen.why {
                table.note(format!(
                    "{}, bystander's first failure: {why}",
                    attack.name()
                ));
            }
            table.add(attack.name(), seen.figures(&before));
        }
    }
    Ok(table)
}

/// What was seen under an attack.
struct Seen {
    observed: Observed,
    requests: f64,
    p99: f64,
    failures: f64,
    why: Option<String>,
    attackers: Counted,
    memory: Option<u64>,
}

impl Seen {
    fn figures(&self, baseline: &Self) -> Round {
        let rate = |seen: &Self| seen.observed.count * 8.0 / 1e6 / seen.observed.seconds;
        let requests = |seen: &Self| seen.requests / seen.observed.seconds;
        let kept = |now: f64, before: f64| now / before * 100.0;
        let mut figures = vec![
            (&ATTEMPTED, self.attackers.attempted as f64),
            (&HELD, self.attackers.most_held as f64),
            (&TURNED_AWAY, self.attackers.turned_away as f64),
        ];
        let memory = self.memory.map(|octets| octets as f64 / (1 << 20) as f64);
        let cpu = self
            .observed
            .relay_cpu
            .map(|cpu| cpu / self.observed.seconds * 100.0);
        let known = [(&MEMORY, memory), (&CPU, cpu)].into_iter();
        figures.extend(known.filter_map(|(column, figure)| Some((column, figure?))));
        figures.extend([
            (&RATE, rate(self)),
            (&RATE_KEPT, kept(rate(self), rate(baseline))),
            (&REQUESTS, requests(self)),
            (&REQUESTS_KEPT, kept(requests(self), requests(baseline))),
            (&P99, self.p99),
            (&P99_BEFORE, baseline.p99),
            (&FAILURES, self.failures),
        ]);
        figures
    }
}

/// The bystander while `target` is attacked.
async fn attacked(
    device: &Device,
    attack: Attack,
    target: SocketAddr,
    force: Force,
    effort: Effort,
    progress: &Progress,
) -> Result<Seen, ScenarioError> {
    let bystander = Bystander::start(device)?;
    bystander.is_served().await?;
    let memory = device.watched.relay.map(Memory::watch).transpose()?;
    let attackers = Attackers::start(attack, device, target, force, effort.connections);
    let count = || bystander.received();
    let observed = bystander
        .load
        .observe(effort.length(), device.watched, progress, count)
        .await?;
    if observed.count == 0.0 {
        return Err(ScenarioError::Nothing {
            workload: attack.name(),
            cause: bystander
                .load
                .why()
                .unwrap_or_else(|| "nothing has come to the bystander".to_owned()),
        });
    }
    Ok(Seen {
        observed,
        requests: bystander.clock.observed() as f64,
        p99: bystander.clock.milliseconds(0.99),
        failures: bystander.load.failures() as f64,
        why: bystander.load.why(),
        attackers: attackers.counted(),
        memory: memory.map(|memory| memory.more()),
    })
}

/// A port of loopback that is taken, and at which nobody listens.
struct Nobody {
    address: SocketAddr,
    _socket: TcpSocket,
}

impl Nobody {
    fn new() -> std::io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Self {
            address: socket.local_addr()?,
            _socket: socket,
        })
    }
}

/// How a process's memory grows.
struct Memory {
    before: u64,
    most: Arc<AtomicU64>,
    _watching: AbortOnDropHandle<()>,
}

impl Memory {
    fn watch(process: ProcessId) -> Result<Self, UsageError> {
        let before = process.resident()?;
        let most = Arc::new(AtomicU64::new(before));
        let seen = Arc::clone(&most);
        let watching = tokio::spawn(async move {
            let mut looks = interval(LOOK);
            loop {
                looks.tick().await;
                // A process that has ended is noticed by whoever visits it.
                seen.fetch_max(process.resident().unwrap_or_default(), Relaxed);
            }
        });
        Ok(Self {
            before,
            most,
            _watching: AbortOnDropHandle::new(watching),
        })
    }

    /// How many octets more than at the beginning there were at most.
    fn more(&self) -> u64 {
        self.most.load(Relaxed).saturating_sub(self.before)
    }
}
