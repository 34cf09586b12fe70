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

use crate::quic::{Gso, Path, Profile, Room};
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
    /// Of a tunnel over QUIC.
    pub(super) profile: Profile,
}

/// Why it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    UdpUnanswered,
    RawNotOffered,
    RawMissed,
    PathLossy,
    PathQueued,
    BatchesDamaged,
    BatchesLost,
}

impl Reason {
    pub(super) const ALL: [Self; 7] = [
        Self::UdpUnanswered,
        Self::RawNotOffered,
        Self::RawMissed,
        Self::PathLossy,
        Self::PathQueued,
        Self::BatchesDamaged,
        Self::BatchesLost,
    ];

    /// The one of this name.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }

    /// For machines.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::UdpUnanswered => "udp_unanswered",
            Self::RawNotOffered => "raw_not_offered",
            Self::RawMissed => "raw_missed",
            Self::PathLossy => "path_lossy",
            Self::PathQueued => "path_queued",
            Self::BatchesDamaged => "batches_damaged",
            Self::BatchesLost => "batches_lost",
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
            Self::BatchesDamaged => {
                "this kernel damages batches of packets (GSO): each is sent by itself"
            }
            Self::BatchesLost => "batches of packets (GSO) were lost: each is sent by itself",
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
    /// The relay paces what the device moves.
    limited: bool,
    batches: Batches,
    /// Whether the tunnel that stands has them.
    has_batches: bool,
    path: Looks,
    /// Why QUIC is left alone, and until when.
    bad: Option<(Reason, Instant)>,
    pause: Duration,
}

