//! What has come before: a change that comes again is not made again, and one from before the last is not made at all.
//!
//! A signature is good for [`FUDGE`](super::FUDGE) seconds, and whoever has seen a message can send it once more. So each
//! message that changes something is remembered for as long as its signature is good, with what became of it:
//!
//! - the same message again, because its reply got lost or because somebody has copied it, gets the same code;
//! - one that was signed more than [`DISORDER`] before the newest of its key is refused, as RFC 8945 section 5.2.3 recommends.
//!
//! Memory is bounded, for each key and in all. A key that has used up its share is refused until some of it is too old; where
//! the whole does not reach, the oldest is forgotten, and what is as old is refused. So is, after a start, what was signed before it.

use std::collections::{HashMap, VecDeque};

use directory::{Duty, RegistrationId};

use super::{FUDGE, Fault};
use crate::protocol::Rcode;

/// Seconds. Messages overtake each other on their way, their times are whole seconds, and one key may be in use on two machines.
const DISORDER: u64 = 5;
/// Messages that are remembered, at 200 octets each. 430 a second never fill it, whenever they say that they were signed; at
/// 20,000 a second it reaches back for thirteen seconds, and only clients whose clocks are further behind are refused.
const CAPACITY: usize = 1 << 18;
/// Of one key: three a second for as long as a signature is good, and many more than a device may change. No single key can make
/// others be forgotten.
const OF_ONE_KEY: u32 = 1024;
/// Those that are too old are forgotten so many at a time, so that no message waits for the rest of a busy time to go.
const FORGOTTEN_AT_ONCE: usize = 16;

/// A key, for as long as its device holds the name.
pub type KeyId = (RegistrationId, Duty);

/// One message of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    key: KeyId,
    time_signed: u64,
    /// So many octets of the MAC tell two messages of a key apart.
    mac: [u8; 16],
}

impl Message {
    /// A message that has been verified, so that it has a MAC of 16 octets or more.
    pub fn new(key: KeyId, time_signed: u64, mac: &[u8]) -> Self {
        Self {
            key,
            time_signed,
            mac: mac.first_chunk().copied().unwrap_or_default(),
        }
    }
}

/// What is to be done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It has not come before. It is to be [settled](Guard::settle).
    Never,
    /// It has, and is still being worked on: the reply to the first will come.
    UnderWay,
    /// It has, and this became of it.
    Settled(Rcode),
    /// It has not, but its key has come so often that it is not taken.
    TooMany,
}

/// What is known of a key.
#[derive(Clone, Copy, Debug, Default)]
struct OfKey {
    newest: u64,
    /// Messages that are remembered.
    count: u32,
}

/// Remembers messages.
#[derive(Debug)]
pub struct Guard {
    known_by_key: HashMap<KeyId, OfKey>,
    outcome_by_message: HashMap<(KeyId, [u8; 16]), Option<Rcode>>,
    /// In the order in which they came.
    order: VecDeque<Message>,
    /// What was signed in this second or before it, and is not remembered, may have been forgotten.
    forgotten: u64,
    capacity: usize,
}

impl Guard {
    /// Remembers what comes from `now` on.
    pub fn new(now: u64) -> Self {
        Self::with_capacity(CAPACITY, now)
    }

    fn with_capacity(capacity: usize, now: u64) -> Self {
        Self {
            known_by_key: HashMap::new(),
            outcome_by_message: HashMap::new(),
            order: VecDeque::new(),
            forgotten: now.saturating_sub(1),
            capacity,
        }
    }

    /// Looks whether a message has come before, and remembers it if it is new. Its time has been compared with `now` already.
    ///
    /// # Errors
    /// If it is from before what has come, or could be.
    pub fn admit(&mut self, message: Message, now: u64) -> Result<Seen, Fault> {
        let Message {
            key,
            time_signed,
            mac,
        } = message;
        if let Some(outcome) = self.outcome_by_message.get(&(key, mac)) {
            return Ok(outcome.map_or(Seen::UnderWay, Seen::Settled));
        }
        self.forget_the_old(now);
        let known = self.known_by_key.get(&key).copied().unwrap_or_default();
        if time_signed <= self.forgotten || time_signed.saturating_add(DISORDER) < known.newest {
            return Err(Fault::BadTime);
        }
        if known.count >= OF_ONE_KEY {
            return Ok(Seen::TooMany);
        }
        self.make_room(now);
        let known = self.known_by_key.entry(key).or_default();
        known.newest = known.newest.max(time_signed);
        known.count = known.count.saturating_add(1);
        self.outcome_by_message.insert((key, mac), None);
        self.order.push_back(message);
        Ok(Seen::Never)
    }

    /// Says what has become of a message. A fault of ours is not remembered: the same message may be tried again.
    pub fn settle(&mut self, message: &Message, outcome: Rcode) {
        let place = (message.key, message.mac);
        if outcome == Rcode::ServFail {
            self.forget(message);
        } else if let Some(there) = self.outcome_by_message.get_mut(&place) {
            *there = Some(outcome);
        }
    }

    /// Forgets some of what nobody would take any more.
    fn forget_the_old(&mut self, now: u64) {
        for _ in 0..FORGOTTEN_AT_ONCE {
            match self.order.front() {
                Some(oldest) if oldest.time_signed.saturating_add(FUDGE.into()) < now => {
                    self.forget_first();
                }
                Some(_) | None => return,
            }
        }
    }

    /// Forgets the first that came, if there is no room otherwise.
    fn make_room(&mut self, now: u64) {
        while self.order.len() >= self.capacity
            && let Some(oldest) = self.forget_first()
        {
            // Whoever signs in the future must not make the present refused.
            self.forgotten = self.forgotten.max(oldest.time_signed.min(now));
        }
    }

