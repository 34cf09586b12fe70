//! Reads a folder of records, for whoever has the key. What is damaged is said and passed over.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use wire::record::batch::{Batch, HEADER, Look, MAX_SEALED, Run, look, skip};
use wire::record::{Contents, Record, Stream};

use super::folder::{DayFile, day_of, files};
use super::key::SecretKey;
use super::note::{Note, began_ms};

/// How much of a file is read at once: several of the largest batches.
const PORTION: usize = 1024 * 1024;

/// What is found in a folder of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A record.
    Record(Record),
    /// Something that is wrong, or missing.
    Note(Note),
}

/// Why nothing can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The folder, or a file in it.
    #[error("{}: {cause}", path.display())]
    Disk {
        /// Which.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// There is nothing.
    #[error("{} holds no records; the server keeps some if its configuration has a [records] section", .0.display())]
    Empty(PathBuf),
    /// There is something, for somebody else.
    #[error("these records are sealed to another key than this one; the key's file belongs to {0}")]
    OtherKey(super::PublicKey),
    /// There is something, of another program.
    #[error(
        "these records were written in version {0} of their format, which this program does not read"
    )]
    OtherVersion(u8),
    /// Whoever was told did not want to hear more.
    #[error(transparent)]
    Told(io::Error),
}

/// Tells what is in `folder`, file by file, the oldest first; of days before `from_day` (counted from 1970-01-01) nothing.
///
/// # Errors
/// If nothing can be read, or as `tell` says.
pub fn read(
    folder: &Path,
    secret: &SecretKey,
    from_day: u32,
    tell: &mut dyn FnMut(Found) -> io::Result<()>,
) -> Result<(), ReadError> {
    let files = match files(folder) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(cause) => {
            let path = folder.to_owned();
            return Err(ReadError::Disk { path, cause });
        }
    };
    if files.is_empty() {
        return Err(ReadError::Empty(folder.to_owned()));
    }
    let mut reading = Reading {
        secret,
        tell,
        runs: BTreeMap::new(),
        opened: [0; 2],
        of_others: [0; 2],
        other_version: None,
        notes: 0,
    };
    let mut wanted = files.iter().filter(|file| file.day >= from_day).peekable();
    if wanted.peek().is_none() {
        return Ok(());
    }
    for file in wanted {
        reading.file(file)?;
    }
    reading.end(folder)
}

struct Reading<'a> {
    secret: &'a SecretKey,
    tell: &'a mut dyn FnMut(Found) -> io::Result<()>,
    runs: BTreeMap<(Run, usize), Numbers>,
    /// Batches that were opened, and those for other keys, by stream.
    opened: [u64; 2],
    of_others: [u64; 2],
    other_version: Option<u8>,
    notes: u64,
}

/// Which batches of a run have been seen.
#[derive(Debug, Default)]
struct Numbers {
    /// The last number of each unbroken range, by its first.
    ranges: BTreeMap<u64, u64>,
    /// The lowest number, and its day.
    lowest: Option<(u64, u32)>,
    is_ended: bool,
}

impl Numbers {
    /// Whether it is new.
    fn see(&mut self, number: u64) -> bool {
        let before = self.ranges.range(..=number).next_back();
        let before = before.map(|(first, last)| (*first, *last));
        let first = match before {
            Some((_, last)) if number <= last => return false,
            Some((first, last)) if last.checked_add(1) == Some(number) => first,
            Some(_) | None => number,
        };
        let behind = number.checked_add(1);
        let last = behind.and_then(|behind| self.ranges.remove(&behind));
        self.ranges.insert(first, last.unwrap_or(number));
        true
    }

    fn highest(&self) -> Option<u64> {
        self.ranges.last_key_value().map(|(_, last)| *last)
    }

    /// What is missing: before those that were seen, if it must be of the same day, and between them. The first of each part and
    /// how many.
    fn holes(&self, run: &Run) -> Vec<(u64, u64)> {
        let began_on = day_of(UNIX_EPOCH + Duration::from_millis(began_ms(run)));
        let beginning = self
            .lowest
            .filter(|(first, day)| *first > 0 && *day == began_on);
        let ranges = self.ranges.iter();
        let next = self.ranges.keys().skip(1);
        let between = ranges.zip(next).map(|((_, last), next)| {
            let first = last.saturating_add(1);
            (first, next.saturating_sub(first))
        });
        beginning
            .map(|(first, _)| (0, first))
            .into_iter()
            .chain(between)
            .collect()
    }
}

/// What became of a batch.
enum Opened {
    Yes,
    /// It is not damaged as far as can be told.
    ForAnother,
    Not,
}

fn index(stream: Stream) -> usize {
    match stream {
        Stream::Masked => 0,
        Stream::Full => 1,
    }
}