/// Whether packets are sent in batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Batches {
    /// The owner has said so.
    Always,
    Never,
    Damaged,
    /// Not before then, because they were lost; each time twice as long.
    From(Instant, Duration),
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
    pub(super) fn new(gso: Gso, now: Instant) -> Self {
        let batches = match (gso, gso.begins_with_batches()) {
            (Gso::On, _) => Batches::Always,
            (Gso::Off, _) => Batches::Never,
            (Gso::Auto, false) => Batches::Damaged,
            (Gso::Auto, true) => Batches::From(now, FIRST_PAUSE),
        };
        Self {
            batches,
            has_batches: false,
            udp_answers: true,
            raw_offered: true,
            raw_missed: 0,
            limited: false,
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
            profile: Profile {
                room: if bulk_leaves || self.limited {
                    Room::Small
                } else {
                    Room::Large
                },
                batches: self.may_batch(now),
            },
        }
    }

    fn may_batch(&self, now: Instant) -> bool {
        match self.batches {
            Batches::Always => true,
            Batches::Never | Batches::Damaged => false,
            Batches::From(from, _) => now >= from,
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
            (self.batches == Batches::Damaged).then_some(Reason::BatchesDamaged),
            matches!(self.batches, Batches::From(from, _) if now < from)
                .then_some(Reason::BatchesLost),
        ];
        reasons.into_iter().flatten().collect()
    }

    /// A tunnel stands; over QUIC with a profile.
    pub(super) fn attached(&mut self, profile: Option<Profile>, raw_offered: bool, now: Instant) {
        let transport = match profile {
            Some(_) => Transport::Quic,
            None => Transport::Tls,
        };
        self.has_batches = profile.is_some_and(|profile| profile.batches);
        self.raw_offered = raw_offered;
        self.udp_answers = transport == self.wanted(now).transport || transport == Transport::Quic;
        self.path = Looks::default();
    }

    /// Whether the relay has said that the device may move so much a second and no more. What waits for its turn there is to be
    /// little: the tunnel has room for so much unread in all, and more would keep back even what holds the tunnel.
    pub(super) fn limited(&mut self, limited: bool) {
        self.limited = limited;
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

    /// Whether batches may be what gets lost: they are given up before QUIC is.
    pub(super) fn gives_up_batches(&mut self, suspicion: Reason, now: Instant) -> bool {
        let Batches::From(_, pause) = self.batches else {
            return false;
        };
        let gives_up = suspicion == Reason::PathLossy && self.has_batches;
        if gives_up {
            self.batches = Batches::From(now + pause, (pause * 2).min(LONGEST_PAUSE));
        }
        gives_up
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

    const QUIC: Option<Profile> = Some(Profile {
        room: Room::Small,
        batches: false,
    });

    fn attached(now: Instant) -> Choice {
        let mut choice = Choice::new(Gso::Off, now);
        choice.attached(QUIC, true, now);
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
        assert_eq!(choice.wanted(now).profile.room, Room::Small);
        choice.raw(false);
        assert_eq!(choice.wanted(now).profile.room, Room::Large);
        assert_eq!(choice.reasons(now), [Reason::RawMissed]);
        choice.raw(true);
        assert_eq!(choice.wanted(now).profile.room, Room::Small);
        assert_eq!(choice.reasons(now), []);
    }

    #[test]
    fn bulk_stays_where_the_relay_takes_no_raw_connections() {
        let now = Instant::now();
        let mut choice = attached(now);
        choice.attached(QUIC, false, now);
        assert_eq!(choice.wanted(now).profile.room, Room::Large);
        assert_eq!(choice.reasons(now), [Reason::RawNotOffered]);
    }

    #[test]
    fn a_path_that_loses_much_for_long_is_left_and_tried_again() {
        let now = Instant::now();
        let mut choice = attached(now);
        let mut pauses = Vec::new();
        for _ in 0..2 {
            choice.attached(QUIC, true, now);
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
    fn batches_are_given_up_before_quic_is_and_tried_again() {
        let now = Instant::now();
        let mut choice = Choice::new(Gso::Auto, now);
        let profile = choice.wanted(now).profile;
        assert!(profile.batches);
        choice.attached(Some(profile), true, now);
        assert!(!choice.gives_up_batches(Reason::PathQueued, now));
        assert!(choice.gives_up_batches(Reason::PathLossy, now));
        let profile = choice.wanted(now).profile;
        assert!(!profile.batches);
        assert_eq!(choice.reasons(now), [Reason::BatchesLost]);
        choice.attached(Some(profile), true, now);
        assert!(
            !choice.gives_up_batches(Reason::PathLossy, now),
            "none is sent"
        );
        let later = now + FIRST_PAUSE;
        assert!(choice.wanted(later).profile.batches);
        assert_eq!(choice.reasons(later), []);
    }

    #[test]
    fn an_owner_who_has_said_so_is_obeyed() {
        let now = Instant::now();
        for (gso, batches) in [(Gso::On, true), (Gso::Off, false)] {
            let mut choice = Choice::new(gso, now);
            let profile = choice.wanted(now).profile;
            assert_eq!(profile.batches, batches);
            choice.attached(Some(profile), true, now);
            assert!(!choice.gives_up_batches(Reason::PathLossy, now));
        }
    }

    #[test]
    fn udp_that_does_not_answer_is_named() {
        let now = Instant::now();
        let mut choice = attached(now);
        choice.attached(None, true, now);
        assert_eq!(choice.reasons(now), [Reason::UdpUnanswered]);
        choice.attached(QUIC, true, now);
        assert_eq!(choice.reasons(now), []);
    }

    #[test]
    fn a_device_that_may_move_so_much_a_second_has_small_windows_wherever_its_bulk_goes() {
        let now = Instant::now();
        let mut choice = Choice::new(Gso::Off, now);
        choice.attached(QUIC, false, now);
        assert_eq!(choice.wanted(now).profile.room, Room::Large);
        choice.limited(true);
        assert_eq!(choice.wanted(now).profile.room, Room::Small);
        choice.limited(false);
        assert_eq!(choice.wanted(now).profile.room, Room::Large);
    }
}
