//! The byte pump between a visitor's TCP connection and its carrier: both ways, each direction ending on its own.
//!
//! Who broke what decides what the other side sees: an orderly end is passed on as an orderly end, anything else as a
//! reset. The functions stand in the order in which a visitor meets them.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use wire::ResetCode;

use crate::buffers;
use crate::carrier::{Carrier, Received, Receiver, Sender};

/// How often a visitor is looked at for having moved nothing.
const IDLE_TICK: Duration = Duration::from_secs(600);

/// A visitor of whom this many ticks saw no byte is sent away: an hour of silence on an open WebSocket is somebody who
/// left without a word.
const IDLE_TICKS: u32 = 6;

/// The same once one direction has ended: nobody keeps half a connection in silence.
const HALF_CLOSED_IDLE_TICKS: u32 = 1;

/// How long a visitor may still send after the device has stopped listening and said all it had to say. Closing before
/// that makes the kernel send a reset, which can overtake the last bytes.
const LINGER: Duration = Duration::from_secs(1);

/// How many packets' payloads are taken from a stream at once: about the 64 KiB of a copy buffer.
const CHUNKS: usize = 48;

/// How many octets went each way, and how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) to_device: u64,
    pub(crate) to_visitor: u64,
    pub(crate) end: End,
}

/// How a visitor's connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Both directions ended in order.
    Done,
    /// The visitor's connection was reset, or its address went away.
    VisitorGone,
    /// The carrier was reset, or the tunnel under it died.
    DeviceGone,
    /// No byte passed for too long.
    Idle,
    /// The device lost its right to be reached, or the relay stops.
    Cut,
}

impl End {
    pub(crate) const ALL: [Self; 5] = [
        Self::Done,
        Self::VisitorGone,
        Self::DeviceGone,
        Self::Idle,
        Self::Cut,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::VisitorGone => "visitor_gone",
            Self::DeviceGone => "device_gone",
            Self::Idle => "idle",
            Self::Cut => "cut",
        }
    }
}

/// Pumps until both directions have ended, or one has broken, or `cut`. `active` is called whenever bytes moved.
pub(crate) async fn splice(
    visitor: TcpStream,
    carrier: Carrier,
    cut: &CancellationToken,
    active: impl Fn() + Sync,
) -> Moved {
    let Carrier {
        mut sender,
        mut receiver,
    } = carrier;
    let pump = Pump {
        visitor: &visitor,
        active,
        to_device: 0.into(),
        to_visitor: 0.into(),
        half_closed: false.into(),
    };
    let end = tokio::select! {
        biased; // a cut must not wait for a busy pump
        () = cut.cancelled() => End::Cut,
        end = pump.both(&mut sender, &mut receiver) => end,
        () = pump.idle() => End::Idle,
    };
    let (to_device, to_visitor) = (pump.to_device.into_inner(), pump.to_visitor.into_inner());
    match end {
        End::Done => {}
        End::VisitorGone => sender.reset(ResetCode::PeerGone),
        End::DeviceGone => reset(&visitor),
        End::Idle => {
            sender.reset(ResetCode::Idle);
            reset(&visitor);
        }
        End::Cut => {
            sender.reset(ResetCode::Cut);
            reset(&visitor);
        }
    }
    Moved {
        to_device,
        to_visitor,
        end,
    }
}

struct Pump<'a, A> {
    visitor: &'a TcpStream,
    active: A,
    to_device: AtomicU64,
    to_visitor: AtomicU64,
    half_closed: AtomicBool,
}

/// How one direction ended.
enum Direction {
    /// In order.
    Finished,
    /// The receiving side wants no more; how the connection as a whole ended is for the other direction to say.
    Unwanted,
    /// With the whole connection.
    Broken(End),
}

