//! Bytes between a visitor and a service that is no HTTP, both ways, each direction ending on its own: the agent's half of
//! what `splice` does at the relay.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, split};
use tokio::try_join;

use crate::buffers::{self, Lent};

/// Copies until both directions have ended. A side that takes no more does not end what it still has to say.
///
/// # Errors
/// If either side breaks off; the other is then to be broken off as well.
pub(super) async fn both_ways(
    visitor: impl AsyncRead + AsyncWrite,
    origin: impl AsyncRead + AsyncWrite,
) -> io::Result<()> {
    let (from_visitor, to_visitor) = split(visitor);
    let (from_origin, to_origin) = split(origin);
    try_join!(
        one_way(from_visitor, to_origin),
        one_way(from_origin, to_visitor)
    )?;
    Ok(())
}

async fn one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let mut failed = None;
    loop {
        let (buffer, length) = poll_fn(|cx| poll_read_much(&mut from, &mut failed, cx)).await?;
        // Who cannot be written to has either stopped listening, or gone: then reading from it says so.
        if length == 0 {
            let _ = to.shutdown().await;
            return Ok(());
        }
        if to.write_all(&buffer[..length]).await.is_err() || to.flush().await.is_err() {
            return Ok(());
        }
    }
}

/// Reads as much as there is: TLS gives out one record at a time, and what each costs to write is mostly the system call. Nothing only
/// at the end. Until something comes no buffer is held. What goes wrong behind the first of it is kept in `failed` for the next time: a
/// socket says it once, and then that it has ended.
fn poll_read_much(
    from: &mut (impl AsyncRead + Unpin),
    failed: &mut Option<io::Error>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<(Lent, usize)>> {
    if let Some(error) = failed.take() {
        return Poll::Ready(Err(error));
    }
    let mut buffer = buffers::lend();
    let mut landing = ReadBuf::new(&mut buffer);
    ready!(Pin::new(&mut *from).poll_read(cx, &mut landing))?;
    let mut before = 0;
    while landing.filled().len() > before && landing.remaining() > 0 {
        before = landing.filled().len();
        match Pin::new(&mut *from).poll_read(cx, &mut landing) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => *failed = Some(error),
            Poll::Pending => break,
        }
    }
    let length = landing.filled().len();
    Poll::Ready(Ok((buffer, length)))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, duplex};

    use super::*;

    /// Gives out an octet at a time, and then breaks off, once, as sockets do.
    struct BreaksOff(usize);

    impl AsyncRead for BreaksOff {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.0 += 1;
            match self.0 {
                1..=3 => buffer.put_slice(b"!"),
                4 => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                _ => {}
            }
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_broke_off_does_not_look_complete_and_what_came_before_is_passed() {
        let (here, mut there) = duplex(64);
        let copied = one_way(BreaksOff(0), here).await;
        assert_eq!(copied.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let mut heard = Vec::new();
        there.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"!!!");
    }

    #[tokio::test]
    async fn who_stops_listening_is_still_heard() {
        let (mut visitor, here) = duplex(64);
        let (there, origin) = duplex(64);
        let (from_agent, mut to_agent) = split(origin);
        let copied = tokio::spawn(both_ways(here, there));
        drop(from_agent);
        visitor.write_all(b"much too long a story").await.unwrap();
        to_agent.write_all(b"enough").await.unwrap();
        to_agent.shutdown().await.unwrap();
        drop(to_agent);
        let mut heard = [0; 6];
        visitor.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"enough");
        drop(visitor);
        copied.await.unwrap().unwrap();
    }
}
