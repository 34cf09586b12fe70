//! How fast the visitors of one device move their bytes, all together: a bucket that fills at the device's rate, and a line
//! before it.
//!
//! Whoever wants to move something gets a grant, small and in turn. Turns go round by address, and at each address by connection:
//! a hundred connections of one address have no more than the one of another. Who wants more joins the line again at its end, so
//! that a visitor with one page waits for at most one grant of each other address where much is moved.
//!
//! ```text
//!   visitor ─► its address ─► line ─► first, and the bucket is not empty ─► a grant ─► what was not used goes back
//! ```
//!
//! Without a limit there is no line, and a portion costs one look at one number.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker, ready};
use std::time::{Duration, Instant};

use tokio::time::sleep_until;

/// A grant is what the rate gives in so long …
const GRANT_TIME: Duration = Duration::from_millis(10);

/// … but not less, since each costs a few system calls …
const LEAST_GRANT: u64 = 4 * 1024;

/// … nor more than a pipe is sure to have room for.
const MOST_GRANT: u64 = 256 * 1024;

/// What a device that has rested may move at once is what its rate gives in so long.
const BURST_TIME: Duration = Duration::from_millis(100);

/// The pace of one device.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Octets a second; 0: no limit.
    rate: AtomicU64,
    line: Mutex<Line>,
}

impl Pace {
    /// For `rate` octets a second, 0 being no limit.
    pub(crate) fn new(rate: u64, now: Instant) -> Self {
        Self {
            rate: rate.into(),
            line: Mutex::new(Line::new(now)),
        }
    }

    /// Whether there is a limit now.
    pub(crate) fn is_limited(&self) -> bool {
        self.rate.load(Relaxed) != 0
    }

    /// Changes the rate, for those who are in line as well. 0 is no limit.
    pub(crate) fn set(&self, rate: u64, now: Instant) {
        let mut line = self.lock();
        if self.rate.swap(rate, Relaxed) == rate {
            return;
        }
        line.bucket = Bucket { octets: 0, at: now }; // what was owed at the old rate could take long at the new one
        for (_, waker) in line.turns.iter().flat_map(|turn| &turn.waiting) {
            waker.wake_by_ref(); // each sees what is true now
        }
    }

    /// Waits for a grant to move at most `wanted` octets for a visitor of `address`, and says how many. What is not moved is to
    /// be [given back](Self::give_back).
    pub(crate) async fn grant(&self, address: IpAddr, wanted: usize) -> usize {
        let mut place = Place {
            pace: self,
            address,
            number: None,
        };
        let mut clock = pin!(sleep_until(tokio::time::Instant::now()));
        // Woken by the clock, by whoever was before in line, or because the rate has changed: what is true then is asked anew.
        poll_fn(|cx| {
            loop {
                match place.ask(cx.waker(), wanted) {
                    Asked::Granted(octets) => return Poll::Ready(octets),
                    Asked::Behind => return Poll::Pending,
                    Asked::At(when) => {
                        clock.as_mut().reset(when.into());
                        ready!(clock.as_mut().poll(cx));
                    }
                }
            }
        })
        .await
    }

    /// Whether so many octets may be moved now, and counts them if so: for what is lost otherwise, because nobody waits for it.
    /// Who waits in line has its turn all the same, as soon as the bucket has been filled for it.
    pub(crate) fn may_pass(&self, octets: usize) -> bool {
        if !self.is_limited() {
            return true;
        }
        let mut line = self.lock();
        let rate = self.rate.load(Relaxed);
        line.bucket.fill(rate, Instant::now());
        let may = rate == 0 || line.bucket.octets > 0;
        if may && rate != 0 {
            line.bucket.octets -= octets as i64;
        }
        may
    }

    /// So many octets of a grant were not moved.
    pub(crate) fn give_back(&self, octets: usize) {
        let rate = self.rate.load(Relaxed);
        if octets > 0 && rate != 0 {
            let mut line = self.lock();
            line.bucket.give(octets as u64, rate);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pace of a device, for a visitor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paced<'a> {
    pub(crate) pace: &'a Pace,
    /// With whom the visitor shares its turns: whatever counts as one address.
    pub(crate) address: IpAddr,
}

/// Who waits in it, or asks for the first time. Whoever leaves makes room for the next.
struct Place<'a> {
    pace: &'a Pace,
    address: IpAddr,
    number: Option<u64>,
}

impl Place<'_> {
    fn ask(&mut self, waker: &Waker, wanted: usize) -> Asked {
        let mut line = self.pace.lock();
        let rate = self.pace.rate.load(Relaxed);
        let asks = (self.address, &mut self.number);
        line.ask(asks, waker, rate, wanted, Instant::now())
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.pace.lock().leave(self.address, number);
        }
    }
}

