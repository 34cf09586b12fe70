//! The zone signed (RFC 4033 to 4035), by P-256 (RFC 6605), when it is asked for.
//!
//! ```text
//!  config.rs      how
//!  keys.rs        which keys there are, and which are in force
//!  apex.rs        what the zone says of them
//!  prove.rs       (Query, Answer) → what proves it
//!  proof.rs       its records in the message
//!  compact.rs     why there is nothing else: a record for the name that was asked for,
//!  nsec3.rs       or records between the hashes of those that there are
//!  types.rs       the types at a name, in that record
//!  signer.rs      a set of records → its signature, kept in signatures.rs
//!  budget.rs      how many are made
//!  rrsig.rs       what a signature is over, and its record
//! ```

mod apex;
mod budget;
mod compact;
pub mod config;
pub mod keys;
mod nsec3;
mod proof;
mod prove;
mod rrsig;
mod signatures;
mod signer;
mod types;

pub(crate) use budget::Share;
pub use config::{Config, DenialKind};
pub(crate) use nsec3::{
    Hash, PARAMETERS as NSEC3_PARAMETERS, hash, label as hash_label, record as nsec3_record,
};
pub(crate) use proof::MAX_PROOF;
pub use proof::Proof;
pub(crate) use prove::Proved;
pub use signer::{Signer, SignerError};
pub(crate) use types::TypeSet;
