//! The composition root: builds every part, joins them, and takes them down again in order. The only place that knows
//! relay, ddns and control at once.
//!
//! ```text
//!   state ─► store ─► Directory ─► ddns ─► relay ─► API and pages ─► operator's socket ─► admin ─► demo device
//! ```

mod certificates;
mod error;
mod leads;
mod overview;
mod parts;
mod public_certificate;
mod reload;
mod succession;

use std::future::pending;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ddns::update::AddressChange;
use directory::{OperatorName, Place};
use prometheus::Registry;
use relay::program::give_back_memory;
use relay::program::succession::{Ask, Inheritance};
use relay::server::{CloudDoor, CloudVisitor, Parts, Secret};
use relay::tls::Roots;
use relay::workers::{WorkerThreads, Workers};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::about;
use crate::admin::{Admin, Watched};
use crate::api::{self, Cloud, Metrics, https_url};
use crate::authority::{self, Authority};
use crate::certificate_watch;
use crate::config::Config;
use crate::demo;
use crate::devices::Devices;
use crate::fleet::{self, Fleet};
use crate::health::{Changes, Health, PublicCertificate};
use crate::http::{self, ClientsRefused, Protocol};
use crate::operator;
use crate::orders::Orders;
use crate::pages;
use crate::probe;
use crate::sign_in::SignIn;
use crate::state::{StateDirectory, StateLock};
use crate::steering::{self, Names, Steering};
use crate::store::{DATABASE, Store};
pub use crate::supervise::PartEnded;
use crate::supervise::Supervisor;
use certificates::OperatorCertificates;
pub use error::UpError;
use leads::Leads;
pub(crate) use parts::{records_of, start_admin, start_workers};
use public_certificate::Ordering;
pub(crate) use reload::Reloads;
pub use reload::Source;
use succession::{Holds, take_names};
pub(crate) use succession::{
    facts, give_front, give_lock, take_from_manager, take_front, take_state,
};

/// The file with what the relay's tokens are computed from.
pub(crate) const RELAY_SECRET: &str = "relay.secret";

/// Visitors of the operator's pages waiting to be served.
const CLOUD_QUEUE: usize = 256;

/// How long the parts may take to end once the relay's visitors are gone.
const GOODBYE: Duration = Duration::from_millis(750);

/// How long the database may take to close after them.
const CLOSE_TIME: Duration = Duration::from_millis(500);

/// A running server.
#[derive(Debug)]
pub struct Running {
    /// What is in force: as it was at the start, but for what a reload has changed.
    config: Config,
    reloads: Reloads,
    cloud: Arc<Cloud>,
    authority: Arc<Authority>,
    certificates: Arc<OperatorCertificates>,
    state: StateDirectory,
    relay: relay::server::Handle,
    dns: Option<SocketAddr>,
    dot: Option<SocketAddr>,
    names: Option<ddns::HandOver>,
    /// Cancelled when the name server ends, with everything else or before.
    names_end: CancellationToken,
    admin: Admin,
    /// The demo device's full name.
    demo: Option<String>,
    demo_end: demo::End,
    /// While a successor starts that has asked for the state.
    holds: Option<Holds>,
    /// The last that a successor has been given and that cannot be taken back.
    given: Option<Ask>,
    /// Cancelled first: readiness ends.
    leaving: CancellationToken,
    /// Cancelled when no more visitors come: open streams of events end.
    stop: CancellationToken,
    /// Cancelled when the relay's visitors are gone: everything else ends.
    end: CancellationToken,
    parts: Supervisor,
    cloud_visitors: TaskTracker,
    workers: WorkerThreads,
    lock: StateLock,
}

