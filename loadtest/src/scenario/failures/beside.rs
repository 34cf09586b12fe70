//! The bystander, and how much it keeps.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::report::{Column, Round};
use crate::scenario::ScenarioError;
use crate::scenario::bystander::Bystander;
use crate::world::Device;

static RATE: Column = Column::new("bystander_mbit_per_s", "bystander Mbit/s", 0);
static RATE_KEPT: Column = Column::new("bystander_mbit_kept_percent", "kept %", 0);
static REQUESTS: Column = Column::new("bystander_requests_per_s", "requests/s", 0);
static REQUESTS_KEPT: Column = Column::new("bystander_requests_kept_percent", "kept %", 0);
static FAILURES: Column = Column::new("bystander_failures", "bystander failures", 0);

/// A bystander who has had its share before anything failed.
pub(super) struct Beside {
    bystander: Bystander,
    before: Rates,
    begun: Reading,
}

/// Octets and requests a second.
#[derive(Clone, Copy)]
struct Rates {
    octets: f64,
    requests: f64,
}

#[derive(Clone, Copy)]
struct Reading {
    at: Instant,
    octets: u64,
    requests: u64,
    failures: u64,
}

impl Beside {
    /// Looks for `length` at what it has. The failure is to begin when this returns.
    pub(super) async fn start(device: &Device, length: Duration) -> Result<Self, ScenarioError> {
        let bystander = Bystander::start(device)?;
        bystander.is_served().await?;
        let begun = Reading::of(&bystander);
        sleep(length).await;
        Ok(Self {
            before: begun.until(Reading::of(&bystander)),
            begun: Reading::of(&bystander),
            bystander,
        })
    }

    /// The failure begins now, and not when it was to.
    pub(super) fn begin(&mut self) {
        self.begun = Reading::of(&self.bystander);
    }

    /// What it has had since the failure began, and how much that is of what it had before.
    pub(super) fn figures(&self) -> Round {
        let now = Reading::of(&self.bystander);
        let rates = self.begun.until(now);
        vec![
            (&RATE, rates.octets * 8.0 / 1e6),
            (&RATE_KEPT, rates.octets / self.before.octets * 100.0),
            (&REQUESTS, rates.requests),
            (
                &REQUESTS_KEPT,
                rates.requests / self.before.requests * 100.0,
            ),
            (&FAILURES, (now.failures - self.begun.failures) as f64),
        ]
    }

    /// The first thing that went wrong for it.
    pub(super) fn why(&self) -> Option<String> {
        self.bystander.load.why()
    }
}

impl Reading {
    fn of(bystander: &Bystander) -> Self {
        Self {
            at: Instant::now(),
            octets: bystander.received(),
            requests: bystander.clock.answered(),
            failures: bystander.load.failures(),
        }
    }

    fn until(self, later: Self) -> Rates {
        let seconds = (later.at - self.at).as_secs_f64();
        Rates {
            octets: (later.octets - self.octets) as f64 / seconds,
            requests: (later.requests - self.requests) as f64 / seconds,
        }
    }
}
