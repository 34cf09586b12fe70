//! A visitor arrives at the device itself, without a relay. From the moment at which it is known who it is and what it wants, it is
//! served as all others are.
//!
//! ```text
//!   accept ─► so many, and of an address ─► hello ─► the proof of who this is (wire::ALPN_REACH)
//!                                                 └► the service of that name, as in visitor.rs
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use wire::ALPN_REACH;
use wire::client_hello::{self, Progress};
use wire::frame::Open;

use crate::agent::origin::Scheme;
use crate::agent::status::DirectStatus;
use crate::agent::stream::VisitorStream;
use crate::agent::{app, http, pass};
use crate::counts::{Counted, CountedOfAddress, CountsByAddress};
use crate::held;
use crate::splice;
use crate::tls::{self, AgentCertificate, Prefixed, TlsError};
use crate::turns;

use super::{HANDSHAKE_TIME, MAX_VISITORS, Visitors};

/// Visitors who come this way at a time: whoever floods it leaves three quarters of the device's room to those who come through relays.
const MAX_DIRECT: usize = MAX_VISITORS / 4;

/// Of one address, or a site's /56: a household with some browsers each.
const MAX_OF_ADDRESS: usize = 128;

/// How long a visitor may take to say where it wants to: as long as at a relay.
const HELLO_TIME: Duration = Duration::from_secs(5);

/// How much is read of a hello at once: most come whole.
const HELLO_PORTION: usize = 2048;

/// Idle visitors' hosts are asked for a sign of life this often: as at a relay.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// How long what a visitor still says is read and forgotten after the end: closed with that unread, the connection would be reset, and
/// the last of what it was told be lost on the way.
const LINGER: Duration = Duration::from_secs(1);

/// After an error of the listener: mostly no descriptor is free, and that passes.
const PAUSE: Duration = Duration::from_millis(100);

/// Where visitors find the device itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direct {
    /// Where the agent listens.
    pub listen: SocketAddr,
    /// The port at which that is reached from outside: the same, unless a router forwards another one to it.
    pub port: u16,
}

/// The agent's own listener.
#[derive(Debug)]
pub(in crate::agent) struct Door {
    listener: TcpListener,
    direct: Direct,
    /// The device's own name, by which it is asked for proof.
    host: String,
    proof: Proof,
    count: Arc<AtomicUsize>,
    counts: CountsByAddress,
    proofs: AtomicU64,
    refused: Refused,
}

struct Proof(TlsAcceptor);

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proof(…)")
    }
}

/// Visitors who were sent away, by reason.
#[derive(Debug, Default)]
struct Refused {
    full: AtomicU64,
    address_full: AtomicU64,
    no_hello: AtomicU64,
    unknown_name: AtomicU64,
    handshake: AtomicU64,
}

/// A visitor who may come in, until it is dropped.
struct Admitted {
    _count: Counted,
    _of_address: CountedOfAddress,
}

