//! Visitors' datagrams in a tunnel: DATAGRAM frames, each with its flow's number in front ([`wire::flow`]).
//!
//! ```text
//!   out   send ─► the flow's own queue ─► flows and streams in turn ─► the library's queue ─► packets
//!   in    packets ─► the library's queue ─► batches of one flow and one size ─► the flow's outlet
//! ```
//!
//! Nobody waits: what finds no room is lost, the oldest first, and counted. Whoever sends over UDP reckons with that.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rustc_hash::FxBuildHasher;
use wire::flow::{LEAST_ROOM, MAX_NUMBER, put_number, take_number};

use super::connection::{Inner, State};
use super::socket::Socket;

/// What one flow may have waiting, in octets, with what it takes to keep them: 40 ms of 100 Mbit/s. Of more its visitor's congestion control hears too late.
const FLOW_QUEUE: usize = 512 * 1024;

/// The same of all flows of a tunnel.
const TUNNEL_QUEUE: usize = 2 * 1024 * 1024;

/// What the library may have of that, in octets: more than is given to it in one turn.
pub(super) const GIVEN: usize = 64 * 1024;

/// What may have come and not been taken, in octets. It is taken in the turn in which it comes; so much one turn may bring.
pub(super) const COME: usize = 8 * 1024 * 1024;

/// How many datagrams of one flow follow each other, and how many packets of what else the tunnel has to say follow those: the
/// library would have what is on streams wait for as long as there are datagrams. They leave as one message if they are alike.
pub(super) const TURN: usize = 32;

/// Where nothing else was to be said, so many turns later that is asked again, unless somebody says something meanwhile.
const ALONE: u8 = 8;

/// How many are handed to an outlet at once: a message to the kernel has room for 64, and for 64 KiB.
const BATCH: usize = 32;
const BATCH_OCTETS: usize = 48 * 1024;

/// Datagrams one after the other, all but the last equally long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) octets: &'a [u8],
    /// Of each, in octets.
    pub(crate) size: usize,
}

impl<'a> Batch<'a> {
    /// A single one.
    pub(crate) fn of_one(datagram: &'a [u8]) -> Self {
        let (octets, size) = (datagram, datagram.len().max(1));
        Self { octets, size }
    }

    pub(crate) fn each(self) -> impl Iterator<Item = &'a [u8]> {
        self.octets.chunks(self.size.max(1))
    }

    pub(crate) fn count(self) -> usize {
        self.octets.len().div_ceil(self.size.max(1))
    }

    /// The first so many, and the others.
    pub(crate) fn split(self, count: usize) -> (Self, Self) {
        let at = self.octets.len().min(count.saturating_mul(self.size));
        let (octets, rest) = self.octets.split_at(at);
        let size = self.size;
        (Self { octets, size }, Self { octets: rest, size })
    }

    /// As many as have so many octets together, and the others.
    pub(crate) fn within(self, octets: usize) -> (Self, Self) {
        match self.octets.len() <= octets {
            true => self.split(usize::MAX),
            false => self.split(octets / self.size.max(1)),
        }
    }
}

/// Why datagrams were lost at this end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Longer than the tunnel's path takes.
    TooLarge,
    /// Others that came after took the room.
    QueueFull,
    /// Nobody here has a flow of that number, any more or yet.
    NoFlow,
    /// The kernel had no room for them.
    Unsent,
    /// More than the device may move in a second.
    Paced,
    /// From another address than their visitor's.
    Elsewhere,
    /// More than may be said to somebody whose address may be forged.
    Unproved,
}

impl Loss {
    pub(crate) const ALL: [Self; 7] = [
        Self::TooLarge,
        Self::QueueFull,
        Self::NoFlow,
        Self::Unsent,
        Self::Paced,
        Self::Elsewhere,
        Self::Unproved,
    ];

