//! Starts the parts and ends them together.

mod copies;
mod hand_over;
mod load;
mod parts;
mod signing;

use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use axum::Router;
use directory::Reader;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::copies::Copies;
use self::hand_over::WhileOpen;
pub use self::hand_over::{HandOver, StillHeld};
use self::load::Loading;
pub use self::load::Storage;
use self::parts::Parts;
use self::signing::Signing;
use crate::config::{Bounded, Config, Facts};
use crate::cookie::{Secret, SecretError, Secrets};
use crate::dnssec::keys::{FolderError, Keys};
use crate::dnssec::{Signer, SignerError};
use crate::dynamic;
use crate::http::{self, Doors};
use crate::metrics::Metrics;
use crate::relays::Relays;
use crate::server::admission::Admission;
use crate::server::bind::{self, ListenError, Sockets};
use crate::server::bound::{self, Bound, BoundError};
use crate::server::rate::Limiter;
use crate::server::supervise::supervise;
use crate::server::tls::{Acceptor, Certificate, CertificateError};
use crate::server::{Identity, signed, tcp, udp};
use crate::steering::Steering;
use crate::store::{OpenError, ReadError};
use crate::table::Table;
use crate::transfer::import::Import;
use crate::transfer::{Export, KeyFileError};
use crate::unix_seconds;
use crate::update::{Door, Limits, Pace, Updater, Writer};
use crate::zone::{Contents, RecordError};

/// More of them gain nothing until the machine has little else to do; the configuration can say otherwise.
const DEFAULT_WORKERS: usize = 2;

/// A running server. When it is dropped, the server stops by itself.
#[derive(Debug)]
pub struct Handle {
    addr: SocketAddr,
    dot: Option<SocketAddr>,
    updater: Updater,
    relays: Relays,
    steering: Steering,
    keys: Option<Keys>,
    export: Export,
    import: Import,
    router: Router,
    hand_over: HandOver,
    stop: DropGuard,
    supervisor: JoinHandle<Result<(), StopError>>,
}

impl Handle {
    /// Where DNS is spoken, UDP and TCP.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where it is spoken over TLS.
    pub fn dot(&self) -> Option<SocketAddr> {
        self.dot
    }

    /// For updates by the devices' own API.
    pub fn updater(&self) -> Updater {
        self.updater.clone()
    }

    /// For whoever knows which relays there are, and which devices they hold.
    pub fn relays(&self) -> Relays {
        self.relays.clone()
    }

    /// For whoever knows whether devices can be reached at their own addresses.
    pub fn steering(&self) -> Steering {
        self.steering.clone()
    }

    /// The keys of the zone, if it is signed.
    pub fn keys(&self) -> Option<Keys> {
        self.keys.clone()
    }

    /// For whoever writes the zone down.
    pub fn export(&self) -> Export {
        self.export.clone()
    }

    /// Takes the addresses of devices out of a zone's file.
    pub fn import(&self) -> Import {
        self.import.clone()
    }

    /// The routes for updates (`/nic/update` and others), to be merged into the server of `cloud.<zone>`. That server must put
    /// [`ConnectInfo<SocketAddr>`](axum::extract::ConnectInfo) into the requests, and neither compress the replies nor
    /// log URLs or `Authorization` headers.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// For whoever starts the successor of this server.
    pub fn hand_over(&self) -> HandOver {
        self.hand_over.clone()
    }

    /// Waits until the server has ended: because it was told to, or because a part of it failed.
    ///
    /// # Errors
    /// The part that failed.
    pub async fn join(mut self) -> Result<(), StopError> {
        (&mut self.supervisor)
            .await
            .unwrap_or(Err(StopError::Panicked("the supervisor")))
    }

