//! What fails, one thing after the other, each bounded in time, and what becomes of it: of those it happens to, and of a bystander
//! with a device of its own at the same relay.
//!
//! ```text
//!   bystander at a fixed load ─► what it has ─► the failure ─► what it has now, and how long everything took
//! ```

mod agent_killed;
mod beside;
mod control_away;
mod half_open;
mod nat;
mod nat_rebinding;
mod origin_away;
mod scene;
mod visits;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use tokio::time::sleep;

use super::{Effort, ScenarioError};
use crate::process::{Dropped, Namespace};
use crate::progress::Progress;
use crate::report::{Column, Round, Table};
use crate::world::{Carrier, Device, Ends, Neighbours, WorldError};

pub(crate) const NAME: &str = "failures";

/// How often it is looked whether something has come true: what a figure is true to.
const LOOK: Duration = Duration::from_millis(20);

/// No failure is waited for longer, unless it says so.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether what should stay attached did.
static TUNNELS_LOST: Column = Column::new("tunnels_lost", "tunnels lost", 0);
static BACK: Column = Column::new("served_again_s", "served again s", 2);

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Failure {
    /// An agent is killed; then, with another, its link goes down (row 3)
    AgentKilled,
    /// A device's service is stopped, swallowed by its network, hangs, and breaks off (row 4)
    OriginAway,
    /// Packets vanish both ways, of an agent and of a visitor; and a visitor reads nothing (row 5)
    HalfOpen,
    /// A NAT gives the agent another port a hundred times while a download passes (row 7)
    NatRebinding,
    /// Control is killed, and a relay with a process of its own is restarted before it comes back
    ControlAway,
}

/// What all of them share.
pub(crate) struct Plan<'a> {
    pub(crate) failures: &'a [Failure],
    pub(crate) carrier: Carrier,
    /// New visitors a second, while control is away.
    pub(crate) rate: u32,
    /// How long agents wait for an answer of their service, if not as they do by themselves.
    pub(crate) answer_seconds: Option<u64>,
    pub(crate) effort: Effort,
}

/// What a failure is shown in.
struct Stage<'a> {
    ends: Ends,
    /// Why there is no link, nor rules that drop packets.
    no_link: Option<String>,
    plan: &'a Plan<'a>,
    progress: &'a Progress,
    round: u32,
}

/// Moves this thread to a network namespace, if there can be one.
pub(crate) async fn run(plan: &Plan<'_>, progress: &Progress) -> Result<Vec<Table>, ScenarioError> {
    let (ends, no_link) = match far_apart().await {
        Ok(ends) => (ends, None),
        Err(why) => (Ends::together(), Some(why)),
    };
    let mut stage = Stage {
        ends,
        no_link,
        plan,
        progress,
        round: 0,
    };
    let mut tables: Vec<_> = plan.failures.iter().map(|_| stage.table()).collect();
    for round in 0..plan.effort.rounds {
        stage.round = round;
        for (failure, table) in plan.failures.iter().zip(&mut tables) {
            match failure {
                Failure::AgentKilled => Box::pin(agent_killed::run(&stage, table)).await?,
                Failure::OriginAway => Box::pin(origin_away::run(&stage, table)).await?,
                Failure::HalfOpen => Box::pin(half_open::run(&stage, table)).await?,
                Failure::NatRebinding => Box::pin(nat_rebinding::run(&stage, table)).await?,
                Failure::ControlAway => Box::pin(control_away::run(&stage, table)).await?,
            }
        }
    }
    Ok(tables)
}

/// Two ends of a wire, in namespaces where packets can be dropped; or why there are none.
async fn far_apart() -> Result<Ends, String> {
    Dropped::can_be(Namespace::New).map_err(|error| error.to_string())?;
    Ends::apart(crate::part::link::Link::Wire)
        .await
        .map_err(|error| error.to_string())
}

impl Stage<'_> {
    fn table(&self) -> Table {
        let Effort {
            connections,
            seconds,
            ..
        } = self.plan.effort;
        let carrier = self.plan.carrier.to_string();
        Table::new(NAME, (connections, "visitors"), seconds, Some(carrier))
    }

    /// What a person sees while `what` fails.
    fn begin(&self, what: &str) {
        let Effort { seconds, .. } = self.plan.effort;
        let title = self.plan.effort.title(NAME, what, self.round);
        self.progress.begin(title, seconds * 1000);
    }

    fn length(&self) -> Duration {
        self.plan.effort.length()
    }

    /// Whether there is a link, and packets can be dropped. Otherwise the table says what was left out.
    fn has_link(&self, what: &str, table: &mut Table) -> bool {
        if let Some(why) = &self.no_link {
            table.note(format!(
                "{what} is left out, for want of network namespaces in which packets are dropped: {why}"
            ));
        }
        self.no_link.is_none()
    }
}

/// Looks again and again until `what` gives something, and says how long after `since` that was; `None` if it never did.
async fn until<T>(
    since: Instant,
    most: Duration,
    mut what: impl AsyncFnMut() -> Result<Option<T>, WorldError>,
) -> Result<Option<(f64, T)>, WorldError> {
    loop {
        if let Some(there) = what().await? {
            return Ok(Some((since.elapsed().as_secs_f64(), there)));
        }
        if since.elapsed() > most {
            return Ok(None);
        }
        sleep(LOOK).await;
    }
}

/// How long after `since` a visitor of `device` is served.
async fn served_again(device: &Device, since: Instant) -> Result<Option<f64>, WorldError> {
    let served = until(since, PATIENCE, async || {
        Ok(visits::visit(&device.door, &device.small).await.ok())
    });
    Ok(served.await?.map(|(seconds, ())| seconds))
}

/// Waits until more than so many octets of a download have come.
async fn has_begun(received: &AtomicU64, octets: u64) -> Result<(), ScenarioError> {
    let begun = until(Instant::now(), PATIENCE, async || {
        Ok((received.load(Relaxed) > octets).then_some(()))
    });
    match begun.await? {
        Some(_) => Ok(()),
        None => Err(ScenarioError::Nothing {
            workload: "download",
            cause: "it has not begun".to_owned(),
        }),
    }
}

/// Those figures that could be had.
fn known(figures: impl IntoIterator<Item = (&'static Column, Option<f64>)>) -> Round {
    let figures = figures.into_iter();
    figures
        .filter_map(|(column, figure)| Some((column, figure?)))
        .collect()
}

/// Tunnels that have ended since the server's start.
async fn tunnels_closed(neighbours: &Neighbours) -> Result<f64, WorldError> {
    let metrics = neighbours.metrics().await?;
    Ok(metrics.sum("causeway_relay_tunnels_closed_total"))
}
