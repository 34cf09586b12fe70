//! DNS over TLS (RFC 7858): clients that behave, and those who do not.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ddns::Certificate;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::dns::{framed, query, read_framed, resolve};
use crate::signing::{Signer, update};
use crate::world::World;

const CONFIG: &str = r#"
    listen = "127.0.0.1:0"
    dot = "127.0.0.1:0"
    private_addresses = true
"#;

/// What the servers of these tests show.
static NAME_SERVER: LazyLock<rcgen::CertifiedKey<rcgen::KeyPair>> = LazyLock::new(|| {
    let names = vec!["ns1.nas.test".to_owned()];
    rcgen::generate_simple_self_signed(names).unwrap()
});

pub(crate) fn certificate() -> Certificate {
    let key = NAME_SERVER.signing_key.serialize_pem();
    Certificate::from_pem(&NAME_SERVER.cert.pem(), &key).unwrap()
}

fn client(
    trusted: &CertificateDer<'_>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone().into_owned()).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

pub(crate) fn good_client() -> ClientConfig {
    let mut config = client(NAME_SERVER.cert.der(), rustls::ALL_VERSIONS);
    config.alpn_protocols = vec![b"dot".to_vec()];
    config
}

fn host() -> ServerName<'static> {
    "ns1.nas.test".try_into().unwrap()
}

/// Where DNS is spoken over TLS.
pub(crate) fn dot(world: &World) -> SocketAddr {
    let addr = world.server.dot().unwrap();
    (Ipv4Addr::LOCALHOST, addr.port()).into()
}

async fn connect(world: &World, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    connect_to(dot(world), config).await
}

pub(crate) async fn connect_to(
    server: SocketAddr,
    config: ClientConfig,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(server).await?;
    TlsConnector::from(Arc::new(config))
        .connect(host(), stream)
        .await
}

/// Waits until a metric has a value; the server may have to hear of something first.
async fn until_counted(world: &World, series: &str, value: f64) {
    let counted = async {
        while world.metric(series) != value {
            tokio::task::yield_now().await;
        }
    };
    let counted = timeout(Duration::from_secs(20), counted).await;
    assert!(counted.is_ok(), "{series} is {}", world.metric(series));
}

async fn until_closed(mut stream: TcpStream) {
    // A reset is an end, too; before it there may be an alert.
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

fn failed(reason: &str) -> String {
    format!(r#"tls_handshakes_failed_total{{reason="{reason}"}}"#)
}

#[tokio::test]
async fn queries_and_signed_updates_of_one_pipe_are_answered_also_after_half_of_it_has_ended() {
    let mut world = World::with_config(CONFIG).await;
    world.directory.add("home");
    let signer = Signer::of("home", &world.directory);
    for (last, version) in [(7, &rustls::version::TLS12), (8, &rustls::version::TLS13)] {
        let mut config = client(NAME_SERVER.cert.der(), &[version]);
        config.alpn_protocols = vec![b"dot".to_vec()];
        let mut stream = connect(&world, config).await.unwrap();
        let connection = stream.get_ref().1;
        assert_eq!(connection.protocol_version(), Some(version.version));
        assert_eq!(connection.alpn_protocol(), Some(&b"dot"[..]));

        let address = format!("192.0.2.{last}");
        let statements = format!("delete home.nas.test A; add home.nas.test A {address}");
        let message = signer.sign(&update("nas.test", &statements));
        let mut pipe = framed(&message.octets);
        for id in 0..300_u16 {
            let mut message = query(&["nas.test", "A"]);
            message[..2].copy_from_slice(&id.to_be_bytes());
            pipe.extend(framed(&message));
        }
        stream.write_all(&pipe).await.unwrap();
        stream.shutdown().await.unwrap();
        let (mut queries, mut updates) = (0_u16, 0);
        while let Some(reply) = read_framed(&mut stream).await {
            if reply[2] & 0x78 == 0 {
                assert_eq!(reply[..2], queries.to_be_bytes());
                queries += 1;
            } else {
                assert_eq!(reply[3], 0);
                assert!(signer.is_signed(&message, &reply));
                updates += 1;
            }
        }
        assert_eq!((queries, updates), (300, 1));
        assert_eq!(resolve(world.v4(), "home.nas.test", "A").await, address);
    }
    let answered = r#"queries_total{rcode="noerror",transport="dot"}"#;
    assert_eq!(world.metric(answered), 602.0);
    let closed = r#"tcp_connections_closed_total{reason="closed",transport="dot"}"#;
    until_counted(&world, closed, 2.0).await;
    let opened = r#"tcp_connections_opened_total{transport="dot"}"#;
    assert_eq!(world.metric(opened), 2.0);
}

#[tokio::test]
async fn a_client_without_alpn_is_answered_and_resumes() {
    let world = World::with_config(CONFIG).await;
    let config = client(NAME_SERVER.cert.der(), rustls::ALL_VERSIONS);
    for kind in [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed] {
        let mut stream = connect(&world, config.clone()).await.unwrap();
        let message = framed(&query(&["nas.test", "SOA"]));
        stream.write_all(&message).await.unwrap();
        read_framed(&mut stream).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind));
        // Its end without a last word is an end nevertheless.
        drop(stream);
    }
    let closed = r#"tcp_connections_closed_total{reason="closed",transport="dot"}"#;
    until_counted(&world, closed, 2.0).await;
}