/// Starts everything in `config`, with the demo device if `with_demo`, on the sockets of its `inheritance` and others; and returns
/// when everything answers. What an older process has it gives up step by step, as late as it can.
///
/// # Errors
/// If a part cannot start or does not answer.
pub async fn start(
    config: Config,
    with_demo: bool,
    mut inheritance: Inheritance,
) -> Result<Running, UpError> {
    let of_manager = take_from_manager(&mut inheritance, &config.relay)?;
    let state = StateDirectory::open(&config.state)?;
    let (lock, older) = take_state(&mut inheritance, &state, &config).await?;
    let store = Store::open(&state.file(DATABASE), &config.zone).await?;
    let authority = Arc::new(Authority::open(&state, &config.zone)?);
    let (writer, directory) = directory::directory(config.zone.clone());
    // Both are read at once: with a million devices each takes most of a second. But an older process goes on writing meanwhile.
    let read_at_once = config.ddns.is_some() && !inheritance.is_succession();
    let updates = read_at_once.then(|| ddns::Storage::read(state.path().to_owned()));
    let devices = Devices::load(
        store.clone(),
        writer,
        directory.clone(),
        Arc::clone(&authority),
        state.tsig_master()?,
    )
    .await?;
    let directory_changes = count_changes(&directory);

    let registry = Registry::new();
    about::register(&registry)?;
    let reloads = Reloads::register(&registry)?;
    let with_dot = config.ddns.as_ref().is_some_and(|ddns| ddns.dot.is_some());
    let certificates = OperatorCertificates::issue(Arc::clone(&authority), with_dot, &registry)?;
    let certificates = Arc::new(certificates);
    let orders = Orders::new(config.acme.as_ref(), store.clone(), &registry)?;
    let orders = Arc::new(orders);
    let acme = config.acme.as_ref();
    let acme = acme.filter(|acme| acme.operator && config.ddns.is_some());
    let public = acme.map(|_| PublicCertificate::register(&registry, certificates.ends.clone()));
    let public = public.transpose()?;
    let ordering = acme.zip(public.clone()).map(|(acme, told)| {
        let of = (&config.zone, state.path());
        Ordering::open(acme, of, &orders, &certificates, told)
    });
    let ordering = ordering.transpose()?;
    let (stop, end) = (CancellationToken::new(), CancellationToken::new());
    let leaving = CancellationToken::new();
    let names_end = end.child_token();
    let alone = inheritance.is_succession().then(CancellationToken::new);
    let names = take_names(&mut inheritance, config.ddns.as_ref()).await?;
    let (address_changes, changes_of_addresses) = steering::changes();
    let ddns = start_ddns(
        &config,
        &state,
        (updates, names, alone.clone()),
        certificates.name_server.clone(),
        &directory,
        &registry,
        (names_end.clone(), address_changes),
    )
    .await?;

    let (cloud_visitors, visitors) = mpsc::channel(CLOUD_QUEUE);
    let workers = start_workers(&config, older.as_ref())?;
    let (bound, admin_bound) = take_front(&mut inheritance, &config, of_manager).await?;
    let parts = Parts {
        directory: directory.clone(),
        host: Place::Operator(OperatorName::Relay),
        relay_certificate: certificates.relay.clone(),
        cloud: Some(CloudDoor {
            certificate: certificates.cloud.clone(),
            visitors: cloud_visitors,
        }),
        workers: workers.workers(),
        secret: Secret::new(state.secret(RELAY_SECRET)?),
        records: records_of(&config, &state),
        bound,
    };
    let relay = relay::server::start(config.relay.clone(), parts, &registry)?;
    let mut parts = Supervisor::default();
    let surroundings = fleet::Surroundings {
        store: store.clone(),
        directory: directory.clone(),
        authority: Arc::clone(&authority),
        own: relay.presence(),
        port: relay.front().port(),
        leads: ddns.as_ref().map(|ddns| Leads::boxed(ddns.relays())),
    };
    let fleet = Fleet::open(surroundings, &registry).await?;
    let steering = match (&ddns, &config.ddns) {
        (Some(ddns), Some(config)) => {
            let names = Names {
                steering: ddns.steering(),
                updater: ddns.updater(),
                private_addresses: config.private_addresses,
            };
            let fleet = Arc::clone(&fleet);
            let steering =
                Steering::open(store.clone(), directory.clone(), fleet, names, &registry);
            Some(steering.await?)
        }
        _ => None,
    };
    if let Some(steering) = steering.clone() {
        parts.run(
            "the steering of names",
            steering.run(changes_of_addresses, end.clone()),
        );
    }
    let (certificate_watch, followers) = certificate_watch::open(
        config.certificate_watch.as_ref(),
        &config.zone,
        &store,
        &registry,
    )?;
    if !followers.is_empty() {
        let followed = followers.follow(alone.clone(), names_end.clone(), end.clone());
        parts.run("the certificate watch", followed);
    }
    let cloud = Arc::new(Cloud {
        zone: config.zone.clone(),
        port: relay.front().port(),
        ports: config.relay.ports,
        trust_root: authority.certificate_pem().to_owned(),
        devices,
        fleet,
        traffic: relay.traffic(),
        directory_changes,
        sign_in: SignIn::default(),
        replays: Default::default(),
        dns: ddns.as_ref().map(ddns::Handle::updater),
        keys: ddns.as_ref().and_then(ddns::Handle::keys),
        export: ddns.as_ref().map(ddns::Handle::export),
        import: ddns.as_ref().map(ddns::Handle::import),
        steering,
        acme: api::AcmeAuthorities::read(config.acme.as_ref())?,
        orders,
        certificate_watch,
        metrics: Metrics::register(&registry)?,
        stop: stop.clone(),
    });
    let mut router = api::router(Arc::clone(&cloud));
    let dns = ddns.as_ref().map(ddns::Handle::addr);
    let dot = ddns.as_ref().and_then(ddns::Handle::dot);
    let names = ddns.as_ref().map(ddns::Handle::hand_over);
    if let Some(ddns) = ddns {
        router = router.merge(ddns.router());
        // A part of it that failed has said so in the log.
        parts.run("ddns", async { drop(ddns.join().await) });
    }
    let router = pages::router(Arc::clone(&cloud), router);
    let cloud_visitors = TaskTracker::new();
    let served = serve_cloud(visitors, router, stop.clone(), cloud_visitors.clone());
    parts.run("the cloud", served);
    if let Some((ordering, updater)) = ordering.zip(cloud.dns.clone()) {
        let kept = ordering.keep(updater, alone.clone(), names_end.clone(), end.clone());
        parts.run("the orders for the operator's certificate", kept);
    }
    let health = Health::register(
        &registry,
        relay.listeners(),
        relay.upkeep(),
        (certificates.ends.clone(), public),
        leaving.clone(),
        Changes::InDatabase(store),
        cloud.dns.clone(),
    )?;
    let renewed = Arc::clone(&certificates).keep_fresh(end.clone());
    parts.run("the renewal of the operator's certificates", renewed);

    let refused = ClientsRefused::register(&registry)?;
    let listener = operator::bind(state.path()).map_err(|cause| UpError::Socket {
        path: state.file(operator::SOCKET),
        cause,
    })?;
    let verbs = operator::serve(
        listener,
        Arc::clone(&cloud),
        refused.at("operator"),
        end.clone(),
    );
    parts.run("the operator's socket", verbs);
    let watched = Watched { registry, health };
    let admin = start_admin(&config, admin_bound, watched, &refused, &end, &mut parts)?;

    let demo_end = demo::End::default();
    let demo = if with_demo {
        let place = demo::Place {
            devices: &cloud.devices,
            state: &state,
            cloud: operator::cloud_url(&cloud),
            front: probe::reachable(relay.front()),
            relays: vec![cloud.fleet.own_relay()],
            trust_root: &cloud.trust_root,
            workers: workers.workers(),
            refused: refused.at("demo"),
        };
        Some(demo::start(place, &mut parts, demo_end.clone()).await?)
    } else {
        None
    };
    let running = Running {
        config,
        reloads,
        cloud,
        authority,
        certificates,
        state,
        relay,
        dns,
        dot,
        names,
        names_end,
        admin,
        demo,
        demo_end,
        holds: None,
        given: None,
        leaving,
        stop,
        end,
        parts,
        cloud_visitors,
        workers,
        lock,
    };
    running.probe().await?;
    inheritance.serving(alone);
    // What a million devices were read with is some megabytes, and is not needed any more.
    give_back_memory();
    Ok(running)
}

