//! Who waits for the same authority. It has no clock, and nothing here waits: who asks is told when to come again, and keeps its place if it
//! does.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use directory::RegistrationId;

use super::Limit;

/// A device that wants more within the limit's time is not well, or means no good. Authorities allow as many for the same names.
const MOST_PER_DEVICE: usize = 5;

/// More wait for nothing that comes in their time.
const MOST_WAITING: usize = 200_000;

/// Who waits comes again this often at least, and so shows that it still wants its place.
const COME_AGAIN: Duration = Duration::from_secs(60 * 60);

/// How much later than it was told it may come.
const GRACE: Duration = Duration::from_secs(30 * 60);

/// How often it is looked at who has gone: it takes longer the more wait.
const LOOK: Duration = Duration::from_secs(60);

/// Why somebody orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// To have another before the one that visitors see ends.
    Renewal,
    /// To have one at all.
    First,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// That of the one who asks: it may order once.
    Now,
    /// Somebody else's.
    Later {
        /// So many come before it.
        ahead: usize,
        /// When it is to ask again.
        wait: Duration,
    },
}

/// One that waits.
#[derive(Debug)]
struct Waiting {
    device: RegistrationId,
    /// It has gone if it has not come again by then, in seconds since 1970.
    until: u64,
}

/// In the order of turns: what for, and when it came.
type Place = (Purpose, u64);

/// All who want to order of one authority, and what has been ordered.
#[derive(Debug)]
pub(super) struct Line {
    limit: Limit,
    /// What counts still, the oldest first: when, in seconds since 1970, and by whom if it was a device.
    ordered: VecDeque<(u64, Option<RegistrationId>)>,
    waiting: BTreeMap<Place, Waiting>,
    places: HashMap<RegistrationId, Place>,
    /// How many have come.
    came: u64,
    /// When it was last looked at who has gone, in seconds since 1970.
    looked: u64,
}

