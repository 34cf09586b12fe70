//! Our name server and its peers, with the same zone of numbered names and under the same load, in turn, so that what else
//! this machine does hurts all alike.
//!
//! ```text
//!  each round:  start every server ─► each workload: every server in turn ─► end them all
//! ```
//!
//! One thread answers at each. Where memory is too little for all at a time, each server is started and ended alone; so are those of
//! the signed zone, of which ours are two with the same state.

mod flood;
mod plan;
mod signed;

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::askers::{Askers, Order, Pace};
use super::questions::{Asked, Drawn, Questions};
use super::signed::{Those, warm};
use super::update::{UPDATES, Updates, signed_update, update_to_visible};
use super::{CPU, LOSSES, RATE, WRONG, dnsperf, latencies_of};
use crate::process::Memory;
use crate::progress::Progress;
use crate::report::{Column, Round, Table};
use crate::scenario::{FAILURES, Load, ScenarioError};
use crate::world::million::ZONE;
use crate::world::{FoundNameServer, Million, NameServer, NameServerKind, Watched};
use plan::{DnsWorkload, Generator, Rate};
pub(crate) use plan::{Plan, Wanted};

pub(crate) const NAME: &str = "dns-peers";

/// What the hungriest of the servers takes for a name, in octets, and what else this machine needs.
const MEMORY_FOR_A_NAME: u64 = 1500;
const MEMORY_BESIDE: u64 = 1 << 30;

static BUSY: Column = Column::new("server_busy_percent", "busy %", 0);
static TO_A_HIT: Column = Column::new("server_cpu_to_a_hits", "CPU of hits", 2);
static LOADED: Column = Column::new("first_answer_s", "first answer s", 2);
static RESIDENT: Column = Column::new("rss_mib", "RSS MiB", 1);
static PROPORTIONAL: Column = Column::new("pss_mib", "PSS MiB", 1);
static ANONYMOUS: Column = Column::new("anonymous_mib", "anonymous MiB", 1);

/// One table.
struct Step {
    workload: DnsWorkload,
    generator: Generator,
    table: Table,
}

impl Plan {
    /// Measures all servers: one table of how they start, and one for each workload and who asks.
    pub(crate) async fn run(&self, progress: &Progress) -> Result<Vec<Table>, ScenarioError> {
        let with_ours = |found: &FoundNameServer| found.kind == NameServerKind::Causeway;
        let with_ours = self.servers.iter().any(with_ours);
        let million = Million::make(self.names, with_ours, progress).await?;
        if self.is_signed
            && self
                .servers
                .iter()
                .any(|found| found.kind == NameServerKind::Nsd)
        {
            progress.begin("signing the zone".to_owned(), 1);
            million.sign(self.programs.as_deref()).await?;
        }
        let mut start = self.table(match self.is_signed {
            true => "signed_start",
            false => "start",
        });
        let mut steps = self.steps();
        if million.is_in_memory()? {
            let sentence = "the state was in memory, where a sync is nothing: set TMPDIR to a disk";
            for step in steps.iter_mut().filter(|step| step.workload.floods()) {
                step.table.note(sentence.to_owned());
            }
        }
        let mut rate = 0;
        if steps.iter().any(|step| step.workload.is_paced()) {
            let (fixed, sentence) = self.fixed_rate(&million, progress).await?;
            for step in steps.iter_mut().filter(|step| step.workload.is_paced()) {
                step.table.note(sentence.clone());
            }
            rate = fixed;
        }
        let group = if self.is_signed {
            1
        } else if self.is_room_for_all() {
            self.servers.len()
        } else {
            start
                .note("memory was too little for all at a time: each was started alone".to_owned());
            1
        };
        for round in 0..self.effort.rounds {
            for found in self.servers.chunks(group) {
                let mut servers = Vec::new();
                for found in found {
                    let name = found.name();
                    let title = format!("{name}, start");
                    progress.begin(self.effort.title(NAME, &title, round), 1);
                    let server = NameServer::start(found, &million).await?;
                    start.add(name, figures_of_start(&server));
                    servers.push(server);
                }
                let mut costs_of_hits = HashMap::new();
                for step in &mut steps {
                    for server in &servers {
                        self.take(
                            step,
                            server,
                            &million,
                            rate,
                            round,
                            &mut costs_of_hits,
                            progress,
                        )
                        .await?;
                    }
                }
            }
        }
        Ok([start]
            .into_iter()
            .chain(steps.into_iter().map(|step| step.table))
            .collect())
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for &workload in &self.workloads {
            let generators = match workload.saturates() {
                true => [self.own, self.dnsperf.is_some()],
                false => [true, false],
            };
            for (generator, is_wanted) in [Generator::Own, Generator::Dnsperf]
                .into_iter()
                .zip(generators)
            {
                if is_wanted {
                    let mut table = self.table(workload.name(generator));
                    if workload.floods() {
                        table.note(self.pipes.sentence());
                    }
                    steps.push(Step {
                        workload,
                        generator,
                        table,
                    });
                }
            }
        }
        steps
    }