/// What somebody who asks is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// So many octets may be moved.
    Granted(usize),
    /// The bucket is empty until then; nobody is before.
    At(Instant),
    /// Others are before.
    Behind,
}

/// The bucket, and who waits for what comes into it.
#[derive(Debug)]
struct Line {
    bucket: Bucket,
    /// Each address once; the first of the first is the first.
    turns: VecDeque<Waiting>,
    last_number: u64,
}

/// Those of one address who wait, of whom there is at least one.
#[derive(Debug)]
struct Waiting {
    address: IpAddr,
    waiting: VecDeque<(u64, Waker)>,
}

impl Line {
    fn new(now: Instant) -> Self {
        Self {
            bucket: Bucket { octets: 0, at: now },
            turns: VecDeque::new(),
            last_number: 0,
        }
    }

    /// The one of an address with `number` asks, who gets one if there is none yet.
    fn ask(
        &mut self,
        (address, number): (IpAddr, &mut Option<u64>),
        waker: &Waker,
        rate: u64,
        wanted: usize,
        now: Instant,
    ) -> Asked {
        if rate == 0 {
            return Asked::Granted(wanted); // and leaves
        }
        self.bucket.fill(rate, now);
        let first = match (self.first(), *number) {
            (None, _) => true,
            (Some((first, _)), Some(number)) => *first == number,
            (Some(_), None) => false,
        };
        if first && self.bucket.octets > 0 {
            let granted = wanted.min(usize::try_from(grant(rate)).unwrap_or(usize::MAX));
            self.bucket.octets -= granted as i64;
            return Asked::Granted(granted);
        }
        self.stand(address, number, waker);
        match first {
            true => Asked::At(now + self.bucket.until_filled(rate)),
            false => Asked::Behind,
        }
    }

    fn first(&self) -> Option<&(u64, Waker)> {
        self.turns.front()?.waiting.front()
    }

    /// In line, at the end of those of its address if not there yet.
    fn stand(&mut self, address: IpAddr, number: &mut Option<u64>, waker: &Waker) {
        let turn = self.turns.iter_mut().find(|turn| turn.address == address);
        let Some(number) = *number else {
            self.last_number += 1;
            *number = Some(self.last_number);
            let place = (self.last_number, waker.clone());
            match turn {
                Some(turn) => turn.waiting.push_back(place),
                None => self.turns.push_back(Waiting {
                    address,
                    waiting: VecDeque::from([place]),
                }),
            }
            return;
        };
        let mut places = turn.into_iter().flat_map(|turn| &mut turn.waiting);
        if let Some((_, kept)) = places.find(|(of, _)| *of == number) {
            kept.clone_from(waker);
        }
    }

    /// If it was the first, its address has had its turn, and the first of the next is told.
    fn leave(&mut self, address: IpAddr, number: u64) {
        let was_first = self.first().is_some_and(|(first, _)| *first == number);
        let mut turns = self.turns.iter();
        let Some(at) = turns.position(|turn| turn.address == address) else {
            return;
        };
        let waiting = &mut self.turns[at].waiting;
        waiting.retain(|(of, _)| *of != number);
        if waiting.is_empty() {
            self.turns.remove(at);
        } else if was_first {
            self.turns.rotate_left(1);
        }
        if was_first && let Some((_, next)) = self.first() {
            next.wake_by_ref();
        }
    }
}

fn grant(rate: u64) -> u64 {
    part(rate, GRANT_TIME).clamp(LEAST_GRANT, MOST_GRANT)
}

fn burst(rate: u64) -> u64 {
    part(rate, BURST_TIME).max(LEAST_GRANT)
}

fn part(rate: u64, time: Duration) -> u64 {
    rate / u64::try_from(Duration::from_secs(1).as_nanos() / time.as_nanos()).unwrap_or(1)
}

