//! What is known of devices: brought into force as a difference, so that whoever has not changed notices nothing, and kept on disk.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use directory::{DeviceName, Reader, Writer};
use following::{Facts, Known, Refusal, Snapshot};

use super::guard::{self, Removals};
use super::last_good::LastGood;
use super::metrics::Metrics;

/// Changes are written to the disk with everything else, which takes its time where that is much: at most so large a part of all time
/// is spent with it.
const KEEP_SHARE: u32 = 20;

/// The Directory of a relay apart, and what it is as of.
#[derive(Debug)]
pub(super) struct Followed {
    writer: Writer,
    directory: Reader,
    known: Option<Known>,
    removals: Removals,
    last_good: LastGood,
    /// As of what it is on disk.
    kept: Option<Known>,
    kept_at: Instant,
    /// How long that took.
    keeping_took: Duration,
    metrics: Metrics,
}

/// A panic while it was held has been reported; what is there is sound, device by device.
pub(super) fn lock(followed: &Mutex<Followed>) -> MutexGuard<'_, Followed> {
    followed.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Followed {
    pub(super) fn new(
        writer: Writer,
        directory: Reader,
        last_good: LastGood,
        metrics: Metrics,
    ) -> Self {
        Self {
            writer,
            directory,
            known: None,
            removals: Removals::default(),
            last_good,
            kept: None,
            kept_at: Instant::now(),
            keeping_took: Duration::ZERO,
            metrics,
        }
    }

    /// Up to where it is known.
    pub(super) fn known(&self) -> Option<Known> {
        self.known
    }

    /// How many devices are.
    pub(super) fn devices(&self) -> usize {
        self.directory.len()
    }

    /// Brings into force what the disk has kept, if that is sound.
    pub(super) fn recall(&mut self) {
        match self.last_good.read() {
            Ok(Some(snapshot)) => {
                self.put_in_force(&snapshot);
                self.kept = self.known;
                tracing::info!(
                    devices = self.devices(),
                    "the last good snapshot is in force"
                );
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%error, "the last good snapshot is damaged and counts for nothing: control is asked for all");
            }
        }
    }

    /// Takes a snapshot, unless it would take too much away and nobody has `accepted` that.
    pub(super) fn replace(&mut self, snapshot: &Snapshot, accepted: bool) -> Result<(), Refusal> {
        if !accepted {
            let is_known = |name: &&DeviceName| self.directory.registration_by_name(name).is_some();
            let kept = snapshot.names.iter().filter(is_known).count();
            guard::judge_snapshot(self.devices(), kept, snapshot.names.len())?;
        }
        self.put_in_force(snapshot);
        self.metrics.snapshots.inc();
        self.removals.reset();
        self.keep();
        Ok(())
    }

    fn put_in_force(&mut self, snapshot: &Snapshot) {
        // First those who are gone, so that a key which another name has now is nobody else's.
        let mut gone = Vec::new();
        self.directory.for_each(|device| {
            if !snapshot.names.contains(&device.name) {
                gone.push(device.name);
            }
        });
        for name in gone {
            self.writer.remove(&name);
        }
        for facts in snapshot.devices() {
            self.put_if_other(facts);
        }
        self.now(snapshot.known);
    }

    fn put_if_other(&mut self, facts: Facts) {
        let Facts {
            device,
            limits,
            ports,
        } = facts;
        let name = device.name.clone();
        if self.directory.device_by_name(&name).as_ref() != Some(&device) {
            self.writer.put(device);
        }
        if self.directory.limits(&name) != limits {
            self.writer.limit(&name, limits);
        }
        if self.directory.ports(&name) != ports {
            self.writer.set_ports(&name, ports);
        }
    }

    pub(super) fn put(&mut self, facts: Facts, known: Known) {
        self.put_if_other(facts);
        self.now(known);
    }

    /// Removes a device, unless that are too many by now.
    pub(super) fn remove(
        &mut self,
        name: &DeviceName,
        known: Known,
        now: Instant,
    ) -> Result<(), Refusal> {
        if self.directory.registration_by_name(name).is_some() {
            self.removals.take(self.devices(), now)?;
            self.writer.remove(name);
        }
        self.now(known);
        Ok(())
    }

    /// Nothing more is to be known up to here.
    pub(super) fn now(&mut self, known: Known) {
        self.known = Some(known);
        self.metrics.now(known.version, self.devices());
    }

    /// Writes it to the disk if that is due.
    pub(super) fn keep_if_due(&mut self) {
        if self.kept_at.elapsed() >= self.keeping_took * KEEP_SHARE {
            self.keep();
        }
    }

    /// Writes it to the disk, if anything has changed. What cannot be written is told of, and tried again later.
    pub(super) fn keep(&mut self) {
        let Some(known) = self.known.filter(|_| self.known != self.kept) else {
            return;
        };
        let begun = Instant::now();
        match self.last_good.write(known, &self.directory) {
            Ok(()) => self.kept = Some(known),
            Err(error) => {
                self.metrics.keep_failures.inc();
                tracing::error!(%error, "what is known cannot be kept on disk");
            }
        }
        (self.kept_at, self.keeping_took) = (Instant::now(), begun.elapsed());
    }

    /// Removes it from the disk: control does not know this relay any more.
    pub(super) fn forget(&mut self) {
        self.last_good.remove();
        self.kept = self.known;
    }
}
