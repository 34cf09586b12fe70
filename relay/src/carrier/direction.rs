//! Where each direction of a carrier's payload goes, and what its end is worth: on the visitor's stream first, over a raw
//! connection from one exact octet on. Neither socket nor clock; the carriers do what is decided here.
//!
//! ```text
//!   sender     payload … ─► Moved { at } ─► End { total }          on the stream, in order
//!                              └► payload … ─► FIN                 on the raw connection
//!   receiver   takes the stream up to `at`, then the raw connection, and is done when it has `total`
//! ```
//!
//! The stream says in order what is true; the raw connection only carries. Its end means nothing until the stream has said
//! how many octets there were, so one that breaks, or that somebody closes on the way, never looks like an orderly end.

use wire::segment::Notice;

/// A direction is bulk once it has carried so many octets …
pub(crate) const BULK: u64 = 128 * 1024;

/// … while the other carried less than this part of them. Requests one after the other are about a thirteenth, ssh, sftp
/// and HTTP/2 downloads less than a thousandth.
pub(crate) const BULK_PART: u64 = 64;

/// Tells bulk from conversation, for one direction.
#[derive(Debug, Default)]
pub(crate) struct Burst {
    carried: u64,
    other: u64,
}

impl Burst {
    /// Whether a direction that has carried so much, and the other so much, since both began, is carrying bulk now.
    pub(crate) fn is_bulk(&mut self, carried: u64, other: u64) -> bool {
        if other.saturating_sub(self.other) >= BULK / BULK_PART {
            *self = Self { carried, other }; // a conversation so far; it may become bulk from here
        }
        carried.saturating_sub(self.carried) >= BULK
    }
}

/// The other end has said or done what cannot be. The carrier is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Breach {
    /// The payload moved at another octet than the last one sent.
    #[error("the payload moved at octet {said}, after {received}")]
    Moved { said: u64, received: u64 },
    /// Payload on the stream after it had moved, or anything after the end.
    #[error("octets came where none could")]
    Misplaced,
    /// More or less came than was said.
    #[error("{received} octets came of {total}")]
    Length { received: u64, total: u64 },
}

/// The payload that this end sends.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    sent: u64,
    moved: bool,
}

impl Outgoing {
    /// So many octets have been sent, wherever they go now.
    pub(crate) fn sent(&mut self, octets: usize) {
        self.sent += octets as u64;
    }

    /// Whether what is sent next goes over the raw connection.
    pub(crate) fn has_moved(&self) -> bool {
        self.moved
    }

    /// Moves; what to say on the stream.
    pub(crate) fn moves(&mut self) -> Notice {
        self.moved = true;
        Notice::Moved { at: self.sent }
    }

    /// Ends in order; what to say on the stream.
    pub(crate) fn ends(&self) -> Notice {
        Notice::End { total: self.sent }
    }
}

/// The payload that comes to this end.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    received: u64,
    moved: bool,
    total: Option<u64>,
}

impl Incoming {
    /// Whether what comes next comes over the raw connection.
    pub(crate) fn has_moved(&self) -> bool {
        self.moved
    }

    /// Whether every octet has come.
    pub(crate) fn is_complete(&self) -> bool {
        self.total == Some(self.received)
    }

    /// So many octets have come on the stream.
    pub(crate) fn on_stream(&mut self, octets: usize) -> Result<(), Breach> {
        if self.moved || self.total.is_some() {
            return Err(Breach::Misplaced);
        }
        self.received += octets as u64;
        Ok(())
    }

    /// So many octets have come on the raw connection.
    pub(crate) fn on_raw(&mut self, octets: usize) -> Result<(), Breach> {
        if !self.moved {
            return Err(Breach::Misplaced);
        }
        self.received += octets as u64;
        self.check()
    }

    /// The stream has said that the payload moves here.
    pub(crate) fn moves(&mut self, at: u64) -> Result<(), Breach> {
        if self.moved || self.total.is_some() {
            return Err(Breach::Misplaced);
        }
        if at != self.received {
            return Err(Breach::Moved {
                said: at,
                received: self.received,
            });
        }
        self.moved = true;
        Ok(())
    }

    /// The stream has said how much there was.
    pub(crate) fn ends(&mut self, total: u64) -> Result<(), Breach> {
        if self.total.is_some() {
            return Err(Breach::Misplaced);
        }
        self.total = Some(total);
        if self.moved || self.is_complete() {
            self.check()
        } else {
            Err(self.length(total))
        }
    }

