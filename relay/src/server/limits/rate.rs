//! How often each address may come: so many a second, and at first as many as in some seconds.
//!
//! Of an address only one number is kept, the moment at which its bucket will be full again (the generic cell rate algorithm,
//! ITU-T I.371 annex A). One whose bucket is full needs none: so whoever has not come for as long as filling takes is
//! forgotten, by two generations of which the older is thrown away as a whole.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::counts::prefix;

/// An address may come at once as often as in so long.
const BURST: Duration = Duration::from_secs(4);

/// Addresses of one generation. With more the older one is thrown away early, and who was in it begins anew: a crowd of
/// addresses is for the bounds in all to keep out.
const MOST: usize = 100_000;

/// The buckets of all addresses.
#[derive(Debug)]
pub(crate) struct RateByAddress(Mutex<Generations>);

#[derive(Debug)]
struct Generations {
    /// When the younger one has begun.
    since: Instant,
    /// When each address's bucket is full, in nanoseconds after `start`.
    younger: HashMap<IpAddr, u64>,
    older: HashMap<IpAddr, u64>,
    start: Instant,
}

impl RateByAddress {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(Generations {
            since: now,
            younger: HashMap::new(),
            older: HashMap::new(),
            start: now,
        }))
    }

    /// Takes one from the bucket of an address that may come `each_second`; `false` if it is empty.
    pub(crate) fn take(&self, from: IpAddr, each_second: u32, now: Instant) -> bool {
        let interval = interval(each_second);
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now_ns = generations.turn(now);
        let full_at = generations.full_at(prefix(from));
        let before = (*full_at).max(now_ns);
        let burst = u64::try_from(BURST.as_nanos()).unwrap_or(u64::MAX);
        let after = before.saturating_add(interval);
        if after - now_ns > burst {
            return false;
        }
        *full_at = after;
        true
    }

    /// Gives one back: who has come was no stranger.
    pub(crate) fn give_back(&self, from: IpAddr, each_second: u32) {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = generations.full_at(prefix(from));
        *full_at = full_at.saturating_sub(interval(each_second));
    }
}

fn interval(each_second: u32) -> u64 {
    1_000_000_000 / u64::from(each_second.max(1))
}

impl Generations {
    /// What time it is, on its own clock; changes the generations if they are old, or many.
    fn turn(&mut self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.since);
        if age >= BURST || self.younger.len() >= MOST {
            self.older = std::mem::take(&mut self.younger);
            if age >= BURST * 2 {
                self.older = HashMap::new();
            }
            self.since = now;
        }
        let since_start = now.saturating_duration_since(self.start).as_nanos();
        u64::try_from(since_start).unwrap_or(u64::MAX)
    }

    fn full_at(&mut self, address: IpAddr) -> &mut u64 {
        let older = &mut self.older;
        let younger = self.younger.entry(address);
        younger.or_insert_with(|| older.remove(&address).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// How many of `tries` at once are let through.
    fn burst(
        rate: &RateByAddress,
        from: &str,
        each_second: u32,
        tries: usize,
        now: Instant,
    ) -> usize {
        let taken = (0..tries).filter(|_| rate.take(ip(from), each_second, now));
        taken.count()
    }

    #[test]
    fn an_address_has_its_burst_and_then_its_rate_whatever_others_do() {
        let start = Instant::now();
        let rate = RateByAddress::new(start);
        assert_eq!(burst(&rate, "192.0.2.1", 100, 1000, start), 400);
        assert_eq!(burst(&rate, "192.0.2.2", 100, 1000, start), 400);
        for second in 1..20 {
            let now = start + Duration::from_secs(second);
            assert_eq!(burst(&rate, "192.0.2.1", 100, 1000, now), 100);
        }
        let rested = start + Duration::from_secs(60);
        assert_eq!(burst(&rate, "192.0.2.1", 100, 1000, rested), 400);
    }

    #[test]
    fn a_site_of_ipv6_is_one_address() {
        let now = Instant::now();
        let rate = RateByAddress::new(now);
        assert_eq!(burst(&rate, "2001:db8::1", 10, 100, now), 40);
        assert_eq!(burst(&rate, "2001:db8:0:ff::2", 10, 100, now), 0);
        assert_eq!(burst(&rate, "2001:db8:0:100::1", 10, 100, now), 40);
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let now = Instant::now();
        let rate = RateByAddress::new(now);
        assert_eq!(burst(&rate, "192.0.2.1", 10, 100, now), 40);
        rate.give_back(ip("192.0.2.1"), 10);
        assert_eq!(burst(&rate, "192.0.2.1", 10, 100, now), 1);
    }

    #[test]
    fn addresses_are_forgotten_and_never_more_than_two_generations_are_kept() {
        let start = Instant::now();
        let rate = RateByAddress::new(start);
        for number in 0..3 * MOST as u32 {
            rate.take(std::net::Ipv4Addr::from(number).into(), 10, start);
        }
        let kept = |rate: &RateByAddress| {
            let generations = rate.0.lock().unwrap();
            generations.younger.len() + generations.older.len()
        };
        assert!(kept(&rate) <= 2 * MOST);
        rate.take(ip("192.0.2.1"), 10, start + BURST * 2);
        assert_eq!(kept(&rate), 1);
    }
}
