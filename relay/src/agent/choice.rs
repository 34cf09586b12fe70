//! Which way the tunnel goes and how much room its streams get: decided from what was measured, so that nobody has to set
//! it. Time comes in as an argument.
//!
//! ```text
//!   the relay offers no raw connections, or three in a row did not come   large room: bulk stays in the tunnel
//!   one came                                                              small room: bulk leaves
//!   QUIC's path loses much, or has a standing queue that TCP's has not    TLS, and QUIC again after a while
//! ```

use std::fmt;
use std::time::{Duration, Instant};

use crate::quic::{Path, Room};
use crate::server::Transport;

/// Raw connections in a row that did not come, before they are not counted on.
const RAW_MISSED: u32 = 3;

/// Packets that a look at a path needs to say something.
const LOOK_PACKETS: u64 = 200;

/// Of this much loss a path is bad: one packet in ten.
const BAD_LOSS: u64 = 10;

/// So many times the shortest round trip, and at least [`BAD_DELAY`], is a standing queue.
const BAD_ROUND_TRIPS: u32 = 4;
const BAD_DELAY: Duration = Duration::from_millis(200);

/// Looks in a row that have to be bad.
const BAD_LOOKS: u32 = 3;

/// How long QUIC is left alone once its path was bad. Doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(600);
const LONGEST_PAUSE: Duration = Duration::from_secs(7200);

/// What the tunnel should be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) transport: Transport,
    pub(super) room: Room,
}

/// Why it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    UdpUnanswered,
    RawNotOffered,
    RawMissed,
    PathLossy,
    PathQueued,
}

impl Reason {
    /// For machines.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::UdpUnanswered => "udp_unanswered",
            Self::RawNotOffered => "raw_not_offered",
            Self::RawMissed => "raw_missed",
            Self::PathLossy => "path_lossy",
            Self::PathQueued => "path_queued",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UdpUnanswered => "the relay does not answer over UDP: a firewall may block it",
            Self::RawNotOffered => "the relay takes no TCP connections for bulk",
            Self::RawMissed => "TCP connections for bulk do not reach the relay",
            Self::PathLossy => "over UDP more than one packet in ten was lost",
            Self::PathQueued => "packets over UDP had to wait where those over TCP had not",
        })
    }
}

/// What has been learnt.
#[derive(Debug)]
pub(super) struct Choice {
    udp_answers: bool,
    raw_offered: bool,
    /// In a row.
    raw_missed: u32,
    path: Looks,
    /// Why QUIC is left alone, and until when.
    bad: Option<(Reason, Instant)>,
    pause: Duration,
}

/// One path, as it was looked at.
#[derive(Debug, Default)]
struct Looks {
    sent: u64,
    lost: u64,
    shortest: Option<Duration>,
    /// In a row.
    lossy: u32,
    queued: u32,
}

impl Choice {
    pub(super) fn new() -> Self {
        Self {
            udp_answers: true,
            raw_offered: true,
            raw_missed: 0,
            path: Looks::default(),
            bad: None,
            pause: FIRST_PAUSE,
        }
    }

    pub(super) fn wanted(&self, now: Instant) -> Wanted {
        let bad = self.bad.is_some_and(|(_, until)| now < until);
        let bulk_leaves = self.raw_offered && self.raw_missed < RAW_MISSED;
        Wanted {
            transport: if bad { Transport::Tls } else { Transport::Quic },
            room: if bulk_leaves {
                Room::Small
            } else {
                Room::Large
            },
        }
    }

    /// What keeps the tunnel from being over QUIC with bulk beside it.
    pub(super) fn reasons(&self, now: Instant) -> Vec<Reason> {
        let bad = self.bad.filter(|(_, until)| now < *until);
        let reasons = [
            bad.map(|(reason, _)| reason),
            (bad.is_none() && !self.udp_answers).then_some(Reason::UdpUnanswered),
            (!self.raw_offered).then_some(Reason::RawNotOffered),
            (self.raw_missed >= RAW_MISSED).then_some(Reason::RawMissed),
        ];
        reasons.into_iter().flatten().collect()
    }

    /// A tunnel stands.
    pub(super) fn attached(&mut self, transport: Transport, raw_offered: bool, now: Instant) {
        self.raw_offered = raw_offered;
        self.udp_answers = transport == self.wanted(now).transport || transport == Transport::Quic;
        self.path = Looks::default();
    }

    /// A raw connection was asked for, and came or not.
    pub(super) fn raw(&mut self, came: bool) {
        self.raw_missed = if came {
            0
        } else {
            self.raw_missed.saturating_add(1)
        };
    }

    /// QUIC's path has been looked at, some seconds after the last time.
    pub(super) fn looked(&mut self, path: Path) {
        let Looks {
            sent,
            lost,
            shortest,
            lossy,
            queued,
        } = &mut self.path;
        let shortest = *shortest
            .insert(shortest.map_or(path.round_trip, |shortest| shortest.min(path.round_trip)));
        let sent_now = path.sent.saturating_sub(*sent);
        if sent_now < LOOK_PACKETS {
            return;
        }
        let lost_now = path.lost.saturating_sub(*lost);
        (*sent, *lost) = (path.sent, path.lost);
        let count = |looks: u32, bad: bool| if bad { looks.saturating_add(1) } else { 0 };
        *lossy = count(*lossy, lost_now > sent_now / BAD_LOSS);
        *queued = count(
            *queued,
            path.round_trip > (shortest * BAD_ROUND_TRIPS).max(BAD_DELAY),
        );
    }

