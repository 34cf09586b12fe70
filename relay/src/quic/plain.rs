//! UDP sockets without QUIC: the agent's towards a service, which a visitor's flow comes to, and the relay's at a public port of a device.
//! Nothing of what passes is read.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::task::{Context, Poll, ready};

use super::demux::Sender;
use super::flow::Batch;
use super::socket::{Socket, with_landing};
use super::socket_buffers;

/// What the kernel keeps for it each way, in octets: what a flow may have waiting in its tunnel.
const BUFFER: usize = 512 * 1024;

/// A connected socket, in the event queue of the worker that made it.
#[derive(Debug)]
pub(crate) struct PlainSocket {
    socket: Socket,
    to: SocketAddr,
}

impl PlainSocket {
    /// Towards `to`; with `batches`, several datagrams may be handed to the kernel at once.
    ///
    /// # Errors
    /// If there is no socket, or no way there.
    pub(crate) fn connect(to: SocketAddr, batches: bool) -> io::Result<Self> {
        let any: SocketAddr = match to {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(to)?;
        socket_buffers::ask(&socket, BUFFER)?;
        let socket = Socket::new(socket, batches)?;
        Ok(Self { socket, to })
    }

    /// Sends datagrams, and says how many the kernel had no room for.
    pub(crate) fn send(&self, batch: Batch<'_>) -> usize {
        self.socket.send_batch(self.to, None, batch)
    }

    /// Hands what has come to `take`.
    pub(crate) fn poll_take(
        &self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(Batch<'_>),
    ) -> Poll<io::Result<()>> {
        with_landing(|landing| {
            ready!(self.socket.poll_recv(cx, landing))?;
            for (octets, meta) in landing.messages().filter(|(octets, _)| !octets.is_empty()) {
                let size = meta.stride.max(1);
                take(Batch { octets, size });
            }
            Poll::Ready(Ok(()))
        })
    }
}

/// A socket at a public port, to which anybody may send, in the event queue of the worker that made it.
#[derive(Debug)]
pub(crate) struct PortSocket(Socket);

impl PortSocket {
    /// # Errors
    /// If the event queue takes no more.
    pub(crate) fn new(socket: UdpSocket, batches: bool) -> io::Result<Self> {
        Ok(Self(Socket::new(socket, batches)?))
    }

    /// Sends datagrams to whom some have come from, and says how many the kernel had no room for.
    pub(crate) fn send(&self, to: Sender, batch: Batch<'_>) -> usize {
        self.0.send_batch(to.address, to.here, batch)
    }

    /// Hands what has come to `take`. What nobody could answer is left out.
    pub(crate) fn poll_take(
        &self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(Sender, Batch<'_>),
    ) -> Poll<io::Result<()>> {
        with_landing(|landing| {
            ready!(self.0.poll_recv(cx, landing))?;
            for (octets, meta) in landing.messages() {
                if !octets.is_empty() && meta.addr.port() != 0 {
                    let size = meta.stride.max(1);
                    take(Sender::of(meta), Batch { octets, size });
                }
            }
            Poll::Ready(Ok(()))
        })
    }
}
