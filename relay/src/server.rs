//! The relay: visitors arrive at the front and are joined to the devices whose agents hold a tunnel here.
//!
//! ```text
//!   visitor ─► front ─► name ─► Directory ─► sessions ─► carrier ─► splice
//!   agent   ─► register (QUIC, or TLS on the same port) ─► sessions, presence
//! ```
//!
//! Every task hangs on a tracker of the [`Handle`]. [`Handle::leave`] sends agents away and takes visitors for a while yet;
//! [`Handle::shutdown`] ends everything in order: no new visitors, those who are there given time to finish, then whatever is
//! left, and the last records.
//!
//! A process that is to be followed by another [hands over](Handle::hand_over) what that begins with, and [gives way](Handle::give_way)
//! when it has begun. From then on the successor accepts for both, and hands over in its turn whom only this one can serve.

mod carriers;
mod commands;
mod config;
mod flows;
mod front;
mod hand_over;
mod handed;
mod limits;
mod listen;
mod metrics;
mod ports;
mod predecessor;
mod presence;
mod proxies;
mod recorded;
mod redirect;
mod refusal;
mod register;
mod roaming;
mod sessions;
mod successor;
mod traffic;
mod upkeep;

use std::io;
use std::net::{self, IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use directory::{Change, Device, DeviceId, Place, Reader};
use prometheus::{IntGauge, Registry};
use tokio::io::unix::AsyncFd;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::connection_id::Generation;
use wire::{CloseCode, Features};

pub use crate::quic::Secret;
pub use config::Config;
pub use front::CloudVisitor;
pub use limits::{Admitted, LEAST_BYTES_PER_SECOND, LimitsConfig, MOST_BYTES_PER_SECOND};
pub use listen::Bound;
pub use ports::{PortRange, PortRangeError};
pub use presence::{Attachment, Presence, Transport};
pub use proxies::{Network, NoNetwork};
pub use traffic::{DeviceTraffic, Traffic};
pub use upkeep::Upkeep;

use crate::counts::CountsByAddress;
use crate::quic::{self, Earlier, Endpoint, Losses};
use crate::records;
use crate::sys;
use crate::tls::{self, CertificateSlot, TlsError};
use crate::workers::Workers;
use flows::{Flows, Unproved};
use front::{Front, Returning};
use hand_over::{move_time, pass_on_keys};
use limits::{Limits, Silent};
use listen::FrontSockets;
use metrics::Metrics;
use ports::{Around, Ports};
use predecessor::Predecessor;
use proxies::Proxies;
use register::{Handshakes, Register};
use roaming::Roaming;
use sessions::Sessions;

/// What the tunnels still have to send after their end, and the records to be written.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What the relay needs from the rest of the program.
#[derive(Debug)]
pub struct Parts {
    /// Who is who.
    pub directory: Reader,
    /// Where agents bring their tunnels: `relay.<zone>`, or the host of a relay with a process of its own.
    pub host: Place,
    /// For that host.
    pub relay_certificate: CertificateSlot,
    /// The door of `cloud.<zone>`, where it is this relay's.
    pub cloud: Option<CloudDoor>,
    /// Who carries the bytes.
    pub workers: Workers,
    /// The same whenever this relay starts.
    pub secret: Secret,
    /// How a record of each visitor's connection is kept, if at all.
    pub records: Option<records::Setup>,
    /// Sockets that are there already.
    pub bound: Bound,
}

/// Where `cloud.<zone>` is reached.
#[derive(Debug)]
pub struct CloudDoor {
    /// For `cloud.<zone>`.
    pub certificate: CertificateSlot,
    /// Where its visitors go once their TLS has ended.
    pub visitors: mpsc::Sender<CloudVisitor>,
}

/// Why the relay did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The operator asked for an address that cannot be had.
    #[error("{purpose} cannot listen on {address}: {cause}")]
    Bind {
        /// What would have listened: the front, or plain HTTP.
        purpose: Listener,
        /// Where.
        address: SocketAddr,
        /// What the system says.
        cause: io::Error,
    },
    /// The operator's certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Nobody would accept at some of the sockets that were handed over.
    #[error(
        "{sockets} sockets of the front were handed over, and {workers} workers cannot attend to so many: each needs one of its own"
    )]
    Workers {
        /// Of one kind, TCP or UDP, whichever has more.
        sockets: usize,
        /// How many there are.
        workers: usize,
    },
    /// The QUIC endpoint could not be made.
    #[error("no QUIC endpoint: {0}")]
    Quic(io::Error),
    /// Nothing can be said to the process before.
    #[error("no way to the process before: {0}")]
    Predecessor(io::Error),
    /// A bound socket cannot be used.
    #[error("a listener cannot be used: {0}")]
    Listen(io::Error),
    /// No records can be kept where the operator wants them.
    #[error(transparent)]
    Records(#[from] records::StartError),
    /// The metrics are registered twice.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

/// What listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// The front, TCP and UDP.
    Front,
    /// Plain HTTP.
    Http,
}

impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Front => "the front",
            Self::Http => "plain HTTP",
        })
    }
}

/// A running relay.
#[derive(Debug)]
pub struct Handle {
    front: SocketAddr,
    http: Option<SocketAddr>,
    presence: Presence,
    leave: Duration,
    drain: Duration,
    limits: Limits,
    proxies: Proxies,
    sessions: Arc<Sessions>,
    generation: Generation,
    /// One for each worker that has a UDP socket.
    endpoints: Vec<Endpoint>,
    /// One for each worker.
    fronts: Vec<Arc<Front>>,
    /// As long as somebody accepts at them.
    sockets: Sockets,
    listeners: Listeners,
    upkeep: Upkeep,
    draining: IntGauge,
    /// No new tunnels.
    leaving: CancellationToken,
    /// No new visitors.
    stop: CancellationToken,
    /// No visitors from the successor.
    hear_no_more: CancellationToken,
    /// No visitors at all.
    cut: CancellationToken,
    visitors: TaskTracker,
    tunnels: TaskTracker,
    records: Option<records::Writer>,
}

/// The TCP listeners that are accepted at.
#[derive(Debug, Default)]
struct Sockets {
    front: Vec<Weak<AsyncFd<net::TcpListener>>>,
    http: Option<Weak<TcpListener>>,
}