    /// What has been bad for so long that TCP should be measured beside it.
    pub(super) fn suspects(&self) -> Option<Reason> {
        match &self.path {
            looks if looks.lossy >= BAD_LOOKS => Some(Reason::PathLossy),
            looks if looks.queued >= BAD_LOOKS => Some(Reason::PathQueued),
            _ => None,
        }
    }

    /// The relay has answered over TCP after `over_tcp`, and `over_udp` is what a round trip takes there. Whether QUIC is to be
    /// left.
    pub(super) fn compared(
        &mut self,
        suspicion: Reason,
        over_udp: Duration,
        over_tcp: Duration,
        now: Instant,
    ) -> bool {
        self.path.lossy = 0;
        self.path.queued = 0;
        let leave = suspicion == Reason::PathLossy || over_tcp < over_udp / 2;
        if leave {
            self.bad = Some((suspicion, now + self.pause));
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        leave
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(50);

    fn attached(now: Instant) -> Choice {
        let mut choice = Choice::new();
        choice.attached(Transport::Quic, true, now);
        choice
    }

    fn path(sent: u64, lost: u64, round_trip: Duration) -> Path {
        Path {
            sent,
            lost,
            round_trip,
            congestion: "cubic",
        }
    }

    #[test]
    fn bulk_stays_after_three_misses_and_leaves_when_one_comes() {
        let now = Instant::now();
        let mut choice = attached(now);
        for _ in 0..RAW_MISSED - 1 {
            choice.raw(false);
        }
        choice.raw(true);
        choice.raw(false);
        choice.raw(false);
        assert_eq!(choice.wanted(now).room, Room::Small);
        choice.raw(false);
        assert_eq!(choice.wanted(now).room, Room::Large);
        assert_eq!(choice.reasons(now), [Reason::RawMissed]);
        choice.raw(true);
        assert_eq!(choice.wanted(now).room, Room::Small);
        assert_eq!(choice.reasons(now), []);
    }

    #[test]
    fn bulk_stays_where_the_relay_takes_no_raw_connections() {
        let now = Instant::now();
        let mut choice = attached(now);
        choice.attached(Transport::Quic, false, now);
        assert_eq!(choice.wanted(now).room, Room::Large);
        assert_eq!(choice.reasons(now), [Reason::RawNotOffered]);
    }

    #[test]
    fn a_path_that_loses_much_for_long_is_left_and_tried_again() {
        let now = Instant::now();
        let mut choice = attached(now);
        let mut pauses = Vec::new();
        for _ in 0..2 {
            choice.attached(Transport::Quic, true, now);
            for look in 1..=u64::from(BAD_LOOKS) {
                assert_eq!(choice.suspects(), None);
                choice.looked(path(look * 1000, look * 200, RTT));
            }
            assert_eq!(choice.suspects(), Some(Reason::PathLossy));
            assert!(choice.compared(Reason::PathLossy, RTT, RTT, now));
            assert_eq!(choice.wanted(now).transport, Transport::Tls);
            assert_eq!(choice.reasons(now), [Reason::PathLossy]);
            pauses.push(choice.bad.unwrap().1 - now);
        }
        assert_eq!(pauses, [FIRST_PAUSE, FIRST_PAUSE * 2]);
        assert_eq!(
            choice.wanted(now + LONGEST_PAUSE).transport,
            Transport::Quic
        );
        assert_eq!(choice.reasons(now + LONGEST_PAUSE), []);
    }

    #[test]
    fn a_good_look_starts_the_count_again_and_a_short_one_says_nothing() {
        let mut choice = attached(Instant::now());
        choice.looked(path(1000, 200, RTT));
        choice.looked(path(2000, 400, RTT));
        choice.looked(path(2100, 500, RTT));
        assert_eq!(choice.suspects(), None, "a hundred packets say nothing");
        choice.looked(path(12_000, 600, RTT));
        choice.looked(path(13_000, 900, RTT));
        assert_eq!(choice.suspects(), None);
    }

    #[test]
    fn a_queue_that_tcp_has_too_is_no_reason() {
        let now = Instant::now();
        let mut choice = attached(now);
        let queue = RTT * 6;
        let mut sent = 1000;
        choice.looked(path(sent, 0, RTT));
        for (over_tcp, leave) in [(queue, false), (RTT, true)] {
            for _ in 0..BAD_LOOKS {
                sent += 1000;
                choice.looked(path(sent, 0, queue));
            }
            assert_eq!(choice.suspects(), Some(Reason::PathQueued));
            assert_eq!(
                choice.compared(Reason::PathQueued, queue, over_tcp, now),
                leave
            );
            assert_eq!(choice.suspects(), None);
        }
        assert_eq!(choice.reasons(now), [Reason::PathQueued]);
    }

    #[test]
    fn udp_that_does_not_answer_is_named() {
        let now = Instant::now();
        let mut choice = attached(now);
        choice.attached(Transport::Tls, true, now);
        assert_eq!(choice.reasons(now), [Reason::UdpUnanswered]);
        choice.attached(Transport::Quic, true, now);
        assert_eq!(choice.reasons(now), []);
    }
}
