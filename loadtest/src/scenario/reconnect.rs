//! A relay dies, falls silent or starts anew, and all its agents come back.
//!
//! ```text
//!   agents whole, bystander at the server's own relay ─► what the bystander has by itself
//!                                                     ─► the fault ─► until every agent is whole again
//! ```
//!
//! An agent is whole that has as many tunnels as there are relays for it: two, or one if it keeps no more. Every other keeps one.

mod visitors;
mod watched;

use std::time::Duration;

use clap::ValueEnum;
use tokio::time::{Instant, sleep};

use super::bystander::Bystander;
use super::{Effort, FAILURES, ScenarioError};
use crate::admin::Metrics;
use crate::progress::Progress;
use crate::report::{Column, Round, Table};
use crate::world::Several;
use crate::world::several::Habit;
use visitors::Visitors;
use watched::Watched;

pub(crate) const NAME: &str = "reconnect";

/// How often it is looked who is whole again.
const LOOK: Duration = Duration::from_millis(20);

/// The same where the relay itself is asked, which costs it something.
const ASK: Duration = Duration::from_millis(200);

/// After this long those who are not whole are counted as such.
const GIVE_UP: Duration = Duration::from_secs(60);

/// How long visitors come at least, whoever is whole.
const VISITED: Duration = Duration::from_secs(3);

/// How many devices of each habit are visited.
const VISITED_DEVICES: usize = 5;

/// What happens to a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// The only relay, and with it the server, is killed and started again at once
    Restarted,
    /// A relay with a process of its own is killed and stays away
    Killed,
    /// The same stands still: nothing tells that it is gone (SIGSTOP)
    Silent,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Restarted => "restarted",
            Self::Killed => "killed",
            Self::Silent => "silent",
        }
    }
}

static WHOLE: Column = Column::new("whole_percent", "whole %", 1);
static AWAY: Column = Column::new("relay_away_s", "relay away s", 2);
static HALF: Column = Column::new("whole_50_s", "50 % s", 2);
static MOST: Column = Column::new("whole_99_s", "99 % s", 2);
static ALL: Column = Column::new("whole_100_s", "100 % s", 2);
static VISITORS_OF_ONE: Column =
    Column::new("longest_wait_one_tunnel_s", "longest wait, one tunnel s", 2);
static VISITORS_OF_TWO: Column = Column::new("longest_wait_two_tunnels_s", "two s", 2);
static REFUSED: Column = Column::new("handshakes_refused", "refused", 0);
static FAILED: Column = Column::new("handshakes_failed", "failed", 0);
static RETRIES: Column = Column::new("quic_retries", "retries", 0);
static OVER_TLS: Column = Column::new("attached_over_tls", "over TLS", 0);
static CPU: Column = Column::new("relay_cpu_percent", "relay CPU %", 0);
static CPU_EACH: Column = Column::new("relay_cpu_ms_per_attach", "relay ms/attach", 2);
static RATE_KEPT: Column = Column::new("bystander_mbit_kept_percent", "bystander bytes %", 0);
static REQUESTS_KEPT: Column = Column::new("bystander_requests_kept_percent", "requests %", 0);
static WORST: Column = Column::new("bystander_worst_second_percent", "worst second %", 0);

/// What of it is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) faults: &'a [Fault],
    /// With a process of their own, where one of them is killed or falls silent.
    pub(crate) relays: u8,
}

pub(crate) async fn run(
    wanted: Wanted<'_>,
    effort: Effort,
    progress: &Progress,
) -> Result<Table, ScenarioError> {
    let connections = (effort.connections, "agents");
    let mut table = Table::new(NAME, connections, effort.seconds, None);
    let is_restarted = |fault: &&Fault| **fault == Fault::Restarted;
    let (restarted, others): (Vec<&Fault>, Vec<_>) = wanted.faults.iter().partition(is_restarted);
    for (relays, faults) in [(0, restarted), (wanted.relays, others)] {
        if faults.is_empty() {
            continue;
        }
        let mut several = Several::gather(relays, effort.connections, progress).await?;
        for round in 0..effort.rounds {
            for &&fault in &faults {
                let title = effort.title(NAME, fault.name(), round);
                progress.begin(title, effort.connections as u64);
                let (figures, note) = strike(&mut several, fault, effort, progress).await?;
                if let Some(why) = note {
                    table.note(format!("{}: {why}", fault.name()));
                }
                table.add(fault.name(), figures);
            }
        }
    }
    Ok(table)
}

