//! The same work through Causeway and through its peers, in turn, so that what else this machine does hurts all alike.
//!
//! Visitors open with a ClientHello and then say plain octets ([`crate::plain`]): the way is measured, and not TLS at its
//! ends. Visitors and origin are the same for all; what they cost is what `direct` shows.

mod datagrams;
mod visitors;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use clap::ValueEnum;
use tokio::time::{sleep, timeout};

use super::requests::{self, Clock};
use super::{Effort, FAILURES, Load, Observed, ScenarioError, TICK, throughput};
use crate::part::link::{CONGESTION, Link};
use crate::part::plain_origin;
use crate::plain::SMALL;
use crate::process::ProcessId;
use crate::progress::Progress;
use crate::report::{Column, Round, Table};
use crate::world::{DatagramWay, Ends, Found, Peer, PlainOrigin, Way};
use visitors::{Then, Visit, Visitors};

pub(crate) const NAME: &str = "peers";

/// How long all idle visitors may take to come.
const COMING: Duration = Duration::from_secs(30);

/// What a process does for visitors who have just come is over by then.
const SETTLE: Duration = Duration::from_secs(1);

static TIME: Column = Column::new("p50_ms", "p50 ms", 1);
static RELAY_MEMORY: Column = Column::new("relay_kib_per_visitor", "relay KiB/visitor", 2);
static AGENT_MEMORY: Column = Column::new("agent_kib_per_visitor", "agent KiB/visitor", 2);
static CAME: Column = Column::new("visitors", "visitors", 0);

/// What is done. Memory at rest is first, while the processes are new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Workload {
    /// All come, ask once, and stay: memory of each
    IdleVisitors,
    /// One endless download
    #[value(name = "bulk_1")]
    Bulk1,
    /// Eight endless downloads at a time
    #[value(name = "bulk_8")]
    Bulk8,
    /// From connect to the last byte of 64 MiB, one after the other
    #[value(name = "first_64_mib")]
    First64Mib,
    /// 64 visitors ask for 1 KiB, again and again
    KeepAlive,
    /// The same with a connection for each
    NewConnection,
    /// 8 visitors ask for 1 KiB, again and again, of an origin that takes a millisecond
    Working,
    /// The same beside eight endless downloads of the same device
    WorkingBesideBulk,
    /// Datagrams of 1,200 octets at the highest rate at which few are lost, and at half of it: only those who carry datagrams
    Datagrams,
}

impl Workload {
    fn name(self) -> &'static str {
        match self {
            Self::IdleVisitors => "idle_visitors",
            Self::Bulk1 => "bulk_1",
            Self::Bulk8 => "bulk_8",
            Self::First64Mib => "first_64_mib",
            Self::KeepAlive => "keep_alive",
            Self::NewConnection => "new_connection",
            Self::Working => "working",
            Self::WorkingBesideBulk => "working_beside_bulk",
            Self::Datagrams => "datagrams",
        }
    }

    /// At a time.
    fn visitors(self, idle: usize) -> usize {
        match self {
            Self::IdleVisitors => idle,
            Self::Bulk1 | Self::First64Mib | Self::Datagrams => 1,
            Self::Bulk8 | Self::Working | Self::WorkingBesideBulk => 8,
            Self::KeepAlive | Self::NewConnection => 64,
        }
    }

    /// What each of them does.
    fn visit(self) -> Visit {
        let (length, then) = match self {
            Self::IdleVisitors => (SMALL, Then::Rest),
            Self::Bulk1 | Self::Bulk8 => (u64::MAX, Then::AskAgain),
            Self::First64Mib => (plain_origin::FILE, Then::Leave),
            Self::KeepAlive | Self::Working | Self::WorkingBesideBulk => (SMALL, Then::AskAgain),
            Self::NewConnection => (SMALL, Then::Leave),
            Self::Datagrams => (0, Then::Leave), // whose visitor has a socket of its own kind
        };
        let works = matches!(self, Self::Working | Self::WorkingBesideBulk);
        Visit {
            length,
            works,
            then,
        }
    }

    /// What goes on beside it.
    fn beside(self) -> Option<Self> {
        (self == Self::WorkingBesideBulk).then_some(Self::Bulk8)
    }

    /// What shows of the work observed.
    fn figures(self, observed: &Observed, clock: &Clock) -> Round {
        match self {
            Self::Bulk1 | Self::Bulk8 => throughput::figures(observed, observed.count / 1e9),
            Self::First64Mib => {
                let gigabytes = observed.count * plain_origin::FILE as f64 / 1e9;
                let mut figures = vec![(&TIME, clock.milliseconds(0.5))];
                figures.extend(throughput::costs(observed, gigabytes));
                figures
            }
            Self::IdleVisitors
            | Self::KeepAlive
            | Self::NewConnection
            | Self::Working
            | Self::WorkingBesideBulk
            | Self::Datagrams => requests::figures(observed, clock),
        }
    }
}