    /// The raw connection has ended. `Ok` says whether every octet has come; if not, the stream has yet to say how many
    /// there are.
    pub(crate) fn raw_ends(&self) -> Result<bool, Breach> {
        match self.total {
            Some(total) if total != self.received => Err(self.length(total)),
            Some(_) => Ok(true),
            None => Ok(false),
        }
    }

    fn check(&self) -> Result<(), Breach> {
        match self.total {
            Some(total) if self.received > total => Err(self.length(total)),
            Some(_) | None => Ok(()),
        }
    }

    fn length(&self, total: u64) -> Breach {
        Breach::Length {
            received: self.received,
            total,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_download_is_bulk_and_requests_one_after_the_other_are_not() {
        let mut download = Burst::default();
        assert!(!download.is_bulk(BULK - 1, 500));
        assert!(download.is_bulk(BULK, 500));

        let mut requests = Burst::default();
        for request in 1..10_000 {
            assert!(!requests.is_bulk(request * 1200, request * 90));
        }
        // … until one of them is answered at length.
        assert!(requests.is_bulk(10_000 * 1200 + 2 * BULK, 10_000 * 90));
    }

    #[test]
    fn a_liar_is_found_out() {
        let mut incoming = Incoming::default();
        incoming.on_stream(10).unwrap();
        assert_eq!(
            incoming.moves(9),
            Err(Breach::Moved {
                said: 9,
                received: 10
            })
        );
        incoming.moves(10).unwrap();
        assert_eq!(incoming.moves(10), Err(Breach::Misplaced));
        assert_eq!(incoming.on_stream(1), Err(Breach::Misplaced));
        incoming.ends(12).unwrap();
        incoming.on_raw(1).unwrap();
        let short = Breach::Length {
            received: 11,
            total: 12,
        };
        assert_eq!(incoming.raw_ends(), Err(short));
        let long = Breach::Length {
            received: 13,
            total: 12,
        };
        assert_eq!(incoming.on_raw(2), Err(long));
        assert_eq!(
            Incoming::default().ends(1).unwrap_err().to_string(),
            "0 octets came of 1"
        );
        assert_eq!(Incoming::default().on_raw(1), Err(Breach::Misplaced));
    }

    /// What travels on the pretend stream.
    #[derive(Clone, Debug)]
    enum OnStream {
        Data(Vec<u8>),
        Notice(Notice),
        Reset,
    }

    /// What travels on the pretend raw connection.
    #[derive(Clone, Debug)]
    enum OnRaw {
        Data(Vec<u8>),
        /// An orderly close, by the sender or by somebody on the way.
        Fin,
        Reset,
    }

    /// One step of the world. Which of them can happen, happens; time passes with each.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Send(u16),
        Move,
        End,
        Break,
        StreamArrives,
        RawArrives,
        RawDies,
        RawIsClosed,
    }

    #[derive(Debug, PartialEq)]
    enum Outcome {
        Open,
        Done,
        Cut,
    }

    /// A direction between two ends: an ordered stream and an ordered raw connection, of independent and arbitrary delay.
    struct World {
        outgoing: Outgoing,
        incoming: Incoming,
        payload: Vec<u8>,
        heard: Vec<u8>,
        stream: VecDeque<OnStream>,
        raw: VecDeque<OnRaw>,
        sender_done: bool,
        harmed: bool,
        outcome: Outcome,
    }

    impl World {
        fn new() -> Self {
            Self {
                outgoing: Outgoing::default(),
                incoming: Incoming::default(),
                payload: Vec::new(),
                heard: Vec::new(),
                stream: VecDeque::new(),
                raw: VecDeque::new(),
                sender_done: false,
                harmed: false,
                outcome: Outcome::Open,
            }
        }

        fn step(&mut self, step: Step) {
            match step {
                Step::Send(length) if !self.sender_done => {
                    let from = self.payload.len();
                    let octets: Vec<u8> = (from..from + usize::from(length))
                        .map(|at| (at as u64).wrapping_mul(0x9e37_79b9) as u8)
                        .collect();
                    self.payload.extend(&octets);
                    self.outgoing.sent(octets.len());
                    if self.outgoing.has_moved() {
                        self.raw.push_back(OnRaw::Data(octets));
                    } else {
                        self.stream.push_back(OnStream::Data(octets));
                    }
                }
                Step::Move if !self.sender_done && !self.outgoing.has_moved() => {
                    let notice = self.outgoing.moves();
                    self.stream.push_back(OnStream::Notice(notice));
                }
                Step::End if !self.sender_done => {
                    self.sender_done = true;
                    if self.outgoing.has_moved() {
                        self.raw.push_back(OnRaw::Fin);
                    }
                    self.stream
                        .push_back(OnStream::Notice(self.outgoing.ends()));
                }
                Step::Break if !self.sender_done => {
                    self.sender_done = true;
                    self.harmed = true;
                    self.stream.push_back(OnStream::Reset);
                }
                Step::StreamArrives => self.stream_arrives(),
                Step::RawArrives => self.raw_arrives(),
                // What was on the way is lost, from anywhere on.
                Step::RawDies if self.outgoing.has_moved() => self.cut_raw(OnRaw::Reset),
                Step::RawIsClosed if self.outgoing.has_moved() => self.cut_raw(OnRaw::Fin),
                Step::Send(_)
                | Step::Move
                | Step::End
                | Step::Break
                | Step::RawDies
                | Step::RawIsClosed => {} // not possible now
            }
        }

        fn cut_raw(&mut self, with: OnRaw) {
            self.raw.truncate(self.raw.len() / 2);
            self.raw.push_back(with);
            self.harmed = true;
        }

        fn stream_arrives(&mut self) {
            if self.outcome != Outcome::Open {
                return;
            }
            let taken = match self.stream.pop_front() {
                None => return,
                Some(OnStream::Data(octets)) => {
                    self.heard.extend(&octets);
                    self.incoming.on_stream(octets.len())
                }
                Some(OnStream::Notice(Notice::Moved { at })) => self.incoming.moves(at),
                Some(OnStream::Notice(Notice::End { total })) => self.incoming.ends(total),
                Some(OnStream::Notice(_)) => Ok(()),
                Some(OnStream::Reset) => {
                    self.outcome = Outcome::Cut;
                    return;
                }
            };
            self.judge(taken);
        }

        fn raw_arrives(&mut self) {
            // Nobody reads the raw connection before the stream has said so.
            if self.outcome != Outcome::Open || !self.incoming.has_moved() {
                return;
            }
            match self.raw.pop_front() {
                None => {}
                Some(OnRaw::Data(octets)) => {
                    self.heard.extend(&octets);
                    let taken = self.incoming.on_raw(octets.len());
                    self.judge(taken);
                }
                Some(OnRaw::Fin) => match self.incoming.raw_ends() {
                    // Nothing more can come, but what came is only judged by what the stream says.
                    Ok(_) => self.raw = VecDeque::from([OnRaw::Fin]),
                    Err(_) => self.outcome = Outcome::Cut,
                },
                Some(OnRaw::Reset) => self.outcome = Outcome::Cut,
            }
        }

        fn judge(&mut self, taken: Result<(), Breach>) {
            match taken {
                Err(_) => self.outcome = Outcome::Cut,
                Ok(()) if self.incoming.is_complete() => self.outcome = Outcome::Done,
                Ok(()) => {}
            }
        }

        /// Lets everything arrive that is on its way.
        fn settle(&mut self) {
            for _ in 0..1000 {
                self.step(Step::StreamArrives);
                self.step(Step::RawArrives);
            }
        }
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (1_u16..2000).prop_map(Step::Send),
            1 => Just(Step::Move),
            1 => Just(Step::End),
            6 => Just(Step::StreamArrives),
            6 => Just(Step::RawArrives),
        ];
        prop::collection::vec(step, 0..120)
    }

    fn harm() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Break),
            Just(Step::RawDies),
            Just(Step::RawIsClosed)
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn every_octet_comes_in_order_whenever_the_payload_moves(steps in steps()) {
            let mut world = World::new();
            for step in steps {
                world.step(step);
                prop_assert!(world.payload.starts_with(&world.heard));
            }
            world.step(Step::End);
            world.settle();
            prop_assert_eq!(&world.outcome, &Outcome::Done);
            prop_assert_eq!(&world.heard, &world.payload);
        }

        #[test]
        fn what_was_harmed_is_whole_or_cut_and_never_a_part_that_looks_whole(
            before in steps(),
            harm in harm(),
            after in steps(),
        ) {
            let mut world = World::new();
            for step in before.into_iter().chain([harm]).chain(after) {
                world.step(step);
                prop_assert!(world.payload.starts_with(&world.heard));
            }
            world.step(Step::End);
            world.settle();
            match world.outcome {
                Outcome::Done => prop_assert_eq!(&world.heard, &world.payload),
                Outcome::Cut => prop_assert!(world.harmed),
                // The raw connection was closed on the way, and the sender will hear so and reset the stream.
                Outcome::Open => prop_assert!(world.harmed && world.outgoing.has_moved()),
            }
        }
    }
}
