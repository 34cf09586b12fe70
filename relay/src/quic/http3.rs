//! A connection as HTTP/3 has it, and the bounds on what its visitor may have held here: the library that speaks HTTP/3 is given its frames
//! [one by one](wire::http3), as it asks for more than it can do with.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h3::error::Code;
use h3::quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId as Id, WriteBuf};
use quinn_proto::{ConnectionError, Dir, ReadError, StreamId, VarInt, WriteError};
use tokio::io::AsyncWrite as _;
use wire::http3::Frames;

use super::connection::{Connection, Inner, State};
use super::stream::{RecvStream, SendStream};

/// Of the frames that a visitor has begun and not ended, DATA apart, so many octets are kept: some heads of the longest kind.
const HELD: usize = 512 * 1024;

/// Streams of one direction that a visitor may open while it is here. The protocol has three; some browsers open another that means
/// nothing.
const UNIDIRECTIONAL: usize = 64;

/// A connection.
pub(crate) struct Http3 {
    opener: Opener,
    held: Arc<AtomicUsize>,
    /// No frame but DATA may be longer.
    longest: u64,
    unidirectional: usize,
}

impl Http3 {
    /// Of whose frames none but DATA may be longer than so many octets.
    pub(crate) fn new(connection: &Connection, longest: u64) -> Self {
        Self {
            opener: Opener::new(connection.clone()),
            held: Arc::default(),
            longest,
            unidirectional: 0,
        }
    }

    /// Hears where visitors want no more of what they are answered.
    pub(crate) fn stopped(&self) -> Stopped {
        Stopped(Arc::clone(self.opener.connection.inner()))
    }

    fn received(&self, id: StreamId, frames: Frames) -> Result<Received, ConnectionErrorIncoming> {
        let inner = Arc::clone(self.opener.connection.inner());
        Ok(Received {
            number: numbered(id)?,
            stream: RecvStream::new(inner, id),
            frames,
            rest: Bytes::new(),
            held: Arc::clone(&self.held),
        })
    }
}

/// Hears where a visitor wants no more.
#[derive(Clone)]
pub(crate) struct Stopped(Arc<Inner>);

impl Stopped {
    /// Ends once the visitor wants no more on a stream, or has gone. Whoever writes on it has to be the same task.
    pub(crate) async fn on(&self, stream: Id) {
        let Ok(number) = VarInt::from_u64(stream.into_inner()) else {
            return;
        };
        let id = StreamId::from(number);
        poll_fn(|cx| {
            let mut state = self.0.lock();
            if state.error.is_some() {
                return Poll::Ready(());
            }
            match state.proto.send_stream(id).stopped() {
                Ok(None) => {
                    state.wait_to_write(id, cx);
                    Poll::Pending
                }
                Ok(Some(_)) | Err(_) => Poll::Ready(()),
            }
        })
        .await;
    }
}

/// Opens streams.
pub(crate) struct Opener {
    connection: Connection,
    /// Among those who wait, once it has had to.
    number: Option<u64>,
}

impl Opener {
    fn new(connection: Connection) -> Self {
        Self {
            connection,
            number: None,
        }
    }

    fn poll<T>(
        &mut self,
        cx: &Context<'_>,
        ready: impl FnOnce(&mut State) -> Option<T>,
    ) -> Poll<Result<T, ConnectionErrorIncoming>> {
        let mut state = self.connection.inner().lock();
        if let Some(error) = &state.error {
            return Poll::Ready(Err(ended(error)));
        }
        match ready(&mut state) {
            Some(ready) => Poll::Ready(Ok(ready)),
            None => {
                state.wait(&mut self.number, cx);
                Poll::Pending
            }
        }
    }

    fn poll_accept(
        &mut self,
        cx: &Context<'_>,
        direction: Dir,
    ) -> Poll<Result<StreamId, ConnectionErrorIncoming>> {
        let accepted = ready!(self.poll(cx, |state| state.proto.streams().accept(direction)))?;
        // The other end may now have room for another.
        let inner = self.connection.inner();
        inner.ask(&mut inner.lock());
        Poll::Ready(Ok(accepted))
    }

