//! Visitors and agents who come by way of a proxy, which says who they are.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use relay::agent::VisitorAddress;
use relay::resolve::Resolver;
use relay::server::{LimitsConfig, Network, Transport};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use wire::{ALPN_CARRIER, Frame, InstanceId, proxy_v2};

use crate::by_hand::{connect, hear};
use crate::byte_path::{origin, read_head};
use crate::raw;
use crate::world::{SOON, TRANSPORTS, World, eventually};

/// Where proxies are; everybody else in these tests is at 127.0.0.1.
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

pub(crate) const VISITOR: &str = "203.0.113.7:50000";
const SITE: &str = "198.51.100.1:443";

/// Names demo.nas.localhost.
const HELLO: &[u8] = include_bytes!("../../wire/testdata/chromium.bin");

const HOST: &str = "mynas.nas.localhost";

pub(crate) fn proxies() -> Vec<Network> {
    vec!["127.0.0.8/31".parse().unwrap()]
}

pub(crate) fn header(visitor: &str) -> Vec<u8> {
    proxy_v2::encode(visitor.parse().unwrap(), SITE.parse().unwrap())
}

fn refused(reason: &str) -> String {
    format!("causeway_relay_visitors_refused_total{{reason=\"{reason}\"}}")
}

/// A connection from the proxy's address that has said this.
pub(crate) async fn from_proxy(front: SocketAddr, said: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((PROXY, 0).into()).unwrap();
    let mut stream = socket.connect(front).await.unwrap();
    stream.write_all(said).await.unwrap();
    stream
}

/// What the front says until it closes, in order or not.
async fn answer(mut stream: TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut answer))
        .await
        .unwrap();
    answer
}

/// A proxy before the front of `world`, which says of everybody that he is at [`VISITOR`]. It ends with the value.
async fn proxy(world: &World) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (address, front) = (listener.local_addr().unwrap(), world.front);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut passed_on = JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = from_proxy(front, &header(VISITOR)).await;
            passed_on.spawn(async move {
                // Whoever of the two ends it, however.
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (address, tasks)
}

#[tokio::test]
async fn an_origin_hears_who_has_come_to_the_proxy_and_where() {
    for transport in TRANSPORTS {
        let world = World::proxied(transport, proxies());
        let (listener, address) = origin("tcp").await;
        let _agent = world
            .agent_with("mynas", &address, VisitorAddress::ProxyV2)
            .await;
        for visitor in [VISITOR, "[2001:db8::7]:50001"] {
            // In pieces, the last of which has the beginning of what follows.
            let stream = from_proxy(world.front, &header(visitor)[..13]).await;
            let rest = header(visitor).split_off(13);
            let (first, last) = rest.split_at(5);
            let mut stream = stream;
            stream.write_all(first).await.unwrap();
            tokio::task::yield_now().await;
            stream.write_all(last).await.unwrap();
            let mut visiting = world.try_visit_on(stream, HOST).await.unwrap();
            visiting.write_all(b"bytes").await.unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            let expected = [&header(visitor)[..], b"bytes"].concat();
            let mut heard = vec![0; expected.len()];
            let read = timeout(SOON, stream.read_exact(&mut heard)).await;
            read.unwrap().unwrap();
            assert_eq!(heard, expected, "{transport:?}");
        }
        let headers = "causeway_relay_proxy_headers_total{of=\"visitor\"}";
        world.metric_is(headers, 2).await;

        // From elsewhere everybody is who he is.
        let mut straight = world.visit(HOST).await;
        straight.write_all(b"b").await.unwrap();
        let own = straight.get_ref().0.local_addr().unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let expected = proxy_v2::encode(own, world.front);
        let mut heard = vec![0; expected.len()];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, expected);
    }
}

