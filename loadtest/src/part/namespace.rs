//! A network namespace: there as long as somebody is in it.

use serde::{Deserialize, Serialize};

use super::link::ip;

/// What is wanted.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Addresses that packets can come from there and that nobody has: `198.18.0.0/15`. Then its loopback is up; without, there is
    /// nothing in it.
    pub(crate) strangers: Option<String>,
}

/// It is there.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Ready {}

pub(super) async fn play(Order { strangers }: Order) -> anyhow::Result<()> {
    if let Some(strangers) = strangers {
        ip("link set lo up")?;
        // What leaves on loopback for an address that is not here comes in again and is thrown away.
        ip(&format!("route add {strangers} dev lo"))?;
    }
    super::say(&Ready {})?;
    std::future::pending().await
}