/// What is where in a running server.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Addresses {
    /// The zone.
    pub zone: String,
    /// Where visitors and agents arrive: TCP, and UDP unless it is off.
    pub front: SocketAddr,
    /// Where plain HTTP is redirected.
    pub http: Option<SocketAddr>,
    /// Where DNS is spoken, UDP and TCP.
    pub dns: Option<SocketAddr>,
    /// Where DNS is spoken over TLS.
    pub dot: Option<SocketAddr>,
    /// Where metrics and health are answered.
    pub admin: SocketAddr,
    /// The file with the certificate to trust for the zone.
    pub ca: PathBuf,
    /// The state directory.
    pub state: PathBuf,
}

impl Running {
    /// What is where: the addresses really bound.
    pub fn addresses(&self) -> Addresses {
        Addresses {
            zone: self.cloud.zone.to_string(),
            front: self.relay.front(),
            http: self.relay.http(),
            dns: self.dns,
            dot: self.dot,
            admin: self.admin.address,
            ca: self.authority.certificate_file().to_owned(),
            state: self.state.path().to_owned(),
        }
    }

    /// The threads that carry bytes.
    pub fn workers(&self) -> Workers {
        self.workers.workers()
    }

    /// `https://cloud.<zone>[:port]/`
    pub fn cloud_url(&self) -> String {
        operator::cloud_url(&self.cloud)
    }

    /// The full name of the zone's name server, which it proves over TLS.
    pub fn name_server(&self) -> String {
        authority::name_server(&self.cloud.zone)
    }

    /// The demo device's full name, if there is one.
    pub fn demo_host(&self) -> Option<&str> {
        self.demo.as_deref()
    }