#[tokio::test]
async fn agents_carriers_and_bulk_come_by_way_of_a_proxy_too() {
    let world = World::proxied(Transport::Tls, proxies());
    let (listener, address) = origin("tls").await;
    let (front, _proxy) = proxy(&world).await;
    let state = world.device("demo");
    let mut agent = world
        .agent_of(
            state,
            Resolver::Fixed(front),
            &address,
            VisitorAddress::Hidden,
        )
        .await;
    assert_eq!(agent.is_attached().await.transport, Transport::Tls);
    let relay = world.relay.as_ref().unwrap();
    let device = world.device_id("demo");
    let attachment = relay.presence().of(&device).unwrap();
    assert_eq!(attachment.seen_as, VISITOR.parse().unwrap());

    let mut visitor = from_proxy(world.front, &[&header(VISITOR)[..], HELLO].concat()).await;
    let (mut stream, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    let mut hello = vec![0; HELLO.len()];
    stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(hello, HELLO);
    let octets = raw::payload(3_000_000);
    let sending = async {
        stream.write_all(&octets).await.unwrap();
        stream.shutdown().await.unwrap();
    };
    let mut came = Vec::new();
    let both = async { tokio::join!(sending, visitor.read_to_end(&mut came)) };
    timeout(SOON, both).await.unwrap().1.unwrap();
    assert!(came == octets);
    // Its tunnel, a carrier at least, and the raw connection.
    let handed_over = "causeway_relay_visitors_handed_over_total{to=\"tunnel\"}";
    world.until_metric(handed_over, 3).await;
    world.until_metric(raw::CAME, 1).await;
}

#[tokio::test]
async fn a_header_is_believed_from_a_proxy_alone_and_once() {
    let world = World::proxied(Transport::Quic, proxies());
    let version_1 = b"PROXY TCP4 203.0.113.7 198.51.100.1 50000 443\r\n";
    let and_hello = |header: &[u8]| [header, HELLO].concat();
    let nested = [&header(VISITOR)[..], &header(VISITOR), HELLO].concat();
    let mut malformed = header(VISITOR);
    malformed[13] = 0x51;
    let checksum = [
        &header(VISITOR)[..14],
        &[0, 19],
        &header(VISITOR)[16..],
        &[3, 0, 4, 1, 2, 3, 4],
        HELLO,
    ]
    .concat();
    let mut too_long = header(VISITOR);
    too_long[14..16].copy_from_slice(&[0xff, 0xff]);
    for (is_proxy, said, reason) in [
        (false, and_hello(&header(VISITOR)), "proxy_unexpected"),
        (false, and_hello(version_1), "proxy_unexpected"),
        (false, and_hello(&proxy_v2::LOCAL), "proxy_unexpected"),
        (true, nested, "proxy_unexpected"),
        (true, HELLO.to_vec(), "proxy_missing"),
        (true, b"GET / HTTP/1.1\r\n\r\n".to_vec(), "proxy_missing"),
        (true, and_hello(version_1), "proxy_version"),
        (true, and_hello(&malformed), "proxy_malformed"),
        (true, checksum, "proxy_checksum"),
        (true, and_hello(&too_long), "proxy_too_long"),
        (true, and_hello(&proxy_v2::LOCAL), "unknown_name"),
        (true, and_hello(&header(VISITOR)), "unknown_name"),
        (true, [&header(VISITOR)[..], b"GET /"].concat(), "not_tls"),
    ] {
        let before = world.metric(&refused(reason));
        let begin = Instant::now();
        let stream = if is_proxy {
            from_proxy(world.front, &said).await
        } else {
            let mut stream = TcpStream::connect(world.front).await.unwrap();
            stream.write_all(&said).await.unwrap();
            stream
        };
        // Only who is known to be a visitor is told anything.
        let told = if reason == "unknown_name" { 7 } else { 0 };
        assert_eq!(answer(stream).await.len(), told, "{reason}: {said:?}");
        assert!(begin.elapsed() < Duration::from_secs(4), "{reason}");
        world.metric_is(&refused(reason), before + 1).await;
    }
    let own = "causeway_relay_proxy_headers_total{of=\"proxy\"}";
    assert_eq!(world.metric(own), 1);
}

#[tokio::test]
async fn who_is_a_proxy_changes_while_the_relay_runs() {
    let world = World::start(Transport::Quic);
    let said = [&header(VISITOR)[..], HELLO].concat();
    let relay = world.relay.as_ref().unwrap();
    for (proxies, reason) in [
        (Vec::new(), "proxy_unexpected"),
        (proxies(), "unknown_name"),
        (Vec::new(), "proxy_unexpected"),
    ] {
        relay.set_proxies(&proxies);
        let before = world.metric(&refused(reason));
        answer(from_proxy(world.front, &said).await).await;
        world.metric_is(&refused(reason), before + 1).await;
    }
}

#[tokio::test]
async fn limits_of_an_address_are_those_of_the_visitors_and_not_of_the_proxys() {
    let world = World::proxied(Transport::Quic, proxies());
    world.relay.as_ref().unwrap().set_limits(&LimitsConfig {
        connections_per_second_per_address: Some(10),
        unnamed_per_address: Some(4),
        ..LimitsConfig::default()
    });
    // Each of a hundred says who it is, and then nothing; and so do ten of one address.
    let mut held = Vec::new();
    for number in 0..100 {
        let visitor = format!("203.0.113.{number}:50000");
        held.push(from_proxy(world.front, &header(&visitor)).await);
    }
    for _ in 0..10 {
        held.push(from_proxy(world.front, &header("198.51.100.9:50000")).await);
    }
    let headers = "causeway_relay_proxy_headers_total{of=\"visitor\"}";
    world.metric_is(headers, 110).await;
    world.metric_is(&refused("address_busy"), 6).await;
    drop(held);
    eventually(|| world.metric(&refused("left_early")) == 104).await;

    // At once one address may come 40 times, and 10 times in each second after that.
    let said = [&header("198.51.100.10:50000")[..], HELLO].concat();
    let mut held = Vec::new();
    for _ in 0..300 {
        held.push(from_proxy(world.front, &said).await);
    }
    let told = ["unknown_name", "address_busy", "address_too_fast"];
    eventually(|| {
        told.map(|reason| world.metric(&refused(reason)))
            .iter()
            .sum::<u64>()
            == 306
    })
    .await;
    let [let_in, _, too_fast] = told.map(|reason| world.metric(&refused(reason)));
    assert!(let_in >= 40 && too_fast > 0, "{let_in}, {too_fast}");
    let said = [&header("198.51.100.11:50000")[..], HELLO].concat();
    assert_eq!(answer(from_proxy(world.front, &said).await).await.len(), 7);
}

#[tokio::test]
async fn a_header_and_the_hello_after_it_have_one_time_together() {
    let world = World::proxied(Transport::Quic, proxies());
    let begin = Instant::now();
    let silent = answer(from_proxy(world.front, b"").await);
    let half = answer(from_proxy(world.front, &header(VISITOR)[..20]).await);
    let dripping = |begun: Vec<u8>, octets: Vec<u8>| async move {
        let mut stream = from_proxy(world.front, &begun).await;
        for octet in octets {
            let closed = timeout(Duration::from_millis(300), stream.read(&mut [0])).await;
            if let Ok(closed) = closed {
                return closed.unwrap_or(0);
            }
            // It may be closed meanwhile, which the next look tells.
            let _ = stream.write_all(&[octet]).await;
        }
        panic!("all was taken");
    };
    let header_drips = dripping(Vec::new(), header(VISITOR));
    // A header that has taken most of the time leaves the rest of it.
    let begun = header(VISITOR)[..13].to_vec();
    let both_drip = dripping(begun, [&header(VISITOR)[13..], HELLO].concat());
    let all = async { tokio::join!(silent, half, header_drips, both_drip) };
    let (silent, half, header_drips, both_drip) = timeout(SOON, all).await.unwrap();
    assert!(silent.is_empty() && half.is_empty());
    assert_eq!((header_drips, both_drip), (0, 0));
    let took = begin.elapsed();
    assert!(took >= Duration::from_secs(4), "{took:?}");
    assert!(took < Duration::from_secs(9), "{took:?}");
    world.metric_is(&refused("too_slow"), 4).await;
}

#[tokio::test]
async fn those_of_a_proxy_who_say_nothing_leave_room_for_others() {
    let world = World::proxied(Transport::Quic, proxies());
    world.relay.as_ref().unwrap().set_limits(&LimitsConfig {
        unnamed: Some(16),
        ..LimitsConfig::default()
    });
    let mut held = Vec::new();
    for _ in 0..60 {
        held.push(from_proxy(world.front, &proxy_v2::LOCAL[..7]).await);
    }
    eventually(|| {
        let [full, gave_way] =
            ["unnamed_full", "gave_way"].map(|reason| world.metric(&refused(reason)));
        full + gave_way >= 40
    })
    .await;
    let said = [&header(VISITOR)[..], HELLO].concat();
    eventually_told(&world, &said).await;
}

/// Who comes while others leave may come too early.
async fn eventually_told(world: &World, said: &[u8]) {
    let told = async { while answer(from_proxy(world.front, said).await).await.len() != 7 {} };
    timeout(SOON, told).await.unwrap();
}

#[tokio::test]
async fn a_visitor_who_is_handed_to_the_relay_before_is_still_who_the_proxy_has_said() {
    let mut world = World::proxied(Transport::Tls, proxies());
    world.device("demo");
    let mut tunnel = raw::tunnel(&world, InstanceId([7; 16])).await;
    let before = world.take_over();
    before.relay.give_way();
    assert!(matches!(hear(&mut tunnel).await, Frame::Drain { .. }));
    let said = [&header(VISITOR)[..], HELLO].concat();
    let _visitor = from_proxy(world.front, &said).await;
    let Frame::Dial { ticket } = hear(&mut tunnel).await else {
        panic!("no carrier is asked for")
    };
    let mut carrier = connect(&world, "demo", ALPN_CARRIER).await;
    let carry = Frame::Carry { ticket }.encode().unwrap();
    carrier.write_all(&carry).await.unwrap();
    let Frame::Open(open) = hear(&mut carrier).await else {
        panic!("nobody comes")
    };
    let expected = (VISITOR.parse().unwrap(), SITE.parse().unwrap());
    assert_eq!((open.visitor, open.front), expected);
    let handed_over = "causeway_relay_visitors_handed_over_total{to=\"predecessor\"}";
    world.until_metric(handed_over, 1).await;
}

#[tokio::test]
async fn an_http_origin_hears_who_has_come_to_the_proxy() {
    let world = World::proxied(Transport::Quic, proxies());
    let (listener, address) = origin("http").await;
    let _agent = world.agent("mynas", &address).await;
    let stream = from_proxy(world.front, &header("[2001:db8::7]:50000")).await;
    let mut visitor = world.try_visit_on(stream, HOST).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-For: 192.0.2.66\r\n\r\n");
    visitor.write_all(request.as_bytes()).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let head = read_head(&mut stream).await;
    for line in [
        "x-forwarded-for: 2001:db8::7\r\n",
        "forwarded: for=\"[2001:db8::7]\";host=mynas.nas.localhost;proto=https\r\n",
    ] {
        assert!(head.contains(line), "{head}");
    }
    assert!(!head.contains("192.0.2.66"), "{head}");
}
