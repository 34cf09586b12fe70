//! Those who are served, by when they came: what the newest may still take is foreseen, and where memory is short they are the first
//! who have to leave.
//!
//! ```text
//!   let in ─► of the latest cohort, foreseen ─► SHOWS_AFTER: what it takes is among what is used ─► left, or shed with its cohort
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// Who comes within this of each other is of one cohort.
const COHORT: Duration = Duration::from_millis(100);

/// By then it shows in what the process uses what one takes who has been let in.
const SHOWS_AFTER: Duration = Duration::from_secs(2);

/// Within this those who have been told to leave have left, unless they are kept from it.
const LEAVES_WITHIN: Duration = Duration::from_secs(1);

/// What a visitor may take who reads nothing, in octets: what its stream may have in flight where bulk leaves it, and as much again
/// as that takes beside. One whose bulk stays in the tunnel may take more.
const FORESEEN: usize = 320 * 1024;

/// All who are served; clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Cohorts(Arc<All>);

#[derive(Debug, Default)]
struct All {
    by_number: Mutex<ByNumber>,
    /// How many there are whom it does not show of yet.
    fresh: AtomicUsize,
}

/// The cohorts that have members, and the latest.
#[derive(Debug, Default)]
struct ByNumber {
    latest: u64,
    cohorts: BTreeMap<u64, Cohort>,
    /// Those before have been here for [`SHOWS_AFTER`].
    fresh_from: u64,
    /// When some were told to leave.
    shed_at: Option<Instant>,
}

#[derive(Debug)]
struct Cohort {
    began: Instant,
    members: usize,
    shed: CancellationToken,
}

/// One who is served, until it is dropped.
#[derive(Debug)]
pub(super) struct Member {
    cohort: u64,
    cohorts: Cohorts,
    shed: CancellationToken,
}

impl Cohorts {
    /// One more is let in.
    pub(super) fn join(&self, now: Instant) -> Member {
        let mut all = self.lock();
        let is_open = |cohort: &Cohort| {
            now.saturating_duration_since(cohort.began) < COHORT && !cohort.shed.is_cancelled()
        };
        let latest = all.latest;
        if !all.cohorts.get(&latest).is_some_and(is_open) {
            all.latest += 1;
        }
        let number = all.latest;
        let cohort = all.cohorts.entry(number).or_insert_with(|| Cohort {
            began: now,
            members: 0,
            shed: CancellationToken::new(),
        });
        cohort.members += 1;
        let shed = cohort.shed.clone();
        self.0.fresh.fetch_add(1, Relaxed);
        Member {
            cohort: number,
            cohorts: self.clone(),
            shed,
        }
    }

    /// What those may take of whom it does not show yet, in octets.
    pub(super) fn foreseen(&self) -> u64 {
        octets(self.0.fresh.load(Relaxed))
    }

    /// Of whoever has been here for long enough it shows from now on. To be called several times a second.
    pub(super) fn age(&self, now: Instant) {
        let mut all = self.lock();
        let mut shown = 0;
        let fresh = all.cohorts.range(all.fresh_from..);
        let mut fresh_from = all.latest + 1;
        for (number, cohort) in fresh {
            if now.saturating_duration_since(cohort.began) < SHOWS_AFTER + COHORT {
                fresh_from = *number;
                break;
            }
            shown += cohort.members;
        }
        if fresh_from > all.latest {
            all.latest = fresh_from; // whoever comes next is of a new one
        }
        all.fresh_from = fresh_from;
        self.0.fresh.fetch_sub(shown, Relaxed);
    }

    /// Tells as many of the newest to leave as may have taken this `excess` together, and says how many. Nobody is told while there are
    /// some who are about to leave.
    pub(super) fn shed(&self, excess: u64, now: Instant) -> usize {
        let mut all = self.lock();
        let is_told = |cohort: &Cohort| cohort.shed.is_cancelled();
        let lately = |at| now.saturating_duration_since(at) < LEAVES_WITHIN;
        if all.shed_at.is_some_and(lately) && all.cohorts.values().any(is_told) {
            return 0;
        }
        let mut told = 0;
        for cohort in all.cohorts.values().rev().filter(|cohort| !is_told(cohort)) {
            if octets(told) >= excess {
                break;
            }
            cohort.shed.cancel();
            told += cohort.members;
        }
        all.shed_at = Some(now);
        told
    }

    fn lock(&self) -> MutexGuard<'_, ByNumber> {
        let all = &self.0.by_number;
        all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn octets(visitors: usize) -> u64 {
    u64::try_from(visitors.saturating_mul(FORESEEN)).unwrap_or(u64::MAX)
}

impl Member {
    /// Cancelled once it is to leave, so that there is memory for those who came before.
    pub(super) fn shed(&self) -> &CancellationToken {
        &self.shed
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut all = self.cohorts.lock();
        let is_fresh = self.cohort >= all.fresh_from;
        if let Some(cohort) = all.cohorts.get_mut(&self.cohort) {
            cohort.members -= 1;
            if cohort.members == 0 {
                all.cohorts.remove(&self.cohort);
            }
        }
        if is_fresh {
            self.cohorts.0.fresh.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: u64 = FORESEEN as u64;

    #[test]
    fn who_is_let_in_is_foreseen_until_it_shows_or_leaves() {
        let (cohorts, now) = (Cohorts::default(), Instant::now());
        let first: Vec<_> = (0..3).map(|_| cohorts.join(now)).collect();
        let later = cohorts.join(now + COHORT);
        assert_eq!(cohorts.foreseen(), 4 * ONE);
        cohorts.age(now + SHOWS_AFTER);
        assert_eq!(cohorts.foreseen(), 4 * ONE);
        cohorts.age(now + SHOWS_AFTER + COHORT);
        assert_eq!(cohorts.foreseen(), ONE, "it shows of the first");
        drop(first);
        assert_eq!(
            cohorts.foreseen(),
            ONE,
            "who has shown is not counted twice"
        );
        drop(later);
        assert_eq!(cohorts.foreseen(), 0);
        assert!(cohorts.lock().cohorts.is_empty());
        let last = cohorts.join(now + SHOWS_AFTER);
        cohorts.age(now + 3 * SHOWS_AFTER);
        assert_eq!(cohorts.foreseen(), 0);
        let after = cohorts.join(now + 3 * SHOWS_AFTER);
        assert_eq!(cohorts.foreseen(), ONE);
        drop((last, after));
        assert_eq!(cohorts.foreseen(), 0);
    }

    #[test]
    fn the_newest_leave_first_and_others_only_once_they_have_left() {
        let (cohorts, now) = (Cohorts::default(), Instant::now());
        let oldest = cohorts.join(now);
        let older = [cohorts.join(now + COHORT), cohorts.join(now + COHORT)];
        let newest = cohorts.join(now + 2 * COHORT);
        assert_eq!(cohorts.shed(0, now), 0);
        assert_eq!(cohorts.shed(ONE + 1, now), 3);
        let told = |member: &Member| member.shed().is_cancelled();
        assert!(told(&newest) && older.iter().all(told) && !told(&oldest));
        let next = cohorts.join(now + 2 * COHORT);
        assert!(!told(&next), "it came after they were told");
        assert_eq!(cohorts.shed(ONE, now), 0, "they are about to leave");
        drop(older);
        assert_eq!(
            cohorts.shed(ONE, now + LEAVES_WITHIN),
            1,
            "one does not leave"
        );
        drop(newest);
        assert!(told(&next) && !told(&oldest));
        drop(next);
        assert_eq!(cohorts.shed(u64::MAX, now + LEAVES_WITHIN), 1);
        assert!(told(&oldest));
    }
}
