//! Every device there is, by its label. To read takes no lock and no allocation; those who write wait for each other.
//!
//! A device that has gone keeps its slot, so that the version of its name only rises. When the slots are used up, more take their
//! place, and who has gone is left behind: from then on every new name begins at the highest version that was.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use directory::RegistrationId;

use super::slot::{Device, Label};
use super::slots::Slots;
use crate::relays::Presence;
use crate::steering::Lead;

/// How many words a label has mostly, and how many the longest has.
const SHORT: usize = 3;
const LONG: usize = 8;

#[derive(Debug)]
pub(super) struct Devices {
    /// Its keys are random: names are chosen by strangers, who shall not know which fall together.
    hash: RandomState,
    short: Shelf<SHORT>,
    long: Shelf<LONG>,
    count: AtomicUsize,
    with_addresses: AtomicUsize,
    recorded: AtomicUsize,
    elsewhere: AtomicUsize,
}

impl Devices {
    pub(super) fn new() -> Self {
        Self {
            hash: RandomState::new(),
            short: Shelf::new(),
            long: Shelf::new(),
            count: AtomicUsize::new(0),
            with_addresses: AtomicUsize::new(0),
            recorded: AtomicUsize::new(0),
            elsewhere: AtomicUsize::new(0),
        }
    }

    pub(super) fn get(&self, label: &[u8]) -> Option<Device> {
        match Label::new(label) {
            Some(short) => self.short.get(&self.hash, &short),
            None => self.long.get(&self.hash, &Label::new(label)?),
        }
    }

    /// By which a label of the usual length is found; `None` for a longer one.
    pub(super) fn hash(&self, label: &[u8]) -> Option<u64> {
        Some(self.hash.hash_one(Label::<SHORT>::new(label)?))
    }

    /// Prepares for [`get`](Self::get) of labels with these hashes, all at once.
    pub(super) fn bring_near(&self, hashes: &[u64]) {
        self.short.slots.load().bring_near(hashes);
    }

    /// The device at a label, and the version that its name has then.
    pub(super) fn get_with_version(&self, label: &[u8]) -> Option<(Device, u32)> {
        match Label::new(label) {
            Some(short) => self.short.get_with_version(&self.hash, &short),
            None => self.long.get_with_version(&self.hash, &Label::new(label)?),
        }
    }

    /// Makes room for so many with labels of the usual length.
    pub(super) fn make_room_for(&self, devices: usize) {
        let short = &self.short;
        let mut taken = short.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = short.slots.load();
        if slots.room() < devices {
            short.grow(&self.hash, &slots, &mut taken, devices);
        }
    }

    /// Has `change` say who is to be at a label, where it finds whoever is there. Says who was there. If it changes anything, the
    /// name's version becomes the next; and never is it below `least`.
    pub(super) fn change(
        &self,
        label: &[u8],
        least: u32,
        change: impl FnOnce(Option<Device>) -> Option<Device>,
    ) -> Option<Device> {
        let counted = |before: Option<Device>| {
            let after = change(before);
            self.count(before.as_ref(), after.as_ref());
            after
        };
        match Label::new(label) {
            Some(short) => self.short.change(&self.hash, &short, least, counted),
            None => {
                let long = Label::new(label)?;
                self.long.change(&self.hash, &long, least, counted)
            }
        }
    }

    /// Says by which relays the device at a label is held. `false` if nobody is there. No version rises.
    pub(super) fn hold(&self, label: &[u8], presence: Presence) -> bool {
        let counted = |device: &Device| {
            let after = Device {
                presence,
                ..*device
            };
            self.count(Some(device), Some(&after));
            presence
        };
        match (Label::new(label), Label::new(label)) {
            (Some(short), _) => self.short.hold(&self.hash, &short, counted),
            (None, Some(long)) => self.long.hold(&self.hash, &long, counted),
            (None, None) => false,
        }
    }

    /// Says where the name at a label leads, if this registration holds it. `false` if it does not. No version rises.
    pub(super) fn lead(&self, label: &[u8], registration: RegistrationId, lead: Lead) -> bool {
        match (Label::new(label), Label::new(label)) {
            (Some(short), _) => self.short.lead(&self.hash, &short, registration, lead),
            (None, Some(long)) => self.long.lead(&self.hash, &long, registration, lead),
            (None, None) => false,
        }
    }

    /// From now on no device is held by a relay whose number `stays` does not say yes to.
    pub(super) fn leave_those_gone(&self, stays: impl Fn(u8) -> bool) {
        let counted = |device: &Device| {
            let presence = device.presence.without_those_gone(&stays);
            let after = Device {
                presence,
                ..*device
            };
            self.count(Some(device), Some(&after));
            presence
        };
        self.short.hold_all(counted);
        self.long.hold_all(counted);
    }

