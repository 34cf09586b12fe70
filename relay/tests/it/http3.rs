//! Visitors over QUIC: by name to a service of the device that speaks it, with a certificate of its own.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use directory::DeviceLimits;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, Endpoint};
use relay::agent::{self, Origin, OriginTrust, State, Status, VisitorAddress};
use relay::records::SecretKey;
use relay::resolve::Resolver;
use relay::server::Transport;
use relay::tls::Roots;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use wire::frame::Frame;
use wire::{ALPN_TUNNEL, Features, Hello, InstanceId};

use crate::nat::Nat;
use crate::records;
use crate::world::{Agent, SOON, World, eventually};
use crate::{by_hand, byte_path};

const LOOPBACK: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// What visitors of `name` are taken for who came over QUIC and were sent away.
fn refused(reason: &str) -> String {
    format!("causeway_relay_visitors_refused_total{{reason=\"{reason}\"}}")
}

const FLOWS: &str = "causeway_relay_carriers_opened_total{kind=\"flow\"}";
const CUT: &str = "causeway_relay_visitors_ended_total{end=\"cut\"}";
const MOVED: &str = "causeway_relay_flows_moved_total";

/// A service that says its own name first on each stream, and then what it hears.
struct Service {
    address: SocketAddr,
    _serves: AbortOnDropHandle<()>,
}

impl Service {
    fn of(world: &World, host: &str) -> Self {
        let mut tls = world.service(host);
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let crypto = QuicServerConfig::try_from(tls).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let endpoint = Endpoint::server(config, LOOPBACK.into()).unwrap();
        let address = endpoint.local_addr().unwrap();
        let name = host.to_owned();
        let serves = async move {
            while let Some(incoming) = endpoint.accept().await {
                tokio::spawn(serve(incoming, name.clone()));
            }
        };
        Self {
            address,
            _serves: AbortOnDropHandle::new(tokio::spawn(serves)),
        }
    }
}

async fn serve(incoming: quinn::Incoming, name: String) {
    let Ok(connection) = incoming.await else {
        return;
    };
    while let Ok((mut send, mut recv)) = connection.accept_bi().await {
        let name = name.clone();
        tokio::spawn(async move {
            send.write_all(name.as_bytes()).await?;
            tokio::io::copy(&mut recv, &mut send).await?;
            send.shutdown().await
        });
    }
}

/// The device of `name`, its agent attached and its service reached by QUIC too.
async fn device(world: &World, name: &str) -> (Agent, Service) {
    device_of(world, name, world.device(name)).await
}

async fn device_of(world: &World, name: &str, state: State) -> (Agent, Service) {
    let service = Service::of(world, &format!("{name}.nas.localhost"));
    let origin = origin().with_http3(Some(service.address.to_string().parse().unwrap()));
    let agent = world
        .agent_for(state, Resolver::Fixed(world.front), origin)
        .await;
    (agent, service)
}

/// Nobody is there over TCP.
fn origin() -> Origin {
    let roots = OriginTrust::Roots(Roots::none());
    Origin::new(
        "tcp://127.0.0.1:9".parse().unwrap(),
        VisitorAddress::Hidden,
        &roots,
    )
    .unwrap()
}

/// All connections of one client, on one port.
fn client(world: &World) -> Endpoint {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(world.trust_root.as_bytes()).unwrap())
        .unwrap();
    let mut tls = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let crypto = QuicClientConfig::try_from(tls).unwrap();
    let mut endpoint = Endpoint::client(LOOPBACK.into()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    endpoint
}

/// A connection to `name`. A tunnel that has just been made finds out first how much its path carries; until then nobody gets in.
async fn visit(client: &Endpoint, front: SocketAddr, name: &str) -> Connection {
    let host = format!("{name}.nas.localhost");
    let connecting = client.connect(front, &host).unwrap();
    timeout(SOON, connecting).await.expect("in time").unwrap()
}

/// What the service says on a stream of its own to `payload`.
async fn say(connection: &Connection, payload: &[u8]) -> Vec<u8> {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let saying = async {
        send.write_all(payload).await.unwrap();
        send.finish().unwrap();
    };
    let heard = recv.read_to_end(usize::MAX);
    let both = async { tokio::join!(saying, heard) };
    timeout(SOON, both).await.expect("in time").1.unwrap()
}

fn payload(length: u32) -> Vec<u8> {
    (0..length)
        .map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8)
        .collect()
}

async fn status(world: &World, name: &str) -> Status {
    let state = State::open(world.state_of(name)).unwrap();
    agent::ask(&state).await.unwrap()
}

