//! When an agent pings, and when a missing answer means that the relay is gone. Time comes in as an argument.

use std::time::{Duration, Instant};

use tokio::time::Instant as Deadline;

/// How often the agent pings, give or take a fifth.
const PING: Duration = Duration::from_millis(2500);

/// How long a pong may take at least; on slow paths, [`PONG_ROUND_TRIPS`] round trips. A dead relay is noticed within four
/// seconds, and one that is only busy is not taken for dead.
const PONG_TIME: Duration = Duration::from_secs(1);

/// One for the ping, two for a loss.
const PONG_ROUND_TRIPS: u32 = 3;

/// When to ping, and when a missing answer means that the relay is gone.
pub(super) struct Pulse {
    next_ping: Instant,
    waiting: Option<Waiting>,
    sequence: u64,
    round_trip: Duration,
}

struct Waiting {
    since: Instant,
    heard: u64,
    until: Instant,
}

pub(super) enum Beat {
    Ping { sequence: u64 },
    Rest,
    Silent,
}

impl Pulse {
    pub(super) fn new(round_trip: Duration) -> Self {
        Self {
            next_ping: next_ping(Instant::now()),
            waiting: None,
            sequence: 0,
            round_trip,
        }
    }

    /// When to call [`due`](Self::due) next.
    pub(super) fn alarm(&self) -> Deadline {
        self.waiting
            .as_ref()
            .map_or(self.next_ping, |waiting| waiting.until)
            .into()
    }

    pub(super) fn pong(&mut self, now: Instant) {
        if let Some(waiting) = self.waiting.take() {
            self.round_trip = now - waiting.since;
        }
    }

    /// What to do now. `heard` grows with every sign of life; a pong is one, but any other will do.
    pub(super) fn due(&mut self, now: Instant, heard: u64, round_trip: Option<Duration>) -> Beat {
        if let Some(waiting) = &self.waiting {
            if now < waiting.until {
                return Beat::Rest;
            }
            if heard == waiting.heard {
                return Beat::Silent;
            }
            self.waiting = None;
        }
        if now < self.next_ping {
            return Beat::Rest;
        }
        let round_trip = round_trip.unwrap_or(self.round_trip);
        let until = now + PONG_TIME.max(round_trip * PONG_ROUND_TRIPS);
        self.waiting = Some(Waiting {
            since: now,
            heard,
            until,
        });
        self.next_ping = next_ping(now);
        self.sequence += 1;
        Beat::Ping {
            sequence: self.sequence,
        }
    }
}

fn next_ping(now: Instant) -> Instant {
    now + PING.mul_f64(rand::random_range(0.8..1.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_that_stops_answering_is_noticed_within_four_seconds() {
        for _ in 0..100 {
            let mut pulse = Pulse::new(Duration::ZERO);
            let died = Instant::now();
            let mut now = died;
            let silent = loop {
                now = pulse.alarm().into_std().max(now);
                if let Beat::Silent = pulse.due(now, 7, Some(Duration::from_millis(50))) {
                    break now;
                }
            };
            assert!(
                silent - died <= Duration::from_secs(4),
                "{:?}",
                silent - died
            );
        }
    }

    #[test]
    fn any_sign_of_life_is_an_answer() {
        let mut pulse = Pulse::new(Duration::ZERO);
        let mut now = Instant::now();
        for heard in 0..50 {
            now = pulse.alarm().into_std().max(now);
            assert!(!matches!(pulse.due(now, heard, None), Beat::Silent));
        }
    }

    #[test]
    fn a_slow_path_gets_its_round_trips() {
        let mut pulse = Pulse::new(Duration::ZERO);
        let pinged = pulse.alarm().into_std();
        assert!(matches!(
            pulse.due(pinged, 1, Some(Duration::from_secs(1))),
            Beat::Ping { sequence: 1 }
        ));
        assert_eq!(pulse.alarm().into_std(), pinged + Duration::from_secs(3));
    }

    #[test]
    fn over_tls_the_hello_says_how_slow_the_path_is() {
        let mut pulse = Pulse::new(Duration::from_millis(600));
        let pinged = pulse.alarm().into_std();
        assert!(matches!(pulse.due(pinged, 1, None), Beat::Ping { .. }));
        let waits = pulse.alarm().into_std() - pinged;
        assert_eq!(waits, Duration::from_millis(1800));
    }
}
