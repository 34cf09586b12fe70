//! The relays that have a process of their own.

pub(crate) mod join;
pub(crate) mod message;