/// Measures all that are `found`, with a `link` between relay and agent, one table for each workload. Its thread stays in the
/// link's near namespace. `effort.connections` are the idle visitors; `datagrams` is the rate of those in Mbit/s, if it is not to be
/// looked for.
pub(crate) async fn run(
    found: &[Found],
    link: Option<Link>,
    workloads: &[Workload],
    datagrams: Option<f64>,
    effort: Effort,
    progress: &Progress,
) -> Result<Vec<Table>, ScenarioError> {
    let ends = match link {
        Some(link) => Ends::apart(link).await?,
        None => Ends::together(),
    };
    let origin = PlainOrigin::start(&ends, None).await?;
    let table = |workload: &Workload| {
        let visitors = workload.visitors(effort.connections);
        let connections = (visitors, "connections");
        Table::of_peers(
            NAME,
            workload.name(),
            connections,
            effort.seconds,
            link.map(|link| link.to_string()),
            &Peer::OURS,
        )
    };
    let mut tables: Vec<_> = workloads.iter().map(table).collect();
    if let Some(other) = &ends.other_congestion {
        let permit =
            format!("net.ipv4.tcp_allowed_congestion_control=\"reno {other} {CONGESTION}\"");
        for table in &mut tables {
            table.note(format!(
                "this host permits namespaces no {CONGESTION}, so TCP's default was {other}; with {CONGESTION}: sysctl -w {permit}"
            ));
        }
    }
    for round in 0..effort.rounds {
        for found in found {
            let peer = found.peer.name();
            progress.begin(effort.title(NAME, peer, round), effort.seconds * 1000);
            let mut way = None;
            for (&workload, table) in workloads.iter().zip(&mut tables) {
                if workload == Workload::Datagrams {
                    continue;
                }
                let way = match &way {
                    Some(way) => way,
                    None => way.insert(Way::open(found, &ends, &origin).await?),
                };
                let what = format!("{peer}, {}", workload.name());
                progress.begin(effort.title(NAME, &what, round), effort.seconds * 1000);
                let figures = match workload {
                    Workload::IdleVisitors => rest(way, workload, effort).await?,
                    Workload::Datagrams
                    | Workload::Bulk1
                    | Workload::Bulk8
                    | Workload::First64Mib
                    | Workload::KeepAlive
                    | Workload::NewConnection
                    | Workload::Working
                    | Workload::WorkingBesideBulk => {
                        measure(way, workload, effort, progress, peer, table).await?
                    }
                };
                table.add(peer, figures);
            }
            drop(way);
            let mut of_datagrams = workloads.iter().zip(&mut tables);
            let of_datagrams = of_datagrams.find(|(work, _)| **work == Workload::Datagrams);
            if let Some((&workload, table)) = of_datagrams
                && found.peer.carries_datagrams()
            {
                let what = format!("{peer}, {}", workload.name());
                progress.begin(effort.title(NAME, &what, round), effort.seconds * 1000);
                let way = DatagramWay::open(found, &ends).await?;
                let figures = datagrams::measure(&way, datagrams, effort).await?;
                let figures = figures.ok_or_else(|| nothing(workload, &Load::default()))?;
                table.add(peer, figures);
            }
        }
    }
    Ok(tables)
}

async fn measure(
    way: &Way,
    workload: Workload,
    effort: Effort,
    progress: &Progress,
    peer: &str,
    table: &mut Table,
) -> Result<Round, ScenarioError> {
    let load = Arc::new(Load::default());
    let start = |workload: Workload| {
        let count = workload.visitors(effort.connections);
        Visitors::start(
            way.entrance.clone(),
            workload.visit(),
            count,
            Arc::clone(&load),
        )
    };
    let _beside = workload.beside().map(start).transpose()?;
    let visitors = start(workload)?;
    let counted = || match workload {
        Workload::Bulk1 | Workload::Bulk8 => visitors.received.load(Relaxed),
        Workload::IdleVisitors
        | Workload::First64Mib
        | Workload::KeepAlive
        | Workload::NewConnection
        | Workload::Working
        | Workload::WorkingBesideBulk
        | Workload::Datagrams => visitors.clock.answered(),
    };
    let observed = load
        .observe(effort.length(), way.watched, progress, counted)
        .await?;
    if observed.count == 0.0 {
        return Err(nothing(workload, &load));
    }
    if let Some(why) = load.why() {
        table.note(format!("{peer}, first failure: {why}"));
    }
    let mut figures = workload.figures(&observed, &visitors.clock);
    figures.push((&FAILURES, load.failures() as f64));
    Ok(figures)
}

/// Lets all come, ask once, and stay.
async fn rest(way: &Way, workload: Workload, effort: Effort) -> Result<Round, ScenarioError> {
    let relay = way.watched.relay;
    let agent = way.watched.agent;
    let resident = |process: Option<ProcessId>| process.map(ProcessId::resident).transpose();
    let before = (resident(relay)?, resident(agent)?);
    let load = Arc::new(Load::default());
    let count = workload.visitors(effort.connections);
    let visitors = Visitors::start(
        way.entrance.clone(),
        workload.visit(),
        count,
        Arc::clone(&load),
    )?;
    let all_here = async {
        while visitors.clock.answered() < count as u64 {
            sleep(TICK).await;
        }
    };
    // How many have come is what is to be seen.
    let _ = timeout(COMING, all_here).await;
    sleep(SETTLE).await;
    let after = (resident(relay)?, resident(agent)?);
    let came = visitors.clock.answered() as f64;
    if came == 0.0 {
        return Err(nothing(workload, &load));
    }
    let each = |before: Option<u64>, after: Option<u64>| {
        Some(after?.saturating_sub(before?) as f64 / 1024.0 / came)
    };
    let mut figures: Round = Vec::new();
    figures.extend(each(before.0, after.0).map(|each| (&RELAY_MEMORY, each)));
    figures.extend(each(before.1, after.1).map(|each| (&AGENT_MEMORY, each)));
    figures.push((&CAME, came));
    Ok(figures)
}

fn nothing(workload: Workload, load: &Load) -> ScenarioError {
    ScenarioError::Nothing {
        workload: workload.name(),
        cause: load
            .why()
            .unwrap_or_else(|| "no answer has come".to_owned()),
    }
}
