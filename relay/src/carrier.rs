//! How one visitor's bytes cross between relay and agent, seen from either end.
//!
//! Each direction ends on its own. One that ends in order is [finished](Sender::finish); a carrier that is dropped before
//! that is reset, so the other end can tell a cut transfer from a complete one.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, ReadHalf, WriteHalf};
use wire::ResetCode;

use crate::buffers::{self, Lent};
use crate::quic::{self, RecvStream, SendStream};
use crate::tls::TlsStream;

/// One visitor's bytes, both directions.
#[derive(Debug)]
pub(crate) struct Carrier {
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
}

/// Which kind of carrier, for counters and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Quic,
    Tls,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tls => "tls",
        }
    }
}

impl Carrier {
    /// A carrier on a stream of a QUIC tunnel.
    pub(crate) fn quic(send: SendStream, recv: RecvStream) -> Self {
        Self {
            sender: Sender::Quic(QuicSender {
                stream: send,
                done: false,
            }),
            receiver: Receiver::Quic(recv),
        }
    }

    /// A carrier on a TLS connection of its own.
    pub(crate) fn tls(stream: TlsStream) -> Self {
        let (read, write) = tokio::io::split(stream);
        Self {
            sender: Sender::Tls(write),
            receiver: Receiver::Tls(read),
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.sender {
            Sender::Quic(_) => Kind::Quic,
            Sender::Tls(_) => Kind::Tls,
        }
    }
}

/// The direction away from this end.
#[derive(Debug)]
pub(crate) enum Sender {
    Quic(QuicSender),
    Tls(WriteHalf<TlsStream>),
}

impl Sender {
    /// Sends all of `octets`, waiting as long as the other end takes none.
    pub(crate) async fn send(&mut self, octets: &[u8]) -> io::Result<()> {
        match self {
            Self::Quic(sender) => Ok(sender.stream.write_all(octets).await?),
            Self::Tls(stream) => {
                stream.write_all(octets).await?;
                stream.flush().await
            }
        }
    }

    /// Ends this direction in order.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Quic(sender) => {
                sender.done = true;
                sender.stream.finish().map_err(io::Error::other)
            }
            Self::Tls(stream) => stream.shutdown().await,
        }
    }

    /// Ends this direction at once and says why. Over TLS the missing close_notify says only that it was cut.
    pub(crate) fn reset(&mut self, code: ResetCode) {
        if let Self::Quic(sender) = self {
            sender.done = true;
            // Fails only if the stream has ended already.
            let _ = sender.stream.reset(quic::reset_number(code));
        }
    }
}

/// A QUIC stream that is reset unless it was finished. The library's own streams finish when they are dropped.
#[derive(Debug)]
pub(crate) struct QuicSender {
    stream: SendStream,
    done: bool,
}

impl Drop for QuicSender {
    fn drop(&mut self) {
        if !self.done {
            let _ = self.stream.reset(quic::reset_number(ResetCode::PeerGone));
        }
    }
}

/// The direction towards this end.
#[derive(Debug)]
pub(crate) enum Receiver {
    Quic(RecvStream),
    Tls(ReadHalf<TlsStream>),
}

/// Octets that have just arrived.
#[derive(Debug)]
pub(crate) enum Received {
    /// As many chunks as the first number says, each at most a packet.
    Chunks(usize),
    /// The first octets of a lent buffer.
    Octets(Lent, usize),
    /// The direction ended in order.
    End,
}

impl Receiver {
    /// Waits for octets without holding a buffer. `chunks` receives what comes as [`Received::Chunks`].
    pub(crate) async fn receive(&mut self, chunks: &mut [Bytes]) -> io::Result<Received> {
        match self {
            Self::Quic(stream) => Ok(match stream.read_chunks(chunks).await? {
                Some(count) => Received::Chunks(count),
                None => Received::End,
            }),
            Self::Tls(stream) => {
                let (lent, length) = poll_fn(|cx| {
                    let mut lent = buffers::lend();
                    let mut buffer = ReadBuf::new(&mut lent);
                    match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                        Poll::Ready(Ok(())) => {
                            let length = buffer.filled().len();
                            Poll::Ready(Ok((lent, length)))
                        }
                        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                        Poll::Pending => Poll::Pending,
                    }
                })
                .await?;
                Ok(match length {
                    0 => Received::End,
                    length => Received::Octets(lent, length),
                })
            }
        }
    }
}

impl AsyncRead for Carrier {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.receiver {
            Receiver::Quic(stream) => AsyncRead::poll_read(Pin::new(stream), cx, buffer),
            Receiver::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.sender {
            Sender::Quic(sender) => {
                AsyncWrite::poll_write(Pin::new(&mut sender.stream), cx, octets)
            }
            Sender::Tls(stream) => Pin::new(stream).poll_write(cx, octets),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.sender {
            Sender::Quic(_) => Poll::Ready(Ok(())), // the connection sends what it has
            Sender::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.sender {
            Sender::Quic(sender) => {
                sender.done = true;
                Poll::Ready(sender.stream.finish().map_err(io::Error::other))
            }
            Sender::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
