//! How one visitor's bytes cross between relay and agent, seen from either end.
//!
//! ```text
//!   carrier.rs             the visitor's stream, on QUIC or TLS, and the segments on it
//!   carrier/direction.rs   when a direction leaves the stream for a raw connection, and what its end is worth
//!   carrier/dialled.rs     what TLS it runs on, here or at another process
//!   carrier/raw.rs         the raw connection: asked for, dialled, proved
//!   carrier/pipes.rs       what it is spliced through
//! ```
//!
//! Each direction [ends](Sender::end) on its own. A carrier that is dropped before its stream was finished is reset.

pub(crate) mod dialled;
pub(crate) mod direction;
pub(crate) mod pipes;
pub(crate) mod raw;

use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, ReadHalf, WriteHalf};
use wire::ResetCode;
use wire::segment::{self, Notice, Piece};

use crate::buffers::{self, Lent, LentChunks};
use crate::liveness::SignsOfLife;
use crate::quic::{Flow, Opened, Outlet, RecvStream, SendStream};

use dialled::Dialled;
use direction::{Incoming, Outgoing};

/// How long a TLS connection stays open after this end has finished, at most.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

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
    /// Datagrams of a tunnel over QUIC.
    Flow,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Quic, Self::Tls, Self::Flow];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tls => "tls",
            Self::Flow => "flow",
        }
    }
}

impl Carrier {
    /// A carrier on a stream of a QUIC tunnel.
    pub(crate) fn quic(send: SendStream, recv: RecvStream) -> Self {
        Self::on(SendingStream::Quic(send), ReceivingStream::Quic(recv))
    }

    /// A carrier on a TLS connection of its own. What passes it is a sign of life of the tunnel's other end.
    pub(crate) fn tls(stream: Dialled, signs: Arc<SignsOfLife>) -> Self {
        stream.prepare();
        let (read, write) = tokio::io::split(stream);
        Self::on(
            SendingStream::Tls(write, Arc::clone(&signs)),
            ReceivingStream::Tls(read, signs),
        )
    }

    fn on(sending: SendingStream, receiving: ReceivingStream) -> Self {
        Self {
            sender: Sender {
                stream: sending,
                outgoing: Outgoing::default(),
            },
            receiver: Receiver {
                stream: receiving,
                reader: segment::Reader::default(),
                incoming: Incoming::default(),
                unread: Unread::Nothing,
                notice: None,
            },
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.sender.stream {
            SendingStream::Quic(_) => Kind::Quic,
            SendingStream::Tls(..) => Kind::Tls,
        }
    }
}

/// The direction away from this end.
#[derive(Debug)]
pub(crate) struct Sender {
    stream: SendingStream,
    /// What of the payload went where.
    pub(crate) outgoing: Outgoing,
}

impl Sender {
    /// Says who comes, in a frame in front of all segments, and then the first payload.
    pub(crate) async fn open(&mut self, frame: &[u8], payload: &[u8]) -> io::Result<()> {
        let header = segment::data_header(payload.len());
        self.outgoing.sent(payload.len());
        self.stream.send(&[frame, &header, payload].concat()).await
    }

    /// Sends the payload that stands in `portion` behind room for a header ([`segment::HEADER`] octets), waiting as long as
    /// the other end takes none.
    pub(crate) fn send(&mut self, portion: &mut [u8]) -> impl Future<Output = io::Result<()>> {
        let length = portion.len() - segment::HEADER;
        portion[..segment::HEADER].copy_from_slice(&segment::data_header(length));
        // What does not arrive ends the stream, and how much that was is of no interest then.
        self.outgoing.sent(length);
        self.stream.send(portion)
    }

    /// The flow of datagrams beside the stream, whose payload is nothing then. What comes goes to `outlet`. `None` over TLS.
    pub(crate) fn flow(&self, outlet: Arc<dyn Outlet>) -> Option<(Flow, Opened)> {
        match &self.stream {
            SendingStream::Quic(stream) => Some(stream.flow(outlet)),
            SendingStream::Tls(..) => None,
        }
    }

    /// Says beside a flow that its visitor hears, in the one octet that is ever said there.
    pub(crate) async fn vouch(&mut self) -> io::Result<()> {
        self.stream.send(&[1]).await
    }

    /// Says something beside the payload.
    pub(crate) async fn notify(&mut self, notice: Notice) -> io::Result<()> {
        self.stream.send(notice.encode().as_ref()).await
    }

    /// Ends this direction's payload in order. Notices may follow.
    pub(crate) async fn end(&mut self) -> io::Result<()> {
        self.notify(self.outgoing.ends()).await
    }

