//! Who is sent away, how, and what it costs.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::byte_path::origin;
use crate::world::{SOON, TRANSPORTS, World, eventually};
use relay::server::Transport;

/// Fatal, unrecognized_name (RFC 8446 section 6).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

const HELLO: &[u8] = include_bytes!("../../wire/testdata/chromium.bin");
const HELLO_WITHOUT_NAME: &[u8] = include_bytes!("../../wire/testdata/openssl-no-name.bin");

/// What the front answers to `octets`, until it closes.
async fn answer(world: &World, octets: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(world.front).await.unwrap();
    stream.write_all(octets).await.unwrap();
    let mut answer = Vec::new();
    timeout(SOON, stream.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    answer
}

#[tokio::test]
async fn nobody_there_is_an_alert_whatever_the_reason() {
    let world = World::start(Transport::Quic);
    // The captured hello asks for demo.nas.localhost: unknown first, then registered without a tunnel.
    assert_eq!(answer(&world, HELLO).await, UNRECOGNIZED_NAME);
    world
        .metric_is(
            "causeway_relay_visitors_refused_total{reason=\"unknown_name\"}",
            1,
        )
        .await;
    world.device("demo");
    assert_eq!(answer(&world, HELLO).await, UNRECOGNIZED_NAME);
    world
        .metric_is(
            "causeway_relay_visitors_refused_total{reason=\"not_attached\"}",
            1,
        )
        .await;
    assert_eq!(answer(&world, HELLO_WITHOUT_NAME).await, UNRECOGNIZED_NAME);
    world
        .metric_is(
            "causeway_relay_visitors_refused_total{reason=\"no_name\"}",
            1,
        )
        .await;
}

#[tokio::test]
async fn the_alert_survives_a_visitor_that_is_still_sending() {
    let world = World::start(Transport::Quic);
    let mut stream = TcpStream::connect(world.front).await.unwrap();
    stream.write_all(HELLO).await.unwrap();
    // Octets that nobody reads would turn the close into a reset, and the reset would eat the alert.
    for _ in 0..20 {
        stream.write_all(&[0; 100]).await.unwrap();
    }
    let mut alert = [0; 7];
    timeout(SOON, stream.read_exact(&mut alert))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(alert, UNRECOGNIZED_NAME);
    assert_eq!(
        timeout(SOON, stream.read(&mut alert))
            .await
            .unwrap()
            .unwrap(),
        0,
        "half-closed, not reset"
    );
}

#[tokio::test]
async fn an_unknown_name_and_a_device_without_a_tunnel_take_the_same_time() {
    let world = World::start(Transport::Quic);
    let patch = |name: &[u8; 4]| {
        let at = HELLO
            .windows(4)
            .position(|window| window == b"demo")
            .unwrap();
        let mut hello = HELLO.to_vec();
        hello[at..at + 4].copy_from_slice(name);
        hello
    };
    world.device("away");
    let (away, nobody) = (patch(b"away"), patch(b"nobo"));
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..400 {
        // In turn, and which comes first changes too.
        for which in [round % 2, (round + 1) % 2] {
            let hello = if which == 0 { &away } else { &nobody };
            let mut stream = TcpStream::connect(world.front).await.unwrap();
            let start = Instant::now();
            stream.write_all(hello).await.unwrap();
            let mut alert = [0; 7];
            stream.read_exact(&mut alert).await.unwrap();
            times[which].push(start.elapsed());
        }
    }
    let [away, nobody] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2].as_secs_f64()
    });
    let ratio = away / nobody;
    assert!(
        (0.8..1.25).contains(&ratio),
        "medians {away} s and {nobody} s"
    );
}

#[tokio::test]
async fn what_is_not_tls_is_closed_at_once() {
    let world = World::start(Transport::Quic);
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\0",
        &[0xff; 5000],
        &[22, 3, 1, 0, 4, 2, 0, 0, 0],
    ] {
        let start = Instant::now();
        let mut stream = TcpStream::connect(world.front).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut nothing = Vec::new();
        // An end or a reset: octets may still be on their way when the front closes.
        let _ = timeout(SOON, stream.read_to_end(&mut nothing))
            .await
            .unwrap();
        assert_eq!(nothing, b"");
        assert!(start.elapsed() < Duration::from_secs(3));
    }
    world
        .until_metric(
            "causeway_relay_visitors_refused_total{reason=\"not_tls\"}",
            4,
        )
        .await;
}