    /// Ends the server: updates that wait are still stored and answered. Takes a quarter of a second at most, if the
    /// disk works; ten seconds if a successor has the updates and clients are still connected here.
    ///
    /// # Errors
    /// The part that had failed before.
    pub async fn shutdown(self) -> Result<(), StopError> {
        self.stop.disarm().cancel();
        self.supervisor
            .await
            .unwrap_or(Err(StopError::Panicked("the supervisor")))
    }
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The operator's: the port is taken, or not allowed.
    #[error("{0}; choose another with `listen` in [ddns]")]
    Listen(#[from] ListenError),
    /// The operator's: the same for TLS.
    #[error("{0}; choose another with `dot` in [ddns]")]
    ListenDot(#[source] ListenError),
    /// Of the server before, or the operator's.
    #[error("{0} (a server that is started anew binds its own)")]
    Bound(#[from] BoundError),
    /// The operator's: DNS is to be spoken over TLS, and there is no certificate for it.
    #[error("`dot` in [ddns] needs a certificate, and there is none")]
    NoCertificate,
    /// The operator's, or the system's.
    #[error("no DNS over TLS: {0}")]
    Certificate(#[from] CertificateError),
    /// The operator's.
    #[error("{0} (in [[ddns.record]])")]
    Record(#[from] RecordError),
    /// The operator's, or the system's.
    #[error("no secret for cookies: {0} (`cookie_secret_files` in [ddns])")]
    CookieSecret(#[from] SecretError),
    /// The operator's: another server runs with the same state.
    #[error("the state directory {} is not to be had: {source}", path.display())]
    State {
        /// The state directory.
        path: PathBuf,
        /// What is wrong with it.
        source: OpenError,
    },
    /// The operator's, or the disk's. The log is left as it was.
    #[error("in {}: {source}", path.display())]
    Log {
        /// The state directory.
        path: PathBuf,
        /// What is wrong with the log.
        source: ReadError,
    },
    /// The disk's: there was no log, and none can be made.
    #[error("no log of updates can be made in {}: {source}", path.display())]
    NewLog {
        /// The state directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The operator's.
    #[error("{0} (`key_file` in [[ddns.secondary]])")]
    SecondaryKey(#[from] KeyFileError),
    /// The operator's.
    #[error(
        "the secondary at {0} cannot have signatures of a zone with `denial = \"compact\"`: set `signs = true` for one that signs \
         the zone itself, or `denial = \"nsec3\"` in [ddns.dnssec]"
    )]
    NoSignedCopy(SocketAddr),
    /// The operator's, or the disk's.
    #[error("the keys of the zone are not to be had: {0}")]
    Keys(#[from] FolderError),
    /// Ours, or the system's.
    #[error("the zone cannot be signed: {0}")]
    Signer(#[from] SignerError),
    /// Ours, or the system's.
    #[error("a thread cannot be started: {0}")]
    Thread(#[source] io::Error),
    /// Ours: a counter's name is taken.
    #[error("metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
    /// Ours.
    #[error("a bug ended the start")]
    Bug,
}

/// Why the server ended without being told to.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// The system's: a socket does not work any more.
    #[error("{part} cannot go on: {source}")]
    Failed {
        /// Which thread.
        part: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// Ours: a bug.
    #[error("{0} ended by a bug")]
    Panicked(&'static str),
}

/// Starts the server. `directory` must hold its devices already: what the log has of a registration that is not there
/// is dropped for good. The server ends when `stop` is cancelled. Call it within a tokio runtime.
///
/// # Errors
/// See [`StartError`]; each says whose fault it is. Nothing runs then.
pub async fn start(
    config: Config,
    facts: Facts,
    directory: Reader,
    registry: &Registry,
    stop: CancellationToken,
) -> Result<Handle, StartError> {
    let contents = Contents::new(directory.zone(), &config, &facts.relay, &facts.nameserver)?;
    let table = Arc::new(Table::new(contents, unix_seconds()));
    let metrics = Arc::new(Metrics::register(registry)?);
    let signing = Signing::begin(&config, &facts.storage, directory.zone(), &table, &metrics)?;
    let identity = Arc::new(identity(&config)?);
    let limiter = Limiter::new(config.responses_per_second.get(), config.slip.get())?;
    let Bound { udp, tcp, dot } = facts.bound;
    let workers = workers(&config);
    let sockets = match bound::take(config.listen, udp, tcp)? {
        Some(sockets) => sockets,
        None => bind::bind(config.listen, workers)?,
    };
    if sockets.udp.len() != workers {
        tracing::warn!(
            threads = sockets.udp.len(),
            wanted = workers,
            "the server before has handed over another number of sockets than `threads` in [ddns] says: each gets its thread until a start that binds anew"
        );
    }
    let addr = sockets.addr;
    let over_tls = OverTls::new(&config, facts.certificate, dot)?;
    let dot = over_tls.as_ref().map(|over_tls| over_tls.addr);

    let (writer, queue) = Writer::new(facts.alone.clone());
    let mut parts = Parts::new(stop.child_token(), queue.clone());
    let keys = signing.as_ref().map(|signing| signing.keys.clone());
    if let Some(signing) = signing.clone() {
        let stop = parts.stop.clone();
        parts.task(signing.keys.clone().keep(facts.alone.clone(), stop.clone()));
        parts.task(signing.follow(Arc::clone(&table), stop));
    }
    let loading = Loading {
        storage: facts.storage,
        directory: directory.clone(),
        table: Arc::clone(&table),
        metrics: Arc::clone(&metrics),
        queue: queue.clone(),
    };
    let (committer, follower) = loading.load().await?;
    let updater = Updater::new(
        directory.clone(),
        Arc::clone(&table),
        Arc::clone(&metrics),
        queue,
        Limits {
            private_addresses: config.private_addresses,
            pace: Pace::new(config.updates_per_minute.get(), Instant::now()),
        },
    );
    let copies = Copies::begin(&config, signing.as_ref(), &table, &metrics)?;
    let desk = Arc::clone(&copies.desk);
    let updater = updater
        .with_rotation(copies.keep(&mut parts)?)
        .with_changes(facts.address_changes);
    let export = Export::new(Arc::clone(&table));
    parts.task(export.clone().tidy(parts.stop.clone()));
    let door = dynamic::Door::new(
        directory.clone(),
        Arc::clone(&table),
        updater.at(Door::Dynamic),
        facts.master,
        desk,
        Arc::clone(&metrics),
    );
    let import = Import::new(directory.clone(), updater.at(Door::Import));
    let router = http::router(Doors {
        directory,
        updater: updater.clone(),
        relay: facts.relay,
    });
    let relays = Relays::new(Arc::clone(&table), Arc::clone(&metrics));
    let steering = Steering::new(Arc::clone(&table));
    let service = Service {
        table: Arc::clone(&table),
        identity,
        signer: signing.as_ref().map(|signing| Arc::clone(&signing.signer)),
        limiter: Arc::new(limiter),
        door: Arc::new(door),
        metrics,
    };
    // Before anybody can ask, and not when its thread comes to run.
    writer.show(&committer);
    let (parts, hand_over) = run(parts, (sockets, over_tls), &config, &service, |metrics| {
        writer.run(committer, metrics);
    })?;
    tracing::info!(%addr, devices = table.devices(), "DNS is answered");
    Ok(Handle {
        addr,
        dot,
        updater,
        relays,
        steering,
        keys,
        export,
        import,
        router,
        hand_over,
        stop: parts.stop.clone().drop_guard(),
        supervisor: tokio::spawn(async move {
            let ended = parts.supervise().await;
            drop(follower);
            ended
        }),
    })
}

/// The listener for TLS, and the handshake on it.
struct OverTls {
    addr: SocketAddr,
    listener: TcpListener,
    acceptor: Acceptor,
}

impl OverTls {
    fn new(
        config: &Config,
        certificate: Option<Certificate>,
        bound: Option<std::net::TcpListener>,
    ) -> Result<Option<Self>, StartError> {
        let Some(listen) = config.dot else {
            return match bound {
                Some(_) => Err(BoundError::Unwanted.into()),
                None => Ok(None),
            };
        };
        let acceptor = Acceptor::new(certificate.ok_or(StartError::NoCertificate)?)?;
        let (addr, listener) = match bound {
            Some(bound) => bound::take_dot(listen, bound)?,
            None => bind::bind_dot(listen).map_err(StartError::ListenDot)?,
        };
        Ok(Some(Self {
            addr,
            listener,
            acceptor,
        }))
    }
}

/// What all who answer share.
#[derive(Clone)]
struct Service {
    table: Arc<Table>,
    identity: Arc<Identity>,
    signer: Option<Arc<Signer>>,
    limiter: Arc<Option<Limiter>>,
    door: Arc<dynamic::Door>,
    metrics: Arc<Metrics>,
}

/// Reads the secrets, or makes one.
fn identity(config: &Config) -> Result<Identity, SecretError> {
    let files = &config.cookie_secret_files;
    let made_by = match &files.made_by {
        Some(path) => Secret::from_file(path)?,
        None => Secret::random()?,
    };
    let known_too = files.known_too.as_deref().map(Secret::from_file);
    Ok(Identity {
        secrets: Secrets::new(made_by, known_too.transpose()?),
        nsid: config.nsid.clone(),
    })
}

/// Starts the threads and the task.
fn run(
    mut parts: Parts,
    (sockets, over_tls): (Sockets, Option<OverTls>),
    config: &Config,
    service: &Service,
    write: impl FnOnce(&Metrics) + Send + 'static,
) -> Result<(Parts, HandOver), StartError> {
    let counting = Arc::clone(&service.metrics);
    let writer_ended = parts.writer(move || write(&counting))?;
    let has_successor = Arc::new(AtomicBool::new(false));
    let left = CancellationToken::new();
    let listening = Arc::new(left.clone().drop_guard());
    let (datagrams, signed) = signed::queue();
    let mut udp = Vec::new();
    for socket in sockets.udp {
        let (service, datagrams) = (service.clone(), datagrams.clone());
        let socket = Arc::new(socket);
        udp.push(Arc::downgrade(&socket));
        let stopping = parts.stopping();
        let reader = (Arc::clone(&listening), socket);
        parts.thread("ddns-udp", move || {
            // The socket goes first.
            let (_listening, socket) = reader;
            let work = || {
                udp::work(
                    &socket,
                    &datagrams,
                    &service.table,
                    &service.identity,
                    service.signer.as_deref(),
                    Option::as_ref(&service.limiter),
                    &service.metrics,
                    &stopping,
                )
            };
            supervise(&stopping, work, || service.metrics.worker_restarted())
        })?;
    }
    parts.task(signed::serve(
        signed,
        Arc::clone(&service.door),
        Arc::clone(&service.identity),
        Arc::clone(&service.limiter),
        Arc::clone(&service.metrics),
    ));
    let admission = Admission::new(
        config.tcp_connections.count(),
        config.tcp_connections_per_address.count(),
    );
    let listener = TcpListener::from_std(sockets.tcp).map_err(|source| ListenError {
        addr: sockets.addr,
        transport: "TCP",
        source,
    })?;
    let asked = tcp::Service {
        table: Arc::clone(&service.table),
        identity: Arc::clone(&service.identity),
        signer: service.signer.clone(),
        door: Arc::clone(&service.door),
        metrics: Arc::clone(&service.metrics),
        admission,
    };
    let mut serve = |listener: TcpListener, acceptor| {
        let listener = Arc::new(listener);
        let weak = Arc::downgrade(&listener);
        let listener = (listener, Arc::clone(&listening));
        let (asked, stop) = (asked.clone(), parts.stop.clone());
        let has_successor = Arc::clone(&has_successor);
        parts.task(tcp::serve(listener, acceptor, asked, stop, has_successor));
        weak
    };
    let sockets = WhileOpen {
        udp,
        tcp: serve(listener, None),
        dot: over_tls.map(|over_tls| serve(over_tls.listener, Some(over_tls.acceptor))),
    };
    let hand_over = HandOver {
        sockets,
        left,
        queue: parts.queue.clone(),
        writer_ended,
        has_successor,
    };
    Ok((parts, hand_over))
}

fn workers(config: &Config) -> usize {
    config.threads.map_or_else(
        || {
            let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
            cores.min(DEFAULT_WORKERS)
        },
        Bounded::count,
    )
}