#[tokio::test]
async fn a_visitor_reaches_the_service_by_name_and_what_is_said_is_whole_both_ways() {
    let world = World::start(Transport::Quic);
    let (agent, service) = device(&world, "mynas").await;
    let client = client(&world);
    let connection = visit(&client, world.front, "mynas").await;
    let payload = payload(4 << 20);
    let heard = say(&connection, &payload).await;
    let (name, echo) = heard.split_at("mynas.nas.localhost".len());
    assert_eq!(name, b"mynas.nas.localhost");
    assert!(echo == payload, "{} of {}", echo.len(), payload.len());
    for direction in ["to_device", "to_visitor"] {
        let passed = format!("causeway_relay_bytes_total{{direction=\"{direction}\"}}");
        world.until_metric(&passed, payload.len() as u64).await;
    }
    let told = status(&world, "mynas").await;
    assert_eq!(told.services[0].http3, Some(service.address.to_string()));
    let flows = told.flows;
    assert_eq!((flows.visitors, flows.taken), (1, 1));
    // With its agent the visitor goes.
    agent.stop().await;
    world
        .until_metric(
            "causeway_relay_visitors_ended_total{end=\"device_gone\"}",
            1,
        )
        .await;
    assert_eq!(world.metric(MOVED), 0);
}

#[tokio::test]
async fn a_transfer_survives_that_the_visitor_gets_another_port_in_the_middle() {
    let world = World::start(Transport::Quic);
    let (_agent, _service) = device(&world, "mynas").await;
    let nat = Nat::before(world.front).await;
    let client = client(&world);
    let connection = visit(&client, nat.inside, "mynas").await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let mut name = [0; 19];
    send.write_all(b"!").await.unwrap();
    recv.read_exact(&mut name).await.unwrap();
    recv.read_exact(&mut [0]).await.unwrap();
    // More than lies between the two, so that each change is in the middle of it.
    let piece = payload(3_000_000);
    let mut heard = vec![0; piece.len()];
    for round in 1..=4 {
        let saying = send.write_all(&piece);
        let (half, rest) = heard.split_at_mut(piece.len() / 2);
        let hearing = async {
            recv.read_exact(half).await.unwrap();
            nat.forget.send(()).await.unwrap();
            recv.read_exact(rest).await.unwrap();
        };
        let both = async { tokio::join!(saying, hearing) };
        timeout(SOON, both).await.expect("in time").0.unwrap();
        assert!(heard == piece, "round {round}");
        world.until_metric(MOVED, round).await;
    }
    assert_eq!(world.metric(FLOWS), 1, "it is the same visitor");
}