    fn forget_first(&mut self) -> Option<Message> {
        let oldest = self.order.pop_front()?;
        self.forget(&oldest);
        Some(oldest)
    }

    /// Forgets a message, unless that has been done.
    fn forget(&mut self, message: &Message) {
        let place = (message.key, message.mac);
        if self.outcome_by_message.remove(&place).is_none() {
            return;
        }
        if let Some(known) = self.known_by_key.get_mut(&message.key) {
            known.count = known.count.saturating_sub(1);
            if known.count == 0 {
                self.known_by_key.remove(&message.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_800_000_000;

    fn message(key: u64, time_signed: u64, mac: u8) -> Message {
        Message::new(
            (RegistrationId(key), Duty::Addresses),
            time_signed,
            &[mac; 32],
        )
    }

    #[test]
    fn the_same_message_again_gets_the_same_code() {
        let mut guard = Guard::new(START);
        let first = message(1, START, 1);
        assert_eq!(guard.admit(first, START), Ok(Seen::Never));
        assert_eq!(guard.admit(first, START), Ok(Seen::UnderWay));
        guard.settle(&first, Rcode::NxRrset);
        assert_eq!(
            guard.admit(first, START + 299),
            Ok(Seen::Settled(Rcode::NxRrset))
        );
        // Another key, another message, another duty.
        assert_eq!(guard.admit(message(2, START, 1), START), Ok(Seen::Never));
        assert_eq!(guard.admit(message(1, START, 2), START), Ok(Seen::Never));
        let (registration, time_signed) = (RegistrationId(1), START);
        let challenge = Message::new((registration, Duty::Challenges), time_signed, &[1; 32]);
        assert_eq!(guard.admit(challenge, START), Ok(Seen::Never));
    }

    #[test]
    fn a_fault_of_ours_may_be_tried_again() {
        let mut guard = Guard::new(START);
        let first = message(1, START, 1);
        for _ in 0..2 {
            assert_eq!(guard.admit(first, START), Ok(Seen::Never));
            guard.settle(&first, Rcode::ServFail);
        }
    }

    #[test]
    fn what_is_older_than_the_newest_of_its_key_is_refused() {
        let mut guard = Guard::new(START);
        guard.admit(message(1, START + 10, 0), START + 10).unwrap();
        for (mac, age, taken) in [(1, 0, true), (2, 5, true), (3, 6, false), (4, 300, false)] {
            let seen = guard.admit(message(1, START + 10 - age, mac), START + 10);
            assert_eq!(seen.is_ok(), taken, "{age}");
            let others = guard.admit(message(2 + age, START + 4, mac), START + 10);
            assert!(others.is_ok(), "{age}");
        }
    }

    #[test]
    fn what_was_signed_before_the_start_is_refused() {
        let mut guard = Guard::new(START);
        let refused = guard.admit(message(1, START - 1, 1), START);
        assert_eq!(refused, Err(Fault::BadTime));
        assert_eq!(guard.admit(message(1, START, 1), START), Ok(Seen::Never));
    }

    #[test]
    fn what_is_forgotten_for_want_of_room_does_not_come_back() {
        let mut guard = Guard::with_capacity(3, START);
        let now = START + 20;
        for mac in 0..4 {
            let message = message(mac.into(), START + 10 + u64::from(mac), mac);
            assert_eq!(guard.admit(message, now), Ok(Seen::Never));
        }
        assert_eq!(guard.order.len(), 3);
        let forgotten = message(0, START + 10, 0);
        assert_eq!(guard.admit(forgotten, now), Err(Fault::BadTime));
        let remembered = message(1, START + 11, 1);
        assert_eq!(guard.admit(remembered, now), Ok(Seen::UnderWay));
        // Signed in the future, and forgotten: the present is still taken.
        for mac in 10..20 {
            let message = message(mac.into(), now + 200, mac);
            assert_eq!(guard.admit(message, now), Ok(Seen::Never));
        }
        let present = message(30, now + 1, 30);
        assert_eq!(guard.admit(present, now + 1), Ok(Seen::Never));
    }

    #[test]
    fn no_key_takes_more_than_its_share_and_shuts_others_out() {
        let mut guard = Guard::new(START);
        let mut mac = 0_u32;
        let mut flood = |guard: &mut Guard, now| {
            mac += 1;
            let mac = [mac.to_be_bytes(); 8];
            let key = (RegistrationId(1), Duty::Addresses);
            guard.admit(Message::new(key, now + 300, mac.as_flattened()), now)
        };
        for _ in 0..OF_ONE_KEY {
            assert_eq!(flood(&mut guard, START), Ok(Seen::Never));
        }
        for second in 0..600 {
            let now = START + second;
            assert_eq!(flood(&mut guard, now), Ok(Seen::TooMany));
            let other = guard.admit(message(3 + second, now, 1), now);
            assert_eq!(other, Ok(Seen::Never));
        }
        // What is too old goes by and by, and makes room.
        let later = START + 601;
        for _ in 0..OF_ONE_KEY {
            assert_eq!(flood(&mut guard, later), Ok(Seen::Never));
        }
        assert_eq!(flood(&mut guard, later), Ok(Seen::TooMany));
    }

    #[test]
    fn nothing_is_kept_beyond_its_time() {
        let mut guard = Guard::new(START);
        for second in 0..1000 {
            let message = message(second, START + second, 1);
            guard.admit(message, START + second).unwrap();
        }
        assert_eq!(guard.order.len(), 301);
        assert_eq!(guard.known_by_key.len(), 301);
        assert_eq!(guard.outcome_by_message.len(), 301);
        assert_eq!(guard.forgotten, START - 1);
    }
}
