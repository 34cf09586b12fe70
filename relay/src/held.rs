//! How much the kernel holds of a TCP connection's octets, on their way to somebody who may not read them.
//!
//! A thousand downloads that nobody reads would otherwise fill its memory for TCP (`net.ipv4.tcp_mem`) with the buffers of each
//! connection on the way, and everybody else's connections would get little room. So a send buffer takes little that cannot
//! be sent, and the receive buffer of whoever feeds it does not grow until it has been seen that the other side reads.
//!
//! ```text
//!   origin ─► agent       kept small until the agent has read LIKELY_READ
//!             agent ─► relay             little unsent
//!                      relay             kept small until the visitor has TAKEN
//!                      relay ─► visitor  little unsent
//! ```

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::sys;

/// What is written and cannot be sent yet, at most, in octets, and one write more: the part of the send buffer that a far and
/// fast path does not need, for what is under way is not in it.
pub(crate) const UNSENT: u32 = 128 * 1024;

/// The same towards a visitor: what has come on its stream by the time that bulk leaves this has room for, or it would be in this
/// process's memory instead.
pub(crate) const UNSENT_TO_VISITOR: u32 = 512 * 1024;

/// A visitor whose host has acknowledged so many octets reads them: an unread receive buffer holds less as systems come.
pub(crate) const TAKEN: u64 = 256 * 1024;

/// What an agent has read from an origin when the visitor is likely to read it: more than all buffers between the two hold.
pub(crate) const LIKELY_READ: u64 = 2 * 1024 * 1024;

/// Lets the send buffer take no more than so many octets that cannot be sent. Connections have what their listener had.
pub(crate) fn limit_unsent<'s>(socket: impl Into<SockRef<'s>>, most: u32) {
    // No connection is worth losing over it.
    let _ = socket.into().set_tcp_notsent_lowat(most);
}

/// The receive buffer stays as it came, until it is [let grow](let_grow). A kernel before Linux 5.15 does not know how, and lets
/// it grow at once.
pub(crate) fn keep_small(stream: &TcpStream) {
    let _ = sys::hold_receive_buffer(stream, true);
}

/// The receive buffer grows with what is read from it, as TCP's do.
pub(crate) fn let_grow(stream: &TcpStream) {
    // The kernel has a buffer grow when more is read in a round trip than ever before, and of a small one that may be all of it.
    let socket = SockRef::from(stream);
    if let Ok(small) = socket.recv_buffer_size() {
        let _ = socket.set_recv_buffer_size(small); // the kernel takes twice what it is told
    }
    let _ = sys::hold_receive_buffer(stream, false);
}

/// Whether the host at the other end has so many octets of the `written` ones that whoever is there must have read some.
pub(crate) fn reads(stream: &TcpStream, written: u64) -> bool {
    written >= TAKEN
        && match sys::unacknowledged(stream) {
            Ok(waiting) => written.saturating_sub(waiting) >= TAKEN,
            Err(_) => true, // nothing can be said against it
        }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use rustix::net::sockopt;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    /// Nothing here takes longer unless it is broken.
    const SOON: Duration = Duration::from_secs(20);

    /// Two ends of a connection.
    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).await;
        (one.unwrap(), listener.accept().await.unwrap().0)
    }

    /// Writes what the connection takes; how much that is.
    async fn fill(stream: &TcpStream) -> u64 {
        let portion = [0; 16 * 1024];
        let mut written = 0;
        stream.writable().await.unwrap();
        loop {
            match stream.try_write(&portion) {
                Ok(length) => written += length as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return written,
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[tokio::test]
    async fn who_is_written_much_reads_only_once_it_has_taken_it() {
        let (sender, mut visitor) = connection().await;
        let written = Box::pin(fill(&sender)).await;
        assert!(written > TAKEN, "{written}");
        assert!(!reads(&sender, written));
        let mut all = vec![0; usize::try_from(written).unwrap()];
        visitor.read_exact(&mut all).await.unwrap();
        let acknowledged = async {
            while !reads(&sender, written) {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, acknowledged).await.unwrap();
    }

    #[tokio::test]
    async fn little_is_taken_that_cannot_be_sent() {
        let (limited, _deaf) = connection().await;
        limit_unsent(&limited, UNSENT);
        let (free, _as_deaf) = connection().await;
        let (limited, free) = (Box::pin(fill(&limited)).await, Box::pin(fill(&free)).await);
        assert!(limited * 2 < free, "{limited} and {free}");
    }

    #[tokio::test]
    async fn what_is_kept_small_grows_when_it_is_let() {
        let (sender, mut receiver) = connection().await;
        keep_small(&receiver);
        let size = |receiver: &TcpStream| sockopt::socket_recv_buffer_size(receiver).unwrap();
        let (begun, mut octets) = (size(&receiver), vec![0; 1 << 20]);
        assert!(sys::holds_receive_buffer(&receiver).unwrap());
        let sending = tokio::spawn(async move {
            loop {
                Box::pin(fill(&sender)).await;
            }
        });
        for _ in 0..64 {
            receiver.read_exact(&mut octets).await.unwrap();
        }
        assert_eq!(size(&receiver), begun);
        // How soon it grows by itself depends on how busy the machine has been meanwhile.
        let_grow(&receiver);
        assert!(size(&receiver) > begun);
        assert!(!sys::holds_receive_buffer(&receiver).unwrap());
        sending.abort();
    }
}
