//! Somebody with a fixed load who has nothing to do with what happens to others: a download at 200 Mbit/s, 200 small requests a second,
//! and 20 new connections a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::download::Download;
use super::requests::Clock;
use super::{Load, ScenarioError, TICK, for_ever};
use crate::visitor::{Door, VisitError};
use crate::world::Device;

/// Octets a second of the download: 200 Mbit/s.
const RATE: u64 = 25_000_000;

/// Connections for small requests, and how often each asks: together 200 a second.
const CONNECTIONS: usize = 4;
const EVERY: Duration = Duration::from_millis(20);

/// How often somebody new comes.
const NEW_EVERY: Duration = Duration::from_millis(50);

/// How long it may take until everything of it has begun.
const PATIENCE: Duration = Duration::from_secs(20);

/// The bystander. It is gone when this is dropped.
pub(super) struct Bystander {
    pub(super) load: Arc<Load>,
    /// Of the small requests.
    pub(super) clock: Arc<Clock>,
    /// Of new connections, each with its TLS handshake.
    pub(super) arrivals: Arc<Clock>,
    received: Arc<AtomicU64>,
    _visitors: JoinSet<()>,
}

/// What it has had so far.
#[derive(Clone)]
pub(super) struct Counts {
    received: Arc<AtomicU64>,
    clock: Arc<Clock>,
}

impl Counts {
    /// Of the download.
    pub(super) fn octets(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// To small requests.
    pub(super) fn answers(&self) -> u64 {
        self.clock.answered()
    }
}

impl Bystander {
    pub(super) fn counts(&self) -> Counts {
        Counts {
            received: Arc::clone(&self.received),
            clock: Arc::clone(&self.clock),
        }
    }

    pub(super) fn start(device: &Device) -> Result<Self, ScenarioError> {
        let (load, received) = (Arc::new(Load::default()), Arc::<AtomicU64>::default());
        let (clock, arrivals) = (Arc::new(Clock::new()?), Arc::new(Clock::new()?));
        let mut visitors = JoinSet::new();
        let download = Download::of(device, RATE);
        let (of_download, counted) = (Arc::clone(&load), Arc::clone(&received));
        visitors.spawn(async move {
            for_ever(&of_download, || download.once(&counted)).await;
        });
        for _ in 0..CONNECTIONS {
            let (door, path) = (device.door.clone(), device.small.clone());
            let (load, clock) = (Arc::clone(&load), Arc::clone(&clock));
            visitors
                .spawn(async move { for_ever(&load, || ask(&door, &path, &load, &clock)).await });
        }
        let (door, counted) = (device.door.clone(), Arc::clone(&arrivals));
        let of_arrivals = Arc::clone(&load);
        visitors.spawn(async move {
            for_ever(&of_arrivals, || arrive(&door, &of_arrivals, &counted)).await;
        });
        Ok(Self {
            load,
            clock,
            arrivals,
            received,
            _visitors: visitors,
        })
    }

    /// Waits until each part of its load has brought something.
    pub(super) async fn is_served(&self) -> Result<(), ScenarioError> {
        let begun = Instant::now();
        while self.received() == 0 || self.clock.answered() == 0 || self.arrivals.answered() == 0 {
            if begun.elapsed() > PATIENCE {
                return Err(ScenarioError::Nothing {
                    workload: "bystander",
                    cause: self
                        .load
                        .why()
                        .unwrap_or_else(|| "nothing has come".to_owned()),
                });
            }
            sleep(TICK).await;
        }
        Ok(())
    }

    /// Octets of the download.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }
}

async fn ask(door: &Door, path: &str, load: &Load, clock: &Clock) -> Result<(), VisitError> {
    let mut visit = door.enter().await?;
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let start = Instant::now();
        visit.exchange_soon(door.get(path)).await?;
        clock.answer(start, load);
    }
}

/// Comes anew again and again. Who takes long delays the next, as anybody's page does.
async fn arrive(door: &Door, load: &Load, clock: &Clock) -> Result<(), VisitError> {
    let mut ticks = interval(NEW_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let start = Instant::now();
        door.enter().await?;
        clock.answer(start, load);
    }
}
