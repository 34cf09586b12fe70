//! What control and a relay with a process of its own say to each other: lines of JSON, and what they may say when.
//!
//! ```text
//!   relay                            control
//!   POST /api/relay/follow       ─► welcome, then a snapshot unless it has one, then changes, for as long as both live
//!   POST /api/relay/presence     ─► who has come and who has gone; every few seconds, if only to be heard
//!   POST /api/relay/certificate  ─► a certificate for <name>.relay.<zone>
//! ```
//!
//! Each request is signed with the relay's key (RFC 9421), as those of devices are with theirs. Nothing that a relay has no
//! use for is told: neither DDNS keys nor who a device belongs to.
//!
//! Neither side takes a line with a word that it does not know: half understood, it could let in whom it is to keep out. So a new word of
//! control's means that relays are upgraded first, and one of a relay's that control is.
//!
//! This crate knows no socket, no clock and no runtime.

#![forbid(unsafe_code)]

mod message;
mod reading;

use std::time::Duration;

pub use message::{Checksum, Facts, Follow, FollowedDevice, Known, Present, Report, Token16, Told};
pub use reading::{Reading, Refusal, Snapshot, Step};

/// The longest line either side reads, in octets.
pub const MAX_LINE: usize = 8 * 1024;

/// So many public ports a device may have, each protocol's counted: a device is told of in one line.
pub const MAX_PORTS: usize = 256;

/// Reports in one request at most.
pub const MAX_REPORTS: usize = 200;

/// How often control says that it is there, and a relay reports at least.
pub const BEAT: Duration = Duration::from_secs(1);

/// After this long without a word the other side is taken for gone. Until then names lead to a relay that stands still, and whoever
/// comes there waits; a path that loses packets needs some seconds now and then.
pub const SILENCE: Duration = Duration::from_secs(5);