    /// Ends the stream, after an [end](Self::end).
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_finish(cx)).await
    }

    /// Ends this direction at once and says why. Over TLS the missing End says only that it was cut.
    pub(crate) fn reset(&mut self, code: ResetCode) {
        if let SendingStream::Quic(stream) = &mut self.stream {
            stream.reset(code);
        }
    }

    /// The same, waiting until it can be said over TLS too.
    pub(crate) async fn abandon(&mut self, code: ResetCode) {
        match &mut self.stream {
            SendingStream::Quic(_) => self.reset(code),
            SendingStream::Tls(stream, _) => {
                // An end of the connection without an End. If it fails, that has come already.
                let _ = stream.shutdown().await;
            }
        }
    }

    /// Sends of `octets`, which are segments, as much as is taken, and drops that from them. Ready when all is sent.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        octets: &mut Bytes,
    ) -> Poll<io::Result<()>> {
        while !octets.is_empty() {
            let sent = ready!(self.stream.poll_send(cx, octets))?;
            octets.advance(sent);
        }
        self.stream.poll_flush(cx)
    }

    /// The same, polled.
    pub(crate) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_finish(cx)
    }
}

/// The stream's direction away from this end.
#[derive(Debug)]
enum SendingStream {
    Quic(SendStream),
    Tls(WriteHalf<Dialled>, Arc<SignsOfLife>),
}

