//! Makes a version of what has changed, on a thread of its own, and gives it to secondaries.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::{Semaphore, watch};

use super::catalog;
use super::config::{Key, KeyFileError, Secondary};
use super::contents::Contents;
use super::records::Records;
use super::stream::{Transfer, ZoneQuestion};
use super::versions::{Published, Versions, Whose};
use crate::Moment;
use crate::dnssec::Signer;
use crate::metrics::Metrics;
use crate::protocol::{Rcode, Type};
use crate::sys::coarse_nanoseconds;
use crate::table::{Marked, Table};
use crate::tsig;
use crate::unix_seconds;

/// So often it is looked whether something has changed.
const TICK: Duration = Duration::from_millis(100);
/// Versions are so far apart at least: NSD loads one a second, and a serial that overtakes the clock, because of what it does not
/// tell of otherwise, would fall back at the next start.
const APART: Duration = Duration::from_secs(1);
/// All signatures are made anew in this time, long before the first of them ends.
const REFRESH: Duration = Duration::from_secs(12 * 3600);
/// Devices that are looked at in one go.
const AT_ONCE: usize = 256;
/// Transfers at a time: each keeps the version that it is of.
const MAX_TRANSFERS: usize = 8;

/// What secondaries are given.
#[derive(Debug)]
pub(crate) struct Desk {
    keys: Vec<(Key, Secondary)>,
    zone: Copied,
    catalog: Copied,
    /// How often it has been looked what has changed.
    looks: watch::Sender<u64>,
    transfers: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// A zone that secondaries have copies of.
#[derive(Debug)]
pub(crate) struct Copied {
    /// On the wire, in lower case.
    apex: Box<[u8]>,
    /// Nothing before the first version.
    published: ArcSwapOption<Published>,
    serial: watch::Sender<u32>,
}

/// Makes versions.
pub(crate) struct Publisher {
    pub(crate) desk: Arc<Desk>,
    pub(crate) table: Arc<Table>,
    /// Where copies have signatures.
    pub(crate) signer: Option<Arc<Signer>>,
}

/// What a secondary is told.
pub(crate) enum Given {
    /// These messages, one after the other.
    Transfer(Box<Transfer>),
    /// Nothing but a code, to be signed.
    Code(Rcode, Box<tsig::Signer>),
}

impl Copied {
    fn new(apex: Box<[u8]>) -> Self {
        Self {
            apex,
            published: ArcSwapOption::empty(),
            serial: watch::Sender::new(0),
        }
    }

    /// Its name on the wire, in lower case.
    pub(crate) fn apex(&self) -> &[u8] {
        &self.apex
    }

    /// The serial that is published, whenever it becomes another; 0 before the first.
    pub(crate) fn serial(&self) -> watch::Receiver<u32> {
        self.serial.subscribe()
    }

    fn publish(&self, published: Published) {
        let serial = published.latest.serial;
        self.published.store(Some(Arc::new(published)));
        self.serial.send_replace(serial);
    }
}

impl Desk {
    /// For these secondaries of the zone with the name `apex`.
    ///
    /// # Errors
    /// The first key that is none.
    pub(crate) fn new(
        secondaries: &[Secondary],
        apex: &[u8],
        metrics: Arc<Metrics>,
    ) -> Result<Self, KeyFileError> {
        let mut keys: Vec<(Key, Secondary)> = Vec::new();
        for secondary in secondaries {
            let key = Key::from_file(&secondary.key_file)?;
            let is_there = |(other, _): &(Key, Secondary)| other.name == key.name;
            if keys.iter().any(is_there) {
                let name = key.name.escape_ascii().to_string();
                return Err(KeyFileError::Twice(name));
            }
            keys.push((key, secondary.clone()));
        }
        let catalog = Copied::new(catalog::name(apex));
        catalog.publish(catalog::published(apex));
        Ok(Self {
            keys,
            zone: Copied::new(apex.into()),
            catalog,
            looks: watch::Sender::new(0),
            transfers: Arc::new(Semaphore::new(MAX_TRANSFERS)),
            metrics,
        })
    }

    /// The secondary whose key has this name, on the wire in lower case.
    pub(crate) fn key(&self, name: &[u8]) -> Option<&(Key, Secondary)> {
        self.keys.iter().find(|(key, _)| *key.name == *name)
    }

    /// All of them.
    pub(crate) fn secondaries(&self) -> impl Iterator<Item = &(Key, Secondary)> {
        self.keys.iter()
    }

    /// The zones that a secondary may copy.
    pub(crate) fn copied_by(&self, secondary: &Secondary) -> impl Iterator<Item = &Copied> {
        let catalog = secondary.catalog.then_some(&self.catalog);
        [&self.zone].into_iter().chain(catalog)
    }

    /// The zone's serial that is published, whenever it becomes another; 0 before the first.
    pub(crate) fn serial(&self) -> watch::Receiver<u32> {
        self.zone.serial()
    }

