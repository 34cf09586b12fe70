//! The two directions of a stream.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use quinn_proto::{
    Chunks, FinishError, ReadError, ReadableError, SendStream as Sending, StreamId, VarInt,
    WriteError,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wire::ResetCode;

use super::connection::{Inner, State};
use super::flow::{Flow, Opened, Outlet};

/// Octets that are taken at a time: they are in hand until they have been moved, and the other end may send as many more.
const AT_ONCE: usize = 256 * 1024;

/// The direction away from this end. It is reset if it is dropped before it was finished.
pub(crate) struct SendStream {
    connection: Arc<Inner>,
    id: StreamId,
    /// Finished or reset.
    done: bool,
}

impl SendStream {
    pub(super) fn new(connection: Arc<Inner>, id: StreamId) -> Self {
        Self {
            connection,
            id,
            done: false,
        }
    }

    /// The flow of datagrams beside this stream, whose number it has. What comes goes to `outlet`.
    pub(crate) fn flow(&self, outlet: Arc<dyn Outlet>) -> (Flow, Opened) {
        Flow::open(Arc::clone(&self.connection), self.id.index(), outlet)
    }

    /// Writes as much of `octets` as there is room for, by reference count. Says how many that were.
    pub(crate) fn poll_write_bytes(
        &mut self,
        cx: &mut Context<'_>,
        octets: &Bytes,
    ) -> Poll<io::Result<usize>> {
        self.poll(cx, |stream| {
            let written = stream.write_chunks(&mut [octets.clone()])?;
            Ok(written.bytes)
        })
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(&mut Sending<'_>) -> Result<usize, WriteError>,
    ) -> Poll<io::Result<usize>> {
        let mut state = self.connection.lock();
        if let Some(lost) = lost(&state) {
            return Poll::Ready(Err(lost));
        }
        match write(&mut state.proto.send_stream(self.id)) {
            Ok(written) => {
                state.others_speak();
                self.connection.ask(&mut state);
                Poll::Ready(Ok(written))
            }
            Err(WriteError::Blocked) => {
                state.wait_to_write(self.id, cx);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, error))),
        }
    }

    /// Ends it in order.
    pub(crate) fn finish(&mut self) {
        self.done = true;
        let mut state = self.connection.lock();
        if state.error.is_some() {
            return;
        }
        match state.proto.send_stream(self.id).finish() {
            Ok(()) => self.connection.ask(&mut state),
            // The other end wants no more; as long as it is not told so, this end remembers the stream.
            Err(FinishError::Stopped(code)) => reset(&self.connection, &mut state, self.id, code),
            Err(FinishError::ClosedStream) => {}
        }
    }

    /// Ends it at once and says why.
    pub(crate) fn reset(&mut self, code: ResetCode) {
        self.reset_with(VarInt::from_u32(code.number()));
    }

    /// The same with a code of another protocol.
    pub(super) fn reset_with(&mut self, code: VarInt) {
        if !std::mem::replace(&mut self.done, true) {
            reset(&self.connection, &mut self.connection.lock(), self.id, code);
        }
    }
}

fn reset(connection: &Arc<Inner>, state: &mut State, id: StreamId, code: VarInt) {
    // Fails only if it has ended already.
    if state.error.is_none() && state.proto.send_stream(id).reset(code).is_ok() {
        connection.ask(state);
    }
}

impl AsyncWrite for SendStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll(cx, |stream| stream.write(octets))
    }

    /// The connection sends what it has.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        self.reset(ResetCode::PeerGone);
        self.connection.lock().forget_writer(self.id);
    }
}

impl std::fmt::Debug for SendStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SendStream({})", self.id)
    }
}

/// The direction towards this end. If it is dropped before its end, the other end is told that no more is wanted.
pub(crate) struct RecvStream {
    connection: Arc<Inner>,
    id: StreamId,
    end: Option<Ended>,
    /// All that had come was taken, and whoever took it waits for more.
    waits: bool,
}

/// How it has ended.
#[derive(Clone, Copy)]
enum Ended {
    Finished,
    Reset(VarInt),
}

impl RecvStream {
    pub(super) fn new(connection: Arc<Inner>, id: StreamId) -> Self {
        Self {
            connection,
            id,
            end: None,
            waits: false,
        }
    }