/// Octets that may be moved. Less than none while a grant is being paid off.
#[derive(Debug)]
struct Bucket {
    octets: i64,
    /// Up to when it has been filled.
    at: Instant,
}

impl Bucket {
    fn fill(&mut self, rate: u64, now: Instant) {
        if rate == 0 {
            self.at = now;
            return;
        }
        let elapsed = now.saturating_duration_since(self.at);
        if elapsed >= Duration::from_secs(1) {
            self.at = now;
            // A second pays off more than any debt and fills more than there is room for.
            self.octets = i64::try_from(burst(rate)).unwrap_or(i64::MAX);
            return;
        }
        let gained = elapsed.as_nanos() * u128::from(rate) / 1_000_000_000;
        let gained = u64::try_from(gained).unwrap_or(u64::MAX);
        if gained > 0 {
            // The rest of an octet is not lost: its time is counted again.
            self.at += time_of(gained, rate);
            self.give(gained, rate);
        }
    }

    fn give(&mut self, octets: u64, rate: u64) {
        let octets = i64::try_from(octets).unwrap_or(i64::MAX);
        let most = i64::try_from(burst(rate)).unwrap_or(i64::MAX);
        self.octets = self.octets.saturating_add(octets).min(most);
    }

    /// How long until there is something in it.
    fn until_filled(&self, rate: u64) -> Duration {
        let missing = u64::try_from(1_i64.saturating_sub(self.octets)).unwrap_or(0);
        time_of(missing, rate)
    }
}

