//! When an agent pings, and when a missing answer means that the relay is gone. Time comes in as an argument.

use std::time::{Duration, Instant};

use tokio::time::Instant as Deadline;

/// How often the agent pings, give or take a tenth: with what a missing pong takes, and with the next tunnel, a dead relay is left behind
/// within three seconds.
const PING: Duration = Duration::from_millis(1500);

/// The same of a tunnel that nobody would miss at once: it has no visitors, and new ones come through the other. So it is noticed
/// within five seconds that there is only one left, and a NAT keeps the way of a UDP socket open for longer (RFC 4787 section 4.3).
const QUIET_PING: Duration = Duration::from_secs(3);

/// Of the pings, one in so many is a question to the relay; the others ask for a sign of life and no more, which costs it less. A relay
/// that has not been asked anything for 14 seconds asks by itself, and after 18.5 takes an agent for gone that does not answer.
const QUESTION_OF: u32 = 3;

/// How long a pong may take at least; on slow paths, [`PONG_ROUND_TRIPS`] round trips. A dead relay is noticed within three
/// seconds, and one that is only busy is not taken for dead.
const PONG_TIME: Duration = Duration::from_secs(1);

/// Who looks so much later than he wanted to has been kept from hearing too, by a machine that is busy or stood still.
pub(super) const LATE: Duration = Duration::from_millis(250);

/// So often he is given that time again.
pub(super) const AGAIN: u32 = 4;

/// One for the ping, two for a loss.
const PONG_ROUND_TRIPS: u32 = 3;

/// When to ping, and when a missing answer means that the relay is gone.
pub(super) struct Pulse {
    next_ping: Instant,
    /// Whether that is a ping of a quiet tunnel.
    is_quiet: bool,
    /// Light pings since the relay was asked.
    light: u32,
    waiting: Option<Waiting>,
    sequence: u64,
    round_trip: Duration,
}

struct Waiting {
    since: Instant,
    heard: u64,
    until: Instant,
    /// How often that was later.
    again: u32,
}

pub(super) enum Beat {
    Ping {
        sequence: u64,
        /// Any sign of life is enough, and the cheapest will do.
        is_light: bool,
    },
    Rest,
    Silent,
}

