//! A network namespace: there as long as somebody is in it.

use serde::{Deserialize, Serialize};

/// What is wanted: nothing that could be chosen.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {}

/// It is there.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Ready {}

pub(super) async fn play(Order {}: Order) -> anyhow::Result<()> {
    super::say(&Ready {})?;
    std::future::pending().await
}
