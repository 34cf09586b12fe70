//! A UDP socket and the connections over it, as those have it who open one: they connect, accept who comes, and close it. A
//! [driver](super::driver) moves the packets.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::{
    ClientConfig, ConnectError, ConnectionError, ConnectionHandle, ConnectionId, EndpointConfig,
    ServerConfig, Transmit, VarInt,
};
use tokio::runtime::Handle;

use super::channel::{Earlier, Receiver};
use super::connection::{Connection, Inner};
use super::demux::Demultiplexer;
use super::driver::{Agenda, Driver};
use super::flow::Losses;
use super::nested::Port;
use super::socket::Landing;

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

/// What an endpoint and its driver share.
pub(super) struct Shared {
    pub(super) agenda: Arc<Agenda>,
    side: Mutex<Side>,
    losses: Arc<dyn Losses>,
    /// What drives it.
    runtime: Handle,
}

/// This side of all the connections.
pub(super) struct Side {
    pub(super) port: Port,
    pub(super) source: Source,
    pub(super) demultiplexer: Option<Demultiplexer>,
    pub(super) proto: quinn_proto::Endpoint,
    /// By the number of its handle.
    pub(super) connections: Vec<Option<Arc<Inner>>>,
    /// How many there are.
    pub(super) count: usize,
    /// Who wants to connect.
    pub(super) incoming: VecDeque<quinn_proto::Incoming>,
    /// Nobody waits for those who come any more: they are refused.
    pub(super) closed: bool,
    /// For who comes, or for the last to leave.
    waiting: Vec<Waker>,
}

/// Where packets come from.
pub(super) enum Source {
    Port,
    /// A successor, who reads the socket.
    Successor(Receiver),
    /// It has ended.
    Nobody,
}

impl Endpoint {
    /// Opens an endpoint on `port`, driven by the runtime that calls. With a `server`, others may connect. Datagrams go
    /// through the `demultiplexer` first, if there is one. `losses` hears of those in its tunnels.
    pub(super) fn open(
        port: Port,
        config: EndpointConfig,
        server: Option<ServerConfig>,
        demultiplexer: Option<Demultiplexer>,
        losses: Arc<dyn Losses>,
    ) -> Self {
        let discovers_mtu = !port.may_fragment();
        let server = server.map(Arc::new);
        let proto = quinn_proto::Endpoint::new(Arc::new(config), server, discovers_mtu, None);
        let shared = Arc::new(Shared {
            agenda: Arc::default(),
            side: Mutex::new(Side {
                port,
                source: Source::Port,
                demultiplexer,
                proto,
                connections: Vec::new(),
                count: 0,
                incoming: VecDeque::new(),
                closed: false,
                waiting: Vec::new(),
            }),
            losses,
            runtime: Handle::current(),
        });
        tokio::spawn(Driver::new(Arc::clone(&shared)));
        Self(Arc::new(Kept(shared)))
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
        self.0.0.lock().port.send(&too_many_packets, &NOTHING);
    }

    /// Another descriptor of its UDP socket.
    ///
    /// # Errors
    /// If the system gives none.
    pub(crate) fn socket(&self) -> io::Result<std::net::UdpSocket> {
        self.0.0.lock().port.duplicate()
    }

    /// The processes before this one that live, with other descriptors of their channels.
    ///
    /// # Errors
    /// If the system gives none.
    pub(crate) fn earlier(&self) -> io::Result<Vec<Earlier>> {
        match &mut self.0.0.lock().demultiplexer {
            Some(demultiplexer) => demultiplexer.earlier(),
            None => Ok(Vec::new()),
        }
    }

    /// From now on a successor reads the UDP socket, and packets come over `channel`, the receiving end of one. When that
    /// ends, nothing more comes.
    ///
    /// # Errors
    /// If the worker can attend to nothing more, or has ended, or this is an agent's end. Then all is as before.
    pub(crate) fn read_from(&self, channel: OwnedFd) -> io::Result<()> {
        let shared = &self.0.0;
        let _entered = shared.runtime.enter();
        let mut side = shared.lock();
        let Some(demultiplexer) = &side.demultiplexer else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        if shared.agenda.has_ended() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let receiver = Receiver::new(channel, demultiplexer.malformed())?;
        side.port.only_write()?;
        side.source = Source::Successor(receiver);
        drop(side);
        shared.agenda.wake();
        Ok(())
    }

    /// Whether nothing more comes.
    #[cfg(test)]
    pub(super) fn hears_nobody(&self) -> bool {
        matches!(self.0.0.lock().source, Source::Nobody)
    }

    /// Whether its event queue knows of packets that nobody has read from the socket.
    #[cfg(test)]
    pub(super) fn sees_packets(&self) -> bool {
        self.0.0.lock().port.sees_packets()
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

    /// Closes every connection, and takes no more.
    pub(crate) fn close(&self, code: VarInt, reason: &[u8]) {
        let reason = Bytes::copy_from_slice(reason);
        let mut side = self.0.0.lock();
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
    pub(super) fn lock(&self) -> MutexGuard<'_, Side> {
        self.side.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(
        &self,
        side: &mut Side,
        handle: ConnectionHandle,
        proto: quinn_proto::Connection,
    ) -> Connection {
        let inner = Inner::new(
            proto,
            handle,
            Arc::clone(&self.agenda),
            Arc::clone(&self.losses),
        );
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
    /// Receives into `landing`, which then says what.
    pub(super) fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        landing: &mut Landing,
    ) -> Poll<io::Result<()>> {
        match &self.source {
            Source::Port => self.port.poll_recv(cx, landing),
            Source::Successor(channel) => {
                let received = channel.poll_recv(cx, landing);
                if let Poll::Ready(Err(error)) = received {
                    tracing::warn!(%error, "the successor has ended: nothing more comes from agents");
                    self.source = Source::Nobody;
                    return Poll::Pending;
                }
                received
            }
            Source::Nobody => Poll::Pending,
        }
    }

    pub(super) fn connection(&self, handle: ConnectionHandle) -> Option<&Arc<Inner>> {
        self.connections.get(handle.0)?.as_ref()
    }

    pub(super) fn forget(&mut self, handle: ConnectionHandle) {
        if let Some(place) = self.connections.get_mut(handle.0)
            && place.take().is_some()
        {
            self.count -= 1;
            if self.count == 0 {
                self.wake_waiting();
            }
        }
    }

    pub(super) fn ignore_incoming(&mut self) {
        for incoming in mem::take(&mut self.incoming) {
            self.proto.ignore(incoming);
        }
    }

    pub(super) fn wake_waiting(&mut self) {
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
        let mut side = self.shared.lock();
        if let Some(transmit) = answer(&mut side, incoming, &mut octets) {
            side.port.send(&transmit, &octets);
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
                    side.port.send(&transmit, &octets);
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
