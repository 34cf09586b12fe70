//! The byte pump between a TCP connection at this end and a carrier: both ways, each direction ending on its own, on the
//! carrier's stream first and over a raw connection once it is bulk.
//!
//! ```text
//!   relay   near: the visitor     says when a direction moves, expects the raw connection
//!   agent   near: the origin      brings it; only where it passes TLS through and ends none
//! ```
//!
//! `splice/raw.rs` has what passes over the raw connection, `splice/paced.rs` how fast, `splice/outside.rs` what ends a pump from
//! outside.
//!
//! A visitor at rest is to cost little: what few visitors come to do is boxed, so that it is no part of every pump.
//!
//! Who broke what decides what the other side sees: an orderly end is passed on as an orderly end, anything else as a
//! reset. The functions stand in the order in which a visitor meets them.

mod outside;
mod paced;
mod raw;
mod sockets;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use pin_project_lite::pin_project;
use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::timeout;
use wire::ResetCode;
use wire::frame::Ticket;
use wire::segment::{self, Notice};

pub(crate) use self::outside::Orders;
use self::outside::{Idle, Ordered};
use self::sockets::{read_some, when_writable};
use crate::buffers;
use crate::carrier::direction::Burst;
use crate::carrier::raw::{Dialler, Door, SealKey};
use crate::carrier::{self, Carrier, Received, Receiver, Sender};
use crate::congestion;
use crate::held;
use crate::liveness::SignsOfLife;
use crate::pace::Paced;
use crate::turns::Turn;

/// How long the near end may still send after the far one has stopped listening and said all it had to say. Closing before
/// that makes the kernel send a reset, which can overtake the last bytes.
const LINGER: Duration = Duration::from_secs(1);

/// How many chunks are written at once.
const SLICES: usize = 64;

/// After so many octets to the near end, how these get there is worth a thought.
const MUCH: u64 = 64 * 1024;

/// How many octets went each way, and how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    /// From the near end to the carrier.
    pub(crate) outwards: u64,
    /// From the carrier to the near end.
    pub(crate) inwards: u64,
    pub(crate) end: End,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Both directions ended in order.
    Done,
    /// The near connection was reset, or its address went away.
    NearGone,
    /// The carrier was reset, or the tunnel under it died.
    FarGone,
    /// No byte passed for too long.
    Idle,
    /// The device lost its right to be reached, or the program stops.
    Cut,
    /// Memory was short, and this was one of the newest.
    Shed,
}

/// How a raw connection is had.
#[derive(Debug)]
pub(crate) enum RawWay {
    /// The relay asks for one when a direction is bulk, and expects it at its door.
    Expect(Door, SealKey),
    /// The agent brings one when it is asked to.
    Dial(Box<Dialler>),
    /// Not at all.
    Never,
}

/// Hears what happens to a visitor.
pub(crate) trait Observer: Sync {
    /// Octets came from the carrier.
    fn heard(&self, octets: usize);
    /// Octets went to the carrier.
    fn sent(&self, octets: usize);
    /// A raw connection is wanted: whether there is room for it, so that it is asked for.
    fn takes_raw(&self) -> bool {
        true
    }
    /// The raw connection that was asked for is here, or has not come in time.
    fn raw(&self, _came: bool) {}
    /// There was no pipe, or the kernel would not splice: the bytes were copied.
    fn copied(&self) {}
}

impl Observer for &SignsOfLife {
    fn heard(&self, octets: usize) {
        SignsOfLife::heard(self, octets);
    }

    fn sent(&self, octets: usize) {
        SignsOfLife::sent(self, octets);
    }
}

/// Pumps until both directions have ended, or one has broken, or it is ordered to end. Both connections are to be closed then.
pub(crate) fn splice<'a>(
    near: &'a TcpStream,
    carrier: &'a mut Carrier,
    raw_way: RawWay,
    paced: Option<Paced<'a>>,
    orders: Orders<'a>,
    observer: impl Observer,
) -> impl Future<Output = Moved> {
    // Made here and not in an `async fn`, whose arguments would stand beside it for as long as it lives.
    let pump = Pump::new(near, raw_way, paced, orders, observer);
    async move {
        let end = pump.run(carrier).await;
        pump.close(carrier, end).await;
        Moved {
            outwards: pump.outwards.octets.load(Relaxed),
            inwards: pump.inwards.octets.load(Relaxed),
            end,
        }
    }
}

