//! The one thread that appends to the log. Snapshots are written by another beside it, so that updates do not wait for them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::store::{Disk, Written};
use crate::update::commit::{Committer, Update, write_snapshot};
use crate::update::{Outcome, UpdateError};

/// Updates that may wait for the disk. A disk that syncs in 5 ms clears them in 20 ms; and they are 200 octets each, or as many as
/// a message has, which are 4 KiB at most.
const QUEUE: usize = 4096;
/// Updates that one sync makes last.
const GROUP: usize = 1024;
/// Of all time, snapshots take at most one part in this many, however often devices are removed.
const SNAPSHOT_SHARE: u32 = 10;
/// Snapshots are at least so far apart.
const SNAPSHOT_PAUSE: Duration = Duration::from_millis(500);
/// How often it is looked at whether a snapshot is done.
const LOOK: Duration = Duration::from_millis(50);

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
    /// Cancelled when no other server answers any more; absent if none ever did.
    alone: Option<CancellationToken>,
}

#[derive(Debug, Default)]
struct Signs {
    /// For the writer: something should leave the disk.
    tidy: AtomicBool,
    /// For the writer: it should end.
    stop: AtomicBool,
    /// From the writer: the log says what the table says.
    sound: AtomicBool,
    /// Updates that are in the queue or on their way to the disk.
    under_way: AtomicUsize,
}

impl Queue {
    /// Gives the writer an update to commit.
    pub(super) fn push(&self, request: Request) -> Result<(), UpdateError> {
        if !self.is_open() {
            return Err(UpdateError::Stopped);
        }
        self.signs.under_way.fetch_add(1, Ordering::SeqCst);
        self.sender
            .try_send(Message::Update(request))
            .map_err(|error| {
                self.signs.under_way.fetch_sub(1, Ordering::SeqCst);
                match error {
                    TrySendError::Full(_) => UpdateError::Busy,
                    TrySendError::Disconnected(_) => UpdateError::Stopped,
                }
            })
    }

    /// Whether the table says what will come of everything that was pushed before this call.
    pub(super) fn is_empty(&self) -> bool {
        self.signs.under_way.load(Ordering::SeqCst) == 0
    }

    /// Whether updates are taken: not before the server is alone, since another would go on answering as if they had not been; and
    /// not when it is to stop, so that the writer comes to an end however many ask. Another may take them then, and what the
    /// table says is not the last word.
    pub(super) fn is_open(&self) -> bool {
        let is_alone = self.alone.as_ref().is_none_or(|alone| alone.is_cancelled());
        is_alone && !self.signs.stop.load(Ordering::Acquire)
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
    /// A writer and the way to it, which is open when the server is `alone`.
    pub(crate) fn new(alone: Option<CancellationToken>) -> (Self, Queue) {
        let (sender, queue) = sync_channel(QUEUE);
        let signs = Arc::new(Signs::default());
        let writer = Self {
            queue,
            signs: Arc::clone(&signs),
        };
        let queue = Queue {
            sender,
            signs,
            alone,
        };
        (writer, queue)
    }

    /// Commits until it is told to stop. What waits then is still committed and answered.
    pub(crate) fn run<D: Disk>(self, mut committer: Committer<D>, metrics: &Metrics) {
        let mut group = Vec::with_capacity(GROUP);
        let mut snapshots = Snapshots {
            signs: Arc::clone(&self.signs),
            running: None,
            next: Instant::now(),
            tidy: false,
        };
        loop {
            let stopping = self.signs.stop.load(Ordering::Acquire);
            snapshots.tidy |= self.signs.tidy.swap(false, Ordering::Acquire);
            if !self.gather(&mut group, stopping, snapshots.look(&committer)) {
                break;
            }
            if !group.is_empty() {
                self.commit(&mut committer, &mut group, metrics);
            }
            snapshots.attend(&mut committer, metrics);
            self.show(&committer);
        }
        // Told to stop by the same sign, it ends soon.
        snapshots.end(&mut committer, metrics);
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
        self.signs
            .under_way
            .fetch_sub(updates.len(), Ordering::SeqCst);
        // Before anybody hears of a failure, so that nobody is told "unchanged" after it.
        self.show(committer);
        metrics.commit(committer.log(), began.elapsed());
        metrics.names(committer.table());
        for (reply, outcome) in replies.into_iter().zip(outcomes) {
            // Whoever has stopped waiting does not hear it.
            let _ = reply.send(outcome);
        }
    }

    /// Tells whether the log says what the table says.
    pub(crate) fn show<D: Disk>(&self, committer: &Committer<D>) {
        let is_sound = committer.log().is_sound();
        self.signs.sound.store(is_sound, Ordering::Release);
    }
}

/// When snapshots are written, and the one that is being written.
struct Snapshots {
    signs: Arc<Signs>,
    running: Option<Running>,
    /// Not before this the next begins.
    next: Instant,
    /// Something should leave the disk.
    tidy: bool,
}

struct Running {
    began: Instant,
    thread: JoinHandle<io::Result<Written>>,
}

impl Snapshots {
    /// When to look at them next, if ever. An unsound log is begun anew although nobody updates: perhaps nobody does because it is.
    fn look<D: Disk>(&self, committer: &Committer<D>) -> Option<Instant> {
        match self.running {
            Some(_) => Some(Instant::now() + LOOK),
            None => (self.tidy || !committer.log().is_sound()).then_some(self.next),
        }
    }

