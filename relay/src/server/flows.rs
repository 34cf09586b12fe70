//! Visitors over QUIC: they come to the relay's UDP port, their name is read from their first packets, and from then on their
//! datagrams pass through the tunnel of their device as they are. Nothing more of them is ever decrypted here, and nobody hears a
//! word from the relay itself.
//!
//! ```text
//!   quic/hellos.rs ─► name ─► Directory ─► session ─► a stream of its tunnel: Open, and what has come
//!   quic/demux.rs  ─► a datagram ─► table: whose? ─► flow ─► the tunnel (quic/flow.rs)
//!   the tunnel     ─► flow ─► where its visitor is now
//! ```
//!
//! Who comes back from elsewhere to a connection with an agent, by an id that leads to its device, is another flow of it, whose visitor has
//! to show anew that it hears: nobody sees that but the agent, who says so.
//! Visitors at a public UDP port of a device are flows too (`port`); of what they say nothing is read at all.
//!
//! A flow is a visitor like any other: counted, paced, recorded, cut. It ends with its stream, or when its visitor is silent.

mod port;
mod table;
mod unproved;

use std::future::pending;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use directory::{DeviceId, Place, Reader};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::datagram;
use wire::flow::put_on_stream;
use wire::frame::Open;
use wire::{CloseCode, Frame, ResetCode};

use crate::carrier::Kind;
use crate::counts::prefix;
use crate::quic::{
    self, Arrival, Batch, Loss, Losses, Opened, Outlet, RecvStream, SendStream, Sender,
    TunnelSocket,
};
use crate::records::Recorder;
use crate::splice::{End, Moved};

use super::limits::{Admitted, DeviceVisitor, Limits};
use super::metrics::{Metrics, end_name};
use super::recorded::Visit;
use super::refusal::Refusal;
use super::sessions::{Session, Sessions};
use port::Talk;
pub(crate) use port::UdpPort;
use table::{Found, Id, Table};
use unproved::Newcomer;
pub(crate) use unproved::Unproved;

/// A visitor who has said nothing for so long has gone: twice what both ends of a QUIC connection mostly wait for each other. How it
/// ends is hidden from the relay, so each ends like this.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// The same of one who has not shown yet that it hears what is said to it: its address may be forged. A handshake takes a second,
/// and some more if packets get lost.
const UNPROVED_TIME: Duration = Duration::from_secs(10);

/// How long the tunnel may take to take what has come first.
const OPEN_TIME: Duration = Duration::from_secs(5);

/// What is kept of a visitor until its stream has been opened: its hello, and what it sends at once if it has been there before.
const EARLY: usize = 64 * 1024;

/// Who has not shown yet that it hears may be somebody else, and hears at most so many times as much as it has said (RFC 9000
/// section 8.1). The device's server keeps to that by the addresses that it sees, which are its agent's.
const ANSWER: usize = 3;

/// Ids that a device's server gives itself in the clear: in a Retry, in its handshake, and some to spare.
const IDS: usize = 6;

/// Shorter ones could be guessed: who has such an id is known by his address alone.
const LEAST_ID: usize = 8;

/// Everything a visitor's path over QUIC needs.
pub(crate) struct Flows {
    pub(crate) front: SocketAddr,
    pub(crate) directory: Reader,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    /// Where agents bring their tunnels.
    pub(crate) host: Place,
    pub(crate) recorder: Option<Recorder>,
    /// Cancelled when the relay takes no visitors any more.
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) table: Arc<Table>,
    /// Those at public ports have their own bound: they keep nobody from coming over QUIC.
    pub(crate) unproved_at_ports: Unproved,
}

/// A visitor and its device.
pub(crate) struct Flow {
    session: Arc<Session>,
    table: Arc<Table>,
    /// Where it has come to, if that is a public port of the device.
    port: Option<Arc<UdpPort>>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    began: Instant,
    /// When the visitor was heard last, in milliseconds since then.
    heard_ms: AtomicU64,
    to_device: AtomicU64,
    to_visitor: AtomicU64,
    /// Another needs its place, or there is none for it.
    gives_way: CancellationToken,
}

struct State {
    /// Where the visitor is.
    visitor: Sender,
    /// What it has made up for its device's id first, and then those that the device's server has.
    ids: Vec<Id>,
    /// What has come, as long as the tunnel has no stream for it.
    early: Vec<Vec<u8>>,
    tunnel: Option<quic::Flow>,
    standing: Standing,
    /// What has come, and what was sent back, in octets, as long as it has not shown that it hears.
    heard: usize,
    said: usize,
    talk: Talk,
}

