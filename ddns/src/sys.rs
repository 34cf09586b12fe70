//! The system calls that the standard library has no safe form of. The only unsafe code of this package.
//!
//! - [`Batch`]: many datagrams received by one call and answered by another, without allocation.
//! - [`coarse_unix_seconds`], [`coarse_nanoseconds`]: clocks for every batch.
//! - [`tell_local_address`], [`ignore_path_mtu`]: socket options.

mod batch;
mod clock;
mod option;

pub(crate) use batch::{Batch, Exchange};
pub(crate) use clock::{coarse_nanoseconds, coarse_unix_seconds};
pub(crate) use option::{ignore_path_mtu, tell_local_address};
