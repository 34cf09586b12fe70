//! How often one device may change something: ten times at once, and then at a steady pace (a token bucket, kept as the moment at
//! which it is full again).
//!
//! An update that changes nothing never comes here: a client that says too often where it is costs nothing, and is not
//! punished.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use directory::RegistrationId;

/// Two devices may share a bucket; at 20,000 changes a second, each of another device, that still happens to nobody who notices.
const BUCKETS: usize = 1 << 20;
/// Changes at once: both families of a home that moves, and comes back, and moves again.
const BURST: u32 = 10;
/// So many times more often challenges may change: a certificate needs two changes for each of its names.
const CHALLENGES: u32 = 10;
/// Ticks in a minute; 32 bits of them last for two years, after which nobody is held up until the next start.
const MINUTE: u32 = 3600;

/// What is being changed. Each has a bucket of its own, so that neither holds up the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    Addresses,
    Challenges,
}

/// The buckets of all devices.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Ticks between two changes of addresses at the steady pace; `None` without a limit.
    interval: Option<u32>,
    /// When each bucket is full again, in ticks since `began`.
    full_at: Box<[AtomicU32]>,
    /// With random keys, so that nobody knows whose bucket another's is.
    hash: RandomState,
    began: Instant,
}

impl Pace {
    /// So many changes of addresses a minute, of one device; 0 is without a limit.
    pub(crate) fn new(changes_a_minute: u32, now: Instant) -> Self {
        let interval = MINUTE.checked_div(changes_a_minute);
        let buckets = interval.map_or(0, |_| BUCKETS);
        Self {
            interval,
            full_at: (0..buckets).map(|_| AtomicU32::new(0)).collect(),
            hash: RandomState::new(),
            began: now,
        }
    }

    /// Whether a device may change this now; if so, it has.
    pub(super) fn take(
        &self,
        registration: RegistrationId,
        subject: Subject,
        now: Instant,
    ) -> bool {
        let Some(interval) = self.interval else {
            return true;
        };
        let interval = match subject {
            Subject::Addresses => interval,
            Subject::Challenges => interval.div_ceil(CHALLENGES),
        };
        let elapsed = now.saturating_duration_since(self.began).as_millis();
        let now = (elapsed * u128::from(MINUTE) / 60_000) as u32;
        let at = self.hash.hash_one((registration, subject)) as usize % self.full_at.len();
        let taken = |full_at: u32| {
            let until_full = full_at.saturating_sub(now);
            let after = until_full.saturating_add(interval);
            (after <= interval.saturating_mul(BURST)).then(|| now.saturating_add(after))
        };
        self.full_at[at]
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DEVICE: RegistrationId = RegistrationId(1);

    #[test]
    fn ten_at_once_and_then_one_every_ten_seconds() {
        let began = Instant::now();
        let pace = Pace::new(6, began);
        let mut taken = Vec::new();
        for second in 0..60 {
            let now = began + Duration::from_secs(second);
            while pace.take(DEVICE, Subject::Addresses, now) {
                taken.push(second);
            }
        }
        let steady = [10, 20, 30, 40, 50];
        assert_eq!(taken, [&[0; 10][..], &steady].concat());
    }

    #[test]
    fn neither_devices_nor_subjects_hold_up_each_other() {
        let now = Instant::now();
        let pace = Pace::new(6, now);
        while pace.take(DEVICE, Subject::Addresses, now) {}
        assert!(pace.take(RegistrationId(2), Subject::Addresses, now));
        assert!(pace.take(DEVICE, Subject::Challenges, now));
        let later = now + Duration::from_secs(1);
        while pace.take(DEVICE, Subject::Challenges, now) {}
        assert!(pace.take(DEVICE, Subject::Challenges, later));
        assert!(!pace.take(DEVICE, Subject::Addresses, later));
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let now = Instant::now();
        let pace = Pace::new(0, now);
        assert!((0..1000).all(|_| pace.take(DEVICE, Subject::Addresses, now)));
    }
}
