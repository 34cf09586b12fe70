//! Control: who owns what, the pages and the API for it, and [`up`], which joins all parts into one process.
//!
//! Read `up.rs` first: it names every part and the order in which they depend on each other. `devices.rs` is what can be
//! done with devices, `api.rs` and `pages.rs` who may do it over HTTPS, `operator.rs` over the socket in the state
//! directory.

#![forbid(unsafe_code)]

pub mod apart;
pub mod authority;
pub mod certificate_watch;
pub mod config;
pub mod devices;
pub mod import;
pub mod operator;
pub mod ready;
pub mod records;
pub mod sign_in;
pub mod state;
pub mod steering;
pub mod store;
pub mod top;
pub mod up;

mod about;
mod admin;
mod api;
mod demo;
mod fleet;
mod health;
mod http;
mod orders;
mod pages;
mod probe;
mod supervise;
