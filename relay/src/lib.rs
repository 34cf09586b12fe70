//! The tunnel and both its ends: the relay [`server`], the [`agent`] on the device, and the byte pump between them.
//!
//! Read in this order: [`server`] and `server/front.rs` for the path of a visitor's bytes into the tunnel, [`agent`] and
//! `agent/visitor.rs` for the path out of it to the origin; `carrier.rs` and `splice.rs` for what happens in between. The
//! protocol itself is in the package `wire`.

#![deny(unsafe_code)] // but for `sys`

pub mod acme;
pub mod agent;
pub mod files;
pub mod http_client;
pub mod kept;
pub mod keys;
pub mod octets;
pub mod program;
pub mod reach;
pub mod records;
pub mod resolve;
pub mod server;
pub mod tls;
pub mod toml_place;
pub mod workers;

mod backoff;
mod buffers;
mod carrier;
mod congestion;
mod control_stream;
mod counts;
mod held;
mod liveness;
mod local;
mod pace;
mod quic;
mod splice;
mod sys;
mod turns;
