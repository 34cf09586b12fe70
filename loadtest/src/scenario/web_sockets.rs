//! WebSockets at rest: so many visitors open one each, say something once, let it rest, and are answered again afterwards.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Effort, FAILURES, Load, ScenarioError, latencies, microseconds};
use crate::process::{ProcessId, UsageError};
use crate::progress::Progress;
use crate::report::{Column, Round, Table};
use crate::visitor::Door;
use crate::web_socket::WebSocket;
use crate::world::{Device, Place, Sibling, Watched};

pub(crate) const NAME: &str = "web-sockets";

/// What each round consists of.
const WORKLOAD: &str = "open_and_rest";

/// So many visitors a device has at most: 4,000, and some may still be leaving.
const OF_DEVICE: usize = 3900;

/// So many come of one address: far fewer than may, and 500 may come a second.
const OF_ADDRESS: usize = 500;

/// How many are on their way at a time.
const AT_ONCE: usize = 64;

/// What a process does for visitors who have just come is over by then.
const SETTLE: Duration = Duration::from_secs(1);

static OPEN: Column = Column::new("open", "open", 0);
static RATE: Column = Column::new("opened_per_s", "opened/s", 0);
static RELAY_MEMORY: Column = Column::new("relay_kib_per_web_socket", "relay KiB/WebSocket", 2);
static AGENT_MEMORY: Column = Column::new("agent_kib_per_web_socket", "agent KiB/WebSocket", 2);
static RELAY_CPU: Column = Column::new("relay_cpu_percent", "relay CPU % at rest", 1);
static AGENT_CPU: Column = Column::new("agent_cpu_percent", "agent CPU % at rest", 1);
static ANSWERED: Column = Column::new("answered", "answered after it", 0);
static P50: Column = Column::new("p50_ms", "p50 ms", 1);
static P99: Column = Column::new("p99_ms", "p99 ms", 1);

pub(crate) async fn run(
    place: &Place,
    effort: Effort,
    progress: &Progress,
) -> Result<Table, ScenarioError> {
    let carrier = place.carrier().map(|carrier| carrier.to_string());
    let count = (effort.connections, "WebSockets");
    let mut table = Table::new(NAME, count, effort.seconds, carrier);
    for round in 0..effort.rounds {
        // New processes each time: memory that others have left would be used again.
        let doors = Doors::open(place, effort.connections).await?;
        let what = effort.title(NAME, "opening", round);
        progress.begin(what, effort.connections as u64);
        let figures = measure(&doors, effort, progress, &mut table).await?;
        table.add(WORKLOAD, figures);
    }
    Ok(table)
}

/// As few devices as take all visitors.
struct Doors {
    device: Device,
    siblings: Vec<Sibling>,
}

impl Doors {
    async fn open(place: &Place, visitors: usize) -> Result<Self, ScenarioError> {
        let device = Device::reach(place, NAME).await?;
        let mut siblings = Vec::new();
        for number in 1..visitors.div_ceil(OF_DEVICE) {
            // Somebody else's server has the one that was named.
            let sibling = device.sibling(&format!("nas{number}"), true).await?;
            siblings.extend(sibling);
        }
        Ok(Self { device, siblings })
    }

    /// That of each visitor in turn.
    fn of(&self, visitor: usize) -> &Door {
        match visitor % (1 + self.siblings.len()) {
            0 => &self.device.door,
            number => &self.siblings[number - 1].door,
        }
    }

    /// The relay's memory, and that of all agents together, in octets.
    fn memory(&self) -> Result<(Option<u64>, Option<u64>), UsageError> {
        let Watched { relay, agent } = self.device.watched;
        let relay = relay.map(ProcessId::resident).transpose()?;
        let Some(agent) = agent else {
            return Ok((relay, None));
        };
        let others = self.siblings.iter().map(|sibling| sibling.id().resident());
        let others = others.sum::<Result<u64, _>>()?;
        Ok((relay, Some(agent.resident()? + others)))
    }
}

