//! How fast a visitor's bytes come from a device: origin, agent, raw connection, relay and visitor on loopback, all in
//! this process, TLS end to end between agent and visitor. The pump is measured with everything it stands between, since
//! that is what a visitor gets.

#![allow(
    clippy::unwrap_used,
    reason = "a bench that cannot go on says so by panicking"
)]

use std::net::{Ipv4Addr, SocketAddr};

use directory::{Device, DeviceName, Identity, OperatorName, Place, RegistrationId, Zone};
use divan::Bencher;
use divan::counter::BytesCount;
use prometheus::Registry;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair,
};
use relay::agent::{
    self, Attached, Certificate, Gso, Origin, OriginTrust, Pairing, State, VisitorAddress,
};
use relay::resolve::Resolver;
use relay::server::{Bound, Config, Handle, LimitsConfig, Parts, Secret, Transport};
use relay::tls::{CertificateSlot, Roots, connect_https};
use relay::workers::{WorkerThreads, Workers};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How much comes at a time: long enough that its beginning does not count.
const PORTION: usize = 128 * 1024 * 1024;

const ZONE: &str = "nas.localhost";
const DEVICE: &str = "mynas";

fn main() {
    divan::main();
}

#[divan::bench(sample_count = 15, sample_size = 1)]
fn device_to_visitor(bencher: Bencher<'_, '_>) {
    let runtime = Runtime::new().unwrap();
    let world = runtime.block_on(World::start());
    let mut visitor = runtime.block_on(world.visit());
    runtime.block_on(fetch(&mut visitor)); // the windows are open from now on
    bencher
        .counter(BytesCount::new(PORTION))
        .bench_local(|| runtime.block_on(fetch(&mut visitor)));
}

/// Asks for one portion and reads it to its end.
async fn fetch(visitor: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    visitor.write_all(b"more").await.unwrap();
    let mut buffer = vec![0; 64 * 1024];
    let mut left = PORTION;
    while left > 0 {
        let wanted = buffer.len().min(left);
        let length = visitor.read(&mut buffer[..wanted]).await.unwrap();
        assert_ne!(length, 0, "the origin has stopped");
        left -= length;
    }
}

/// Answers every four octets of a connection with one portion.
async fn serve(mut client: TcpStream) -> std::io::Result<()> {
    let zeros = vec![0; 256 * 1024];
    let mut request = [0; 4];
    loop {
        client.read_exact(&mut request).await?;
        for _ in 0..PORTION / zeros.len() {
            client.write_all(&zeros).await?;
        }
    }
}

/// A relay, a device attached to it, and the device's service.
struct World {
    front: SocketAddr,
    roots: Roots,
    stop: CancellationToken,
    _relay: Handle,
    _threads: WorkerThreads,
    _folder: TempDir,
}

impl World {
    async fn start() -> Self {
        let (mut writer, directory) = directory::directory(Zone::parse(ZONE).unwrap());
        let (issuer, trust_root) = authority();
        let slot = |name| {
            let host = directory.zone().operator_name(name);
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![host]).unwrap();
            let chain = params.signed_by(&key, &issuer).unwrap();
            CertificateSlot::from_pem(&chain.pem(), &key.serialize_pem()).unwrap()
        };
        let threads = WorkerThreads::per_core().unwrap();
        let parts = Parts {
            directory: directory.clone(),
            host: Place::Operator(OperatorName::Relay),
            relay_certificate: slot(OperatorName::Relay),
            cloud: None, // nobody serves the operator's pages
            workers: threads.workers(),
            secret: Secret::new([7; Secret::LENGTH].into()),
            records: None,
            bound: Bound::default(),
        };
        let config = Config {
            front: (Ipv4Addr::LOCALHOST, 0).into(),
            http: None,
            udp: true,
            raw: true,
            gso: Gso::Auto,
            public: Vec::new(),
            proxy_from: Vec::new(),
            ports: None,
            join: None,
            workers: None,
            leave: std::time::Duration::ZERO,
            drain: std::time::Duration::ZERO,
            limits: LimitsConfig::default(),
        };
        let relay = relay::server::start(config, parts, &Registry::new()).unwrap();

        let folder = tempfile::tempdir().unwrap();
        let state = paired(&folder, relay.front(), &issuer, &trust_root);
        writer.put(Device {
            registration: RegistrationId(1),
            name: DeviceName::parse(DEVICE).unwrap(),
            identity: Some(Identity::first(state.identity().unwrap().public_key())),
            ddns_key: None,
            challenge_key: None,
        });
        let stop = CancellationToken::new();
        let attached = attach(state, relay.front(), threads.workers(), stop.clone()).await;
        assert_eq!(attached.transport, Transport::Quic);
        Self {
            front: relay.front(),
            roots: Roots::from_pem(&trust_root).unwrap(),
            stop,
            _relay: relay,
            _threads: threads,
            _folder: folder,
        }
    }

    async fn visit(&self) -> impl AsyncRead + AsyncWrite + Unpin + use<> {
        let stream = TcpStream::connect(self.front).await.unwrap();
        let host = format!("{DEVICE}.{ZONE}");
        connect_https(stream, &host, &self.roots).await.unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Everything an agent needs on its disk.
fn paired(
    folder: &TempDir,
    front: SocketAddr,
    issuer: &Issuer<'_, KeyPair>,
    trust_root: &str,
) -> State {
    let state = State::open(folder.path()).unwrap();
    let port = front.port();
    let pairing = Pairing {
        device_id: String::new(),
        name: DEVICE.to_owned(),
        zone: ZONE.to_owned(),
        cloud: format!("https://cloud.{ZONE}:{port}"),
        relays: vec![format!("relay.{ZONE}:{port}")],
        trust_root: trust_root.to_owned(),
    };
    state.keep_pairing(&pairing).unwrap();
    let names = vec![format!("{DEVICE}.{ZONE}")];
    let key = state.tls_key().unwrap();
    let request = key.signing_request(names.clone()).unwrap();
    let request = CertificateSigningRequestParams::from_pem(&request).unwrap();
    let params = CertificateParams::new(names).unwrap();
    let chain = params.signed_by(&request.public_key, issuer).unwrap();
    let certificate = Certificate {
        chain: chain.pem(),
        renew_at: u64::MAX,
        not_after: u64::MAX,
    };
    state.keep_certificate(&certificate).unwrap();
    state
}

/// Starts the device's service and its agent, and waits until the agent is attached.
async fn attach(
    state: State,
    front: SocketAddr,
    workers: Workers,
    stop: CancellationToken,
) -> Attached {
    let origin = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = format!("tcp://{}", origin.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((client, _)) = origin.accept().await {
            tokio::spawn(serve(client));
        }
    });
    let origin = Origin::new(
        address.parse().unwrap(),
        VisitorAddress::Hidden,
        &OriginTrust::Roots(Roots::none()),
    );
    let config = agent::Config {
        state,
        services: origin.unwrap().into(),
        resolver: Resolver::Fixed(front),
        workers,
        gso: Gso::Auto,
        dns: agent::Dns::Off,
        lan: relay::agent::Lan::Off,
        caa: relay::agent::Caa::Own,
        direct: None,
        retire: Default::default(),
        tunnels: agent::Tunnels::default(),
    };
    let (sender, mut attached) = watch::channel(None);
    tokio::spawn(agent::run(config, sender, stop));
    let attached = attached.wait_for(Option::is_some).await.unwrap();
    attached.clone().unwrap()
}

fn authority() -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    (Issuer::new(params, key), certificate.pem())
}
