//! What is refused although it is well said: a snapshot or a run of changes that would take away most of what is known. Control may
//! have lost its database, or somebody may speak in its name; the devices' owners had better stay reachable.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use following::Refusal;

/// With fewer known devices than this, few is no sign of anything.
const MANY: usize = 10;

/// So many times as many as are known is too many.
const GROWTH: u64 = 10;

/// More devices than these are not read where nothing is known to compare with.
pub(super) const MOST_DEVICES: u64 = 5_000_000;

/// So many may be removed within [`WINDOW`] in any case, and so many hundredths of all.
const REMOVALS: usize = 64;
const REMOVALS_PERCENT: usize = 20;

/// How long a removal counts.
const WINDOW: Duration = Duration::from_secs(10 * 60);

/// The most devices that a snapshot may have where `known` are known. The operator may have accepted whatever comes.
pub(super) fn most_devices(known: usize, accepted: bool) -> u64 {
    if known < MANY || accepted {
        return MOST_DEVICES.max(known as u64);
    }
    known as u64 * GROWTH
}

/// Whether a snapshot of `devices` devices, among them `kept` of the `known` ones, may replace what is known.
pub(super) fn judge_snapshot(known: usize, kept: usize, devices: usize) -> Result<(), Refusal> {
    if known > 0 && devices == 0 {
        return Err(Refusal::Empty);
    }
    if known >= MANY && kept < known.div_ceil(2) {
        return Err(Refusal::Loss);
    }
    if devices as u64 > most_devices(known, false) {
        return Err(Refusal::Growth);
    }
    Ok(())
}

/// Removals of the last minutes.
#[derive(Debug, Default)]
pub(super) struct Removals {
    times: VecDeque<Instant>,
    /// Until the operator accepts them, control can but repeat what was refused: time alone does not make it good.
    refused_at: Option<Instant>,
}

impl Removals {
    /// Whether another of `known` devices may be removed now.
    pub(super) fn take(&mut self, known: usize, now: Instant) -> Result<(), Refusal> {
        let is_over = |at: &Instant| now.saturating_duration_since(*at) >= WINDOW;
        while self.times.front().is_some_and(is_over) {
            self.times.pop_front();
        }
        let before = known + self.times.len();
        let most = REMOVALS.max(before * REMOVALS_PERCENT / 100);
        let was_refused = self.refused_at.is_some_and(|at| !is_over(&at));
        if was_refused || self.times.len() >= most {
            self.refused_at = Some(now);
            return Err(Refusal::Removals);
        }
        self.times.push_back(now);
        Ok(())
    }

    /// A snapshot has been taken: what was before it does not count any more.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_that_would_take_most_away_is_refused() {
        for (known, kept, devices, judged) in [
            (0, 0, 0, Ok(())),
            (0, 0, 1_000_000, Ok(())),
            (1, 0, 0, Err(Refusal::Empty)),
            (9, 0, 1, Ok(())),
            (10, 5, 5, Ok(())),
            (10, 4, 4, Err(Refusal::Loss)),
            // As many as before, and all of them others.
            (100, 0, 100, Err(Refusal::Loss)),
            (101, 50, 101, Err(Refusal::Loss)),
            (101, 51, 51, Ok(())),
            (10, 10, 100, Ok(())),
            (10, 10, 101, Err(Refusal::Growth)),
        ] {
            assert_eq!(
                judge_snapshot(known, kept, devices),
                judged,
                "{known} {kept} {devices}"
            );
        }
        assert_eq!(most_devices(9, false), MOST_DEVICES);
        assert_eq!(most_devices(10, false), 100);
        assert_eq!(most_devices(10, true), MOST_DEVICES);
    }

    #[test]
    fn few_removals_pass_and_a_run_of_them_stays_refused_while_it_is_repeated() {
        let mut removals = Removals::default();
        let start = Instant::now();
        let mut known = 100;
        for _ in 0..REMOVALS {
            assert_eq!(removals.take(known, start), Ok(()));
            known -= 1;
        }
        let mut now = start;
        for _ in 0..5 {
            assert_eq!(removals.take(known, now), Err(Refusal::Removals));
            now += WINDOW / 2;
        }
        removals.reset();
        assert_eq!(removals.take(known, now), Ok(()));
    }

    #[test]
    fn a_fifth_of_many_may_go_and_more_after_a_while() {
        let mut removals = Removals::default();
        let start = Instant::now();
        let mut known = 1000;
        for _ in 0..200 {
            assert_eq!(removals.take(known, start), Ok(()));
            known -= 1;
        }
        let mut later = removals;
        assert_eq!(later.take(known, start + WINDOW), Ok(()));
        assert_eq!(later.times.len(), 1);
    }
}