impl Reading<'_> {
    fn file(&mut self, file: &DayFile) -> Result<(), ReadError> {
        let failed = |cause| ReadError::Disk {
            path: file.path.clone(),
            cause,
        };
        let opened = match File::open(&file.path) {
            // It has expired meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(failed)?,
        };
        let mut octets = Octets::new(opened);
        let mut damaged = None;
        let mut version_said = false;
        loop {
            let rest = octets.rest().map_err(failed)?;
            if rest.is_empty() {
                break;
            }
            let (passed, is_good) = match look(rest) {
                Look::Batch(batch) => match self.batch(file, &batch)? {
                    Opened::Yes | Opened::ForAnother => (batch.length(), true),
                    Opened::Not => (skip(rest), false),
                },
                Look::OtherVersion { version, skip } => {
                    self.other_version = Some(version);
                    if !version_said {
                        let file = file.path.clone();
                        self.note(Note::OtherVersion { file, version })?;
                        version_said = true;
                    }
                    (skip, true)
                }
                Look::Nothing { skip } => (skip, false),
                Look::NeedMore => (skip(rest), false), // there is no more
            };
            let at = octets.at;
            match is_good {
                true => self.damaged(file, damaged.take(), at)?,
                false => damaged = damaged.or(Some(at)),
            }
            octets.pass(passed);
        }
        self.damaged(file, damaged, octets.at)
    }

    fn damaged(&mut self, file: &DayFile, from: Option<u64>, to: u64) -> Result<(), ReadError> {
        let Some(at) = from else { return Ok(()) };
        self.note(Note::Damaged {
            file: file.path.clone(),
            at,
            octets: to.saturating_sub(at),
        })
    }

    fn batch(&mut self, file: &DayFile, batch: &Batch<'_>) -> Result<Opened, ReadError> {
        let header = &batch.header;
        let stream = index(header.stream);
        if header.key != self.secret.public().id() {
            self.of_others[stream] += 1;
            return Ok(Opened::ForAnother);
        }
        let plain = self.secret.open(batch);
        let contents = plain.and_then(|plain| Contents::read(header.stream, &plain));
        let Some(contents) = contents else {
            return Ok(Opened::Not);
        };
        self.opened[stream] += 1;
        let numbers = self.runs.entry((header.run, stream)).or_default();
        let is_next = numbers.highest().is_none_or(|last| header.sequence > last);
        let is_new = numbers.see(header.sequence);
        numbers.is_ended |= header.is_last;
        let this = Some((header.sequence, header.day));
        numbers.lowest = numbers.lowest.min(this).or(this);
        let path = || file.path.clone();
        let sequence = header.sequence;
        if !is_new {
            let file = path();
            self.note(Note::Repeated { file, sequence })?;
            return Ok(Opened::Yes);
        }
        let belongs = (header.day, header.run, header.stream);
        if !is_next || belongs != (file.day, file.run, file.stream) {
            let file = path();
            self.note(Note::Moved { file, sequence })?;
        }
        if contents.lost > 0 {
            let (file, count) = (path(), contents.lost);
            self.note(Note::Lost { file, count })?;
        }
        for record in contents.records {
            (self.tell)(Found::Record(record)).map_err(ReadError::Told)?;
        }
        Ok(Opened::Yes)
    }

    fn note(&mut self, note: Note) -> Result<(), ReadError> {
        self.notes += 1;
        (self.tell)(Found::Note(note)).map_err(ReadError::Told)
    }

    /// What shows only when all has been read.
    fn end(mut self, folder: &Path) -> Result<(), ReadError> {
        let runs = std::mem::take(&mut self.runs);
        let newest = runs.keys().next_back().map(|(run, _)| *run);
        for ((run, _), numbers) in &runs {
            for (first, count) in numbers.holes(run) {
                let run = *run;
                self.note(Note::Missing { run, first, count })?;
            }
            if !numbers.is_ended && Some(*run) != newest {
                self.note(Note::Unended(*run))?;
            }
        }
        if self.opened == [0; 2] {
            return match (self.of_others, self.other_version) {
                ([0, 0], Some(version)) => Err(ReadError::OtherVersion(version)),
                ([0, 0], None) if self.notes > 0 => Ok(()), // all that is there is damaged, which was said
                ([0, 0], None) => Err(ReadError::Empty(folder.to_owned())),
                (_, _) => Err(ReadError::OtherKey(self.secret.public())),
            };
        }
        // The other stream is always sealed to another.
        for stream in Stream::ALL.map(index) {
            if self.opened[stream] > 0 && self.of_others[stream] > 0 {
                self.note(Note::OtherKey(self.of_others[stream]))?;
            }
        }
        Ok(())
    }
}

