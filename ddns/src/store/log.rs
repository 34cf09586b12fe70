//! The log: read once, then appended to, and now and then written anew.

use std::io;

use crate::store::disk::{Disk, LogFile};
use crate::store::record::{Ending, MAGIC, Record, Recovered, recover};

const NAME: &str = "ddns.log";
const NEXT: &str = "ddns.log.new";

/// The log on a disk.
#[derive(Debug)]
pub struct Log<D: Disk> {
    disk: D,
    /// `None` before the first rewrite and after a failure: the end of the file is not to be trusted.
    file: Option<D::File>,
    octets: u64,
    records: u64,
}

impl<D: Disk> Log<D> {
    /// Reads the log that is there, if any. The log takes records only after its first [`rewrite`](Self::rewrite).
    ///
    /// # Errors
    /// If there is a file that cannot be read or is not a log of ours; nothing has been changed then.
    pub fn open(disk: D) -> Result<(Self, Option<Recovered>), ReadError> {
        let recovered = disk.read(NAME)?.map(|octets| read(&octets)).transpose()?;
        let log = Self {
            disk,
            file: None,
            octets: 0,
            records: 0,
        };
        Ok((log, recovered))
    }

    /// Whether records can be appended; if not, the log has to be written anew first.
    pub fn is_sound(&self) -> bool {
        self.file.is_some()
    }

    /// Octets in the file.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Records in the file, those that later ones have overtaken included.
    pub fn records(&self) -> u64 {
        self.records
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
            .ok_or_else(|| io::Error::other("the log has to be written anew first"))?;
        let mut octets = Vec::new();
        for record in records {
            record.write(&mut octets);
        }
        file.append(&octets)?;
        file.sync()?;
        self.file = Some(file);
        self.octets += octets.len() as u64;
        self.records += records.len() as u64;
        Ok(())
    }

    /// Writes the log anew with these records alone, under another name, and puts it in the old one's place.
    ///
    /// # Errors
    /// As the disk says. Before the rename nothing has happened to the log; afterwards it is not sound.
    pub fn rewrite(&mut self, records: impl Iterator<Item = Record>) -> io::Result<()> {
        // All in memory before the disk is touched: whoever lends the records may hold locks meanwhile.
        let mut octets = MAGIC.to_vec();
        let mut count = 0;
        for record in records {
            record.write(&mut octets);
            count += 1;
        }
        let mut file = self.disk.create(NEXT)?;
        file.append(&octets)?;
        file.sync()?;

        // From here on a crash may leave either file under the log's name, so neither may grow until the rename lasts.
        self.file = None;
        self.disk.rename(NEXT, NAME)?;
        self.disk.sync()?;
        self.file = Some(file);
        self.octets = octets.len() as u64;
        self.records = count;
        Ok(())
    }
}

fn read(octets: &[u8]) -> Result<Recovered, ReadError> {
    let records = octets.strip_prefix(&MAGIC).ok_or(ReadError::NotALog)?;
    let recovered = recover(records);
    match recovered.ending {
        Ending::Foreign => Err(ReadError::Foreign),
        Ending::Torn => {
            let torn = records.len().saturating_sub(recovered.good);
            tracing::warn!(
                records = recovered.records,
                torn,
                "the log of updates ends in octets that are no record, as after a crash; they are dropped"
            );
            Ok(recovered)
        }
        Ending::Whole => Ok(recovered),
    }
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file begins otherwise.
    #[error("{NAME} is not a log of updates; if it is nothing you need, move it away")]
    NotALog,
    /// A good record of a form that is not known here.
    #[error("{NAME} was written by another version of this program; start that one")]
    Foreign,
    /// The file system says so.
    #[error("{NAME} cannot be read: {0}")]
    Io(#[from] io::Error),
}