#[tokio::test]
async fn silence_and_a_byte_a_second_are_closed_by_the_deadline() {
    let world = World::start(Transport::Quic);
    let start = Instant::now();
    let silent = async {
        let mut stream = TcpStream::connect(world.front).await.unwrap();
        stream.read(&mut [0]).await.unwrap()
    };
    let dripping = async {
        let mut stream = TcpStream::connect(world.front).await.unwrap();
        for octet in HELLO {
            let closed = timeout(Duration::from_secs(1), stream.read(&mut [0])).await;
            if let Ok(closed) = closed {
                return closed.unwrap_or(0);
            }
            stream.write_all(&[*octet]).await.unwrap();
        }
        panic!("the whole hello was taken");
    };
    let plain = async {
        let mut stream = TcpStream::connect(world.http).await.unwrap();
        stream.write_all(b"GET /").await.unwrap();
        stream.read(&mut [0; 1000]).await.unwrap_or(0)
    };
    let (a, b, _) = timeout(SOON, async { tokio::join!(silent, dripping, plain) })
        .await
        .unwrap();
    assert_eq!((a, b), (0, 0));
    assert!(start.elapsed() >= Duration::from_secs(4));
    assert!(start.elapsed() < Duration::from_secs(8));
    world
        .until_metric(
            "causeway_relay_visitors_refused_total{reason=\"too_slow\"}",
            2,
        )
        .await;
}

#[tokio::test]
async fn a_silent_visitor_after_the_hello_is_the_agents_to_end() {
    let world = World::start(Transport::Quic);
    let (_listener, address) = origin("tcp").await;
    let _agent = world.agent("demo", &address).await;
    let mut stream = TcpStream::connect(world.front).await.unwrap();
    let start = Instant::now();
    // A hello whose handshake never goes on.
    stream.write_all(HELLO).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(!answer.is_empty());
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn nothing_is_left_of_a_flood_of_half_open_visitors() {
    let world = World::start(Transport::Quic);
    let mut held = Vec::new();
    for _ in 0..1100 {
        held.push(TcpStream::connect(world.front).await.unwrap());
    }
    // One address may have 1,024 visitors without a name; the others are closed at once.
    world
        .until_metric(
            "causeway_relay_visitors_refused_total{reason=\"address_busy\"}",
            70,
        )
        .await;
    drop(held);
    eventually(|| {
        let refused = ["address_busy", "left_early", "too_slow"].map(|reason| {
            world.metric(&format!(
                "causeway_relay_visitors_refused_total{{reason=\"{reason}\"}}"
            ))
        });
        refused.iter().sum::<u64>() == world.metric("causeway_relay_visitors_accepted_total")
    })
    .await;
    assert_eq!(answer(&world, HELLO).await, UNRECOGNIZED_NAME);
}

#[tokio::test]
async fn plain_http_is_redirected() {
    let world = World::start(Transport::Quic);
    let mut stream = TcpStream::connect(world.http).await.unwrap();
    stream
        .write_all(b"GET /a HTTP/1.1\r\nHost: mynas.nas.localhost:8080\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    timeout(SOON, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 308 "), "{answer}");
    let target = format!(
        "location: https://mynas.nas.localhost:{}/a\r\n",
        world.front.port()
    );
    assert!(answer.contains(&target), "{answer}");
}

#[tokio::test]
async fn stray_datagrams_are_dropped_and_counted() {
    let world = World::start(Transport::Quic);
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for datagram in [&[0x45; 100][..], &[0x00; 20], &[0xc3; 50], &[0xff; 1500]] {
        socket.send_to(datagram, world.front).await.unwrap();
    }
    world
        .until_metric(
            "causeway_relay_datagrams_dropped_total{reason=\"stray\"}",
            1,
        )
        .await;
    world
        .until_metric(
            "causeway_relay_datagrams_dropped_total{reason=\"other\"}",
            1,
        )
        .await;
    let (_listener, address) = origin("tcp").await;
    world.agent("mynas", &address).await.is_attached().await;
}

#[tokio::test]
async fn a_visitor_of_the_cloud_is_handed_over() {
    let world = World::start(Transport::Quic);
    let mut visitor = world.visit("cloud.nas.localhost").await;
    let received = world.cloud_visitors.lock().await.recv().await;
    let mut handed = received.unwrap();
    assert_eq!(handed.address, visitor.get_ref().0.local_addr().unwrap());
    handed.stream.write_all(b"hello").await.unwrap();
    handed.stream.flush().await.unwrap();
    let mut heard = [0; 5];
    timeout(SOON, visitor.read_exact(&mut heard))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&heard, b"hello");
}

#[tokio::test]
async fn the_devices_own_alert_reaches_the_visitor() {
    use rustls::{AlertDescription, ClientConfig, RootCertStore};
    let mut config = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"gopher".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (_listener, address) = origin("http").await;
        let _agent = world.agent("mynas", &address).await;
        let stream = TcpStream::connect(world.front).await.unwrap();
        let host = rustls::pki_types::ServerName::try_from("mynas.nas.localhost").unwrap();
        let error = timeout(SOON, connector.connect(host, stream))
            .await
            .unwrap()
            .unwrap_err();
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
        assert_eq!(
            cause,
            Some(&rustls::Error::AlertReceived(
                AlertDescription::NoApplicationProtocol
            )),
            "{transport:?}: {error}"
        );
    }
}
