//! The relay: visitors arrive at the front and are joined to the devices whose agents hold a tunnel here.
//!
//! ```text
//!   visitor ─► front ─► name ─► Directory ─► sessions ─► carrier ─► splice
//!   agent   ─► register (QUIC, or TLS on the same port) ─► sessions, presence
//! ```
//!
//! Every task hangs on a tracker of the [`Handle`]; [`Handle::shutdown`] ends them in order: no new visitors, agents told
//! to go, visitors given time to finish, then everything that is left.

mod config;
mod front;
mod limits;
mod metrics;
mod presence;
mod redirect;
mod refusal;
mod register;
mod sessions;

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use directory::{Change, Reader};
use prometheus::Registry;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::connection_id::ConnectionIdKey;
use wire::{CloseCode, Frame};

pub use config::Config;
pub use front::CloudVisitor;
pub use limits::Admitted;
pub use presence::{Attachment, Presence, Transport};

use crate::quic::{self, Endpoint};
use crate::tls::{self, CertificateSlot, TlsError};
use front::Front;
use limits::Limits;
use metrics::Metrics;
use register::Register;
use sessions::Sessions;

/// Connections waiting to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Socket buffers of the UDP port, in octets. The kernel's default drops packets at a few hundred Mbit/s.
const UDP_BUFFER: usize = 7 * 1024 * 1024;

/// How often a free port is looked for that both TCP and UDP can have.
const PORT_TRIES: usize = 16;

/// What the tunnels still have to send after their end.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What the relay needs from the rest of the program.
#[derive(Debug)]
pub struct Parts {
    /// Who is who.
    pub directory: Reader,
    /// For `relay.<zone>`.
    pub relay_certificate: CertificateSlot,
    /// For `cloud.<zone>`.
    pub cloud_certificate: CertificateSlot,
    /// Where visitors of `cloud.<zone>` go once their TLS has ended.
    pub cloud_visitors: mpsc::Sender<CloudVisitor>,
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
    /// The QUIC endpoint could not be made.
    #[error("no QUIC endpoint: {0}")]
    Quic(io::Error),
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
    drain: Duration,
    sessions: Arc<Sessions>,
    endpoint: Option<Endpoint>,
    /// No new visitors.
    stop: CancellationToken,
    /// No visitors at all.
    cut: CancellationToken,
    visitors: TaskTracker,
    tunnels: TaskTracker,
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
    let (listener, udp) =
        bind_front(config.front, config.udp).map_err(bind_error(Listener::Front, config.front))?;
    let front_address = listener.local_addr().map_err(StartError::Quic)?;
    let http = config
        .http
        .map(|address| listen_tcp(address).map_err(bind_error(Listener::Http, address)))
        .transpose()?;
    let http_address = http
        .as_ref()
        .and_then(|listener| listener.local_addr().ok());

    let limits = Limits::for_this_process();
    let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
    let sessions = Arc::new(Sessions::new(cut.clone()));
    let presence = Presence::new();
    let (visitors, tunnels) = (TaskTracker::new(), TaskTracker::new());
    let register = Register {
        directory: parts.directory.clone(),
        sessions: Arc::clone(&sessions),
        presence: presence.clone(),
        metrics: Arc::clone(&metrics),
        acceptor: tls::relay_acceptor(parts.relay_certificate.clone())?,
        tasks: tunnels.clone(),
    };
    follow_directory(&parts.directory, &sessions);

