//! Visitors who come straight to a device, without a relay, and whoever wants to know whether it is there.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use relay::agent::{
    self, DirectStatus, Identity, Origin, OriginTrust, ServicesFile, State, VisitorAddress,
};
use relay::reach::{self, NotThere};
use relay::server::Transport;
use relay::tls::Roots;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use crate::byte_path::{origin, read_head};
use crate::world::{Agent, SOON, TRANSPORTS, World};

const HOST: &str = "mynas.nas.localhost";

/// How long a visitor has to say where it wants to.
const HELLO_TIME: Duration = Duration::from_secs(5);

/// How many may come from one address.
const MAX_OF_ADDRESS: usize = 128;

/// The device, with a door of its own to the service at `address`.
async fn device(world: &World, address: &str) -> (Agent, SocketAddr) {
    let origin = Origin::new(
        address.parse().unwrap(),
        VisitorAddress::default(),
        &OriginTrust::Roots(Roots::none()),
    );
    let state = world.device("mynas");
    world.agent_with_a_door(state, origin.unwrap()).await
}

async fn door(world: &World) -> DirectStatus {
    let state = State::open(world.state_of("mynas")).unwrap();
    agent::ask(&state).await.unwrap().direct.unwrap()
}

/// Polls what the door says of itself, which has no event of its own. Only the pace depends on the pause, never the outcome.
async fn until(world: &World, is_so: impl Fn(&DirectStatus) -> bool) {
    let polled = async {
        while !is_so(&door(world).await) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let polled = timeout(SOON, polled).await;
    assert!(polled.is_ok(), "{:?}", door(world).await);
}

/// Waits until it has sent so many away for this reason.
async fn refused(world: &World, reason: &str, count: u64) {
    until(world, |door| door.refused[reason] >= count).await;
    assert_eq!(door(world).await.refused[reason], count);
}

fn identity_of(world: &World) -> Identity {
    let state = State::open(world.state_of("mynas")).unwrap();
    state.identity().unwrap()
}

/// A service that answers every request with its head.
fn echo_of_heads(listener: TcpListener) -> AbortOnDropHandle<()> {
    let answer = async |mut stream: TcpStream| {
        let head = read_head(&mut stream).await;
        let length = head.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{head}"
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
    };
    AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            answer(stream).await;
        }
    }))
}

/// curl, from an address of loopback that nobody else here has, straight to the device.
async fn curl(world: &World, door: SocketAddr, options: &[&str]) -> String {
    let ca = world.state_of("ca.pem");
    std::fs::write(&ca, &world.trust_root).unwrap();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "20"]);
    curl.args(["--interface", "127.0.0.9", "--cacert"]).arg(ca);
    curl.args(["--connect-to", &format!("::{door}")]);
    curl.args(options).arg(format!("https://{HOST}/page"));
    let output = timeout(SOON, curl.kill_on_drop(true).output());
    let output = output.await.unwrap().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn curl_comes_straight_to_a_service_which_hears_its_address() {
    let world = World::start(Transport::Quic);
    let (listener, address) = origin("http").await;
    let _service = echo_of_heads(listener);
    let (_agent, door) = device(&world, &address).await;
    for version in ["--http1.1", "--http2"] {
        let write_out = ["--write-out", "version %{http_version}", version];
        let heard = curl(&world, door, &write_out).await;
        assert!(heard.contains("x-forwarded-for: 127.0.0.9\r\n"), "{heard}");
        let spoken = match version {
            "--http2" => "version 2",
            _ => "version 1.1",
        };
        assert!(heard.ends_with(spoken), "{heard}");
    }
    // The relay had nothing to do with it.
    assert_eq!(
        world.metric("causeway_relay_bytes_total{direction=\"to_visitor\"}"),
        0
    );
}