    fn count(&self, before: Option<&Device>, after: Option<&Device>) {
        let with_addresses = |device: &&Device| !device.addresses.is_empty();
        let recorded = |device: &&Device| device.is_recorded;
        let elsewhere = |device: &&Device| device.presence.is_elsewhere();
        let pairs = [
            (&self.count, before, after),
            (
                &self.with_addresses,
                before.filter(with_addresses),
                after.filter(with_addresses),
            ),
            (
                &self.recorded,
                before.filter(recorded),
                after.filter(recorded),
            ),
            (
                &self.elsewhere,
                before.filter(elsewhere),
                after.filter(elsewhere),
            ),
        ];
        for (count, before, after) in pairs {
            match (before, after) {
                (None, Some(_)) => count.fetch_add(1, Ordering::Relaxed),
                (Some(_), None) => count.fetch_sub(1, Ordering::Relaxed),
                (None, None) | (Some(_), Some(_)) => continue,
            };
        }
    }

    /// Every device with the version of its name, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Device, u32)> {
        self.short.iter().chain(self.long.iter())
    }

    /// The label of every device, in no order.
    pub(super) fn labels(&self) -> impl Iterator<Item = Box<[u8]>> {
        self.short.labels().chain(self.long.labels())
    }

    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// How many have own addresses.
    pub(super) fn with_addresses(&self) -> usize {
        self.with_addresses.load(Ordering::Relaxed)
    }

    /// Of how many the log has a record.
    pub(super) fn recorded(&self) -> usize {
        self.recorded.load(Ordering::Relaxed)
    }

    /// How many are held by a relay with a process of its own.
    pub(super) fn elsewhere(&self) -> usize {
        self.elsewhere.load(Ordering::Relaxed)
    }
}

/// The slots of one size.
#[derive(Debug)]
struct Shelf<const L: usize> {
    slots: ArcSwap<Slots<L>>,
    /// Held by who writes.
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// Slots.
    count: usize,
    /// No name that was left behind had a higher version.
    version: u32,
}

impl<const L: usize> Shelf<L> {
    fn new() -> Self {
        Self {
            slots: ArcSwap::from_pointee(Slots::with_room_for(0)),
            taken: Mutex::default(),
        }
    }

    fn get(&self, hash: &RandomState, label: &Label<L>) -> Option<Device> {
        let slots = self.slots.load();
        slots.find(hash.hash_one(label), label)?.read()
    }

    fn get_with_version(&self, hash: &RandomState, label: &Label<L>) -> Option<(Device, u32)> {
        let slots = self.slots.load();
        let slot = slots.find(hash.hash_one(label), label)?;
        let (device, version) = slot.read_with_version();
        Some((device?, version))
    }