/// A NAT with two ports outside and one client behind each, which are the other's when it is told so.
struct Exchange {
    inside: [SocketAddr; 2],
    is_exchanged: Arc<AtomicBool>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Exchange {
    async fn before(relay: SocketAddr) -> Self {
        let bind = || tokio::net::UdpSocket::bind(LOOPBACK);
        let inside = [bind().await.unwrap(), bind().await.unwrap()].map(Arc::new);
        let outside = [bind().await.unwrap(), bind().await.unwrap()].map(Arc::new);
        for socket in &outside {
            socket.connect(relay).await.unwrap();
        }
        let clients: [Arc<OnceLock<SocketAddr>>; 2] = Default::default();
        let is_exchanged = Arc::<AtomicBool>::default();
        let mut tasks = Vec::new();
        for number in [0, 1] {
            let (inside, outside) = (inside.clone(), outside.clone());
            let (clients, exchanged) = (clients.clone(), Arc::clone(&is_exchanged));
            let other = move || number ^ usize::from(exchanged.load(Relaxed));
            let pass = async move {
                let (mut out, mut back) = ([0; 2000], [0; 2000]);
                loop {
                    tokio::select! {
                        received = inside[number].recv_from(&mut out) => {
                            let (length, client) = received.unwrap();
                            clients[number].get_or_init(|| client);
                            outside[other()].send(&out[..length]).await.unwrap();
                        }
                        received = outside[number].recv(&mut back) => {
                            let length = received.unwrap();
                            let client = clients[other()].get().unwrap();
                            inside[other()].send_to(&back[..length], client).await.unwrap();
                        }
                    }
                }
            };
            tasks.push(AbortOnDropHandle::new(tokio::spawn(pass)));
        }
        Self {
            inside: inside.map(|socket| socket.local_addr().unwrap()),
            is_exchanged,
            _tasks: tasks,
        }
    }
}

#[tokio::test]
async fn who_gets_the_port_that_another_had_stays_with_its_own_device() {
    let world = World::start(Transport::Quic);
    let (_one, _two) = (device(&world, "one").await, device(&world, "two").await);
    let nat = Exchange::before(world.front).await;
    let clients = [client(&world), client(&world)];
    let one = visit(&clients[0], nat.inside[0], "one").await;
    let two = visit(&clients[1], nat.inside[1], "two").await;
    for is_exchanged in [false, true, false] {
        nat.is_exchanged.store(is_exchanged, Relaxed);
        let payload = payload(100_000);
        let (of_one, of_two) = tokio::join!(say(&one, &payload), say(&two, &payload));
        assert!(of_one == [b"one.nas.localhost", &payload[..]].concat());
        assert!(of_two == [b"two.nas.localhost", &payload[..]].concat());
    }
    assert!(world.metric(MOVED) >= 4);
    world.metric_is(FLOWS, 2).await;
}

#[tokio::test]
async fn nobody_takes_a_visitors_place_without_an_id_that_it_has_heard() {
    let world = World::start(Transport::Quic);
    let (_agent, _service) = device(&world, "mynas").await;
    let client = client(&world);
    let connection = visit(&client, world.front, "mynas").await;
    say(&connection, b"?").await;
    let stray = "causeway_relay_datagrams_dropped_total{reason=\"stray\"}";
    let before = world.metric(stray);
    let thief = UdpSocket::bind(LOOPBACK).unwrap();
    for guess in 0..=255_u8 {
        let mut packet = vec![0x40 | guess & 0x3f];
        packet.extend([guess; 60]);
        thief.send_to(&packet, world.front).unwrap();
    }
    world.until_metric(stray, before + 256).await;
    assert!(say(&connection, b"!").await.ends_with(b"!"));
    assert_eq!(world.metric(MOVED), 0);
    has_heard_nothing(&thief);
}

/// Lets everything pass between one client and the relay.
pub(crate) struct Tap {
    pub(crate) inside: SocketAddr,
    outside: Arc<tokio::net::UdpSocket>,
    /// The last packet of the client that had a short header.
    pub(crate) seen: Arc<Mutex<Vec<u8>>>,
    /// What the client sends comes to the relay from 127.6.6.6, where nobody hears the answer.
    pub(crate) is_diverted: Arc<AtomicBool>,
    _passes: AbortOnDropHandle<()>,
}

impl Tap {
    pub(crate) async fn before(relay: SocketAddr) -> Self {
        let bind = async |ip| tokio::net::UdpSocket::bind((ip, 0)).await.unwrap();
        let inside = bind(Ipv4Addr::LOCALHOST).await;
        let outside = Arc::new(bind(Ipv4Addr::LOCALHOST).await);
        let elsewhere = bind(Ipv4Addr::new(127, 6, 6, 6)).await;
        outside.connect(relay).await.unwrap();
        elsewhere.connect(relay).await.unwrap();
        let (address, out) = (inside.local_addr().unwrap(), Arc::clone(&outside));
        let seen = Arc::<Mutex<Vec<u8>>>::default();
        let is_diverted = Arc::<AtomicBool>::default();
        let (sees, diverts) = (Arc::clone(&seen), Arc::clone(&is_diverted));
        let passes = async move {
            let (mut packet, mut answer, mut client) = ([0; 2000], [0; 2000], None);
            loop {
                tokio::select! {
                    received = inside.recv_from(&mut packet) => {
                        let (length, from) = received.unwrap();
                        client = Some(from);
                        if packet[0] & 0x80 == 0 {
                            *sees.lock().unwrap() = packet[..length].to_vec();
                        }
                        let by = if diverts.load(Relaxed) { &elsewhere } else { &*out };
                        by.send(&packet[..length]).await.unwrap();
                    }
                    received = out.recv(&mut answer) => {
                        let length = received.unwrap();
                        inside.send_to(&answer[..length], client.unwrap()).await.unwrap();
                    }
                }
            }
        };
        Self {
            inside: address,
            outside,
            seen,
            is_diverted,
            _passes: AbortOnDropHandle::new(tokio::spawn(passes)),
        }
    }
}

#[tokio::test]
async fn who_has_seen_a_visitors_packets_cannot_have_the_answers_sent_elsewhere() {
    let world = World::start(Transport::Quic);
    let (_agent, _service) = device(&world, "mynas").await;
    let tap = Tap::before(world.front).await;
    let client = client(&world);
    let connection = visit(&client, tap.inside, "mynas").await;
    assert!(say(&connection, b"?").await.ends_with(b"?"));
    let thief = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), 0)).unwrap();
    let packet = tap.seen.lock().unwrap().clone();
    thief.send_to(&packet, world.front).unwrap();
    let elsewhere = "causeway_relay_flow_datagrams_lost_total{reason=\"elsewhere\"}";
    world.until_metric(elsewhere, 1).await;
    assert!(say(&connection, &payload(100_000)).await.len() > 100_000);
    assert_eq!(world.metric(MOVED), 0);
    has_heard_nothing(&thief);
}

