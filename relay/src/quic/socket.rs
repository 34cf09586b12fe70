//! A UDP socket that takes and gives many packets at once.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::task::{Context, Poll, ready};

use quinn_proto::{EcnCodepoint, Transmit};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::flow::Batch;
use crate::sys;

/// How many octets of consecutive packets the kernel hands over as one message, at most (GRO, udp(7)).
const MESSAGE: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Socket {
    socket: AsyncFd<UdpSocket>,
    state: UdpSocketState,
    /// What the kernel has refused to send of flows, whose visitors may be anywhere: tunnels do not go without its help for it.
    of_flows: UdpSocketState,
    /// Whether several packets may be handed to the kernel at once.
    batches: bool,
}

impl Socket {
    /// Puts the socket into the event queue of the calling worker.
    pub(super) fn new(socket: UdpSocket, batches: bool) -> io::Result<Self> {
        Ok(Self {
            batches,
            state: UdpSocketState::new((&socket).into())?, // which also makes it non-blocking
            of_flows: UdpSocketState::new((&socket).into())?,
            socket: sys::queue(socket)?,
        })
    }

    /// Another descriptor of it.
    pub(super) fn duplicate(&self) -> io::Result<UdpSocket> {
        self.socket.get_ref().try_clone()
    }

    /// Has the event queue of the calling worker forget what can be read: another process reads it.
    pub(super) fn only_write(&mut self) -> io::Result<()> {
        self.socket = sys::queue_to_write(self.duplicate()?)?;
        Ok(())
    }

    /// Whether the event queue knows of something to read.
    #[cfg(test)]
    pub(super) fn sees_packets(&self) -> bool {
        self.socket.try_io(Interest::READABLE, |_| Ok(())).is_ok()
    }

    /// How many packets the kernel takes as one message (GSO, udp(7)).
    pub(super) fn batch(&self) -> usize {
        self.batch_of(&self.state)
    }

    fn batch_of(&self, state: &UdpSocketState) -> usize {
        match self.batches {
            true => state.max_gso_segments(),
            false => 1,
        }
    }

    /// Whether a packet that is too long for the path may be fragmented on it: then nothing can be learnt by sending one.
    pub(super) fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    /// Sends what the library has written to the front of `octets`. What the kernel refuses for good is lost, as it may be on
    /// the way.
    pub(super) fn poll_send(
        &self,
        cx: &mut Context<'_>,
        transmit: &Transmit,
        octets: &[u8],
    ) -> Poll<()> {
        let transmit = outgoing(transmit, octets);
        loop {
            match self.try_send(&transmit) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let Ok(mut ready) = ready!(self.socket.poll_write_ready(cx)) else {
                        return Poll::Ready(()); // the runtime ends
                    };
                    ready.retain_ready();
                }
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
    }

    /// Sends it if there is room just now.
    pub(super) fn send(&self, transmit: &Transmit, octets: &[u8]) {
        let _ = self.try_send(&outgoing(transmit, octets));
    }

    /// Sends a flow's datagrams as long as there is room, from that address of this host if there is one. Says how many there was none for.
    pub(super) fn send_batch(
        &self,
        to: SocketAddr,
        from: Option<IpAddr>,
        batch: Batch<'_>,
    ) -> usize {
        let mut rest = batch;
        while !rest.octets.is_empty() {
            let (now, others) = rest.split(self.batch_of(&self.of_flows));
            let transmit = quinn_udp::Transmit {
                destination: to,
                ecn: None,
                contents: now.octets,
                segment_size: (now.count() > 1).then_some(now.size),
                src_ip: from,
            };
            // Nobody waits, so what the event queue knows of room does not matter: of a new socket it knows nothing yet.
            let socket = self.socket.get_ref();
            match self.of_flows.send(socket.into(), &transmit) {
                Ok(()) => rest = others,
                Err(_) => return rest.count(),
            }
        }
        0
    }

    fn try_send(&self, transmit: &quinn_udp::Transmit<'_>) -> io::Result<()> {
        let send = |socket: &UdpSocket| self.state.send(socket.into(), transmit);
        self.socket.try_io(Interest::WRITABLE, send)
    }

