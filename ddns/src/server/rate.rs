//! How many answers a network gets over UDP, where anybody can ask in another's name ("response rate limiting").
//!
//! Each network (the /24 of an IPv4 address, the /56 of an IPv6 one) has an account for each [`Class`] of answer: a flood
//! of names that do not exist does not take the names that do from a resolver. Which name was asked for does not count: a
//! device has any number of names, and each would be a budget of its own.
//!
//! An account is a point in time, up to which its answers are spent: it moves on by 1/rate for each query and is never
//! behind now.
//!
//! ```text
//!     now        now + 1 s                     now + 16 s
//!  ────┼─ spent ─────┼────────── over ────────────┼──── goes no further
//!      │ a second's  │ limited, and yet counted:  │
//!      │ worth of    │ who goes on asking too     │
//!      │ answers     │ much gets none in full     │
//! ```
//!
//! All threads share the accounts, since the kernel deals one network's queries out among them. There is a fixed number
//! of places, found by a keyed hash; each account has two of them in one cache line and is over only if both are, so that
//! it seldom suffers from another's.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use siphasher::sip::SipHasher13;

use crate::cookie::{Secret, SecretError};
use crate::server::Kind;

const SECOND: u64 = 1_000_000_000;
/// So much may be asked for at once. A resolver that starts with an empty memory asks like that.
const BURST: u64 = SECOND;
/// The longest that a network waits for full answers after a flood has ended.
const DEBT: u64 = 15 * SECOND;

/// 8192 lines of 64 octets are half a mebibyte, which stays in a core's cache.
const LINES: usize = 8192;
const PLACES: usize = 8;

/// What an answer is, as far as its account is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Records.
    Positive,
    /// No such name or record.
    Negative,
    /// A refusal.
    Error,
}

impl Class {
    pub(crate) fn of(kind: Kind) -> Self {
        match kind {
            Kind::NoError => Self::Positive,
            Kind::NoData | Kind::NxDomain => Self::Negative,
            Kind::FormErr
            | Kind::NotImp
            | Kind::Refused
            | Kind::BadVers
            | Kind::BadCookie
            | Kind::ServFail
            | Kind::YxDomain
            | Kind::YxRrset
            | Kind::NxRrset
            | Kind::NotAuth
            | Kind::NotZone => Self::Error,
        }
    }
}

/// The accounts of all networks.
#[derive(Debug)]
pub struct Limiter {
    /// Nanoseconds that one answer costs.
    cost: u64,
    slip: u32,
    hasher: SipHasher13,
    lines: Box<[Line]>,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([AtomicU64; PLACES]);

impl Limiter {
    /// `None` without a limit (`per_second` is 0). One of `slip` limited queries gets a short answer; none if it is 0.
    ///
    /// # Errors
    /// If the system has no random octets.
    pub(crate) fn new(per_second: u32, slip: u32) -> Result<Option<Self>, SecretError> {
        let Some(cost) = SECOND.checked_div(per_second.into()) else {
            return Ok(None);
        };
        Ok(Some(Self {
            cost,
            slip,
            hasher: SipHasher13::new_with_key(Secret::random()?.reveal()),
            lines: (0..LINES).map(|_| Line::default()).collect(),
        }))
    }

    /// Takes one answer from the account of `client`'s network, and says whether that was too much. `now` is in
    /// nanoseconds.
    pub(crate) fn is_over(&self, client: IpAddr, class: Class, now: u64) -> bool {
        let hash = self.hasher.hash(&key(client, class));
        let (line, first, second) = places(hash);
        let Line(places) = &self.lines[line];
        // Both are charged in any case.
        let first = self.charge(&places[first], now);
        let second = self.charge(&places[second], now);
        first && second
    }

    /// Whether the `count`-th limited query of a thread gets a short answer.
    pub(crate) fn slips(&self, count: u32) -> bool {
        count.checked_rem(self.slip) == Some(0)
    }

