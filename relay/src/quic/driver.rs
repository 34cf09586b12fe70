//! Moves the packets of an endpoint's connections, on the worker where it was opened:
//!
//! ```text
//!   due      connections whose time has come are put on the agenda
//!   send     what the connections on the agenda have to say
//!   receive  packets are handed to their connections, whose users are woken; the connections go on the agenda
//! ```
//!
//! It sends after whoever was woken has run: what they say, and what is to be acknowledged, leaves in one packet.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn_proto::{ConnectionError, ConnectionHandle, DatagramEvent, Transmit};
use quinn_udp::RecvMeta;
use tokio::time::{Sleep, sleep_until};

use super::connection::{Inner, State};
use super::demux::Demultiplexer;
use super::endpoint::{Shared, Side, Source};
use super::hellos::Kept;
use super::nested::Port;
use super::socket::{self, Landing, with_landing};

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

    /// Has the driver look at everything again.
    pub(super) fn wake(&self) {
        self.lock().wake();
    }

    /// Whether there is no driver any more.
    pub(super) fn has_ended(&self) -> bool {
        self.lock().ended
    }

    pub(super) fn abandon(&self) {
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

/// Moves the packets of an endpoint.
pub(super) struct Driver {
    shared: Arc<Shared>,
    /// What was on the agenda when this turn began.
    agenda: Vec<Arc<Inner>>,
    /// Packets on their way to the kernel, which are what the last transmit describes, if that is unsent.
    packets: Vec<u8>,
    unsent: Option<Transmit>,
    /// Datagrams on their way to the outlet of their flow.
    datagrams: Vec<u8>,
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
        let received = with_landing(|landing| this.receive(cx, &mut side, landing));
        if let Err(error) = received {
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
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            agenda: Vec::new(),
            packets: Vec::new(),
            unsent: None,
            datagrams: Vec::new(),
            failing_since: None,
            heard: Vec::new(),
            times: BinaryHeap::new(),
            alarm: None,
        }
    }

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
        if self.send_unsent(cx, side).is_pending() {
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
            match self.send_for(cx, now, side, connection, &mut state) {
                Sent::All => {}
                Sent::Turn => connection.ask(&mut state),
                Sent::Blocked => {
                    state.on_agenda = true;
                    break;
                }
            }
            self.settle(side, connection, &mut state);
            done += 1;
        }
        agenda.drain(..done);
        self.agenda = agenda;
    }

    fn send_unsent(&mut self, cx: &mut Context<'_>, side: &Side) -> Poll<()> {
        if let Some(transmit) = &self.unsent {
            let sent = side.port.poll_send(cx, transmit, &self.packets);
            if sent.is_pending() {
                return Poll::Pending;
            }
            self.unsent = None;
        }
        Poll::Ready(())
    }

    fn send_for(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        side: &Side,
        connection: &Inner,
        state: &mut State,
    ) -> Sent {
        let port = &side.port;
        let (mut count, mut was_asked) = (0, false);
        let losses = &*connection.losses;
        loop {
            self.packets.clear();
            state.feed(losses);
            // Asked each time: once the kernel has refused a message of several packets, there are none any more.
            let batch = port.batch().min(BATCH);
            let before = port.looks_for_proof(&state.proto);
            let transmit = state.proto.poll_transmit(now, batch, &mut self.packets);
            let Some(transmit) = transmit else {
                match state.proto.poll_timeout() {
                    Some(time) if time <= now => state.proto.handle_timeout(now),
                    Some(_) | None if was_asked => return Sent::All,
                    Some(_) | None if state.ask_for_a_packet(losses) => was_asked = true,
                    Some(_) | None => return Sent::All,
                }
                continue;
            };
            if let Some(before) = before {
                port.said(&transmit.destination, before, &state.proto);
            }
            let packets = match transmit.segment_size {
                Some(packet) => transmit.size.div_ceil(packet),
                None => 1,
            };
            state.made(packets, std::mem::take(&mut was_asked));
            count += packets;
            let sent = port.poll_send(cx, &transmit, &self.packets);
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
    fn settle(&mut self, side: &mut Side, connection: &Inner, state: &mut State) {
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
        // Whoever comes by a flow has none of its own.
        if state.hear()
            && let Port::Udp(socket) = &side.port
        {
            state.deliver(socket, &mut self.datagrams, &*connection.losses);
        }
        if let Some(time) = state.proto.poll_timeout()
            && state.wakes_at.is_none_or(|wakes_at| time < wakes_at)
        {
            state.wakes_at = Some(time);
            self.times.push(Reverse((time, state.handle.0)));
        }
    }

    fn receive(
        &mut self,
        cx: &mut Context<'_>,
        side: &mut Side,
        landing: &mut Landing,
    ) -> io::Result<()> {
        let newcomers = side.incoming.len();
        for read in 1..=READS {
            match side.poll_recv(cx, landing) {
                // Nothing is there, or no more: so the socket works.
                Poll::Pending => {
                    self.failing_since = None;
                    break;
                }
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
            for (message, meta) in landing.messages() {
                let mut rest = message;
                while !rest.is_empty() {
                    let ours = match &mut side.demultiplexer {
                        Some(demultiplexer) => demultiplexer.take(&mut rest, meta, now),
                        None => mem::take(&mut rest),
                    };
                    let demultiplexer = side.demultiplexer.as_mut();
                    let released = demultiplexer.map(Demultiplexer::released);
                    for Kept { octets, meta } in released.into_iter().flatten() {
                        let datagram = BytesMut::from(&*octets);
                        hand_over(side, &mut self.heard, now, &meta, datagram);
                    }
                    for datagram in datagrams(ours, meta) {
                        hand_over(side, &mut self.heard, now, meta, datagram);
                    }
                }
            }
            if read == READS {
                self.shared.agenda.wake();
            }
        }
        if side.incoming.len() > newcomers {
            side.wake_waiting();
        }
        let mut heard = mem::take(&mut self.heard);
        for connection in heard.drain(..) {
            let mut state = connection.lock();
            state.heard = false;
            self.settle(side, &connection, &mut state);
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
            self.shared.agenda.wake();
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
        Some(DatagramEvent::NewConnection(incoming)) if side.closed => {
            let transmit = side.proto.refuse(incoming, &mut octets);
            side.port.send(&transmit, &octets);
        }
        Some(DatagramEvent::NewConnection(incoming)) => side.incoming.push_back(incoming),
        Some(DatagramEvent::Response(transmit)) => side.port.send(&transmit, &octets),
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
        side.source = Source::Nobody;
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