/// How a flow begins.
struct Beginning {
    /// Whom the visitor asks for.
    name: String,
    /// What leads to it: what it has made up for the other end's id, where that is known.
    ids: Vec<Id>,
    /// All that has come.
    datagrams: Vec<Vec<u8>>,
    port: Option<Arc<UdpPort>>,
}

/// Whether the visitor has used an id that it has heard, or goes on to talk.
enum Standing {
    NotYet(Newcomer, Places),
    Proved {
        _places: Places,
    },
    /// At a public port, where nothing proves more than that.
    Converses {
        _places: Places,
    },
    /// It has, and there was no place for it.
    Refused(Refusal),
    Gone,
}

/// Where a visitor counts: it takes its places when it is known that its address is its own.
struct Places {
    admitted: Admitted,
    visitor: DeviceVisitor,
}

impl Places {
    fn take(&mut self, session: &Session) -> Result<(), Refusal> {
        self.admitted.count()?;
        let given = session.give_place(&mut self.visitor, self.admitted.from());
        given.map_err(|_| Refusal::DeviceFull)
    }

    /// The same for one who converses at a public port: its address may be forged all the same, so it takes none of those by which
    /// visitors come over QUIC or TCP.
    fn take_at_port(&mut self, session: &Session) -> Result<(), Refusal> {
        self.admitted.count_at_port()?;
        let given = session.give_place_at_port(&mut self.visitor, self.admitted.from());
        given.map_err(|_| Refusal::DeviceFull)
    }
}

/// What becomes of a visitor that is heard from elsewhere.
enum Move {
    Made,
    /// Perhaps it is somebody else.
    TooFar,
    /// It has gone, or that port has as many as may be.
    TooLate,
}

impl quic::Visitors for Flows {
    fn take(&self, from: Sender, batch: Batch<'_>, now: Instant) -> usize {
        let Some(first) = batch.each().next() else {
            return 0;
        };
        let is_short = datagram::has_short_header(first);
        let led_to = self.roaming(first);
        let back = |device: &DeviceId| self.table.of_device(from.address, device);
        let (flow, alone) = match self.table.of(from.address, first) {
            Found::Known { flow, alone } => match led_to {
                Some(device) if device != flow.session.device => match back(&device) {
                    Some(flow) => (flow, false),
                    None => return 0,
                },
                Some(_) | None => (flow, alone),
            },
            // Whatever id another device has told its visitor.
            Found::Moved(flow) if led_to.is_some_and(|device| device != flow.session.device) => {
                match led_to.as_ref().and_then(back) {
                    Some(flow) => (flow, false),
                    None => return 0,
                }
            }
            Found::Moved(flow) => match (flow.moves(from), led_to) {
                (Move::Made, _) => {
                    self.metrics.flow_moved();
                    (flow, true)
                }
                (Move::TooFar, Some(device)) => match back(&device) {
                    Some(flow) => (flow, false),
                    None => return 0,
                },
                (Move::TooFar, None) => {
                    self.metrics.lost(Loss::Elsewhere, 1);
                    return 1;
                }
                (Move::TooLate, _) => return 0,
            },
            Found::Nobody => return 0,
        };
        // Of packets with a long header each says whose it is, and so does each where one port has several.
        let count = match is_short && alone {
            true => batch
                .each()
                .take_while(|datagram| datagram::has_short_header(datagram))
                .count(),
            false => 1,
        };
        flow.to_device(batch.split(count).0, now);
        count
    }

    fn comes_back(&self, datagram: &[u8]) -> bool {
        self.roaming(datagram).is_some()
    }

    fn come_back(&self, from: Sender, datagram: &[u8], now: Instant) {
        self.metrics.visitor_accepted();
        if let Err(refusal) = self.admit_again(from, datagram, now) {
            self.metrics.visitor_refused(refusal);
            tracing::debug!(
                reason = refusal.name(),
                "a visitor who has come back was not taken"
            );
        }
    }

    fn is_own(&self, name: &str) -> bool {
        self.directory.zone().locate(name) == self.host
    }

    fn arrive(&self, arrival: Arrival, now: Instant) {
        self.metrics.visitor_accepted();
        if let Err(refusal) = self.admit(arrival, now) {
            self.metrics.visitor_refused(refusal);
            tracing::debug!(reason = refusal.name(), "a visitor over QUIC was not taken");
        }
    }
}