    /// Fills `chunks` from the front with what has come, without a copy. Says how many; `None` is the end.
    pub(crate) fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<io::Result<Option<usize>>> {
        self.poll(cx, |arrived| {
            let (mut count, mut room) = (0, AT_ONCE);
            for chunk in chunks.iter_mut() {
                if room == 0 {
                    break;
                }
                match arrived.next(room) {
                    Ok(Some(next)) => *chunk = next.bytes,
                    stopped => return (count, Some(stopped.map(|_| ()))),
                }
                room -= chunk.len();
                count += 1;
            }
            (count, None)
        })
    }

    /// Says that no more is wanted, with a code of another protocol.
    pub(super) fn stop_with(&mut self, code: VarInt) {
        let mut state = self.connection.lock();
        if self.end.is_none()
            && state.error.is_none()
            && let Ok(()) = state.proto.recv_stream(self.id).stop(code)
        {
            self.connection.ask(&mut state);
        }
    }

    /// Ready once the other end has broken off, though what came before has not been read.
    pub(crate) fn poll_reset(&mut self, cx: &Context<'_>) -> Poll<()> {
        match self.end {
            Some(Ended::Reset(_)) => return Poll::Ready(()),
            Some(Ended::Finished) => return Poll::Pending, // so it never will
            None => {}
        }
        let mut state = self.connection.lock();
        if state.error.is_some() {
            return Poll::Ready(());
        }
        if let Ok(Some(code)) = state.proto.recv_stream(self.id).received_reset() {
            self.end = Some(Ended::Reset(code));
            self.connection.ask(&mut state); // the other end may open another
            return Poll::Ready(());
        }
        state.wait_for_reset(self.id, cx);
        Poll::Pending
    }

    /// Has `read` take what has come: it says how much that was, and what stopped it if not that it wants no more.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        read: impl FnOnce(&mut Chunks<'_>) -> (usize, Option<Result<(), ReadError>>),
    ) -> Poll<io::Result<Option<usize>>> {
        if let Some(end) = self.end {
            return Poll::Ready(end.told());
        }
        let mut state = self.connection.lock();
        if self.waits && state.still_waits_to_read(self.id, cx) {
            return Poll::Pending;
        }
        let mut stream = state.proto.recv_stream(self.id);
        let mut arrived = stream.read(true).map_err(|error| match error {
            ReadableError::ClosedStream | ReadableError::IllegalOrderedRead => {
                io::Error::other(error)
            }
        })?;
        let (count, stopped) = read(&mut arrived);
        let room = arrived.finalize();
        if room.should_transmit() {
            self.connection.ask(&mut state); // the other end may send more
        }
        self.end = match stopped {
            Some(Ok(())) => Some(Ended::Finished),
            Some(Err(ReadError::Reset(code))) => Some(Ended::Reset(code)),
            Some(Err(ReadError::Blocked)) | None => None,
        };
        // Whoever has taken all there is asks again, mostly: that it waits is known then, without another look.
        self.waits = stopped == Some(Err(ReadError::Blocked)) && state.error.is_none();
        if self.waits {
            state.wait_to_read(self.id, cx);
        }
        match (count, self.end) {
            (1.., _) => Poll::Ready(Ok(Some(count))),
            (0, Some(end)) => Poll::Ready(end.told()),
            (0, None) => match lost(&state) {
                Some(lost) => Poll::Ready(Err(lost)),
                None => Poll::Pending,
            },
        }
    }
}

impl Ended {
    fn told(self) -> io::Result<Option<usize>> {
        match self {
            Self::Finished => Ok(None),
            Self::Reset(code) => Err(io::Error::new(
                io::ErrorKind::ConnectionReset,
                ReadError::Reset(code),
            )),
        }
    }
}

impl AsyncRead for RecvStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let read = self.poll(cx, |arrived| {
            let mut count = 0;
            while buffer.remaining() > 0 {
                match arrived.next(buffer.remaining()) {
                    Ok(Some(next)) => {
                        buffer.put_slice(&next.bytes);
                        count += next.bytes.len();
                    }
                    stopped => return (count, Some(stopped.map(|_| ()))),
                }
            }
            (count, None)
        });
        ready!(read)?;
        Poll::Ready(Ok(()))
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        self.connection.lock().forget_reader(self.id);
        self.stop_with(VarInt::from_u32(0));
    }
}

impl std::fmt::Debug for RecvStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RecvStream({})", self.id)
    }
}

/// The error of a stream whose connection has ended.
fn lost(state: &State) -> Option<io::Error> {
    let error = state.error.clone()?;
    Some(io::Error::new(io::ErrorKind::NotConnected, error))
}