    /// No order is needed between places: each is a number by itself.
    fn charge(&self, spent_until: &AtomicU64, now: u64) -> bool {
        let spent = spent_until.load(Ordering::Relaxed);
        if spent >= now + BURST + DEBT {
            // Under a long flood nothing is written, and threads do not fight for the line.
            return true;
        }
        if spent < now {
            let fresh = now + self.cost;
            let exchanged =
                spent_until.compare_exchange(spent, fresh, Ordering::Relaxed, Ordering::Relaxed);
            if exchanged.is_ok() {
                return false;
            }
        }
        spent_until.fetch_add(self.cost, Ordering::Relaxed) + self.cost > now + BURST
    }
}

/// The network of `client`, and the class.
fn key(client: IpAddr, class: Class) -> [u8; 9] {
    match client.to_canonical() {
        IpAddr::V4(v4) => {
            let [o0, o1, o2, _] = v4.octets();
            [4, class as u8, o0, o1, o2, 0, 0, 0, 0]
        }
        IpAddr::V6(v6) => {
            let [o0, o1, o2, o3, o4, o5, o6, ..] = v6.octets();
            [6, class as u8, o0, o1, o2, o3, o4, o5, o6]
        }
    }
}

/// A line, and two different places in it.
fn places(hash: u64) -> (usize, usize, usize) {
    let [b0, b1, b2, b3, ..] = hash.to_le_bytes();
    let line = usize::from(u16::from_le_bytes([b0, b1])) % LINES;
    let first = usize::from(b2) % PLACES;
    let second = (first + 1 + usize::from(b3) % (PLACES - 1)) % PLACES;
    (line, first, second)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1000 * SECOND;

    fn limiter(per_second: u32) -> Limiter {
        Limiter::new(per_second, 2).unwrap().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// How many of `queries`, spread evenly over `length`, are answered in full.
    fn answered(limiter: &Limiter, client: &str, from: u64, length: u64, queries: u64) -> u64 {
        let is_over = |i| limiter.is_over(ip(client), Class::Positive, from + length * i / queries);
        (0..queries).filter(|i| !is_over(*i)).count() as u64
    }

    #[test]
    fn at_the_limit_all_is_answered_and_beyond_it_nothing_for_long() {
        let at = limiter(100);
        assert_eq!(answered(&at, "192.0.2.1", NOW, 60 * SECOND, 6000), 6000);

        // The burst, and what time adds until it is spent.
        let beyond = limiter(100);
        let flood = answered(&beyond, "192.0.2.1", NOW, 60 * SECOND, 60_000);
        assert!((100..=115).contains(&flood), "{flood}");
    }

    #[test]
    fn after_a_flood_answers_come_back_within_its_debt() {
        let limiter = limiter(100);
        answered(&limiter, "192.0.2.1", NOW, 60 * SECOND, 600_000);
        let end = NOW + 60 * SECOND;
        let client = ip("192.0.2.1");
        assert!(limiter.is_over(client, Class::Positive, end + DEBT - SECOND));
        assert!(!limiter.is_over(client, Class::Positive, end + DEBT + SECOND / 10));
    }

    #[test]
    fn networks_and_classes_have_accounts_of_their_own() {
        let limiter = limiter(10);
        let spend = |client, class| {
            let is_over = |_: &u32| limiter.is_over(ip(client), class, NOW);
            (0..100).filter(|i| !is_over(i)).count()
        };
        assert_eq!(spend("192.0.2.1", Class::Positive), 10);
        assert_eq!(spend("192.0.2.255", Class::Positive), 0);
        assert_eq!(spend("::ffff:192.0.2.3", Class::Positive), 0);
        assert_eq!(spend("2001:db8:0:aa01::1", Class::Positive), 10);
        assert_eq!(spend("2001:db8:0:aaff::1", Class::Positive), 0);
        assert_eq!(spend("192.0.2.1", Class::Negative), 10);
        assert_eq!(spend("192.0.2.1", Class::Error), 10);
    }

    #[test]
    fn a_thousand_networks_that_flood_seldom_hurt_another() {
        let limiter = limiter(10);
        for i in 0..1000_u32 {
            let client = IpAddr::from((0x0A00_0000 + (i << 8)).to_be_bytes());
            for _ in 0..200 {
                limiter.is_over(client, Class::Positive, NOW);
            }
        }
        let hurt = (0..10_000_u32)
            .filter(|i| {
                let client = IpAddr::from((0x6400_0000 + (i << 8)).to_be_bytes());
                limiter.is_over(client, Class::Positive, NOW)
            })
            .count();
        assert!(hurt < 200, "{hurt} of 10000");
    }

    #[test]
    fn threads_share_an_account() {
        let limiter = limiter(1000);
        let answered: usize = std::thread::scope(|scope| {
            let spend = || {
                let is_over = |_: &u32| limiter.is_over(ip("192.0.2.1"), Class::Error, NOW);
                (0..5000).filter(|i| !is_over(i)).count()
            };
            let threads = [(); 4].map(|()| scope.spawn(spend));
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        // Two threads may each see one of the two places as not yet spent.
        assert!((1000..=1008).contains(&answered), "{answered}");
    }

    #[test]
    fn every_slip_th_limited_query_slips_and_none_at_zero() {
        let slips = |slip| {
            let limiter = Limiter::new(1, slip).unwrap().unwrap();
            (1..=12).filter(|count| limiter.slips(*count)).count()
        };
        assert_eq!([0, 1, 2, 3].map(slips), [0, 12, 6, 4]);
    }

    #[test]
    fn without_a_rate_there_is_no_limiter() {
        assert!(Limiter::new(0, 2).unwrap().is_none());
    }
}
