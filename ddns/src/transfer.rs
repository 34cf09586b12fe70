//! Copies of the zone at secondary servers (RFC 5936, RFC 1995, RFC 1996). Each proves by its key who it is.
//!
//! ```text
//!  config.rs     who they are, and their keys
//!  contents.rs   the table → records, signed where the zone is
//!  records.rs    records in a list, and what differs between two lists
//!  versions.rs   the zone as it has been published, and what has differed between its versions
//!  publisher.rs  a thread that makes a version of what has changed
//!  catalog.rs    a zone that says that there is this one
//!  stream.rs     a version, or what differs → the messages of a transfer
//!  notify.rs     tells secondaries that there is a new version
//!  ask.rs        a question to one of them
//!  rotation.rs   which of them serve it, for whoever has to know
//!  export.rs     the table → a zone file, for the operator
//!  import.rs     a zone file → the addresses of devices
//! ```
//!
//! What changes is published within a second, in one version with all else that has changed meanwhile. Versions are in
//! memory alone: after a start, secondaries get the whole zone once.

mod ask;
mod catalog;
pub mod config;
mod contents;
mod export;
pub mod import;
mod notify;
mod publisher;
mod records;
mod rotation;
mod stream;
mod versions;

pub use config::{KeyFileError, Secondary};
pub use export::{Export, Page};
pub(crate) use notify::notify;
pub(crate) use publisher::{Desk, Given, Publisher};
pub(crate) use rotation::Rotation;
pub(crate) use stream::Transfer;
pub use stream::ZoneQuestion;
