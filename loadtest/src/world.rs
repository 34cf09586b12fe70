//! Where the things are that a load is put on: at the addresses given, or in processes started for it.
//!
//! ```text
//!   Device      a name with a service behind it         throughput, requests
//!   Names       a zone with names in it                 dns
//!   Fleet       many devices that are ready to come     idle-tunnels
//!   Several     relays, and agents at them              reconnect
//!   Neighbours  a few devices, each to fail by itself   failures
//!   Way         what lies between visitor and origin    peers
//!   DatagramWay the same for datagrams                  peers
//!   Ssh         an ssh server, for apps             apps
//!   BodyWay     the same to a service over HTTP/3       http3
//!   Million     a zone for all of the NameServers       dns-peers
//! ```

mod apart;
mod bodies;
mod device;
mod ends;
mod fleet;
pub(crate) mod million;
mod name_server;
mod names;
mod neighbours;
mod peer;
mod port;
mod server;
pub(crate) mod several;
mod ssh;
mod tunnel;
mod way;

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use control::operator::AskError;
use directory::PublicPort;
use relay::tls::TlsError;

pub(crate) use apart::RelayApart;
pub(crate) use bodies::{BodyOrigin, BodyWay, HOST};
pub(crate) use device::{Device, Sibling};
pub(crate) use ends::{Ends, STRANGERS};
pub(crate) use fleet::Fleet;
pub(crate) use million::Million;
pub(crate) use name_server::{FoundNameServer, NameServer, NameServerKind, UpdateDoor};
pub(crate) use names::Names;
pub(crate) use neighbours::{Neighbour, Neighbours, Side, Wish};
pub(crate) use peer::{Found, Peer, find_program};
pub(crate) use several::Several;
pub(crate) use ssh::{Ssh, SshError, Way as SshWay};
pub(crate) use way::{DatagramWay, PlainOrigin, Way};

use crate::admin::MetricsError;
use crate::part::agents::Status;
use crate::process::{ChildError, ProcessId, UsageError};

/// How long a server, an agent or an origin may take until it is ready.
const READY: Duration = Duration::from_secs(30);

/// Where things are.
#[derive(Args, Clone, Debug)]
#[command(group(clap::ArgGroup::new("given").multiple(true).args(["front", "dns"])))]
pub(crate) struct Place {
    /// A relay's front that is there already; without it and --dns everything is started here, on loopback
    #[arg(long, value_name = "ADDR", help_heading = "Where")]
    front: Option<SocketAddr>,
    /// The device's host name, such as mynas.example.com
    #[arg(long, value_name = "HOST", requires = "front", help_heading = "Where")]
    name: Option<String>,
    /// What to check certificates against, in PEM; without it, what this system trusts
    #[arg(long, value_name = "FILE", requires = "front", help_heading = "Where")]
    ca: Option<PathBuf>,
    /// What to ask the device for
    #[arg(long, requires = "front", default_value = "/", help_heading = "Where")]
    path: String,
    /// Where the device takes uploads (PUT); without it there are none
    #[arg(long, value_name = "PATH", requires = "front", help_heading = "Where")]
    upload_path: Option<String>,
    /// The state directory of the server behind --front, on this host: idle-tunnels registers its devices there
    #[arg(long, value_name = "DIR", requires = "front", help_heading = "Where")]
    state: Option<PathBuf>,
    /// Where the server behind --front tells its counters (`admin.listen`), if it is to be asked whom it turns away
    #[arg(long, value_name = "ADDR", requires = "front", help_heading = "Where")]
    admin: Option<SocketAddr>,
    /// A DNS server that is there already
    #[arg(long, value_name = "ADDR", requires = "zone", help_heading = "Where")]
    dns: Option<SocketAddr>,
    /// The zone it serves
    #[arg(long, value_name = "NAME", requires = "dns", help_heading = "Where")]
    zone: Option<String>,
    /// The process of the server (relay and DNS), if it runs on this host and is to be measured
    #[arg(long, value_name = "PID", requires = "given", help_heading = "Where")]
    relay_pid: Option<u32>,
    /// The process of the device's agent, the same
    #[arg(long, value_name = "PID", requires = "given", help_heading = "Where")]
    agent_pid: Option<u32>,
    /// How bytes cross the tunnel of a server started here
    #[arg(
        long,
        value_enum,
        default_value_t,
        conflicts_with = "given",
        help_heading = "Where"
    )]
    carrier: Carrier,
}

