//! Authoritative DNS for the operator's zone, and the updates that move its devices.
//!
//! ```text
//!                 a query                                        an update
//!       server/udp.rs  server/tcp.rs ── signed ──► dynamic.rs    http.rs    (the agent, through control)
//!                    │ bytes                        tsig.rs  │      │                  │
//!               query.rs     bytes → Query                update.rs   who asks, what changes, is it stored
//!                    │                                      │ bounded queue
//!               answer.rs    (Query, Table) → Answer      update/writer.rs   one thread, groups of updates
//!                    │                                      │
//!               encode.rs    (Answer, limit) → bytes      store.rs   the log: append, sync; snapshots beside it
//!                    │                                      │
//!                    └───────────────►  table.rs  ◄─────────┘
//!                                          ▲ names, in place
//!                       zone.rs            │            follow.rs
//!                       the zone's own records          the devices of the Directory
//! ```
//!
//! **Answered**: the zone's SOA, NS, addresses and the operator's records; every device of the Directory, with whatever stands
//! below it; NODATA and NXDOMAIN with the SOA record. A device has the addresses that its updates have set, or else those of the
//! relays that hold it (`relays.rs`), or else the relay's; the records that the operator gives to all devices, at `_acme-challenge` its challenges,
//! at `lan`, if it wants that, its addresses at home, and as CAA the accounts that alone may have certificates for it.
//!
//! **Refused**: names outside the zone, other classes, zone transfers, updates that nobody has signed; operations other than query
//! and update are not implemented.
//!
//! **Limited**: what one network gets over UDP (`server/rate.rs`), unless its cookies show that it is where it says
//! (`cookie.rs`).
//!
//! **Over TLS** (RFC 7858, `server/tls.rs`): the same as over TCP, if the configuration has a port for it and control a certificate.
//!
//! **Handed over** (`start/hand_over.rs`): a successor gets the sockets as they are, and the log when this server has given it up;
//! until the successor answers, this one does from memory.
//!
//! Reading order: `server/udp.rs`, `query.rs`, `answer.rs`, `encode.rs`. Those last three await nothing and read
//! neither clock nor socket. An update is acknowledged when it is on the disk and the next query sees it, not before.

#![deny(unsafe_code)]

pub mod addresses;
pub mod answer;
pub mod caa;
pub mod challenges;
pub mod config;
pub mod cookie;
pub mod dnssec;
pub mod dynamic;
pub mod encode;
mod follow;
pub mod http;
pub mod lan;
mod message;
mod metrics;
mod moment;
pub mod own;
pub mod protocol;
pub mod query;
pub mod relays;
pub mod rrset;
mod secret_file;
pub mod server;
mod start;
pub mod steering;
pub mod store;
#[allow(unsafe_code)]
mod sys;
pub mod table;
pub mod transfer;
pub mod tsig;
pub mod update;
pub mod why;
pub mod zone;

pub use config::{Config, Facts};
pub use moment::Moment;
pub use relays::{Relays, RelaysError};
pub use secret_file::SecretFileError;
pub use server::bind::ListenError;
pub use server::bound::{Bound, BoundError};
pub use server::tls::{Certificate, CertificateError};
pub use start::{HandOver, Handle, StartError, StillHeld, StopError, Storage, start};

/// The clock of the zone's serial.
fn unix_seconds() -> u32 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs() as u32)
}
