//! The system calls that the standard library has no safe form of. The only unsafe code of this package.
//!
//! - [`Batch`]: many datagrams received by one call and answered by another, without allocation.
//! - [`Origin`]: where a datagram came from, for a reply outside the batch.
//! - [`coarse_unix_seconds`], [`coarse_nanoseconds`]: clocks for every batch.
//! - [`with_large_pages`]: memory for tables that are read at random.
//! - [`tell_local_address`], [`ignore_path_mtu`], [`deal_out`]: socket options.

mod batch;
mod clock;
mod memory;
mod option;
mod origin;

pub(crate) use batch::{Batch, Exchange};
pub(crate) use clock::{coarse_nanoseconds, coarse_unix_seconds};
pub(crate) use memory::with_large_pages;
pub(crate) use option::{deal_out, ignore_path_mtu, tell_local_address};
pub(crate) use origin::Origin;