#[tokio::test]
async fn at_home_a_visitor_hears_by_which_way_it_has_come_and_everywhere_else_the_service_answers()
{
    const PATH: &str = "/.well-known/causeway/lan";
    let world = World::start(Transport::Quic);
    let (listener, address) = origin("http").await;
    let _service = echo_of_heads(listener);
    let (_agent, door) = device(&world, &address).await;
    let told = async |options: &[&str]| curl(&world, door, options).await;
    for version in ["--http1.1", "--http2"] {
        let heard = told(&[version, "--include", &format!("https://lan.{HOST}{PATH}")]).await;
        let (head, behind) = heard.split_once("\r\n\r\ndirect\n").unwrap();
        assert!(head.contains("access-control-allow-origin: *"), "{head}");
        assert!(behind.contains("get /page"), "{behind}");
    }
    let post = format!("https://lan.{HOST}{PATH}");
    for (options, service_hears) in [
        (
            &[&*format!("https://{HOST}{PATH}")][..],
            "get /.well-known/causeway/lan",
        ),
        (
            &[&format!("https://lanx.{HOST}{PATH}")],
            "get /.well-known/causeway/lan",
        ),
        (
            &[&format!("https://lan.{HOST}{PATH}/x")],
            "get /.well-known/causeway/lan/x",
        ),
        (&["--data", "x", &post], "post /.well-known/causeway/lan"),
    ] {
        let heard = told(options).await;
        assert!(heard.contains(service_hears), "{options:?}: {heard}");
    }
}

#[tokio::test]
async fn a_service_that_is_no_http_is_reached_too_and_one_with_a_certificate_of_its_own() {
    let world = World::start(Transport::Quic);
    let echo = async |scheme: &str| {
        let (listener, address) = origin(scheme).await;
        let tls = TlsAcceptor::from(Arc::new(world.service(HOST)));
        let own_certificate = scheme == "tls";
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = Vec::new();
            if own_certificate {
                let mut stream = tls.accept(stream).await.unwrap();
                stream.read_to_end(&mut heard).await.unwrap();
                stream.write_all(&heard).await.unwrap();
                stream.shutdown().await.unwrap();
            } else {
                stream.read_to_end(&mut heard).await.unwrap();
                stream.write_all(&heard).await.unwrap();
            }
        });
        (address, AbortOnDropHandle::new(task))
    };
    for scheme in ["tcp", "tls"] {
        let (address, echoed) = echo(scheme).await;
        let (agent, door) = device(&world, &address).await;
        let stream = TcpStream::connect(door).await.unwrap();
        let mut visitor = world.try_visit_on(stream, HOST).await.unwrap();
        let sent = vec![7; 1_000_000];
        let mut heard = Vec::new();
        let exchange = async {
            visitor.write_all(&sent).await.unwrap();
            visitor.shutdown().await.unwrap(); // it still listens
            visitor.read_to_end(&mut heard).await.unwrap();
        };
        timeout(SOON, exchange).await.unwrap();
        assert!(heard == sent, "{scheme}: {} octets", heard.len());
        timeout(SOON, echoed).await.unwrap().unwrap();
        agent.stop().await;
    }
}

#[tokio::test]
async fn the_device_proves_that_it_is_there_and_nobody_else_is_taken_for_it() {
    let world = World::start(Transport::Quic);
    let (listener, address) = origin("http").await;
    let _service = echo_of_heads(listener);
    let (_agent, address) = device(&world, &address).await;
    let key = identity_of(&world).public_key();
    let stranger = Identity::from_pem(&Identity::generate_pem().unwrap()).unwrap();
    let stranger = stranger.public_key();
    for host in [HOST, "MyNAS.nas.LocalHost"] {
        assert_eq!(
            reach::prove(address, host, key, SOON).await,
            Ok(()),
            "{host}"
        );
    }
    let other = reach::prove(address, HOST, stranger, SOON).await;
    assert_eq!(other, Err(NotThere::Unproved));
    // Asked for anything but the device itself, it proves nothing.
    for host in ["photos.mynas.nas.localhost", "other.nas.localhost"] {
        let asked = reach::prove(address, host, key, SOON).await;
        assert_eq!(asked, Err(NotThere::Unproved), "{host}");
    }
    assert_eq!(door(&world).await.proofs, 2);
    // Whoever only forwards to the device is where the device is.
    let forwarder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let forwarded = forwarder.local_addr().unwrap();
    let forward = async {
        let (mut near, _) = forwarder.accept().await.unwrap();
        let mut far = TcpStream::connect(address).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    };
    let (proved, ()) = tokio::join!(reach::prove(forwarded, HOST, key, SOON), forward);
    assert_eq!(proved, Ok(()));
}

