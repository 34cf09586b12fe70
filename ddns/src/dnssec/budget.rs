//! How many signatures a second are made, so that strangers who ask for what has never been signed do not get the whole processor.
//!
//! What the zone has is finite, and signed once; names that are made up are not. So they have shares of their own, and over TCP,
//! where a client is where it says, another one than over UDP. What stands between the names of the zone (NSEC3) is finite too; but whoever
//! makes names up over UDP can ask for all of it at once, and is to take nothing from those who ask for names.

use std::sync::atomic::{AtomicU64, Ordering};

/// How far at once a share may be used up: what a core does in a few milliseconds.
const AT_ONCE_NS: u64 = 10_000_000;
const SECOND_NS: u64 = 1_000_000_000;
/// What the zone has gets so many times the signatures that made-up names get over one way.
const LASTING: u64 = 4;

/// What is to be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// A set of the zone.
    Lasting,
    /// What stands between two names of the zone, for somebody who asks over UDP for a name that is not there.
    Link,
    /// What is said of one name that a stranger has made up, over UDP.
    PassingUdp,
    /// The same over TCP.
    PassingTcp,
    /// A set of a copy of the zone, which takes its time by itself.
    Copy,
}

impl Share {
    pub(crate) const COUNT: usize = 5;
    pub(crate) const ALL: [Self; Self::COUNT] = [
        Self::Lasting,
        Self::Link,
        Self::PassingUdp,
        Self::PassingTcp,
        Self::Copy,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Lasting => "zone",
            Self::Link => "between_names",
            Self::PassingUdp => "made_up_udp",
            Self::PassingTcp => "made_up_tcp",
            Self::Copy => "copy",
        }
    }
}

/// The shares of all that sign.
#[derive(Debug)]
pub(super) struct Budget {
    lasting: Bucket,
    link: Bucket,
    passing_udp: Bucket,
    passing_tcp: Bucket,
}

impl Budget {
    /// So many signatures of made-up names in a second.
    pub(super) fn new(per_second: u32) -> Self {
        let passing = || Bucket::new(per_second.into());
        Self {
            lasting: Bucket::new(LASTING.saturating_mul(per_second.into())),
            link: passing(),
            passing_udp: passing(),
            passing_tcp: passing(),
        }
    }

    /// Takes one signature out of a share; false if it is used up. `now` is on a clock that only goes on, in nanoseconds.
    pub(super) fn take(&self, share: Share, now: u64) -> bool {
        let bucket = match share {
            Share::Lasting => &self.lasting,
            Share::Link => &self.link,
            Share::PassingUdp => &self.passing_udp,
            Share::PassingTcp => &self.passing_tcp,
            Share::Copy => return true,
        };
        bucket.take(now)
    }
}

/// A share (the generic cell rate algorithm, ITU-T I.371).
#[derive(Debug)]
struct Bucket {
    /// Between two signatures, if they came evenly.
    interval_ns: u64,
    /// When the next one would come then.
    next: AtomicU64,
}

impl Bucket {
    fn new(per_second: u64) -> Self {
        Self {
            interval_ns: SECOND_NS / per_second.max(1),
            next: AtomicU64::new(0),
        }
    }

    fn take(&self, now: u64) -> bool {
        let latest = now.saturating_add(AT_ONCE_NS.max(self.interval_ns));
        let take = |next: u64| {
            let after = next.max(now).saturating_add(self.interval_ns);
            (after <= latest).then_some(after)
        };
        let taken = self
            .next
            .try_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_share_has_its_rate_and_leaves_the_others_alone() {
        let budget = Budget::new(1000);
        let taken_in_a_second = |share, begin: u64| {
            let at = |tick| begin + tick * SECOND_NS / 10_000;
            (0..10_000)
                .filter(|tick| budget.take(share, at(*tick)))
                .count()
        };
        let passing = taken_in_a_second(Share::PassingUdp, 0);
        assert!((1000..=1010).contains(&passing), "{passing}");
        let lasting = taken_in_a_second(Share::Lasting, 0);
        assert!((4000..=4040).contains(&lasting), "{lasting}");
        let links = taken_in_a_second(Share::Link, 0);
        assert!((1000..=1010).contains(&links), "{links}");
        let at_once = (0..100).filter(|_| budget.take(Share::PassingTcp, 5));
        assert_eq!(at_once.count(), 10);
    }

    #[test]
    fn the_slowest_rate_still_signs() {
        let budget = Budget::new(1);
        assert!(budget.take(Share::PassingUdp, 0));
        assert!(!budget.take(Share::PassingUdp, SECOND_NS / 2));
        assert!(budget.take(Share::PassingUdp, SECOND_NS));
    }
}
