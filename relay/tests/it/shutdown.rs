//! The relay stops in order.

use std::time::{Duration, Instant};

use relay::server::Transport;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::byte_path::origin;
use crate::world::{SOON, TRANSPORTS, World};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_relay_without_visitors_stops_at_once() {
    for transport in TRANSPORTS {
        let mut world = World::start(transport);
        let (_listener, address) = origin("tcp").await;
        let mut agent = world.agent("mynas", &address).await;
        let start = Instant::now();
        timeout(SOON, world.relay.take().unwrap().shutdown())
            .await
            .unwrap();
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{:?}",
            start.elapsed()
        );
        agent.is_detached().await;
        TcpStream::connect(world.front)
            .await
            .expect_err("nobody listens");
    }
}

#[tokio::test]
async fn a_visitor_may_finish_and_no_new_one_is_taken() {
    for transport in TRANSPORTS {
        let mut world = World::start(transport);
        let (listener, address) = origin("tcp").await;
        let _agent = world.agent("mynas", &address).await;
        let mut visitor = world.visit("mynas.nas.localhost").await;
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"first half, ").await.unwrap();
        let mut heard = [0; 12];
        timeout(SOON, visitor.read_exact(&mut heard))
            .await
            .unwrap()
            .unwrap();

        let stopping = tokio::spawn(world.relay.take().unwrap().shutdown());
        timeout(SOON, async {
            while TcpStream::connect(world.front).await.is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        stream.write_all(b"second half").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = String::new();
        timeout(SOON, visitor.read_to_string(&mut rest))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(rest, "second half", "{transport:?}");
        visitor.shutdown().await.unwrap();
        drop(visitor);
        timeout(SOON, stopping).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_relay_that_leaves_takes_new_visitors_and_no_tunnels() {
    for transport in TRANSPORTS {
        let mut world = World::start(transport);
        let (listener, address) = origin("tcp").await;
        let _agent = world.agent("mynas", &address).await;
        let mut relay = world.relay.take().unwrap();
        relay.set_end(LONG, Duration::ZERO);
        let leaving = relay.leave();
        let visitors = async {
            // The agent has heard that it should go, and has nowhere else to go.
            let refused = "causeway_relay_tunnels_refused_total{reason=\"leaving\"}";
            world.until_metric(refused, 2).await;
            assert_eq!(world.metric("causeway_relay_draining"), 1);
            if transport == Transport::Quic {
                // Who was refused over QUIC does not try the same over TLS.
                let over_tls = "causeway_relay_handshakes_total{kind=\"tls\",outcome=\"done\"}";
                assert_eq!(world.metric(over_tls), 0);
                let refused = "causeway_relay_handshakes_total{kind=\"quic\",outcome=\"refused\"}";
                assert!(world.metric(refused) >= 2);
            }
            for _ in 0..3 {
                let mut visitor = world.visit("mynas.nas.localhost").await;
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(b"here").await.unwrap();
                stream.shutdown().await.unwrap();
                let mut heard = String::new();
                visitor.read_to_string(&mut heard).await.unwrap();
                assert_eq!(heard, "here", "{transport:?}");
            }
        };
        tokio::select! {
            () = leaving => panic!("it has left too early"),
            done = timeout(SOON, visitors) => done.unwrap(),
        }
        timeout(SOON, relay.shutdown()).await.unwrap();
        TcpStream::connect(world.front)
            .await
            .expect_err("nobody listens");
    }
}

#[tokio::test]
async fn a_relay_leaves_for_as_long_as_it_is_told() {
    let mut world = World::start(Transport::Quic);
    let mut relay = world.relay.take().unwrap();
    timeout(SOON, relay.leave()).await.unwrap();
    let told = Duration::from_millis(300);
    relay.set_end(told, Duration::ZERO);
    let start = Instant::now();
    timeout(SOON, relay.leave()).await.unwrap();
    assert!(start.elapsed() >= told);
    TcpStream::connect(world.front).await.unwrap();
    timeout(SOON, relay.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_visitor_that_does_not_finish_is_cut_after_the_drain() {
    let mut world = World::start(Transport::Quic);
    let (listener, address) = origin("tcp").await;
    let _agent = world.agent("mynas", &address).await;
    let mut visitor = world.visit("mynas.nas.localhost").await;
    let (_stream, _) = listener.accept().await.unwrap();
    let start = Instant::now();
    timeout(SOON, world.relay.take().unwrap().shutdown())
        .await
        .unwrap();
    assert!(
        start.elapsed() >= Duration::from_secs(5),
        "the drain is five seconds here"
    );
    assert!(start.elapsed() < Duration::from_secs(7));
    timeout(SOON, visitor.read_u8())
        .await
        .unwrap()
        .expect_err("it was cut");
}

#[tokio::test]
async fn an_agent_is_told_by_the_relays_successor_that_its_tunnel_is_no_more() {
    /// Two round trips and a pause: no agent waits so little for an answer before it takes the relay for dead.
    const TOLD: Duration = Duration::from_millis(900);
    let mut world = World::start(Transport::Quic);
    let (listener, address) = origin("tcp").await;
    let mut agent = world.agent("mynas", &address).await;
    let mut visitor = world.visit("mynas.nas.localhost").await;
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.write_all(b"x").await.unwrap();
    visitor.read_exact(&mut [0]).await.unwrap();
    world.crash_and_start_again();
    let said = Instant::now();
    stream.write_all(b"y").await.unwrap(); // the agent has something to send
    agent.is_detached().await;
    assert!(said.elapsed() < TOLD, "{:?}", said.elapsed());
    assert_eq!(agent.is_attached().await.transport, Transport::Quic);
    drop(world.visit("mynas.nas.localhost").await);
}
