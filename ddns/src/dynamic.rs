//! Updates as the DNS itself has them (RFC 2136), signed with a device's key (RFC 8945).
//!
//! ```text
//!  door.rs      a signed message ──► its reply: who asks (tsig), has it come before, is it stored
//!  message.rs   bytes ──► UpdateMessage
//!  scope.rs     (UpdateMessage, whose key) ──► DynamicChange, or the code to refuse it with
//!  change.rs    (DynamicChange, what the device has) ──► what it has then
//! ```
//!
//! A key writes one thing: the addresses of a device, or its challenges. Prerequisites may look at both. The TTL of an update is
//! not looked at: addresses have the zone's, and challenges one of their own. What is asked of any other name is refused,
//! whether that exists or not.
//!
//! Messages that a client sends without waiting for the replies between them have no order among themselves.

pub mod change;
pub(crate) mod door;
pub mod message;
mod reply;
pub mod scope;

pub(crate) use door::{Door, Reply, Taken, Waiting};
