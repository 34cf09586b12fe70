//! A relay with its own authority and Directory, devices with real agents, and visitors.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use directory::{
    Device, DeviceId, DeviceLimits, DeviceName, Identity, OperatorName, Place, Reader,
    RegistrationId, RelayName, Writer, Zone,
};
use prometheus::{Registry, TextEncoder};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer,
    KeyPair,
};
use relay::agent::{
    self, Attached, Certificate, Direct, Gso, Origin, OriginTrust, Pairing, Services, State,
    Tunnels, VisitorAddress,
};
use relay::records;
use relay::resolve::Resolver;
use relay::server::{
    Bound, CloudDoor, CloudVisitor, Config, Handle, LimitsConfig, Network, Parts, Secret,
    StartError, Transport,
};
use relay::tls::{CertificateSlot, Roots};
use relay::workers::WorkerThreads;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

/// Nothing here takes longer unless it is broken.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// As on a machine with two cores, whatever this one has.
const WORKERS: NonZeroUsize = NonZeroUsize::new(2).unwrap();

/// Both ways in which a tunnel can be brought.
pub(crate) const TRANSPORTS: [Transport; 2] = [Transport::Quic, Transport::Tls];

type StartRelay =
    dyn Fn(&Config, Bound, &WorkerThreads, &Registry) -> Result<Handle, StartError> + Send + Sync;

pub(crate) struct World {
    pub(crate) relay: Option<Handle>,
    relay_threads: Option<WorkerThreads>,
    config: Config,
    start_relay: Box<StartRelay>,
    /// The front, if somebody holds that for the next relay.
    held: Option<TcpListener>,
    /// The relay's host name.
    host: String,
    pub(crate) front: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) registry: Registry,
    pub(crate) directory: Reader,
    writer: Arc<Mutex<Writer>>,
    issuer: Arc<Issuer<'static, KeyPair>>,
    pub(crate) trust_root: String,
    pub(crate) cloud_visitors: tokio::sync::Mutex<mpsc::Receiver<CloudVisitor>>,
    connector: TlsConnector,
    /// The agents'.
    pub(crate) threads: WorkerThreads,
    folder: Arc<TempDir>,
}

/// A relay that another has taken over from in the same place.
pub(crate) struct Predecessor {
    pub(crate) relay: Handle,
    registry: Registry,
    _threads: WorkerThreads,
}

/// What the relays of one operator have in common.
struct Operator {
    directory: Reader,
    writer: Arc<Mutex<Writer>>,
    issuer: Arc<Issuer<'static, KeyPair>>,
    trust_root: String,
    folder: Arc<TempDir>,
}

impl World {
    /// A relay on free ports; its agents will come over `transport`.
    pub(crate) fn start(transport: Transport) -> Self {
        Self::with(transport, (Ipv4Addr::LOCALHOST, 0).into())
    }

    pub(crate) fn with(transport: Transport, front: SocketAddr) -> Self {
        Self::configured(config(transport, front))
    }

    /// A relay that takes no raw connections.
    pub(crate) fn without_raw() -> Self {
        Self::configured(Config {
            raw: false,
            ..config(Transport::Quic, (Ipv4Addr::LOCALHOST, 0).into())
        })
    }

    /// A relay that keeps records.
    pub(crate) fn recording(transport: Transport, records: records::Setup) -> Self {
        let config = config(transport, (Ipv4Addr::LOCALHOST, 0).into());
        Self::configured_with(config, Some(records))
    }

    /// A relay with limits; its agents will come over QUIC.
    pub(crate) fn limited(limits: LimitsConfig) -> Self {
        Self::configured(Config {
            limits,
            ..config(Transport::Quic, (Ipv4Addr::LOCALHOST, 0).into())
        })
    }

    /// A relay with proxies before it; who comes straight to it, as its agents do, is who he is.
    pub(crate) fn proxied(transport: Transport, proxy_from: Vec<Network>) -> Self {
        Self::configured(Config {
            proxy_from,
            ..config(transport, (Ipv4Addr::LOCALHOST, 0).into())
        })
    }

    /// A relay that may give ports to devices, on an address that no other test has: there each of its ports is free.
    pub(crate) fn with_ports(transport: Transport, ports: &str) -> Self {
        Self::configured(config_with_ports(transport, ports))
    }

