//! How often the same may be said in the log, where a relay or a visitor decides how often it happens: the disk is the owner's. Counters and
//! `causeway-agent status` tell it all the same.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So many lines at once: what goes wrong for a while is told in full.
const BURST: u32 = 10;

/// After those, a line in so long.
const PAUSE: Duration = Duration::from_secs(10);

/// Between the moment when one line may be written again and that when [`BURST`] may.
const REST: Duration = PAUSE.saturating_mul(BURST - 1);

/// How often one kind of line has been written.
#[derive(Debug, Default)]
pub(super) struct LogRate(Mutex<Written>);

#[derive(Debug, Default)]
struct Written {
    /// When [`BURST`] lines may be written again (the generic cell rate algorithm, ITU-T I.371 annex A).
    rested_at: Option<Instant>,
    left_out: u64,
}

/// The right to write a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// How many of its kind have been left out since the one before.
    pub(super) left_out: Option<NonZeroU64>,
}

impl LogRate {
    /// The right to write one line now, if it is not to be left out.
    pub(super) fn line(&self, now: Instant) -> Option<Line> {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rested_at = written.rested_at.map_or(now, |at| at.max(now));
        if rested_at.duration_since(now) > REST {
            written.left_out = written.left_out.saturating_add(1);
            return None;
        }
        written.rested_at = Some(rested_at + PAUSE);
        let left_out = NonZeroU64::new(std::mem::take(&mut written.left_out));
        Some(Line { left_out })
    }

    /// From when on a line may be written.
    pub(super) fn may_again_at(&self, now: Instant) -> Instant {
        let written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = written.rested_at.map(|at| at.duration_since(now));
        now + rest.unwrap_or_default().saturating_sub(REST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_lines_and_then_one_now_and_then_with_the_count_of_the_others() {
        let (rate, start) = (LogRate::default(), Instant::now());
        let written = (0..1000).filter(|_| rate.line(start).is_some()).count();
        assert_eq!(written, BURST as usize);
        assert_eq!(rate.may_again_at(start), start + PAUSE);
        let later = start + PAUSE;
        let left_out = NonZeroU64::new(1000 - u64::from(BURST));
        assert_eq!(rate.line(later), Some(Line { left_out }));
        assert_eq!(rate.line(later), None);
        let rested = later + 2 * PAUSE * BURST;
        assert_eq!(rate.may_again_at(rested), rested);
        let left_out = NonZeroU64::new(1);
        assert_eq!(rate.line(rested), Some(Line { left_out }));
        let again = (0..1000).filter(|_| rate.line(rested).is_some()).count();
        assert_eq!(again + 1, BURST as usize);
    }
}