#[tokio::test]
async fn nobody_hears_the_proof_through_a_relay_which_would_pass_for_the_device() {
    for transport in TRANSPORTS {
        for scheme in ["http", "tcp", "tls"] {
            let world = World::start(transport);
            let (listener, address) = origin(scheme).await;
            let tls = TlsAcceptor::from(Arc::new(world.service(HOST)));
            let _service = AbortOnDropHandle::new(tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let _ = tls.accept(stream).await;
                }
            }));
            let (agent, address) = device(&world, &address).await;
            let key = identity_of(&world).public_key();
            let through = reach::prove(world.front, HOST, key, SOON).await;
            assert_eq!(through, Err(NotThere::Unproved), "{transport:?} {scheme}");
            assert_eq!(door(&world).await.proofs, 0);
            let straight = reach::prove(address, HOST, key, SOON).await;
            assert_eq!(straight, Ok(()), "{transport:?} {scheme}");
            agent.stop().await;
        }
    }
}

#[tokio::test]
async fn who_says_nothing_is_let_go_and_one_address_leaves_room_for_others() {
    let world = World::start(Transport::Quic);
    let (listener, address) = origin("http").await;
    let _service = echo_of_heads(listener);
    let (_agent, address) = device(&world, &address).await;
    let begun = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..MAX_OF_ADDRESS {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut one_more = TcpStream::connect(address).await.unwrap();
    let ended = timeout(SOON, one_more.read(&mut [0])).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    assert!(begun.elapsed() < HELLO_TIME, "{:?}", begun.elapsed());
    refused(&world, "address_full", 1).await;
    // From elsewhere there is room.
    curl(&world, address, &[]).await;
    let mut waiting = JoinSet::new();
    for mut stream in silent {
        waiting.spawn(async move { stream.read(&mut [0]).await });
    }
    let ended = timeout(SOON, waiting.join_all()).await.unwrap();
    assert_eq!(ended.len(), MAX_OF_ADDRESS);
    assert!(begun.elapsed() >= HELLO_TIME, "{:?}", begun.elapsed());
    refused(&world, "no_hello", MAX_OF_ADDRESS as u64).await;
}

#[tokio::test]
async fn a_flood_at_the_device_takes_no_room_of_those_who_come_through_a_relay() {
    /// Visitors who come straight to a device at a time.
    const MAX_DIRECT: usize = 1024;
    relay::program::raise_descriptor_limit();
    let world = World::start(Transport::Quic);
    let (listener, address) = origin("http").await;
    let _service = echo_of_heads(listener);
    let (_agent, address) = device(&world, &address).await;
    let from = async |last: usize| {
        let socket = TcpSocket::new_v4().unwrap();
        let ip = Ipv4Addr::new(127, 0, 7, u8::try_from(last).unwrap());
        socket.bind((ip, 0).into()).unwrap();
        socket.connect(address).await.unwrap()
    };
    let mut flood = Vec::new();
    for number in 0..MAX_DIRECT {
        flood.push(from(1 + number / MAX_OF_ADDRESS).await);
    }
    let mut one_more = from(99).await;
    let ended = timeout(SOON, one_more.read(&mut [0])).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    refused(&world, "full", 1).await;
    assert_eq!(door(&world).await.visitors, MAX_DIRECT);
    let heard = curl(&world, world.front, &[]).await;
    assert!(heard.contains("x-forwarded-for: 127.0.0.9\r\n"), "{heard}");
    drop(flood);
    until(&world, |door| door.visitors == 0).await;
    curl(&world, address, &[]).await;
}

#[tokio::test]
async fn what_makes_no_sense_is_sent_away_and_counted() {
    let world = World::start(Transport::Quic);
    let (listener, origin_address) = origin("http").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    let described = format!("[services.photos]\norigin = \"{origin_address}\"\n");
    std::fs::write(&file, described).unwrap();
    let services = ServicesFile::open(file).unwrap().services();
    let state = world.device("mynas");
    let (_agent, address) = world.agent_with_a_door(state, services).await;
    let all_of = async |said: &[u8]| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(said).await.unwrap();
        let mut heard = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut heard)).await.unwrap();
        heard
    };
    let too_long = [&[22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff][..], &[0; 0x3ffc]].concat();
    let garbage: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0; 64],
        b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00",
        &too_long,
    ];
    for said in garbage {
        assert_eq!(all_of(said).await, b"", "{:?}", &said[..5]);
    }
    refused(&world, "no_hello", garbage.len() as u64).await;
    for host in [HOST, "films.mynas.nas.localhost", "other.nas.localhost"] {
        let stream = TcpStream::connect(address).await.unwrap();
        let refused = world.try_visit_on(stream, host).await.unwrap_err();
        assert!(
            refused.to_string().contains("UnrecognisedName"),
            "{refused}"
        );
    }
    refused(&world, "unknown_name", 3).await;
    // Who has no protocol in common with the device hears that.
    let photos = "photos.mynas.nas.localhost";
    let key = identity_of(&world).public_key();
    let asked = reach::prove(address, photos, key, SOON).await;
    assert_eq!(asked, Err(NotThere::Unproved));
    refused(&world, "handshake", 1).await;
    let counts: BTreeMap<_, _> = door(&world).await.refused;
    assert_eq!((counts["full"], counts["address_full"]), (0, 0));
    let nobody = timeout(Duration::ZERO, listener.accept()).await;
    assert!(nobody.is_err(), "the service heard of it");
}