    /// The word for metric labels and the status.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::QueueFull => "queue_full",
            Self::NoFlow => "no_flow",
            Self::Unsent => "unsent",
            Self::Paced => "paced",
            Self::Elsewhere => "elsewhere",
            Self::Unproved => "unproved",
        }
    }
}

/// Hears of each loss, and how many datagrams that were.
pub(crate) trait Losses: Send + Sync {
    fn lost(&self, why: Loss, count: usize);
}

/// Where the datagrams of a flow go that come in the tunnel.
pub(crate) trait Outlet: Send + Sync {
    /// Takes what has come. It is called by the driver, on the worker that has the tunnel's `socket`, with the connection locked: it
    /// must be quick, and must not use the connection.
    fn take(&self, batch: Batch<'_>, socket: TunnelSocket<'_>);
}

/// The socket that a tunnel is on, for what goes elsewhere from the same address.
#[derive(Clone, Copy)]
pub(crate) struct TunnelSocket<'a>(pub(super) &'a Socket);

impl TunnelSocket<'_> {
    /// Sends datagrams, from that address of this host if there is one, and says how many the kernel had no room for.
    pub(crate) fn send(self, to: SocketAddr, from: Option<IpAddr>, batch: Batch<'_>) -> usize {
        self.0.send_batch(to, from, batch)
    }
}

/// A flow's way into its tunnel.
#[derive(Clone)]
pub(crate) struct Flow {
    connection: Arc<Inner>,
    number: u64,
}

/// What comes for a flow goes to its outlet, until this is dropped.
pub(crate) struct Opened(Flow);

impl Flow {
    /// Has what comes for the flow of a stream go to `outlet`.
    pub(super) fn open(
        connection: Arc<Inner>,
        number: u64,
        outlet: Arc<dyn Outlet>,
    ) -> (Self, Opened) {
        let mut state = connection.lock();
        if state.error.is_none() {
            let flows = state.flows.get_or_insert_default();
            let queue = Queue {
                outlet,
                waiting: VecDeque::new(),
                octets: 0,
                has_turn: false,
            };
            flows.by_number.insert(number, queue);
        }
        drop(state);
        let flow = Self { connection, number };
        (flow.clone(), Opened(flow))
    }

    /// Sends datagrams as soon as there is room for them in packets.
    pub(crate) fn send(&self, batch: Batch<'_>) {
        let losses = &self.connection.losses;
        let mut state = self.connection.lock();
        let room = state.proto.datagrams().max_size().unwrap_or_default();
        let Some(flows) = state.flows.as_deref_mut() else {
            return losses.lost(Loss::NoFlow, batch.count());
        };
        let Some(queue) = flows.by_number.get_mut(&self.number) else {
            return losses.lost(Loss::NoFlow, batch.count());
        };
        let (before, mut too_large) = (queue.octets, 0);
        // One allocation for all of them.
        let most = batch.octets.len() + batch.count() * MAX_NUMBER;
        let mut octets = BytesMut::with_capacity(most);
        for datagram in batch.each() {
            put_number(self.number, &mut octets);
            if octets.len() + datagram.len() > room {
                octets.clear();
                too_large += 1;
                continue;
            }
            octets.extend_from_slice(datagram);
            queue.push(octets.split().freeze());
        }
        flows.octets = flows.octets + queue.octets - before;
        if !queue.waiting.is_empty() && !mem::replace(&mut queue.has_turn, true) {
            flows.turns.push_back(self.number);
        }
        let dropped = flows.make_room(self.number);
        for (why, count) in [(Loss::TooLarge, too_large), (Loss::QueueFull, dropped)] {
            if count > 0 {
                losses.lost(why, count);
            }
        }
        self.connection.ask(&mut state);
    }