struct Pump<'a, O> {
    near: &'a TcpStream,
    /// How fast it may go, at the relay.
    paced: Option<Paced<'a>>,
    orders: Orders<'a>,
    observer: O,
    raw_way: RawWay,
    raw: OnceLock<TcpStream>,
    /// Under which the relay expects the raw connection.
    ticket: Mutex<Option<Ticket>>,
    /// To be sent between payload.
    notices: Mutex<VecDeque<Notice>>,
    outwards: Count,
    inwards: Count,
    half_closed: AtomicBool,
    /// A raw connection is wanted, or one more direction is to move there.
    raw_told: Signal,
    raw_here: Signal,
    /// There is a notice to send, or the direction outwards may move.
    outwards_told: Signal,
    /// A signal has been given since all parts were looked at.
    told: AtomicBool,
}

/// What one part of a pump says to another. They are parts of one task, which looks at all of them again after a signal
/// ([`Pump::run`]), so that there is nobody to be woken.
#[derive(Default)]
struct Signal(AtomicBool);

impl Signal {
    /// Waits for it, or finds that it was given before.
    fn heard(&self) -> impl Future<Output = ()> {
        poll_fn(|_| match self.0.swap(false, Relaxed) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
    }
}

/// One direction's octets, and whether they are bulk: then it is to move as soon as there is a raw connection.
#[derive(Default)]
struct Count {
    octets: AtomicU64,
    burst: Mutex<Burst>,
    moves: AtomicBool,
}

/// How one direction ended.
enum Direction {
    /// In order.
    Finished,
    /// The receiving side takes no more; how the connection as a whole ended is for the other direction to say.
    Unwanted,
    /// With the whole connection.
    Broken(End),
}

impl<'a, O: Observer> Pump<'a, O> {
    fn new(
        near: &'a TcpStream,
        raw_way: RawWay,
        paced: Option<Paced<'a>>,
        orders: Orders<'a>,
        observer: O,
    ) -> Self {
        Self {
            near,
            paced,
            orders,
            observer,
            raw_way,
            raw: OnceLock::new(),
            ticket: Mutex::new(None),
            notices: Mutex::default(),
            outwards: Count::default(),
            inwards: Count::default(),
            half_closed: false.into(),
            raw_told: Signal::default(),
            raw_here: Signal::default(),
            outwards_told: Signal::default(),
            told: false.into(),
        }
    }

    async fn run(&self, carrier: &mut Carrier) -> End {
        let mut parts = pin!(Parts {
            ordered: Ordered::by(self.orders),
            both: self.both(carrier),
            raw: self.bring_raw(),
            idle: Idle::now(),
        });
        poll_fn(|cx| {
            loop {
                self.told.store(false, Relaxed);
                let ended = parts.as_mut().poll(cx, self);
                if ended.is_ready() || !self.told.load(Relaxed) {
                    return ended;
                }
            }
        })
        .await
    }

    fn tell(&self, signal: &Signal) {
        signal.0.store(true, Relaxed);
        self.told.store(true, Relaxed);
    }

    /// Closes the carrier, and says so to the near end if it is to be broken off.
    async fn close(&self, Carrier { sender, receiver }: &mut Carrier, end: End) {
        // How the raw connection ends says nothing.
        match end {
            End::Done => {
                // If it fails, the other end wants no more of what has been said already.
                let _ = sender.finish().await;
                let other_end = poll_fn(|cx| receiver.poll_linger(cx));
                let _ = Box::pin(timeout(carrier::LINGER, other_end)).await;
            }
            End::NearGone => sender.reset(ResetCode::PeerGone),
            End::FarGone => reset(self.near),
            End::Idle => {
                sender.reset(ResetCode::Idle);
                reset(self.near);
            }
            End::Cut => {
                sender.reset(ResetCode::Cut);
                reset(self.near);
            }
            End::Shed => {
                sender.reset(ResetCode::PeerGone); // for the agent its visitor has left
                reset(self.near);
            }
        }
    }

    async fn both(&self, carrier: &mut Carrier) -> End {
        let outwards = self.outwards(&mut carrier.sender);
        let inwards = self.inwards(&mut carrier.receiver);
        tokio::pin!(outwards, inwards);
        let (first, second) = tokio::select! {
            (first, sender) = &mut outwards => {
                if let Direction::Broken(end) = first {
                    return end;
                }
                self.half_closed.store(true, Relaxed);
                let second = tokio::select! {
                    second = inwards => second,
                    never = Box::pin(self.keep_sending_notices(sender)) => match never {},
                };
                (first, second)
            }
            second = &mut inwards => {
                if let Direction::Broken(end) = second {
                    return end;
                }
                self.half_closed.store(true, Relaxed);
                (outwards.await.0, second)
            }
        };
        match (first, second) {
            (_, Direction::Broken(end)) | (Direction::Broken(end), _) => end,
            (_, Direction::Unwanted) => End::NearGone,
            (Direction::Finished, Direction::Finished) => End::Done,
            (Direction::Unwanted, Direction::Finished) if self.is_agent() => End::FarGone,
            (Direction::Unwanted, Direction::Finished) => {
                self.end_near(); // it is not closed yet, and is to hear the end now
                Box::pin(drain(self.near, LINGER)).await;
                End::Done
            }
        }
    }