    /// The serial of a version that has all that has changed before this is called; `None` if the server ends.
    pub(crate) async fn next_version(&self) -> Option<u32> {
        let mut looks = self.looks.subscribe();
        // The look that is under way may have been before it.
        let whole = looks.borrow().saturating_add(2);
        looks.wait_for(|looks| *looks >= whole).await.ok()?;
        Some(*self.zone.serial.borrow())
    }

    /// So many secondaries are not up to date.
    pub(super) fn behind(&self, count: usize) {
        self.metrics.secondaries_behind(count);
    }

    /// Answers a question of a secondary for a zone; whether the secondary `signs` it itself, and asks over UDP, says how.
    pub(crate) fn give(
        &self,
        zone: &Copied,
        asked: &ZoneQuestion<'_>,
        (signs, over_udp): (bool, bool),
        signer: tsig::Signer,
    ) -> Given {
        let refused = |result, rcode, signer| {
            self.metrics.transfer(result);
            Given::Code(rcode, Box::new(signer))
        };
        if over_udp && asked.qtype == Type::AXFR {
            return refused("over_udp", Rcode::Refused, signer);
        }
        let Some(published) = zone.published.load_full() else {
            return refused("not_ready", Rcode::ServFail, signer);
        };
        let latest = &published.latest;
        // RFC 1995 section 2: over UDP the SOA says that there is something, and that it is to be had over TCP.
        if asked.qtype == Type::SOA || over_udp || asked.has == Some(latest.serial) {
            self.metrics.transfer("serial");
            let transfer = Transfer::new(asked, signs, signer).of_soa(latest);
            return Given::Transfer(Box::new(transfer));
        }
        let Ok(permit) = Arc::clone(&self.transfers).try_acquire_owned() else {
            return refused("too_many", Rcode::ServFail, signer);
        };
        let transfer = Transfer::new(asked, signs, signer);
        let differences = asked.has.and_then(|serial| published.since(serial));
        let (result, transfer) = match differences {
            Some(differences) => ("ixfr", transfer.of_differences(latest, differences, permit)),
            None => ("axfr", transfer.of_all(latest, permit)),
        };
        self.metrics.transfer(result);
        Given::Transfer(Box::new(transfer))
    }
}

impl Publisher {
    /// Publishes what changes until `stopping`.
    pub(crate) fn run(&self, stopping: &AtomicBool) {
        self.table.begin_marks();
        let mut versions = Versions::new(self.signer.is_some());
        let mut nodes = BTreeSet::new();
        let mut published = None::<Instant>;
        let mut refreshed = Instant::now();
        let mut last_serial = None;
        let mut waiting = Marked::default();
        while !stopping.load(Ordering::Relaxed) {
            // Before the look: what is published is never older than its serial.
            let mut serial = self.table.soa().serial;
            waiting.add(self.table.take_marked());
            if !waiting.is_empty() && published.is_none_or(|last| last.elapsed() >= APART) {
                // Where devices are held, for one.
                if last_serial == Some(serial) {
                    self.table.changed(unix_seconds());
                    serial = self.table.soa().serial;
                }
                let marked = std::mem::take(&mut waiting);
                let all = marked.all;
                let Some(changed) = self.changed(marked, &mut nodes, stopping) else {
                    return;
                };
                if let Some(published) = versions.publish(serial, changed, all, &self.contents()) {
                    self.desk.zone.publish(published);
                }
                published = Some(Instant::now());
                last_serial = Some(serial);
            }
            // What waits is in the version of a later look.
            if waiting.is_empty() {
                self.desk.looks.send_modify(|looks| *looks += 1);
            }
            if self.signer.is_some() && refreshed.elapsed() >= REFRESH {
                refreshed = Instant::now();
                self.table.mark_all();
            }
            std::thread::sleep(TICK);
        }
    }

    /// The records of those that have changed; `nodes` are the names that are no devices' and have been published. Where records are
    /// signed, this takes no more than half of a core. `None` if it is to stop.
    fn changed(
        &self,
        marked: Marked,
        nodes: &mut BTreeSet<Box<[u8]>>,
        stopping: &AtomicBool,
    ) -> Option<Vec<(Whose, Records)>> {
        let mut changed = Vec::new();
        if marked.others {
            nodes.extend(self.table.other_names());
            for name in nodes.iter() {
                changed.push((Whose::Node(name.clone()), self.contents().node(name)));
            }
        }
        let devices: Vec<_> = marked.devices.into_iter().collect();
        for devices in devices.chunks(AT_ONCE) {
            let begun = Instant::now();
            let contents = self.contents();
            for label in devices {
                changed.push((Whose::Device(label.clone()), contents.device(label)));
            }
            if self.signer.is_some() && devices.len() == AT_ONCE {
                std::thread::sleep(begun.elapsed());
            }
            if stopping.load(Ordering::Relaxed) {
                return None;
            }
        }
        Some(changed)
    }

    fn contents(&self) -> Contents<'_> {
        Contents {
            table: &self.table,
            signer: self.signer.as_deref(),
            moment: Moment {
                unix_seconds: unix_seconds(),
                nanoseconds: coarse_nanoseconds(),
            },
        }
    }
}
