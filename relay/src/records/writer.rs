//! The thread that keeps records. It alone touches the disk; whoever has a record never waits for it.

pub(super) mod output;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel,
};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus::IntCounter;
use tokio::sync::oneshot;
use tokio::time::timeout;
use wire::record::batch::{MAX_SEALED, Run};
use wire::record::{Record, Stream};

use crate::tls::hpke::TAG;

use super::config::Setup;
use super::folder::{Expiry, prepare};
use super::{Metrics, Reason};
use output::Output;

/// Records that wait for the writer, at most: a second of more visitors than a few cores can open. Less than a mebibyte.
const QUEUE: usize = 8192;

/// A record is on the disk within a second, or is dropped: half of that is for waiting, and half for the disk.
const BATCH_TIME: Duration = Duration::from_millis(500);

/// How long the writer lets the queue fill while it waits. It is not woken for each record: that costs whoever has one more than the
/// record does.
const PORTION: Duration = Duration::from_millis(50);

/// A batch with so many records is not kept waiting.
const BATCH_RECORDS: usize = 512;

const _: () = assert!(4 + BATCH_RECORDS * Stream::Full.record_length() + TAG <= MAX_SEALED);

/// Takes records from the data path.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    queue: SyncSender<Told>,
    dropped: Arc<Dropped>,
}

/// What the writer is told.
#[derive(Debug)]
enum Told {
    /// A visitor's connection has ended.
    Ended(Record),
    /// No other will be waited for.
    Stop,
}

/// What did not reach the writer.
#[derive(Debug)]
struct Dropped {
    /// Since the last batch, which says so.
    since_batch: AtomicU32,
    queue_full: Vec<IntCounter>,
    stopped: Vec<IntCounter>,
}

impl Recorder {
    /// Hands a record over if there is room. Never waits.
    pub(crate) fn record(&self, record: Record) {
        let counters = match self.queue.try_send(Told::Ended(record)) {
            Ok(()) => return,
            Err(TrySendError::Full(_)) => &self.dropped.queue_full,
            Err(TrySendError::Disconnected(_)) => &self.dropped.stopped,
        };
        self.dropped.since_batch.fetch_add(1, Relaxed);
        for counter in counters {
            counter.inc();
        }
    }
}

/// The running writer; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Writer {
    queue: SyncSender<Told>,
    stop: Arc<AtomicBool>,
    thread: Thread,
    ended: Option<oneshot::Receiver<()>>,
}

impl Writer {
    /// Has everything that was handed over written, for at most `patience`.
    pub(crate) async fn stop(mut self, patience: Duration) {
        self.tell();
        if let Some(ended) = self.ended.take()
            && timeout(patience, ended).await.is_err()
        {
            tracing::warn!("the disk takes no records; the last are not waited for");
        }
    }

    fn tell(&self) {
        self.stop.store(true, Relaxed);
        // If there is no room the writer is awake, and looks.
        let _ = self.queue.try_send(Told::Stop);
        self.thread.unpark();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.tell();
    }
}