    /// Whether the near end is a service, and not a visitor.
    fn is_agent(&self) -> bool {
        matches!(self.raw_way, RawWay::Dial(_))
    }

    // From the near end to the carrier.

    /// Until this direction has ended; what there is to say beside it may go on, so it gives the sender back.
    async fn outwards<'s>(&self, sender: &'s mut Sender) -> (Direction, &'s mut Sender) {
        let mut turn = Turn::default();
        loop {
            turn.next().await;
            if self.send_notices(sender).await.is_err() {
                return (Direction::Unwanted, sender);
            }
            if self.outwards.moves.load(Relaxed)
                && let Some(raw) = self.raw.get()
            {
                let ended = Box::pin(self.outwards_raw(sender, raw)).await;
                return (ended, sender);
            }
            tokio::select! {
                biased;
                () = self.outwards_told.heard() => continue,
                ready = poll_fn(|cx| self.near.poll_read_ready(cx)) => if ready.is_err() {
                    return (Direction::Broken(End::NearGone), sender);
                },
            }
            let mut room = self.room(buffers::SIZE - segment::HEADER).await;
            let mut lent = buffers::lend();
            let payload = &mut lent[segment::HEADER..][..room.octets];
            let read = read_some(self.near, payload);
            room.used(*read.as_ref().unwrap_or(&0));
            drop(room);
            match read {
                Ok(0) => {
                    let ended = Box::pin(end(sender)).await;
                    return (ended, sender);
                }
                Ok(length) => {
                    let portion = &mut lent[..segment::HEADER + length];
                    if sender.send(portion).await.is_err() {
                        return (Direction::Unwanted, sender);
                    }
                    turn.moved(length);
                    self.moved_outwards(length);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return (Direction::Broken(End::NearGone), sender),
            }
        }
    }

    async fn send_notices(&self, sender: &mut Sender) -> io::Result<()> {
        loop {
            let next = lock(&self.notices).pop_front();
            match next {
                Some(notice) => Box::pin(sender.notify(notice)).await?,
                None => return Ok(()),
            }
        }
    }

    async fn keep_sending_notices(&self, sender: &mut Sender) -> Infallible {
        while self.send_notices(sender).await.is_ok() {
            self.outwards_told.heard().await;
        }
        pending().await // the stream is gone, and the other direction says how it ended
    }

    // From the carrier to the near end.

    async fn inwards(&self, receiver: &mut Receiver) -> Direction {
        loop {
            let sent = match receiver.receive().await {
                Ok(Received::Chunks(mut chunks)) => {
                    let last = receiver.ends_here();
                    tokio::select! {
                        biased;
                        sent = self.send_chunks_paced(&mut chunks, last) => sent,
                        () = poll_fn(|cx| receiver.poll_reset(cx)) => return Direction::Broken(End::FarGone),
                    }
                }
                Ok(Received::Octets(range)) => self.send_octets_paced(receiver.octets(range)).await,
                Ok(Received::Moved) => return Box::pin(self.inwards_raw(receiver)).await,
                Ok(Received::End) if self.half_closed.load(Relaxed) && !receiver.lingers() => {
                    return Direction::Finished; // it is closed in a moment
                }
                Ok(Received::End) => return self.end_near(),
                Ok(Received::Dial(ticket)) => self.dial(ticket),
                Ok(Received::Switch) => self.switch(),
                Err(_) => return Direction::Broken(End::FarGone),
            };
            match sent {
                Ok(()) => {}
                Err(error) if is_unwanted(&error) => return Direction::Unwanted,
                Err(_) => return Direction::Broken(End::NearGone),
            }
        }
    }

    fn end_near(&self) -> Direction {
        // Fails only if the near end has gone meanwhile, which the other direction sees.
        let _ = SockRef::from(self.near).shutdown(Shutdown::Write);
        Direction::Finished
    }

    /// The last of them wait for the end that follows, and leave in one packet with it.
    async fn send_chunks(&self, chunks: &mut [Bytes], last: bool) -> io::Result<()> {
        let flags = match last {
            true => SendFlags::NOSIGNAL | SendFlags::MORE,
            false => SendFlags::NOSIGNAL,
        };
        let mut from = 0;
        while from < chunks.len() {
            let mut sent = self
                .when_near_takes(|near| {
                    let rest = &chunks[from..];
                    if let [only] = rest {
                        return Ok(send(near, only, flags)?);
                    }
                    let mut slices = [IoSlice::new(&[]); SLICES];
                    for (slice, chunk) in slices.iter_mut().zip(rest) {
                        *slice = IoSlice::new(chunk);
                    }
                    let slices = &slices[..SLICES.min(rest.len())];
                    let nothing = &mut SendAncillaryBuffer::default();
                    Ok(sendmsg(near, slices, nothing, flags)?)
                })
                .await?;
            self.moved_inwards(sent);
            while let Some(first) = chunks.get_mut(from) {
                if sent < first.len() {
                    first.advance(sent);
                    break;
                }
                sent -= first.len();
                *first = Bytes::new(); // the packet it came in is free again
                from += 1;
            }
        }
        Ok(())
    }

    async fn send_octets(&self, mut octets: &[u8]) -> io::Result<()> {
        while !octets.is_empty() {
            let flags = SendFlags::NOSIGNAL;
            let sent = self.when_near_takes(|near| Ok(send(near, octets, flags)?));
            let sent = sent.await?;
            self.moved_inwards(sent);
            octets = &octets[sent..];
        }
        Ok(())
    }

    /// Writes to the near end as soon as that is possible.
    fn when_near_takes(
        &self,
        write: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> impl Future<Output = io::Result<usize>> {
        // At first nobody has heard yet that it is possible, and mostly it is.
        let try_first = self.inwards.octets.load(Relaxed) == 0;
        when_writable(self.near, try_first, write)
    }

    fn moved_outwards(&self, octets: usize) {
        self.observer.sent(octets);
        let carried = self.moved(&self.outwards, &self.inwards, octets);
        if self.is_agent() && crossed(held::LIKELY_READ, carried, octets) {
            held::let_grow(self.near);
        }
    }

    fn moved_inwards(&self, octets: usize) {
        self.observer.heard(octets);
        let carried = self.moved(&self.inwards, &self.outwards, octets);
        if crossed(MUCH, carried, octets) {
            congestion::choose(self.near);
        }
    }

    /// Counts what `one` direction has moved, and says how much that is in all. At the relay this is where bulk is noticed.
    fn moved(&self, one: &Count, other: &Count, octets: usize) -> u64 {
        let carried = one.octets.fetch_add(octets as u64, Relaxed) + octets as u64;
        if let RawWay::Expect(..) = self.raw_way
            && !one.moves.load(Relaxed)
            && lock(&one.burst).is_bulk(carried, other.octets.load(Relaxed))
        {
            one.moves.store(true, Relaxed);
            self.tell(&self.raw_told);
            self.tell(&self.outwards_told);
        }
        carried
    }
}

pin_project! {
    /// What one pump does at a time.
    struct Parts<'a, B, R> {
        #[pin]
        ordered: Ordered<'a>,
        #[pin]
        both: B,
        #[pin]
        raw: R,
        #[pin]
        idle: Idle,
    }
}

impl<B, R> Parts<'_, B, R>
where
    B: Future<Output = End>,
    R: Future<Output = Infallible>,
{
    fn poll<O>(self: Pin<&mut Self>, cx: &mut Context<'_>, pump: &Pump<'_, O>) -> Poll<End> {
        let this = self.project();
        // First: an order must not wait for a busy pump.
        if let Poll::Ready(end) = this.ordered.poll(cx) {
            return Poll::Ready(end);
        }
        if let Poll::Ready(end) = this.both.poll(cx) {
            return Poll::Ready(end);
        }
        match this.raw.poll(cx) {
            Poll::Pending => {}
            Poll::Ready(never) => match never {},
        }
        this.idle.poll(cx, pump)
    }
}

/// Whether with its last `octets` a direction has carried `mark`.
fn crossed(mark: u64, carried: u64, octets: usize) -> bool {
    carried >= mark && carried - (octets as u64) < mark
}

/// Whether a write has failed because the other end takes no more. Of that the other direction hears too; of anything else the
/// kernel has against it, it might not.
fn is_unwanted(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionReset)
}

async fn end(sender: &mut Sender) -> Direction {
    match sender.end().await {
        Ok(()) => Direction::Finished,
        Err(_) => Direction::Unwanted,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads and forgets what still comes, until the other side closes or `time` is over.
pub(crate) async fn drain(stream: &TcpStream, time: Duration) {
    let _ = timeout(time, async {
        while stream.readable().await.is_ok() {
            // Lent for each look: many may be waited for at a time, who mostly have nothing to say.
            match stream.try_read(&mut buffers::lend()) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    })
    .await;
}

/// Makes the coming close a reset, so that the near end does not take what it has for the whole.
fn reset(near: &TcpStream) {
    // If it fails the connection is gone already.
    let _ = SockRef::from(near).set_linger(Some(Duration::ZERO));
}