#[tokio::test]
async fn who_has_an_id_that_was_not_in_the_clear_is_who_has_shown_that_it_hears() {
    let world = World::start(Transport::Quic);
    let (_one, _two) = (device(&world, "one").await, device(&world, "two").await);
    let tap = Tap::before(world.front).await;
    let client = client(&world);
    visit(&client, world.front, "two").await;
    let connection = visit(&client, tap.inside, "one").await;
    assert!(say(&connection, b"?").await.ends_with(b"?"));
    // Somebody forges its address.
    for datagram in hello("two.nas.localhost") {
        tap.outside.send(&datagram).await.unwrap();
    }
    world.until_metric(FLOWS, 3).await;
    // It takes another of the ids that it has been given in private, behind the same port.
    client.rebind(UdpSocket::bind(LOOPBACK).unwrap()).unwrap();
    assert!(say(&connection, b"!").await.ends_with(b"!"));
    // Not only since the other has been forgotten.
    let idle = "causeway_relay_visitors_ended_total{end=\"idle\"}";
    assert_eq!(world.metric(idle), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_not_shown_that_it_hears_hears_three_times_as_much_as_it_has_said() {
    const ANSWERS: usize = 20;
    const EACH: usize = 1000;
    let world = World::start(Transport::Quic);
    let service = UdpSocket::bind(LOOPBACK).unwrap();
    service
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let address = service.local_addr().unwrap().to_string();
    let origin = origin().with_http3(Some(address.parse().unwrap()));
    let agent = world.agent_for(world.device("mynas"), Resolver::Fixed(world.front), origin);
    let _agent = agent.await;
    // Until the tunnel has found out how much its path carries, nobody comes to the service.
    let hello = hello("mynas.nas.localhost");
    let (begun, mut sockets) = (Instant::now(), Vec::new());
    let visitor = loop {
        assert!(begun.elapsed() < SOON, "nobody comes");
        sockets.push(send_hello(&world, &hello));
        let heard = tokio::task::block_in_place(|| service.recv_from(&mut [0; 2000]));
        if let Ok((_, visitor)) = heard {
            break visitor;
        }
    };
    for _ in 0..ANSWERS {
        service.send_to(&[0x80; EACH], visitor).unwrap();
    }
    let most = 3 * hello.iter().map(Vec::len).sum::<usize>() / EACH;
    let unproved = "causeway_relay_flow_datagrams_lost_total{reason=\"unproved\"}";
    let lost = u64::try_from(ANSWERS - most).unwrap();
    world.until_metric(unproved, lost).await;
    let mut heard = 0;
    for socket in &sockets {
        socket.set_nonblocking(true).unwrap();
        while socket.recv(&mut [0; 2000]).is_ok() {
            heard += 1;
        }
    }
    assert_eq!(heard, most);
    assert_eq!(world.metric(unproved), lost);
}

#[tokio::test]
async fn who_never_shows_that_it_hears_gives_way_and_is_soon_forgotten() {
    /// Of one device there may be 64 of these.
    const MANY: u64 = 64 + 36;
    let world = World::start(Transport::Quic);
    let (_agent, _service) = device(&world, "mynas").await;
    let client = client(&world);
    let connection = visit(&client, world.front, "mynas").await;
    let sockets = forged(&world, MANY).await;
    let ended = |end| format!("causeway_relay_visitors_ended_total{{end=\"{end}\"}}");
    let gave_way = || world.metric(&ended("visitor_gone")) + world.metric(&refused("gave_way"));
    eventually(|| gave_way() >= 36).await;
    // Who has shown it long ago stays.
    assert!(say(&connection, b"?").await.ends_with(b"?"));
    let gone = || {
        let ends = ["idle", "device_gone"].map(|end| world.metric(&ended(end)));
        gave_way() + ends.iter().sum::<u64>()
    };
    eventually(|| gone() == MANY).await;
    assert_eq!(gave_way(), 36);
    assert!(say(&connection, b"!").await.ends_with(b"!"));
    drop(sockets);
}

#[tokio::test]
async fn only_who_has_shown_that_it_hears_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let [masked, full] = [(); 2].map(|()| SecretKey::generate().unwrap());
    let setup = records::setup(folder.path(), &masked, &full);
    let mut world = World::recording(Transport::Quic, setup);
    let (agent, _service) = device(&world, "mynas").await;
    let client = client(&world);
    let connection = visit(&client, world.front, "mynas").await;
    assert!(say(&connection, b"?").await.ends_with(b"?"));
    let _forged = forged(&world, 3).await;
    world.until_metric(FLOWS, 4).await;
    agent.stop().await;
    let gone = "causeway_relay_visitors_ended_total{end=\"device_gone\"}";
    world.until_metric(gone, 4).await;
    let relay = world.relay.take().unwrap();
    timeout(SOON, relay.shutdown()).await.unwrap();
    let records = records::records(folder.path(), &full);
    let address = client.local_addr().unwrap().to_string();
    let visitors: Vec<_> = records
        .iter()
        .map(|record| record.visitor.to_string())
        .collect();
    assert_eq!(visitors, [address]);
}

fn visitors(most: u32) -> DeviceLimits {
    DeviceLimits {
        bytes_per_second: None,
        visitors: NonZeroU32::new(most),
    }
}

/// So many hellos for `mynas`, of visitors who will say nothing more. Each is taken before the next one comes, since nobody would say
/// one again that finds no room in the relay's socket.
async fn forged(world: &World, count: u64) -> Vec<UdpSocket> {
    const TAKEN: &str = "causeway_relay_visitors_accepted_total";
    let hello = hello("mynas.nas.localhost");
    let mut sockets = Vec::new();
    for _ in 0..count {
        let taken = world.metric(TAKEN) + 1;
        sockets.push(send_hello(world, &hello));
        world.until_metric(TAKEN, taken).await;
    }
    sockets
}

#[tokio::test]
async fn who_may_be_forged_takes_no_place_of_those_who_are_not() {
    let world = World::start(Transport::Quic);
    let service = Service::of(&world, "mynas.nas.localhost");
    let (listener, address) = byte_path::origin("tls").await;
    let tls = world.service("mynas.nas.localhost");
    let accept = async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(acceptor.accept(stream).await);
        }
    };
    let _accepts = AbortOnDropHandle::new(tokio::spawn(accept));
    let roots = OriginTrust::Roots(Roots::none());
    let origin = Origin::new(address.parse().unwrap(), VisitorAddress::Hidden, &roots).unwrap();
    let origin = origin.with_http3(Some(service.address.to_string().parse().unwrap()));
    let state = world.device("mynas");
    world.limit("mynas", visitors(16));
    let agent = world.agent_for(state, Resolver::Fixed(world.front), origin);
    let _agent = agent.await;
    let client = client(&world);
    // The tunnel has found out how much its path carries.
    drop(visit(&client, world.front, "mynas").await);
    // As many as would take all of them, and more.
    let forged = forged(&world, 40).await;
    let gave_way = || {
        world.metric("causeway_relay_visitors_ended_total{end=\"visitor_gone\"}")
            + world.metric(&refused("gave_way"))
    };
    eventually(|| gave_way() >= 38).await;
    let mut over_tcp = Vec::new();
    for _ in 0..6 {
        over_tcp.push(world.visit("mynas.nas.localhost").await);
    }
    // And over QUIC, as long as there is a place.
    let connection = visit(&client, world.front, "mynas").await;
    assert!(say(&connection, b"?").await.ends_with(b"?"));
    assert_eq!(world.metric(&refused("device_full")), 0);
    drop((forged, over_tcp));
}

