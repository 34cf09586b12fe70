//! Visitors at a public UDP port of a device: each is a [flow](super) like those over QUIC, known by where it comes from alone. What they
//! say is read by nobody, so nothing proves that an address is its owner's; what there is, is that somebody goes on to talk, and somebody who
//! forges an address can do that blindly. So there is always a bound on what is said to a visitor for what it says, who converses has a
//! place among those at ports only, and none is recorded.

use std::collections::HashMap;
use std::future::poll_fn;
use std::mem;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{Beginning, Flow, Flows, Places};
use crate::quic::{Batch, Loss, Losses as _, Newcomers, PortSocket, Sender};
use crate::server::ports::PortDoor;
use crate::server::refusal::Refusal;

/// So many newcomers are taken at one port: each takes a stream of the tunnel and a socket of the agent. More are a flood, and who is there
/// already must not wait for it.
const NEWCOMER_EVERY: Duration = Duration::from_millis(1);

/// So many at once, after a while with fewer.
const NEWCOMERS_AT_ONCE: u32 = 256;

/// A visitor who has spoken again so often after it was answered converses. Somebody who forges an address cannot hear when to, but can
/// guess.
const TURNS: u8 = 2;

/// What a visitor may hear once beside so many times what it has said: an answer of a name server.
const GIFT: usize = 4096;

/// One octet of all gifts of a port in so long, which is a quarter of a megabyte a second: what somebody who forges addresses has the port
/// say to others beyond what it says itself.
const GIFT_OCTET_EVERY: Duration = Duration::from_micros(4);

/// So many at once: those of all newcomers that there may be at once.
const GIFTS_AT_ONCE: u32 = NEWCOMERS_AT_ONCE * GIFT as u32;

/// A visitor who converses hears at most so many times as much as it has said. That is much more than in a download, where
/// acknowledgements come back, and less than a service that never ends would send to somebody who has not asked.
const CONVERSATION: usize = 64;

/// For that a datagram counts for so many octets at least: one acknowledgement may be for ten long ones and more.
const LEAST_HEARD: usize = 256;

/// A visitor who has said nothing for so long has gone: as long as a NAT would keep its port, and some more (RFC 4787, REQ-5).
pub(super) const IDLE_TIME: Duration = Duration::from_secs(150);

/// The same of one who does not converse: mostly it has asked once, and has been answered.
pub(super) const UNPROVED_TIME: Duration = Duration::from_secs(30);

/// A public UDP port, and who is there.
pub(crate) struct UdpPort {
    pub(super) door: Arc<PortDoor>,
    flows: Arc<Flows>,
    /// That of the worker that attends to it; absent before one does.
    socket: Mutex<Option<Arc<PortSocket>>>,
    /// As many as converse or may, which the device's session and its bounds say.
    by_visitor: Mutex<HashMap<SocketAddr, Arc<Flow>>>,
    newcomers: Mutex<Newcomers>,
    /// What is left of the gifts of its visitors, by octets.
    gifts: Mutex<Newcomers>,
    /// Cancelled when there are to be none.
    no_newcomers: CancellationToken,
}

impl UdpPort {
    pub(crate) fn new(
        door: Arc<PortDoor>,
        flows: Arc<Flows>,
        no_newcomers: CancellationToken,
    ) -> Self {
        let now = Instant::now();
        let newcomers = Newcomers::new(NEWCOMER_EVERY, NEWCOMERS_AT_ONCE, now);
        let gifts = Newcomers::new(GIFT_OCTET_EVERY, GIFTS_AT_ONCE, now);
        Self {
            door,
            flows,
            socket: Mutex::default(),
            by_visitor: Mutex::default(),
            newcomers: Mutex::new(newcomers),
            gifts: Mutex::new(gifts),
            no_newcomers,
        }
    }

    fn socket(&self) -> MutexGuard<'_, Option<Arc<PortSocket>>> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn by_visitor(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Flow>>> {
        let by_visitor = self.by_visitor.lock();
        by_visitor.unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what comes at the calling worker's socket, until `stop`.
    pub(crate) async fn attend(self: Arc<Self>, socket: Arc<PortSocket>, stop: CancellationToken) {
        {
            // Another worker attends to it already where that has been stopped before it began.
            let mut here = self.socket();
            if stop.is_cancelled() {
                return;
            }
            *here = Some(Arc::clone(&socket));
        }
        self.read(&socket, stop).await;
        // As long as somebody has the socket nobody can bind the port, and a flow lasts until its task has noticed.
        self.socket().take_if(|here| Arc::ptr_eq(here, &socket));
    }

    async fn read(self: &Arc<Self>, socket: &PortSocket, stop: CancellationToken) {
        loop {
            let came = poll_fn(|cx| {
                let now = Instant::now();
                socket.poll_take(cx, |from, batch| self.take(from, batch, now))
            });
            tokio::select! {
                biased; // a port that is closed is not read any more, whatever comes
                () = stop.cancelled() => return,
                came = came => if let Err(error) = came {
                    self.flows.metrics.accept_error(&error);
                    tracing::debug!(%error, "nothing could be read at a public port");
                    tokio::task::yield_now().await;
                },
            }
        }
    }

