//! The thread that keeps records. It alone touches the disk; whoever has a record never waits for it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
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
use wire::record::batch::{Header, MAX_SEALED, Run};
use wire::record::{Contents, Record, Stream};

use crate::files;
use crate::tls::hpke::{SealError, TAG};

use super::config::Setup;
use super::folder::{DayFile, Expiry, day_of, prepare};
use super::key::PublicKey;
use super::{Metrics, Reason};

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

/// One stream, on its way to the disk.
#[derive(Debug)]
struct Output {
    stream: Stream,
    key: PublicKey,
    run: Run,
    folder: PathBuf,
    metrics: Metrics,
    /// The number of the next batch.
    sequence: u64,
    /// The day that was written to last, and up to where its file is good.
    place: Option<(u32, u64)>,
    /// The last batch could not be written.
    is_failing: bool,
    /// The next batch.
    contents: Contents,
}

/// Why a batch was not written.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("they cannot be sealed: {0}")]
    Seal(#[from] SealError),
    #[error(transparent)]
    Disk(#[from] io::Error),
}

impl WriteError {
    fn reason(&self) -> Reason {
        match self {
            Self::Seal(_) => Reason::Seal,
            Self::Disk(error) => {
                use io::ErrorKind::{QuotaExceeded, StorageFull};
                let is_full = matches!(error.kind(), StorageFull | QuotaExceeded);
                if is_full {
                    Reason::DiskFull
                } else {
                    Reason::DiskError
                }
            }
        }
    }
}

impl Output {
    fn new(stream: Stream, key: PublicKey, run: Run, folder: &Path, metrics: Metrics) -> Self {
        Self {
            stream,
            key,
            run,
            folder: folder.to_owned(),
            metrics,
            sequence: 0,
            place: None,
            is_failing: false,
            contents: Contents::default(),
        }
    }

    /// Writes what there is. What cannot be written is dropped, and the next batch is the next try.
    fn write(&mut self, now: SystemTime, is_last: bool) {
        let was_used = self.sequence > 0 || self.contents.lost > 0;
        if self.contents.records.is_empty() && !(is_last && was_used) {
            return;
        }
        let count = self.contents.records.len();
        match self.try_write(day_of(now), is_last) {
            Ok(()) => {
                self.metrics.written(self.stream).inc_by(count as u64);
                self.sequence += 1;
                self.contents.lost = 0;
                if self.is_failing {
                    tracing::info!(stream = self.stream.name(), "records are kept again");
                }
                self.is_failing = false;
            }
            Err(error) => {
                let dropped = self.metrics.dropped(self.stream, error.reason());
                dropped.inc_by(count as u64);
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                self.contents.lost = self.contents.lost.saturating_add(count);
                if !self.is_failing {
                    let folder = self.folder.display();
                    tracing::warn!(%folder, %error, "records cannot be kept; it is tried again with each that comes");
                }
                self.is_failing = true;
            }
        }
        self.contents.records.clear();
    }

    fn try_write(&mut self, day: u32, is_last: bool) -> Result<(), WriteError> {
        let plain = self.contents.write(self.stream);
        let header = Header {
            stream: self.stream,
            is_last,
            day,
            run: self.run,
            sequence: self.sequence,
            key: self.key.id(),
            length: u32::try_from(plain.len() + TAG).unwrap_or(u32::MAX),
        };
        let bound = header.write();
        let (encapsulated, sealed) = self.key.seal(&bound, &plain)?;
        let batch = [&bound[..], &encapsulated, &sealed].concat();
        let file = DayFile::new(&self.folder, day, self.run, self.stream);
        let opened = open(&file.path).or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            files::make_private_directory(&self.folder)?;
            open(&file.path)
        });
        Ok(self.append(day, &opened?, &batch)?)
    }

    /// Adds a batch to the file of `day`, whole or not at all.
    fn append(&mut self, day: u32, mut file: &File, batch: &[u8]) -> io::Result<()> {
        let length = file.metadata()?.len();
        let good = match self.place {
            Some((last, good)) if last == day => good.min(length),
            Some(_) | None => length,
        };
        if length > good {
            file.set_len(good)?; // part of a batch, which could not be taken away when it could not be written
        }
        self.place = Some((day, good));
        let is_new = good == 0;
        let written = file.write_all(batch).and_then(|()| file.sync_data());
        let written = written.and_then(|()| match is_new {
            true => File::open(&self.folder)?.sync_all(),
            false => Ok(()),
        });
        match written {
            Ok(()) => self.place = Some((day, good + batch.len() as u64)),
            Err(_) => drop(file.set_len(good)), // or at the next try
        }
        written
    }
}