#[tokio::test]
async fn who_shows_that_it_hears_where_there_is_no_place_has_to_leave() {
    let world = World::start(Transport::Quic);
    let state = world.device("mynas");
    world.limit("mynas", visitors(1));
    let (_agent, _service) = device_of(&world, "mynas", state).await;
    let client = client(&world);
    let first = visit(&client, world.front, "mynas").await;
    assert!(say(&first, b"?").await.ends_with(b"?"));
    let connecting = client.connect(world.front, "mynas.nas.localhost").unwrap();
    let connecting = tokio::spawn(connecting);
    world.until_metric(&refused("device_full"), 1).await;
    connecting.abort();
    assert!(say(&first, b"!").await.ends_with(b"!"));
    world.metric_is(FLOWS, 2).await;
}

#[tokio::test]
async fn who_waits_for_a_stream_that_its_agent_does_not_grant_gives_way_at_once() {
    let world = World::start(Transport::Quic);
    let flows = Features::TLS_CARRIER.and(Features::DATAGRAMS);
    let streams = quinn::VarInt::from_u32(0);
    let (_tunnel, _send, _recv) = tunnel_with(&world, "mynas", flows, streams).await;
    let _forged = forged(&world, 100).await;
    // Sooner than the relay gives up to wait for a stream: that many would be refused for that.
    world.until_metric(&refused("gave_way"), 36).await;
    assert_eq!(world.metric(&refused("no_carrier")), 0);
}