    fn take(self: &Arc<Self>, from: Sender, batch: Batch<'_>, now: Instant) {
        let known = self.by_visitor().get(&from.address).cloned();
        if let Some(flow) = known {
            return flow.to_device(batch, now);
        }
        let metrics = &self.flows.metrics;
        metrics.visitor_accepted();
        if let Err(refusal) = self.admit(from, batch, now) {
            metrics.visitor_refused(refusal);
            metrics.lost(Loss::NoFlow, batch.count());
            tracing::debug!(
                reason = refusal.name(),
                "a visitor at a UDP port was not taken"
            );
        }
    }

    fn admit(
        self: &Arc<Self>,
        from: Sender,
        batch: Batch<'_>,
        now: Instant,
    ) -> Result<(), Refusal> {
        if self.no_newcomers.is_cancelled() {
            return Err(Refusal::NoFlows);
        }
        let newcomers = self.newcomers.lock();
        if !newcomers
            .unwrap_or_else(PoisonError::into_inner)
            .may_come(1, now)
        {
            return Err(Refusal::PortBusy);
        }
        let admitted = self.flows.limits.admit_flow(from.address.ip())?;
        let session = self.flows.sessions.of(&self.door.device);
        let session = session.ok_or(Refusal::NotAttached)?;
        if !session.takes_flows() || !session.takes_ports() {
            return Err(Refusal::NoFlows);
        }
        let visitor = session.visitor_without_place();
        let places = Places {
            admitted,
            visitor: visitor.map_err(|_| Refusal::DeviceFull)?,
        };
        let beginning = Beginning {
            name: String::new(),
            ids: Vec::new(),
            datagrams: batch.each().map(<[u8]>::to_vec).collect(),
            port: Some(Arc::clone(self)),
        };
        self.flows.begin(from, session, places, beginning, now)
    }

    /// Makes it known that a visitor is there; `false` if it was already, by what another worker has read.
    pub(super) fn add(&self, visitor: SocketAddr, flow: &Arc<Flow>) -> bool {
        let mut by_visitor = self.by_visitor();
        let there = by_visitor
            .entry(visitor)
            .or_insert_with(|| Arc::clone(flow));
        Arc::ptr_eq(there, flow)
    }

    pub(super) fn forget(&self, visitor: SocketAddr, flow: &Arc<Flow>) {
        let mut by_visitor = self.by_visitor();
        let known = by_visitor.get(&visitor);
        if known.is_some_and(|known| Arc::ptr_eq(known, flow)) {
            by_visitor.remove(&visitor);
        }
    }

    /// Whether so much may be said to a visitor who has said too little for it.
    fn gives(&self, octets: usize) -> bool {
        let gifts = self.gifts.lock();
        let mut gifts = gifts.unwrap_or_else(PoisonError::into_inner);
        u32::try_from(octets).is_ok_and(|octets| gifts.may_come(octets, Instant::now()))
    }

    /// Sends what the device's service says, and says how many datagrams there was no room for.
    pub(super) fn send(&self, to: Sender, batch: Batch<'_>) -> usize {
        let socket = self.socket().clone();
        socket.map_or(batch.count(), |socket| socket.send(to, batch))
    }
}

/// How a visitor at a port and the service talk.
pub(super) struct Talk {
    /// It was answered since it has spoken, and so often it has spoken after that.
    is_answered: bool,
    turns: u8,
    /// How many datagrams have come.
    heard: usize,
    /// How much of its gift it has had, in octets.
    gift: usize,
}

impl Talk {
    /// That of a visitor of whom so many datagrams have come.
    pub(super) fn begin(heard: usize) -> Self {
        Self {
            is_answered: false,
            turns: 0,
            heard,
            gift: 0,
        }
    }

    pub(super) fn heard(&mut self, datagrams: usize) {
        self.heard = self.heard.saturating_add(datagrams);
    }

    /// What nobody was let hear is no answer.
    pub(super) fn said(&mut self, answer: Batch<'_>) {
        self.is_answered |= !answer.octets.is_empty();
    }

    /// Whether the visitor, who has just spoken, has done so often enough after it was answered.
    pub(super) fn goes_on(&mut self) -> bool {
        if mem::take(&mut self.is_answered) {
            self.turns = self.turns.saturating_add(1);
        }
        self.turns >= TURNS
    }

    /// How much may be said to one who converses and has said so much, in octets.
    pub(super) fn most(&self, heard: usize) -> usize {
        let heard = heard.max(self.heard.saturating_mul(LEAST_HEARD));
        heard.saturating_mul(CONVERSATION)
    }

    /// What may be said of a batch for which there is so much room: more, if what is left of the gift is enough for more of its datagrams,
    /// and the port gives it.
    pub(super) fn with_gift(&mut self, room: usize, batch: Batch<'_>, port: &UdpPort) -> usize {
        let left = GIFT.saturating_sub(self.gift);
        let (answer, _) = batch.within(room.saturating_add(left));
        let more = answer.octets.len().saturating_sub(room);
        if more == 0 || !port.gives(more) {
            return room;
        }
        self.gift += more;
        room.saturating_add(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_which_nothing_is_let_out_is_none() {
        let mut talk = Talk::begin(1);
        for _ in 0..5 {
            talk.said(Batch::of_one(b""));
            assert!(!talk.goes_on());
        }
        talk.said(Batch::of_one(b"one"));
        assert!(!talk.goes_on() && !talk.goes_on());
        talk.said(Batch::of_one(b"two"));
        assert!(talk.goes_on() && talk.goes_on());
    }
}