    /// The same, and it keeps records.
    pub(crate) fn recording_ports(transport: Transport, ports: &str, to: records::Setup) -> Self {
        Self::configured_with(config_with_ports(transport, ports), Some(to))
    }

    fn configured(config: Config) -> Self {
        Self::configured_with(config, None)
    }

    fn configured_with(config: Config, records: Option<records::Setup>) -> Self {
        let (writer, directory) = directory::directory(Zone::parse("nas.localhost").unwrap());
        let (issuer, trust_root) = authority();
        let operator = Operator {
            directory,
            writer: Arc::new(Mutex::new(writer)),
            issuer: Arc::new(issuer),
            trust_root,
            folder: Arc::new(tempfile::tempdir().unwrap()),
        };
        Self::of(
            operator,
            Place::Operator(OperatorName::Relay),
            config,
            records,
        )
    }

    /// The same devices at another relay, which has a host and a port of its own and no cloud behind it.
    pub(crate) fn beside(&self, name: &str) -> Self {
        let operator = Operator {
            directory: self.directory.clone(),
            writer: Arc::clone(&self.writer),
            issuer: Arc::clone(&self.issuer),
            trust_root: self.trust_root.clone(),
            folder: Arc::clone(&self.folder),
        };
        let config = Config {
            front: (Ipv4Addr::LOCALHOST, 0).into(),
            ..self.config.clone()
        };
        Self::of(
            operator,
            Place::Relay(RelayName::parse(name).unwrap()),
            config,
            None,
        )
    }

