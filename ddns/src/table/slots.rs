//! Slots found by their labels' hash: open addressing, by groups of eight. Readers see every slot that was there when they
//! began; one thread at a time adds some.
//!
//! ```text
//!  tags   a group's eight in a word: 0 is free, else seven bits of the hash and a one
//!  slots  the same eight, which are looked at only where the tag is right
//! ```
//!
//! A group is as good as any to look in; who finds it full goes on to the next, and who finds a free tag has seen all.

use std::sync::atomic::{AtomicU64, Ordering};

use super::slot::{Device, Label, Slot};
use crate::sys::with_large_pages;

/// Slots of one group.
const GROUP: usize = 8;

/// One slot in so many stays free, so that no search is long: at the worst, half of all go on to a second group's tags, which
/// mostly stand beside the first's.
const SPARE: usize = 16;

/// Every octet's lowest bit.
const LOWEST: u64 = 0x0101_0101_0101_0101;
/// Every octet's highest.
const HIGHEST: u64 = LOWEST << 7;

#[derive(Debug)]
pub(super) struct Slots<const L: usize> {
    tags: Box<[AtomicU64]>,
    slots: Box<[Slot<L>]>,
}

impl<const L: usize> Slots<L> {
    /// Room for `labels` of them, and for some more.
    pub(super) fn with_room_for(labels: usize) -> Self {
        let groups = (labels + labels.div_ceil(SPARE - 1)).div_ceil(GROUP).max(2);
        let mut tags = with_large_pages(groups);
        tags.extend((0..groups).map(|_| AtomicU64::new(0)));
        let mut slots = with_large_pages(groups * GROUP);
        slots.extend((0..groups * GROUP).map(|_| Slot::new()));
        Self {
            tags: tags.into(),
            slots: slots.into(),
        }
    }

    /// How many labels it takes before every search takes too long.
    pub(super) fn room(&self) -> usize {
        let places = self.slots.len();
        places - places.div_ceil(SPARE)
    }

    /// The slot of a label whose hash is `hash`.
    pub(super) fn find(&self, hash: u64, label: &Label<L>) -> Option<&Slot<L>> {
        for group in self.groups_from(hash) {
            let tags = self.tags[group].load(Ordering::Acquire);
            let mut equal = equal(tags, tag(hash));
            while equal != 0 {
                let slot = &self.slots[group * GROUP + place(equal)];
                if slot.has(label) {
                    return Some(slot);
                }
                equal &= equal - 1;
            }
            if free(tags).is_some() {
                return None;
            }
        }
        None
    }

    /// Has the processor fetch what will be looked at for these hashes, all at once: one after the other, each would be waited
    /// for.
    pub(super) fn bring_near(&self, hashes: &[u64]) {
        let mut seen = 0;
        for &hash in hashes {
            seen ^= self.tags[self.first_group(hash)].load(Ordering::Relaxed);
        }
        for &hash in hashes {
            let group = self.first_group(hash);
            let equal = equal(self.tags[group].load(Ordering::Relaxed), tag(hash));
            if equal != 0 {
                seen ^= u64::from(self.slots[group * GROUP + place(equal)].version());
            }
        }
        std::hint::black_box(seen);
    }

    /// Gives a device a slot under a label that has none; its version is the one behind `version`. There must be room.
    pub(super) fn add(&self, hash: u64, label: &Label<L>, version: u32, device: &Device) {
        for group in self.groups_from(hash) {
            let tags = self.tags[group].load(Ordering::Relaxed);
            if let Some(free) = free(tags) {
                let slot = &self.slots[group * GROUP + free];
                slot.take(label, version);
                slot.write(Some(device), 0);
                let tags = tags | (tag(hash) << (8 * free));
                self.tags[group].store(tags, Ordering::Release);
                return;
            }
        }
        unreachable!("the table grows before it is full")
    }

    /// Every slot that has been taken.
    pub(super) fn taken(&self) -> impl Iterator<Item = &Slot<L>> {
        (0..self.slots.len()).filter_map(|at| self.taken_at(at))
    }

    /// The slot at a place below [`places`](Self::places), if it has been taken.
    pub(super) fn taken_at(&self, at: usize) -> Option<&Slot<L>> {
        let tags = self.tags[at / GROUP].load(Ordering::Acquire);
        (tags >> (8 * (at % GROUP)) & 0xFF != 0).then(|| &self.slots[at])
    }

    pub(super) fn places(&self) -> usize {
        self.slots.len()
    }

    fn groups_from(&self, hash: u64) -> impl Iterator<Item = usize> {
        let first = self.first_group(hash);
        (first..self.tags.len()).chain(0..first)
    }

    /// The hash is a fraction of one, and this the same fraction of all groups.
    fn first_group(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.tags.len() as u128) >> 64) as usize
    }
}

/// The hash's lowest bits, which say the least about the group.
fn tag(hash: u64) -> u64 {
    hash & 0x7F | 0x80
}

/// The places of a group whose tags are this one, as the highest bits of their octets. A zero octet is where both are the same;
/// above one, a false one may follow.
fn equal(tags: u64, tag: u64) -> u64 {
    let unequal = tags ^ (tag * LOWEST);
    unequal.wrapping_sub(LOWEST) & !unequal & HIGHEST
}

/// The first of such places.
fn place(highest_bits: u64) -> usize {
    highest_bits.trailing_zeros() as usize / 8
}

/// The first free place of a group. No tag that is taken lacks its highest bit.
fn free(tags: u64) -> Option<usize> {
    let free = !tags & HIGHEST;
    (free != 0).then(|| place(free))
}
