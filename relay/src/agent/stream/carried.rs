//! The bytes of a visitor that comes through a relay, as one stream to read and write. Underneath they cross on a carrier, and
//! over a raw connection once the relay has asked for one; whoever reads and writes does not notice.
//!
//! Reading and writing are done by one task, as TLS does it: what the relay says is heard in either.

use std::future::Future;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use wire::frame::Ticket;
use wire::segment;

use crate::buffers::{self, Lent, LentChunks};
use crate::carrier::direction::Breach;
use crate::carrier::raw::Dialler;
use crate::carrier::{self, Carrier, Received};
use crate::turns::Turn;

/// How much payload goes into one segment: what TLS writes at once is seldom more.
const PORTION: usize = 64 * 1024;

/// The stream.
pub(in crate::agent) struct CarriedStream {
    carrier: Carrier,
    /// Payload that has come on the carrier and has not been read.
    unread: Option<Payload>,
    /// Segments that the carrier has not taken yet.
    unsent: Bytes,
    dialler: Dialler,
    raw: Raw,
    /// What the raw connection has brought and nobody has read: TLS asks for 4 KiB at a time, which as system calls would cost more than
    /// its decryption. Nothing where it is read as it comes.
    ahead: Option<(Lent, Range<usize>)>,
    /// The relay has the raw connection and wants what is sent there.
    switched: bool,
    /// The raw connection has said that nothing more comes over it.
    raw_ended: bool,
    /// The relay has said how much there is in all.
    stream_ended: bool,
    ending: Ending,
    /// Its part in what the worker's visitors send.
    turn: Turn,
}

enum Payload {
    Chunks { chunks: LentChunks, next: usize },
    Octets(Range<usize>),
}

/// The raw connection.
enum Raw {
    Unasked,
    Dialling(Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>),
    Here(TcpStream),
    /// It could not be had: the carrier goes on.
    Failed,
}

/// How far the end of what is sent has come.
#[derive(Debug)]
enum Ending {
    NotYet,
    Saying,
    Finishing,
    Lingering(Pin<Box<Sleep>>),
    Finished,
}

impl CarriedStream {
    /// The stream of a visitor whose Open has been read from `carrier`.
    pub(in crate::agent) fn new(carrier: Carrier, dialler: Dialler) -> Self {
        Self {
            carrier,
            unread: None,
            unsent: Bytes::new(),
            dialler,
            raw: Raw::Unasked,
            ahead: None,
            switched: false,
            raw_ended: false,
            stream_ended: false,
            ending: Ending::NotYet,
            turn: Turn::default(),
        }
    }

    /// Dials if that is asked for, and hears what the relay says, until it says payload.
    fn attend(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Raw::Dialling(dial) = &mut self.raw
            && let Poll::Ready(dialled) = dial.as_mut().poll(cx)
        {
            self.raw = match dialled {
                Ok(raw) => Raw::Here(raw),
                Err(error) => {
                    tracing::debug!(%error, "no raw connection; the visitor's stream goes on");
                    Raw::Failed
                }
            };
        }
        while self.unread.is_none() && !self.stream_ended {
            let Poll::Ready(received) = self.carrier.receiver.poll_receive(cx)? else {
                return Ok(());
            };
            match received {
                Received::Chunks(chunks) => {
                    self.unread = Some(Payload::Chunks { chunks, next: 0 });
                }
                Received::Octets(range) => self.unread = Some(Payload::Octets(range)),
                Received::Dial(ticket) => self.dial(ticket, cx)?,
                Received::Switch => self.switched = true,
                Received::Moved => {}
                Received::End => self.stream_ended = true,
            }
        }
        Ok(())
    }

    fn dial(&mut self, ticket: Ticket, cx: &mut Context<'_>) -> io::Result<()> {
        if !matches!(self.raw, Raw::Unasked) {
            return Err(io::Error::other(Breach::Misplaced));
        }
        self.raw = Raw::Dialling(Box::pin(self.dialler.clone().dial(ticket)));
        cx.waker().wake_by_ref(); // to be polled for the first time
        Ok(())
    }