    fn of(
        operator: Operator,
        place: Place,
        config: Config,
        records: Option<records::Setup>,
    ) -> Self {
        let Operator {
            directory,
            writer,
            issuer,
            trust_root,
            folder,
        } = operator;
        let registry = Registry::new();
        let (cloud, visitors) = mpsc::channel(4);
        let threads = WorkerThreads::start(WORKERS).unwrap();
        let slot = |host: &str| {
            let key = KeyPair::generate().unwrap();
            let chain = CertificateParams::new(vec![host.to_owned()])
                .unwrap()
                .signed_by(&key, &issuer)
                .unwrap();
            CertificateSlot::from_pem(&chain.pem(), &key.serialize_pem()).unwrap()
        };
        let zone = directory.zone();
        let host = if let Place::Relay(name) = &place {
            zone.relay_name(name)
        } else {
            zone.operator_name(OperatorName::Relay)
        };
        let (relay_certificate, cloud_certificate) =
            (slot(&host), slot(&zone.operator_name(OperatorName::Cloud)));
        let known = directory.clone();
        let start_relay =
            move |config: &Config, bound: Bound, threads: &WorkerThreads, registry: &Registry| {
                let has_cloud = place == Place::Operator(OperatorName::Relay);
                let parts = Parts {
                    directory: known.clone(),
                    host: place.clone(),
                    relay_certificate: relay_certificate.clone(),
                    cloud: has_cloud.then(|| CloudDoor {
                        certificate: cloud_certificate.clone(),
                        visitors: cloud.clone(),
                    }),
                    workers: threads.workers(),
                    secret: Secret::new([7; Secret::LENGTH].into()),
                    records: records.clone(),
                    bound,
                };
                relay::server::start(config.clone(), parts, registry)
            };
        let relay_threads = WorkerThreads::start(WORKERS).unwrap();
        let relay = start_relay(&config, Bound::default(), &relay_threads, &registry).unwrap();
        let mut roots = RootCertStore::empty();
        roots
            .add(rustls::pki_types::CertificateDer::from_pem_slice(trust_root.as_bytes()).unwrap())
            .unwrap();
        let client = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            host,
            front: relay.front(),
            http: relay.http().unwrap(),
            relay: Some(relay),
            relay_threads: Some(relay_threads),
            config,
            start_relay: Box::new(start_relay),
            held: None,
            registry,
            directory,
            writer,
            issuer,
            trust_root,
            cloud_visitors: tokio::sync::Mutex::new(visitors),
            connector: TlsConnector::from(Arc::new(client)),
            threads,
            folder,
        }
    }

    /// The relay is gone without a word, as if its process had been killed, and comes again at once.
    pub(crate) fn crash_and_start_again(&mut self) {
        self.crash();
        self.start_again();
    }

    /// The relay is gone without a word, as if its process had been killed.
    pub(crate) fn crash(&mut self) {
        drop((self.relay_threads.take(), self.relay.take()));
    }

    /// From now on its front is somebody else's, and stays there without it.
    pub(crate) fn hold_front(&mut self) {
        let front = TcpListener::bind(self.front).unwrap();
        self.held = Some(front);
    }

    /// It comes again where it was.
    pub(crate) fn start_again(&mut self) {
        let held = self.held.iter().map(|front| front.try_clone().unwrap());
        let front = held.collect();
        self.start_on(Bound {
            front,
            ..Bound::default()
        });
    }

    /// The same, with these sockets and whatever else it needs.
    pub(crate) fn start_on(&mut self, bound: Bound) {
        self.try_start_on(bound).unwrap();
    }

    pub(crate) fn try_start_on(&mut self, bound: Bound) -> Result<(), StartError> {
        self.config.front = self.front;
        let threads = WorkerThreads::start(WORKERS).unwrap();
        self.registry = Registry::new();
        let relay = (self.start_relay)(&self.config, bound, &threads, &self.registry)?;
        self.relay = Some(relay);
        self.relay_threads = Some(threads);
        Ok(())
    }

    /// Another relay takes over from this world's, as if in a process of its own. The one before still accepts.
    pub(crate) fn take_over(&mut self) -> Predecessor {
        let relay = self.relay.take().unwrap();
        let handed_over = relay.hand_over().unwrap();
        let before = Predecessor {
            relay,
            registry: self.registry.clone(),
            _threads: self.relay_threads.take().unwrap(),
        };
        self.start_on(handed_over);
        before
    }

    /// TLS of a service that has a certificate of its own for `host`.
    pub(crate) fn service(&self, host: &str) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![host.to_owned()])
            .unwrap()
            .signed_by(&key, &self.issuer)
            .unwrap();
        ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap()
    }

    /// A registered device with everything its agent needs on disk.
    pub(crate) fn device(&self, name: &str) -> State {
        let state = State::open(self.state_of(name)).unwrap();
        self.put(name, &state);
        let zone = self.directory.zone();
        let host = format!("{name}.{zone}");
        let pairing = Pairing {
            device_id: String::new(),
            name: name.to_owned(),
            zone: zone.to_string(),
            cloud: format!("https://cloud.{zone}:{}", self.front.port()),
            relays: vec![self.address()],
            trust_root: self.trust_root.clone(),
        };
        state.keep_pairing(&pairing).unwrap();
        let names = vec![host.clone(), format!("*.{host}")];
        let request = state
            .tls_key()
            .unwrap()
            .signing_request(names.clone())
            .unwrap();
        let request = CertificateSigningRequestParams::from_pem(&request).unwrap();
        let chain = CertificateParams::new(names)
            .unwrap()
            .signed_by(&request.public_key, &self.issuer)
            .unwrap();
        let certificate = Certificate {
            chain: chain.pem(),
            renew_at: u64::MAX,
            not_after: u64::MAX,
        };
        state.keep_certificate(&certificate).unwrap();
        state
    }

    /// Where the relay is, as pairing says it.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.host, self.front.port())
    }

    pub(crate) fn state_of(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Tells the Directory that the key in `state` is that of `name` now.
    pub(crate) fn put(&self, name: &str, state: &State) {
        self.writer.lock().unwrap().put(Device {
            registration: RegistrationId(1),
            name: DeviceName::parse(name).unwrap(),
            identity: Some(Identity::first(state.identity().unwrap().public_key())),
            ddns_key: None,
            challenge_key: None,
        });
    }

    /// What a device of this world is called where its name does not stand.
    pub(crate) fn device_id(&self, name: &str) -> DeviceId {
        let state = State::open(self.state_of(name)).unwrap();
        DeviceId::of(&state.identity().unwrap().public_key())
    }

    /// What the device of `name` may have at most from now on.
    pub(crate) fn limit(&self, name: &str, limits: DeviceLimits) {
        let name = DeviceName::parse(name).unwrap();
        assert!(self.writer.lock().unwrap().limit(&name, limits));
    }

    /// The ports that the device of `name` has from now on.
    pub(crate) fn give_ports(&self, name: &str, ports: &[&str]) {
        let name = DeviceName::parse(name).unwrap();
        let ports = ports.iter().map(|port| port.parse().unwrap()).collect();
        assert!(self.writer.lock().unwrap().set_ports(&name, ports));
    }

    pub(crate) fn remove(&self, name: &str) {
        self.writer
            .lock()
            .unwrap()
            .remove(&DeviceName::parse(name).unwrap())
            .unwrap();
    }

    /// An agent in this process, attached.
    pub(crate) async fn agent(&self, name: &str, origin: &str) -> Agent {
        self.agent_with(name, origin, VisitorAddress::Forwarded)
            .await
    }

    pub(crate) async fn agent_with(
        &self,
        name: &str,
        origin: &str,
        visitor_address: VisitorAddress,
    ) -> Agent {
        self.agent_by_way_of(self.front, name, origin, visitor_address)
            .await
    }

    /// One that reaches the relay at `front`.
    pub(crate) async fn agent_by_way_of(
        &self,
        front: SocketAddr,
        name: &str,
        origin: &str,
        visitor_address: VisitorAddress,
    ) -> Agent {
        let state = self.device(name);
        self.agent_of(state, Resolver::Fixed(front), origin, visitor_address)
            .await
    }

    /// One that has everything in `state`.
    pub(crate) async fn agent_of(
        &self,
        state: State,
        resolver: Resolver,
        origin: &str,
        visitor_address: VisitorAddress,
    ) -> Agent {
        self.agent_keeping(Tunnels::Two, state, resolver, origin, visitor_address)
            .await
    }

    /// The same with so many tunnels.
    pub(crate) async fn agent_keeping(
        &self,
        tunnels: Tunnels,
        state: State,
        resolver: Resolver,
        origin: &str,
        visitor_address: VisitorAddress,
    ) -> Agent {
        let origin = Origin::new(
            origin.parse().unwrap(),
            visitor_address,
            &OriginTrust::Roots(Roots::none()),
        );
        self.run(tunnels, None, state, resolver, origin.unwrap().into())
            .await
    }

    /// The same for any origin, or for several services.
    pub(crate) async fn agent_for(
        &self,
        state: State,
        resolver: Resolver,
        services: impl Into<Services>,
    ) -> Agent {
        self.run(Tunnels::Two, None, state, resolver, services.into())
            .await
    }

    /// The same, and visitors may come straight to it: at any free port of loopback, which is said.
    pub(crate) async fn agent_with_a_door(
        &self,
        state: State,
        services: impl Into<Services>,
    ) -> (Agent, SocketAddr) {
        let direct = Direct {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            port: 0,
        };
        let door = State::open(state.directory()).unwrap();
        let resolver = Resolver::Fixed(self.front);
        let services = services.into();
        let agent = self.run(Tunnels::Two, Some(direct), state, resolver, services);
        let agent = agent.await;
        let status = agent::ask(&door).await.unwrap();
        let port = status.direct.unwrap().port;
        (agent, (Ipv4Addr::LOCALHOST, port).into())
    }

    async fn run(
        &self,
        tunnels: Tunnels,
        direct: Option<Direct>,
        state: State,
        resolver: Resolver,
        services: Services,
    ) -> Agent {
        let config = agent::Config {
            state,
            services,
            resolver,
            workers: self.threads.workers(),
            gso: Gso::Auto,
            dns: agent::Dns::Off,
            lan: agent::Lan::Off,
            caa: agent::Caa::Own,
            direct,
            retire: CancellationToken::new(),
            tunnels,
        };
        let stop = CancellationToken::new();
        let (sender, attached) = watch::channel(None);
        let task = tokio::spawn(agent::run(config, sender, stop.clone()));
        let mut agent = Agent {
            attached,
            stop,
            task,
        };
        agent.is_attached().await;
        agent
    }

    /// TLS with `host` as a browser has it; what the handshake says if it fails.
    pub(crate) async fn try_visit(&self, host: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.front).await?;
        self.try_visit_on(stream, host).await
    }

    /// The same on a connection that is there.
    pub(crate) async fn try_visit_on(
        &self,
        stream: TcpStream,
        host: &str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).unwrap();
        timeout(SOON, self.connector.connect(name, stream))
            .await
            .unwrap()
    }

    pub(crate) async fn visit(&self, host: &str) -> TlsStream<TcpStream> {
        self.try_visit(host).await.unwrap()
    }

    /// The value of a counter or gauge, by its name and labels as the text format writes them.
    pub(crate) fn metric(&self, line: &str) -> u64 {
        metric(&self.registry, line)
    }

    /// What a visitor sees may be there before its counter is; more than `value` must not be.
    pub(crate) async fn metric_is(&self, line: &str, value: u64) {
        self.until_metric(line, value).await;
        assert_eq!(self.metric(line), value, "{line}");
    }

    /// Waits until a counter has at least `value`.
    pub(crate) async fn until_metric(&self, line: &str, value: u64) {
        until(&self.registry, line, |counted| counted >= value).await;
    }
}

