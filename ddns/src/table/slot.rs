//! One device's place in the table. Any number of threads read it while one writes, and nobody waits for a lock: who has read
//! during a write notices and reads again (a sequence lock of atomic words).
//!
//! ```text
//!  state   version 31 │ writing 1 │ presence 16 │ … 7 │ has CAA 1 │ lead 3 │ recorded 1 │ has subnames 1 │ has IPv6 1 │ has IPv4 1 │ held 1
//!  registration 64
//!  IPv6 128
//!  … 16 │ port of the lead 16 │ IPv4 32
//!  label 64 · L, zeros behind its end
//! ```
//!
//! With labels of up to 24 octets that is one line of the processor's cache.

use std::net::{Ipv4Addr, Ipv6Addr};

use directory::RegistrationId;

use self::atomic::{AtomicU64, Ordering, fence, yield_now};
use crate::addresses::Addresses;
use crate::relays::Presence;
use crate::steering::Lead;

#[cfg(not(all(test, feature = "loom")))]
mod atomic {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};
    pub(super) use std::thread::yield_now;
}

/// The same, in every order that the memory model allows.
#[cfg(all(test, feature = "loom"))]
mod atomic {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering, fence};
    pub(super) use loom::thread::yield_now;
}

const HELD: u64 = 1;
const HAS_V4: u64 = 1 << 1;
const HAS_V6: u64 = 1 << 2;
const HAS_SUBNAMES: u64 = 1 << 3;
const RECORDED: u64 = 1 << 4;
/// How far the lead stands from the end of the state, and where it is.
const LEAD: u32 = 5;
const LEAD_BITS: u64 = 7 << LEAD;
const HAS_ISSUERS: u64 = 1 << 8;
/// How far its port stands from the end of the IPv4 address.
const PORT: u32 = 32;
const V4_BITS: u64 = 0xFFFF_FFFF;
/// How far the presence stands from the end of the state, and where it is.
const PRESENCE: u32 = 16;
const PRESENCE_BITS: u64 = 0xFFFF << PRESENCE;
const WRITING: u64 = 1 << 32;
/// How far the version stands from the end of the state.
const VERSION: u32 = 33;

/// What the table knows of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) registration: RegistrationId,
    pub(crate) addresses: Addresses,
    /// There are names below it beside its wildcard.
    pub(crate) has_subnames: bool,
    /// It has said who alone may issue certificates for it.
    pub(crate) has_issuers: bool,
    /// The log has a record of it: an update has changed it once.
    pub(crate) is_recorded: bool,
    /// Which relays hold it. No version tells of it, as the log knows nothing of it.
    pub(crate) presence: Presence,
    /// Where its name leads; the same.
    pub(crate) lead: Lead,
}

/// A label of up to 8 · `L` octets. One that ends in zero octets is nobody's, and would look like the one without them.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) struct Label<const L: usize>([u64; L]);

impl<const L: usize> Label<L> {
    /// `None` if it is longer, or ends in a zero octet.
    pub(super) fn new(octets: &[u8]) -> Option<Self> {
        let mut words = [0; L];
        if octets.len() > size_of_val(&words) || octets.last() == Some(&0) {
            return None;
        }
        for (word, octets) in words.iter_mut().zip(octets.chunks(8)) {
            let mut padded = [0; 8];
            padded[..octets.len()].copy_from_slice(octets);
            *word = u64::from_le_bytes(padded);
        }
        Some(Self(words))
    }

    /// The octets, without the zeros behind them.
    pub(super) fn octets(&self) -> Box<[u8]> {
        let octets: Vec<_> = self.0.iter().flat_map(|word| word.to_le_bytes()).collect();
        let len = octets.iter().rposition(|octet| *octet != 0);
        octets[..len.map_or(0, |last| last + 1)].into()
    }
}

/// The place itself. It has no label until somebody takes it, and keeps that one for ever.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Slot<const L: usize> {
    state: AtomicU64,
    registration: AtomicU64,
    v6: [AtomicU64; 2],
    v4: AtomicU64,
    label: [AtomicU64; L],
}