/// Those who accept at the relay's sockets, one for each socket. They end when the relay does.
#[derive(Clone, Debug, Default)]
pub struct Listeners(Vec<(&'static str, AbortHandle)>);

impl Listeners {
    fn add(&mut self, transport: &'static str, accepts: AbortHandle) {
        self.0.push((transport, accepts));
    }

    /// What nobody accepts any more, and how many of its sockets: such as `("QUIC", 1)`.
    pub fn silent(&self) -> Vec<(&'static str, usize)> {
        let mut silent: Vec<(&'static str, usize)> = Vec::new();
        for (transport, _) in self.0.iter().filter(|(_, accepts)| accepts.is_finished()) {
            match silent.iter_mut().find(|(known, _)| known == transport) {
                Some((_, count)) => *count += 1,
                None => silent.push((transport, 1)),
            }
        }
        silent
    }
}

/// Starts the relay. It serves when this returns.
///
/// # Errors
/// If an address cannot be had or a certificate cannot be used.
pub fn start(config: Config, parts: Parts, registry: &Registry) -> Result<Handle, StartError> {
    let metrics = Arc::new(Metrics::register(registry)?);
    let bind_error = |purpose, address| {
        move |cause| StartError::Bind {
            purpose,
            address,
            cause,
        }
    };
    let workers = parts.workers.all();
    let Bound {
        front,
        http,
        udp,
        ports: at_ports,
        generation,
        earlier,
        predecessor,
        present,
    } = parts.bound;
    let generation = Generation(generation);
    let returning = Returning::to(!front.is_empty() && predecessor.is_empty());
    let sockets = front.len().max(if config.udp { udp.len() } else { 0 });
    if sockets > workers.len() {
        let workers = workers.len();
        return Err(StartError::Workers { sockets, workers });
    }
    let sockets = FrontSockets::new((front, udp), config.front, config.udp, workers.len())
        .map_err(bind_error(Listener::Front, config.front))?;
    let http = config
        .http
        .map(|address| listen::tcp(http, address).map_err(bind_error(Listener::Http, address)))
        .transpose()?;
    let http_address = http
        .as_ref()
        .and_then(|listener| listener.local_addr().ok());

    let records_metrics = records::Metrics::register(registry)?;
    let records = parts
        .records
        .map(|setup| records::start(&setup, &records_metrics))
        .transpose()?;
    let (recorder, records) = records.unzip();
    let limits = Limits::for_this_process(&config.limits, &metrics);
    let proxies = Proxies::new(&config.proxy_from);
    let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
    let leaving = CancellationToken::new();
    let sessions = Arc::new(Sessions::new(
        parts.workers.clone(),
        limits.clone(),
        metrics.spare_carriers(),
        metrics.told(),
        Roaming::new(parts.secret.roaming(), parts.secret.connection_ids()),
        cut.clone(),
    ));
    let presence = Presence::new();
    for (device, attachment) in present {
        presence.attached_before(device, attachment);
    }
    let (visitors, tunnels) = (TaskTracker::new(), TaskTracker::new());
    let acceptor = tls::relay_acceptor(parts.relay_certificate.clone())?;
    let cloud = parts.cloud.map(front::Cloud::new).transpose()?;
    let quic = quic::RelaySide::new(
        parts.relay_certificate,
        &parts.secret,
        config.gso,
        metrics.datagram_counts(),
        Arc::clone(&metrics) as Arc<dyn Losses>,
    )
    .map_err(StartError::Quic)?;
    let quic = Arc::new(quic);
    let features = match config.raw {
        true => Features::TLS_CARRIER.and(Features::RAW_CARRIER),
        false => Features::TLS_CARRIER,
    };
    let features = features.and(Features::DATAGRAMS).and(Features::PORTS);
    let handshakes = Handshakes::default();
    let mut front_address = config.front;
    if let Some(tcp) = sockets.tcp.first() {
        front_address = tcp.local_addr().map_err(StartError::Listen)?;
    }
    let flows = Arc::new(Flows {
        front: front_address,
        directory: parts.directory.clone(),
        sessions: Arc::clone(&sessions),
        limits: limits.clone(),
        metrics: Arc::clone(&metrics),
        host: parts.host.clone(),
        recorder: recorder.clone(),
        stop: stop.clone(),
        tasks: visitors.clone(),
        table: Arc::default(),
        unproved_at_ports: Unproved::default(),
    });
    let hear_no_more = CancellationToken::new();
    let around = Around {
        range: config.ports,
        address: front_address.ip(),
        shares: !predecessor.is_empty(),
        batches: quic.batches(),
        directory: parts.directory.clone(),
        sessions: Arc::clone(&sessions),
        flows: Arc::clone(&flows),
        visitors: visitors.clone(),
        tunnels: tunnels.clone(),
        stop: hear_no_more.clone(),
        cut: cut.clone(),
        open: metrics.public_ports(),
    };
    let ports = Arc::new(Ports::new(around, at_ports));
    follow_directory(&parts.directory, &sessions, &ports);
    let mut endpoints = Vec::new();
    let mut fronts = Vec::new();
    let (mut agents_come, mut visitors_come) = (Vec::new(), Vec::new());
    let mut accepted_at = Sockets::default();
    let mut listeners = Listeners::default();
    let draining = metrics.measured.draining();
    let (mut udp, mut earlier) = (sockets.udp.into_iter(), earlier.into_iter());
    for (worker, tcp) in workers.iter().zip(sockets.tcp) {
        let _entered = worker.enter();
        let before = match predecessor.len() {
            0 => None,
            ways => {
                let way = predecessor[worker.index() % ways].try_clone();
                let (metrics, visitors) = (Arc::clone(&metrics), visitors.clone());
                let before = way
                    .and_then(|way| Predecessor::new(way, metrics, visitors, cut.clone()))
                    .map_err(StartError::Predecessor)?;
                Some(Arc::new(before))
            }
        };
        let register = Arc::new(Register {
            directory: parts.directory.clone(),
            sessions: Arc::clone(&sessions),
            presence: presence.clone(),
            ports: Arc::clone(&ports),
            predecessor: before.clone(),
            metrics: Arc::clone(&metrics),
            acceptor: acceptor.clone(),
            quic: Arc::clone(&quic),
            limits: limits.clone(),
            tls_handshakes: Arc::default(),
            tls_handshakes_by_address: CountsByAddress::default(),
            features,
            leaving: leaving.clone(),
            tasks: tunnels.clone(),
            worker: worker.clone(),
        });
        if let Some(socket) = udp.next() {
            let earlier = earlier.next().unwrap_or_default().into_iter();
            let earlier = earlier.map(|(generation, channel)| Earlier {
                generation: Generation(generation),
                channel,
            });
            let endpoint = quic
                .endpoint(
                    socket,
                    worker.index(),
                    generation,
                    earlier.collect(),
                    Some(Arc::clone(&flows) as Arc<dyn quic::Visitors>),
                )
                .map_err(StartError::Quic)?;
            let accepted =
                register::accept_quic(Arc::clone(&register), endpoint.clone(), handshakes.clone());
            agents_come.push((worker.runtime(), accepted));
            endpoints.push(endpoint);
        }
        let front = Arc::new(Front {
            address: front_address,
            directory: parts.directory.clone(),
            sessions: Arc::clone(&sessions),
            register,
            predecessor: before,
            limits: limits.clone(),
            proxies: proxies.clone(),
            silent: Silent::at_one_of(workers.len()),
            metrics: Arc::clone(&metrics),
            host: parts.host.clone(),
            cloud: cloud.clone(),
            recorder: recorder.clone(),
            returning,
            cut: cut.clone(),
            tasks: visitors.clone(),
            worker: worker.clone(),
        });
        let listener = Arc::new(sys::queue(tcp).map_err(StartError::Listen)?);
        accepted_at.front.push(Arc::downgrade(&listener));
        fronts.push(Arc::clone(&front));
        let accepted = front::accept(front, listener, None, stop.clone());
        visitors_come.push((worker.runtime(), accepted));
    }
    let _ = ports
        .fronts
        .set(fronts.iter().map(Arc::downgrade).collect());
    // Not before: an agent may have been waiting for this moment, and have ports.
    for (runtime, accepted) in agents_come {
        let accepted = tunnels.spawn_on(accepted, runtime);
        listeners.add("QUIC", accepted.abort_handle());
    }
    for (runtime, accepted) in visitors_come {
        let accepted = visitors.spawn_on(accepted, runtime);
        listeners.add("TCP", accepted.abort_handle());
    }
    if let Some(predecessor) = fronts.first().and_then(|front| front.predecessor.as_ref()) {
        pass_on_keys(&parts.directory, predecessor);
    }
    if let Some(http) = http {
        let http = Arc::new(TcpListener::from_std(http).map_err(StartError::Listen)?);
        accepted_at.http = Some(Arc::downgrade(&http));
        let zone = parts.directory.zone().clone();
        let served = visitors.spawn(redirect::serve(
            http,
            zone,
            front_address,
            limits.clone(),
            metrics,
            stop.clone(),
        ));
        listeners.add("plain HTTP", served.abort_handle());
    }
    let upkeep = Upkeep::new(limits.clone());
    let sweep = upkeep.clone().sweep(Arc::clone(&sessions), cut.clone());
    tunnels.spawn_on(sweep, parts.workers.next().runtime());
    let watch = upkeep.clone().watch_memory(cut.clone());
    tunnels.spawn_on(watch, parts.workers.next().runtime());
    if !predecessor.is_empty() {
        let (presence, cut) = (presence.clone(), cut.clone());
        let time = move_time(config.leave);
        let forgotten = async move {
            let _ = timeout(time, cut.cancelled()).await;
            presence.forget_before();
            ports.forget_inherited();
        };
        tunnels.spawn_on(forgotten, parts.workers.next().runtime());
    }
    Ok(Handle {
        front: front_address,
        http: http_address,
        presence,
        leave: config.leave,
        drain: config.drain,
        limits,
        proxies,
        sessions,
        generation,
        endpoints,
        fronts,
        sockets: accepted_at,
        listeners,
        upkeep,
        draining,
        leaving,
        stop,
        hear_no_more,
        cut,
        visitors,
        tunnels,
        records,
    })
}

impl Handle {
    /// Where visitors and agents arrive: the address really bound.
    pub fn front(&self) -> SocketAddr {
        self.front
    }

    /// Where plain HTTP is answered, if anywhere.
    pub fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Which devices are present.
    pub fn presence(&self) -> Presence {
        self.presence.clone()
    }

    /// What passes for each device.
    pub fn traffic(&self) -> Traffic {
        Traffic::of(Arc::clone(&self.sessions))
    }

    /// Whether its sockets are attended to.
    pub fn listeners(&self) -> Listeners {
        self.listeners.clone()
    }

    /// Whether it looks after what it has.
    pub fn upkeep(&self) -> Upkeep {
        self.upkeep.clone()
    }

    /// From now on these limits are in force; nobody who is here has to leave. Where a device has limits of its own, these stand.
    pub fn set_limits(&self, limits: &LimitsConfig) {
        self.limits.set(limits);
        for session in self.sessions.all() {
            session.limits_changed();
        }
    }

    /// From now on these proxies are believed, and no others. Whoever has come already stays who it is.
    pub fn set_proxies(&self, networks: &[Network]) {
        self.proxies.set(networks);
    }

    /// Whether a connection from there is to begin with a PROXY header.
    pub fn has_proxy_at(&self, ip: IpAddr) -> bool {
        self.proxies.include(ip)
    }

    /// From now on this is how long visitors are still taken when the relay stops, and given to finish after that.
    pub fn set_end(&mut self, leave: Duration, drain: Duration) {
        (self.leave, self.drain) = (leave, drain);
    }

    /// Sends the agents away, and takes none any more. Whom names still lead here is served as before, for the configured time.
    pub async fn leave(&self) {
        self.send_agents_away(Duration::ZERO);
        sleep(self.leave).await;
    }

    /// Stops in order: no new visitors, agents told to go unless they know, visitors given up to the configured time, then the rest.
    /// A process that has [given way](Self::give_way) takes those whom its successor hands over, until all agents have moved or have had
    /// the time for it.
    pub async fn shutdown(self) {
        if self.stop.is_cancelled() {
            let _ = timeout(move_time(self.leave), self.all_have_moved()).await;
        }
        self.stop.cancel();
        self.hear_no_more.cancel();
        self.visitors.close();
        if !self.leaving.is_cancelled() {
            self.send_agents_away(Duration::ZERO);
        }
        let _ = timeout(self.drain, self.visitors.wait()).await;
        self.cut.cancel();
        let _ = timeout(LAST_WORDS, self.visitors.wait()).await;
        // Nobody has anything to record any more.
        let records = async {
            if let Some(records) = self.records {
                records.stop(2 * LAST_WORDS).await;
            }
        };
        let tunnels = async {
            for endpoint in &self.endpoints {
                quic::close_all(endpoint, CloseCode::Draining);
            }
            let _ = timeout(LAST_WORDS, async {
                for endpoint in &self.endpoints {
                    endpoint.wait_idle().await;
                }
            })
            .await;
            self.tunnels.close();
            let _ = timeout(LAST_WORDS, self.tunnels.wait()).await;
        };
        tokio::join!(records, tunnels);
    }
}

/// Ends the tunnels of devices that lose their right to them, and puts limits and public ports in force, as soon as that is told.
fn follow_directory(directory: &Reader, sessions: &Arc<Sessions>, ports: &Arc<Ports>) {
    let (sessions, ports) = (Arc::downgrade(sessions), Arc::downgrade(ports));
    directory.watch(move |change| {
        if let (Change::Ports(_), Some(ports)) = (change, ports.upgrade()) {
            ports.review_all();
        }
        let Some(sessions) = sessions.upgrade() else {
            return;
        };
        if let Change::Limited { device, limits } = change
            && let Some(identity) = &device.identity
        {
            for session in sessions.all_of(&identity.id) {
                session.limit(|| *limits);
            }
        }
        if let Some((device, now)) = keys_changed(change) {
            register::recheck(&sessions, &device, |key| {
                now.is_some_and(|device| device.has_key(key))
            });
        }
    });
}

/// The device that may have lost keys by a change, and what has its name now, if anything.
fn keys_changed(change: &Change) -> Option<(DeviceId, Option<&Device>)> {
    let (before, now) = match change {
        Change::Put { device, before } => (before.as_ref()?, Some(device)),
        Change::Removed(device) => (device, None),
        Change::Limited { .. } | Change::Ports(_) => return None,
    };
    Some((before.identity.as_ref()?.id, now))
}