impl Predecessor {
    /// As [`World::metric`].
    pub(crate) fn metric(&self, line: &str) -> u64 {
        metric(&self.registry, line)
    }

    /// Waits until a counter has at least this value.
    pub(crate) async fn metric_reaches(&self, line: &str, value: u64) {
        until(&self.registry, line, |counted| counted >= value).await;
    }

    /// Waits until a metric has this value.
    pub(crate) async fn metric_becomes(&self, line: &str, value: u64) {
        until(&self.registry, line, |counted| counted == value).await;
    }
}

/// Waits until a metric is as it is to be. If it never is, what has been counted instead says why.
async fn until(registry: &Registry, line: &str, is_so: impl Fn(u64) -> bool) {
    let so = poll(|| is_so(metric(registry, line)));
    if timeout(SOON, so).await.is_err() {
        let all = text(registry);
        let counted = all
            .lines()
            .filter(|line| !line.starts_with('#') && !line.ends_with(" 0"));
        panic!(
            "{line} never came to that; what is not zero:\n{}",
            counted.collect::<Vec<_>>().join("\n")
        );
    }
}

fn text(registry: &Registry) -> String {
    TextEncoder::new()
        .encode_to_string(&registry.gather())
        .unwrap()
}

fn metric(registry: &Registry, line: &str) -> u64 {
    let text = text(registry);
    let value = text
        .lines()
        .find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
    value
        .unwrap_or_else(|| panic!("no {line} in\n{text}"))
        .parse()
        .unwrap()
}

