//! The logs behind the last snapshot, of which the last is appended to.

use std::io;

use crate::store::disk::{Disk, LogFile};
use crate::store::record::Record;
use crate::store::recover::{Ending, HeldByRegistration, LOG_MAGIC, read_log, read_snapshot};
use crate::store::snapshot::{self, Snapshot, Written};

const PREFIX: &str = "ddns.log.";

/// The log on a disk.
#[derive(Debug)]
pub struct Log<D: Disk> {
    disk: D,
    /// The highest number that a log has, or was to have. None is used twice: a name whose sync has failed may never last.
    number: u64,
    /// The last log; `None` at first, and after a failure: its end is not to be trusted.
    file: Option<D::File>,
    /// One of those that were found ends in what is no record.
    is_torn: bool,
    /// Behind the last snapshot.
    behind: Size,
    /// Behind the one that is being written.
    behind_next: Size,
}

#[derive(Clone, Copy, Debug, Default)]
struct Size {
    octets: u64,
    records: u64,
}

/// What was found on the disk.
#[derive(Debug, Default)]
pub struct Recovered {
    /// What each registration has.
    pub held_by_registration: HeldByRegistration,
    /// There was nothing, not even an empty log.
    pub is_new: bool,
}

impl<D: Disk> Log<D> {
    /// Reads the snapshot and the logs that are there, if any. The log takes records only after [`begin_anew`](Self::begin_anew):
    /// what is seen of a file whose sync has failed may not be on the disk, and only the process before this one was told.
    ///
    /// # Errors
    /// If there is a file that cannot be read or is not of ours. Nothing has been changed, whatever happens.
    pub fn open(disk: D) -> Result<(Self, Recovered), ReadError> {
        let mut recovered = Recovered::default();
        let mut first = 0;
        let snapshot = disk.read(snapshot::NAME)?;
        if let Some(octets) = &snapshot {
            let read = read_snapshot(octets).ok_or(ReadError::Snapshot)?;
            (first, recovered.held_by_registration) = read;
        }
        let mut numbers = numbers(&disk)?;
        numbers.retain(|number| *number >= first);
        recovered.is_new = snapshot.is_none() && numbers.is_empty();
        let mut log = Self {
            disk,
            number: numbers.last().copied().unwrap_or(first),
            file: None,
            is_torn: false,
            behind: Size::default(),
            behind_next: Size::default(),
        };
        log.behind.octets = snapshot.map_or(0, |octets| octets.len() as u64);
        for number in numbers {
            log.read(number, &mut recovered.held_by_registration)?;
        }
        Ok((log, recovered))
    }

    fn read(&mut self, number: u64, known: &mut HeldByRegistration) -> Result<(), ReadError> {
        let octets = self.disk.read(&name(number))?.unwrap_or_default();
        let read = read_log(&octets, known);
        if read.records > 0 && self.is_torn {
            // Nothing was ever appended to a log while the end of the one before it was in doubt.
            return Err(ReadError::Damaged(number));
        }
        match read.ending {
            Ending::Foreign => return Err(ReadError::Foreign(number)),
            // One that was never begun; nothing was ever appended to it.
            Ending::Torn if read.good == 0 => {}
            Ending::Torn => {
                let torn = octets.len().saturating_sub(read.good);
                tracing::warn!(
                    records = read.records,
                    torn,
                    "a log of updates ends in octets that are no record, as after a crash; they are dropped"
                );
                self.is_torn = true;
            }
            Ending::Whole => {}
        }
        self.behind.octets += octets.len() as u64;
        self.behind.records += read.records;
        Ok(())
    }

    /// Whether records can be appended; if not, [`begin_anew`](Self::begin_anew) makes it so.
    pub fn is_sound(&self) -> bool {
        self.file.is_some()
    }

    /// Octets behind the last snapshot.
    pub fn octets(&self) -> u64 {
        self.behind.octets
    }

    /// Records behind the last snapshot, those that later ones have overtaken included.
    pub fn records(&self) -> u64 {
        self.behind.records
    }

    /// Appends records and syncs them: they last when this returns `Ok`.
    ///
    /// # Errors
    /// As the disk says, or if the log is not sound. It is not sound afterwards, and the records may or may not last.
    pub fn append(&mut self, records: &[Record]) -> io::Result<()> {
        // Taken out until all has gone well.
        let mut file = self
            .file
            .take()
            .ok_or_else(|| io::Error::other("the log has to be begun anew first"))?;
        let mut octets = Vec::new();
        for record in records {
            record.write(&mut octets);
        }
        file.append(&octets)?;
        file.sync()?;
        self.file = Some(file);
        for size in [&mut self.behind, &mut self.behind_next] {
            size.octets += octets.len() as u64;
            size.records += records.len() as u64;
        }
        Ok(())
    }

    /// Begins the next log, and a snapshot from which it goes on. One is written at a time: [`finish`](Self::finish) comes
    /// before the next.
    ///
    /// # Errors
    /// As the disk says; the log is as it was.
    pub fn begin_snapshot(&mut self) -> io::Result<Snapshot<D>> {
        self.file = Some(self.create_next()?);
        Ok(self.snapshot())
    }

    /// A snapshot lasts now: what it makes superfluous goes.
    ///
    /// # Errors
    /// As the disk says; what is superfluous is not read again, and goes the next time.
    pub fn finish(&mut self, written: &Written) -> io::Result<()> {
        self.behind = self.behind_next;
        self.behind.octets += written.octets;
        for number in numbers(&self.disk)? {
            if number < written.first_log {
                self.disk.remove(&name(number))?;
            }
        }
        self.disk.sync()
    }

    /// Writes a snapshot of these records at once, and begins the log anew behind it, whatever its state.
    ///
    /// # Errors
    /// As the disk says. The log is not sound then, unless only what is superfluous could not be removed.
    pub fn begin_anew(&mut self, records: impl Iterator<Item = Record>) -> io::Result<()> {
        self.file = None;
        let file = self.create_next()?;
        let written = self.snapshot().write(records, || true)?;
        self.file = Some(file);
        self.finish(&written)
    }

    fn create_next(&mut self) -> io::Result<D::File> {
        self.number = self.number.saturating_add(1);
        let mut file = self.disk.create(&name(self.number))?;
        file.append(&LOG_MAGIC)?;
        file.sync()?;
        self.disk.sync()?;
        Ok(file)
    }

    fn snapshot(&mut self) -> Snapshot<D> {
        self.behind_next = Size::default();
        Snapshot {
            disk: self.disk.clone(),
            first_log: self.number,
        }
    }
}

fn name(number: u64) -> String {
    format!("{PREFIX}{number}")
}

/// The numbers of the logs that are there, in order.
fn numbers<D: Disk>(disk: &D) -> io::Result<Vec<u64>> {
    let names = disk.names()?;
    let numbers = names.iter().filter_map(|name| name.strip_prefix(PREFIX));
    let mut numbers: Vec<_> = numbers.filter_map(|number| number.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Why the updates on a disk cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It was whole once.
    #[error("{} is damaged, or of another version of this program", snapshot::NAME)]
    Snapshot,
    /// A good record of a form that is not known here, or another file altogether.
    #[error("{} was not written by this version of this program", name(*.0))]
    Foreign(u64),
    /// It was whole once.
    #[error("the log of updates before {} is damaged", name(*.0))]
    Damaged(u64),
    /// The file system says so.
    #[error("the updates cannot be read: {0}")]
    Io(#[from] io::Error),
}