/// One fault, from everything being well until it is again.
async fn strike(
    several: &mut Several,
    fault: Fault,
    effort: Effort,
    progress: &Progress,
) -> Result<(Round, Option<String>), ScenarioError> {
    several.begin(progress).await?;
    let bystander = Bystander::start(several.bystander())?;
    bystander.is_served().await?;
    let watched = Watched::over(&bystander);
    let baseline = watched.during(effort.length()).await;

    let devices = several.at_the_first_relay(VISITED_DEVICES)?;
    let way = several.way()?;
    let lost: Vec<_> = several.first_relay().into_iter().collect();
    let mut before = Spent::so_far(several, &lost).await?;
    let begun = Instant::now();
    let mut returned = None;
    match fault {
        Fault::Restarted => {
            several.restart_server().await?;
            returned = Some(begun.elapsed());
            before = Spent::default(); // the process is another
        }
        Fault::Killed => several.kill_relay(),
        Fault::Silent => several.still_relay()?,
    }
    let visitors = returned.is_none().then(|| Visitors::come(way, devices));
    if returned.is_some() {
        watched.until_served(GIVE_UP).await;
    }
    let since = Instant::now();
    let times = until_whole(several, &lost, begun, returned.is_some(), effort, progress).await?;
    let spent = Spent::so_far(several, &lost).await?.since(&before);
    let seconds = begun.elapsed().as_secs_f64();
    let storm = watched.since(since);
    let visitors = match visitors {
        Some(visitors) => {
            sleep(VISITED.saturating_sub(begun.elapsed())).await;
            Some(visitors.stop().await)
        }
        None => None,
    };
    if fault == Fault::Silent {
        several.kill_relay(); // the next round begins with a new one
    }

    let mut figures = vec![(&WHOLE, times.whole * 100.0)];
    figures.extend(returned.map(|returned| (&AWAY, returned.as_secs_f64())));
    let reached = [(&HALF, times.half), (&MOST, times.most), (&ALL, times.all)];
    let reached = reached.into_iter();
    figures.extend(reached.filter_map(|(column, time)| Some((column, time?.as_secs_f64()))));
    if let Some(visitors) = &visitors {
        let columns = [
            (&VISITORS_OF_ONE, Habit::One),
            (&VISITORS_OF_TWO, Habit::Two),
        ];
        let longest = columns.map(|(column, habit)| (column, visitors.longest_wait(habit)));
        let known = longest.into_iter();
        figures.extend(known.filter_map(|(column, wait)| Some((column, wait?.as_secs_f64()))));
    }
    figures.extend([
        (&REFUSED, spent.refused),
        (&FAILED, spent.failed),
        (&RETRIES, spent.retries),
        (&OVER_TLS, spent.over_tls),
        (&CPU, spent.cpu.as_secs_f64() * 100.0 / seconds),
    ]);
    if spent.attached > 0.0 {
        let each = spent.cpu.as_secs_f64() * 1e3 / spent.attached;
        figures.push((&CPU_EACH, each));
    }
    figures.extend([
        (&RATE_KEPT, storm.bytes / baseline.bytes * 100.0),
        (&REQUESTS_KEPT, storm.answers / baseline.answers * 100.0),
        (&WORST, storm.worst_second / baseline.bytes * 100.0),
        (
            &FAILURES,
            visitors.as_ref().map_or(0.0, |seen| seen.failures as f64),
        ),
    ]);
    let why = visitors.and_then(|visitors| visitors.why);
    Ok((figures, why))
}

/// When how many were whole again.
struct Times {
    /// The part of all that was in the end.
    whole: f64,
    half: Option<Duration>,
    most: Option<Duration>,
    all: Option<Duration>,
}

/// Waits until all are, or time is up. Where the server has come back, it says who is there: agents that have not noticed that it was
/// away still believe in what is gone.
async fn until_whole(
    several: &Several,
    lost: &[String],
    begun: Instant,
    by_server: bool,
    effort: Effort,
    progress: &Progress,
) -> Result<Times, ScenarioError> {
    let mut times = Times {
        whole: 0.0,
        half: None,
        most: None,
        all: None,
    };
    loop {
        let whole = match by_server {
            true => {
                let tunnels = Metrics::ask(several.admin()).await?;
                // The bystander's is one of them; and an agent may have two for a moment, of which the newer wins.
                let tunnels = tunnels.sum("causeway_relay_tunnels") - 1.0;
                tunnels.clamp(0.0, effort.connections as f64)
            }
            false => several.whole(lost)? as f64,
        };
        let passed = begun.elapsed();
        times.whole = whole / effort.connections as f64;
        progress.at(whole as u64);
        for (part, time) in [
            (0.5, &mut times.half),
            (0.99, &mut times.most),
            (1.0, &mut times.all),
        ] {
            if times.whole >= part && time.is_none() {
                *time = Some(passed);
            }
        }
        if times.all.is_some() || passed > GIVE_UP {
            return Ok(times);
        }
        sleep(if by_server { ASK } else { LOOK }).await;
    }
}

/// What the relays that are left have counted and cost; of the server's own, the server with it.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    refused: f64,
    failed: f64,
    retries: f64,
    over_tls: f64,
    attached: f64,
    cpu: Duration,
}

impl Spent {
    async fn so_far(several: &Several, lost: &[String]) -> Result<Self, ScenarioError> {
        let mut spent = Self::default();
        for (admin, process) in several.relays_but(lost) {
            let metrics = Metrics::ask(admin).await?;
            let handshakes = |outcome: &str| {
                let of = |kind| {
                    format!(
                        "causeway_relay_handshakes_total{{kind=\"{kind}\",outcome=\"{outcome}\"}}"
                    )
                };
                metrics.sum(&of("quic")) + metrics.sum(&of("tls"))
            };
            let attached = "causeway_relay_tunnels_attached_total";
            spent.refused += handshakes("refused");
            spent.failed += handshakes("failed") + handshakes("late");
            spent.retries += metrics.sum("causeway_relay_quic_retries_total");
            spent.over_tls += metrics.sum(&format!("{attached}{{transport=\"tls\"}}"));
            spent.attached += metrics.sum(attached);
            spent.cpu += process.cpu()?;
        }
        Ok(spent)
    }

    fn since(self, before: &Self) -> Self {
        Self {
            refused: self.refused - before.refused,
            failed: self.failed - before.failed,
            retries: self.retries - before.retries,
            over_tls: self.over_tls - before.over_tls,
            attached: self.attached - before.attached,
            cpu: self.cpu.saturating_sub(before.cpu),
        }
    }
}
