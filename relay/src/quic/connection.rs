//! One connection, as its users have it: they open and accept streams, ask how it is, and close it. Its packets are moved by
//! the driver of its endpoint, which hears on the [`Agenda`] that there is something to do.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::congestion::Controller;
use quinn_proto::crypto::ExportKeyingMaterialError;
use quinn_proto::crypto::rustls::HandshakeData;
use quinn_proto::{
    ConnectionError, ConnectionHandle, ConnectionStats, Dir, Event, StreamEvent, StreamId, VarInt,
};
use rustc_hash::FxBuildHasher;

use super::driver::Agenda;
use super::flow::{Flows, Losses};
use super::stream::{RecvStream, SendStream};

/// A connection. The last of its clones closes it.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Kept>);

struct Kept(Arc<Inner>);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.close(VarInt::from_u32(0), Bytes::new());
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self(Arc::new(Kept(inner)))
    }

    /// Waits for the end of the handshake.
    pub(super) async fn established(&self) -> Result<(), ConnectionError> {
        let until = |state: &mut State| state.connected.then_some(());
        self.wait(until).await
    }

    /// A new stream, as soon as the other end has room for it.
    pub(crate) async fn open_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        let id = self.wait(|state| state.proto.streams().open(Dir::Bi));
        Ok(self.stream(id.await?))
    }

    /// The next stream that the other end has opened.
    pub(crate) async fn accept_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        let id = self.wait(|state| state.proto.streams().accept(Dir::Bi));
        let id = id.await?;
        // The other end may now have room for another.
        self.0.0.ask(&mut self.0.0.lock());
        Ok(self.stream(id))
    }

    /// Waits until `ready` gives something.
    async fn wait<T>(
        &self,
        mut ready: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T, ConnectionError> {
        let inner = &self.0.0;
        let mut waiter = Waiter {
            inner,
            number: None,
        };
        poll_fn(|cx| {
            let mut state = inner.lock();
            if let Some(error) = &state.error {
                return Poll::Ready(Err(error.clone()));
            }
            match ready(&mut state) {
                Some(ready) => Poll::Ready(Ok(ready)),
                None => {
                    state.wait(&mut waiter.number, cx);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn waiters(&self) -> usize {
        self.0.0.lock().waiting.len()
    }

    fn stream(&self, id: StreamId) -> (SendStream, RecvStream) {
        let inner = &self.0.0;
        (
            SendStream::new(Arc::clone(inner), id),
            RecvStream::new(Arc::clone(inner), id),
        )
    }

    /// Closes it at once: what has not arrived yet does not arrive.
    pub(crate) fn close(&self, code: VarInt, reason: &[u8]) {
        self.0.0.close(code, Bytes::copy_from_slice(reason));
    }

    /// Asks for an acknowledgement, and for nothing else (RFC 9000 section 19.2).
    pub(crate) fn ping(&self) {
        let mut state = self.0.0.lock();
        if state.error.is_none() {
            state.proto.ping();
            self.0.0.ask(&mut state);
        }
    }

    /// Whether somebody waits for room to write, which the other end has to give.
    pub(crate) fn waits_for_room(&self) -> bool {
        !self.0.0.lock().writers.is_empty()
    }

    /// Why it has ended, if it has.
    pub(crate) fn close_reason(&self) -> Option<ConnectionError> {
        self.0.0.lock().error.clone()
    }

    /// Where the other end is.
    pub(crate) fn remote_address(&self) -> SocketAddr {
        self.0.0.lock().proto.remote_address()
    }

    /// What the other end has proved to be, as TLS says it.
    pub(super) fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.0.0.lock().proto.crypto_session().peer_identity()
    }

    /// A key that both ends can draw from the session (RFC 5705).
    pub(super) fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        let state = self.0.0.lock();
        let session = state.proto.crypto_session();
        session.export_keying_material(output, label, context)
    }

    /// How long a datagram may be just now, in octets, its flow's number apart.
    #[cfg(test)]
    pub(super) fn datagram_room(&self) -> usize {
        self.longest_datagram() - 1
    }

    /// The same with its number.
    pub(super) fn longest_datagram(&self) -> usize {
        let room = self.0.0.lock().proto.datagrams().max_size();
        room.unwrap_or_default()
    }

    /// The name that the other end has asked for in its handshake.
    pub(crate) fn server_name(&self) -> Option<String> {
        let state = self.0.0.lock();
        let handshake = state.proto.crypto_session().handshake_data()?;
        handshake.downcast::<HandshakeData>().ok()?.server_name
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.0.0
    }

    pub(super) fn stats(&self) -> ConnectionStats {
        self.0.0.lock().proto.stats()
    }

    pub(super) fn congestion_state(&self) -> Box<dyn Controller> {
        self.0.0.lock().proto.congestion_state().clone_box()
    }
}

/// Somebody who waits, until it is dropped: mostly that is because what it waited for has come.
struct Waiter<'a> {
    inner: &'a Inner,
    /// Among those who wait, once it has had to.
    number: Option<u64>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.inner.lock().forget_waiter(number);
        }
    }
}

/// What a connection, its streams and the driver share.
pub(super) struct Inner {
    state: Mutex<State>,
    agenda: Arc<Agenda>,
    /// Hears of datagrams that are lost here.
    pub(super) losses: Arc<dyn Losses>,
}

