//! The zone signed (RFC 4033 to 4035), by P-256 (RFC 6605), when it is asked for.
//!
//! ```text
//!  keys.rs       which keys there are, and which are in force
//!  rrsig.rs      what a signature is over, and its record
//! ```

pub(crate) mod rrsig;