    /// Receives into `landing`, which then says what.
    pub(super) fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        landing: &mut Landing,
    ) -> Poll<io::Result<()>> {
        landing.clear();
        let Landing {
            room,
            metas,
            filled,
        } = landing;
        let mut messages = room.chunks_exact_mut(MESSAGE);
        let mut messages: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(messages.next().unwrap_or_default()));
        loop {
            ready!(self.socket.poll_read_ready(cx))?.retain_ready();
            let mut short = false;
            let received = self.socket.try_io(Interest::READABLE, |socket| {
                *filled = self.state.recv(socket.into(), &mut messages, metas)?;
                short = *filled < BATCH_SIZE;
                match short {
                    // There is no more: that spares the next look.
                    true => Err(io::ErrorKind::WouldBlock.into()),
                    false => Ok(()),
                }
            });
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !short => {}
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(error));
                }
                Ok(()) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

fn outgoing<'a>(transmit: &Transmit, octets: &'a [u8]) -> quinn_udp::Transmit<'a> {
    quinn_udp::Transmit {
        destination: transmit.destination,
        ecn: transmit.ecn.map(|mark| match mark {
            EcnCodepoint::Ect0 => quinn_udp::EcnCodepoint::Ect0,
            EcnCodepoint::Ect1 => quinn_udp::EcnCodepoint::Ect1,
            EcnCodepoint::Ce => quinn_udp::EcnCodepoint::Ce,
        }),
        contents: octets.get(..transmit.size).unwrap_or(octets),
        segment_size: transmit.segment_size,
        src_ip: transmit.src_ip,
    }
}

thread_local! {
    /// One for all sockets of a thread, as what has landed from one is handed over before another is read: it is 2 MiB, and of
    /// agents every tunnel and every dial has an endpoint.
    static LANDING: RefCell<Landing> = RefCell::new(Landing::new());
}

/// Lets `receive` use the thread's landing, until what has landed has been handed over.
pub(super) fn with_landing<T>(receive: impl FnOnce(&mut Landing) -> T) -> T {
    LANDING.with_borrow_mut(receive)
}

/// Where packets land.
pub(super) struct Landing {
    room: Box<[u8]>,
    metas: [RecvMeta; BATCH_SIZE],
    filled: usize,
}

impl Landing {
    pub(super) fn new() -> Self {
        Self {
            room: vec![0; MESSAGE * BATCH_SIZE].into_boxed_slice(),
            metas: [RecvMeta::default(); BATCH_SIZE],
            filled: 0,
        }
    }

    /// Forgets what has landed.
    pub(super) fn clear(&mut self) {
        self.filled = 0;
    }

    /// Where another message may land, and what is known of it.
    pub(super) fn free(&mut self) -> Option<(&mut [u8], &mut RecvMeta)> {
        let mut free = self.room.chunks_exact_mut(MESSAGE).zip(&mut self.metas);
        free.nth(self.filled)
    }

    /// It has landed there.
    pub(super) fn landed(&mut self) {
        self.filled += 1;
    }

    /// What has landed: messages, of which each is one packet or several of the same sender, and what is known of each.
    pub(super) fn messages(&self) -> impl Iterator<Item = (&[u8], &RecvMeta)> {
        let messages = self.room.chunks_exact(MESSAGE).zip(&self.metas);
        messages
            .take(self.filled)
            .map(|(message, meta)| (message.get(..meta.len).unwrap_or(message), meta))
    }
}

/// The mark that routers have left on a packet.
pub(super) fn mark(meta: &RecvMeta) -> Option<EcnCodepoint> {
    meta.ecn.map(|mark| match mark {
        quinn_udp::EcnCodepoint::Ect0 => EcnCodepoint::Ect0,
        quinn_udp::EcnCodepoint::Ect1 => EcnCodepoint::Ect1,
        quinn_udp::EcnCodepoint::Ce => EcnCodepoint::Ce,
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn what_cannot_be_sent_to_a_visitor_leaves_the_tunnels_as_they_are() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let socket = Socket::new(socket, true).unwrap();
        let before = socket.batch();
        let batch = Batch {
            octets: &[0; 2400],
            size: 1200,
        };
        socket.send_batch((Ipv4Addr::LOCALHOST, 0).into(), None, batch);
        assert_eq!(socket.batch_of(&socket.of_flows), 1, "that is refused");
        assert_eq!(socket.batch(), before);
        assert!(before > 1);
    }
}
