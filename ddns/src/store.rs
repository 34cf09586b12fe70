//! The updates on disk: an append log that says for each registration which own addresses it has now.
//!
//! ```text
//!  ddns.log       the log: magic, then records; the last one of a registration counts
//!  ddns.log.new   the next log while it is being written; worthless until it is renamed
//!  ddns.lock      held while a process uses the log
//! ```
//!
//! The rules that keep an acknowledged update, whatever the moment of a crash:
//!
//! - Appended records count once the file is synced, and only then does anybody hear of them.
//! - Nothing is appended behind octets whose sync has failed: the kernel may have dropped them and told us once. The
//!   whole log is written anew instead, from what the table answers with.
//! - A new log counts once it is synced, renamed, and the rename synced. Until then nothing is appended to either.

mod disk;
mod log;
mod record;

pub use disk::{DirectoryDisk, Disk, LogFile, OpenError};
pub use log::{Log, ReadError};
pub use record::{Ending, Record, Recovered, recover};
