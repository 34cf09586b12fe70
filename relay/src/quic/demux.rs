//! The relay's UDP socket. It has one owner, this demultiplexer, which decides once per datagram whose it is; the QUIC
//! endpoint is its only customer so far. HTTP/3 pass-through and parked devices will be others on the same port.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prometheus::IntCounter;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime, UdpPoller};
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use wire::connection_id::{ConnectionIdKey, LENGTH, Owner};
use wire::datagram::Datagram;

/// What came on the UDP port and was nobody's.
#[derive(Clone, Debug)]
pub(crate) struct DatagramCounts {
    /// QUIC packets with a connection id that nobody here made.
    pub(crate) stray: IntCounter,
    /// No QUIC at all.
    pub(crate) other: IntCounter,
    /// For a connection of another worker. The kernel steers them; while the sockets are being bound it does not.
    pub(crate) misdirected: IntCounter,
}

#[derive(Debug)]
pub(super) struct Demultiplexer {
    socket: Arc<dyn AsyncUdpSocket>,
    key: ConnectionIdKey,
    owner: Owner,
    counts: DatagramCounts,
}

impl Demultiplexer {
    pub(super) fn new(
        socket: std::net::UdpSocket,
        key: ConnectionIdKey,
        owner: Owner,
        counts: DatagramCounts,
    ) -> io::Result<Self> {
        Ok(Self {
            socket: TokioRuntime.wrap_udp_socket(socket)?,
            key,
            owner,
            counts,
        })
    }

    /// Keeps in `buffer` only the datagrams that are for the QUIC endpoint, in order. The kernel may have put several
    /// of one sender into it, each of `stride` octets, the last perhaps shorter.
    fn keep_quic(&self, buffer: &mut [u8], meta: &mut RecvMeta) {
        let stride = meta.stride.max(1);
        let mut kept = 0;
        let mut from = 0;
        while from < meta.len {
            let to = meta.len.min(from + stride);
            if self.is_quic(&buffer[from..to]) {
                if kept != from {
                    buffer.copy_within(from..to, kept);
                }
                kept += to - from;
            }
            from = to;
        }
        meta.len = kept;
    }

    fn is_quic(&self, datagram: &[u8]) -> bool {
        match Datagram::classify(datagram, &self.key) {
            Datagram::Ours(owner) if owner != self.owner => {
                // The endpoint would take it for one of a connection that is no more, and end that.
                self.counts.misdirected.inc();
                false
            }
            Datagram::Ours(_) | Datagram::Initial => true,
            Datagram::Stray => {
                self.counts.stray.inc();
                false
            }
            Datagram::Other => {
                self.counts.other.inc();
                false
            }
        }
    }
}

impl AsyncUdpSocket for Demultiplexer {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = ready!(self.socket.poll_recv(cx, buffers, metas))?;
        for (buffer, meta) in buffers.iter_mut().zip(metas.iter_mut()).take(received) {
            self.keep_quic(buffer, meta);
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

/// Gives the QUIC endpoint connection ids that the demultiplexer recognises.
pub(super) struct ConnectionIds {
    key: ConnectionIdKey,
    owner: Owner,
}

impl ConnectionIds {
    pub(super) fn new(key: ConnectionIdKey, owner: Owner) -> Self {
        Self { key, owner }
    }
}

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.key.make(self.owner, rand::random()))
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        match self.key.owner(id) {
            Some(owner) if owner == self.owner => Ok(()),
            _ => Err(InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
