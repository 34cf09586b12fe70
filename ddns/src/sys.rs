//! The system calls that the standard library has no safe form of. The only unsafe code of this package.
//!
//! - [`Batch`]: many datagrams received by one call and answered by another, without allocation.
//! - [`tell_local_address`], [`ignore_path_mtu`]: socket options.

mod batch;
mod option;

pub(crate) use batch::{Batch, Exchange};
pub(crate) use option::{ignore_path_mtu, tell_local_address};
