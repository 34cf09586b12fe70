//! Bytes from a visitor to the origin and back, over both kinds of carrier.

use std::net::{Ipv4Addr, SocketAddr};

use relay::agent::VisitorAddress;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::world::{SOON, TRANSPORTS, World};

/// A listener on loopback and the origin address for it.
pub(crate) async fn origin(scheme: &str) -> (TcpListener, String) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = format!("{scheme}://{}", listener.local_addr().unwrap());
    (listener, address)
}

#[tokio::test]
async fn what_a_visitor_sends_comes_back_from_an_echo() {
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (listener, address) = origin("tcp").await;
        let mut agent = world.agent("mynas", &address).await;
        assert_eq!(agent.is_attached().await.transport, transport);

        let echo = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let sent: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        let (mut read, mut write) = tokio::io::split(world.visit("mynas.nas.localhost").await);
        let expected = sent.clone();
        let sending = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut received = Vec::new();
        let (_, got) = timeout(SOON, async {
            tokio::join!(sending, read.read_to_end(&mut received))
        })
        .await
        .unwrap();
        got.unwrap();
        assert!(received == expected, "{transport:?}");
        timeout(SOON, echo).await.unwrap().unwrap();
        world
            .until_metric("causeway_relay_visitors_ended_total{end=\"done\"}", 1)
            .await;
        assert!(world.metric("causeway_relay_bytes_total{direction=\"to_visitor\"}") > 3_000_000);
        let carriers = format!(
            "causeway_relay_carriers_opened_total{{kind=\"{}\"}}",
            transport.name()
        );
        world.metric_is(&carriers, 1).await;
    }
}

#[tokio::test]
async fn names_below_a_device_lead_to_it() {
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (listener, address) = origin("tcp").await;
        let _agent = world.agent("mynas", &address).await;
        for host in [
            "mynas.nas.localhost",
            "photos.mynas.nas.localhost",
            "MyNAS.nas.LocalHost",
        ] {
            let mut visitor = world.visit(host).await;
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            let mut heard = [0; 5];
            timeout(SOON, visitor.read_exact(&mut heard))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(&heard, b"hello", "{host}");
        }
    }
}

#[tokio::test]
async fn the_front_listens_on_ipv6_too() {
    for front in ["[::1]:0", "[::]:0"] {
        let world = World::with(relay::server::Transport::Quic, front.parse().unwrap());
        let (listener, address) = origin("tcp").await;
        let mut agent = world.agent("mynas", &address).await;
        agent.is_attached().await;
        let _visitor = world.visit("mynas.nas.localhost").await;
        timeout(SOON, listener.accept()).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_plain_origin_hears_the_visitors_address_by_proxy_protocol() {
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (listener, address) = origin("tcp").await;
        let _agent = world
            .agent_with("mynas", &address, VisitorAddress::ProxyV2)
            .await;
        let mut visitor = world.visit("mynas.nas.localhost").await;
        visitor.write_all(b"bytes").await.unwrap();
        let own = visitor.get_ref().0.local_addr().unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut header = [0; 28 + 5];
        timeout(SOON, stream.read_exact(&mut header))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(header[..12], *b"\r\n\r\n\0\r\nQUIT\n");
        let port = u16::from_be_bytes([header[24], header[25]]);
        let source = SocketAddr::from(([header[16], header[17], header[18], header[19]], port));
        assert_eq!(source, own);
        assert_eq!(
            u16::from_be_bytes([header[26], header[27]]),
            world.front.port()
        );
        assert_eq!(&header[28..], b"bytes");
    }
}

/// Reads one HTTP/1.1 head, in lower case.
pub(crate) async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(SOON, stream.read_u8()).await.unwrap().unwrap());
    }
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

#[tokio::test]
async fn an_http_origin_hears_the_visitors_address_from_the_agent_alone() {
    for (how, expected) in [
        (VisitorAddress::Forwarded, true),
        (VisitorAddress::Hidden, false),
    ] {
        let world = World::start(relay::server::Transport::Quic);
        let (listener, address) = origin("http").await;
        let _agent = world.agent_with("mynas", &address, how).await;
        let mut visitor = world.visit("mynas.nas.localhost").await;
        let request = "GET /a?b HTTP/1.1\r\nHost: mynas.nas.localhost:8443\r\nX-Forwarded-For: 192.0.2.66\r\n\
                       Forwarded: for=192.0.2.66\r\nX-Real-IP: 192.0.2.66\r\nConnection: x-hop\r\nX-Hop: 1\r\n\
                       Keep: 1\r\n\r\n";
        visitor.write_all(request.as_bytes()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_head(&mut stream).await;
        assert!(head.starts_with("get /a?b http/1.1\r\n"), "{head}");
        assert!(
            head.contains("host: mynas.nas.localhost:8443\r\n"),
            "{head}"
        );
        assert!(head.contains("keep: 1\r\n"), "{head}");
        assert!(
            !head.contains("192.0.2.66") && !head.contains("x-hop"),
            "{head}"
        );
        assert_eq!(
            head.contains("x-forwarded-for: 127.0.0.1\r\n"),
            expected,
            "{head}"
        );
        assert_eq!(
            head.contains("x-forwarded-proto: https\r\n"),
            expected,
            "{head}"
        );
    }
}

#[tokio::test]
async fn a_request_for_a_host_not_served_here_is_misdirected() {
    let world = World::start(relay::server::Transport::Quic);
    let (_listener, address) = origin("http").await;
    let _agent = world.agent("mynas", &address).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: other.nas.localhost\r\n\r\n", "421"),
        ("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", "421"),
        (
            "GET http://other.nas.localhost/ HTTP/1.1\r\nHost: other.nas.localhost\r\n\r\n",
            "421",
        ),
        (
            "GET http://mynas.nas.localhost/ HTTP/1.1\r\nHost: other.nas.localhost\r\n\r\n",
            "400",
        ),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        (
            "CONNECT mynas.nas.localhost:443 HTTP/1.1\r\nHost: mynas.nas.localhost:443\r\n\r\n",
            "405",
        ),
    ] {
        let mut visitor = world.visit("mynas.nas.localhost").await;
        visitor.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        timeout(SOON, visitor.read_exact(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&answer[9..], status.as_bytes(), "{request}");
    }
}

#[tokio::test]
async fn an_origin_that_is_down_is_explained() {
    let world = World::start(relay::server::Transport::Quic);
    let (listener, address) = origin("http").await;
    drop(listener);
    let _agent = world.agent("mynas", &address).await;
    let mut visitor = world.visit("mynas.nas.localhost").await;
    visitor
        .write_all(b"GET / HTTP/1.1\r\nHost: mynas.nas.localhost\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    timeout(SOON, visitor.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(answer.contains("its service does not answer"), "{answer}");
}

#[tokio::test]
async fn a_plain_origin_that_is_down_closes_in_order() {
    let world = World::start(relay::server::Transport::Quic);
    let (listener, address) = origin("tcp").await;
    drop(listener);
    let _agent = world.agent("mynas", &address).await;
    let mut visitor = world.visit("mynas.nas.localhost").await;
    let mut nothing = Vec::new();
    timeout(SOON, visitor.read_to_end(&mut nothing))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(nothing, b"");
}
