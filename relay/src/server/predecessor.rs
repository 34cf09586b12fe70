//! The process before this one, while it still has tunnels: whoever comes here and is its, it gets.
//!
//! ```text
//!   visitor, its device has no tunnel here ─► handed over, its hello with it
//!   raw connection, its ticket is not ours ─► handed over
//!   tls carrier, the same                  ─► its TLS has ended here by then: what is inside is passed on
//!   agent                                  ─► stays here, and the process before hears that
//!   keys of a device change                ─► the process before hears it, which knows nothing newer than its successor
//! ```

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use directory::DeviceId;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest, copy, split};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::InstanceId;
use wire::frame::Ticket;

use crate::carrier::dialled;
use crate::sys;
use crate::tls::TlsStream;

use super::handed::Message;
use super::metrics::Metrics;

/// How long a channel may be full before what was to be sent is not.
pub(super) const SEND_TIME: Duration = Duration::from_secs(1);

/// When the process before has let go of a carrier, what it said last has so long to reach the agent.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// How much is taken at once of what is said first on a carrier: who comes, and mostly his hello.
const FIRST: usize = 2048;

/// Why the process before has not been told something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Untold {
    /// It has ended, or hears no more.
    Gone,
    /// It is behind, or the system lacks something.
    Busy,
}

impl Untold {
    pub(super) const ALL: [Self; 2] = [Self::Gone, Self::Busy];

    /// The metric label.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Busy => "busy",
        }
    }
}

/// The way of one worker to the process before.
pub(super) struct Predecessor {
    /// None once nobody is at the other end.
    channel: Mutex<Option<Arc<AsyncFd<OwnedFd>>>>,
    /// Keys change seldom.
    keys_in_turn: tokio::sync::Mutex<()>,
    metrics: Arc<Metrics>,
    /// Of the worker.
    runtime: Handle,
    /// Who serves visitors, and is waited for when the relay stops.
    visitors: TaskTracker,
    /// Cancelled when it stops for good.
    cut: CancellationToken,
}

impl Predecessor {
    /// By a `channel` that belongs to the calling worker from now on.
    ///
    /// # Errors
    /// If its event queue takes no more.
    pub(super) fn new(
        channel: OwnedFd,
        metrics: Arc<Metrics>,
        visitors: TaskTracker,
        cut: CancellationToken,
    ) -> io::Result<Self> {
        Ok(Self {
            channel: Mutex::new(Some(Arc::new(sys::queue(channel)?))),
            keys_in_turn: tokio::sync::Mutex::default(),
            metrics,
            runtime: Handle::current(),
            visitors,
            cut,
        })
    }

    /// Whether anybody has been there so far.
    pub(super) fn is_there(&self) -> bool {
        self.channel().is_some()
    }

    fn channel(&self) -> Option<Arc<AsyncFd<OwnedFd>>> {
        let channel = self.channel.lock();
        channel.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says something. What is not said stays the caller's.
    pub(super) async fn tell(&self, message: &Message) -> Result<(), Untold> {
        let channel = self.channel().ok_or(Untold::Gone)?;
        let sent = channel.async_io(Interest::WRITABLE, |channel| message.send(channel));
        let untold = match timeout(SEND_TIME, sent).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if is_end(&error) => Untold::Gone,
            Ok(Err(_)) | Err(_) => Untold::Busy,
        };
        if untold == Untold::Gone {
            let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
            *channel = None;
        }
        self.metrics.predecessor_untold(untold);
        Err(untold)
    }

    /// A device has a tunnel here. If that is not heard, the other tunnel lasts as long as the process that has it.
    pub(super) fn attached(self: &Arc<Self>, device: DeviceId, instance: InstanceId) {
        if self.is_there() {
            let here = Arc::clone(self);
            let message = Message::Attached { device, instance };
            let told = async move { here.tell(&message).await };
            self.visitors.spawn_on(told, &self.runtime);
        }
    }

    /// These are the keys of a device now.
    pub(super) fn keys(self: &Arc<Self>, device: DeviceId, keys: Vec<[u8; 32]>) {
        if self.is_there() {
            let here = Arc::clone(self);
            let message = Message::Keys { device, keys };
            let told = async move {
                let _turn = here.keys_in_turn.lock().await; // what is true is said last
                here.tell(&message).await
            };
            self.visitors.spawn_on(told, &self.runtime);
        }
    }

    /// Passes on what is on a carrier, until both ends have ended. Calls `expected` if it turns out that it was asked for.
    pub(super) async fn carry(
        &self,
        ticket: Ticket,
        carrier: TlsStream,
        expected: impl FnOnce() + Send + 'static,
    ) -> Result<(), Untold> {
        let pair = StdUnixStream::pair().map_err(|_| Untold::Busy)?;
        let (near, stream) = pair;
        self.tell(&Message::Carrier { ticket, stream }).await?;
        let (near, watched) = prepare(near).map_err(|_| Untold::Busy)?;
        let cut = self.cut.clone();
        self.visitors.spawn(async move {
            tokio::select! {
                biased; // the end of all first
                () = cut.cancelled() => {}
                _ = pass(carrier, near, expected) => {}
                () = let_go(watched) => {}
            }
        });
        Ok(())
    }
}

/// Whether the other end of a channel hears no more.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotConnected};
    [BrokenPipe, ConnectionRefused, ConnectionReset, NotConnected].contains(&error.kind())
}

/// The stream, in the event queue of the calling worker, and the same once more, to be watched.
fn prepare(stream: StdUnixStream) -> io::Result<(UnixStream, AsyncFd<OwnedFd>)> {
    stream.set_nonblocking(true)?;
    let same = stream.as_fd().try_clone_to_owned()?;
    Ok((UnixStream::from_std(stream)?, sys::queue(same)?))
}

/// Both ways, until both have ended. An end that is none in order is one without an End on the carrier, so both look alike here.
async fn pass(carrier: TlsStream, near: UnixStream, expected: impl FnOnce()) -> io::Result<()> {
    dialled::prepare(&carrier);
    let (mut from_agent, mut to_agent) = split(carrier);
    let (mut from_process, mut to_process) = near.into_split();
    let there = async {
        let mut first = [0; FIRST];
        let length = from_process.read(&mut first).await?;
        if length == 0 {
            // Whoever has not made the ticket says nothing. Then the other end may be anybody, and is not waited for.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        expected();
        to_agent
            .write_all(first.get(..length).unwrap_or_default())
            .await?;
        to_agent.flush().await?;
        copy(&mut from_process, &mut to_agent).await?;
        to_agent.shutdown().await
    };
    let back = async {
        copy(&mut from_agent, &mut to_process).await?;
        to_process.shutdown().await
    };
    tokio::try_join!(there, back).map(|_| ())
}

/// Waits until nobody is at the other end of a local stream, and then some. An agent that says nothing more and does not close its
/// carrier would hold it for ever.
async fn let_go(stream: AsyncFd<OwnedFd>) {
    /// It is in no hurry.
    const LOOK: Duration = Duration::from_secs(1);
    while let Ok(ready) = stream.ready(Interest::WRITABLE).await
        && !ready.ready().is_write_closed()
    {
        sleep(LOOK).await;
    }
    sleep(LAST_WORDS).await;
}
