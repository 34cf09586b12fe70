//! The workloads. Each runs for a while before it is looked at, and is then observed for as long as was asked, while it
//! goes on: what is counted is neither beginning nor end.

pub(crate) mod abuse;
pub(crate) mod apps;
mod bystander;
pub(crate) mod dns;
mod download;
pub(crate) mod failures;
pub(crate) mod http3;
pub(crate) mod idle_tunnels;
pub(crate) mod peers;
pub(crate) mod reconnect;
pub(crate) mod requests;
pub(crate) mod throughput;
pub(crate) mod web_sockets;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hdrhistogram::{CreationError, Histogram};
use relay::agent::{KeyError, StateError};
use tokio::time::sleep;

use crate::admin::MetricsError;
use crate::process::{ChildError, ProcessId, UsageError};
use crate::progress::Progress;
use crate::report::Column;
use crate::world::{SshError, Watched, WorldError};

/// Between the start of a load and its observation: connections are made, windows open, caches warm.
const WARM_UP: Duration = Duration::from_secs(1);

/// How often the progress is shown.
const TICK: Duration = Duration::from_millis(100);

/// After a failure, so that a load that only fails does not become one of its own kind.
const PAUSE: Duration = Duration::from_millis(20);

/// What failed; of every workload the same.
pub(crate) static FAILURES: Column = Column::new("failures", "failures", 0);

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// How long each workload of a round is observed.
    pub(crate) seconds: u64,
    pub(crate) rounds: u32,
    /// Connections, tunnels or sockets, as the scenario says.
    pub(crate) connections: usize,
}

impl Effort {
    fn length(self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// What a person sees while a workload runs.
    fn title(self, scenario: &str, workload: &str, round: u32) -> String {
        format!(
            "{scenario}: {workload}, round {} of {}",
            round + 1,
            self.rounds
        )
    }
}

/// Why a scenario has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScenarioError {
    #[error(transparent)]
    World(#[from] WorldError),
    #[error(transparent)]
    Child(#[from] ChildError),
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The load did not come about.
    #[error("{workload} has measured nothing: {cause}")]
    Nothing {
        workload: &'static str,
        cause: String,
    },
    /// A socket or thread of this program's own.
    #[error("what puts the load on cannot start")]
    Query(#[from] std::io::Error),
    /// Somebody else's relay is attacked by nobody.
    #[error("{0} is not on this host: floods go to loopback only")]
    NotHere(SocketAddr),
    /// It takes more than an address.
    #[error("{0} needs a server that is started for it: leave --front out")]
    NotOurs(&'static str),
    /// The key that an attack needs.
    #[error("the other device's state cannot be read: {0}")]
    State(#[from] StateError),
    #[error("the other device's key cannot be used: {0}")]
    Key(#[from] KeyError),
    /// The ssh server, or who speaks with it.
    #[error(transparent)]
    Ssh(#[from] SshError),
    /// Nobody waits for it any more.
    #[error("interrupted")]
    Interrupted,
    /// No memory of latencies.
    #[error("latencies cannot be kept")]
    Latencies(#[from] CreationError),
}

/// What the workers of a load count together.
#[derive(Debug, Default)]
struct Load {
    /// Whether it is being observed.
    observed: AtomicBool,
    failures: AtomicU64,
    first_failure: OnceLock<String>,
}

impl Load {
    fn is_observed(&self) -> bool {
        self.observed.load(Relaxed)
    }

    /// Counts a failure and lets a moment pass.
    async fn failed(&self, why: impl ToString) {
        self.failures.fetch_add(1, Relaxed);
        let _ = self.first_failure.set(why.to_string()); // an earlier one stays
        sleep(PAUSE).await;
    }

    fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// The first of the failures, in words.
    fn why(&self) -> Option<String> {
        self.first_failure.get().cloned()
    }

    /// Observes for `length` how `count` grows and what it costs `watched`.
    async fn observe(
        &self,
        length: Duration,
        watched: Watched,
        progress: &Progress,
        count: impl Fn() -> u64,
    ) -> Result<Observed, UsageError> {
        sleep(WARM_UP).await;
        self.observed.store(true, Relaxed);
        let before = Reading::take(watched, count())?;
        while before.at.elapsed() < length {
            progress.at(u64::try_from(before.at.elapsed().as_millis()).unwrap_or(u64::MAX));
            sleep(TICK.min(length.saturating_sub(before.at.elapsed()))).await;
        }
        let after = Reading::take(watched, count())?;
        self.observed.store(false, Relaxed);
        Ok(before.until(after))
    }
}

/// What stands on the counters at one moment.
struct Reading {
    at: Instant,
    count: u64,
    relay_cpu: Option<Duration>,
    agent_cpu: Option<Duration>,
}

impl Reading {
    fn take(watched: Watched, count: u64) -> Result<Self, UsageError> {
        Ok(Self {
            at: Instant::now(),
            count,
            relay_cpu: watched.relay.map(ProcessId::cpu).transpose()?,
            agent_cpu: watched.agent.map(ProcessId::cpu).transpose()?,
        })
    }

    fn until(self, after: Self) -> Observed {
        let spent = |before: Option<Duration>, after: Option<Duration>| {
            Some(after?.saturating_sub(before?).as_secs_f64())
        };
        Observed {
            seconds: (after.at - self.at).as_secs_f64(),
            count: after.count.saturating_sub(self.count) as f64,
            relay_cpu: spent(self.relay_cpu, after.relay_cpu),
            agent_cpu: spent(self.agent_cpu, after.agent_cpu),
        }
    }
}

/// What happened between two moments.
#[derive(Clone, Copy, Debug)]
struct Observed {
    seconds: f64,
    count: f64,
    /// Processor seconds, where they could be read.
    relay_cpu: Option<f64>,
    agent_cpu: Option<f64>,
}

impl Observed {
    /// Of both together; of one, where there is no other.
    fn cpu(&self) -> Option<f64> {
        let known = [self.relay_cpu, self.agent_cpu].into_iter().flatten();
        known.reduce(|relay, agent| relay + agent)
    }
}

/// Repeats `attempt` for ever; what fails is counted and tried again.
async fn for_ever<F, E>(load: &Load, mut attempt: impl FnMut() -> F)
where
    F: Future<Output = Result<(), E>>,
    E: ToString,
{
    loop {
        if let Err(error) = attempt().await {
            load.failed(error).await;
        }
    }
}

/// For latencies in microseconds, up to a minute, each within a thousandth.
fn latencies() -> Result<Histogram<u64>, CreationError> {
    Histogram::new_with_bounds(1, 60_000_000, 3)
}

fn microseconds(latency: Duration) -> u64 {
    u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)
}