    fn sent(&self, id: StreamId) -> Result<Sent, ConnectionErrorIncoming> {
        Ok(Sent {
            number: numbered(id)?,
            stream: SendStream::new(Arc::clone(self.connection.inner()), id),
            writing: None,
        })
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.connection.inner().lock().forget_waiter(number);
        }
    }
}

impl quic::Connection<Bytes> for Http3 {
    type RecvStream = Received;
    type OpenStreams = Opener;

    fn poll_accept_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Received, ConnectionErrorIncoming>> {
        let id = ready!(self.opener.poll_accept(cx, Dir::Uni))?;
        self.unidirectional += 1;
        if self.unidirectional > UNIDIRECTIONAL {
            let code = code(Code::H3_EXCESSIVE_LOAD.value());
            self.opener.connection.close(code, b"");
            return Poll::Ready(Err(ended(&ConnectionError::LocallyClosed)));
        }
        let frames = Frames::of_unidirectional(self.longest);
        Poll::Ready(self.received(id, frames))
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Both, ConnectionErrorIncoming>> {
        let id = ready!(self.opener.poll_accept(cx, Dir::Bi))?;
        let frames = Frames::of_request(self.longest);
        Poll::Ready(Ok(Both {
            sent: self.opener.sent(id)?,
            received: self.received(id, frames)?,
        }))
    }

    fn opener(&self) -> Opener {
        Opener::new(self.opener.connection.clone())
    }
}

impl quic::OpenStreams<Bytes> for Http3 {
    type BidiStream = Both;
    type SendStream = Sent;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Both, StreamErrorIncoming>> {
        self.opener.poll_open_bidi(cx)
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Sent, StreamErrorIncoming>> {
        self.opener.poll_open_send(cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.opener.close(code, reason);
    }
}

impl quic::OpenStreams<Bytes> for Opener {
    type BidiStream = Both;
    type SendStream = Sent;

    /// RFC 9114 section 6.1: no server opens any.
    fn poll_open_bidi(&mut self, _: &mut Context<'_>) -> Poll<Result<Both, StreamErrorIncoming>> {
        Poll::Ready(Err(StreamErrorIncoming::Unknown(Box::new(
            io::Error::from(io::ErrorKind::Unsupported),
        ))))
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Sent, StreamErrorIncoming>> {
        let opened = self.poll(cx, |state| state.proto.streams().open(Dir::Uni));
        let sent = ready!(opened).and_then(|id| self.sent(id));
        Poll::Ready(sent.map_err(
            |connection_error| StreamErrorIncoming::ConnectionErrorIncoming { connection_error },
        ))
    }

    fn close(&mut self, with: Code, reason: &[u8]) {
        self.connection.close(code(with.value()), reason);
    }
}

/// A request's two directions.
pub(crate) struct Both {
    sent: Sent,
    received: Received,
}

impl quic::BidiStream<Bytes> for Both {
    type SendStream = Sent;
    type RecvStream = Received;

    fn split(self) -> (Sent, Received) {
        (self.sent, self.received)
    }
}

impl quic::RecvStream for Both {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.received.poll_data(cx)
    }

    fn stop_sending(&mut self, code: u64) {
        self.received.stop_sending(code);
    }

    fn recv_id(&self) -> Id {
        self.received.recv_id()
    }
}

impl quic::SendStream<Bytes> for Both {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.sent.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.sent.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.sent.poll_finish(cx)
    }

    fn reset(&mut self, code: u64) {
        self.sent.reset(code);
    }

    fn send_id(&self) -> Id {
        self.sent.send_id()
    }
}

/// What is said to the visitor. It is broken off if this is dropped before it was finished.
pub(crate) struct Sent {
    number: Id,
    stream: SendStream,
    writing: Option<WriteBuf<Bytes>>,
}

impl quic::SendStream<Bytes> for Sent {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        while let Some(rest) = &mut self.writing
            && rest.has_remaining()
        {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, rest.chunk()));
            rest.advance(written.map_err(failed)?);
        }
        self.writing = None;
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.writing = Some(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.stream.finish();
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self, with: u64) {
        self.stream.reset_with(code(with));
    }