impl Pulse {
    pub(super) fn new(round_trip: Duration) -> Self {
        Self {
            next_ping: spread(Instant::now(), PING),
            is_quiet: false,
            light: 0,
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

    /// Whether the next ping is long in coming, because the tunnel was quiet.
    pub(super) fn is_quiet(&self) -> bool {
        self.is_quiet
    }

    /// The tunnel is quiet no more.
    pub(super) fn quicken(&mut self, now: Instant) {
        if std::mem::take(&mut self.is_quiet) {
            self.next_ping = self.next_ping.min(spread(now, PING));
        }
    }

    /// What to do now. `heard` grows with every sign of life; a pong is one, but any other will do. `is_quiet` is a tunnel that
    /// nobody would miss at once.
    pub(super) fn due(
        &mut self,
        now: Instant,
        heard: u64,
        round_trip: Option<Duration>,
        is_quiet: bool,
    ) -> Beat {
        if let Some(waiting) = &mut self.waiting {
            if now < waiting.until {
                return Beat::Rest;
            }
            if heard == waiting.heard {
                if now - waiting.until < LATE || waiting.again == AGAIN {
                    return Beat::Silent;
                }
                waiting.again += 1;
                waiting.until = now + PONG_TIME;
                return Beat::Rest;
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
            again: 0,
        });
        let is_light = self.light + 1 < QUESTION_OF;
        self.light = if is_light { self.light + 1 } else { 0 };
        self.is_quiet = is_quiet;
        self.next_ping = spread(now, if is_quiet { QUIET_PING } else { PING });
        self.sequence += 1;
        Beat::Ping {
            sequence: self.sequence,
            is_light,
        }
    }
}

fn spread(now: Instant, wait: Duration) -> Instant {
    now + wait.mul_f64(rand::random_range(0.9..1.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_that_stops_answering_is_noticed_within_three_seconds() {
        for _ in 0..100 {
            let mut pulse = Pulse::new(Duration::ZERO);
            let died = Instant::now();
            let mut now = died;
            let silent = loop {
                now = pulse.alarm().into_std().max(now);
                if let Beat::Silent = pulse.due(now, 7, Some(Duration::from_millis(50)), false) {
                    break now;
                }
            };
            assert!(
                silent - died <= Duration::from_millis(2700),
                "{:?}",
                silent - died
            );
        }
    }

    #[test]
    fn of_a_quiet_tunnel_it_is_noticed_within_five() {
        for _ in 0..100 {
            let mut pulse = Pulse::new(Duration::ZERO);
            let died = pulse.alarm().into_std(); // right after it has answered
            answered(&mut pulse, true);
            let mut now = died;
            let silent = loop {
                now = pulse.alarm().into_std().max(now);
                if let Beat::Silent = pulse.due(now, 1, Some(Duration::from_millis(50)), true) {
                    break now;
                }
            };
            assert!(
                silent - died <= Duration::from_secs(5),
                "{:?}",
                silent - died
            );
        }
    }

    #[test]
    fn who_looks_late_takes_nobody_for_dead_at_once_but_does_in_the_end() {
        let mut pulse = Pulse::new(Duration::ZERO);
        let pinged = pulse.alarm().into_std();
        let due = |pulse: &mut Pulse, late| {
            let now = pulse.alarm().into_std() + late;
            pulse.due(now, 7, None, false)
        };
        assert!(matches!(due(&mut pulse, Duration::ZERO), Beat::Ping { .. }));
        for _ in 0..AGAIN {
            assert!(matches!(due(&mut pulse, LATE), Beat::Rest));
        }
        assert!(pulse.alarm().into_std() > pinged);
        assert!(matches!(due(&mut pulse, LATE), Beat::Silent));
        let mut pulse = Pulse::new(Duration::ZERO);
        assert!(matches!(due(&mut pulse, Duration::ZERO), Beat::Ping { .. }));
        assert!(matches!(due(&mut pulse, LATE), Beat::Rest));
        // It looks in time now, and there is still nothing.
        assert!(matches!(due(&mut pulse, Duration::ZERO), Beat::Silent));
    }

    #[test]
    fn any_sign_of_life_is_an_answer() {
        let mut pulse = Pulse::new(Duration::ZERO);
        let mut now = Instant::now();
        for heard in 0..50 {
            now = pulse.alarm().into_std().max(now);
            assert!(!matches!(pulse.due(now, heard, None, false), Beat::Silent));
        }
    }

    #[test]
    fn a_slow_path_gets_its_round_trips() {
        let mut pulse = Pulse::new(Duration::ZERO);
        let pinged = pulse.alarm().into_std();
        assert!(matches!(
            pulse.due(pinged, 1, Some(Duration::from_secs(1)), false),
            Beat::Ping { sequence: 1, .. }
        ));
        assert_eq!(pulse.alarm().into_std(), pinged + Duration::from_secs(3));
    }

    #[test]
    fn over_tls_the_hello_says_how_slow_the_path_is() {
        let mut pulse = Pulse::new(Duration::from_millis(600));
        let pinged = pulse.alarm().into_std();
        assert!(matches!(
            pulse.due(pinged, 1, None, false),
            Beat::Ping { .. }
        ));
        let waits = pulse.alarm().into_std() - pinged;
        assert_eq!(waits, Duration::from_millis(1800));
    }

    /// Pinged and answered; when the next ping is due.
    fn answered(pulse: &mut Pulse, is_quiet: bool) -> Duration {
        let pinged = pulse.alarm().into_std();
        assert!(matches!(
            pulse.due(pinged, 1, None, is_quiet),
            Beat::Ping { .. }
        ));
        pulse.pong(pinged);
        pulse.alarm().into_std() - pinged
    }

    #[test]
    fn the_relay_is_asked_before_it_takes_the_agent_for_gone() {
        let mut pulse = Pulse::new(Duration::ZERO);
        let mut asked = pulse.alarm().into_std();
        let mut light = 0;
        for _ in 0..100 {
            let pinged = pulse.alarm().into_std();
            let is_quiet = !rand::random_bool(0.1);
            match pulse.due(pinged, 1, None, is_quiet) {
                Beat::Ping { is_light: true, .. } => light += 1,
                Beat::Ping { .. } => {
                    assert!(
                        pinged - asked <= Duration::from_secs(14),
                        "{:?}",
                        pinged - asked
                    );
                    asked = pinged;
                }
                Beat::Rest | Beat::Silent => panic!("it is time for a ping"),
            }
            pulse.pong(pinged);
        }
        assert!(light > 30, "{light}");
    }

    #[test]
    fn a_quiet_tunnel_is_pinged_seldom_and_as_before_once_it_is_not() {
        let mut pulse = Pulse::new(Duration::ZERO);
        for _ in 0..100 {
            let wait = answered(&mut pulse, true);
            assert!(wait >= QUIET_PING * 9 / 10 && wait <= QUIET_PING * 11 / 10);
            assert!(pulse.is_quiet());
        }
        let now = pulse.alarm().into_std() - QUIET_PING / 2;
        pulse.quicken(now);
        assert!(!pulse.is_quiet());
        assert!(pulse.alarm().into_std() <= now + PING * 11 / 10);
        assert!(answered(&mut pulse, false) <= PING * 11 / 10);
        // What is about to come anyway comes no later.
        answered(&mut pulse, true);
        let due = pulse.alarm().into_std();
        pulse.quicken(due - Duration::from_millis(1));
        assert_eq!(pulse.alarm().into_std(), due);
    }
}