impl Flows {
    /// Finds the visitor's device, and a place for it there.
    fn admit(&self, arrival: Arrival, now: Instant) -> Result<(), Refusal> {
        let Arrival {
            from,
            name,
            id,
            datagrams,
        } = arrival;
        if self.stop.is_cancelled() {
            return Err(Refusal::NoFlows);
        }
        let address = from.address.ip();
        let admitted = self.limits.admit_flow(address)?;
        let Place::Device(device) = self.directory.zone().locate(&name) else {
            return Err(Refusal::UnknownName);
        };
        let device = self.directory.device_by_name(&device);
        let device = device.ok_or(Refusal::UnknownName)?;
        let identity = device.identity.ok_or(Refusal::NotAttached)?;
        let ids = Id::new(&id).into_iter().collect();
        self.host(identity.id, admitted, from, name, ids, datagrams, now)
    }

    /// The same for one who comes back.
    fn admit_again(&self, from: Sender, datagram: &[u8], now: Instant) -> Result<(), Refusal> {
        if self.stop.is_cancelled() {
            return Err(Refusal::NoFlows);
        }
        let admitted = self.limits.admit_flow(from.address.ip())?;
        let device = self.roaming(datagram).ok_or(Refusal::UnknownName)?;
        let (name, datagrams) = (String::new(), vec![datagram.to_vec()]);
        self.host(device, admitted, from, name, Vec::new(), datagrams, now)?;
        self.metrics.flow_came_back();
        Ok(())
    }

    /// The device to whose agent the id of a packet leads.
    fn roaming(&self, packet: &[u8]) -> Option<DeviceId> {
        self.sessions.roaming.device(packet)
    }

    fn host(
        &self,
        device: DeviceId,
        admitted: Admitted,
        from: Sender,
        name: String,
        ids: Vec<Id>,
        datagrams: Vec<Vec<u8>>,
        now: Instant,
    ) -> Result<(), Refusal> {
        let session = self.sessions.of(&device).ok_or(Refusal::NotAttached)?;
        if !session.takes_flows() {
            return Err(Refusal::NoFlows);
        }
        let visitor = session.visitor_without_place();
        let places = Places {
            admitted,
            visitor: visitor.map_err(|_| Refusal::DeviceFull)?,
        };
        let beginning = Beginning {
            name,
            ids,
            datagrams,
            port: None,
        };
        self.begin(from, session, places, beginning, now)
    }

    /// Makes the flow of a visitor, and whoever looks after it.
    fn begin(
        &self,
        from: Sender,
        session: Arc<Session>,
        places: Places,
        beginning: Beginning,
        now: Instant,
    ) -> Result<(), Refusal> {
        let Beginning {
            name,
            ids,
            datagrams,
            port,
        } = beginning;
        let gives_way = CancellationToken::new();
        let unproved = match &port {
            Some(_) => &self.unproved_at_ports,
            None => &self.table.unproved,
        };
        let most = session.most_unproved();
        let newcomer = unproved.come(session.device, most, gives_way.clone());
        let flow = Arc::new(Flow {
            table: Arc::clone(&self.table),
            metrics: Arc::clone(&self.metrics),
            state: Mutex::new(State {
                visitor: from,
                ids,
                heard: datagrams.iter().map(Vec::len).sum(),
                said: 0,
                talk: Talk::begin(datagrams.len()),
                early: datagrams,
                tunnel: None,
                standing: Standing::NotYet(newcomer, places),
            }),
            began: now,
            heard_ms: AtomicU64::new(0),
            to_device: AtomicU64::new(0),
            to_visitor: AtomicU64::new(0),
            gives_way,
            session,
            port,
        });
        match &flow.port {
            Some(port) if !port.add(from.address, &flow) => return Err(Refusal::PortFull),
            None if !self.table.add(from.address, &flow) => return Err(Refusal::PortFull),
            Some(_) | None => {}
        }
        let number = flow.port.as_ref().map(|port| port.door.port.number);
        let guest = Guest {
            visit: Visit::begin(from.address),
            open: Open {
                name,
                visitor: from.address,
                front: self.front_reached(from.here, number),
                datagrams: true,
                port: number,
            },
            metrics: Arc::clone(&self.metrics),
            sessions: Arc::clone(&self.sessions),
            recorder: self.recorder.clone(),
            flow: Arc::clone(&flow),
        };
        let home = flow.session.home();
        let served = home.serve();
        let hosted = async move {
            guest.host().await;
            drop(served);
        };
        self.tasks.spawn_on(hosted, home.runtime());
        Ok(())
    }