    /// Gives out payload that has come on the carrier. `false` if there is none.
    fn take_unread(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let Some(payload) = &mut self.unread else {
            return false;
        };
        let emptied = match payload {
            Payload::Chunks { chunks, next } => {
                while buffer.remaining() > 0
                    && let Some(chunk) = chunks.get_mut(*next)
                {
                    let length = chunk.len().min(buffer.remaining());
                    buffer.put_slice(&chunk.split_to(length));
                    if chunk.is_empty() {
                        *next += 1;
                    }
                }
                *next == chunks.len()
            }
            Payload::Octets(range) => {
                let length = range.len().min(buffer.remaining());
                let portion = range.start..range.start + length;
                buffer.put_slice(self.carrier.receiver.octets(portion));
                range.start += length;
                range.start == range.end
            }
        };
        if emptied {
            self.unread = None;
        }
        true
    }

    /// The same with what the raw connection has brought.
    fn take_ahead(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let Some((octets, range)) = &mut self.ahead else {
            return false;
        };
        let length = range.len().min(buffer.remaining());
        buffer.put_slice(&octets[range.start..range.start + length]);
        range.start += length;
        if range.start == range.end {
            self.ahead = None;
        }
        true
    }

    fn poll_read_raw(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.take_ahead(buffer) {
            return Poll::Ready(Ok(()));
        }
        let incoming = &mut self.carrier.receiver.incoming;
        if incoming.is_complete() {
            return Poll::Ready(Ok(()));
        }
        if self.raw_ended {
            // More is missing, or the relay has yet to say how much there is.
            incoming.raw_ends().map_err(io::Error::other)?;
            return Poll::Pending;
        }
        let Raw::Here(raw) = &mut self.raw else {
            return match &self.raw {
                Raw::Dialling(_) => Poll::Pending,
                Raw::Unasked | Raw::Failed | Raw::Here(_) => {
                    Poll::Ready(Err(io::Error::other(Breach::Misplaced)))
                }
            };
        };
        let mut octets = buffers::lend();
        let mut landing = ReadBuf::new(&mut octets);
        ready!(Pin::new(raw).poll_read(cx, &mut landing))?;
        let length = landing.filled().len();
        if length == 0 {
            self.raw_ended = true;
            return self.poll_read_raw(cx, buffer);
        }
        incoming.on_raw(length).map_err(io::Error::other)?;
        self.dialler.signs.heard(length);
        self.ahead = Some((octets, 0..length));
        self.take_ahead(buffer);
        Poll::Ready(Ok(()))
    }

    fn poll_send_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.carrier.sender.poll_send(cx, &mut self.unsent)
    }

    /// Ready when the next payload can be written; moves it to the raw connection if the relay wants that.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let was_there = self.unread.is_some();
        self.attend(cx)?;
        if self.unread.is_some() && !was_there {
            cx.waker().wake_by_ref(); // heard here, to be read elsewhere; once, for who does not want it yet
        }
        ready!(self.poll_send_unsent(cx))?;
        let outgoing = &mut self.carrier.sender.outgoing;
        if self.switched && !outgoing.has_moved() && matches!(self.raw, Raw::Here(_)) {
            self.unsent = Bytes::copy_from_slice(outgoing.moves().encode().as_ref());
            ready!(self.poll_send_unsent(cx))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for CarriedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.attend(cx)?;
        if self.take_unread(buffer) {
            return Poll::Ready(Ok(()));
        }
        if self.carrier.receiver.incoming.has_moved() {
            return self.poll_read_raw(cx, buffer);
        }
        match self.stream_ended {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }
}

