//! What an operator can set about the relay.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::limits::LimitsConfig;
use super::ports::PortRange;
use super::proxies::Network;
use crate::quic::Gso;

/// The `[relay]` section.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where visitors and agents arrive: TCP, and UDP on the same port. `[::]` takes IPv4 as well.
    pub front: SocketAddr,
    /// Where plain HTTP is answered with a redirect to the front; absent: nowhere.
    pub http: Option<SocketAddr>,
    /// Whether agents may bring their tunnels over QUIC. Without it they fall back to TLS.
    #[serde(default = "yes")]
    pub udp: bool,
    /// Whether bulk may leave its tunnel for a TCP connection of its own, which is no TLS. Not where what stands before the
    /// front lets only TLS through.
    #[serde(default = "yes")]
    pub raw: bool,
    /// Whether packets go to the kernel in batches: `"auto"`, `"on"` or `"off"`.
    #[serde(default)]
    pub gso: Gso,
    /// The addresses under which the front is reached from outside; what the zone answers for a device that has no
    /// address of its own. Absent: the front's own address.
    #[serde(default)]
    pub public: Vec<IpAddr>,
    /// The proxies before the front, such as a load balancer: a connection from one of these addresses begins with a PROXY header of
    /// version 2, and is that of whom the header names. Nobody else's header is believed. Absent: none.
    #[serde(default)]
    pub proxy_from: Vec<Network>,
    /// The ports, TCP and UDP, that may be given to devices for services that are not reached by name: `"20000-20999"`. What passes there
    /// is encrypted by nobody but the services themselves. Absent: none.
    #[serde(default)]
    pub ports: Option<PortRange>,
    /// The file with which this relay joins another server, and with that has a process of its own; absent: it is part of a server
    /// of its own. For whoever starts it.
    #[serde(default)]
    pub join: Option<PathBuf>,
    /// How many threads carry bytes; absent: one for each core but one.
    #[serde(default)]
    pub workers: Option<NonZeroUsize>,
    /// How long a stopping relay goes on to take visitors, while it sends its agents away: as long as names lead here, which is the
    /// TTL of devices at least, where another relay will have them then. By default not at all.
    #[serde(default, with = "humantime_serde")]
    pub leave: Duration,
    /// How long a stopping relay lets its visitors finish after that: `"10s"`, `"5m"`.
    #[serde(default = "default_drain", with = "humantime_serde")]
    pub drain: Duration,
    /// The `[relay.limits]` section: what everybody may have at most.
    #[serde(default)]
    pub limits: LimitsConfig,
}

impl Config {
    /// The keys that `next` has otherwise and that only a start puts in force; the rest is for
    /// [`set_limits`](super::Handle::set_limits), [`set_proxies`](super::Handle::set_proxies) and [`set_end`](super::Handle::set_end).
    pub fn changed_for_the_next_start(&self, next: &Self) -> Vec<&'static str> {
        let Self {
            front,
            http,
            udp,
            raw,
            gso,
            public,
            proxy_from: _,
            ports,
            join,
            workers,
            leave: _,
            drain: _,
            limits: _,
        } = self;
        let differ = [
            ("front", *front != next.front),
            ("http", *http != next.http),
            ("udp", *udp != next.udp),
            ("raw", *raw != next.raw),
            ("gso", *gso != next.gso),
            ("public", *public != next.public),
            ("ports", *ports != next.ports),
            ("join", *join != next.join),
            ("workers", *workers != next.workers),
        ];
        let differ = differ.into_iter().filter(|(_, differs)| *differs);
        differ.map(|(key, _)| key).collect()
    }
}

/// Long enough for most pages and short enough for a service manager's patience, which is often 90 s.
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);

fn default_drain() -> Duration {
    DEFAULT_DRAIN
}

fn yes() -> bool {
    true
}
