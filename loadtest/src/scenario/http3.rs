//! A body of some size that a visitor looks at octet by octet: over HTTP/3 through the tunnel, in its quic carrier, and both without a
//! relay, in turn.

mod visitor;

use std::time::{Duration, Instant};

use super::{Effort, Observed, ScenarioError, throughput};
use crate::part::link::Link;
use crate::process::{ProcessId, UsageError};
use crate::progress::Progress;
use crate::report::{Column, Length, Round, Table};
use crate::world::{BodyOrigin, BodyWay, Ends, HOST, Watched};
use visitor::{Over, Visitor};

pub(crate) const NAME: &str = "http3";

/// What each row does.
const WORKLOAD: &str = "download";

/// What is fetched first by who has just come: windows open, and paths are measured.
const WARM_UP: u64 = 32 << 20;

static ORIGIN_CPU: Column = Column::new("origin_cpu_s_per_gb", "origin CPU s/GB", 3);
static VISITOR_CPU: Column = Column::new("visitor_cpu_s_per_gb", "visitor CPU s/GB", 3);

/// Who is compared: with a relay or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    name: &'static str,
    over: Over,
    relayed: bool,
}

const ROWS: [Row; 4] = [
    Row {
        name: "direct-tls",
        over: Over::Tls,
        relayed: false,
    },
    Row {
        name: "direct-http3",
        over: Over::Http3,
        relayed: false,
    },
    Row {
        name: "causeway-quic-only",
        over: Over::Tls,
        relayed: true,
    },
    Row {
        name: THROUGH,
        over: Over::Http3,
        relayed: true,
    },
];

/// What it is about.
const THROUGH: &str = "causeway-http3";

/// Measures with a `link` between relay and agent, so many `mebibytes` at a time. Its thread stays in the link's near namespace.
pub(crate) async fn run(
    link: Option<Link>,
    mebibytes: u64,
    effort: Effort,
    progress: &Progress,
) -> Result<Table, ScenarioError> {
    let ends = match link {
        Some(link) => Ends::apart(link).await?,
        None => Ends::together(),
    };
    let origin = BodyOrigin::start(&ends).await?;
    let mut table = Table::of_peers(
        NAME,
        WORKLOAD,
        (1, "connections"),
        Length::Mebibytes(mebibytes),
        link.map(|link| link.to_string()),
        &[THROUGH],
    );
    for round in 0..effort.rounds {
        let way = BodyWay::open(&ends, &origin).await?;
        for row in ROWS {
            progress.begin(effort.title(NAME, row.name, round), 1);
            let figures = measure(row, &way, &origin, mebibytes << 20).await;
            table.add(row.name, figures?);
        }
    }
    Ok(table)
}

async fn measure(
    row: Row,
    way: &BodyWay,
    origin: &BodyOrigin,
    length: u64,
) -> Result<Round, ScenarioError> {
    let nothing = |cause: std::io::Error| ScenarioError::Nothing {
        workload: row.name,
        cause: cause.to_string(),
    };
    let (door, watched) = match (row.relayed, row.over) {
        (true, _) => (way.front(), way.watched()),
        (false, Over::Http3) => (origin.ready.http3, Watched::default()),
        (false, Over::Tls) => (origin.ready.tls, Watched::default()),
    };
    let visitor = Visitor::come(row.over, door, HOST, &origin.ready).await;
    let mut visitor = visitor.map_err(nothing)?;
    let warmed = visitor.fetch(HOST, WARM_UP).await;
    warmed.map_err(nothing)?;
    let before = Spent::read(watched, origin)?;
    let fetched = visitor.fetch(HOST, length).await;
    fetched.map_err(nothing)?;
    let after = Spent::read(watched, origin)?;
    Ok(after.since(&before, length))
}

/// What all have used since they began.
struct Spent {
    at: Instant,
    relay: Option<Duration>,
    agent: Option<Duration>,
    origin: Duration,
    visitor: Duration,
}

impl Spent {
    fn read(watched: Watched, origin: &BodyOrigin) -> Result<Self, UsageError> {
        Ok(Self {
            at: Instant::now(),
            relay: watched.relay.map(ProcessId::cpu).transpose()?,
            agent: watched.agent.map(ProcessId::cpu).transpose()?,
            origin: origin.id().cpu()?,
            visitor: ProcessId::this().own_cpu()?,
        })
    }

    fn since(&self, before: &Self, length: u64) -> Round {
        let gigabytes = length as f64 / 1e9;
        let spent = |before: Duration, after: Duration| after.saturating_sub(before).as_secs_f64();
        let known = |before: Option<_>, after: Option<_>| Some(spent(before?, after?));
        let observed = Observed {
            seconds: (self.at - before.at).as_secs_f64(),
            count: length as f64,
            relay_cpu: known(before.relay, self.relay),
            agent_cpu: known(before.agent, self.agent),
        };
        let mut figures = throughput::figures(&observed, gigabytes);
        let ends = [
            (&ORIGIN_CPU, spent(before.origin, self.origin)),
            (&VISITOR_CPU, spent(before.visitor, self.visitor)),
        ];
        figures.extend(ends.map(|(column, seconds)| (column, seconds / gigabytes)));
        figures
    }
}