#[tokio::test]
async fn one_port_may_have_connections_to_several_devices() {
    let world = World::start(Transport::Quic);
    let names = ["one", "two", "three"];
    let mut devices = Vec::new();
    for name in names {
        devices.push(device(&world, name).await);
    }
    let client = client(&world);
    let mut connections = Vec::new();
    for name in names {
        connections.push(visit(&client, world.front, name).await);
    }
    for payload in [&payload(300_000), &payload(10)] {
        let (one, two, three) = tokio::join!(
            say(&connections[0], payload),
            say(&connections[1], payload),
            say(&connections[2], payload)
        );
        for (name, heard) in names.iter().zip([one, two, three]) {
            let expected = [format!("{name}.nas.localhost").as_bytes(), payload].concat();
            assert!(heard == expected, "{name}");
        }
    }
    world.metric_is(FLOWS, 3).await;
}

#[tokio::test]
async fn a_device_that_is_removed_is_cut_off_from_its_visitors() {
    let world = World::start(Transport::Quic);
    let (_agent, _service) = device(&world, "mynas").await;
    let client = client(&world);
    let connection = visit(&client, world.front, "mynas").await;
    say(&connection, b"?").await;
    world.remove("mynas");
    world.until_metric(CUT, 1).await;
    let stray = "causeway_relay_datagrams_dropped_total{reason=\"stray\"}";
    let before = world.metric(stray);
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(b"?").await.unwrap();
    world.until_metric(stray, before + 1).await;
    // Who comes now is nobody's.
    let connecting = client.connect(world.front, "mynas.nas.localhost").unwrap();
    world.until_metric(&refused("unknown_name"), 1).await;
    drop(connecting);
}

/// The datagrams with which a client begins who wants `name`: a post-quantum hello takes two.
fn hello(name: &str) -> Vec<Vec<u8>> {
    let tls = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let crypto = quinn_proto::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let config = quinn_proto::ClientConfig::new(Arc::new(crypto));
    let mut endpoint = quinn_proto::Endpoint::new(Arc::default(), None, true, None);
    let (now, nowhere) = (Instant::now(), LOOPBACK.into());
    let nowhere = SocketAddr::new(SocketAddr::ip(&nowhere), 443);
    let (_, mut connection) = endpoint.connect(now, config, nowhere, name).unwrap();
    let (mut datagrams, mut octets) = (Vec::new(), Vec::new());
    while connection.poll_transmit(now, 1, &mut octets).is_some() {
        datagrams.push(std::mem::take(&mut octets));
    }
    datagrams
}

/// Sends a hello from a port of its own.
fn send_hello(world: &World, datagrams: &[Vec<u8>]) -> UdpSocket {
    let socket = UdpSocket::bind(LOOPBACK).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    for datagram in datagrams {
        socket.send_to(datagram, world.front).unwrap();
    }
    socket
}