    fn send_id(&self) -> Id {
        self.number
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        let cancelled = Code::H3_REQUEST_CANCELLED.value();
        self.stream.reset_with(code(cancelled));
    }
}

/// What the visitor says.
pub(crate) struct Received {
    number: Id,
    stream: RecvStream,
    frames: Frames,
    /// What has come and is not cut yet.
    rest: Bytes,
    /// Of all streams of its connection.
    held: Arc<AtomicUsize>,
}

impl Received {
    /// Nothing more is read of it.
    fn give_up(&mut self, why: Code) -> StreamErrorIncoming {
        let error_code = why.value();
        self.stream.stop_with(code(error_code));
        StreamErrorIncoming::StreamTerminated { error_code }
    }
}

impl quic::RecvStream for Received {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        loop {
            if self.rest.is_empty() {
                let mut chunk = [Bytes::new()];
                let read = ready!(self.stream.poll_chunks(cx, &mut chunk)).map_err(failed)?;
                if read.is_none() && !self.frames.may_end() {
                    return Poll::Ready(Err(self.give_up(Code::H3_REQUEST_INCOMPLETE)));
                }
                if read.is_none() {
                    return Poll::Ready(Ok(None));
                }
                [self.rest] = chunk;
            }
            let before = self.frames.held();
            let piece = self.frames.next(&mut self.rest);
            let now = self.frames.held();
            let all = self.held.fetch_add(now, Relaxed).saturating_add(now);
            let all = all.saturating_sub(before);
            self.held.fetch_sub(before, Relaxed);
            match piece {
                Ok(Some(piece)) => return Poll::Ready(Ok(Some(piece))),
                Ok(None) if all <= HELD => {}
                Ok(None) | Err(_) => {
                    return Poll::Ready(Err(self.give_up(Code::H3_EXCESSIVE_LOAD)));
                }
            }
        }
    }

    fn stop_sending(&mut self, with: u64) {
        self.stream.stop_with(code(with));
    }

    fn recv_id(&self) -> Id {
        self.number
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        self.held.fetch_sub(self.frames.held(), Relaxed);
        // RFC 9114 section 4.1: whoever has been answered in full need not say the rest.
        self.stream.stop_with(code(Code::H3_NO_ERROR.value()));
    }
}

/// The same number as the library of HTTP/3 has it.
fn numbered(id: StreamId) -> Result<Id, ConnectionErrorIncoming> {
    let number = VarInt::from(id).into_inner();
    Id::try_from(number).map_err(|error| ConnectionErrorIncoming::InternalError(error.to_string()))
}

fn code(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

fn ended(error: &ConnectionError) -> ConnectionErrorIncoming {
    match error {
        ConnectionError::ApplicationClosed(close) => ConnectionErrorIncoming::ApplicationClose {
            error_code: close.error_code.into_inner(),
        },
        ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        other @ (ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::Reset
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted) => {
            ConnectionErrorIncoming::Undefined(Arc::new(other.clone()))
        }
    }
}

/// Why a stream does not go on.
fn failed(error: io::Error) -> StreamErrorIncoming {
    let cause = error.get_ref();
    if let Some(error) = cause.and_then(|cause| cause.downcast_ref()) {
        return StreamErrorIncoming::ConnectionErrorIncoming {
            connection_error: ended(error),
        };
    }
    let reset = cause.and_then(|cause| match cause.downcast_ref() {
        Some(ReadError::Reset(code)) => Some(*code),
        Some(ReadError::Blocked) | None => None,
    });
    let stopped = cause.and_then(|cause| match cause.downcast_ref() {
        Some(WriteError::Stopped(code)) => Some(*code),
        Some(WriteError::Blocked | WriteError::ClosedStream) | None => None,
    });
    match reset.or(stopped) {
        Some(code) => StreamErrorIncoming::StreamTerminated {
            error_code: code.into_inner(),
        },
        None => StreamErrorIncoming::Unknown(Box::new(error)),
    }
}

impl fmt::Debug for Http3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http3").finish_non_exhaustive()
    }
}