    fn table(&self, workload: &'static str) -> Table {
        const OURS: [&str; 1] = [NameServerKind::Causeway.name()];
        const OURS_SIGNED: [&str; 2] = ["causeway_compact", "causeway_nsec3"];
        let ours = match self.is_signed {
            true => &OURS_SIGNED[..],
            false => &OURS,
        };
        let sockets = (self.effort.connections, "sockets");
        let mut table = Table::of_peers(NAME, workload, sockets, self.effort.seconds, None, ours);
        table.note(format!(
            "{} names, each with A and AAAA{}; one thread answers",
            self.names,
            if self.is_signed { ", signed" } else { "" },
        ));
        table
    }

    /// One workload of one server.
    async fn take(
        &self,
        step: &mut Step,
        server: &NameServer,
        million: &Million,
        rate: u32,
        round: u32,
        costs_of_hits: &mut HashMap<(&'static str, bool), f64>,
        progress: &Progress,
    ) -> Result<(), ScenarioError> {
        let Step {
            workload,
            generator,
            table,
        } = step;
        let (workload, generator, name) = (*workload, *generator, server.name);
        if !workload.fits(server.kind) {
            return Ok(());
        }
        let what = format!("{name}, {}", workload.name(generator));
        progress.begin(
            self.effort.title(NAME, &what, round),
            self.effort.seconds * 1000,
        );
        let mut figures = match (workload, generator) {
            (DnsWorkload::UpdateToVisible, _) => {
                let length = self.effort.length();
                let Some((figures, why)) =
                    update_to_visible(server, self.movable(), length).await?
                else {
                    return Ok(());
                };
                note_failure(table, name, why);
                figures
            }
            (DnsWorkload::VisibleUnderLoad, _) => {
                match self.visible_under_load(rate, server, table).await? {
                    Some(figures) => figures,
                    None => return Ok(()),
                }
            }
            (DnsWorkload::Updates | DnsWorkload::UpdatesBesideHits, _) => {
                let beside = (workload == DnsWorkload::UpdatesBesideHits).then_some(rate);
                match self.flood(beside, server, table, progress).await? {
                    Some(figures) => figures,
                    None => return Ok(()),
                }
            }
            (DnsWorkload::UpdatesNsupdate, _) => match self.nsupdate(server, million, table).await?
            {
                Some(figures) => figures,
                None => return Ok(()),
            },
            (DnsWorkload::SignedUpdate, _) => {
                let length = self.effort.length();
                let Some((figures, why)) = signed_update(server, self.names, length).await? else {
                    return Ok(());
                };
                note_failure(table, name, why);
                figures
            }
            (DnsWorkload::SignedFlood, _) => self.signed_flood(server, progress).await?,
            (DnsWorkload::SignedMemory, _) => self.signed_memory(server).await?,
            (_, Generator::Dnsperf) => {
                let Some(program) = &self.dnsperf else {
                    return Ok(());
                };
                let order = dnsperf::Order {
                    program,
                    queries: &million.queries(workload.misses())?,
                    dnssec: workload == DnsWorkload::HitDo,
                    sockets: self.effort.connections,
                    threads: self.threads,
                    seconds: self.effort.seconds,
                    folder: million.folder(),
                };
                dnsperf::measure(server, order).await?
            }
            (_, Generator::Own) => self.ask(workload, server, rate, table, progress).await?,
        };
        let by_dnsperf = generator == Generator::Dnsperf;
        let cost = figures.iter().find(|(column, _)| *column == &CPU);
        if let Some(&(_, cost)) = cost {
            if workload == DnsWorkload::Hit {
                costs_of_hits.insert((name, by_dnsperf), cost);
            } else if workload.saturates()
                && let Some(hit) = costs_of_hits.get(&(name, by_dnsperf))
            {
                figures.push((&TO_A_HIT, cost / hit));
            }
        }
        table.add(name, figures);
        Ok(())
    }

    /// Lets this program's threads ask.
    async fn ask(
        &self,
        workload: DnsWorkload,
        server: &NameServer,
        rate: u32,
        table: &mut Table,
        progress: &Progress,
    ) -> Result<Round, ScenarioError> {
        let name = workload.name(Generator::Own);
        let nothing = |cause: String| ScenarioError::Nothing {
            workload: name,
            cause,
        };
        let asked = if workload == DnsWorkload::HitDo {
            Asked::AddressesDo
        } else if workload == DnsWorkload::SignedHit {
            Asked::Signed
        } else {
            Asked::Addresses
        };
        if asked == Asked::Signed {
            warm(server.address, 0..self.names, Those::Exist).await?;
        }
        let drawn = Drawn::new(ZONE, self.names, workload.misses().into(), asked);
        let drawn = drawn.ok_or_else(|| nothing(format!("{ZONE} can be no zone")))?;
        let pace = if workload == DnsWorkload::HitPaced {
            Pace::Rate(rate)
        } else {
            Pace::Window(self.window)
        };
        let order = Order {
            server: server.address,
            questions: &Questions::Drawn(drawn),
            sockets: self.effort.connections,
            threads: self.threads,
            pace,
        };
        let load = Arc::new(Load::default());
        let updates = if workload == DnsWorkload::HitBesideUpdates {
            Updates::start(server, self.updates, self.movable(), &load).await?
        } else {
            None
        };
        let askers = Askers::start(&order, &load)?;
        let watched = Watched {
            relay: Some(server.process),
            agent: None,
        };
        let observed = load
            .observe(self.effort.length(), watched, progress, || {
                askers.answered.load(Relaxed)
            })
            .await?;
        let tally = askers.finish()?;
        if observed.count == 0.0 {
            return Err(nothing(format!("{} does not answer", server.name)));
        }
        let mut figures = vec![(&RATE, observed.count / observed.seconds)];
        if let Some(cpu) = observed.relay_cpu {
            figures.push((&CPU, cpu * 1e6 / observed.count));
            figures.push((&BUSY, cpu * 100.0 / observed.seconds));
        }
        figures.extend(latencies_of(&tally));
        figures.push((&LOSSES, tally.lost as f64));
        figures.push((&WRONG, tally.wrong as f64));
        if let Some(updates) = updates {
            let acknowledged = updates.acknowledged.load(Relaxed) as f64;
            figures.push((&UPDATES, acknowledged / observed.seconds));
            figures.push((&FAILURES, load.failures() as f64));
            note_failure(table, server.name, load.why());
        }
        Ok(figures)
    }

    /// What all are asked at where the rate is fixed, and a sentence about it.
    async fn fixed_rate(
        &self,
        million: &Million,
        progress: &Progress,
    ) -> Result<(u32, String), ScenarioError> {
        let (rate, reason) = match self.rate {
            Rate::Fixed(rate) => (rate, String::new()),
            Rate::Half => {
                let is_knot = |found: &&FoundNameServer| found.kind == NameServerKind::Knot;
                let knot = self.servers.iter().find(is_knot);
                let Some(found) = knot.or(self.servers.first()) else {
                    return Ok((0, String::new()));
                };
                let kind = found.kind.name();
                progress.begin(
                    format!("{NAME}: {kind}, how fast it is"),
                    self.effort.seconds * 1000,
                );
                let server = NameServer::start(found, million).await?;
                let mut unseen = self.table("hit");
                let hit = self
                    .ask(DnsWorkload::Hit, &server, 0, &mut unseen, progress)
                    .await?;
                let all = hit.iter().find(|(column, _)| *column == &RATE);
                let all = all.map_or(0.0, |(_, rate)| *rate);
                let reason = format!(", half of what {kind} answered before the rounds");
                ((all / 2.0).max(1.0) as u32, reason)
            }
        };
        let sentence = format!(
            "{rate} queries a second{reason}; their latencies count from when each was due"
        );
        Ok((rate, sentence))
    }

    /// How many names may be moved: the last stays where it is, for by its address a server is known to have the zone.
    fn movable(&self) -> u32 {
        self.names.saturating_sub(1).max(1)
    }

    fn is_room_for_all(&self) -> bool {
        let each = u64::from(self.names) * MEMORY_FOR_A_NAME;
        let all = each * self.servers.len() as u64 + MEMORY_BESIDE;
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        available_memory(&meminfo).is_none_or(|available| all <= available)
    }
}

/// proc_meminfo(5): `MemAvailable:   12345 kB`.
fn available_memory(meminfo: &str) -> Option<u64> {
    let mut lines = meminfo.lines();
    let line = lines.find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn figures_of_start(server: &NameServer) -> Round {
    let mut figures = vec![(&LOADED, server.loaded.as_secs_f64())];
    figures.extend(figures_of_memory(&server.memory));
    figures
}

fn figures_of_memory(memory: &Memory) -> Round {
    let mebibytes = |octets: u64| octets as f64 / f64::from(1 << 20);
    vec![
        (&RESIDENT, mebibytes(memory.resident)),
        (&PROPORTIONAL, mebibytes(memory.proportional)),
        (&ANONYMOUS, mebibytes(memory.anonymous)),
    ]
}

fn note_failure(table: &mut Table, server: &str, why: Option<String>) {
    if let Some(why) = why {
        table.note(format!("{server}, first failure: {why}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_in_octets() {
        let meminfo = "MemTotal:  9 kB\nMemAvailable:     200 kB\n";
        assert_eq!(available_memory(meminfo), Some(200 * 1024));
        assert_eq!(available_memory("MemTotal: 9 kB"), None);
    }
}
