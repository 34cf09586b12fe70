//! The server: everything that `causeway up` runs, on loopback and free ports.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use control::config::{Config, Overrides};
use control::up;
use ddns::dnssec::{self, DenialKind};
use directory::Zone;
use relay::program::Inherited;
use relay::program::succession::Inheritance;
use rustix::process::{Resource, Rlimit, setrlimit};
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
    /// The demo's, if none is named.
    pub(crate) zone: Option<String>,
    /// Where DNS is spoken; any port of loopback, if none is named.
    pub(crate) dns: Option<SocketAddr>,
    /// Threads that answer over UDP, if not as many as it takes by itself.
    pub(crate) dns_threads: Option<u32>,
    /// How its zone is signed; it is not, if nobody says.
    #[serde(default)]
    pub(crate) denial: Option<Denial>,
    /// Public ports that devices may have, as `20000-20999`; none, if nobody says.
    #[serde(default)]
    pub(crate) ports: Option<String>,
    /// Of what it is to have little.
    #[serde(default)]
    pub(crate) scarce: Scarce,
}

/// How the server of a signed zone proves that something does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Denial {
    Compact,
    Nsec3,
}

impl From<Denial> for dnssec::Config {
    fn from(denial: Denial) -> Self {
        let denial = match denial {
            Denial::Compact => DenialKind::Compact,
            Denial::Nsec3 => DenialKind::Nsec3,
        };
        Self {
            denial,
            ..Self::default()
        }
    }
}

/// What a server may have, where that is to be less than it takes by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Scarce {
    /// Descriptors, as `RLIMIT_NOFILE` counts them.
    pub(crate) descriptors: Option<u64>,
    /// Memory above which its relay sends newcomers away, in octets.
    pub(crate) memory: Option<u64>,
}

/// What is where, as `up` says it; only what is needed here.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Ready {
    pub(crate) zone: String,
    pub(crate) front: SocketAddr,
    pub(crate) dns: SocketAddr,
    /// Where metrics are told.
    pub(crate) admin: SocketAddr,
    pub(crate) ca: PathBuf,
    pub(crate) state: PathBuf,
}

pub(super) async fn play(order: Order) -> anyhow::Result<()> {
    let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    let zone = order.zone.as_deref().map(Zone::parse).transpose()?;
    let mut config = Config::demo(&Overrides {
        zone,
        state: Some(order.state),
        front: Some(order.front),
        dns: Some(order.dns.unwrap_or(any)),
        admin: Some(any),
        no_udp: !order.udp,
        ..Overrides::default()
    })?;
    if let Some(descriptors) = order.scarce.descriptors {
        let limit = Rlimit {
            current: Some(descriptors),
            maximum: Some(descriptors),
        };
        setrlimit(Resource::Nofile, limit)?;
    }
    config.relay.limits.memory = order.scarce.memory;
    config.relay.ports = order.ports.as_deref().map(str::parse).transpose()?;
    config.relay.http = None;
    config.relay.raw = order.raw;
    if let Some(ddns) = &mut config.ddns {
        ddns.dot = None;
        ddns.dnssec = order.denial.map(dnssec::Config::from);
        // All queries come from one network, which would soon have had its share. The highest limit counts like any.
        ddns.responses_per_second = 1_000_000_i64.try_into()?;
        if let Some(threads) = order.dns_threads {
            ddns.threads = Some(i64::from(threads).try_into()?);
        }
    }
    let alone = Inheritance::new(Inherited::default())?;
    let running = Box::pin(up::start(config, false, alone)).await?;
    super::say(&running.addresses())?;
    std::future::pending().await
}