    fn front_reached(&self, here: Option<IpAddr>, port: Option<NonZeroU16>) -> SocketAddr {
        let ip = match here {
            Some(here) if self.front.ip().is_unspecified() => here,
            Some(_) | None => self.front.ip(),
        };
        (ip, port.map_or(self.front.port(), NonZeroU16::get)).into()
    }
}

impl Flow {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_for(&self, packet: &[u8]) -> bool {
        let state = self.state();
        state.ids.iter().any(|id| id.is_destination_of(packet))
    }

    fn is_proved(&self) -> bool {
        matches!(self.state().standing, Standing::Proved { .. })
    }

    fn is_conversing(&self) -> bool {
        matches!(self.state().standing, Standing::Converses { .. })
    }

    /// Passes what has come from the visitor on to its device.
    fn to_device(&self, batch: Batch<'_>, now: Instant) {
        let since_begun = now.saturating_duration_since(self.began).as_millis();
        self.heard_ms
            .store(u64::try_from(since_begun).unwrap_or(u64::MAX), Relaxed);
        let octets = batch.octets.len();
        self.session.active();
        if !self.session.pace.may_pass(octets) {
            return self.metrics.lost(Loss::Paced, batch.count());
        }
        let mut state = self.state();
        state.heard = state.heard.saturating_add(octets);
        state.talk.heard(batch.count());
        self.prove(&mut state, batch);
        if !state.is_here() {
            return self.metrics.lost(Loss::NoFlow, batch.count());
        }
        let Some(tunnel) = state.tunnel.clone() else {
            let mut kept: usize = state.early.iter().map(Vec::len).sum();
            for datagram in batch.each() {
                kept += datagram.len();
                match kept <= EARLY {
                    true => state.early.push(datagram.to_vec()),
                    false => self.metrics.lost(Loss::QueueFull, 1),
                }
            }
            return;
        };
        drop(state);
        tunnel.send(batch);
        self.passed(octets);
    }

    /// Looks whether the visitor shows that it hears, if it has not yet.
    fn prove(&self, state: &mut State, batch: Batch<'_>) {
        if !matches!(state.standing, Standing::NotYet(..)) {
            return;
        }
        match self.port {
            Some(_) if state.talk.goes_on() => self.converses(state),
            None if state.shows_that_it_hears(batch) => self.is_real(state),
            Some(_) | None => {}
        }
    }

    /// The visitor goes on to talk at a public port: it takes a place there. Without one it stays as it is, and hears little.
    fn converses(&self, state: &mut State) {
        let standing = mem::replace(&mut state.standing, Standing::Gone);
        let Standing::NotYet(newcomer, mut places) = standing else {
            state.standing = standing;
            return;
        };
        state.standing = match places.take_at_port(&self.session) {
            Err(_) => Standing::NotYet(newcomer, places),
            Ok(()) if newcomer.stays() => Standing::Converses { _places: places },
            Ok(()) => Standing::Gone,
        };
    }

    /// The visitor hears what is said to it: it takes its places, or has to leave.
    fn is_real(&self, state: &mut State) {
        if !matches!(state.standing, Standing::NotYet(..)) {
            return;
        }
        if let Standing::NotYet(newcomer, mut places) =
            mem::replace(&mut state.standing, Standing::Gone)
            && newcomer.stays()
        {
            state.standing = match places.take(&self.session) {
                Ok(()) => Standing::Proved { _places: places },
                Err(refusal) => {
                    self.gives_way.cancel();
                    Standing::Refused(refusal)
                }
            };
        }
    }

    fn passed(&self, octets: usize) {
        self.to_device.fetch_add(octets as u64, Relaxed);
        self.session.octets.to_device.add(octets as u64);
    }

    /// The visitor goes on from another port of its address, as it shows by an id that it has heard from its device's server: a NAT
    /// has given it that. Whoever has seen the id pass could send it from elsewhere, and the device's answers would go there.
    fn moves(self: &Arc<Self>, from: Sender) -> Move {
        let mut state = self.state();
        if prefix(state.visitor.address.ip()) != prefix(from.address.ip()) {
            return Move::TooFar;
        }
        if !state.is_here() || !self.table.add(from.address, self) {
            return Move::TooLate;
        }
        let before = mem::replace(&mut state.visitor, from);
        if before.address != from.address {
            self.table.forget(before.address, self);
        }
        Move::Made
    }

