//! Which names have changed since somebody looked, for whoever keeps a copy of the zone.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Table;
use super::standing::{Owner, WILDCARD};
use crate::why::WHY_LABEL;

/// Who has changed.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    devices: Mutex<HashSet<Box<[u8]>>>,
    others: AtomicBool,
    all: AtomicBool,
}

/// Who had changed at a moment.
#[derive(Debug, Default)]
pub(crate) struct Marked {
    /// The labels of devices.
    pub(crate) devices: HashSet<Box<[u8]>>,
    /// Any name that is no device's.
    pub(crate) others: bool,
    /// Everything, if only because it is to be signed anew.
    pub(crate) all: bool,
}

impl Marked {
    /// Nobody.
    pub(crate) fn is_empty(&self) -> bool {
        self.devices.is_empty() && !self.others && !self.all
    }

    /// And these.
    pub(crate) fn add(&mut self, more: Self) {
        self.devices.extend(more.devices);
        self.others |= more.others;
        self.all |= more.all;
    }
}

impl Marks {
    fn devices(&self) -> std::sync::MutexGuard<'_, HashSet<Box<[u8]>>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// From now on who changes is marked, and everybody is marked already.
    pub(crate) fn begin_marks(&self) {
        self.marks.get_or_init(Marks::default);
        self.mark_all();
    }

    /// Everything is to be looked at again.
    pub(crate) fn mark_all(&self) {
        let Some(marks) = self.marks.get() else {
            return;
        };
        for label in self.devices.labels() {
            marks.devices().insert(label);
        }
        marks.others.store(true, Ordering::Release);
        marks.all.store(true, Ordering::Release);
    }

    /// Who has changed since this was asked last.
    pub(crate) fn take_marked(&self) -> Marked {
        let Some(marks) = self.marks.get() else {
            return Marked::default();
        };
        Marked {
            devices: std::mem::take(&mut *marks.devices()),
            others: marks.others.swap(false, Ordering::AcqRel),
            all: marks.all.swap(false, Ordering::AcqRel),
        }
    }

    /// A device has changed.
    pub(super) fn mark(&self, label: &[u8]) {
        if let Some(marks) = self.marks.get() {
            marks.devices().insert(label.into());
        }
    }

    /// A name that is no device's has changed.
    pub(super) fn mark_others(&self) {
        if let Some(marks) = self.marks.get() {
            marks.others.store(true, Ordering::Release);
        }
    }

    /// The label of every device, in no order.
    pub(crate) fn labels(&self) -> Vec<Box<[u8]>> {
        self.devices.labels().collect()
    }

    /// Every name of a device, by the octets before the zone's name; none if it is gone.
    pub(crate) fn names_of_device(&self, label: &[u8]) -> Vec<Box<[u8]>> {
        let Some(device) = self.devices.get(label) else {
            return Vec::new();
        };
        let mut names = Vec::new();
        let mut put = |front: &[u8]| {
            names.push([front, &[label.len() as u8], label].concat().into());
        };
        put(b"");
        put(WILDCARD);
        if self.contents.has_why {
            put(WHY_LABEL);
        }
        let owners = match device.has_subnames {
            true => self.subnames.owners(device.registration),
            false => None,
        };
        for (front, owner) in owners.iter().flatten() {
            put(front);
            if matches!(owner, Owner::Device) {
                put(&[WILDCARD, front].concat());
            }
        }
        names
    }

    /// Every name that is no device's, by the octets before the zone's name.
    pub(crate) fn other_names(&self) -> Vec<Box<[u8]>> {
        let relays = self.relays.load();
        let mut names: Vec<Box<[u8]>> = self.contents.node_by_name.keys().cloned().collect();
        names.extend(relays.labels().map(super::chain::name_of_relay));
        names.extend(self.proofs.load().keys().cloned());
        names.sort_unstable();
        names.dedup(); // the operator's records can stand at a relay's name
        names
    }
}
