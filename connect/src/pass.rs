//! One service's bytes, once the agent has granted it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// What is copied at once, each way.
const BUFFER: usize = 64 * 1024;

/// A connection to one service of a device.
#[derive(Debug)]
pub struct Connection(Box<TlsStream<TcpStream>>);

impl Connection {
    pub(crate) fn new(stream: TlsStream<TcpStream>) -> Self {
        Self(Box::new(stream))
    }

    /// Copies both ways until both have ended, each on its own.
    ///
    /// # Errors
    /// If either side breaks off.
    pub async fn join(mut self, app: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
        copy_bidirectional_with_sizes(app, &mut self, BUFFER, BUFFER).await?;
        Ok(())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
