//! The server: everything that `causeway up` runs, on loopback and free ports.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use control::config::{Config, Overrides};
use control::up;
use serde::{Deserialize, Serialize};

/// What is wanted.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) state: PathBuf,
    /// Where visitors and agents arrive; port 0 for any.
    pub(crate) front: SocketAddr,
    /// Whether agents may come over QUIC.
    pub(crate) udp: bool,
    /// Whether bulk may leave its tunnel.
    pub(crate) raw: bool,
}

/// What is where, as `up` says it; only what is needed here.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Ready {
    pub(crate) zone: String,
    pub(crate) front: SocketAddr,
    pub(crate) dns: SocketAddr,
    pub(crate) ca: PathBuf,
    pub(crate) state: PathBuf,
}

pub(super) async fn play(order: Order) -> anyhow::Result<()> {
    let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    let mut config = Config::demo(&Overrides {
        state: Some(order.state),
        front: Some(order.front),
        dns: Some(any),
        admin: Some(any),
        no_udp: !order.udp,
        ..Overrides::default()
    })?;
    config.relay.http = None;
    config.relay.raw = order.raw;
    let running = Box::pin(up::start(config, false)).await?;
    super::say(&running.addresses())?;
    std::future::pending().await
}
