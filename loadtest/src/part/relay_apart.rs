//! A relay with a process of its own: what `causeway up` runs where its configuration names a join file.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context as _;
use control::apart;
use control::config::{Config, Overrides};
use relay::program::Inherited;
use relay::program::succession::Inheritance;
use serde::{Deserialize, Serialize};

/// What is wanted.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// For its configuration and its state.
    pub(crate) folder: PathBuf,
    /// The file with which it joins.
    pub(crate) join: PathBuf,
    pub(crate) zone: String,
    /// Where visitors and agents arrive.
    pub(crate) front: SocketAddr,
    /// To where names of its devices lead.
    pub(crate) public: IpAddr,
}

/// What is where, as the relay says it; only what is needed here.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Ready {
    pub(crate) admin: SocketAddr,
}

pub(super) async fn play(order: Order) -> anyhow::Result<()> {
    let file = order.folder.join("relay.toml");
    let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    let text = format!(
        "zone = {:?}\n[relay]\nfront = \"{}\"\npublic = [\"{}\"]\njoin = {:?}\n[admin]\nlisten = \"{any}\"\n",
        order.zone, order.front, order.public, order.join
    );
    fs::write(&file, text).with_context(|| file.display().to_string())?;
    let overrides = Overrides {
        state: Some(order.folder.join("state")),
        ..Overrides::default()
    };
    let config = Config::read(&file, &overrides)?;
    let alone = Inheritance::new(Inherited::default())?;
    let running = Box::pin(apart::start(config, alone)).await?;
    super::say(&running.addresses())?;
    std::future::pending().await
}
