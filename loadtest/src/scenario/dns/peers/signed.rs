//! The signed zone under a flood of made-up names, and with all of its signatures in memory.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::plan::{Plan, Rate};
use super::{BUSY, figures_of_memory};
use crate::admin::Metrics;
use crate::progress::Progress;
use crate::report::{Column, Round};
use crate::scenario::dns::askers::{Askers, Order, Pace};
use crate::scenario::dns::questions::{Asked, Drawn, Questions};
use crate::scenario::dns::signed::{Those, warm};
use crate::scenario::dns::update::SIGNATURES_MADE;
use crate::scenario::dns::{LOSSES, WRONG};
use crate::scenario::{Load, Observed, ScenarioError};
use crate::world::million::ZONE;
use crate::world::{NameServer, Watched};

/// Queries a second that a flood is to leave alone.
const LEGITIMATE: u32 = 20_000;

/// A flood draws from so many names that do not exist: few of them come twice while a server remembers the first time.
const MADE_UP: u32 = 10_000_000;

const SIGNATURES_REFUSED: &str = "causeway_ddns_signatures_refused_total";

static P99_ALONE: Column = Column::new("p99_alone_us", "p99 alone, µs", 0);
static P99_BESIDE: Column = Column::new("p99_beside_us", "beside the flood", 0);
static RATIO: Column = Column::new("p99_beside_to_alone", "to alone", 2);
static CPU_ALONE: Column = Column::new("server_cpu_us_per_query_alone", "CPU µs alone", 2);
static FLOOD: Column = Column::new("flood_per_s", "flood/s", 0);
static FLOOD_CPU: Column = Column::new("server_cpu_us_per_flood_query", "its CPU µs", 2);
static MADE: Column = Column::new("signatures_per_s", "signatures/s", 0);
static REFUSED: Column = Column::new("signatures_refused_per_s", "refused/s", 0);
static OF_NAMES: Column = Column::new("rss_of_names_mib", "RSS MiB, names that exist", 1);
static MADE_IN_ALL: Column = Column::new("signatures", "signatures made", 0);

impl Plan {
    /// Queries for names that exist at a fixed rate, alone and then beside a flood for made-up names, of a rate of its own or of as many
    /// as the server answers. What the former cost is taken off.
    pub(super) async fn signed_flood(
        &self,
        server: &NameServer,
        progress: &Progress,
    ) -> Result<Round, ScenarioError> {
        warm(server.address, 0..self.names, Those::Exist).await?;
        let rate = match self.rate {
            Rate::Fixed(rate) => rate,
            Rate::Half => LEGITIMATE,
        };
        let observe = async |load: &Load, count: &Askers| {
            let watched = Watched {
                relay: Some(server.process),
                agent: None,
            };
            let length = self.effort.length();
            load.observe(length, watched, progress, || count.answered.load(Relaxed))
                .await
        };
        let load = Arc::new(Load::default());
        let alone = self.ask_signed(server, Those::Exist, Pace::RateAsleep(rate), &load)?;
        let observed_alone = observe(&load, &alone).await?;
        let alone = alone.finish()?;

        let load = Arc::new(Load::default());
        let counted = Counted::by(server).await?;
        let beside = self.ask_signed(server, Those::Exist, Pace::RateAsleep(rate), &load)?;
        let pace = match self.flood {
            Some(rate) => Pace::RateAsleep(rate),
            None => Pace::Window(self.window),
        };
        let flood = self.ask_signed(server, Those::Missing, pace, &load)?;
        let observed = observe(&load, &flood).await?;
        let signatures = counted.until_now(server).await?;
        let flood = flood.finish()?;
        let beside = beside.finish()?;

        let cost = |observed: &Observed| observed.relay_cpu.unwrap_or_default() * 1e6;
        let cost_alone = cost(&observed_alone) / observed_alone.count.max(1.0);
        let of_flood = cost(&observed) - beside.latencies.len() as f64 * cost_alone;
        let (before, after) = (alone.latency(0.99) as f64, beside.latency(0.99) as f64);
        let mut figures = vec![
            (&P99_ALONE, before),
            (&P99_BESIDE, after),
            (&RATIO, after / before.max(1.0)),
            (&LOSSES, (alone.lost + beside.lost) as f64),
            (&WRONG, (alone.wrong + beside.wrong + flood.wrong) as f64),
            (&CPU_ALONE, cost_alone),
            (&FLOOD, observed.count / observed.seconds),
            (&FLOOD_CPU, of_flood.max(0.0) / observed.count.max(1.0)),
            (&BUSY, cost(&observed) / 1e4 / observed.seconds),
        ];
        figures.extend(signatures);
        Ok(figures)
    }

    /// What the server takes when every name that exists has been asked for, and then with every signature that there is: of the other
    /// address, of what denies the rest, at and below each name, and of as many names that do not exist.
    pub(super) async fn signed_memory(&self, server: &NameServer) -> Result<Round, ScenarioError> {
        warm(server.address, 0..self.names, Those::Exist).await?;
        let resident = server.process.memory()?.resident as f64 / f64::from(1 << 20);
        for those in [Those::ExistIpv6, Those::Lacking, Those::Missing] {
            warm(server.address, 0..self.names, those).await?;
        }
        let mut figures = vec![(&OF_NAMES, resident)];
        figures.extend(figures_of_memory(&server.process.memory()?));
        if let Some(admin) = server.admin {
            figures.push((
                &MADE_IN_ALL,
                Metrics::ask(admin).await?.sum(SIGNATURES_MADE),
            ));
        }
        Ok(figures)
    }

    fn ask_signed(
        &self,
        server: &NameServer,
        those: Those,
        pace: Pace,
        load: &Arc<Load>,
    ) -> Result<Askers, ScenarioError> {
        let drawn = match those {
            Those::Exist | Those::ExistIpv6 | Those::Lacking => {
                Drawn::new(ZONE, self.names, 0, Asked::Signed)
            }
            Those::Missing => Drawn::new(ZONE, MADE_UP, 10, Asked::Signed),
        };
        let drawn = drawn.ok_or_else(|| ScenarioError::Nothing {
            workload: "queries of a signed zone",
            cause: format!("{ZONE} can be no zone"),
        })?;
        let order = Order {
            server: server.address,
            questions: &Questions::Drawn(drawn),
            sockets: self.effort.connections,
            threads: self.threads,
            pace,
        };
        Askers::start(&order, load)
    }
}

/// What our server has counted until a moment.
struct Counted {
    at: Instant,
    made: f64,
    refused: f64,
}

impl Counted {
    /// Zeros where the server tells nothing.
    async fn by(server: &NameServer) -> Result<Self, ScenarioError> {
        let (mut made, mut refused) = (0.0, 0.0);
        if let Some(admin) = server.admin {
            let metrics = Metrics::ask(admin).await?;
            made = metrics.sum(SIGNATURES_MADE);
            refused = metrics.sum(SIGNATURES_REFUSED);
        }
        Ok(Self {
            at: Instant::now(),
            made,
            refused,
        })
    }

    /// In a second since then; nothing of a server that tells nothing.
    async fn until_now(self, server: &NameServer) -> Result<Round, ScenarioError> {
        let now = Self::by(server).await?;
        if server.admin.is_none() {
            return Ok(Vec::new());
        }
        let seconds = (now.at - self.at).as_secs_f64();
        Ok(vec![
            (&MADE, (now.made - self.made) / seconds),
            (&REFUSED, (now.refused - self.refused) / seconds),
        ])
    }
}
