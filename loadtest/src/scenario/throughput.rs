//! Bulk: so many visitors download at a time, then as many upload, each over a connection of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::task::JoinSet;

use super::{Effort, FAILURES, Load, Observed, ScenarioError, for_ever};
use crate::progress::Progress;
use crate::report::{Column, Round, Table};
use crate::visitor::{Door, VisitError};
use crate::world::{Device, Place};
use crate::zeros::Zeros;

pub(crate) const NAME: &str = "throughput";

/// One upload. The next one follows at once.
const UPLOAD_LENGTH: u64 = 1 << 30;

static RATE: Column = Column::new("gbit_per_s", "Gbit/s", 3);
static RELAY_CPU: Column = Column::new("relay_cpu_s_per_gb", "relay CPU s/GB", 3);
static AGENT_CPU: Column = Column::new("agent_cpu_s_per_gb", "agent CPU s/GB", 3);
static CPU: Column = Column::new("cpu_s_per_gb", "both", 3);

/// Which way the bytes go.
#[derive(Clone, Copy)]
enum Direction {
    Download,
    Upload,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Download => "download",
            Self::Upload => "upload",
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
    let mut directions = vec![(Direction::Download, device.bulk.clone())];
    directions.extend(device.upload.clone().map(|path| (Direction::Upload, path)));
    for round in 0..effort.rounds {
        for (direction, path) in &directions {
            progress.begin(
                effort.title(NAME, direction.name(), round),
                effort.seconds * 1000,
            );
            let measured = measure(&device, *direction, path, effort, progress, &mut table);
            let figures = measured.await?;
            table.add(direction.name(), figures);
        }
    }
    Ok(table)
}

async fn measure(
    device: &Device,
    direction: Direction,
    path: &str,
    effort: Effort,
    progress: &Progress,
    table: &mut Table,
) -> Result<Round, ScenarioError> {
    let load = Arc::new(Load::default());
    let moved = Arc::new(AtomicU64::new(0));
    let mut visitors = JoinSet::new(); // dropped with this future, and every visitor with it
    for _ in 0..effort.connections {
        let (door, path) = (device.door.clone(), path.to_owned());
        let (load, moved) = (Arc::clone(&load), Arc::clone(&moved));
        visitors.spawn(async move {
            for_ever(&load, || transfer(&door, direction, &path, &moved)).await
        });
    }
    let count = || moved.load(Relaxed);
    let observed = load
        .observe(effort.length(), device.watched, progress, count)
        .await?;
    if observed.count == 0.0 {
        return Err(ScenarioError::Nothing {
            workload: direction.name(),
            cause: load
                .why()
                .unwrap_or_else(|| "no byte has come through".to_owned()),
        });
    }
    if let Some(why) = load.why() {
        table.note(format!("{}, first failure: {why}", direction.name()));
    }
    let mut figures = self::figures(&observed, observed.count / 1e9);
    figures.push((&FAILURES, load.failures() as f64));
    Ok(figures)
}

/// What shows of so many gigabytes.
pub(super) fn figures(observed: &Observed, gigabytes: f64) -> Round {
    let mut figures = vec![(&RATE, gigabytes * 8.0 / observed.seconds)];
    figures.extend(costs(observed, gigabytes));
    figures
}

/// What each of so many gigabytes has cost.
pub(super) fn costs(observed: &Observed, gigabytes: f64) -> Round {
    let costs = [
        (&RELAY_CPU, observed.relay_cpu),
        (&AGENT_CPU, observed.agent_cpu),
        (&CPU, observed.cpu()),
    ];
    let known = costs.into_iter();
    known
        .filter_map(|(column, cpu)| Some((column, cpu? / gigabytes)))
        .collect()
}

/// One connection and as many transfers over it as it takes.
async fn transfer(
    door: &Door,
    direction: Direction,
    path: &str,
    moved: &Arc<AtomicU64>,
) -> Result<(), VisitError> {
    let mut visit = door.enter().await?;
    loop {
        match direction {
            Direction::Download => {
                let count = |octets| {
                    moved.fetch_add(octets as u64, Relaxed);
                };
                visit.exchange(door.get(path), count).await?;
            }
            Direction::Upload => {
                let body = Zeros::counted(UPLOAD_LENGTH, Arc::clone(moved));
                visit.exchange(door.put(path, body), |_| {}).await?;
            }
        }
    }
}
