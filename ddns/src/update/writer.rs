//! The one thread that writes the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::metrics::Metrics;
use crate::store::Disk;
use crate::update::commit::{Committer, Update};
use crate::update::{Outcome, UpdateError};

/// Updates that may wait for the disk: at 200 bytes each it is under a megabyte, and a disk that syncs in 5 ms clears
/// it in 20 ms.
const QUEUE: usize = 4096;
/// Updates that one sync makes last.
const GROUP: usize = 1024;
/// Of the writer's time, rewrites take at most one part in this many, however often devices are removed.
const REWRITE_SHARE: u32 = 10;
/// Rewrites are at least so far apart.
const REWRITE_PAUSE: Duration = Duration::from_millis(500);

/// What the writer is sent.
#[derive(Debug)]
enum Message {
    /// To be committed.
    Update(Request),
    /// To look whether it should tidy up, or end.
    Wake,
}

/// An update, and who waits for its outcome.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) update: Update,
    pub(crate) reply: oneshot::Sender<Result<Outcome, UpdateError>>,
}

/// The way to the writer; nobody ever waits on it. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    sender: SyncSender<Message>,
    signs: Arc<Signs>,
}

#[derive(Debug, Default)]
struct Signs {
    /// For the writer: something should leave the disk.
    tidy: AtomicBool,
    /// For the writer: it should end.
    stop: AtomicBool,
    /// From the writer: the log says what the table says.
    sound: AtomicBool,
}

impl Queue {
    /// Gives the writer an update to commit.
    pub(super) fn push(&self, request: Request) -> Result<(), UpdateError> {
        self.sender
            .try_send(Message::Update(request))
            .map_err(|error| match error {
                TrySendError::Full(_) => UpdateError::Busy,
                TrySendError::Disconnected(_) => UpdateError::Stopped,
            })
    }

    /// Whether the log is known to say what the table says.
    pub(super) fn is_sound(&self) -> bool {
        self.signs.sound.load(Ordering::Acquire)
    }

    /// A device has gone: what the log has of it should leave the disk.
    pub(crate) fn tidy(&self) {
        self.signs.tidy.store(true, Ordering::Release);
        self.wake();
    }

    /// The writer should commit what waits, then end.
    pub(crate) fn stop(&self) {
        self.signs.stop.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        // If the queue is full the writer is awake, and looks at the signs after its next group.
        let _ = self.sender.try_send(Message::Wake);
    }
}

/// The writer, before its thread runs.
#[derive(Debug)]
pub(crate) struct Writer {
    queue: Receiver<Message>,
    signs: Arc<Signs>,
}

impl Writer {
    /// A writer and the way to it.
    pub(crate) fn new() -> (Self, Queue) {
        let (sender, queue) = sync_channel(QUEUE);
        let signs = Arc::new(Signs::default());
        let writer = Self {
            queue,
            signs: Arc::clone(&signs),
        };
        (writer, Queue { sender, signs })
    }

    /// Commits until it is told to stop. What waits then is still committed and answered.
    pub(crate) fn run<D: Disk>(self, mut committer: Committer<D>, metrics: &Metrics) {
        self.show(&committer);
        let mut group = Vec::with_capacity(GROUP);
        let mut next_rewrite = Instant::now();
        let mut tidy = false;
        loop {
            let stopping = self.signs.stop.load(Ordering::Acquire);
            tidy |= self.signs.tidy.swap(false, Ordering::Acquire);
            if !self.gather(&mut group, stopping, tidy.then_some(next_rewrite)) {
                return;
            }
            if !group.is_empty() {
                self.commit(&mut committer, &mut group, metrics);
            }
            let due = tidy || committer.is_mostly_dead();
            if due && Instant::now() >= next_rewrite {
                let began = Instant::now();
                tidy = !rewrite(&mut committer, metrics);
                self.show(&committer);
                let pause = (began.elapsed() * (REWRITE_SHARE - 1)).max(REWRITE_PAUSE);
                next_rewrite = Instant::now() + pause;
            }
        }
    }

    /// Waits for the first message, until `deadline` if there is one, and takes all that wait behind it. Does not wait
    /// when `stopping`; says then whether there was anything.
    fn gather(&self, group: &mut Vec<Request>, stopping: bool, deadline: Option<Instant>) -> bool {
        let first = if stopping {
            match self.queue.try_recv() {
                Ok(message) => Some(message),
                Err(_) => return false,
            }
        } else if let Some(deadline) = deadline {
            let patience = deadline.saturating_duration_since(Instant::now());
            match self.queue.recv_timeout(patience) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        } else {
            match self.queue.recv() {
                Ok(message) => Some(message),
                Err(_) => return false,
            }
        };
        for message in first.into_iter().chain(self.queue.try_iter()) {
            if let Message::Update(request) = message {
                group.push(request);
            }
            if group.len() == GROUP {
                break;
            }
        }
        true
    }

    fn commit<D: Disk>(
        &self,
        committer: &mut Committer<D>,
        group: &mut Vec<Request>,
        metrics: &Metrics,
    ) {
        let began = Instant::now();
        let (updates, replies): (Vec<_>, Vec<_>) = group
            .drain(..)
            .map(|request| (request.update, request.reply))
            .unzip();
        let outcomes = committer.commit(&updates, began);
        // Before anybody hears of a failure, so that nobody is told "unchanged" after it.
        self.show(committer);
        metrics.commit(committer.log(), began.elapsed());
        metrics.names(committer.table());
        for (reply, outcome) in replies.into_iter().zip(outcomes) {
            // Whoever has stopped waiting does not hear it.
            let _ = reply.send(outcome);
        }
    }

    fn show<D: Disk>(&self, committer: &Committer<D>) {
        let is_sound = committer.log().is_sound();
        self.signs.sound.store(is_sound, Ordering::Release);
    }
}

fn rewrite<D: Disk>(committer: &mut Committer<D>, metrics: &Metrics) -> bool {
    let result = committer.rewrite();
    metrics.rewrite(committer.log(), result.is_ok());
    match result {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "the log of updates could not be written anew; it will be tried again");
            false
        }
    }
}
