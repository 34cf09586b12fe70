//! A UDP socket and the connections over it. One driver moves the packets of all of them, on the worker where the endpoint was
//! opened:
//!
//! ```text
//!   due      connections whose time has come are put on the agenda
//!   send     what the connections on the agenda have to say
//!   receive  packets are handed to their connections, whose users are woken; the connections go on the agenda
//! ```
//!
//! The driver sends after whoever was woken has run: what they say, and what is to be acknowledged, leaves in one packet.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn_proto::{
    ClientConfig, ConnectError, ConnectionError, ConnectionHandle, ConnectionId, DatagramEvent,
    EndpointConfig, ServerConfig, Transmit, VarInt,
};
use quinn_udp::RecvMeta;
use tokio::time::{Sleep, sleep_until};

use super::connection::{Connection, Inner, State};
use super::demux::Demultiplexer;
use super::socket::{self, Landing, Socket};

/// How many packets are handed to the kernel as one message, at most: 46 KiB of a path with packets of 1,472 octets, and a
/// message has room for 64.
const BATCH: usize = 32;

/// How many packets one connection sends before it is the next one's turn.
const TURN: usize = 64;

/// How often the socket is read before others on this worker have their turn.
const READS: usize = 4;

/// So long reading may fail. A kernel that is short of memory recovers; a socket that is none does not.
const PATIENCE: Duration = Duration::from_secs(5);

/// When it is tried again, which is on nobody's behalf.
const NOBODY: usize = usize::MAX;
const PAUSE: Duration = Duration::from_millis(10);

/// An endpoint. When all its clones are gone, it ends with the last connection.
#[derive(Clone)]
pub(crate) struct Endpoint(Arc<Kept>);

struct Kept(Arc<Shared>);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.agenda.abandon();
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").finish_non_exhaustive()
    }
}

struct Shared {
    socket: Socket,
    agenda: Arc<Agenda>,
    side: Mutex<Side>,
}

/// This side of all the connections.
struct Side {
    proto: quinn_proto::Endpoint,
    /// By the number of its handle.
    connections: Vec<Option<Arc<Inner>>>,
    /// How many there are.
    count: usize,
    /// Who wants to connect.
    incoming: VecDeque<quinn_proto::Incoming>,
    /// Nobody may any more: whoever comes is refused.
    refusing: bool,
    /// Nobody waits for those who come any more.
    closed: bool,
    /// For who comes, or for the last to leave.
    waiting: Vec<Waker>,
}

/// What the driver is to look at.
#[derive(Default)]
pub(super) struct Agenda(Mutex<Items>);

#[derive(Default)]
struct Items {
    connections: Vec<Arc<Inner>>,
    driver: Option<Waker>,
    /// The driver has been woken.
    awake: bool,
    /// Nobody has the endpoint any more.
    abandoned: bool,
    /// There is no driver any more.
    ended: bool,
}

impl Agenda {
    fn lock(&self) -> MutexGuard<'_, Items> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, connection: Arc<Inner>) {
        let mut items = self.lock();
        if !items.ended {
            items.connections.push(connection);
            items.wake();
        }
    }

    fn abandon(&self) {
        let mut items = self.lock();
        items.abandoned = true;
        items.wake();
    }
}

impl Items {
    fn wake(&mut self) {
        if !mem::replace(&mut self.awake, true)
            && let Some(driver) = &self.driver
        {
            driver.wake_by_ref();
        }
    }
}