async fn measure(
    doors: &Doors,
    effort: Effort,
    progress: &Progress,
    table: &mut Table,
) -> Result<Round, ScenarioError> {
    let load = Arc::new(Load::default());
    sleep(SETTLE).await;
    let before = doors.memory()?;
    let begun = Instant::now();
    let sockets = open_all(doors, effort.connections, &load, progress).await;
    let took = begun.elapsed().as_secs_f64();
    let open = sockets.len() as f64;
    if sockets.is_empty() {
        let cause = load.why().unwrap_or_else(|| "none opens".to_owned());
        return Err(ScenarioError::Nothing {
            workload: WORKLOAD,
            cause,
        });
    }
    progress.begin(format!("{NAME}: at rest"), effort.seconds * 1000);
    let at_rest = load.observe(effort.length(), doors.device.watched, progress, || 0);
    let at_rest = at_rest.await?;
    let after = doors.memory()?;

    let mut latencies = latencies()?;
    let mut answered = 0;
    let mut asked = JoinSet::new();
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    for (number, mut socket) in sockets.into_iter().enumerate() {
        let turns = Arc::clone(&turns);
        asked.spawn(async move {
            let _turn = turns.acquire().await.map_err(std::io::Error::other)?;
            let begun = Instant::now();
            socket.ask(&format!("are you there, {number}?")).await?;
            Ok::<_, std::io::Error>((begun.elapsed(), socket))
        });
    }
    let mut all = Vec::new(); // all stay until all have been asked
    while let Some(asked) = asked.join_next().await {
        match asked.map_err(std::io::Error::other)? {
            Ok((took, socket)) => {
                answered += 1;
                latencies.saturating_record(microseconds(took));
                all.push(socket);
            }
            Err(error) => load.failed(error).await,
        }
    }
    if let Some(why) = load.why() {
        table.note(format!("first failure: {why}"));
    }
    let each = |before: Option<u64>, after: Option<u64>| {
        Some(after?.saturating_sub(before?) as f64 / 1024.0 / open)
    };
    let percent = |cpu: Option<f64>| Some(100.0 * cpu? / at_rest.seconds);
    let milliseconds = |share| latencies.value_at_quantile(share) as f64 / 1000.0;
    let mut figures: Round = vec![(&OPEN, open), (&RATE, open / took)];
    let known = [
        (&RELAY_MEMORY, each(before.0, after.0)),
        (&AGENT_MEMORY, each(before.1, after.1)),
        (&RELAY_CPU, percent(at_rest.relay_cpu)),
        (&AGENT_CPU, percent(at_rest.agent_cpu)),
    ];
    figures.extend(
        known
            .into_iter()
            .filter_map(|(of, figure)| Some((of, figure?))),
    );
    figures.push((&ANSWERED, f64::from(answered)));
    figures.extend([(&P50, milliseconds(0.5)), (&P99, milliseconds(0.99))]);
    figures.push((&FAILURES, load.failures() as f64));
    Ok(figures)
}

/// Each has been answered once.
async fn open_all(
    doors: &Doors,
    count: usize,
    load: &Arc<Load>,
    progress: &Progress,
) -> Vec<WebSocket> {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let is_here = doors.device.door.entrance().front.ip().is_loopback();
    let mut opening = JoinSet::new(); // dropped with this future, and every visitor with it
    for number in 0..count {
        let (door, path) = (doors.of(number).clone(), doors.device.small.clone());
        let turns = Arc::clone(&turns);
        let from = is_here.then(|| address(number / OF_ADDRESS));
        opening.spawn(async move {
            let _turn = turns.acquire().await.map_err(std::io::Error::other)?;
            let mut socket = WebSocket::open(&door, &path, from).await?;
            socket.ask("hello").await?;
            Ok::<_, std::io::Error>(socket)
        });
    }
    let mut sockets = Vec::new();
    while let Some(opened) = opening.join_next().await {
        match opened.unwrap_or_else(|panicked| Err(std::io::Error::other(panicked))) {
            Ok(socket) => sockets.push(socket),
            Err(error) => load.failed(error).await,
        }
        progress.at(sockets.len() as u64);
    }
    sockets
}

/// One of this host's own (RFC 1122 section 3.2.1.3).
fn address(number: usize) -> IpAddr {
    let number = u8::try_from(number).unwrap_or(u8::MAX);
    Ipv4Addr::new(127, 0, 1, number).into()
}
