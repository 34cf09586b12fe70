//! How one visitor's bytes cross between relay and agent, seen from either end.
//!
//! Each direction ends on its own. One that ends in order is [finished](Sender::finish); a carrier that is dropped before
//! that is reset, so the other end can tell a cut transfer from a complete one.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, ReadHalf, WriteHalf};
use wire::ResetCode;

use crate::buffers::{self, Lent};
use crate::liveness::SignsOfLife;
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

    /// A carrier on a TLS connection of its own. What passes it is a sign of life of the tunnel's other end.
    pub(crate) fn tls(stream: TlsStream, signs: Arc<SignsOfLife>) -> Self {
        let (read, write) = tokio::io::split(stream);
        Self {
            sender: Sender::Tls(write, Arc::clone(&signs)),
            receiver: Receiver::Tls(read, signs),
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.sender {
            Sender::Quic(_) => Kind::Quic,
            Sender::Tls(..) => Kind::Tls,
        }
    }
}

/// The direction away from this end.
#[derive(Debug)]
pub(crate) enum Sender {
    Quic(QuicSender),
    Tls(WriteHalf<TlsStream>, Arc<SignsOfLife>),
}

impl Sender {
    /// Sends all of `octets`, waiting as long as the other end takes none.
    pub(crate) async fn send(&mut self, octets: &[u8]) -> io::Result<()> {
        match self {
            Self::Quic(sender) => Ok(sender.stream.write_all(octets).await?),
            Self::Tls(stream, signs) => {
                stream.write_all(octets).await?;
                signs.sent(octets.len());
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
            Self::Tls(stream, _) => stream.shutdown().await,
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
    Tls(ReadHalf<TlsStream>, Arc<SignsOfLife>),
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
            Self::Tls(stream, signs) => {
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
                signs.heard(length);
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
            Receiver::Tls(stream, signs) => {
                let before = buffer.filled().len();
                let read = Pin::new(stream).poll_read(cx, buffer);
                signs.heard(buffer.filled().len() - before);
                read
            }
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
            Sender::Tls(stream, signs) => {
                let written = Pin::new(stream).poll_write(cx, octets);
                if let Poll::Ready(Ok(length)) = written {
                    signs.sent(length);
                }
                written
            }
        }
    }

    /// TLS hands over its records one by one, and a last alert only together with what stands before it.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut joined = buffers::lend();
        let mut length = 0;
        for slice in slices {
            let portion = slice.len().min(joined.len() - length);
            joined[length..length + portion].copy_from_slice(&slice[..portion]);
            length += portion;
        }
        self.poll_write(cx, &joined[..length])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.sender {
            Sender::Quic(_) => Poll::Ready(Ok(())), // the connection sends what it has
            Sender::Tls(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.sender {
            Sender::Quic(sender) => {
                sender.done = true;
                Poll::Ready(sender.stream.finish().map_err(io::Error::other))
            }
            Sender::Tls(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