impl Endpoint {
    /// Opens an endpoint on `socket`, driven by the runtime that calls. With a `server`, others may connect. Datagrams go
    /// through the `demultiplexer` first, if there is one.
    pub(super) fn open(
        socket: std::net::UdpSocket,
        config: EndpointConfig,
        server: Option<ServerConfig>,
        demultiplexer: Option<Demultiplexer>,
    ) -> io::Result<Self> {
        let socket = Socket::new(socket)?;
        let discovers_mtu = !socket.may_fragment();
        let server = server.map(Arc::new);
        let proto = quinn_proto::Endpoint::new(Arc::new(config), server, discovers_mtu, None);
        let shared = Arc::new(Shared {
            agenda: Arc::default(),
            side: Mutex::new(Side {
                proto,
                connections: Vec::new(),
                count: 0,
                incoming: VecDeque::new(),
                refusing: false,
                closed: false,
                waiting: Vec::new(),
            }),
            socket,
        });
        tokio::spawn(Driver {
            shared: Arc::clone(&shared),
            demultiplexer,
            agenda: Vec::new(),
            packets: Vec::new(),
            unsent: None,
            landing: Landing::new(),
            failing_since: None,
            heard: Vec::new(),
            times: BinaryHeap::new(),
            alarm: None,
        });
        Ok(Self(Arc::new(Kept(shared))))
    }

    /// Something that is there for as long as the driver is.
    #[cfg(test)]
    pub(super) fn driven(&self) -> std::sync::Weak<impl Sized + use<>> {
        Arc::downgrade(&self.0.0)
    }

    /// Has the kernel refuse a message, as one does that cannot take several packets at once.
    #[cfg(test)]
    pub(super) fn have_a_batch_refused(&self) {
        const NOTHING: [u8; 4096] = [0; 4096];
        let too_many_packets = Transmit {
            destination: SocketAddr::from(([127, 0, 0, 1], 9)),
            ecn: None,
            size: NOTHING.len(),
            segment_size: Some(1),
            src_ip: None,
        };
        self.0.0.socket.send(&too_many_packets, &NOTHING);
    }

    /// Begins a handshake with `host` at `remote`.
    pub(super) fn connect(
        &self,
        config: ClientConfig,
        remote: SocketAddr,
        host: &str,
    ) -> Result<Connection, ConnectError> {
        let shared = &self.0.0;
        let mut side = shared.lock();
        if side.closed {
            return Err(ConnectError::EndpointStopping);
        }
        let (handle, proto) = side.proto.connect(Instant::now(), config, remote, host)?;
        Ok(shared.add(&mut side, handle, proto))
    }

