//! Many small exchanges: over connections that are kept, and with a new connection, TLS handshake included, for each.
//!
//! Each visitor asks again as soon as it has its answer. What is measured is therefore the most that so many visitors can
//! get, and the latency at that rate; it is not the latency of a server at ease.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hdrhistogram::{CreationError, Histogram};
use tokio::task::JoinSet;

use super::{Effort, FAILURES, Load, Observed, ScenarioError, for_ever, latencies, microseconds};
use crate::progress::Progress;
use crate::report::{Column, Round, Table};
use crate::visitor::{Door, VisitError};
use crate::world::{Device, Place};

pub(crate) const NAME: &str = "requests";

static RATE: Column = Column::new("requests_per_s", "requests/s", 0);
static P50: Column = Column::new("p50_ms", "p50 ms", 2);
static P99: Column = Column::new("p99_ms", "p99 ms", 2);
static P999: Column = Column::new("p999_ms", "p999 ms", 2);
static RELAY_CPU: Column = Column::new("relay_cpu_us_per_request", "relay CPU µs", 1);
static AGENT_CPU: Column = Column::new("agent_cpu_us_per_request", "agent CPU µs", 1);
static CPU: Column = Column::new("cpu_us_per_request", "both", 1);

/// What becomes of a connection after its first answer.
#[derive(Clone, Copy)]
enum Habit {
    KeepAlive,
    NewConnection,
}

impl Habit {
    const ALL: [Self; 2] = [Self::KeepAlive, Self::NewConnection];

    fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep_alive",
            Self::NewConnection => "new_connection",
        }
    }
}

pub(crate) async fn run(
    place: &Place,
    effort: Effort,
    progress: &Progress,
) -> Result<Table, ScenarioError> {
    let device = Device::reach(place, NAME).await?;
    let carrier = place.carrier().map(|carrier| carrier.to_string());
    let mut table = Table::new(
        NAME,
        (effort.connections, "connections"),
        effort.seconds,
        carrier,
    );
    for round in 0..effort.rounds {
        for habit in Habit::ALL {
            progress.begin(
                effort.title(NAME, habit.name(), round),
                effort.seconds * 1000,
            );
            let figures = measure(&device, habit, effort, progress, &mut table).await?;
            table.add(habit.name(), figures);
        }
    }
    Ok(table)
}

async fn measure(
    device: &Device,
    habit: Habit,
    effort: Effort,
    progress: &Progress,
    table: &mut Table,
) -> Result<Round, ScenarioError> {
    let load = Arc::new(Load::default());
    let clock = Arc::new(Clock::new()?);
    let mut visitors = JoinSet::new(); // dropped with this future, and every visitor with it
    for _ in 0..effort.connections {
        let (door, path) = (device.door.clone(), device.small.clone());
        let (load, clock) = (Arc::clone(&load), Arc::clone(&clock));
        visitors.spawn(
            async move { for_ever(&load, || ask(&door, habit, &path, &load, &clock)).await },
        );
    }
    let count = || clock.answered();
    let observed = load
        .observe(effort.length(), device.watched, progress, count)
        .await?;
    drop(visitors);
    if observed.count == 0.0 {
        return Err(ScenarioError::Nothing {
            workload: habit.name(),
            cause: load
                .why()
                .unwrap_or_else(|| "no answer has come".to_owned()),
        });
    }
    if let Some(why) = load.why() {
        table.note(format!("{}, first failure: {why}", habit.name()));
    }
    let mut figures = self::figures(&observed, &clock);
    figures.push((&FAILURES, load.failures() as f64));
    Ok(figures)
}

/// What shows of the answers counted.
pub(super) fn figures(observed: &Observed, clock: &Clock) -> Round {
    let mut figures = vec![
        (&RATE, observed.count / observed.seconds),
        (&P50, clock.milliseconds(0.5)),
        (&P99, clock.milliseconds(0.99)),
        (&P999, clock.milliseconds(0.999)),
    ];
    let costs = [
        (&RELAY_CPU, observed.relay_cpu),
        (&AGENT_CPU, observed.agent_cpu),
        (&CPU, observed.cpu()),
    ];
    let each = |cpu: f64| cpu * 1e6 / observed.count;
    let known = costs.into_iter();
    figures.extend(known.filter_map(|(column, cpu)| Some((column, each(cpu?)))));
    figures
}

/// How many answers there were, and how long they took.
pub(super) struct Clock {
    answered: AtomicU64,
    latencies: Mutex<Histogram<u64>>,
}

impl Clock {
    pub(super) fn new() -> Result<Self, CreationError> {
        Ok(Self {
            answered: AtomicU64::new(0),
            latencies: Mutex::new(latencies()?),
        })
    }

    /// Counts an answer to what was asked at `start`; how long it took, only while that is observed.
    pub(super) fn answer(&self, start: Instant, load: &Load) {
        self.answered.fetch_add(1, Relaxed);
        if load.is_observed() {
            self.latencies()
                .saturating_record(microseconds(start.elapsed()));
        }
    }

    pub(super) fn answered(&self) -> u64 {
        self.answered.load(Relaxed)
    }

    /// Of these, how many came while they were observed.
    pub(super) fn observed(&self) -> u64 {
        self.latencies().len()
    }

    /// Within how many this part of the answers came.
    pub(super) fn milliseconds(&self, quantile: f64) -> f64 {
        self.latencies().value_at_quantile(quantile) as f64 / 1e3
    }

    fn latencies(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection and as many exchanges over it as the habit says.
async fn ask(
    door: &Door,
    habit: Habit,
    path: &str,
    load: &Load,
    clock: &Clock,
) -> Result<(), VisitError> {
    let mut start = Instant::now();
    let mut visit = door.enter().await?;
    loop {
        let request = match habit {
            Habit::KeepAlive => {
                start = Instant::now();
                door.get(path)
            }
            Habit::NewConnection => door.get_once(path),
        };
        visit.exchange_soon(request).await?;
        clock.answer(start, load);
        if let Habit::NewConnection = habit {
            return Ok(());
        }
    }
}