impl AsyncWrite for CarriedStream {
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
        ready!(self.turn.poll_next(cx)); // first: who is in line and waits for something else holds up the others
        ready!(self.poll_ready(cx))?;
        let this = &mut *self;
        let outgoing = &mut this.carrier.sender.outgoing;
        if outgoing.has_moved()
            && let Raw::Here(raw) = &mut this.raw
        {
            let length = ready!(Pin::new(raw).poll_write_vectored(cx, slices))?;
            outgoing.sent(length);
            this.turn.moved(length);
            this.dialler.signs.sent(length);
            return Poll::Ready(Ok(length));
        }
        let length = slices.iter().map(|slice| slice.len()).sum::<usize>();
        let length = length.min(PORTION);
        let mut portion = BytesMut::with_capacity(segment::HEADER + length);
        portion.put_slice(&segment::data_header(length));
        for slice in slices {
            let room = segment::HEADER + length - portion.len();
            portion.put_slice(&slice[..slice.len().min(room)]);
        }
        outgoing.sent(length);
        this.turn.moved(length);
        this.unsent = portion.freeze();
        // What is not taken now is taken before anything else is written.
        let _ = this.poll_send_unsent(cx)?;
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send_unsent(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match &mut self.ending {
                Ending::NotYet => {
                    self.turn = Turn::default(); // nothing more is moved, so it leaves the line
                    ready!(self.poll_send_unsent(cx))?;
                    let outgoing = &self.carrier.sender.outgoing;
                    let (moved, end) = (outgoing.has_moved(), outgoing.ends());
                    if moved && let Raw::Here(raw) = &mut self.raw {
                        ready!(Pin::new(raw).poll_shutdown(cx))?;
                    }
                    self.unsent = Bytes::copy_from_slice(end.encode().as_ref());
                    self.ending = Ending::Saying;
                }
                Ending::Saying => {
                    ready!(self.poll_send_unsent(cx))?;
                    self.ending = Ending::Finishing;
                }
                Ending::Finishing => {
                    ready!(self.carrier.sender.poll_finish(cx))?;
                    // What the relay still has to say is for whoever reads, not to be waited for here.
                    self.ending = match self.stream_ended {
                        true => Ending::Lingering(Box::pin(sleep(carrier::LINGER))),
                        false => Ending::Finished,
                    };
                }
                Ending::Lingering(time) => {
                    let time_is_up = time.as_mut().poll(cx).is_ready();
                    if self.carrier.receiver.poll_linger(cx).is_pending() && !time_is_up {
                        return Poll::Pending;
                    }
                    self.ending = Ending::Finished;
                }
                Ending::Finished => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl std::fmt::Debug for CarriedStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CarriedStream")
            .field("ending", &self.ending)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::{Wake, Waker};
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;
    use crate::quic;
    use crate::quic::tests::pair;

    /// Nothing here takes longer unless it is broken.
    const SOON: Duration = Duration::from_secs(20);

    /// Nothing moves any more when nothing has at so many looks.
    const STILL: usize = 50;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    /// A visitor who asks for more than it reads, and goes on asking, must not keep a core busy.
    #[tokio::test]
    async fn who_waits_to_write_is_not_woken_again_for_what_it_does_not_read() {
        let pair = pair().await;
        let (mut relay, _reads_nothing) = pair.at_relay.open_bi().await.unwrap();
        let more = [&segment::data_header(4)[..], b"more"].concat();
        tokio::io::AsyncWriteExt::write_all(&mut relay, &more)
            .await
            .unwrap();
        let (send, recv) = pair.at_agent.accept_bi().await.unwrap();
        let dialler = Dialler {
            front: pair.at_agent.remote_address(),
            key: quic::seal_key(&pair.at_agent).unwrap(),
            signs: Arc::default(),
            outcomes: mpsc::channel(1).0,
        };
        let mut stream = CarriedStream::new(Carrier::quic(send, recv), dialler);
        let octets = [7; 16 * 1024];
        let full = async {
            let mut still = 0;
            while still < STILL {
                let written =
                    poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_write(cx, &octets)));
                match written.await {
                    Poll::Ready(written) => drop(written.unwrap()),
                    Poll::Pending if stream.unread.is_some() => still += 1,
                    Poll::Pending => still = 0,
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SOON, full).await.unwrap();

        let woken = Arc::<Woken>::default();
        let waker = Waker::from(Arc::clone(&woken));
        for _ in 0..STILL {
            let mut cx = Context::from_waker(&waker);
            assert!(
                Pin::new(&mut stream)
                    .poll_write(&mut cx, &octets)
                    .is_pending()
            );
        }
        let woken = woken.0.load(Relaxed);
        assert!(woken < STILL / 5, "{woken} times");
    }
}