#[tokio::test]
async fn more_replies_than_a_connection_holds_are_read_by_a_slow_client() {
    let world = World::with_config(CONFIG).await;
    let stream = connect(&world, good_client()).await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let pipe = framed(&query(&["nas.test", "SOA"])).repeat(20_000);
    let sending = tokio::spawn(async move {
        write.write_all(&pipe).await.unwrap();
        write.flush().await.unwrap();
        write
    });
    for _ in 0..20_000 {
        read_framed(&mut read).await.unwrap();
    }
    drop(sending.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn silence_and_a_slow_handshake_are_ended_after_five_seconds() {
    let world = World::with_config(CONFIG).await;
    let began = Instant::now();
    until_closed(TcpStream::connect(dot(&world)).await.unwrap()).await;
    assert_eq!(began.elapsed().as_secs(), 5);
    assert_eq!(world.metric(&failed("slow")), 1.0);

    let began = Instant::now();
    let mut hello = Vec::new();
    let mut connection = ClientConnection::new(Arc::new(good_client()), host()).unwrap();
    connection.write_tls(&mut hello).unwrap();
    let mut stream = TcpStream::connect(dot(&world)).await.unwrap();
    for octet in hello {
        if stream.write_all(&[octet]).await.is_err() {
            break;
        }
        sleep(Duration::from_millis(700)).await;
    }
    assert!(began.elapsed() < Duration::from_secs(8));
    assert_eq!(world.metric(&failed("slow")), 2.0);
    let closed = r#"tcp_connections_closed_total{reason="handshake",transport="dot"}"#;
    assert_eq!(world.metric(closed), 2.0);
}

#[tokio::test(start_paused = true)]
async fn silence_after_the_handshake_ends_with_a_last_word_after_ten_seconds() {
    let world = World::with_config(CONFIG).await;
    let mut stream = connect(&world, good_client()).await.unwrap();
    let began = Instant::now();
    // A cut would be an error.
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(began.elapsed().as_secs(), 10);
    let closed = r#"tcp_connections_closed_total{reason="idle",transport="dot"}"#;
    assert_eq!(world.metric(closed), 1.0);
}

#[tokio::test]
async fn what_is_no_tls_is_closed_and_counted() {
    let world = World::with_config(CONFIG).await;
    let plain = framed(&query(&["nas.test", "SOA"]));
    let http = b"GET / HTTP/1.1\r\nHost: ns1.nas.test\r\n\r\n".to_vec();
    let garbage = vec![0x55; 4000];
    for (i, octets) in [plain, http, garbage].into_iter().enumerate() {
        let mut stream = TcpStream::connect(dot(&world)).await.unwrap();
        stream.write_all(&octets).await.unwrap();
        until_closed(stream).await;
        assert_eq!(world.metric(&failed("malformed")), (i + 1) as f64);
    }
    drop(TcpStream::connect(dot(&world)).await.unwrap());
    until_counted(&world, &failed("closed"), 1.0).await;
    let answered = r#"queries_total{rcode="noerror",transport="dot"}"#;
    assert_eq!(world.metric(answered), 0.0);
}

#[tokio::test]
async fn who_trusts_another_or_wants_another_protocol_is_counted() {
    let world = World::with_config(CONFIG).await;
    let other = rcgen::generate_simple_self_signed(vec!["ns1.nas.test".to_owned()]).unwrap();
    let stranger = client(other.cert.der(), &[&rustls::version::TLS13]);
    assert!(connect(&world, stranger).await.is_err());
    until_counted(&world, &failed("declined"), 1.0).await;

    let mut browser = good_client();
    browser.alpn_protocols = vec![b"h2".to_vec()];
    assert!(connect(&world, browser).await.is_err());
    until_counted(&world, &failed("incompatible"), 1.0).await;
}

#[tokio::test]
async fn connections_with_tls_and_without_share_one_limit() {
    let config = format!("{CONFIG}\ntcp_connections_per_address = 2");
    let world = World::with_config(&config).await;
    let message = framed(&query(&["nas.test", "SOA"]));
    let mut plain = TcpStream::connect(world.v4()).await.unwrap();
    plain.write_all(&message).await.unwrap();
    read_framed(&mut plain).await.unwrap();
    let mut over_tls = connect(&world, good_client()).await.unwrap();
    until_closed(TcpStream::connect(dot(&world)).await.unwrap()).await;
    until_closed(TcpStream::connect(world.v4()).await.unwrap()).await;
    for transport in ["dot", "tcp"] {
        let series = format!(
            r#"tcp_connections_refused_total{{limit="of_one_address",transport="{transport}"}}"#
        );
        assert_eq!(world.metric(&series), 1.0, "{transport}");
    }
    // In order: what a client has not read, as a session ticket, makes its end a reset.
    over_tls.shutdown().await.unwrap();
    assert_eq!(over_tls.read(&mut [0]).await.unwrap(), 0);
    let closed = r#"tcp_connections_closed_total{reason="closed",transport="dot"}"#;
    until_counted(&world, closed, 1.0).await;
    connect(&world, good_client()).await.unwrap();
}

#[tokio::test]
async fn too_many_handshakes_of_one_address_are_refused_until_one_ends() {
    let world = World::with_config(CONFIG).await;
    let mut silent = Vec::new();
    for _ in 0..32 {
        silent.push(TcpStream::connect(dot(&world)).await.unwrap());
    }
    until_closed(TcpStream::connect(dot(&world)).await.unwrap()).await;
    let refused = r#"tcp_connections_refused_total{limit="handshakes",transport="dot"}"#;
    assert_eq!(world.metric(refused), 1.0);
    silent.pop();
    until_counted(&world, &failed("closed"), 1.0).await;
    // A connection whose handshake is done counts as none.
    let _first = connect(&world, good_client()).await.unwrap();
    let _second = connect(&world, good_client()).await.unwrap();
    assert_eq!(world.metric(refused), 1.0);
}
