//! How a running agent is: told over a socket in its state directory, one line of JSON to whoever connects.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use crate::acme::{CertificateStatus, PassedOver};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

use super::certificate_watch::SeenStatus;
use super::situation::Situation;
use super::state::State;
use super::steer::SteeringStatus;
use super::visitor::Visitors;

const SOCKET: &str = "agent.sock";

/// How long either side may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// After an error of the listener.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest status, in octets: each of many services, and what is wrong with each.
const LONGEST: u64 = 256 * 1024;

/// How an agent is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The device's host name.
    pub device: String,
    /// Program and version.
    pub software: String,
    /// The tunnel that has stood longest; absent while there is none.
    pub tunnel: Option<TunnelStatus>,
    /// All that take visitors, each to a relay of its own; this one first.
    pub tunnels: Vec<TunnelStatus>,
    /// Visitors here now.
    pub visitors: usize,
    /// Those who were not waited for any longer since the agent started, by what they did not do: `silent` (they asked for
    /// nothing), `head` and `body` (of a request), `answer` (they did not take it).
    pub too_slow: BTreeMap<String, u64>,
    /// Visitors over QUIC, whose datagrams pass to a service that speaks HTTP/3, and those at public UDP ports.
    #[serde(default)]
    pub flows: FlowsStatus,
    /// TCP connections for visitors' bulk that reached the relay, since the agent started.
    pub raw_came: u64,
    /// The same that did not.
    pub raw_missed: u64,
    /// What keeps its tunnels from being over QUIC with bulk beside them, in words.
    pub why: Vec<String>,
    /// The same for machines.
    pub reasons: Vec<String>,
    /// The service at the device's own name, or the first: for programs that know of one only.
    pub origin: OriginStatus,
    /// Each service, by name.
    #[serde(default)]
    pub services: Vec<ServiceStatus>,
    /// The file that describes them; absent if they are from the command line.
    #[serde(default)]
    pub configuration: Option<ConfigurationStatus>,
    /// What was sent away since the agent started because the name that it asked for has no service there: `unknown_name` (visitors, who
    /// hear what they hear of a device that is not there), `other_name` (visitors whose handshake is for another service than the relay
    /// has said) `misdirected` (requests on a connection to another name: 421)
    /// `unknown_service` (apps) and `unknown_port` (visitors whom the relay says to be at a public port that leads to no service here).
    #[serde(default)]
    pub refused: BTreeMap<String, u64>,
    /// What it has told the zone; absent if it is not to, or has not yet.
    pub dns: Option<DnsStatus>,
    /// The same of `lan.` in front of the name.
    #[serde(default)]
    pub lan: Option<DnsStatus>,
    /// By how many seconds its clock is behind the cloud's, or negative ahead of it; absent while the cloud takes what it signs.
    #[serde(default)]
    pub clock_behind: Option<i64>,
    /// How visitors come straight to the device; absent if they may not.
    #[serde(default)]
    pub direct: Option<DirectStatus>,
    /// How it stands with certificates of other authorities than the operator's own; absent until it has been asked whether there are any.
    #[serde(default)]
    pub certificate: Option<CertificateStatus>,
    /// Which certificates were seen for the device's name that are not its own; absent until the cloud has been asked.
    #[serde(default)]
    pub seen: Option<SeenStatus>,
}

/// How visitors come straight to the device, without a relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectStatus {
    /// The port at which they find it, as the cloud is told.
    pub port: u16,
    /// Here now.
    pub visitors: usize,
    /// How often the device has proved since the agent started that it is there.
    pub proofs: u64,
    /// Who was sent away since then, by reason: `full`, `address_full` (too many of one address), `no_hello`, `unknown_name`, and
    /// `handshake`.
    pub refused: BTreeMap<String, u64>,
    /// Where the device's name leads, as the cloud says; absent if it was not asked, or did not answer. The agent itself does not know it.
    #[serde(default)]
    pub steering: Option<SteeringStatus>,
    /// Why the cloud does not know of it, in words; absent if it does.
    pub problem: Option<String>,
}

