//! What a certificate transparency log says (RFC 6962), read and checked: all of it is a stranger's octets.
//!
//! ```text
//!   get-sth            ─► head         how many entries it has, and the root over them, signed with the log's key
//!   get-entries        ─► entry        what stands in each ─► certificate: for which names, with which key
//!   get-proof-by-hash  ─► tree         where a follower begins
//! ```
//!
//! Who follows a log keeps a [`Frontier`]: some hashes that stand for all entries so far. Each entry that comes is appended to it, and once
//! as many have come as a signed head counts its root must be the head's. That shows at once that every entry is one of the log's, that
//! none was left out, and that what stood there before still does (RFC 6962 section 2.1.2 without asking for a proof).
//!
//! This crate knows no socket, no clock and no runtime.

#![forbid(unsafe_code)]

mod certificate;
mod entry;
mod head;
mod tree;

pub use certificate::{Certificate, KeyHash, Unreadable};
pub use entry::{Entry, read_entries};
pub use head::{Head, LogKey, LogKeyError};
pub use tree::{Frontier, Hash, read_proof};

/// What a log has said is not what RFC 6962 has it say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    /// It is no JSON of that shape.
    #[error("it is not the JSON that RFC 6962 describes")]
    Json,
    /// What stands in the JSON is cut off, or something else.
    #[error("an entry is not as RFC 6962 describes them")]
    Entry,
    /// A hash has another length.
    #[error("a hash is none")]
    Hash,
    /// The head is not signed with the log's key.
    #[error("its tree head is not signed with its key")]
    Signature,
}