/// Opened anew for each batch: a file that was taken away meanwhile is not written to any longer.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::SocketAddr;
    use std::os::unix::fs::PermissionsExt as _;

    use directory::DeviceId;
    use prometheus::Registry;
    use wire::record::{Carrier, End, Visitor};

    use super::super::{Found, SecretKey, read};
    use super::*;

    pub(in crate::records) const DAY: u32 = 20_784;

    /// One that began on that day.
    pub(in crate::records) fn run(number: u8) -> Run {
        Run::at(u64::from(DAY) * 86_400_000 + u64::from(number), [0, number])
    }

    pub(in crate::records) fn record(number: u64) -> Record {
        Record {
            started_ms: 1_795_000_000_000 + number,
            length_ms: 1000,
            device: DeviceId::from_bytes([0xAB; 16]),
            visitor: Visitor::Address(SocketAddr::from(([203, 0, 113, 77], 4711))),
            to_device: number,
            to_visitor: 1 << 40,
            end: End::Done,
            carrier: Carrier::Quic,
            raw: false,
        }
    }

    /// Writes a batch of each of these numbers of records, at noon of the day, and the last batch.
    pub(in crate::records) fn write_run(
        folder: &Path,
        key: PublicKey,
        stream: Stream,
        run: u8,
        batches: &[(u64, u32)],
    ) -> Vec<PathBuf> {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let run = self::run(run);
        let mut output = Output::new(stream, key, run, folder, metrics);
        let mut paths = Vec::new();
        for (i, (number, day)) in batches.iter().enumerate() {
            output.contents.records = (0..*number).map(record).collect();
            let noon = Duration::from_secs(u64::from(*day) * 86_400 + 43_200);
            output.write(UNIX_EPOCH + noon, i + 1 == batches.len());
            assert!(!output.is_failing);
            let file = DayFile::new(folder, *day, run, stream);
            paths.push(file.path);
        }
        paths
    }

    fn kept(folder: &Path, secret: &SecretKey) -> Vec<u64> {
        let mut kept = Vec::new();
        let all = read(folder, secret, 0, &mut |found| {
            match found {
                Found::Record(record) => kept.push(record.to_device),
                Found::Note(note) => panic!("{note}"),
            }
            Ok(())
        });
        all.unwrap();
        kept
    }

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

    #[test]
    fn a_disk_that_fails_costs_what_was_to_be_written_then_and_nothing_after() {
        let folder = tempfile::tempdir().unwrap();
        let records = folder.path().join("records");
        let secret = SecretKey::generate().unwrap();
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let run = Run([1; 8]);
        let mut output = Output::new(
            Stream::Masked,
            secret.public(),
            run,
            &records,
            metrics.clone(),
        );
        let mut write = |numbers: std::ops::Range<u64>| {
            output.contents.records = numbers.map(record).collect();
            output.write(SystemTime::now(), false);
        };
        write(0..2);
        std::fs::rename(&records, folder.path().join("aside")).unwrap();
        std::fs::write(&records, "no folder").unwrap();
        write(2..7);
        std::fs::remove_file(&records).unwrap();
        std::fs::rename(folder.path().join("aside"), &records).unwrap();
        write(7..9);
        let failed = metrics.dropped(Stream::Masked, Reason::DiskError).get();
        assert_eq!(failed, 5);
        let (mut numbers, mut notes) = (Vec::new(), Vec::new());
        let all = read(&records, &secret, 0, &mut |found| {
            match found {
                Found::Record(record) => numbers.push(record.to_device),
                Found::Note(note) => notes.push(note.to_string()),
            }
            Ok(())
        });
        all.unwrap();
        assert_eq!(numbers, [0, 1, 7, 8]);
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains("5 records"), "{notes:?}");
    }

    #[test]
    fn half_a_batch_that_was_left_behind_is_taken_away_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let secret = SecretKey::generate().unwrap();
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let mut output = Output::new(
            Stream::Full,
            secret.public(),
            Run([1; 8]),
            folder.path(),
            metrics,
        );
        for number in 0..3 {
            output.contents.records = vec![record(number)];
            output.write(SystemTime::now(), false);
            for file in std::fs::read_dir(folder.path()).unwrap() {
                let half = [7; 50];
                let mut file = open(&file.unwrap().path()).unwrap();
                file.write_all(&half).unwrap();
            }
        }
        output.contents.records = vec![record(3)];
        output.write(SystemTime::now(), true);
        assert_eq!(kept(folder.path(), &secret), [0, 1, 2, 3]);
    }
}