    /// Ends the one that is done, and begins the next if it is due.
    fn attend<D: Disk>(&mut self, committer: &mut Committer<D>, metrics: &Metrics) {
        if let Some(running) = &self.running {
            // One that is being written would be in the way of a log that has to be begun anew.
            if running.thread.is_finished() || !committer.log().is_sound() {
                self.end(committer, metrics);
            }
        }
        let is_sound = committer.log().is_sound();
        let is_due = self.tidy || !is_sound || committer.wants_snapshot();
        if !is_due || self.running.is_some() || Instant::now() < self.next {
            return;
        }
        if is_sound {
            self.begin(committer, metrics);
        } else {
            let began = Instant::now();
            self.tidy = false;
            let begun = committer.begin_anew();
            self.ended(began, begun, committer, metrics);
        }
    }

    fn begin<D: Disk>(&mut self, committer: &mut Committer<D>, metrics: &Metrics) {
        let began = Instant::now();
        self.tidy = false;
        let started = committer.begin_snapshot().and_then(|snapshot| {
            let (table, signs) = (Arc::clone(committer.table()), Arc::clone(&self.signs));
            thread::Builder::new()
                .name("ddns-snapshot".into())
                .spawn(move || {
                    // What a log that has to be begun anew waits for must not take long.
                    let is_wanted = || {
                        !signs.stop.load(Ordering::Relaxed) && signs.sound.load(Ordering::Acquire)
                    };
                    write_snapshot(snapshot, &table, is_wanted)
                })
        });
        match started {
            Ok(thread) => self.running = Some(Running { began, thread }),
            Err(error) => self.ended(began, Err(error), committer, metrics),
        }
    }

    /// Waits for the one that is being written.
    fn end<D: Disk>(&mut self, committer: &mut Committer<D>, metrics: &Metrics) {
        if let Some(Running { began, thread }) = self.running.take() {
            let panicked = |_| Err(io::Error::other("a bug ended it"));
            let written = thread.join().unwrap_or_else(panicked);
            let finished = written.and_then(|written| committer.finish(&written));
            self.ended(began, finished, committer, metrics);
        }
    }

    fn ended<D: Disk>(
        &mut self,
        began: Instant,
        finished: io::Result<()>,
        committer: &Committer<D>,
        metrics: &Metrics,
    ) {
        metrics.snapshot(committer.log(), finished.is_ok());
        if let Err(error) = finished {
            self.tidy = true;
            if error.kind() != io::ErrorKind::Interrupted {
                tracing::warn!(%error, "no snapshot of the updates could be written; it will be tried again");
            }
        }
        let pause = (began.elapsed() * (SNAPSHOT_SHARE - 1)).max(SNAPSHOT_PAUSE);
        self.next = Instant::now() + pause;
    }
}
