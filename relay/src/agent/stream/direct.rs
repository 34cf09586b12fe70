//! A visitor's own TCP connection to the device.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::tls::Prefixed;
use crate::turns::Turn;

/// A visitor of whom nothing came and to whom nothing went for so long is let go: a relay's patience with one who is idle.
const IDLE_TIME: Duration = Duration::from_secs(3600);

/// The connection.
pub(in crate::agent) struct DirectStream {
    connection: Prefixed,
    /// Its part in what the worker's visitors send.
    turn: Turn,
    /// When something last came or went.
    moved_at: Instant,
    /// Made when nothing comes for the first time.
    idle: Option<Pin<Box<Sleep>>>,
}

impl DirectStream {
    pub(super) fn new(connection: Prefixed) -> Self {
        Self {
            connection,
            turn: Turn::default(),
            moved_at: Instant::now(),
            idle: None,
        }
    }

    /// Ready once nothing has moved for too long.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let moved_at = self.moved_at;
        let idle = self
            .idle
            .get_or_insert_with(|| Box::pin(sleep_until(moved_at + IDLE_TIME)));
        while idle.as_mut().poll(cx).is_ready() {
            let until = moved_at + IDLE_TIME;
            if idle.deadline() >= until {
                return Poll::Ready(());
            }
            idle.as_mut().reset(until); // something has moved since it was set
        }
        Poll::Pending
    }
}

impl AsyncRead for DirectStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.connection).poll_read(cx, buffer) {
            Poll::Ready(read) => {
                self.moved_at = Instant::now();
                Poll::Ready(read)
            }
            Poll::Pending => self
                .poll_idle(cx)
                .map(|()| Err(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl AsyncWrite for DirectStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(octets)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.turn.poll_next(cx));
        let written = Pin::new(&mut self.connection).poll_write_vectored(cx, slices);
        let length = ready!(written)?;
        self.turn.moved(length);
        self.moved_at = Instant::now();
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.connection).poll_shutdown(cx))?;
        self.turn = Turn::default(); // nothing more is moved, so it leaves the line
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use bytes::Bytes;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_visitor_is_let_go_when_nothing_has_moved_for_long_and_not_before() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut visitor = TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = DirectStream::new(Prefixed::new(Bytes::new(), stream));
        tokio::time::pause();
        let begun = Instant::now();
        for _ in 0..2 {
            tokio::time::advance(IDLE_TIME * 3 / 4).await;
            visitor.write_all(b"!").await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'!');
        }
        let moved_at = begun.elapsed();
        let ended = stream.read_u8().await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        let idle = begun.elapsed() - moved_at;
        assert!(idle >= IDLE_TIME, "{idle:?}");
        assert!(idle < IDLE_TIME + Duration::from_secs(1), "{idle:?}");
    }
}