/// What the tunnel runs over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Carrier {
    /// QUIC, and TCP beside it for bulk
    #[default]
    Quic,
    /// QUIC for everything
    QuicOnly,
    /// TLS, and TCP beside it for bulk
    Tls,
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quic => "quic",
            Self::QuicOnly => "quic-only",
            Self::Tls => "tls",
        })
    }
}

/// Why there is nothing to put a load on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorldError {
    /// Addresses were given, but not this scenario's.
    #[error(
        "{scenario} needs {options} too, or no address at all: then it starts everything itself"
    )]
    NotGiven {
        scenario: &'static str,
        options: &'static str,
    },
    /// The name given cannot be one.
    #[error("--name {0} is not a host name")]
    BadName(String),
    /// The certificates cannot be read.
    #[error("{}: {cause}", .file.display())]
    Unreadable { file: PathBuf, cause: io::Error },
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// There is no place for temporary files.
    #[error("no temporary directory; set TMPDIR to one that can be written to")]
    Folder(#[from] io::Error),
    /// A server or a relay does not say how it is.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// A relay's front.
    #[error("no port is free for TCP and UDP: {0}")]
    NoPort(io::Error),
    /// A process started for it is of no use.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// Nobody gets into the namespace.
    #[error("a link's network namespace cannot be entered: {0}; are you root?")]
    Enter(io::Error),
    /// The server could not be asked as its operator asks it.
    #[error("{}: {cause}", .state.display())]
    Ask { state: PathBuf, cause: AskError },
    /// The server was asked, and did not.
    #[error("the server did not register {name}: {reason}")]
    NotRegistered { name: String, reason: String },
    /// The same.
    #[error("the server did not give its device the public port {port}: {reason}")]
    PortNotGiven { port: PublicPort, reason: String },
    /// The same.
    #[error("the server does not say how many visitors there are: {0}")]
    NotCounted(String),
    /// There is no load of the kind that was asked for.
    #[error("of {of} agents only {whole} have all their tunnels, and no more in time")]
    NotWhole { whole: usize, of: usize },
    /// A peer's processes run, and nothing comes through.
    #[error("nothing comes through {peer} within {} s: {cause}", READY.as_secs())]
    NoWay {
        peer: &'static str,
        cause: io::Error,
    },
    /// What a process costs cannot be read.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// Our server's state could not be made.
    #[error("{}: {cause}", .state.display())]
    Filled { state: PathBuf, cause: String },
    /// A name server runs, and does not answer for the zone.
    #[error("{server} has not loaded the zone in time")]
    NoZone { server: &'static str },
    /// A zone cannot be signed.
    #[error("{0}")]
    NotSigned(String),
    /// The tunnel runs over something else.
    #[error("the agent came over another carrier than {0}")]
    OtherCarrier(Carrier),
}

/// The processes to measure.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Watched {
    pub(crate) relay: Option<ProcessId>,
    pub(crate) agent: Option<ProcessId>,
}

impl Place {
    /// Whether somebody else's server was named.
    pub(crate) fn is_given(&self) -> bool {
        self.front.is_some() || self.dns.is_some()
    }

    /// What a server started here uses; `None` if it is another's.
    pub(crate) fn carrier(&self) -> Option<Carrier> {
        (!self.is_given()).then_some(self.carrier)
    }

    fn watched(&self) -> Watched {
        Watched {
            relay: self.relay_pid.map(ProcessId),
            agent: self.agent_pid.map(ProcessId),
        }
    }
}

fn read(file: &Path) -> Result<String, WorldError> {
    fs::read_to_string(file).map_err(|cause| WorldError::Unreadable {
        file: file.to_owned(),
        cause,
    })
}

fn check_carrier(status: &Status, carrier: Carrier) -> Result<(), WorldError> {
    let others = match carrier {
        Carrier::Quic | Carrier::QuicOnly => status.over_tls,
        Carrier::Tls => status.over_quic,
    };
    if others == 0 {
        Ok(())
    } else {
        Err(WorldError::OtherCarrier(carrier))
    }
}
