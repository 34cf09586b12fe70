//! What whoever reads records has to be told beside them.

use std::fmt;
use std::path::PathBuf;

use wire::record::batch::Run;

use super::folder::moment;

/// What is wrong with a folder of records, or missing in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Octets that are no batch, not any more, or not yet.
    Damaged {
        /// In this file.
        file: PathBuf,
        /// From this octet on.
        at: u64,
        /// So many.
        octets: u64,
    },
    /// A batch of another version of this program.
    OtherVersion {
        /// In this file.
        file: PathBuf,
        /// Which version.
        version: u8,
    },
    /// A batch that was there before.
    Repeated {
        /// In this file.
        file: PathBuf,
        /// Its number in its run.
        sequence: u64,
    },
    /// A batch that was written into another place.
    Moved {
        /// Into this file.
        file: PathBuf,
        /// Its number in its run.
        sequence: u64,
    },
    /// Batches between others that are not there.
    Missing {
        /// Of this run.
        run: Run,
        /// The number of the first.
        first: u64,
        /// How many.
        count: u64,
    },
    /// A run without a last batch, behind which others have begun.
    Unended(Run),
    /// Records that the server could not keep.
    Lost {
        /// Before a batch in this file.
        file: PathBuf,
        /// How many.
        count: u32,
    },
    /// So many batches are sealed to other keys.
    OtherKey(u64),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let began = |run| moment(began_ms(run));
        match self {
            Self::Damaged { file, at, octets } => {
                let file = file.display();
                write!(
                    f,
                    "{file}: {octets} octets from octet {at} on are damaged, or not all there; passed over"
                )
            }
            Self::OtherVersion { file, version } => {
                let file = file.display();
                write!(
                    f,
                    "{file}: what version {version} of this format holds is not read here; passed over"
                )
            }
            Self::Repeated { file, sequence } => {
                let file = file.display();
                write!(
                    f,
                    "{file}: batch {sequence} is there a second time; passed over"
                )
            }
            Self::Moved { file, sequence } => {
                let file = file.display();
                write!(f, "{file}: batch {sequence} is not in its place")
            }
            Self::Missing { run, first, count } => {
                let run = began(run);
                write!(
                    f,
                    "{count} batches from number {first} on are missing, of the server that was started at {run}"
                )
            }
            Self::Unended(run) => {
                let run = began(run);
                write!(
                    f,
                    "the records of the server that was started at {run} do not end in order: it was killed, or they were cut off"
                )
            }
            Self::Lost { file, count } => {
                let file = file.display();
                write!(
                    f,
                    "{file}: {count} records could not be kept; the server's log and metrics say why"
                )
            }
            Self::OtherKey(batches) => {
                write!(
                    f,
                    "{batches} batches are sealed to another key, with which the rest is to be read"
                )
            }
        }
    }
}

/// When a run began, in milliseconds since 1970.
pub(super) fn began_ms(run: &Run) -> u64 {
    let [a, b, c, d, e, f, ..] = run.0;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}