    /// Whether the tunnel can carry what a QUIC connection needs to begin.
    pub(crate) fn has_room(&self) -> bool {
        let mut number = Vec::with_capacity(MAX_NUMBER);
        put_number(self.number, &mut number);
        let room = self.connection.lock().proto.datagrams().max_size();
        room.is_some_and(|room| room >= LEAST_ROOM + number.len())
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flow({})", self.number)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let Flow { connection, number } = &self.0;
        let mut state = connection.lock();
        let removed = state.flows.as_deref_mut().and_then(|flows| {
            let queue = flows.by_number.remove(number)?;
            flows.octets -= queue.octets;
            Some(queue)
        });
        if state
            .flows
            .as_ref()
            .is_some_and(|flows| flows.by_number.is_empty())
        {
            state.flows = None; // a tunnel at rest has no room for any
        }
        drop(state);
        drop(removed); // which may be all there is of the flow, and use the connection when it ends
    }
}

/// The flows of one tunnel.
#[derive(Default)]
pub(super) struct Flows {
    by_number: HashMap<u64, Queue, FxBuildHasher>,
    /// Those that have something waiting, each once; one that has gone, or whose datagrams gave way, may still be among them.
    turns: VecDeque<u64>,
    /// Waiting, of all.
    octets: usize,
    turn: Turn,
    /// So many turns of flows follow each other, as nothing else was to be said.
    alone: u8,
}

/// Whose turn it is to have packets made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Turn {
    #[default]
    Flows,
    /// What is said on streams, until so many packets were made.
    Others { left: usize },
}

struct Queue {
    outlet: Arc<dyn Outlet>,
    /// The oldest first.
    waiting: VecDeque<Bytes>,
    octets: usize,
    /// It is among the [turns](Flows::turns).
    has_turn: bool,
}

/// What a datagram that waits takes, in octets.
fn kept(datagram: &Bytes) -> usize {
    datagram.len() + size_of::<Bytes>()
}

impl Queue {
    fn push(&mut self, datagram: Bytes) {
        self.octets += kept(&datagram);
        self.waiting.push_back(datagram);
    }

    fn pop(&mut self) -> Option<Bytes> {
        let oldest = self.waiting.pop_front()?;
        self.octets -= kept(&oldest);
        Some(oldest)
    }
}

impl Flows {
    /// Drops the oldest of a flow that has just got more, as far as it has too much, and where all have, of those that have most.
    /// Says how many.
    fn make_room(&mut self, number: u64) -> usize {
        let mut dropped = 0;
        // Where the tunnel has too much, somebody has more than this.
        let share = TUNNEL_QUEUE / (self.turns.len() + 1);
        if let Some(own) = self.by_number.get_mut(&number) {
            while (own.octets > FLOW_QUEUE || (self.octets > TUNNEL_QUEUE && own.octets > share))
                && let Some(oldest) = own.pop()
            {
                self.octets -= kept(&oldest);
                dropped += 1;
            }
        }
        while self.octets > TUNNEL_QUEUE
            && let Some(longest) = self.by_number.values_mut().max_by_key(|queue| queue.octets)
            && longest.octets > share
        {
            while self.octets > TUNNEL_QUEUE
                && longest.octets > share
                && let Some(oldest) = longest.pop()
            {
                self.octets -= kept(&oldest);
                dropped += 1;
            }
        }
        dropped
    }

    /// Gives the library at most so many datagrams, of each flow in its turn, if it has none. Says whether it has some now.
    fn give(
        &mut self,
        most: usize,
        proto: &mut quinn_proto::Connection,
        losses: &dyn Losses,
    ) -> bool {
        if self.turns.is_empty() || !is_empty(proto) {
            return false;
        }
        let mut library = proto.datagrams();
        let (mut given, mut too_large) = (0, 0);
        while given < most
            && let Some(number) = self.turns.pop_front()
        {
            let Some(queue) = self.by_number.get_mut(&number) else {
                continue;
            };
            while given < most
                && let Some(datagram) = queue.pop()
            {
                self.octets -= kept(&datagram);
                match library.send(datagram, true) {
                    Ok(()) => given += 1,
                    // The path has become narrower since.
                    Err(_) => too_large += 1,
                }
            }
            queue.has_turn = !queue.waiting.is_empty();
            if queue.has_turn {
                self.turns.push_back(number);
            }
        }
        if too_large > 0 {
            losses.lost(Loss::TooLarge, too_large);
        }
        given > 0
    }
}