pub(super) struct State {
    pub(super) proto: quinn_proto::Connection,
    /// Its number at its endpoint.
    pub(super) handle: ConnectionHandle,
    pub(super) connected: bool,
    /// Set before it is drained.
    pub(super) error: Option<ConnectionError>,
    /// The driver has it on its agenda.
    pub(super) on_agenda: bool,
    /// Packets have come for it in the driver's present turn.
    pub(super) heard: bool,
    /// It has no number at its endpoint any more.
    pub(super) gone: bool,
    /// When the driver looks at it by itself.
    pub(super) wakes_at: Option<Instant>,
    /// For octets to read, and for room to write.
    readers: Wakers,
    writers: Wakers,
    /// For the other end to break off.
    resets: Wakers,
    /// For anything else.
    waiting: HashMap<u64, Waker, FxBuildHasher>,
    /// So many have waited for that.
    waited: u64,
    /// The datagrams of visitors, while there are any.
    pub(super) flows: Option<Box<Flows>>,
}

type Wakers = HashMap<StreamId, Waker, FxBuildHasher>;

impl Inner {
    pub(super) fn new(
        proto: quinn_proto::Connection,
        handle: ConnectionHandle,
        agenda: Arc<Agenda>,
        losses: Arc<dyn Losses>,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                proto,
                handle,
                connected: false,
                error: None,
                on_agenda: false,
                heard: false,
                gone: false,
                wakes_at: None,
                readers: Wakers::default(),
                writers: Wakers::default(),
                resets: Wakers::default(),
                waiting: HashMap::default(),
                waited: 0,
                flows: None,
            }),
            agenda,
            losses,
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the driver send what there is to send.
    pub(super) fn ask(self: &Arc<Self>, state: &mut State) {
        if !std::mem::replace(&mut state.on_agenda, true) {
            self.agenda.add(Arc::clone(self));
        }
    }

    pub(super) fn close(self: &Arc<Self>, code: VarInt, reason: Bytes) {
        let mut state = self.lock();
        if state.error.is_none() {
            state.proto.close(Instant::now(), code, reason);
            state.end(ConnectionError::LocallyClosed);
            self.ask(&mut state);
        }
    }
}

impl State {
    /// Wakes whoever waits for what the library has to say. Says whether datagrams have come.
    pub(super) fn hear(&mut self) -> bool {
        let mut datagrams = false;
        while let Some(event) = self.proto.poll() {
            match event {
                Event::Stream(StreamEvent::Readable { id }) => {
                    wake(&mut self.readers, id);
                    wake(&mut self.resets, id);
                }
                Event::Stream(
                    StreamEvent::Writable { id }
                    | StreamEvent::Stopped { id, .. }
                    | StreamEvent::Finished { id },
                ) => wake(&mut self.writers, id),
                Event::Stream(StreamEvent::Opened { .. } | StreamEvent::Available { .. }) => {
                    self.wake_waiting();
                }
                Event::Connected => {
                    self.connected = true;
                    self.wake_waiting();
                }
                Event::ConnectionLost { reason } => self.end(reason),
                Event::DatagramReceived => datagrams = true,
                Event::HandshakeDataReady | Event::DatagramsUnblocked => {}
            }
        }
        datagrams
    }

    /// Nothing more comes or goes: everybody hears why.
    pub(super) fn end(&mut self, error: ConnectionError) {
        self.error.get_or_insert(error);
        self.flows = None;
        for wakers in [&mut self.readers, &mut self.writers, &mut self.resets] {
            wakers.drain().for_each(|(_, waker)| waker.wake());
        }
        self.wake_waiting();
    }

    fn wake_waiting(&mut self) {
        self.waiting.drain().for_each(|(_, waker)| waker.wake());
    }

    /// Has somebody wait for anything that concerns no single stream, under the number that it has or gets.
    pub(super) fn wait(&mut self, number: &mut Option<u64>, cx: &Context<'_>) {
        let number = *number.get_or_insert_with(|| {
            self.waited += 1;
            self.waited
        });
        self.waiting.insert(number, cx.waker().clone());
    }

    pub(super) fn forget_waiter(&mut self, number: u64) {
        self.waiting.remove(&number);
    }

    pub(super) fn wait_to_read(&mut self, id: StreamId, cx: &Context<'_>) {
        wait(&mut self.readers, id, cx);
    }

    /// Whether nothing has come since somebody began to wait; then it is `cx` who waits from now on.
    pub(super) fn still_waits_to_read(&mut self, id: StreamId, cx: &Context<'_>) -> bool {
        let waker = self.readers.get_mut(&id);
        waker.map(|waker| waker.clone_from(cx.waker())).is_some()
    }

    pub(super) fn wait_to_write(&mut self, id: StreamId, cx: &Context<'_>) {
        wait(&mut self.writers, id, cx);
    }

    pub(super) fn wait_for_reset(&mut self, id: StreamId, cx: &Context<'_>) {
        wait(&mut self.resets, id, cx);
    }

    /// Nobody reads this stream any more.
    pub(super) fn forget_reader(&mut self, id: StreamId) {
        self.readers.remove(&id);
        self.resets.remove(&id);
    }

    /// Nobody writes this stream any more.
    pub(super) fn forget_writer(&mut self, id: StreamId) {
        self.writers.remove(&id);
    }
}

fn wake(wakers: &mut Wakers, id: StreamId) {
    if let Some(waker) = wakers.remove(&id) {
        waker.wake();
    }
}

fn wait(wakers: &mut Wakers, id: StreamId, cx: &Context<'_>) {
    match wakers.get_mut(&id) {
        Some(waker) => waker.clone_from(cx.waker()),
        None => {
            wakers.insert(id, cx.waker().clone());
        }
    }
}
