//! As many updates as a server takes: by this program, alone or beside queries at a fixed rate, or by nsupdate.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use super::plan::Plan;
use super::{BUSY, FAILURES, note_failure};
use crate::progress::Progress;
use crate::report::{Round, Table};
use crate::scenario::dns::askers::{Askers, Order, Pace};
use crate::scenario::dns::questions::{Asked, Drawn, Questions};
use crate::scenario::dns::update::{
    Flood, UPDATE_CPU, UPDATE_P99, UPDATES, many_to_visible, nsupdate,
};
use crate::scenario::dns::{LOSSES, RATE};
use crate::scenario::{Load, ScenarioError};
use crate::world::million::ZONE;
use crate::world::{Million, NameServer, Watched};

impl Plan {
    /// Updates by this program; `beside` is how many queries a second are asked meanwhile. What those cost is measured first, and
    /// taken off.
    pub(super) async fn flood(
        &self,
        beside: Option<u32>,
        server: &NameServer,
        table: &mut Table,
        progress: &Progress,
    ) -> Result<Option<Round>, ScenarioError> {
        let load = Arc::new(Load::default());
        let watched = Watched {
            relay: Some(server.process),
            agent: None,
        };
        let (mut askers, mut cost_of_query) = (None, 0.0);
        if let Some(rate) = beside {
            let started = self.ask_beside(rate, server, &load)?;
            let alone = load.observe(self.effort.length(), watched, progress, || {
                started.answered.load(Relaxed)
            });
            let alone = alone.await?;
            cost_of_query = alone.relay_cpu.unwrap_or_default() / alone.count.max(1.0);
            askers = Some(started);
        }
        let Some(flood) = Flood::start(server, self.pipes, self.movable(), &load).await? else {
            return Ok(None);
        };
        // At the moments at which the updates are counted.
        let answered = Mutex::new(Vec::new());
        let observed = load.observe(self.effort.length(), watched, progress, || {
            let now = askers.as_ref().map_or(0, |it| it.answered.load(Relaxed));
            let mut answered = answered.lock().unwrap_or_else(PoisonError::into_inner);
            answered.push(now);
            flood.acknowledged()
        });
        let observed = observed.await?;
        let answered = answered.into_inner().unwrap_or_default();
        let queries = match answered[..] {
            [first, .., last] => last.saturating_sub(first) as f64,
            _ => 0.0,
        };
        let mut figures = vec![(&UPDATES, observed.count / observed.seconds)];
        if let Some(cpu) = observed.relay_cpu {
            let of_updates = (cpu - queries * cost_of_query).max(0.0);
            figures.push((&UPDATE_CPU, of_updates * 1e6 / observed.count.max(1.0)));
            figures.push((&BUSY, cpu * 100.0 / observed.seconds));
        }
        figures.push((&UPDATE_P99, flood.latency(0.99) as f64));
        figures.push((&LOSSES, flood.lost() as f64));
        figures.push((&FAILURES, load.failures() as f64));
        if let Some(askers) = askers {
            askers.finish()?;
            figures.push((&RATE, queries / observed.seconds));
        }
        note_failure(table, server.name, load.why());
        Ok(Some(figures))
    }

    /// Many names at a time are moved and looked for, beside queries.
    pub(super) async fn visible_under_load(
        &self,
        beside: u32,
        server: &NameServer,
        table: &mut Table,
    ) -> Result<Option<Round>, ScenarioError> {
        let load = Arc::new(Load::default());
        let askers = self.ask_beside(beside, server, &load)?;
        let length = self.effort.length();
        let followed = many_to_visible(server, self.movable(), length).await?;
        let answered = askers.answered.load(Relaxed) as f64 / length.as_secs_f64();
        askers.finish()?;
        let Some((mut figures, why)) = followed else {
            return Ok(None);
        };
        figures.push((&RATE, answered));
        note_failure(table, server.name, why);
        Ok(Some(figures))
    }

    fn ask_beside(
        &self,
        rate: u32,
        server: &NameServer,
        load: &Arc<Load>,
    ) -> Result<Askers, ScenarioError> {
        let drawn = Drawn::new(ZONE, self.names, 0, Asked::Addresses);
        let drawn = drawn.ok_or_else(|| ScenarioError::Nothing {
            workload: "queries beside updates",
            cause: format!("{ZONE} can be no zone"),
        })?;
        let order = Order {
            server: server.address,
            questions: &Questions::Drawn(drawn),
            sockets: self.effort.connections,
            threads: self.threads,
            pace: Pace::Rate(rate),
        };
        Askers::start(&order, load)
    }

    /// Updates by nsupdate.
    pub(super) async fn nsupdate(
        &self,
        server: &NameServer,
        million: &Million,
        table: &mut Table,
    ) -> Result<Option<Round>, ScenarioError> {
        let Some(program) = &self.nsupdate else {
            return Ok(None);
        };
        let (length, folder) = (self.effort.length(), million.folder());
        let measured = nsupdate::measure(server, program, self.movable(), length, folder);
        let Some((figures, why)) = measured.await? else {
            return Ok(None);
        };
        note_failure(table, server.name, why);
        Ok(Some(figures))
    }
}