impl<A: Fn()> Pump<'_, A> {
    async fn both(&self, sender: &mut Sender, receiver: &mut Receiver) -> End {
        let to_device = self.to_device(sender);
        let to_visitor = self.to_visitor(receiver);
        tokio::pin!(to_device, to_visitor);
        let (first, second) = tokio::select! {
            first = &mut to_device => match first {
                Direction::Broken(end) => return end,
                first @ (Direction::Finished | Direction::Unwanted) => {
                    self.half_closed.store(true, Relaxed);
                    (first, to_visitor.await)
                }
            },
            second = &mut to_visitor => match second {
                Direction::Broken(end) => return end,
                second @ (Direction::Finished | Direction::Unwanted) => {
                    self.half_closed.store(true, Relaxed);
                    (to_device.await, second)
                }
            },
        };
        match (first, second) {
            (_, Direction::Broken(end)) | (Direction::Broken(end), _) => end,
            (Direction::Finished, _) => End::Done,
            (Direction::Unwanted, _) => {
                drain(self.visitor, LINGER).await;
                End::Done
            }
        }
    }

    async fn to_device(&self, sender: &mut Sender) -> Direction {
        loop {
            if self.visitor.readable().await.is_err() {
                return Direction::Broken(End::VisitorGone);
            }
            let mut lent = buffers::lend();
            match self.visitor.try_read(&mut lent) {
                Ok(0) => {
                    return match sender.finish().await {
                        Ok(()) => Direction::Finished,
                        Err(_) => Direction::Unwanted,
                    };
                }
                Ok(length) => {
                    if sender.send(&lent[..length]).await.is_err() {
                        return Direction::Unwanted;
                    }
                    self.moved(&self.to_device, length);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Direction::Broken(End::VisitorGone),
            }
        }
    }

    async fn to_visitor(&self, receiver: &mut Receiver) -> Direction {
        let mut chunks: [Bytes; CHUNKS] = [const { Bytes::new() }; CHUNKS];
        loop {
            let sent = match receiver.receive(&mut chunks).await {
                Ok(Received::Chunks(count)) => self.send_chunks(&mut chunks[..count]).await,
                Ok(Received::Octets(lent, length)) => self.send_octets(&lent[..length]).await,
                Ok(Received::End) => {
                    // Fails only if the visitor has gone meanwhile, which the other direction sees.
                    let _ = SockRef::from(self.visitor).shutdown(Shutdown::Write);
                    return Direction::Finished;
                }
                Err(_) => return Direction::Broken(End::DeviceGone),
            };
            if sent.is_err() {
                return Direction::Broken(End::VisitorGone);
            }
        }
    }

    async fn send_chunks(&self, chunks: &mut [Bytes]) -> io::Result<()> {
        let mut from = 0;
        while from < chunks.len() {
            let mut slices = [IoSlice::new(&[]); CHUNKS];
            for (slice, chunk) in slices.iter_mut().zip(&chunks[from..]) {
                *slice = IoSlice::new(chunk);
            }
            let count = chunks.len() - from;
            let mut sent = self
                .when_writable(|visitor| visitor.try_write_vectored(&slices[..count]))
                .await?;
            self.moved(&self.to_visitor, sent);
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
            let sent = self
                .when_writable(|visitor| visitor.try_write(octets))
                .await?;
            self.moved(&self.to_visitor, sent);
            octets = &octets[sent..];
        }
        Ok(())
    }

    async fn when_writable(
        &self,
        mut write: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            match write(self.visitor) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.visitor.writable().await?
                }
                done => return done,
            }
        }
    }

    fn moved(&self, counter: &AtomicU64, octets: usize) {
        counter.fetch_add(octets as u64, Relaxed);
        (self.active)();
    }

    /// Returns once the visitor has been idle for too long.
    async fn idle(&self) {
        let (mut before, mut ticks) = (0, 0);
        loop {
            sleep(IDLE_TICK).await;
            let now = self.to_device.load(Relaxed) + self.to_visitor.load(Relaxed);
            ticks = if now == before { ticks + 1 } else { 0 };
            before = now;
            let limit = if self.half_closed.load(Relaxed) {
                HALF_CLOSED_IDLE_TICKS
            } else {
                IDLE_TICKS
            };
            if ticks >= limit {
                return;
            }
        }
    }
}

/// Reads and forgets what still comes, until the visitor closes or `time` is over.
pub(crate) async fn drain(visitor: &TcpStream, time: Duration) {
    let _ = timeout(time, async {
        let mut forgotten = buffers::lend();
        while visitor.readable().await.is_ok() {
            match visitor.try_read(&mut forgotten) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    })
    .await;
}

/// Makes the coming close a reset, so that the visitor does not take what it has for the whole.
fn reset(visitor: &TcpStream) {
    // If it fails the connection is gone already.
    let _ = SockRef::from(visitor).set_linger(Some(Duration::ZERO));
}
