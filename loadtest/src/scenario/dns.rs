//! DNS queries: threads of their own keep a few queries under way on each of many sockets, and ask again as soon as they
//! are answered. First for names that exist, then for names that do not.
//!
//! As with requests, the latency is that at the highest rate: mostly the wait in the server's queue.

mod askers;
mod dnsperf;
mod mail;
pub(crate) mod peers;
mod questions;
mod signed;
mod socket;
mod update;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Effort, Load, ScenarioError};
use crate::progress::Progress;
use crate::question::question;
use crate::report::{Column, Round, Table};
use crate::world::{Names, Place, Watched};
use askers::{Askers, Order, Pace, Tally};
use questions::{Expected, Questions};

pub(crate) const NAME: &str = "dns";

/// Names that do not exist, made before the load begins.
const MISSES: usize = 4096;

/// Queries under way on each socket: what a server's buffers have room for, and enough of them for whole batches.
const WINDOW: usize = 16;

static RATE: Column = Column::new("queries_per_s", "queries/s", 0);
static P50: Column = Column::new("p50_us", "p50 µs", 0);
static P99: Column = Column::new("p99_us", "p99 µs", 0);
static P99_ANSWERED: Column = Column::new("p99_answered_us", "p99 µs, answered", 0);
static CPU: Column = Column::new("server_cpu_us_per_query", "server CPU µs", 2);
static LOSSES: Column = Column::new("lost", "lost", 0);
static WRONG: Column = Column::new("wrong", "wrong", 0);

/// What is asked for.
struct Workload {
    name: &'static str,
    questions: Questions,
}

pub(crate) async fn run(
    place: &Place,
    effort: Effort,
    devices: usize,
    threads: usize,
    progress: &Progress,
) -> Result<Table, ScenarioError> {
    let names = Names::reach(place, NAME, devices, progress).await?;
    let misses: Vec<_> = (0..MISSES)
        .map(|number| format!("miss-{number}-{:x}.{}", rand::random::<u32>(), names.zone))
        .collect();
    let workloads = [
        ("hit", &names.hosts, Expected::Found),
        ("miss", &misses, Expected::Denied),
    ]
    .map(|(name, hosts, expected)| Workload {
        name,
        questions: Questions::Listed {
            questions: hosts.iter().filter_map(|host| question(host)).collect(),
            expected,
            next: 0,
        },
    });
    let mut table = Table::new(NAME, (effort.connections, "sockets"), effort.seconds, None);
    for round in 0..effort.rounds {
        for workload in &workloads {
            progress.begin(
                effort.title(NAME, workload.name, round),
                effort.seconds * 1000,
            );
            let figures = measure(&names, workload, effort, threads, progress).await?;
            table.add(workload.name, figures);
        }
    }
    Ok(table)
}

async fn measure(
    names: &Names,
    workload: &Workload,
    effort: Effort,
    threads: usize,
    progress: &Progress,
) -> Result<Round, ScenarioError> {
    if workload.questions.is_empty() {
        return Err(ScenarioError::Nothing {
            workload: workload.name,
            cause: format!("{} can be no zone", names.zone),
        });
    }
    let load = Arc::new(Load::default());
    let order = Order {
        server: names.server,
        questions: &workload.questions,
        sockets: effort.connections,
        threads,
        pace: Pace::Window(WINDOW),
    };
    let askers = Askers::start(&order, &load)?;
    let watched = Watched {
        relay: names.process,
        agent: None,
    };
    let observed = load
        .observe(effort.length(), watched, progress, || {
            askers.answered.load(Relaxed)
        })
        .await?;
    let tally = askers.finish()?;
    if observed.count == 0.0 {
        return Err(ScenarioError::Nothing {
            workload: workload.name,
            cause: format!(
                "{} does not answer; does a DNS server listen there?",
                names.server
            ),
        });
    }
    let mut figures = vec![(&RATE, observed.count / observed.seconds)];
    figures.extend(latencies_of(&tally));
    figures.extend(
        observed
            .relay_cpu
            .map(|cpu| (&CPU, cpu * 1e6 / observed.count)),
    );
    figures.push((&LOSSES, tally.lost as f64));
    figures.push((&WRONG, tally.wrong as f64));
    Ok(figures)
}

/// Of all that was asked; and, beside it, of what was answered alone, where a server looks quicker that drops what would be late.
fn latencies_of(tally: &Tally) -> [(&'static Column, f64); 3] {
    let answered = tally.latencies.value_at_quantile(0.99);
    [
        (&P50, tally.latency(0.5) as f64),
        (&P99, tally.latency(0.99) as f64),
        (&P99_ANSWERED, answered as f64),
    ]
}