impl Line {
    /// `ordered` is what has been ordered before.
    pub(super) fn new(limit: Limit, ordered: Vec<(u64, Option<RegistrationId>)>) -> Self {
        Self {
            limit,
            ordered: ordered.into(),
            waiting: BTreeMap::new(),
            places: HashMap::new(),
            came: 0,
            looked: 0,
        }
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether `device` may order. What it may is counted by [`Self::ordered`].
    pub(super) fn ask(&mut self, device: RegistrationId, purpose: Purpose, now: u64) -> Turn {
        self.forget(now);
        if let Some(wait) = self.too_many_of(device, now) {
            return Turn::Later { ahead: 0, wait };
        }
        let Some(place) = self.place(device, purpose) else {
            let ahead = self.waiting.len();
            return Turn::Later {
                ahead,
                wait: COME_AGAIN,
            };
        };
        let ahead = self.waiting.range(..place).count();
        let free = self.limit.orders.saturating_sub(self.ordered.len());
        if ahead < free {
            self.leave(device);
            return Turn::Now;
        }
        let wait = self.until_free(ahead - free, now).min(COME_AGAIN);
        let until = now.saturating_add((wait + GRACE).as_secs());
        self.waiting.insert(place, Waiting { device, until });
        Turn::Later { ahead, wait }
    }

    /// An order is made, or will be in a moment.
    pub(super) fn ordered(&mut self, by: Option<RegistrationId>, now: u64) {
        self.ordered.push_back((now, by));
    }

    /// It is not made after all.
    pub(super) fn not_ordered(&mut self, by: Option<RegistrationId>, now: u64) {
        let made = self.ordered.iter().rposition(|made| *made == (now, by));
        if let Some(made) = made {
            self.ordered.remove(made);
        }
    }

    /// What is long ago does not count, and who has not come again has gone.
    fn forget(&mut self, now: u64) {
        let counts_from = now.saturating_sub(self.limit.within.as_secs());
        while (self.ordered.front()).is_some_and(|(at, _)| *at <= counts_from) {
            self.ordered.pop_front();
        }
        if now.abs_diff(self.looked) < LOOK.as_secs() {
            return;
        }
        self.looked = now;
        let places = &mut self.places;
        self.waiting.retain(|_, waiting| {
            let is_there = waiting.until >= now;
            if !is_there {
                places.remove(&waiting.device);
            }
            is_there
        });
    }

    /// How long a device that has ordered as often as it may is to wait.
    fn too_many_of(&self, device: RegistrationId, now: u64) -> Option<Duration> {
        let most = MOST_PER_DEVICE.min(self.limit.orders);
        let of_device = self.ordered.iter().rev();
        let mut of_device = of_device.filter(|(_, by)| *by == Some(device));
        let (at, _) = of_device.nth(most - 1)?;
        Some(self.counts_until(*at, now))
    }

    /// Where it stands, at the end if it has just come; `None` if too many do.
    fn place(&mut self, device: RegistrationId, purpose: Purpose) -> Option<Place> {
        match self.places.get(&device) {
            Some(place) if place.0 == purpose => return Some(*place),
            Some(_) => self.leave(device),
            None => {}
        }
        if self.places.len() >= MOST_WAITING {
            return None;
        }
        let place = (purpose, self.came);
        self.came += 1;
        self.places.insert(device, place);
        Some(place)
    }

    fn leave(&mut self, device: RegistrationId) {
        if let Some(place) = self.places.remove(&device) {
            self.waiting.remove(&place);
        }
    }

    /// Until, after `ahead` others, there is room for one, if nobody else comes and all order at once.
    fn until_free(&self, ahead: usize, now: u64) -> Duration {
        let rounds = ahead / self.limit.orders;
        let of_round = self.ordered.get(ahead % self.limit.orders);
        let first = of_round.map_or(self.limit.within, |(at, _)| self.counts_until(*at, now));
        let rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
        first.saturating_add(self.limit.within.saturating_mul(rounds))
    }

    fn counts_until(&self, at: u64, now: u64) -> Duration {
        let end = at.saturating_add(self.limit.within.as_secs());
        Duration::from_secs(end.saturating_sub(now)).max(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 60 * 60;
    const NOW: u64 = 1_800_000_000;

    fn line(orders: usize) -> Line {
        let within = Duration::from_secs(7 * DAY);
        Line::new(Limit { orders, within }, Vec::new())
    }

    /// What is said to a device that has none, and it orders if it may.
    fn ask(line: &mut Line, device: u64, now: u64) -> Turn {
        ask_for(line, device, Purpose::First, now)
    }

    fn ask_for(line: &mut Line, device: u64, purpose: Purpose, now: u64) -> Turn {
        let device = RegistrationId(device);
        let turn = line.ask(device, purpose, now);
        if turn == Turn::Now {
            line.ordered(Some(device), now);
        }
        turn
    }

    fn ahead(turn: Turn) -> usize {
        match turn {
            Turn::Later { ahead, .. } => ahead,
            Turn::Now => panic!("it is its turn"),
        }
    }

    #[test]
    fn so_many_order_at_once_and_the_others_in_the_order_of_coming() {
        let mut line = line(2);
        assert_eq!(ask(&mut line, 1, NOW), Turn::Now);
        assert_eq!(ask(&mut line, 2, NOW + 1), Turn::Now);
        for (device, before) in [(3, 0), (4, 1), (5, 2)] {
            assert_eq!(ahead(ask(&mut line, device, NOW + DAY)), before);
        }
        let hour = Duration::from_secs(3600);
        // Who comes again keeps its place.
        for hours in 1..6 * 24 {
            let now = NOW + DAY + hours * 3600;
            let turns = [5, 4, 3].map(|device| ask(&mut line, device, now));
            assert_eq!(turns.map(ahead), [2, 1, 0]);
            let Turn::Later { wait, .. } = turns[2] else {
                panic!("it is its turn")
            };
            let left = Duration::from_secs(NOW + 7 * DAY - now);
            assert_eq!(wait, left.min(hour));
        }
        // One order counts no more.
        let now = NOW + 7 * DAY;
        assert_eq!(ahead(ask(&mut line, 4, now)), 1);
        assert_eq!(ask(&mut line, 3, now), Turn::Now);
        assert_eq!(ahead(ask(&mut line, 5, now)), 1);
        assert_eq!(ask(&mut line, 4, now + 1), Turn::Now);
        assert_eq!(ahead(ask(&mut line, 5, now + 1)), 0);
        assert_eq!(line.waiting(), 1);
    }

    #[test]
    fn who_has_one_comes_before_who_has_none() {
        let mut line = line(1);
        assert_eq!(ask(&mut line, 1, NOW), Turn::Now);
        assert_eq!(ahead(ask(&mut line, 2, NOW)), 0);
        let renewal = ask_for(&mut line, 3, Purpose::Renewal, NOW);
        assert_eq!(ahead(renewal), 0);
        assert_eq!(ahead(ask(&mut line, 2, NOW)), 1);
    }

    #[test]
    fn who_does_not_come_again_is_waited_for_no_longer() {
        let mut line = line(1);
        assert_eq!(ask(&mut line, 1, NOW), Turn::Now);
        assert_eq!(ahead(ask(&mut line, 2, NOW)), 0);
        assert_eq!(ahead(ask(&mut line, 3, NOW + 3600)), 1);
        assert_eq!(ahead(ask(&mut line, 3, NOW + 2 * 3600)), 0);
        assert_eq!(line.waiting(), 1);
        assert_eq!(ahead(ask(&mut line, 2, NOW + 2 * 3600)), 1);
    }

    #[test]
    fn one_device_does_not_take_what_all_are_to_have() {
        let mut line = line(50);
        for _ in 0..MOST_PER_DEVICE {
            assert_eq!(ask(&mut line, 1, NOW), Turn::Now);
        }
        let Turn::Later { ahead: 0, wait } = ask(&mut line, 1, NOW + DAY) else {
            panic!("it has had enough");
        };
        assert_eq!(wait, Duration::from_secs(6 * DAY));
        assert_eq!(ask(&mut line, 2, NOW + DAY), Turn::Now);
        assert_eq!(ask(&mut line, 1, NOW + 7 * DAY), Turn::Now);
    }

    #[test]
    fn there_is_never_more_ordered_than_may_be_whoever_asks_and_whenever() {
        let mut line = line(7);
        let mut made: Vec<u64> = Vec::new();
        for step in 0..20_000_u64 {
            let now = NOW + step * 1777;
            if ask(&mut line, step * step % 97, now) == Turn::Now {
                made.push(now);
            }
            let counting = made.iter().filter(|at| **at + 7 * DAY > now).count();
            assert!(counting <= 7);
        }
        assert!(made.len() > 7 * 50, "{}", made.len());
    }

    #[test]
    fn what_was_not_made_does_not_count() {
        let mut line = line(1);
        let device = RegistrationId(1);
        assert_eq!(line.ask(device, Purpose::First, NOW), Turn::Now);
        line.ordered(Some(device), NOW);
        line.not_ordered(Some(device), NOW);
        assert_eq!(ask(&mut line, 2, NOW), Turn::Now);
    }

    #[test]
    fn a_clock_that_is_set_back_lets_nobody_order_more() {
        let mut line = line(1);
        assert_eq!(ask(&mut line, 1, NOW), Turn::Now);
        assert_eq!(ahead(ask(&mut line, 2, NOW - DAY)), 0);
        assert_eq!(ahead(ask(&mut line, 2, 0)), 0);
    }
}