/// Whether the library has no datagrams to send. It counts each with what it takes to keep it.
fn is_empty(proto: &mut quinn_proto::Connection) -> bool {
    const EACH: usize = size_of::<Bytes>();
    proto.datagrams().send_buffer_space() + 2 * EACH > GIVEN
}

impl State {
    /// Gives the library datagrams if it is their turn. To be called before packets are made.
    pub(super) fn feed(&mut self, losses: &dyn Losses) {
        if let Some(flows) = self.flows.as_deref_mut()
            && flows.turn == Turn::Flows
        {
            flows.give(TURN, &mut self.proto, losses);
        }
    }

    /// No packets were made. While it is the others' turn, that is because there is no room for any, or because the others have
    /// nothing to say: with one datagram more it is seen which. Says whether there is that one.
    pub(super) fn ask_for_a_packet(&mut self, losses: &dyn Losses) -> bool {
        let Some(flows) = self.flows.as_deref_mut() else {
            return false;
        };
        flows.turn != Turn::Flows && flows.give(1, &mut self.proto, losses)
    }

    /// So many packets were made, the last after it was [asked](Self::ask_for_a_packet) for one or not.
    pub(super) fn made(&mut self, packets: usize, was_asked: bool) {
        let Some(flows) = self.flows.as_deref_mut() else {
            return;
        };
        flows.turn = match flows.turn {
            Turn::Others { .. } if was_asked => {
                flows.alone = ALONE;
                Turn::Flows
            }
            Turn::Others { left } if left > packets => Turn::Others {
                left: left - packets,
            },
            Turn::Others { .. } => Turn::Flows,
            Turn::Flows if !is_empty(&mut self.proto) => Turn::Flows,
            Turn::Flows if flows.alone > 0 => {
                flows.alone -= 1;
                Turn::Flows
            }
            Turn::Flows => Turn::Others { left: TURN },
        };
    }

    /// Something was said on a stream.
    pub(super) fn others_speak(&mut self) {
        if let Some(flows) = self.flows.as_deref_mut() {
            flows.alone = 0;
        }
    }

    /// Hands what has come to the outlets of its flows, by way of `octets`.
    pub(super) fn deliver(&mut self, socket: &Socket, octets: &mut Vec<u8>, losses: &dyn Losses) {
        let mut library = self.proto.datagrams();
        let hand_over = |number, octets: &[u8], size| {
            let batch = Batch { octets, size };
            let flows = self.flows.as_deref();
            match flows.and_then(|flows| flows.by_number.get(&number)) {
                Some(queue) => queue.outlet.take(batch, TunnelSocket(socket)),
                None => losses.lost(Loss::NoFlow, batch.count()),
            }
        };
        octets.clear();
        // The batch that grows: whose it is, of what size, and whether one more of that may follow.
        let (mut number, mut size, mut open) = (0, 0, false);
        while let Some(mut datagram) = library.recv() {
            let of = match take_number(&mut datagram) {
                Some(of) if !datagram.is_empty() => of,
                Some(_) | None => {
                    losses.lost(Loss::NoFlow, 1);
                    continue;
                }
            };
            let follows = open
                && of == number
                && datagram.len() <= size
                && octets.len() + datagram.len() <= BATCH_OCTETS
                && octets.len() < BATCH * size;
            if !follows {
                if !octets.is_empty() {
                    hand_over(number, octets, size);
                    octets.clear();
                }
                (number, size) = (of, datagram.len());
            }
            octets.extend_from_slice(&datagram);
            open = datagram.len() == size;
        }
        if !octets.is_empty() {
            hand_over(number, octets, size);
            octets.clear();
        }
    }
}