impl Door {
    /// Listens as `direct` says, for the device `host` with this identity.
    ///
    /// # Errors
    /// If it cannot be listened there, or the identity cannot be shown.
    pub(in crate::agent) async fn open(
        direct: Direct,
        host: String,
        identity: &AgentCertificate,
    ) -> Result<Self, OpenError> {
        let address = direct.listen;
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|cause| OpenError::Listen { address, cause })?;
        // Connections have what their listener had.
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE / 4);
        let socket = SockRef::from(&listener);
        socket
            .set_tcp_keepalive(&keepalive)
            .and_then(|()| socket.set_tcp_nodelay(true))
            .map_err(|cause| OpenError::Listen { address, cause })?;
        held::limit_unsent(socket, held::UNSENT_TO_VISITOR);
        Ok(Self {
            listener,
            direct,
            host,
            proof: Proof(tls::reach_acceptor(identity)?),
            count: Arc::default(),
            counts: CountsByAddress::default(),
            proofs: AtomicU64::new(0),
            refused: Refused::default(),
        })
    }

    /// The port to be told: the one that is really listened at, where any was asked for.
    pub(in crate::agent) fn port(&self) -> u16 {
        match self.direct.port {
            0 => self.listener.local_addr().map_or(0, |local| local.port()),
            port => port,
        }
    }

    /// Receives visitors. Never returns.
    pub(in crate::agent) async fn receive(self: &Arc<Self>, visitors: &Arc<Visitors>) {
        let listen = self.listener.local_addr().unwrap_or(self.direct.listen);
        tracing::info!(%listen, port = self.port(), "visitors may come straight to this device");
        loop {
            match self.listener.accept().await {
                Ok((stream, visitor)) => {
                    if let Some(admitted) = self.admit(visitor)
                        && let Ok(stream) = stream.into_std()
                    {
                        visitors.receive_direct(self, stream, visitor, admitted);
                    }
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    fn admit(&self, visitor: SocketAddr) -> Option<Admitted> {
        let Some(count) = Counted::below(&self.count, MAX_DIRECT) else {
            self.refused.full.fetch_add(1, Relaxed);
            return None;
        };
        let Some(of_address) = self.counts.below(visitor.ip(), MAX_OF_ADDRESS) else {
            self.refused.address_full.fetch_add(1, Relaxed);
            return None;
        };
        Some(Admitted {
            _count: count,
            _of_address: of_address,
        })
    }

    /// How it fares.
    pub(in crate::agent) fn status(&self) -> DirectStatus {
        let Refused {
            full,
            address_full,
            no_hello,
            unknown_name,
            handshake,
        } = &self.refused;
        let refused = [
            ("full", full),
            ("address_full", address_full),
            ("no_hello", no_hello),
            ("unknown_name", unknown_name),
            ("handshake", handshake),
        ];
        let refused = refused.map(|(reason, count)| (reason.to_owned(), count.load(Relaxed)));
        DirectStatus {
            port: self.port(),
            visitors: self.count.load(Relaxed),
            proofs: self.proofs.load(Relaxed),
            refused: BTreeMap::from(refused),
            steering: None,
            problem: None,
        }
    }
}

impl Visitors {
    /// Takes a visitor of `door` from here to its end, in a task of its own.
    fn receive_direct(
        self: &Arc<Self>,
        door: &Arc<Door>,
        stream: StdTcpStream,
        visitor: SocketAddr,
        admitted: Admitted,
    ) {
        if self.tasks.len() >= MAX_VISITORS {
            door.refused.full.fetch_add(1, Relaxed);
            return;
        }
        let worker = self.workers.least_busy(self.workers.next());
        let served_here = worker.serve();
        let (visitors, door) = (Arc::clone(self), Arc::clone(door));
        let task = async move {
            let _admitted = (served_here, admitted);
            let stop = visitors.stop.clone();
            tokio::select! {
                biased; // as of all visitors
                () = stop.cancelled() => {}
                served = Box::pin(visitors.serve_direct(&door, stream, visitor)) => if let Err(error) = served {
                    tracing::debug!(%error, "the connection of a visitor who came straight here has failed");
                },
            }
        };
        self.tasks.spawn_on(task, worker.runtime());
    }

    async fn serve_direct(
        &self,
        door: &Door,
        stream: StdTcpStream,
        visitor: SocketAddr,
    ) -> io::Result<()> {
        let tail = stream.try_clone()?;
        let served = self.serve_hello(door, TcpStream::from_std(stream)?, visitor);
        let served = Box::pin(served).await;
        splice::drain(&TcpStream::from_std(tail)?, LINGER).await;
        served
    }

    async fn serve_hello(
        &self,
        door: &Door,
        mut stream: TcpStream,
        visitor: SocketAddr,
    ) -> io::Result<()> {
        let front = stream.local_addr()?;
        let hello = timeout(HELLO_TIME, read_hello(&mut stream)).await;
        let Some((hello, name)) = hello.unwrap_or_default() else {
            door.refused.no_hello.fetch_add(1, Relaxed);
            return Ok(());
        };
        let asks_for_proof =
            name.eq_ignore_ascii_case(&door.host) && tls::offers(&hello, ALPN_REACH);
        let stream = Prefixed::new(hello, stream);
        if asks_for_proof {
            return self.prove(door, stream).await;
        }
        let open = Open {
            name,
            visitor: canonical(visitor),
            front: canonical(front),
            datagrams: false,
            port: None,
        };
        let served = self.serve_named(door, VisitorStream::direct(stream), &open);
        Box::pin(served).await
    }

    /// Shows who this is, says nothing, and closes.
    async fn prove(&self, door: &Door, stream: Prefixed) -> io::Result<()> {
        timeout(HANDSHAKE_TIME, turns::for_a_handshake()).await?;
        let proved = timeout(HANDSHAKE_TIME, door.proof.0.accept(stream)).await?;
        let mut stream = proved.inspect_err(|_| {
            door.refused.handshake.fetch_add(1, Relaxed);
        })?;
        door.proofs.fetch_add(1, Relaxed);
        timeout(HANDSHAKE_TIME, stream.shutdown()).await?
    }

    /// As of visitors on a carrier: what it takes depends on the origin.
    async fn serve_named(
        &self,
        door: &Door,
        mut visitor: VisitorStream,
        open: &Open,
    ) -> io::Result<()> {
        let counted = |error| {
            door.refused.handshake.fetch_add(1, Relaxed);
            error
        };
        if self.hosts.is_for_apps(&open.name) {
            let is_for_apps = |asked: &str| self.hosts.is_for_apps(asked);
            let app = self.end_tls(visitor, &self.app_acceptor, is_for_apps);
            let app = Box::pin(app).await.map_err(counted)?;
            return Box::pin(app::serve(app, open, &self.hosts)).await;
        }
        let service = self.hosts.service(&open.name);
        let service = service.filter(|service| service.origin.scheme() != Scheme::Udp);
        let Some(service) = service else {
            door.refused.unknown_name.fetch_add(1, Relaxed);
            let told = async {
                visitor.write_all(&tls::UNRECOGNIZED_NAME).await?;
                visitor.shutdown().await
            };
            return timeout(HANDSHAKE_TIME, told).await?;
        };
        let is_there = |asked: &str| {
            let asked = self.hosts.service(asked);
            asked.is_some_and(|asked| asked.name == service.name)
        };
        match service.origin.scheme() {
            Scheme::Tls => {
                let dialled = service.origin.connect_plain(open.visitor, open.front);
                match Box::pin(dialled).await {
                    Ok(origin) => Box::pin(pass::both_ways(visitor, origin)).await,
                    Err(error) => {
                        service.unreachable(&error);
                        visitor.shutdown().await
                    }
                }
            }
            Scheme::Tcp => {
                let visitor = self.end_tls(visitor, &self.acceptor, is_there);
                let visitor = Box::pin(visitor).await.map_err(counted)?;
                Box::pin(self.pass(visitor, open, &service)).await
            }
            Scheme::Udp => Ok(()), // has been refused
            Scheme::Http | Scheme::Https | Scheme::H2c | Scheme::H2 => {
                let visitor = self.end_tls(visitor, &self.http_acceptor, is_there);
                let visitor = Box::pin(visitor).await.map_err(counted)?;
                drop(service); // each request finds its own
                let moving = CancellationToken::new(); // there is no tunnel that could end before it
                let served = http::serve(visitor, open, &self.hosts, &self.patience, moving, None);
                Box::pin(served).await
            }
        }
    }
}

/// A visitor's hello, all of it, and the name it asks for; `None` if it is none, or names nobody.
async fn read_hello(stream: &mut TcpStream) -> Option<(Bytes, String)> {
    let (mut reader, mut octets) = (client_hello::Reader::default(), BytesMut::new());
    loop {
        let before = octets.len();
        octets.reserve(HELLO_PORTION);
        if stream.read_buf(&mut octets).await.ok()? == 0 {
            return None;
        }
        match reader.push(octets.get(before..)?) {
            Ok(Progress::NeedMore) => {}
            Ok(Progress::Name(name)) => return Some((octets.freeze(), name)),
            Ok(Progress::NoName) | Err(_) => return None,
        }
    }
}

/// Without the IPv6 clothes that an address has at a listener of both families.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Why visitors cannot come straight to the device.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another program listens there, or the address is not this host's.
    #[error("visitors cannot come straight to this device: {address}: {cause}")]
    Listen {
        /// Where it was to listen.
        address: SocketAddr,
        /// What the system says.
        cause: io::Error,
    },
    /// The identity cannot be shown.
    #[error(transparent)]
    Tls(#[from] TlsError),
}
