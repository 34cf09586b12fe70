//! What is looked at while an attack goes on: how much memory a process has, and whether the server's admin listener answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

use super::counters::Counters;
use crate::admin::{MetricsError, PATIENCE};
use crate::process::{ProcessId, UsageError};
use crate::scenario::microseconds;

/// How often a process's memory is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How often the admin listener is asked.
const ASK: Duration = Duration::from_millis(500);

/// How a process's memory grows.
pub(super) struct Growth {
    before: u64,
    most: Arc<AtomicU64>,
    _watching: AbortOnDropHandle<()>,
}

/// How it has grown, in octets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grown {
    pub(super) most: u64,
    /// How many more than at the beginning that is.
    pub(super) more: u64,
}

impl Growth {
    pub(super) fn watch(process: ProcessId) -> Result<Self, UsageError> {
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

    pub(super) fn seen(&self) -> Grown {
        let most = self.most.load(Relaxed);
        Grown {
            most,
            more: most.saturating_sub(self.before),
        }
    }
}

/// Asks the server for its counters again and again.
pub(super) struct Lookout {
    admin: SocketAddr,
    before: Counters,
    slowest_us: Arc<AtomicU64>,
    _asking: AbortOnDropHandle<()>,
}

/// What the server has told.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// How many it has turned away meanwhile.
    pub(super) turned_away: f64,
    /// Why, and how many for each reason.
    pub(super) reasons: String,
    pub(super) retries: f64,
    pub(super) accept_errors: f64,
    /// How long an answer took at most, in milliseconds: [`PATIENCE`] where none came.
    pub(super) slowest_ms: f64,
}

impl Lookout {
    pub(super) async fn begin(admin: SocketAddr) -> Result<Self, MetricsError> {
        let before = Counters::ask(admin).await?;
        let slowest_us = Arc::<AtomicU64>::default();
        let slowest = Arc::clone(&slowest_us);
        let asking = tokio::spawn(async move {
            let mut asks = interval(ASK);
            asks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                asks.tick().await;
                let told = Counters::ask(admin).await;
                let took = told.map_or(PATIENCE, |counters| counters.took);
                slowest.fetch_max(microseconds(took), Relaxed);
            }
        });
        Ok(Self {
            admin,
            before,
            slowest_us,
            _asking: AbortOnDropHandle::new(asking),
        })
    }

    pub(super) async fn end(self) -> Result<Told, MetricsError> {
        let after = Counters::ask(self.admin).await?;
        let grown = |count: fn(&Counters) -> f64| count(&after) - count(&self.before);
        Ok(Told {
            turned_away: grown(Counters::turned_away),
            reasons: after.reasons_since(&self.before),
            retries: grown(Counters::retries),
            accept_errors: grown(Counters::accept_errors),
            slowest_ms: self.slowest_us.load(Relaxed) as f64 / 1e3,
        })
    }
}
