//! A snapshot: what every registration has at some moment, so that the logs before it can go.

use std::io;

use crate::store::disk::{Disk, LogFile};
use crate::store::record::{Record, write_frame};
use crate::store::recover::{END, SNAPSHOT_MAGIC};

pub(super) const NAME: &str = "ddns.snapshot";
pub(super) const NEXT: &str = "ddns.snapshot.new";

/// So much is written at a time.
const CHUNK: usize = 1 << 20;

/// A snapshot that is to be written, on any thread, while the log goes on. Whatever changes meanwhile may be in it or not: the
/// log that goes on from it says it again.
#[derive(Debug)]
pub struct Snapshot<D> {
    pub(super) disk: D,
    /// The log that goes on from it.
    pub(super) first_log: u64,
}

/// A snapshot that lasts.
#[derive(Debug)]
pub struct Written {
    pub(super) first_log: u64,
    /// Octets of its file.
    pub octets: u64,
}

impl<D: Disk> Snapshot<D> {
    /// Writes these records under another name, and puts the file in the old snapshot's place. Ends early when `is_wanted` says no.
    ///
    /// # Errors
    /// As the disk says; the old snapshot or this one is there then.
    pub fn write(
        self,
        records: impl Iterator<Item = Record>,
        is_wanted: impl Fn() -> bool,
    ) -> io::Result<Written> {
        // One that was left behind may have a name that never lasts, because its sync has failed.
        self.disk.remove(NEXT)?;
        let mut file = self.disk.create(NEXT)?;
        let mut octets = 0;
        let mut chunk = SNAPSHOT_MAGIC.to_vec();
        chunk.extend(self.first_log.to_be_bytes());
        for record in records {
            record.write(&mut chunk);
            if chunk.len() >= CHUNK {
                if !is_wanted() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                file.append(&chunk)?;
                octets += chunk.len() as u64;
                chunk.clear();
            }
        }
        write_frame(&[END], &mut chunk);
        file.append(&chunk)?;
        octets += chunk.len() as u64;
        file.sync()?;
        self.disk.rename(NEXT, NAME)?;
        self.disk.sync()?;
        Ok(Written {
            first_log: self.first_log,
            octets,
        })
    }
}