#[tokio::test]
async fn an_answer_comes_whole_though_the_visitor_still_has_much_to_say() {
    /// More than the visitor has room for, and as much as the device's system takes at once: that is still to be sent when all is said.
    const LENGTH: usize = 400_000;
    let world = World::start(Transport::Quic);
    let (listener, address) = origin("http").await;
    let _service = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            read_head(&mut stream).await;
            let body = "no".repeat(LENGTH / 2);
            let answer = format!(
                "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: {LENGTH}\r\n\r\n{body}"
            );
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        }
    }));
    let (_agent, address) = device(&world, &address).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(address).await.unwrap();
    let mut visitor = world.try_visit_on(stream, HOST).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 10000000\r\n\r\n");
    visitor.write_all(head.as_bytes()).await.unwrap();
    let (mut read, mut write) = tokio::io::split(visitor);
    let sending = AbortOnDropHandle::new(tokio::spawn(async move {
        while write.write_all(&[0; 4096]).await.is_ok() {}
    }));
    let mut heard = Vec::new();
    let _ = timeout(SOON, read.read_to_end(&mut heard)).await.unwrap();
    drop(sending);
    let text = String::from_utf8_lossy(&heard);
    assert!(text.starts_with("HTTP/1.1 413 "), "{} octets", heard.len());
    assert!(
        text.ends_with(&"no".repeat(LENGTH / 2)),
        "{} octets",
        heard.len()
    );
}

#[tokio::test]
async fn an_address_that_another_program_has_is_named_in_a_sentence() {
    let world = World::start(Transport::Quic);
    let (listener, address) = origin("http").await;
    let taken = listener.local_addr().unwrap().to_string();
    world.device("mynas");
    let program = Command::new(env!("CARGO_BIN_EXE_causeway-agent"))
        .args(["run", "--origin", &address, "--direct", &taken, "--state"])
        .arg(world.state_of("mynas"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(SOON, program).await.unwrap().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    let sentence =
        format!("visitors cannot come straight to this device: {taken}: Address already in use");
    assert!(said.contains(&sentence), "{said}");
}

#[tokio::test]
async fn an_agent_that_stops_leaves_no_visitor_and_no_listener_behind() {
    let world = World::start(Transport::Quic);
    let (listener, address) = origin("tcp").await;
    let (agent, address) = device(&world, &address).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let mut visitor = world.try_visit_on(stream, HOST).await.unwrap();
    let (mut served, _) = listener.accept().await.unwrap();
    agent.stop().await;
    let ended = timeout(SOON, visitor.read(&mut [0])).await.unwrap();
    assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    let ended = timeout(SOON, served.read(&mut [0])).await.unwrap();
    assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    let key = identity_of(&world).public_key();
    let asked = reach::prove(address, HOST, key, SOON).await;
    assert_eq!(asked, Err(NotThere::Refused));
}