pub(crate) fn has_heard_nothing(socket: &UdpSocket) {
    socket.set_nonblocking(true).unwrap();
    let heard = socket.recv(&mut [0; 2000]);
    assert_eq!(heard.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn whoever_asks_for_nobody_hears_nothing_and_the_relays_own_name_is_answered() {
    let world = World::start(Transport::Quic);
    world.device("away");
    let mut silent = Vec::new();
    for (name, reason) in [
        ("nobody.nas.localhost", "unknown_name"),
        ("away.nas.localhost", "not_attached"),
        ("cloud.nas.localhost", "unknown_name"),
        ("example.com", "unknown_name"),
        ("a.b.c.d.e.nas.localhost", "unknown_name"),
    ] {
        let before = world.metric(&refused(reason));
        silent.push(send_hello(&world, &hello(name)));
        world.metric_is(&refused(reason), before + 1).await;
    }
    let answered = send_hello(&world, &hello("relay.nas.localhost"));
    let mut answer = [0; 2000];
    answered.recv(&mut answer).unwrap();
    assert_eq!((answer[0] & 0xc0, &answer[1..5]), (0xc0, &[0, 0, 0, 1][..]));
    let mut other_version = hello("nobody.nas.localhost").remove(0);
    other_version[1..5].copy_from_slice(&[0x1a, 0x2a, 0x3a, 0x4a]);
    let answered = send_hello(&world, &[other_version]);
    let mut versions = [0; 2000];
    let length = answered.recv(&mut versions).unwrap();
    assert_eq!(versions[1..5], [0; 4], "which versions there are");
    assert!(length < 1200);
    silent.iter().for_each(has_heard_nothing);
}

#[tokio::test]
async fn a_flood_of_first_packets_costs_bounded_memory_and_gets_no_octet_back() {
    let world = World::start(Transport::Quic);
    let (_agent, _service) = device(&world, "mynas").await;
    // The tunnel has found out how much its path carries: in a flood it could not.
    let client = client(&world);
    visit(&client, world.front, "mynas").await;
    let gave_way = "causeway_relay_datagrams_dropped_total{reason=\"hello_gave_way\"}";
    // Halves of hellos, each of another visitor. A worker keeps as many as it may.
    let half = &hello("mynas.nas.localhost")[..1];
    let begun = Instant::now();
    let mut halves = Vec::new();
    while world.metric(gave_way) < 50 {
        assert!(begun.elapsed() < SOON, "nobody gives way");
        halves.extend((0..100).map(|_| send_hello(&world, half)));
    }
    // Whole ones of nobody, more than are looked at in so short a time.
    let flood = UdpSocket::bind(LOOPBACK).unwrap();
    let whole = hello("nobody.nas.localhost");
    for datagram in (0..2000).flat_map(|_| &whole) {
        flood.send_to(datagram, world.front).unwrap();
    }
    world.until_metric(&refused("unknown_name"), 1).await;
    has_heard_nothing(&flood);
    halves.iter().for_each(has_heard_nothing);
    assert_eq!(world.metric(FLOWS), 1);
    // Who wants in comes in all the same.
    let connection = visit(&client, world.front, "mynas").await;
    assert!(say(&connection, b"?").await.ends_with(b"?"));
}

#[tokio::test]
async fn who_has_a_tunnel_over_tls_takes_no_visitors_over_quic() {
    let world = World::start(Transport::Quic);
    world.device("mynas");
    let mut tunnel = by_hand::connect(&world, "mynas", ALPN_TUNNEL).await;
    let frame = Frame::Hello(agent_hello(u64::MAX)).encode().unwrap();
    tunnel.write_all(&frame).await.unwrap();
    assert!(matches!(
        by_hand::hear(&mut tunnel).await,
        Frame::Welcome { .. }
    ));
    let visitor = send_hello(&world, &hello("mynas.nas.localhost"));
    world.until_metric(&refused("no_flows"), 1).await;
    has_heard_nothing(&visitor);
}

fn agent_hello(features: u64) -> Hello {
    Hello {
        version: 1,
        features: Features(features),
        instance: InstanceId([7; 16]),
        software: "by hand".into(),
    }
}

/// A tunnel over QUIC of an agent that does what a test makes it do, with its control stream.
async fn tunnel_by_hand(
    world: &World,
    name: &str,
    features: Features,
) -> (Connection, quinn::SendStream, quinn::RecvStream) {
    tunnel_with(world, name, features, quinn::VarInt::from_u32(100)).await
}

/// The same of an agent that lets the relay open so many streams.
async fn tunnel_with(
    world: &World,
    name: &str,
    features: Features,
    streams: quinn::VarInt,
) -> (Connection, quinn::SendStream, quinn::RecvStream) {
    world.device(name);
    let key = std::fs::read_to_string(world.state_of(name).join("identity.pem")).unwrap();
    let pair = rcgen::KeyPair::from_pem(&key).unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&pair);
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(world.trust_root.as_bytes()).unwrap())
        .unwrap();
    let mut tls = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![certificate.unwrap().der().clone()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    tls.alpn_protocols = vec![ALPN_TUNNEL.to_vec()];
    let crypto = QuicClientConfig::try_from(tls).unwrap();
    let endpoint = Endpoint::client(LOOPBACK.into()).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    let mut transport = quinn::TransportConfig::default();
    transport.max_concurrent_bidi_streams(streams);
    config.transport_config(Arc::new(transport));
    let connecting = endpoint.connect_with(config, world.front, "relay.nas.localhost");
    let connection = timeout(SOON, connecting.unwrap()).await.unwrap().unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let frame = Frame::Hello(agent_hello(features.0)).encode().unwrap();
    send.write_all(&frame).await.unwrap();
    let mut welcome = [0; 4];
    let welcomed = timeout(SOON, recv.read_exact(&mut welcome)).await;
    welcomed.unwrap().unwrap();
    assert_eq!(welcome[2], 0x12, "a Welcome");
    (connection, send, recv)
}

#[tokio::test]
async fn an_older_agent_is_asked_for_no_flows_and_goes_on() {
    let world = World::start(Transport::Quic);
    let older = Features::TLS_CARRIER.and(Features::RAW_CARRIER);
    let (tunnel, mut send, mut recv) = tunnel_by_hand(&world, "mynas", older).await;
    let visitor = send_hello(&world, &hello("mynas.nas.localhost"));
    world.until_metric(&refused("no_flows"), 1).await;
    has_heard_nothing(&visitor);
    let ping = Frame::Ping { sequence: 4 }.encode().unwrap();
    send.write_all(&ping).await.unwrap();
    let pong = Frame::Pong { sequence: 4 }.encode().unwrap();
    let mut heard = Vec::new();
    let answered = async {
        while !heard.ends_with(&pong) {
            let mut octet = [0];
            recv.read_exact(&mut octet).await.unwrap();
            heard.extend(octet);
        }
    };
    timeout(SOON, answered).await.expect("in time");
    // A newer one is asked, on a stream that begins with its Open.
    let newer = older.and(Features::DATAGRAMS);
    let (newer, _send, _recv) = tunnel_by_hand(&world, "mynas", newer).await;
    send_hello(&world, &hello("mynas.nas.localhost"));
    let asked = timeout(SOON, newer.accept_bi()).await.unwrap();
    asked.unwrap();
    drop(tunnel);
}

#[tokio::test]
async fn an_agent_without_a_service_for_them_refuses_and_says_so() {
    let world = World::start(Transport::Quic);
    let state = world.device("mynas");
    let _agent = world
        .agent_for(state, Resolver::Fixed(world.front), origin())
        .await;
    let visitor = send_hello(&world, &hello("mynas.nas.localhost"));
    let gone = "causeway_relay_visitors_ended_total{end=\"device_gone\"}";
    world.until_metric(gone, 1).await;
    has_heard_nothing(&visitor);
    let flows = status(&world, "mynas").await.flows;
    assert_eq!(flows.refused.get("no_service"), Some(&1));
    assert_eq!(flows.taken, 0);
}

#[tokio::test]
async fn visitors_of_a_process_stay_with_it_when_another_takes_over() {
    let mut world = World::start(Transport::Quic);
    let (_agent, _service) = device(&world, "mynas").await;
    let client = client(&world);
    let connection = visit(&client, world.front, "mynas").await;
    say(&connection, b"?").await;
    let before = world.take_over();
    let payload = payload(500_000);
    let heard = say(&connection, &payload).await;
    assert!(heard.ends_with(&payload));
    let passed = "causeway_relay_bytes_total{direction=\"to_visitor\"}";
    before.metric_reaches(passed, 500_000).await;
    before.relay.give_way();
    // Who comes now comes to the other, once the agent has a tunnel there.
    let attached = "causeway_relay_tunnels_attached_total{transport=\"quic\"}";
    world.until_metric(attached, 1).await;
    let newer = visit(&client, world.front, "mynas").await;
    assert!(say(&newer, b"?").await.ends_with(b"?"));
    world.metric_is(FLOWS, 1).await;
    assert!(say(&connection, b"!").await.ends_with(b"!"));
}

#[tokio::test]
async fn who_moves_more_than_the_device_may_loses_packets_and_gets_all_of_it_in_the_end() {
    const RATE: u64 = 1_000_000;
    let world = World::start(Transport::Quic);
    let (_agent, _service) = device(&world, "mynas").await;
    let client = client(&world);
    let connection = visit(&client, world.front, "mynas").await;
    world.limit(
        "mynas",
        DeviceLimits {
            bytes_per_second: NonZeroU64::new(RATE),
            visitors: None,
        },
    );
    let begun = Instant::now();
    let payload = payload(1_000_000);
    let heard = say(&connection, &payload).await;
    assert!(heard.ends_with(&payload));
    // Both ways, less what a device that has rested may move at once.
    let least = Duration::from_millis(2 * 1000 - 300);
    assert!(begun.elapsed() > least, "{:?}", begun.elapsed());
    let paced = "causeway_relay_flow_datagrams_lost_total{reason=\"paced\"}";
    assert!(world.metric(paced) > 0);
}
