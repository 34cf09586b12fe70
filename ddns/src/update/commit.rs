//! Commits updates in groups: the log, then the table. No thread, no queue; the clock comes in as an argument.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use directory::{DeviceName, RegistrationId};

use crate::own::Change;
use crate::store::{Disk, Log, Record, Snapshot, Written};
use crate::table::{Held, Table};
use crate::update::{Outcome, UpdateError};

/// How often an unsound log is tried to be begun anew. On a full disk each try costs as much as there are names.
const REPAIR_PAUSE: Duration = Duration::from_secs(1);
/// Records that are not worth a snapshot.
const FEW: u64 = 1024;

/// One device's wish.
#[derive(Clone, Debug)]
pub struct Update {
    /// Who asks.
    pub registration: RegistrationId,
    /// The name it holds.
    pub name: DeviceName,
    /// What is to change.
    pub change: Change,
}

/// The log and the table, kept in step.
#[derive(Debug)]
pub struct Committer<D: Disk> {
    log: Log<D>,
    table: Arc<Table>,
    last_repair: Option<Instant>,
}

/// Writes a snapshot of `table`: of each device as it is at some moment after the snapshot was begun. Ends early when `is_wanted` says no.
///
/// # Errors
/// As the disk says; the log goes on, and so do the logs before it.
pub fn write_snapshot<D: Disk>(
    snapshot: Snapshot<D>,
    table: &Table,
    is_wanted: impl Fn() -> bool,
) -> io::Result<Written> {
    snapshot.write(records(table), is_wanted)
}

fn records(table: &Table) -> impl Iterator<Item = Record> {
    table
        .recorded()
        .map(|(registration, held)| Record { registration, held })
}

impl<D: Disk> Committer<D> {
    /// Joins a log and the table that has been loaded from it. The first commit begins the log anew, unless
    /// that has been done.
    pub fn new(log: Log<D>, table: Arc<Table>) -> Self {
        Self {
            log,
            table,
            last_repair: None,
        }
    }

    /// Commits updates together, in their order: one append, one sync, then the table. One outcome for each.
    ///
    /// "Unchanged" is a promise too: while the log is not sound, what was refused may stand at its end and come back
    /// after a crash. So the log is begun anew before anybody is told anything.
    pub fn commit(
        &mut self,
        updates: &[Update],
        now: Instant,
    ) -> Vec<Result<Outcome, UpdateError>> {
        let mut next_by_registration = HashMap::new();
        let mut outcomes: Vec<_> = updates
            .iter()
            .map(|update| self.decide(update, &mut next_by_registration))
            .collect();
        if let Err(error) = self.store(&next_by_registration, now) {
            tracing::error!(%error, updates = updates.len(), "updates cannot be stored and are refused");
            for outcome in &mut outcomes {
                if outcome.is_ok() {
                    *outcome = Err(UpdateError::Storage);
                }
            }
            return outcomes;
        }
        for (update, outcome) in updates.iter().zip(&mut outcomes) {
            let Some(next) = next_by_registration.get(&update.registration) else {
                continue;
            };
            let is_held = self.table.set(&update.name, update.registration, next);
            if outcome.is_ok() && !is_held {
                // Removed meanwhile. Its record leaves the disk with the snapshot that the removal has asked for.
                *outcome = Err(UpdateError::NotHeld);
            }
        }
        if !next_by_registration.is_empty() {
            self.table.changed(crate::unix_seconds());
        }
        outcomes
    }

    /// Whether reading the log takes longer than reading a snapshot would.
    pub fn wants_snapshot(&self) -> bool {
        let live = self.table.devices_recorded() as u64;
        self.log.records() > live.saturating_mul(2).saturating_add(FEW)
    }

    /// Begins a snapshot of the table, to be written by [`write_snapshot`] on any thread and [finished](Self::finish) here.
    ///
    /// # Errors
    /// As the disk says; nothing has changed.
    pub fn begin_snapshot(&mut self) -> io::Result<Snapshot<D>> {
        self.log.begin_snapshot()
    }

    /// What is not in the table has left the disk with the end of this.
    ///
    /// # Errors
    /// As the disk says; what is superfluous is then still there.
    pub fn finish(&mut self, written: &Written) -> io::Result<()> {
        self.log.finish(written)
    }

    /// Writes a snapshot of the table and begins the log anew: what is not in the table leaves the disk.
    ///
    /// # Errors
    /// As the disk says; answers and what was acknowledged stay as they are.
    pub fn begin_anew(&mut self) -> io::Result<()> {
        self.log.begin_anew(records(&self.table))
    }

    /// The log, to be looked at.
    pub fn log(&self) -> &Log<D> {
        &self.log
    }

    /// The table, to be looked at.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// What becomes of one device after the updates before it in the group.
    fn decide(
        &self,
        update: &Update,
        next_by_registration: &mut HashMap<RegistrationId, Held>,
    ) -> Result<Outcome, UpdateError> {
        let (current, version) = match next_by_registration.get(&update.registration) {
            Some(next) => (next.clone(), next.version.saturating_add(1)),
            None => {
                let held = self.table.held(&update.name, update.registration);
                let version = self.table.next_version(&update.name);
                (held.ok_or(UpdateError::NotHeld)?, version)
            }
        };
        let own = update.change.apply(&current.own)?;
        if own == current.own {
            return Ok(Outcome::Unchanged(current));
        }
        let next = Held { own, version };
        next_by_registration.insert(update.registration, next.clone());
        Ok(Outcome::Changed(next))
    }

    fn store(
        &mut self,
        next_by_registration: &HashMap<RegistrationId, Held>,
        now: Instant,
    ) -> io::Result<()> {
        if !self.log.is_sound() {
            self.repair(now)?;
        }
        if next_by_registration.is_empty() {
            return Ok(());
        }
        let records: Vec<_> = next_by_registration
            .iter()
            .map(|(&registration, held)| Record {
                registration,
                held: held.clone(),
            })
            .collect();
        self.log.append(&records)
    }

    fn repair(&mut self, now: Instant) -> io::Result<()> {
        let last = self.last_repair.replace(now);
        if let Some(last) = last
            && now.saturating_duration_since(last) < REPAIR_PAUSE
        {
            self.last_repair = Some(last);
            return Err(io::Error::other("the disk failed a moment ago"));
        }
        self.begin_anew()?;
        tracing::info!("the log of updates has been begun anew");
        Ok(())
    }
}