/// How visitors over QUIC fare.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsStatus {
    /// Here now.
    pub visitors: usize,
    /// Taken since the agent started.
    pub taken: u64,
    /// Refused since then, by reason: `no_service`, `unreachable`, `path` (the tunnel's is too narrow for QUIC) and `full`.
    pub refused: BTreeMap<String, u64>,
    /// Their datagrams that were lost here, by reason: `too_large` (for the tunnel's path), `queue_full`, `no_flow` (their visitor has
    /// gone), and `unsent` (this system had no room).
    pub lost: BTreeMap<String, u64>,
}

/// How a service that the agent makes reachable is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Where it is reached: `@` for the device's own name, `photos` for the name below it that begins so, `*` for all that no other
    /// service has.
    pub name: String,
    /// Where it is, as it was configured: `http://host:port`.
    pub origin: String,
    /// Whether it expects a PROXY protocol header in front of each connection.
    pub proxy_header: bool,
    /// Where it speaks HTTP/3, as `host:port`, or `agent` where the agent does for it; absent where nobody does: who comes over QUIC is
    /// refused, and comes over TCP.
    pub http3: Option<String>,
    /// Who reaches it: whoever asks for its host name (`name`), apps beside `causeway-connect` (`apps`), `both`, or neither (`port`).
    pub reach: String,
    /// The public port that leads there too, as `20022/tcp`; absent if none is to.
    #[serde(default)]
    pub public: Option<String>,
    /// `well`, `ill` or, before it has been asked, `unknown`; absent if its health is not looked at.
    pub health: Option<String>,
    /// Why it was not well, or visitors had no answer, when it was asked last, in words; absent if all was well, and before it is asked.
    pub problem: Option<String>,
    /// How often it has failed since it has been there, by reason; see [`OriginStatus::failures`].
    pub failures: BTreeMap<String, u64>,
}

/// Where the services are described.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConfigurationStatus {
    /// The file.
    pub file: String,
    /// What is wrong with it, so that what it said before is in force; absent if nothing is.
    pub problem: Option<String>,
}

/// How the service that the agent makes reachable answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct OriginStatus {
    /// `host:port`
    pub address: String,
    /// Why visitors had no answer when it was asked last, in words; absent if they had one, and before it is asked.
    pub problem: Option<String>,
    /// How often it has failed since the agent started, by reason: `refused`, `unreachable`, `not_connected`, `no_answer`,
    /// `broke_off`, and `ill` (it was not asked, because its health check fails).
    pub failures: BTreeMap<String, u64>,
}

/// Where the device's name leads, as far as the agent has a say in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DnsStatus {
    /// This host's public addresses.
    pub addresses: Vec<IpAddr>,
    /// The version at which the zone has them; absent if it does not.
    pub version: Option<u32>,
    /// Why it does not, in words.
    pub problem: Option<String>,
}

/// How a tunnel is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// `host:port`
    pub relay: String,
    /// `quic` or `tls`
    pub transport: String,
    /// The agent's address as the relay sees it.
    pub seen_as: SocketAddr,
    /// How long it has stood, in seconds.
    pub seconds: u64,
    /// Where bulk goes: `raw`, a TCP connection of its own, or `tunnel`.
    pub bulk: String,
    /// Visitors that came through it and are here now.
    pub visitors: usize,
    /// TCP connections for visitors' bulk that reached this relay.
    pub raw_came: u64,
    /// The same that did not.
    pub raw_missed: u64,
    /// What keeps it from being over QUIC with bulk beside it, in words.
    pub why: Vec<String>,
    /// The same for machines.
    pub reasons: Vec<String>,
    /// What the relay lets the device have at most; absent where it has said nothing.
    pub limits: Option<LimitsStatus>,
    /// How it stands with each public port that leads to a service.
    #[serde(default)]
    pub ports: Vec<PortStatus>,
    /// What the path is like; absent over TLS, where the system knows.
    pub path: Option<PathStatus>,
}

