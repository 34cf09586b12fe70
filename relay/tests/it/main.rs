//! The relay and the agent over real sockets: one binary, a module for each thing a user would notice.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod agent_http3;
mod agent_http3_moves;
mod apps;
mod by_hand;
mod byte_path;
mod carriers;
mod dead_agent;
mod direct;
mod doctor;
mod half_close;
mod http;
mod http2_origin;
mod http3;
mod limits;
mod nat;
mod origins;
mod pace;
mod port_abuse;
mod port_changes;
mod ports;
mod proxied;
mod raw;
mod records;
mod refusals;
mod returning;
mod services;
mod shutdown;
mod slow_readers;
mod slow_visitors;
mod status;
mod successor;
mod tunnel;
mod two_relays;
mod unruly_relay;
mod versions;
mod world;