    /// Learns by which ids its visitor will know its device's server.
    fn learn(self: &Arc<Self>, state: &mut State, datagram: &[u8]) {
        if let Some((_, source)) = datagram::ids(datagram)
            && let Some(id) = Id::new(source)
            && !state.ids.contains(&id)
            && state.ids.len() <= IDS
            && state.is_here()
        {
            if source.len() >= LEAST_ID {
                self.table.know(id, self);
            }
            state.ids.push(id);
        }
    }

    /// When it has been silent for too long, if nothing more is heard.
    fn deadline(&self) -> Instant {
        let heard_at = self.began + Duration::from_millis(self.heard_ms.load(Relaxed));
        match &self.port {
            Some(_) if self.is_conversing() => heard_at + port::IDLE_TIME,
            Some(_) => heard_at + port::UNPROVED_TIME,
            None if self.is_proved() => heard_at + IDLE_TIME,
            None => self.began + UNPROVED_TIME,
        }
    }

    /// Waits until the device has no such port any more.
    async fn loses_its_port(&self) {
        match &self.port {
            Some(port) => port.door.lost.cancelled().await,
            None => pending().await,
        }
    }

    /// What has passed, and how the visitor stood here: as long as that is kept, it has its places.
    fn end(self: &Arc<Self>) -> (Moved, Standing) {
        let mut state = self.state();
        let standing = mem::replace(&mut state.standing, Standing::Gone);
        state.tunnel = None;
        state.early = Vec::new();
        match &self.port {
            Some(port) => port.forget(state.visitor.address, self),
            None => {
                self.table.forget(state.visitor.address, self);
                self.table.forget_ids(&state.ids, self);
            }
        }
        let moved = Moved {
            outwards: self.to_device.load(Relaxed),
            inwards: self.to_visitor.load(Relaxed),
            end: End::Done,
        };
        (moved, standing)
    }
}

impl State {
    fn is_here(&self) -> bool {
        matches!(
            self.standing,
            Standing::NotYet(..) | Standing::Proved { .. } | Standing::Converses { .. }
        )
    }

    /// What may be said to the visitor of a batch, and what it may not hear.
    fn answer<'a>(&mut self, batch: Batch<'a>, port: Option<&UdpPort>) -> (Batch<'a>, Batch<'a>) {
        let most = match self.standing {
            Standing::NotYet(..) => self.heard.saturating_mul(ANSWER),
            Standing::Converses { .. } => self.talk.most(self.heard),
            Standing::Proved { .. } | Standing::Refused(_) | Standing::Gone => {
                return batch.split(usize::MAX);
            }
        };
        let room = most.saturating_sub(self.said);
        let room = port.map_or(room, |port| self.talk.with_gift(room, batch, port));
        let (answer, beyond) = batch.within(room);
        // What was a gift is not taken from what it may hear for what it says.
        self.said += answer.octets.len().min(most.saturating_sub(self.said));
        self.talk.said(answer);
        (answer, beyond)
    }

    /// Whether the visitor uses an id that it can only have from its device's server.
    fn shows_that_it_hears(&self, batch: Batch<'_>) -> bool {
        let mut heard = self.ids.iter().skip(1);
        let Some(datagram) = batch.each().next() else {
            return false;
        };
        heard.any(|id| id.is_destination_of(datagram))
    }
}

/// What comes in the tunnel for the visitor.
struct ToVisitor(Arc<Flow>);

impl Outlet for ToVisitor {
    fn take(&self, batch: Batch<'_>, socket: TunnelSocket<'_>) {
        let flow = &self.0;
        if !flow.session.pace.may_pass(batch.octets.len()) {
            return flow.metrics.lost(Loss::Paced, batch.count());
        }
        let mut state = flow.state();
        for datagram in batch.each() {
            if flow.port.is_none() && !datagram::has_short_header(datagram) {
                flow.learn(&mut state, datagram);
            }
        }
        let visitor = state.visitor;
        let (answer, beyond) = state.answer(batch, flow.port.as_deref());
        drop(state);
        let unsent = match &flow.port {
            Some(port) => port.send(visitor, answer),
            None => socket.send(visitor.address, visitor.here, answer),
        };
        for (why, count) in [(Loss::Unsent, unsent), (Loss::Unproved, beyond.count())] {
            if count > 0 {
                flow.metrics.lost(why, count);
            }
        }
        let octets = answer.octets.len();
        flow.to_visitor.fetch_add(octets as u64, Relaxed);
        flow.session.octets.to_visitor.add(octets as u64);
        flow.session.active();
    }
}

