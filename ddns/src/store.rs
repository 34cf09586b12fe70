//! The updates on disk: a snapshot of what each registration had at some moment, and an append log of what has changed since.
//!
//! ```text
//!  ddns.snapshot      magic, the number of the log that goes on from it, records, an end
//!  ddns.snapshot.new  the next one while it is being written; worthless until it is renamed
//!  ddns.log.7         magic, then records; the last one of a registration counts
//!  ddns.log.8         the next; ddns.log.7 goes when the snapshot between them lasts
//!  ddns.lock          held while a process uses them
//! ```
//!
//! The rules that keep an acknowledged update, whatever the moment of a crash:
//!
//! - Appended records count once the file is synced, and only then does anybody hear of them.
//! - A record says all that a registration has, so it does not matter if a snapshot knows of it already.
//! - Nothing is appended behind octets whose sync has failed: the kernel may have dropped them and told us once. All is written anew
//!   instead, from what the table answers with; and as a process cannot know what the one before it was told, all is written
//!   anew after a start.
//! - A snapshot counts once it is synced, renamed, and the rename synced. The log that goes on from it was begun before it, so
//!   whatever has been acknowledged stands in one of them; and what it replaces goes only then.

mod disk;
mod log;
mod record;
mod recover;
mod snapshot;

pub use disk::{DirectoryDisk, Disk, LogFile, OpenError};
pub use log::{Log, ReadError, Recovered};
pub use record::Record;
pub use recover::{Ending, HeldByRegistration, LogRead, read_log, read_snapshot};
pub use snapshot::{Snapshot, Written};
