//! A relay with a process of its own: everything that `causeway up` runs where its configuration joins another server, until it is
//! asked to end. A front that is handed over to it stays open when it ends.

use std::net::SocketAddr;
use std::path::PathBuf;

use control::apart;
use control::config::{Config, Overrides};
use relay::program::succession::Inheritance;
use relay::program::{Inherited, Termination};
use serde::{Deserialize, Serialize};

/// What is wanted.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Its configuration.
    pub(crate) config: PathBuf,
}

/// What is where, as the relay says it; only what is needed here.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Ready {
    pub(crate) admin: SocketAddr,
}

pub(super) async fn play(order: Order, inherited: Inherited) -> anyhow::Result<()> {
    let mut termination = Termination::new()?;
    let config = Config::read(&order.config, &Overrides::default())?;
    let inheritance = Inheritance::new(inherited)?;
    let mut running = Box::pin(apart::start(config, inheritance)).await?;
    super::say(&running.addresses())?;
    tokio::select! {
        () = termination.received() => {}
        ended = running.failed() => return Err(ended.into()),
    }
    Box::pin(running.shutdown()).await;
    Ok(())
}