/// A visitor from its first datagrams to its end, on the worker that has its device's tunnel.
struct Guest {
    flow: Arc<Flow>,
    open: Open,
    visit: Visit,
    metrics: Arc<Metrics>,
    sessions: Arc<Sessions>,
    recorder: Option<Recorder>,
}

impl Guest {
    async fn host(self) {
        let flow = &self.flow;
        let opened = tokio::select! {
            biased;
            () = flow.gives_way.cancelled() => Err(Refusal::GaveWay),
            () = flow.loses_its_port() => Err(Refusal::NoFlows),
            opened = timeout(OPEN_TIME, self.begin()) => {
                opened.ok().flatten().ok_or(Refusal::NoCarrier)
            }
        };
        let (mut send, mut recv, opened) = match opened {
            Ok(opened) => opened,
            Err(refusal) => {
                let refusal = match flow.end() {
                    (_, Standing::Refused(refusal)) => refusal,
                    _ => refusal,
                };
                return self.metrics.visitor_refused(refusal);
            }
        };
        self.metrics.carrier_opened(Kind::Flow);
        let took = flow.began.elapsed();
        self.metrics.measured.visitor_open(Kind::Flow, took);
        let end = self.until_it_ends(&mut recv).await;
        drop(opened);
        let (moved, standing) = flow.end();
        let moved = Moved { end, ..moved };
        let was_proved = matches!(standing, Standing::Proved { .. });
        match end {
            End::Done => send.finish(),
            End::Idle | End::NearGone => send.reset(ResetCode::Idle),
            End::Cut | End::Shed => send.reset(ResetCode::Cut),
            End::FarGone => send.reset(ResetCode::PeerGone),
        }
        self.sessions.tell_octets(&flow.session);
        match standing {
            Standing::Refused(refusal) => self.metrics.visitor_refused(refusal),
            Standing::NotYet(..)
            | Standing::Proved { .. }
            | Standing::Converses { .. }
            | Standing::Gone => self.metrics.visitor_ended(moved),
        }
        // The address of any other may be forged, and then whoever has it was never here: so it is of who converses at a port.
        if let (Some(recorder), true) = (&self.recorder, was_proved) {
            let device = flow.session.device;
            recorder.record(self.visit.record(device, Kind::Flow, moved));
        }
        let (to_device, to_visitor) = (moved.outwards, moved.inwards);
        let end = end_name(end);
        tracing::debug!(end, to_device, to_visitor, "a visitor's flow has ended");
    }

    /// Opens the stream, and sends on it what has come: there it is not lost, and not there before the agent knows of the flow.
    async fn begin(&self) -> Option<(SendStream, RecvStream, Opened)> {
        let flow = &self.flow;
        let (mut send, recv) = flow.session.open_flow().await.ok()?;
        let outlet = Arc::new(ToVisitor(Arc::clone(flow)));
        let (tunnel, opened) = send.flow(outlet);
        let mut first = BytesMut::from(&*Frame::Open(self.open.clone()).encode().ok()?);
        loop {
            {
                let mut state = flow.state();
                if state.early.is_empty() {
                    state.tunnel = Some(tunnel);
                    return Some((send, recv, opened));
                }
                for datagram in state.early.drain(..) {
                    put_on_stream(&datagram, &mut first);
                    flow.passed(datagram.len());
                }
            }
            send.write_all(&first).await.ok()?;
            first.clear();
        }
    }

    async fn until_it_ends(&self, recv: &mut RecvStream) -> End {
        let flow = &self.flow;
        let mut nothing = [0];
        loop {
            let deadline = flow.deadline();
            tokio::select! {
                biased;
                () = flow.session.ended().cancelled() => {
                    let went = [CloseCode::Done, CloseCode::Unresponsive];
                    return match went.contains(&flow.session.end_code()) {
                        true => End::FarGone,
                        false => End::Cut,
                    };
                }
                () = flow.gives_way.cancelled() => return End::NearGone,
                () = flow.loses_its_port() => return End::Cut,
                read = recv.read(&mut nothing) => match read {
                    Ok(0) => return End::Done,
                    // Nothing else is ever said to us there.
                    Ok(_) if self.open.name.is_empty() && self.open.port.is_none() => flow.is_real(&mut flow.state()),
                    Ok(_) | Err(_) => return End::FarGone,
                },
                () = sleep_until(deadline.into()) => {
                    if flow.deadline() <= Instant::now() {
                        return End::Idle;
                    }
                }
            }
        }
    }
}
