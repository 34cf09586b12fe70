//! The server from outside: over sockets, over HTTP, and on a disk that crashes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says by a panic what is wrong; the lints' own exception covers only unit tests"
)]

mod child;
mod cookies;
mod dig;
mod dns;
mod dnssec;
mod dot;
mod fake_disk;
mod following;
mod full_disk;
mod hand_over;
mod http;
mod kills;
mod nsupdate;
mod pipelined;
mod recipe;
mod reflection;
mod relays;
mod shutdown;
mod signing;
mod sockets;
mod steering;
mod storage;
mod traced;
mod transfers;
mod update;
mod world;