/// How long it takes to gain so much.
fn time_of(octets: u64, rate: u64) -> Duration {
    let nanos = u128::from(octets) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 1_000_000;

    fn address(number: u8) -> IpAddr {
        [192, 0, 2, number].into()
    }

    /// Visitors of one device, each with so much to move, who ask as the pump does.
    struct World {
        line: Line,
        now: Instant,
        /// What each still wants to move, and has moved.
        visitors: Vec<(usize, usize)>,
        places: Vec<(IpAddr, Option<u64>)>,
    }

    impl World {
        /// Each has an address of its own.
        fn new(visitors: &[usize]) -> Self {
            let now = Instant::now();
            let mut world = Self {
                line: Line::new(now),
                now,
                visitors: Vec::new(),
                places: Vec::new(),
            };
            for (number, wants) in visitors.iter().enumerate() {
                world.comes(address(number as u8), *wants);
            }
            world
        }

        fn comes(&mut self, from: IpAddr, wants: usize) -> usize {
            self.visitors.push((wants, 0));
            self.places.push((from, None));
            self.visitors.len() - 1
        }

        /// Everybody asks once in each millisecond, in an order that is not the line's. Says in which order they were granted.
        fn run(&mut self, time: Duration, rate: u64) -> Vec<usize> {
            let mut granted = Vec::new();
            let end = self.now + time;
            while self.now < end {
                let mut moved = true;
                while std::mem::take(&mut moved) {
                    for visitor in (0..self.visitors.len()).rev() {
                        let (wants, has) = &mut self.visitors[visitor];
                        let (from, place) = &mut self.places[visitor];
                        if *wants == 0 {
                            continue;
                        }
                        let asks = (*from, &mut *place);
                        let asked = self.line.ask(asks, Waker::noop(), rate, *wants, self.now);
                        if let Asked::Granted(octets) = asked {
                            (*wants, *has) = (*wants - octets, *has + octets);
                            if let Some(number) = place.take() {
                                self.line.leave(*from, number);
                            }
                            granted.push(visitor);
                            moved = true;
                        }
                    }
                }
                self.now += Duration::from_millis(1);
            }
            granted
        }
    }

    #[test]
    fn a_device_moves_what_its_rate_gives_and_its_visitors_have_equal_parts() {
        for rate in [LEAST_GRANT * 4, 100_000, RATE, 1_000_000_000] {
            let mut world = World::new(&[usize::MAX / 2; 3]);
            world.run(Duration::from_secs(10), rate);
            let parts: Vec<_> = world.visitors.iter().map(|(_, has)| *has as u64).collect();
            let all: u64 = parts.iter().sum();
            let expected = rate * 10;
            assert!(
                all.abs_diff(expected) < expected / 20 + MOST_GRANT,
                "{rate}: {all}"
            );
            let (least, most) = (parts.iter().min().unwrap(), parts.iter().max().unwrap());
            assert!(most - least <= grant(rate), "{rate}: {parts:?}");
        }
    }

    #[test]
    fn one_page_waits_for_at_most_one_grant_of_each_who_moves_much() {
        let mut world = World::new(&[usize::MAX / 2; 20]);
        world.run(Duration::from_secs(1), RATE);
        let page = world.comes(address(20), 1000);
        let granted = world.run(Duration::from_secs(1), RATE);
        let before = granted.iter().position(|visitor| *visitor == page).unwrap();
        assert!(before <= 20, "{before}");
        let mut each: Vec<_> = granted[..before].to_vec();
        each.sort_unstable();
        each.dedup();
        assert_eq!(each.len(), before, "nobody twice before the page");
    }

    #[test]
    fn a_hundred_connections_of_one_address_have_as_much_as_one_of_another() {
        let mut world = World::new(&[usize::MAX / 2]);
        for _ in 0..100 {
            world.comes(address(1), usize::MAX / 2);
        }
        world.run(Duration::from_secs(20), RATE);
        let parts: Vec<_> = world.visitors.iter().map(|(_, has)| *has as u64).collect();
        let (alone, crowd) = (parts[0], parts[1..].iter().sum::<u64>());
        assert!(alone.abs_diff(crowd) <= grant(RATE), "{alone} {crowd}");
        let (least, most) = (parts[1..].iter().min(), parts[1..].iter().max());
        assert!(most.unwrap() - least.unwrap() <= grant(RATE), "{parts:?}");

        // A page of a third waits for one grant of each of the two.
        let page = world.comes(address(2), 1000);
        let granted = world.run(Duration::from_secs(1), RATE);
        let before = granted.iter().position(|visitor| *visitor == page).unwrap();
        assert!(before <= 2, "{before}");
    }

    #[test]
    fn what_is_asked_for_little_by_little_loses_nothing_and_rest_gives_no_more_than_a_burst() {
        let start = Instant::now();
        let mut bucket = Bucket {
            octets: 0,
            at: start,
        };
        // Each look is a tenth of an octet's time after the last.
        for look in 0..100_000_u32 {
            bucket.fill(RATE, start + Duration::from_nanos(100) * look);
        }
        assert!(
            (9990..=10_000).contains(&bucket.octets),
            "{}",
            bucket.octets
        );
        bucket.fill(RATE, start + Duration::from_secs(3600));
        assert_eq!(bucket.octets, 100_000);
        bucket.octets = -4096;
        assert_eq!(bucket.until_filled(RATE), Duration::from_micros(4097));
    }

    #[test]
    fn what_nobody_waits_for_passes_as_long_as_there_is_something_in_the_bucket() {
        // A millisecond gives a thousandth of an octet, so that the test's own time gives nothing.
        let pace = Pace::new(1, Instant::now() - Duration::from_secs(10));
        assert!(
            pace.may_pass(3 * LEAST_GRANT as usize),
            "the burst, and a debt"
        );
        assert!(!pace.may_pass(1));
        pace.set(0, Instant::now());
        assert!(pace.may_pass(usize::MAX) && pace.may_pass(usize::MAX));
    }

    #[test]
    fn without_a_limit_everything_is_granted_at_once() {
        let pace = Pace::new(0, Instant::now());
        assert!(!pace.is_limited());
        let mut world = World::new(&[usize::MAX / 2]);
        assert_eq!(world.run(Duration::from_millis(1), 0), [0]);
        pace.set(RATE, Instant::now());
        assert!(pace.is_limited());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_hears_of_a_new_rate_and_who_leaves_holds_up_nobody() {
        let pace = std::sync::Arc::new(Pace::new(LEAST_GRANT, Instant::now()));
        // In debt for long, and somebody behind who is first when this one leaves.
        let mut first = Box::pin(pace.grant(address(1), 1_000_000));
        let mut second = Box::pin(pace.grant(address(1), 1_000_000));
        poll_fn(|cx| {
            assert!(first.as_mut().poll(cx).is_pending());
            assert!(second.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        drop(first);
        let other = std::sync::Arc::clone(&pace);
        let freed = tokio::spawn(async move { other.set(0, Instant::now()) });
        assert_eq!(second.await, 1_000_000);
        freed.await.unwrap();
        assert_eq!(pace.lock().turns.len(), 0);
    }
}