    fn change(
        &self,
        hash: &RandomState,
        label: &Label<L>,
        least: u32,
        change: impl FnOnce(Option<Device>) -> Option<Device>,
    ) -> Option<Device> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = self.slots.load();
        let hash_of_label = hash.hash_one(label);
        if let Some(slot) = slots.find(hash_of_label, label) {
            let before = slot.read();
            let after = change(before);
            if after != before || (after.is_some() && slot.version() < least) {
                slot.write(after.as_ref(), least);
            }
            return before;
        }
        let Some(device) = change(None) else {
            return None; // nobody was there, and nobody comes
        };
        let slots = match taken.count < slots.room() {
            true => slots,
            false => {
                self.grow(hash, &slots, &mut taken, 0);
                self.slots.load()
            }
        };
        let before = taken.version.max(least.saturating_sub(1));
        slots.add(hash_of_label, label, before, &device);
        taken.count += 1;
        None
    }

    /// Has `presence` say which relays hold the device at a label. `false` if nobody is there.
    fn hold(
        &self,
        hash: &RandomState,
        label: &Label<L>,
        presence: impl FnOnce(&Device) -> Presence,
    ) -> bool {
        let _one_writes = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = self.slots.load();
        let slot = slots.find(hash.hash_one(label), label);
        let Some((slot, device)) = slot.and_then(|slot| Some((slot, slot.read()?))) else {
            return false;
        };
        slot.hold(presence(&device));
        true
    }

    /// Says where the name at a label leads. `false` if another registration holds it, or none.
    fn lead(
        &self,
        hash: &RandomState,
        label: &Label<L>,
        registration: RegistrationId,
        lead: Lead,
    ) -> bool {
        let _one_writes = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = self.slots.load();
        let Some(slot) = slots.find(hash.hash_one(label), label) else {
            return false;
        };
        let device = slot.read();
        let is_held = device.is_some_and(|device| device.registration == registration);
        if is_held {
            slot.lead(lead);
        }
        is_held
    }

    /// The same as [`hold`](Self::hold) for all that relays with a process of their own hold.
    fn hold_all(&self, presence: impl Fn(&Device) -> Presence) {
        let _one_writes = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        for slot in self.slots.load().taken() {
            if let Some(device) = slot.read()
                && device.presence.is_elsewhere()
            {
                slot.hold(presence(&device));
            }
        }
    }

    /// Puts other slots in the place of these: for a quarter more than are there, and for so many at least.
    fn grow(&self, hash: &RandomState, slots: &Slots<L>, taken: &mut Taken, least: usize) {
        let held = slots.taken().filter(|slot| slot.read().is_some()).count();
        let larger = Slots::with_room_for(least.max(held + held / 4 + 1));
        taken.count = held;
        for slot in slots.taken() {
            match slot.read() {
                Some(device) => {
                    let label = slot.label();
                    let before = slot.version().saturating_sub(1); // it keeps the one it has
                    larger.add(hash.hash_one(label), &label, before, &device);
                }
                None => taken.version = taken.version.max(slot.version()),
            }
        }
        self.slots.store(Arc::new(larger));
    }

    fn labels(&self) -> impl Iterator<Item = Box<[u8]>> + use<L> {
        let slots = self.slots.load_full();
        (0..slots.places()).filter_map(move |at| {
            let slot = slots.taken_at(at)?;
            slot.read().map(|_| slot.label().octets())
        })
    }

    fn iter(&self) -> impl Iterator<Item = (Device, u32)> + use<L> {
        let slots = self.slots.load_full();
        (0..slots.places()).filter_map(move |at| {
            let (device, version) = slots.taken_at(at)?.read_with_version();
            Some((device?, version))
        })
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use proptest::prelude::*;

    use super::super::slot::tests::numbered;
    use super::*;

    /// Labels of all lengths.
    fn label(number: u32) -> Vec<u8> {
        let mut label = number.to_string().into_bytes();
        label.resize(label.len() + (number as usize * 7) % 54, b'x');
        label
    }

    #[test]
    fn a_million_names_take_little_room_and_all_are_found() {
        let devices = Devices::new();
        for number in 0..1_000_000 {
            let name = format!("d{number}").into_bytes();
            assert_eq!(devices.change(&name, 0, |_| Some(numbered(number))), None);
        }
        for number in 0..1_000_000 {
            let name = format!("d{number}").into_bytes();
            assert_eq!(devices.get(&name), Some(numbered(number)));
        }
        assert_eq!(devices.get(b"d1000000"), None);
        assert_eq!(devices.len(), 1_000_000);
        let octets = devices.short.slots.load().places() * (size_of::<u8>() + 64);
        assert!(octets <= 90_000_000, "{octets}");
    }

    #[test]
    fn room_that_is_made_at_once_is_hardly_more_than_is_needed() {
        let devices = Devices::new();
        devices.make_room_for(1_000_000);
        let places = devices.short.slots.load().places();
        for number in 0..1_000_000 {
            let name = format!("d{number}").into_bytes();
            devices.change(&name, 0, |_| Some(numbered(number)));
        }
        assert_eq!(
            devices.short.slots.load().places(),
            places,
            "no need to grow"
        );
        let octets = places * (size_of::<u8>() + 64);
        assert!(octets <= 70_000_000, "{octets}");
    }

    #[test]
    fn a_version_rises_whatever_becomes_of_the_name() {
        let devices = Devices::new();
        let version = |label: &[u8]| {
            let key = Label::new(label).unwrap();
            let slots = devices.short.slots.load();
            let slot = slots.find(devices.hash.hash_one(key), &key);
            slot.map(super::super::slot::Slot::version)
        };
        let put = |label: &[u8], number| devices.change(label, 0, |_| Some(numbered(number)));
        for number in 0..9 {
            put(b"first", number);
        }
        devices.change(b"first", 0, |_| None);
        assert_eq!(version(b"first"), Some(10));
        for number in 0..100 {
            put(number.to_string().as_bytes(), number);
        }
        assert_eq!(version(b"first"), None, "it was left behind");
        put(b"first", 1);
        assert_eq!(version(b"first"), Some(11));
    }

    #[test]
    fn whoever_reads_beside_a_writer_finds_a_device_as_it_once_was() {
        const WRITES: u32 = 200_000;
        let devices = Devices::new();
        devices.change(b"d", 0, |_| Some(numbered(0)));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut last = 0;
                    while last < WRITES {
                        let device = devices.get(b"d").unwrap();
                        let number = device.registration.0 as u32;
                        assert_eq!(device, numbered(number));
                        assert!(number >= last, "{number} after {last}");
                        last = number;
                    }
                });
            }
            for number in 1..=WRITES {
                devices.change(b"d", 0, |_| Some(numbered(number)));
                // Others come, so that the slots grow now and then.
                devices.change(&label(number % 10_000), 0, |_| Some(numbered(number)));
            }
        });
    }

    proptest! {
        #[test]
        fn it_has_what_a_map_would_have(
            changes in prop::collection::vec((0..400_u32, any::<Option<u32>>()), 0..2000),
        ) {
            let devices = Devices::new();
            let mut model = BTreeMap::new();
            for (name, number) in changes {
                let before = devices.change(&label(name), 0, |_| number.map(numbered));
                let expected = match number {
                    Some(number) => model.insert(name, number),
                    None => model.remove(&name),
                };
                prop_assert_eq!(before, expected.map(numbered));
            }
            for name in 0..400 {
                let expected = model.get(&name).copied().map(numbered);
                prop_assert_eq!(devices.get(&label(name)), expected);
            }
            prop_assert_eq!(devices.len(), model.len());
            prop_assert_eq!(devices.with_addresses(), model.len());
            let all: HashSet<_> = devices.iter().map(|(device, _)| device.registration).collect();
            let expected = model.values().map(|number| numbered(*number).registration).collect();
            prop_assert_eq!(all, expected);
        }
    }
}
