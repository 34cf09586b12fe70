//! The whole product as its users meet it: the real programs, real clients, real files.
//!
//! These tests start processes and, where a row needs it, network namespaces of their own; everything is gone when a test
//! ends. They need root, and the programs that `.ci/run` installs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod acme;
mod advisories;
mod apart;
mod apps;
mod browser;
mod canary;
mod certificate_log;
mod certificate_watch;
mod chromium;
mod clients;
mod crash;
mod dns;
mod dnssec;
mod doctor;
mod dot;
mod first_light;
mod fleet;
mod grpc;
mod haproxy;
mod health;
mod http3;
mod kernel;
mod memory;
mod nginx;
mod operator;
mod ops;
mod origins;
mod own_addresses;
mod pairing;
mod ports;
mod process;
mod proxied;
mod public_ports;
mod records;
mod refusals;
mod reload;
mod restart;
mod service;
mod several_relays;
mod shutdown;
mod signed;
mod sshd;
mod steering;
mod succession;
mod top;
mod transfer;
mod udp_blocked;
mod update_clients;
mod websocket;
mod world;
mod zone;