impl<const L: usize> Slot<L> {
    pub(super) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            state: zero(),
            registration: zero(),
            v6: [zero(), zero()],
            v4: zero(),
            label: std::array::from_fn(|_| zero()),
        }
    }

    /// Takes it, before anybody else can find it. `version` is the one that its first write goes on from.
    pub(super) fn take(&self, label: &Label<L>, version: u32) {
        for (word, value) in self.label.iter().zip(label.0) {
            word.store(value, Ordering::Relaxed);
        }
        let state = u64::from(version) << VERSION;
        self.state.store(state, Ordering::Relaxed);
    }

    pub(super) fn has(&self, label: &Label<L>) -> bool {
        let mut words = self.label.iter().zip(label.0);
        words.all(|(word, value)| word.load(Ordering::Relaxed) == value)
    }

    /// Its label, for the next table.
    pub(super) fn label(&self) -> Label<L> {
        Label(std::array::from_fn(|at| {
            self.label[at].load(Ordering::Relaxed)
        }))
    }

    /// How often it has been written; goes on where [`take`](Self::take) said.
    pub(super) fn version(&self) -> u32 {
        (self.state.load(Ordering::Relaxed) >> VERSION) as u32
    }

    /// Who is there, if anybody: always as one write has left it.
    pub(super) fn read(&self) -> Option<Device> {
        self.read_with_version().0
    }

    /// The same, and the version that it was then.
    pub(super) fn read_with_version(&self) -> (Option<Device>, u32) {
        loop {
            let before = self.state.load(Ordering::Acquire);
            let registration = self.registration.load(Ordering::Relaxed);
            let [high, low] = [&self.v6[0], &self.v6[1]].map(|word| word.load(Ordering::Relaxed));
            let v4 = self.v4.load(Ordering::Relaxed);
            fence(Ordering::Acquire); // what was read is older than the state that is read now
            let after = self.state.load(Ordering::Relaxed);
            if before != after || before & WRITING != 0 {
                yield_now();
                continue;
            }
            let v6 = (u128::from(high) << 64) | u128::from(low);
            let device = (before & HELD != 0).then(|| Device {
                registration: RegistrationId(registration),
                addresses: Addresses {
                    v4: (before & HAS_V4 != 0).then(|| Ipv4Addr::from_bits(v4 as u32)),
                    v6: (before & HAS_V6 != 0).then(|| Ipv6Addr::from_bits(v6)),
                },
                has_subnames: before & HAS_SUBNAMES != 0,
                has_issuers: before & HAS_ISSUERS != 0,
                is_recorded: before & RECORDED != 0,
                presence: Presence::from_bits((before >> PRESENCE) as u16),
                lead: Lead::from_bits((before >> LEAD) as u8 & 7, (v4 >> PORT) as u16),
            });
            return (device, (before >> VERSION) as u32);
        }
    }

    /// Replaces who is there. Its version becomes the next, or `least` if that is higher. To be called by one thread at a time.
    pub(super) fn write(&self, device: Option<&Device>, least: u32) {
        let before = self.state.load(Ordering::Relaxed);
        self.state.store(before | WRITING, Ordering::Relaxed);
        fence(Ordering::Release); // whoever reads what is written now finds the state changed
        let next_version = self.version().wrapping_add(1).max(least);
        let mut state = u64::from(next_version) << VERSION;
        if let Some(Device {
            registration,
            addresses: Addresses { v4, v6 },
            has_subnames,
            has_issuers,
            is_recorded,
            presence,
            lead,
        }) = device
        {
            state |= HELD | v4.map_or(0, |_| HAS_V4) | v6.map_or(0, |_| HAS_V6);
            state |= if *has_subnames { HAS_SUBNAMES } else { 0 };
            state |= if *has_issuers { HAS_ISSUERS } else { 0 };
            state |= if *is_recorded { RECORDED } else { 0 };
            state |= u64::from(presence.to_bits()) << PRESENCE;
            let (lead, port) = lead.to_bits();
            state |= u64::from(lead) << LEAD;
            let v4 = u64::from(v4.map_or(0, Ipv4Addr::to_bits)) | u64::from(port) << PORT;
            let v6 = v6.map_or(0, Ipv6Addr::to_bits);
            self.registration.store(registration.0, Ordering::Relaxed);
            self.v6[0].store((v6 >> 64) as u64, Ordering::Relaxed);
            self.v6[1].store(v6 as u64, Ordering::Relaxed);
            self.v4.store(v4, Ordering::Relaxed);
        }
        self.state.store(state, Ordering::Release);
    }

    /// Replaces the presence of who is there, and nothing else: its version stays. To be called by one thread at a time, and by
    /// none while another [writes](Self::write).
    pub(super) fn hold(&self, presence: Presence) {
        let before = self.state.load(Ordering::Relaxed);
        let state = before & !PRESENCE_BITS | (u64::from(presence.to_bits()) << PRESENCE);
        // One word is one write. Whoever reads it now finds the other words too, which have not changed.
        self.state.store(state, Ordering::Release);
    }

    /// Replaces the lead of who is there, and nothing else: its version stays. To be called as [`hold`](Self::hold) is.
    pub(super) fn lead(&self, lead: Lead) {
        let before = self.state.load(Ordering::Relaxed);
        self.state.store(before | WRITING, Ordering::Relaxed);
        fence(Ordering::Release); // whoever reads what is written now finds the state changed
        let (bits, port) = lead.to_bits();
        let v4 = self.v4.load(Ordering::Relaxed) & V4_BITS | u64::from(port) << PORT;
        self.v4.store(v4, Ordering::Relaxed);
        let state = before & !LEAD_BITS | u64::from(bits) << LEAD;
        // Where that is what it was before, a port alone has changed, which goes with both.
        self.state.store(state, Ordering::Release);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A device that is nothing but its number, in every word.
    pub(in crate::table) fn numbered(number: u32) -> Device {
        let v6 = (u128::from(number) << 64) | u128::from(number);
        Device {
            registration: RegistrationId(number.into()),
            addresses: Addresses {
                v4: Some(Ipv4Addr::from_bits(number)),
                v6: Some(Ipv6Addr::from_bits(v6)),
            },
            has_subnames: number.is_multiple_of(2),
            has_issuers: number.is_multiple_of(5),
            is_recorded: number.is_multiple_of(3),
            presence: Presence::from_bits(number as u16),
            lead: Lead::from_bits(number as u8, number as u16 | 1),
        }
    }

    #[cfg(not(feature = "loom"))]
    #[test]
    fn what_was_written_is_read_and_each_write_is_a_version() {
        assert_eq!(size_of::<Slot<3>>(), 64);
        let slot = Slot::<3>::new();
        let label = Label::new(b"twenty-four-octets-as-it").unwrap();
        slot.take(&label, 7);
        assert_eq!((slot.read(), slot.version()), (None, 7));
        for addresses in [
            Addresses::default(),
            numbered(1).addresses,
            Addresses {
                v6: None,
                ..numbered(2).addresses
            },
        ] {
            let device = Device {
                addresses,
                ..numbered(3)
            };
            slot.write(Some(&device), 0);
            assert_eq!(slot.read(), Some(device));
        }
        let presence = Presence::new([255, 254]);
        slot.hold(presence);
        let held = Device {
            addresses: Addresses {
                v6: None,
                ..numbered(2).addresses
            },
            presence,
            ..numbered(3)
        };
        assert_eq!(slot.read_with_version(), (Some(held), 10));
        let lead = Lead::from_bits(5, 8443);
        slot.lead(lead);
        let led = Device { lead, ..held };
        assert_eq!(slot.read_with_version(), (Some(led), 10));
        slot.write(None, 0);
        assert_eq!(slot.read_with_version(), (None, 11));
        slot.write(None, 20);
        assert_eq!(slot.read_with_version(), (None, 20));
        assert!(slot.has(&label) && slot.label() == label);
        assert!(!slot.has(&Label::new(b"twenty-four-octets").unwrap()));
        assert_eq!(&*label.octets(), b"twenty-four-octets-as-it");
        assert_eq!(&*Label::<3>::new(b"a").unwrap().octets(), b"a");
        for not_a_label in [&b"twenty-five-octets-as-it-"[..], b"zero\0"] {
            assert_eq!(Label::<3>::new(not_a_label), None);
        }
    }

    /// `cargo test --release -p ddns --features loom --lib loom`
    #[cfg(feature = "loom")]
    fn loom_finds_one_of(written: [Device; 3], write: fn(&Slot<1>, &Device)) {
        use loom::sync::Arc;
        loom::model(move || {
            let slot = Arc::new(Slot::<1>::new());
            slot.take(&Label::new(b"a").unwrap(), 0);
            let [first, _, last] = written;
            slot.write(Some(&first), 0);
            let writer = Arc::clone(&slot);
            let writing = loom::thread::spawn(move || write(&writer, &last));
            let read = slot.read().unwrap();
            assert!(written.contains(&read), "{read:?}");
            writing.join().unwrap();
            assert_eq!(slot.read(), Some(last));
        });
    }

    #[cfg(feature = "loom")]
    #[test]
    fn loom_finds_no_torn_read() {
        let presence = Presence::new([7]);
        let held = Device {
            presence,
            ..numbered(2)
        };
        loom_finds_one_of([numbered(1), numbered(2), held], |slot, held| {
            slot.write(Some(&numbered(2)), 0);
            slot.hold(held.presence);
        });
    }

    #[cfg(feature = "loom")]
    #[test]
    fn loom_finds_no_lead_with_another_port() {
        let led = |bits, port| Device {
            lead: Lead::from_bits(bits, port),
            ..numbered(1)
        };
        // The last changes the port alone.
        loom_finds_one_of([numbered(1), led(7, 443), led(7, 8443)], |slot, last| {
            slot.lead(Lead::from_bits(7, 443));
            slot.lead(last.lead);
        });
    }
}