/// A file's octets, of which there are always enough for one batch, unless it ends.
struct Octets {
    file: File,
    octets: Vec<u8>,
    passed: usize,
    /// Where the first of the rest stands.
    at: u64,
    is_at_end: bool,
}

impl Octets {
    fn new(file: File) -> Self {
        Self {
            file,
            octets: Vec::new(),
            passed: 0,
            at: 0,
            is_at_end: false,
        }
    }

    fn rest(&mut self) -> io::Result<&[u8]> {
        if self.octets.len() - self.passed < HEADER + MAX_SEALED && !self.is_at_end {
            self.octets.drain(..self.passed);
            self.passed = 0;
            let mut portion = self.file.by_ref().take(PORTION as u64);
            self.is_at_end = portion.read_to_end(&mut self.octets)? < PORTION;
        }
        Ok(self.octets.get(self.passed..).unwrap_or_default())
    }

    fn pass(&mut self, octets: usize) {
        self.passed = self.passed.saturating_add(octets).min(self.octets.len());
        self.at = self.at.saturating_add(octets as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::super::writer::output::tests::{DAY, record, run, write_run};
    use super::*;

    struct Kept {
        folder: tempfile::TempDir,
        secret: SecretKey,
    }

    impl Kept {
        fn new() -> Self {
            Self {
                folder: tempfile::tempdir().unwrap(),
                secret: SecretKey::generate().unwrap(),
            }
        }

        fn write(&self, run: u8, batches: &[(u64, u32)]) -> Vec<PathBuf> {
            let key = self.secret.public();
            write_run(self.folder.path(), key, Stream::Masked, run, batches)
        }

        fn read(&self) -> Result<(usize, Vec<Note>), ReadError> {
            self.read_with(&self.secret, 0)
        }

        fn read_with(
            &self,
            secret: &SecretKey,
            from_day: u32,
        ) -> Result<(usize, Vec<Note>), ReadError> {
            let (mut records, mut notes) = (0, Vec::new());
            read(self.folder.path(), secret, from_day, &mut |found| {
                match found {
                    Found::Record(_) => records += 1,
                    Found::Note(note) => notes.push(note),
                }
                Ok(())
            })?;
            Ok((records, notes))
        }
    }

    /// Where the batches of a file begin, and its end.
    fn bounds(octets: &[u8]) -> Vec<usize> {
        let mut bounds = vec![0];
        while let Look::Batch(batch) = look(&octets[bounds[bounds.len() - 1]..]) {
            bounds.push(bounds[bounds.len() - 1] + batch.length());
        }
        bounds
    }

    #[test]
    fn runs_and_days_are_read_in_order_and_nothing_is_wrong_with_them() {
        let kept = Kept::new();
        kept.write(2, &[(3, DAY + 1)]);
        kept.write(1, &[(1, DAY), (2, DAY), (4, DAY + 1), (0, DAY + 2)]);
        assert_eq!(kept.read().unwrap(), (10, vec![]));
        assert_eq!(kept.read_with(&kept.secret, DAY + 1).unwrap(), (7, vec![]));
        assert_eq!(kept.read_with(&kept.secret, DAY + 3).unwrap(), (0, vec![]));
    }

    #[test]
    fn nothing_of_a_record_is_in_its_file_and_no_two_batches_are_alike() {
        let kept = Kept::new();
        let path = &kept.write(1, &[(5, DAY), (5, DAY)])[0];
        let octets = std::fs::read(path).unwrap();
        let device = record(0).device;
        for secret in [
            &device.as_bytes()[..4],
            &[203, 0, 113],
            &[0, 0, 1, 0, 0, 0, 0, 0],
        ] {
            assert!(!octets.windows(secret.len()).any(|part| part == secret));
        }
        let bounds = bounds(&octets);
        let sealed = |i: usize| &octets[bounds[i] + HEADER..bounds[i + 1]];
        assert_eq!(sealed(0).len(), sealed(1).len());
        assert_ne!(sealed(0), sealed(1));
    }

    #[test]
    fn a_file_torn_at_any_octet_keeps_every_batch_before_it() {
        let kept = Kept::new();
        let path = &kept.write(1, &[(1, DAY), (2, DAY), (3, DAY)])[0];
        let octets = std::fs::read(path).unwrap();
        let bounds = bounds(&octets);
        assert_eq!(bounds.len(), 4);
        for length in 1..octets.len() {
            std::fs::write(path, &octets[..length]).unwrap();
            let (records, notes) = kept.read().unwrap();
            let whole = bounds.iter().filter(|bound| **bound <= length).count() - 1;
            assert_eq!(records, [0, 1, 3][whole], "{length}");
            let torn = !bounds.contains(&length);
            assert_eq!(notes.len(), usize::from(torn), "{length} {notes:?}");
        }
    }

    #[test]
    fn a_changed_octet_costs_its_batch_and_is_said() {
        let kept = Kept::new();
        let path = &kept.write(1, &[(1, DAY), (2, DAY), (4, DAY)])[0];
        let octets = std::fs::read(path).unwrap();
        let bounds = bounds(&octets);
        for at in bounds[1]..bounds[2] {
            let mut changed = octets.clone();
            changed[at] ^= 1;
            std::fs::write(path, &changed).unwrap();
            let (records, notes) = kept.read().unwrap();
            assert_eq!(records, 5, "{at}");
            let file = path.clone();
            let expected = match at - bounds[1] {
                8 => Note::OtherVersion { file, version: 0 },
                // Which of two keys it is sealed to cannot be told from damage.
                31..39 => Note::OtherKey(1),
                _ => Note::Damaged {
                    file,
                    at: bounds[1] as u64,
                    octets: (bounds[2] - bounds[1]) as u64,
                },
            };
            let missing = Note::Missing {
                run: run(1),
                first: 1,
                count: 1,
            };
            let said = notes.len() == 2 && notes.contains(&expected) && notes.contains(&missing);
            assert!(said, "{at}: {notes:?}");
        }
    }

    #[test]
    fn what_is_cut_out_swapped_or_repeated_shows() {
        let kept = Kept::new();
        let path = &kept.write(1, &[(1, DAY), (2, DAY), (4, DAY), (8, DAY)])[0];
        kept.write(2, &[(16, DAY)]);
        let octets = std::fs::read(path).unwrap();
        let bounds = bounds(&octets);
        let (file, run) = (path.clone(), run(1));
        let moved = |sequence| Note::Moved {
            file: file.clone(),
            sequence,
        };
        let repeated = |sequence| Note::Repeated {
            file: file.clone(),
            sequence,
        };
        let missing = |first, count| Note::Missing { run, first, count };
        for (order, records, expected) in [
            (&[0, 1, 2, 3][..], 31, vec![]),
            (&[0, 3], 25, vec![missing(1, 2)]),
            (&[1, 2, 3], 30, vec![missing(0, 1)]),
            (&[0, 2, 1, 3], 31, vec![moved(1)]),
            (&[0, 1, 1, 2, 3, 0], 31, vec![repeated(1), repeated(0)]),
            (&[0, 1, 2], 23, vec![Note::Unended(run)]),
        ] {
            let parts = order.iter().map(|i| &octets[bounds[*i]..bounds[i + 1]]);
            std::fs::write(path, parts.collect::<Vec<_>>().concat()).unwrap();
            assert_eq!(kept.read().unwrap(), (records, expected), "{order:?}");
        }
    }

    #[test]
    fn a_batch_in_the_file_of_another_day_shows() {
        let kept = Kept::new();
        let paths = kept.write(1, &[(1, DAY), (2, DAY + 1)]);
        let octets: Vec<_> = paths
            .iter()
            .map(|path| std::fs::read(path).unwrap())
            .collect();
        std::fs::remove_file(&paths[1]).unwrap();
        std::fs::write(&paths[0], octets.concat()).unwrap();
        let (file, sequence) = (paths[0].clone(), 1);
        let moved = Note::Moved { file, sequence };
        assert_eq!(kept.read().unwrap(), (3, vec![moved]));
    }

    #[test]
    fn a_wrong_key_an_empty_folder_and_another_version_are_told_apart() {
        let kept = Kept::new();
        assert!(matches!(kept.read(), Err(ReadError::Empty(_))));
        let path = &kept.write(1, &[(1, DAY)])[0];
        let other = SecretKey::generate().unwrap();
        assert!(matches!(
            kept.read_with(&other, 0),
            Err(ReadError::OtherKey(_))
        ));
        // The stream of addresses beside it is nobody else's business.
        write_run(
            kept.folder.path(),
            other.public(),
            Stream::Full,
            1,
            &[(2, DAY)],
        );
        assert_eq!(kept.read().unwrap(), (1, vec![]));
        assert_eq!(kept.read_with(&other, 0).unwrap(), (2, vec![]));
        write_run(
            kept.folder.path(),
            other.public(),
            Stream::Masked,
            2,
            &[(2, DAY)],
        );
        assert_eq!(kept.read().unwrap(), (1, vec![Note::OtherKey(1)]));

        let kept_in_two = Kept::new();
        let path_in_two = kept_in_two.folder.path().join(path.file_name().unwrap());
        let mut octets = std::fs::read(path).unwrap();
        octets[8] = 2;
        std::fs::write(path_in_two, &octets).unwrap();
        assert!(matches!(
            kept_in_two.read(),
            Err(ReadError::OtherVersion(2))
        ));
    }
}