/// Why no records can be kept.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Nothing can be written there unless the operator mends it.
    #[error(
        "records cannot be kept in {}: {cause}; beside its state directory the service may write only where `ReadWritePaths=` of \
         its unit says and its user may",
        folder.display()
    )]
    Folder {
        /// Where they would be kept.
        folder: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// The system has no thread to give, or no randomness.
    #[error("no records can be kept: {0}")]
    System(#[from] io::Error),
}

/// Starts the writer. What becomes wrong with the folder afterwards shows in its counters: no visitor is to wait until it is mended.
///
/// # Errors
/// If the folder is none to write in, or the system lacks something.
pub(crate) fn start(setup: &Setup, metrics: &Metrics) -> Result<(Recorder, Writer), StartError> {
    prepare(&setup.folder).map_err(|cause| StartError::Folder {
        folder: setup.folder.clone(),
        cause,
    })?;
    let mut random = [0; 2];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let run = Run::at(u64::try_from(now.as_millis()).unwrap_or_default(), random);
    let counters = |reason| {
        let streams = setup.streams.iter();
        streams
            .map(|(stream, _)| metrics.dropped(*stream, reason))
            .collect()
    };
    let dropped = Arc::new(Dropped {
        since_batch: AtomicU32::new(0),
        queue_full: counters(Reason::QueueFull),
        stopped: counters(Reason::Stopped),
    });
    let (queue, told) = sync_channel(QUEUE);
    let stop = Arc::new(AtomicBool::new(false));
    let work = Work {
        told,
        stop: Arc::clone(&stop),
        dropped: Arc::clone(&dropped),
        outputs: setup
            .streams
            .iter()
            .map(|(stream, key)| Output::new(*stream, *key, run, &setup.folder, metrics.clone()))
            .collect(),
        expiry: Expiry::new(setup.folder.clone(), setup.keep),
    };
    let (end, ended) = oneshot::channel();
    let spawned = thread::Builder::new()
        .name("records".to_owned())
        .spawn(move || {
            work.run();
            let _ = end.send(()); // perhaps nobody waits
        })?;
    let writer = Writer {
        queue: queue.clone(),
        stop,
        thread: spawned.thread().clone(),
        ended: Some(ended),
    };
    Ok((Recorder { queue, dropped }, writer))
}

/// What the writer's thread has.
struct Work {
    told: Receiver<Told>,
    stop: Arc<AtomicBool>,
    dropped: Arc<Dropped>,
    outputs: Vec<Output>,
    expiry: Expiry,
}

impl Work {
    fn run(mut self) {
        while !self.stop.load(Relaxed) {
            let due = self.expiry.due_in(Instant::now());
            if due.is_zero() {
                self.expiry.look(SystemTime::now(), Instant::now());
                continue;
            }
            match self.told.recv_timeout(due) {
                Ok(Told::Ended(record)) => self.gather(record),
                Ok(Told::Stop) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        while let Ok(told) = self.told.try_recv() {
            if let Told::Ended(record) = told
                && self.add(record)
            {
                self.write(false);
            }
        }
        self.write(true);
    }

    /// Writes this record, with those that come soon after it.
    fn gather(&mut self, first: Record) {
        let until = Instant::now() + BATCH_TIME;
        let mut is_full = self.add(first);
        while !is_full {
            match self.told.try_recv() {
                Ok(Told::Ended(record)) => is_full = self.add(record),
                Ok(Told::Stop) | Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() || self.stop.load(Relaxed) {
                        break;
                    }
                    thread::park_timeout(left.min(PORTION));
                }
            }
        }
        self.write(false);
    }

    /// Whether it was the last that a batch takes.
    fn add(&mut self, record: Record) -> bool {
        for output in &mut self.outputs {
            output.contents.records.push(record);
        }
        self.outputs
            .iter()
            .any(|output| output.contents.records.len() >= BATCH_RECORDS)
    }

    fn write(&mut self, is_last: bool) {
        let lost = self.dropped.since_batch.swap(0, Relaxed);
        for output in &mut self.outputs {
            output.contents.lost = output.contents.lost.saturating_add(lost);
            output.write(SystemTime::now(), is_last);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use prometheus::Registry;

    use super::super::SecretKey;
    use super::super::key::PublicKey;
    use super::output::tests::{kept, record};
    use super::*;

    fn setup(folder: &Path, key: PublicKey) -> Setup {
        Setup {
            streams: vec![(Stream::Masked, key)],
            keep: Duration::from_secs(86_400),
            folder: folder.to_owned(),
        }
    }

    #[tokio::test]
    async fn what_was_handed_over_is_on_the_disk_when_the_writer_has_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let records = folder.path().join("a/records");
        let secret = SecretKey::generate().unwrap();
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let setup = setup(&records, secret.public());
        let (recorder, writer) = start(&setup, &metrics).unwrap();
        for number in 0..2000 {
            recorder.record(record(number));
        }
        writer.stop(Duration::from_secs(20)).await;
        assert_eq!(kept(&records, &secret), (0..2000).collect::<Vec<_>>());
        assert_eq!(metrics.written(Stream::Masked).get(), 2000);
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&records), 0o700);
        for file in std::fs::read_dir(&records).unwrap() {
            assert_eq!(mode(&file.unwrap().path()), 0o600);
        }
        recorder.record(record(0));
        assert_eq!(metrics.dropped(Stream::Masked, Reason::Stopped).get(), 1);
    }

    #[tokio::test]
    async fn a_folder_that_is_none_to_write_in_is_told_at_the_start_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        let key = SecretKey::generate().unwrap().public();
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let places = ["file", "file/records", "/sys/records"]; // in the last not even root makes any
        for place in places.map(|place| folder.path().join(place)) {
            let error = start(&setup(&place, key), &metrics).unwrap_err();
            let said = error.to_string();
            assert!(said.contains(&*place.to_string_lossy()), "{said}");
            assert!(said.contains("`ReadWritePaths=` of its unit"), "{said}");
        }
    }

    #[test]
    fn a_full_queue_drops_and_counts_and_nobody_waits() {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let (queue, told) = sync_channel(3);
        let queue_full = vec![metrics.dropped(Stream::Masked, Reason::QueueFull)];
        let dropped = Arc::new(Dropped {
            since_batch: AtomicU32::new(0),
            queue_full,
            stopped: Vec::new(),
        });
        let recorder = Recorder { queue, dropped };
        for number in 0..10 {
            recorder.record(record(number)); // nobody takes any: a wait would never end
        }
        assert_eq!(metrics.dropped(Stream::Masked, Reason::QueueFull).get(), 7);
        assert_eq!(recorder.dropped.since_batch.load(Relaxed), 7);
        assert_eq!(told.try_iter().count(), 3);
    }
}