/// What a device may have at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsStatus {
    /// Octets a second of all its visitors, both ways; absent: no limit.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Visitors at a time.
    pub visitors: u32,
}

/// How it stands with a public port at the relay of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// Which: `20022/tcp`.
    pub port: String,
    /// `open`, `not_offered` (that relay has no public ports), `out_of_range` (it has others), `not_given` (to the device), `taken` (by another
    /// device), `unavailable` (the relay cannot listen there), `no_datagrams` (the tunnel has none), `too_old`
    /// (the relay, for public ports), `unknown` (it has not said).
    pub state: String,
    /// Why it is not open, in words; absent if it is.
    pub problem: Option<String>,
    /// What to do about that.
    pub mend: Option<String>,
}

/// What the path of a QUIC tunnel is like.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PathStatus {
    /// Smoothed, in milliseconds.
    pub round_trip_ms: f64,
    /// Packets sent since the tunnel stands.
    pub packets_sent: u64,
    /// Of these, taken for lost.
    pub packets_lost: u64,
    /// `cubic` or `bbr`
    pub congestion_control: String,
    /// Whether packets are sent in batches (GSO).
    pub batches: bool,
}

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Nobody listens.
    #[error("no agent runs with the state directory {}", .0.display())]
    NotRunning(PathBuf),
    /// Somebody does, and does not answer as an agent would.
    #[error("the agent does not say how it is: {0}")]
    NoAnswer(#[from] io::Error),
}

/// The way to the socket by the descriptor of its directory: a socket's address has room for 107 octets (unix(7)), and a
/// state directory may be named by more.
struct Way {
    directory: File,
}

impl Way {
    fn into(directory: &Path) -> io::Result<Self> {
        let directory = File::open(directory)?;
        Ok(Self { directory })
    }

    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}/{SOCKET}", self.directory.as_raw_fd()).into()
    }
}

/// Asks the agent that runs with `state` how it is.
///
/// # Errors
/// If there is none, or it does not answer.
pub async fn ask(state: &State) -> Result<Status, StatusError> {
    let directory = state.directory();
    let way = Way::into(directory)?;
    let Ok(stream) = UnixStream::connect(way.path()).await else {
        return Err(StatusError::NotRunning(directory.to_owned()));
    };
    let mut line = Vec::new();
    let mut stream = stream.take(LONGEST);
    timeout(PATIENCE, stream.read_to_end(&mut line))
        .await
        .map_err(io::Error::from)??;
    Ok(serde_json::from_slice(&line).map_err(io::Error::from)?)
}

/// Which process the agent is that runs with `state`; `None` if none does, or it cannot be asked.
pub(super) async fn process(state: &State) -> Option<i32> {
    let way = Way::into(state.directory()).ok()?;
    let stream = UnixStream::connect(way.path()).await.ok()?;
    stream.peer_cred().ok()?.pid()
}

/// Where [`answer`] is asked; absent if it cannot be: an agent goes on without it.
pub(super) async fn listen(state: &State) -> Option<UnixListener> {
    let bound = async {
        let way = Way::into(state.directory())?;
        let path = way.path();
        if UnixStream::connect(&path).await.is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let _ = fs::remove_file(&path); // of an agent that was killed
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok::<_, io::Error>(listener)
    };
    let listener = bound.await;
    if let Err(error) = &listener {
        tracing::warn!(%error, "`causeway-agent status` will not reach this agent");
    }
    listener.ok()
}

/// Answers whoever asks there. Never returns.
pub(super) async fn answer(
    asked: Option<UnixListener>,
    device: String,
    situation: Situation,
    visitors: Arc<Visitors>,
) {
    let Some(asked) = asked else {
        return std::future::pending().await;
    };
    loop {
        match asked.accept().await {
            Ok((mut asker, _)) => {
                let status = situation.status(&device, &visitors, Instant::now());
                let line = serde_json::to_vec(&status).unwrap_or_default(); // texts and numbers
                // Whoever asks and does not listen has waited for nothing; the next one gets its turn.
                let _ = timeout(PATIENCE, asker.write_all(&line)).await;
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}
