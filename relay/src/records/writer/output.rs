//! One stream of records on its way to the disk: batches, each sealed and added to the file of its day, whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use wire::record::batch::{Header, Run};
use wire::record::{Contents, Stream};

use crate::files;
use crate::records::folder::{DayFile, day_of};
use crate::records::key::PublicKey;
use crate::records::{Metrics, Reason};
use crate::tls::hpke::{SealError, TAG};

/// One stream, on its way to the disk.
#[derive(Debug)]
pub(super) struct Output {
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
    pub(super) contents: Contents,
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
    pub(super) fn new(
        stream: Stream,
        key: PublicKey,
        run: Run,
        folder: &Path,
        metrics: Metrics,
    ) -> Self {
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
    pub(super) fn write(&mut self, now: SystemTime, is_last: bool) {
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
pub(in crate::records) mod tests {
    use std::net::SocketAddr;
    use std::time::{Duration, UNIX_EPOCH};

    use directory::DeviceId;
    use prometheus::Registry;
    use wire::record::{Carrier, End, Record, Visitor};

    use super::*;
    use crate::records::{Found, SecretKey, read};

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

    pub(in crate::records) fn kept(folder: &Path, secret: &SecretKey) -> Vec<u64> {
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
