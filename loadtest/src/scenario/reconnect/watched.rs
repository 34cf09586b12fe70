//! How a bystander fares, moment by moment: an average over a storm would hide that it stood still for a second.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::scenario::TICK;
use crate::scenario::bystander::{Bystander, Counts};

/// In so many ticks a bystander at a fixed rate has much the same, whenever they are.
const SECOND: usize = 10;

/// What stood on its counters when.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    octets: u64,
    answers: u64,
}

/// A bystander who is looked at.
pub(super) struct Watched {
    samples: Arc<Mutex<Vec<Sample>>>,
    counts: Counts,
    _looking: AbortOnDropHandle<()>,
}

/// How it fared, each in so many a second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fared {
    pub(super) bytes: f64,
    pub(super) answers: f64,
    /// Octets in its worst second; all of it, if it was no longer.
    pub(super) worst_second: f64,
}

impl Watched {
    pub(super) fn over(bystander: &Bystander) -> Self {
        let samples = Arc::new(Mutex::new(Vec::new()));
        let (counts, kept) = (bystander.counts(), Arc::clone(&samples));
        let looked = counts.clone();
        let looking = tokio::spawn(async move {
            let mut ticks = interval(TICK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                lock(&kept).push(Sample::take(&looked));
            }
        });
        Self {
            samples,
            counts,
            _looking: AbortOnDropHandle::new(looking),
        }
    }

    /// From now on for so long.
    pub(super) async fn during(&self, length: Duration) -> Fared {
        let begun = Instant::now();
        sleep(length).await;
        self.since(begun)
    }

    /// From then until now.
    pub(super) fn since(&self, begun: Instant) -> Fared {
        let mut samples = lock(&self.samples).clone();
        samples.push(Sample::take(&self.counts));
        let first = samples.partition_point(|sample| sample.at < begun);
        fared(&samples[first.saturating_sub(1)..])
    }

    /// Waits until something has come for it that it had not now.
    pub(super) async fn until_served(&self, most: Duration) {
        let (now, begun) = (Sample::take(&self.counts), Instant::now());
        loop {
            let then = Sample::take(&self.counts);
            let is_served = then.octets > now.octets && then.answers > now.answers;
            if is_served || begun.elapsed() > most {
                return;
            }
            sleep(TICK).await;
        }
    }
}

impl Sample {
    fn take(counts: &Counts) -> Self {
        Self {
            at: Instant::now(),
            octets: counts.octets(),
            answers: counts.answers(),
        }
    }
}

fn fared(samples: &[Sample]) -> Fared {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
        return Fared::default();
    };
    let rate = |from: &Sample, to: &Sample, count: fn(&Sample) -> u64| {
        let seconds = (to.at - from.at).as_secs_f64().max(f64::EPSILON);
        count(to).saturating_sub(count(from)) as f64 / seconds
    };
    let octets = |sample: &Sample| sample.octets;
    let seconds = samples.windows(SECOND + 1);
    let seconds = seconds.filter_map(|second| Some(rate(second.first()?, second.last()?, octets)));
    Fared {
        bytes: rate(first, last, octets),
        answers: rate(first, last, |sample| sample.answers),
        worst_second: seconds
            .reduce(f64::min)
            .unwrap_or_else(|| rate(first, last, octets)),
    }
}

fn lock(samples: &Mutex<Vec<Sample>>) -> MutexGuard<'_, Vec<Sample>> {
    samples.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_without_anything_shows_although_it_is_made_up_for() {
        let begun = Instant::now();
        let sample = |tick: u32, octets: u64| Sample {
            at: begun + TICK * tick,
            octets,
            answers: u64::from(tick),
        };
        let mut samples: Vec<_> = (0..=10).map(|tick| sample(tick, 100)).collect();
        samples.extend((11..=40).map(|tick| sample(tick, 100 + u64::from(tick) * 10)));
        let fared = fared(&samples);
        assert!((fared.bytes - 100.0).abs() < 0.1, "{fared:?}");
        assert!((fared.answers - 10.0).abs() < 0.1, "{fared:?}");
        assert_eq!(fared.worst_second, 0.0);
        assert_eq!(super::fared(&[]).bytes, 0.0);
    }
}
