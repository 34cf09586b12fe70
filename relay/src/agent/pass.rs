//! Bytes between a visitor and a service that is no HTTP, both ways, each direction ending on its own: the agent's half of
//! what `splice` does at the relay.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::try_join;

/// What is copied at once, each way.
const BUFFER: usize = 32 * 1024;

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
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = from.read(&mut buffer).await?;
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

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

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