    let endpoint = udp
        .map(|socket| {
            let key = ConnectionIdKey::new(rand::random());
            quic::relay_endpoint(
                socket,
                parts.relay_certificate,
                key,
                metrics.datagram_counts(),
            )
            .map_err(StartError::Quic)
        })
        .transpose()?;
    if let Some(endpoint) = &endpoint {
        tunnels.spawn(register::accept_quic(register.clone(), endpoint.clone()));
    }
    let front = Arc::new(Front {
        directory: parts.directory.clone(),
        sessions: Arc::clone(&sessions),
        register,
        limits: limits.clone(),
        metrics: Arc::clone(&metrics),
        cloud_acceptor: tls::operator_acceptor(parts.cloud_certificate)?,
        cloud_visitors: parts.cloud_visitors,
        cut: cut.clone(),
        tasks: visitors.clone(),
    });
    let listener = TcpListener::from_std(listener).map_err(StartError::Quic)?;
    visitors.spawn(front::accept(front, listener, stop.clone()));
    if let Some(http) = http {
        let http = TcpListener::from_std(http).map_err(StartError::Quic)?;
        let zone = parts.directory.zone().clone();
        visitors.spawn(redirect::serve(
            http,
            zone,
            front_address,
            limits,
            metrics,
            stop.clone(),
        ));
    }
    tunnels.spawn(sweep(Arc::clone(&sessions), cut.clone()));
    Ok(Handle {
        front: front_address,
        http: http_address,
        presence,
        drain: config.drain,
        sessions,
        endpoint,
        stop,
        cut,
        visitors,
        tunnels,
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

    /// Stops in order: no new visitors, agents told to go, visitors given up to the configured time, then the rest.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.visitors.close();
        if let Some(endpoint) = &self.endpoint {
            endpoint.set_server_config(None);
        }
        for session in self.sessions.all() {
            session.tell(Frame::Drain {
                reconnect_after: Duration::ZERO,
            });
        }
        let _ = timeout(self.drain, self.visitors.wait()).await;
        self.cut.cancel();
        let _ = timeout(LAST_WORDS, self.visitors.wait()).await;
        if let Some(endpoint) = &self.endpoint {
            endpoint.close(
                CloseCode::Draining.number().into(),
                CloseCode::Draining.name().as_bytes(),
            );
            let _ = timeout(LAST_WORDS, endpoint.wait_idle()).await;
        }
        self.tunnels.close();
        let _ = timeout(LAST_WORDS, self.tunnels.wait()).await;
    }
}

/// Ends the tunnels of devices that lose their right to them, as soon as they do.
fn follow_directory(directory: &Reader, sessions: &Arc<Sessions>) {
    let sessions = Arc::downgrade(sessions);
    directory.watch(move |change| {
        let (before, now) = match change {
            Change::Put { device, before } => (before.as_ref(), Some(&**device)),
            Change::Removed(device) => (Some(device), None),
        };
        let identity = before.and_then(|before| before.identity.as_ref());
        if let (Some(sessions), Some(identity)) = (sessions.upgrade(), identity) {
            register::recheck(&sessions, &identity.id, now);
        }
    });
}

async fn sweep(sessions: Arc<Sessions>, until: CancellationToken) {
    let mut ticks = interval(sessions::SWEEP);
    loop {
        tokio::select! {
            () = until.cancelled() => return,
            _ = ticks.tick() => sessions.sweep(Instant::now()),
        }
    }
}

/// The front's TCP listener and its UDP socket on the same port.
fn bind_front(
    address: SocketAddr,
    with_udp: bool,
) -> io::Result<(StdTcpListener, Option<UdpSocket>)> {
    let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        let listener = listen_tcp(address)?;
        if !with_udp {
            return Ok((listener, None));
        }
        match bind_udp(listener.local_addr()?) {
            Ok(socket) => return Ok((listener, Some(socket))),
            Err(error) if tries <= 1 => return Err(error),
            Err(_) => tries -= 1,
        }
    }
}

fn listen_tcp(address: SocketAddr) -> io::Result<StdTcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?; // a restart must not wait for old connections' TIME_WAIT
    prepare(&socket, address)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    prepare(&socket, address)?;
    // The kernel gives as much as the system allows.
    socket.set_recv_buffer_size(UDP_BUFFER)?;
    socket.set_send_buffer_size(UDP_BUFFER)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn prepare(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() {
        // `[::]` takes IPv4 as well, whatever the system's default.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)
}
