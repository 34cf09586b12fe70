//! The server from outside: over sockets, over HTTP, and on a disk that crashes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says by a panic what is wrong; the lints' own exception covers only unit tests"
)]

mod cookies;
mod dig;
mod dns;
mod fake_disk;
mod following;
mod http;
mod nsupdate;
mod pipelined;
mod recipe;
mod reflection;
mod shutdown;
mod signing;
mod sockets;
mod storage;
mod update;
mod world;