pub(crate) struct Agent {
    pub(crate) attached: watch::Receiver<Option<Attached>>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), agent::RunError>>,
}

impl Agent {
    pub(crate) async fn is_attached(&mut self) -> Attached {
        let attached = timeout(SOON, self.attached.wait_for(Option::is_some)).await;
        attached
            .expect("the agent is not attached in time")
            .unwrap()
            .clone()
            .unwrap()
    }

    pub(crate) async fn is_detached(&mut self) {
        let detached = timeout(SOON, self.attached.wait_for(Option::is_none)).await;
        detached.expect("the agent is still attached").unwrap();
    }

    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        timeout(SOON, &mut self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Waits until a condition is true that has no event of its own.
pub(crate) async fn eventually(condition: impl Fn() -> bool) {
    let is_true = timeout(SOON, poll(condition)).await;
    is_true.expect("it never came true");
}

/// Only the pace depends on the pause, never the outcome.
async fn poll(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn config(transport: Transport, front: SocketAddr) -> Config {
    Config {
        front,
        http: Some((Ipv4Addr::LOCALHOST, 0).into()),
        udp: transport == Transport::Quic,
        raw: true,
        gso: Gso::Auto,
        public: Vec::new(),
        proxy_from: Vec::new(),
        ports: None,
        join: None,
        workers: None,
        leave: Duration::ZERO,
        drain: Duration::from_secs(5),
        // All visitors here have one address.
        limits: LimitsConfig {
            connections_per_second_per_address: Some(100_000),
            handshakes_per_second_per_address: Some(100_000),
            ..LimitsConfig::default()
        },
    }
}

fn config_with_ports(transport: Transport, ports: &str) -> Config {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let process = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(
        127,
        128 | process[2],
        process[3],
        NEXT.fetch_add(1, Relaxed),
    );
    Config {
        ports: Some(ports.parse().unwrap()),
        ..config(transport, (ip, 0).into())
    }
}

fn authority() -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Of the name that certificates have here otherwise, OpenSSL would take each for one that has signed itself.
    let name = &mut params.distinguished_name;
    name.push(DnType::CommonName, "the authority of this test");
    let certificate = params.self_signed(&key).unwrap();
    (Issuer::new(params, key), certificate.pem())
}