    /// The next who wants to connect; `None` once nobody may any more.
    pub(crate) async fn accept(&self) -> Option<Incoming> {
        let shared = &self.0.0;
        poll_fn(|cx| {
            let mut side = shared.lock();
            match side.incoming.pop_front() {
                Some(incoming) => Poll::Ready(Some(Incoming {
                    remote_address: incoming.remote_address(),
                    may_retry: incoming.may_retry(),
                    first_id: *incoming.orig_dst_cid(),
                    unanswered: Some(incoming),
                    shared: Arc::clone(shared),
                })),
                None if side.closed => Poll::Ready(None),
                None => {
                    side.waiting.push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// From now on, whoever wants to connect is refused.
    pub(crate) fn refuse_newcomers(&self) {
        self.0.0.lock().refusing = true;
    }

    /// Closes every connection, and takes no more.
    pub(crate) fn close(&self, code: VarInt, reason: &[u8]) {
        let reason = Bytes::copy_from_slice(reason);
        let mut side = self.0.0.lock();
        side.refusing = true;
        side.closed = true;
        side.ignore_incoming();
        for connection in side.connections.iter().flatten() {
            connection.close(code, reason.clone());
        }
        side.wake_waiting();
    }

    /// Waits until every connection has ended, and the other ends have heard so or never will.
    pub(crate) async fn wait_idle(&self) {
        poll_fn(|cx| {
            let mut side = self.0.0.lock();
            if side.count == 0 {
                return Poll::Ready(());
            }
            side.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Side> {
        self.side.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(
        &self,
        side: &mut Side,
        handle: ConnectionHandle,
        proto: quinn_proto::Connection,
    ) -> Connection {
        let inner = Inner::new(proto, handle, Arc::clone(&self.agenda));
        if side.connections.len() <= handle.0 {
            side.connections.resize(handle.0 + 1, None);
        }
        side.connections[handle.0] = Some(Arc::clone(&inner));
        side.count += 1;
        inner.ask(&mut inner.lock());
        Connection::new(inner)
    }
}

impl Side {
    fn connection(&self, handle: ConnectionHandle) -> Option<&Arc<Inner>> {
        self.connections.get(handle.0)?.as_ref()
    }

    fn forget(&mut self, handle: ConnectionHandle) {
        if let Some(place) = self.connections.get_mut(handle.0)
            && place.take().is_some()
        {
            self.count -= 1;
            if self.count == 0 {
                self.wake_waiting();
            }
        }
    }

    fn ignore_incoming(&mut self) {
        for incoming in mem::take(&mut self.incoming) {
            self.proto.ignore(incoming);
        }
    }

    fn wake_waiting(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }
}

/// Somebody who wants to connect. Is refused if nothing else is said.
pub(crate) struct Incoming {
    pub(crate) remote_address: SocketAddr,
    /// Whether it can be asked to show that its address is its own (RFC 9000 section 8.1).
    pub(crate) may_retry: bool,
    /// What it has made up for the relay's id in its first packet.
    pub(super) first_id: ConnectionId,
    unanswered: Option<quinn_proto::Incoming>,
    shared: Arc<Shared>,
}

impl Incoming {
    /// Asks it to show that.
    pub(crate) fn retry(mut self) {
        self.answer(|side, incoming, octets| side.proto.retry(incoming, octets).ok());
    }

    pub(crate) fn refuse(mut self) {
        self.answer(|side, incoming, octets| Some(side.proto.refuse(incoming, octets)));
    }

    fn answer(
        &mut self,
        answer: impl FnOnce(&mut Side, quinn_proto::Incoming, &mut Vec<u8>) -> Option<Transmit>,
    ) {
        let Some(incoming) = self.unanswered.take() else {
            return;
        };
        let mut octets = Vec::new();
        if let Some(transmit) = answer(&mut self.shared.lock(), incoming, &mut octets) {
            self.shared.socket.send(&transmit, &octets);
        }
    }

    /// Begins the handshake, with `config` if it is not to be the endpoint's.
    pub(super) fn accept(
        mut self,
        config: Option<Arc<ServerConfig>>,
    ) -> Result<Connection, ConnectionError> {
        let Some(incoming) = self.unanswered.take() else {
            return Err(ConnectionError::LocallyClosed);
        };
        let mut octets = Vec::new();
        let mut side = self.shared.lock();
        let accepted = side
            .proto
            .accept(incoming, Instant::now(), &mut octets, config);
        match accepted {
            Ok((handle, proto)) => Ok(self.shared.add(&mut side, handle, proto)),
            Err(error) => {
                if let Some(transmit) = error.response {
                    self.shared.socket.send(&transmit, &octets);
                }
                Err(error.cause)
            }
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.answer(|side, incoming, octets| Some(side.proto.refuse(incoming, octets)));
    }
}

/// Moves the packets of an endpoint.
struct Driver {
    shared: Arc<Shared>,
    demultiplexer: Option<Demultiplexer>,
    /// What was on the agenda when this turn began.
    agenda: Vec<Arc<Inner>>,
    /// Packets on their way to the kernel, which are what the last transmit describes, if that is unsent.
    packets: Vec<u8>,
    unsent: Option<Transmit>,
    landing: Landing,
    /// Since when reading fails, if it does.
    failing_since: Option<Instant>,
    /// Connections that packets have come for.
    heard: Vec<Arc<Inner>>,
    /// When to look at which connection by itself. An entry that is not its [`State::wakes_at`] is out of date.
    times: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Rings at the first of them.
    alarm: Option<Pin<Box<Sleep>>>,
}

/// How far sending has come.
enum Sent {
    All,
    /// There is more, after others.
    Turn,
    /// The kernel takes no more for now.
    Blocked,
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let shared = Arc::clone(&this.shared);
        let mut side = shared.lock();
        let abandoned = this.open_agenda(cx);
        this.due(&side);
        this.send(cx, &mut side);
        if let Err(error) = this.receive(cx, &mut side) {
            tracing::warn!(%error, "a UDP socket is of no use any more");
            return Poll::Ready(());
        }
        if abandoned && side.count == 0 {
            return Poll::Ready(());
        }
        this.set_alarm(cx);
        Poll::Pending
    }
}

impl Driver {
    /// Takes what is on the agenda. Says whether the endpoint has been abandoned.
    fn open_agenda(&mut self, cx: &Context<'_>) -> bool {
        let mut items = self.shared.agenda.lock();
        items.awake = false;
        match &mut items.driver {
            Some(driver) => driver.clone_from(cx.waker()),
            None => items.driver = Some(cx.waker().clone()),
        }
        self.agenda.append(&mut items.connections);
        items.abandoned
    }

    fn due(&mut self, side: &Side) {
        if self.times.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(Reverse((time, number))) = self.times.peek().copied()
            && time <= now
        {
            self.times.pop();
            let Some(connection) = side.connection(ConnectionHandle(number)) else {
                continue;
            };
            let mut state = connection.lock();
            if state.wakes_at == Some(time) {
                state.wakes_at = None;
                if !mem::replace(&mut state.on_agenda, true) {
                    self.agenda.push(Arc::clone(connection));
                }
            }
        }
    }

    fn send(&mut self, cx: &mut Context<'_>, side: &mut Side) {
        if self.send_unsent(cx).is_pending() {
            return; // the agenda stays
        }
        let mut agenda = mem::take(&mut self.agenda);
        let now = Instant::now();
        let mut done = 0;
        for connection in &agenda {
            let mut state = connection.lock();
            state.on_agenda = false;
            if state.gone {
                done += 1;
                continue;
            }
            match self.send_for(cx, now, &mut state) {
                Sent::All => {}
                Sent::Turn => connection.ask(&mut state),
                Sent::Blocked => {
                    state.on_agenda = true;
                    break;
                }
            }
            self.settle(side, &mut state);
            done += 1;
        }
        agenda.drain(..done);
        self.agenda = agenda;
    }

    fn send_unsent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(transmit) = &self.unsent {
            let sent = self.shared.socket.poll_send(cx, transmit, &self.packets);
            if sent.is_pending() {
                return Poll::Pending;
            }
            self.unsent = None;
        }
        Poll::Ready(())
    }

    fn send_for(&mut self, cx: &mut Context<'_>, now: Instant, state: &mut State) -> Sent {
        let mut count = 0;
        loop {
            self.packets.clear();
            // Asked each time: once the kernel has refused a message of several packets, there are none any more.
            let batch = self.shared.socket.batch().min(BATCH);
            let transmit = state.proto.poll_transmit(now, batch, &mut self.packets);
            let Some(transmit) = transmit else {
                match state.proto.poll_timeout() {
                    Some(time) if time <= now => state.proto.handle_timeout(now),
                    Some(_) | None => return Sent::All,
                }
                continue;
            };
            count += match transmit.segment_size {
                Some(packet) => transmit.size.div_ceil(packet),
                None => 1,
            };
            let sent = self.shared.socket.poll_send(cx, &transmit, &self.packets);
            if sent.is_pending() {
                self.unsent = Some(transmit);
                return Sent::Blocked;
            }
            if count >= TURN {
                return Sent::Turn;
            }
        }
    }

    /// Hands on what a connection has to say to the endpoint and to its users, and when it is to be looked at again.
    fn settle(&mut self, side: &mut Side, state: &mut State) {
        while let Some(event) = state.proto.poll_endpoint_events() {
            let drained = event.is_drained();
            if let Some(answer) = side.proto.handle_event(state.handle, event) {
                state.proto.handle_event(answer);
            }
            if drained {
                state.gone = true;
                side.forget(state.handle);
            }
        }
        state.hear();
        if let Some(time) = state.proto.poll_timeout()
            && state.wakes_at.is_none_or(|wakes_at| time < wakes_at)
        {
            state.wakes_at = Some(time);
            self.times.push(Reverse((time, state.handle.0)));
        }
    }

    fn receive(&mut self, cx: &mut Context<'_>, side: &mut Side) -> io::Result<()> {
        let newcomers = side.incoming.len();
        for read in 1..=READS {
            match self.shared.socket.poll_recv(cx, &mut self.landing) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) => self.failing_since = None,
                // What somebody says about a packet that he claims we sent is no reason to end, however often he says it.
                Poll::Ready(Err(error)) if is_about_one_packet(&error) => {}
                Poll::Ready(Err(error)) => {
                    let now = Instant::now();
                    if now - *self.failing_since.get_or_insert(now) > PATIENCE {
                        return Err(error);
                    }
                    self.times.push(Reverse((now + PAUSE, NOBODY)));
                    break;
                }
            }
            let now = Instant::now();
            for (message, meta) in self.landing.messages() {
                for datagram in datagrams(message, meta) {
                    let wanted = self.demultiplexer.as_ref();
                    if wanted.is_none_or(|demultiplexer| demultiplexer.is_quic(&datagram)) {
                        hand_over(&self.shared, side, &mut self.heard, now, meta, datagram);
                    }
                }
            }
            if read == READS {
                self.shared.agenda.lock().wake();
            }
        }
        if side.incoming.len() > newcomers {
            side.wake_waiting();
        }
        let mut heard = mem::take(&mut self.heard);
        for connection in heard.drain(..) {
            let mut state = connection.lock();
            state.heard = false;
            self.settle(side, &mut state);
            connection.ask(&mut state);
        }
        self.heard = heard;
        Ok(())
    }

    fn set_alarm(&mut self, cx: &mut Context<'_>) {
        let Some(Reverse((time, _))) = self.times.peek() else {
            return;
        };
        let time = (*time).into();
        let alarm = self
            .alarm
            .get_or_insert_with(|| Box::pin(sleep_until(time)));
        if alarm.deadline() != time {
            alarm.as_mut().reset(time);
        }
        if alarm.as_mut().poll(cx).is_ready() {
            self.shared.agenda.lock().wake();
        }
    }
}

/// The packets of one message, of which all but the last are equally long.
fn datagrams(message: &[u8], meta: &RecvMeta) -> impl Iterator<Item = BytesMut> + use<> {
    let mut rest = BytesMut::from(message);
    let length = meta.stride.max(1);
    std::iter::from_fn(move || (!rest.is_empty()).then(|| rest.split_to(length.min(rest.len()))))
}

fn hand_over(
    shared: &Shared,
    side: &mut Side,
    heard: &mut Vec<Arc<Inner>>,
    now: Instant,
    meta: &RecvMeta,
    datagram: BytesMut,
) {
    let mut octets = Vec::new();
    let mark = socket::mark(meta);
    let event = side
        .proto
        .handle(now, meta.addr, meta.dst_ip, mark, datagram, &mut octets);
    match event {
        Some(DatagramEvent::ConnectionEvent(handle, event)) => {
            let Some(connection) = side.connection(handle) else {
                return;
            };
            let mut state = connection.lock();
            state.proto.handle_event(event);
            if !mem::replace(&mut state.heard, true) {
                heard.push(Arc::clone(connection));
            }
        }
        Some(DatagramEvent::NewConnection(incoming)) if side.refusing => {
            let transmit = side.proto.refuse(incoming, &mut octets);
            shared.socket.send(&transmit, &octets);
        }
        Some(DatagramEvent::NewConnection(incoming)) => side.incoming.push_back(incoming),
        Some(DatagramEvent::Response(transmit)) => shared.socket.send(&transmit, &octets),
        None => {}
    }
}

fn is_about_one_packet(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkUnreachable,
    };
    matches!(
        error.kind(),
        ConnectionRefused | ConnectionReset | HostUnreachable | Interrupted | NetworkUnreachable
    )
}

impl Drop for Driver {
    /// Whoever still waits for something hears that it will not come.
    fn drop(&mut self) {
        let mut side = self.shared.lock();
        side.closed = true;
        side.ignore_incoming();
        side.count = 0;
        for connection in mem::take(&mut side.connections).into_iter().flatten() {
            connection.lock().end(ConnectionError::LocallyClosed);
        }
        side.wake_waiting();
        let mut items = self.shared.agenda.lock();
        items.ended = true;
        items.connections.clear();
    }
}