    /// Where `host` is reached by browsers.
    pub fn url_of(&self, host: &str) -> String {
        https_url(host, self.cloud.port)
    }

    /// A link that signs the operator in, once.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn sign_in_link(&self) -> Result<String, getrandom::Error> {
        operator::sign_in_link(&self.cloud)
    }

    /// Asks every part over its own socket.
    async fn probe(&self) -> Result<(), UpError> {
        let roots = Roots::from_pem(self.authority.certificate_pem())?;
        let silent = |part| move |cause| UpError::Silent { part, cause };
        let front = &self.relay;
        let cloud = self.cloud.zone.operator_name(OperatorName::Cloud);
        probe::https(front, &cloud, "/offline", &roots)
            .await
            .map_err(silent("cloud"))?;
        if let Some(dns) = self.dns {
            probe::dns(dns, self.cloud.zone.as_str())
                .await
                .map_err(silent("ddns"))?;
        }
        if let Some(dot) = self.dot {
            probe::dot(dot, &self.name_server(), &roots)
                .await
                .map_err(silent("ddns over TLS"))?;
        }
        probe::http(self.admin.address, "/readyz")
            .await
            .map_err(silent("admin"))?;
        if let Some(demo) = &self.demo {
            probe::https(front, demo, "/", &roots)
                .await
                .map_err(silent("the demo device"))?;
        }
        Ok(())
    }

    /// Waits until a part has ended that nobody has told to. The others should be shut down then.
    pub async fn failed(&mut self) -> PartEnded {
        if self.given.is_some() {
            return pending().await; // some are to end, and all will before long
        }
        self.parts.next_end().await
    }

    /// Stops in order: readiness first, then visitors as the relay's `leave` and `drain` say, then the parts behind them. Takes
    /// both and three seconds at most.
    pub async fn shutdown(self) {
        self.leaving.cancel();
        self.relay.leave().await;
        self.stop.cancel();
        self.demo_end.stop.cancel();
        self.relay.shutdown().await;
        self.end.cancel();
        all_ended(self.parts, &self.cloud_visitors, &self.cloud.fleet).await;
        let _ = timeout(CLOSE_TIME, self.cloud.devices.close()).await;
    }
}

/// Waits until what stands behind the relay has ended, which has been told to.
async fn all_ended(parts: Supervisor, cloud_visitors: &TaskTracker, fleet: &Fleet) {
    let ended = async {
        parts.all_ended().await;
        cloud_visitors.close();
        cloud_visitors.wait().await;
        fleet.close().await;
    };
    let _ = timeout(GOODBYE, ended).await;
}

async fn start_ddns(
    config: &Config,
    state: &StateDirectory,
    (updates, bound, alone): (
        Option<ddns::Storage>,
        ddns::Bound,
        Option<CancellationToken>,
    ),
    certificate: Option<ddns::Certificate>,
    directory: &directory::Reader,
    registry: &Registry,
    (stop, address_changes): (CancellationToken, mpsc::Sender<AddressChange>),
) -> Result<Option<ddns::Handle>, UpError> {
    let Some(ddns) = &config.ddns else {
        return Ok(None);
    };
    let public = config.public_addresses();
    let listen = ddns.listen.ip().to_canonical();
    let facts = ddns::Facts {
        storage: updates.unwrap_or_else(|| ddns::Storage::read(state.path().to_owned())),
        bound,
        alone,
        nameserver: if listen.is_unspecified() {
            public.clone()
        } else {
            vec![listen]
        },
        relay: public,
        master: state.tsig_master()?,
        certificate,
        address_changes: Some(address_changes),
    };
    Ok(Some(
        ddns::start(ddns.clone(), facts, directory.clone(), registry, stop).await?,
    ))
}

/// A number that changes with the Directory, for those who show it.
fn count_changes(directory: &directory::Reader) -> watch::Receiver<u64> {
    let (changed, changes) = watch::channel(0);
    directory.watch(move |_| changed.send_modify(|version| *version += 1));
    changes
}

/// Serves the visitors of `cloud.<zone>`, whose TLS the front has ended, until the relay hands over no more.
async fn serve_cloud(
    mut visitors: mpsc::Receiver<CloudVisitor>,
    router: axum::Router,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    while let Some(CloudVisitor {
        stream,
        address,
        http2,
        admitted,
    }) = visitors.recv().await
    {
        let protocol = if http2 {
            Protocol::Http2
        } else {
            Protocol::Http1
        };
        let served = http::serve_client(stream, protocol, address, router.clone(), stop.clone());
        tasks.spawn(async move {
            served.await;
            drop(admitted);
        });
    }
}