impl SendingStream {
    /// Polled underneath, as all that is part of every visitor's task: an `async fn` for each step would hold room for what
    /// that step might wait for.
    fn send(&mut self, octets: &[u8]) -> impl Future<Output = io::Result<()>> {
        let mut rest = octets;
        poll_fn(move |cx| {
            while !rest.is_empty() {
                let sent = ready!(self.poll_write(cx, rest))?;
                rest = &rest[sent..];
            }
            self.poll_flush(cx)
        })
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Quic(stream) => Pin::new(stream).poll_write(cx, octets),
            Self::Tls(stream, signs) => {
                let length = ready!(Pin::new(stream).poll_write(cx, octets))?;
                signs.sent(length);
                Poll::Ready(Ok(length))
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, octets: &Bytes) -> Poll<io::Result<usize>> {
        match self {
            Self::Quic(stream) => stream.poll_write_bytes(cx, octets),
            Self::Tls(..) => self.poll_write(cx, octets),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Quic(_) => Poll::Ready(Ok(())), // the connection sends what it has
            Self::Tls(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Quic(stream) => {
                stream.finish();
                Poll::Ready(Ok(()))
            }
            Self::Tls(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// The direction towards this end.
#[derive(Debug)]
pub(crate) struct Receiver {
    stream: ReceivingStream,
    reader: segment::Reader,
    /// What of the payload has come from where.
    pub(crate) incoming: Incoming,
    unread: Unread,
    /// Comes after the payload that was given out last.
    notice: Option<Notice>,
}

/// What has come on the stream and has not been looked at.
#[derive(Debug)]
enum Unread {
    Nothing,
    Chunks { chunks: LentChunks, next: usize },
    Octets { octets: Lent, rest: Range<usize> },
}

/// What has just arrived.
#[derive(Debug)]
pub(crate) enum Received {
    /// Payload, in chunks of at most a packet each.
    Chunks(LentChunks),
    /// Payload, to be had by [`Receiver::octets`] until more is received.
    Octets(Range<usize>),
    /// The relay asks for a raw connection.
    Dial(wire::frame::Ticket),
    /// The relay has the raw connection, and what is sent to it is to move there.
    Switch,
    /// What comes next comes over the raw connection.
    Moved,
    /// The stream has said how much there is in all. Without a raw connection, that has all come.
    End,
}

impl Receiver {
    /// The stream before its first segment, for the frame in front of all.
    pub(crate) fn stream(&mut self) -> impl AsyncRead + Unpin + '_ {
        &mut self.stream
    }

    /// Waits for something to arrive, without holding a buffer.
    pub(crate) async fn receive(&mut self) -> io::Result<Received> {
        poll_fn(|cx| self.poll_receive(cx)).await
    }

    /// After this end has finished: ready when the other has too. A TLS connection that is closed with octets unread is reset
    /// by the kernel, and what was sent over it last is lost; so it is to be waited for, for [`LINGER`] at most.
    pub(crate) fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let ReceivingStream::Tls(stream, _) = &mut self.stream else {
            return Poll::Ready(());
        };
        let mut forgotten = buffers::lend();
        loop {
            let mut buffer = ReadBuf::new(&mut forgotten);
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }

    /// Ready once the other end has broken off, though what came before has not been received. Over TLS that is not known before.
    pub(crate) fn poll_reset(&mut self, cx: &Context<'_>) -> Poll<()> {
        match &mut self.stream {
            ReceivingStream::Quic(stream) => stream.poll_reset(cx),
            ReceivingStream::Tls(..) => Poll::Pending,
        }
    }

    /// Whether the payload that was given out last is the last there is.
    pub(crate) fn ends_here(&self) -> bool {
        matches!(self.notice, Some(Notice::End { .. }))
    }

    /// Whether nothing is to be waited for once both directions have ended.
    pub(crate) fn lingers(&self) -> bool {
        matches!(self.stream, ReceivingStream::Tls(..))
    }

    pub(crate) fn octets(&self, range: Range<usize>) -> &[u8] {
        match &self.unread {
            Unread::Octets { octets, .. } => &octets[range],
            Unread::Nothing | Unread::Chunks { .. } => &[],
        }
    }

    pub(crate) fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Received>> {
        loop {
            if let Some(notice) = self.notice.take() {
                return Poll::Ready(self.heed(notice));
            }
            if let Some(received) = self.read_segments()? {
                return Poll::Ready(Ok(received));
            }
            self.unread = Unread::Nothing;
            self.unread = match &mut self.stream {
                ReceivingStream::Quic(stream) => {
                    let read = |chunks: &mut [Bytes]| stream.poll_chunks(cx, chunks);
                    let Some(chunks) = ready!(buffers::lend_chunks_read(read))? else {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    };
                    Unread::Chunks { chunks, next: 0 }
                }
                ReceivingStream::Tls(stream, signs) => {
                    let mut octets = buffers::lend();
                    let mut buffer = ReadBuf::new(&mut octets);
                    ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
                    let length = buffer.filled().len();
                    signs.heard(length);
                    if length == 0 {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                    Unread::Octets {
                        octets,
                        rest: 0..length,
                    }
                }
            };
        }
    }

    /// Payload up to the next notice, or that; `None` when all has been read.
    fn read_segments(&mut self) -> io::Result<Option<Received>> {
        match &mut self.unread {
            Unread::Nothing => {}
            Unread::Chunks { chunks, next } => {
                let mut payload = buffers::lend_chunks();
                while let Some(chunk) = chunks.get_mut(*next) {
                    let (taken, piece) = self.reader.read(chunk).map_err(io::Error::other)?;
                    chunk.advance(taken);
                    match piece {
                        Piece::Data(length) => {
                            self.incoming.on_stream(length).map_err(io::Error::other)?;
                            payload.push(chunk.split_to(length));
                        }
                        Piece::Notice(notice) => {
                            self.notice = Some(notice);
                            break;
                        }
                        Piece::NeedMore => *next += 1,
                    }
                }
                if !payload.is_empty() {
                    return Ok(Some(Received::Chunks(payload)));
                }
            }
            Unread::Octets { octets, rest } => {
                let (taken, piece) = self
                    .reader
                    .read(&octets[rest.clone()])
                    .map_err(io::Error::other)?;
                rest.start += taken;
                match piece {
                    Piece::Data(length) => {
                        self.incoming.on_stream(length).map_err(io::Error::other)?;
                        let payload = rest.start..rest.start + length;
                        rest.start += length;
                        return Ok(Some(Received::Octets(payload)));
                    }
                    Piece::Notice(notice) => self.notice = Some(notice),
                    Piece::NeedMore => {}
                }
            }
        }
        self.notice
            .take()
            .map(|notice| self.heed(notice))
            .transpose()
    }

    fn heed(&mut self, notice: Notice) -> io::Result<Received> {
        match notice {
            Notice::Dial(ticket) => Ok(Received::Dial(ticket)),
            Notice::Switch => Ok(Received::Switch),
            Notice::Moved { at } => {
                self.incoming.moves(at).map_err(io::Error::other)?;
                Ok(Received::Moved)
            }
            Notice::End { total } => {
                self.incoming.ends(total).map_err(io::Error::other)?;
                Ok(Received::End)
            }
        }
    }
}

/// The stream's direction towards this end.
#[derive(Debug)]
enum ReceivingStream {
    Quic(RecvStream),
    Tls(ReadHalf<Dialled>, Arc<SignsOfLife>),
}

impl AsyncRead for ReceivingStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Quic(stream) => AsyncRead::poll_read(Pin::new(stream), cx, buffer),
            Self::Tls(stream, _) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}
