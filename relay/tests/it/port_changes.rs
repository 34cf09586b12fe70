//! When public ports open and close, as devices lose them, tunnels follow one another and others have them.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use relay::server::Transport;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use wire::frame::Frame;
use wire::ports::{PortState, PublishedPort};
use wire::{ALPN_TUNNEL, Features, Hello, InstanceId};

use crate::by_hand;
use crate::ports::{Echo, OPEN_TCP, OPEN_UDP, Owner, RANGE, at, echoed, visitor};
use crate::world::{Predecessor, SOON, World, eventually};

/// A tunnel by hand of an agent that knows ports.
async fn tunnel(world: &World, name: &str) -> TlsStream<TcpStream> {
    let mut agent = by_hand::connect(world, name, ALPN_TUNNEL).await;
    let hello = Frame::Hello(Hello {
        version: 1,
        features: Features::TLS_CARRIER.and(Features::PORTS),
        instance: InstanceId([9; 16]),
        software: "by hand/1".to_owned(),
    });
    agent.write_all(&hello.encode().unwrap()).await.unwrap();
    while !matches!(by_hand::hear(&mut agent).await, Frame::Welcome { .. }) {}
    agent
}

async fn publish(agent: &mut TlsStream<TcpStream>, ports: &[&str]) {
    let ports = ports.iter().map(|port| port.parse().unwrap()).collect();
    let frame = Frame::Publish { ports }.encode().unwrap();
    agent.write_all(&frame).await.unwrap();
    agent.flush().await.unwrap();
}

async fn published(agent: &mut TlsStream<TcpStream>) -> Vec<PublishedPort> {
    loop {
        if let Frame::Published { each } = by_hand::hear(agent).await {
            return each;
        }
    }
}

#[tokio::test]
async fn a_tunnel_that_follows_another_keeps_the_ports_until_its_agent_says_which_it_has() {
    let world = World::with_ports(Transport::Tls, RANGE);
    world.device("mynas");
    world.give_ports("mynas", &["20022/tcp"]);
    let mut first = tunnel(&world, "mynas").await;
    publish(&mut first, &["20022/tcp"]).await;
    world.until_metric(OPEN_TCP, 1).await;
    let mut second = tunnel(&world, "mynas").await;
    while !matches!(by_hand::hear(&mut first).await, Frame::Close { .. }) {}
    assert_eq!(world.metric(OPEN_TCP), 1);
    publish(&mut second, &["20022/tcp"]).await;
    assert_eq!(published(&mut second).await[0].state, Ok(PortState::Open));
    assert_eq!(world.metric(OPEN_TCP), 1);
    // Who says nothing has none after a while.
    let _third = tunnel(&world, "mynas").await;
    while !matches!(by_hand::hear(&mut second).await, Frame::Close { .. }) {}
    assert_eq!(world.metric(OPEN_TCP), 1);
    eventually(|| world.metric(OPEN_TCP) == 0).await;
}

#[tokio::test]
async fn what_could_not_be_listened_on_is_tried_again() {
    let world = World::with_ports(Transport::Tls, RANGE);
    world.device("mynas");
    world.give_ports("mynas", &["20022/tcp"]);
    let occupied = TcpListener::bind(at(&world, 20_022)).await.unwrap();
    let mut agent = tunnel(&world, "mynas").await;
    publish(&mut agent, &["20022/tcp"]).await;
    let state = published(&mut agent).await[0].state;
    assert_eq!(state, Ok(PortState::Unavailable));
    drop(occupied);
    assert_eq!(published(&mut agent).await[0].state, Ok(PortState::Open));
    // Closed and open again, while whoever attended to it is about to leave.
    for _ in 0..20 {
        world.give_ports("mynas", &[]);
        world.give_ports("mynas", &["20022/tcp"]);
    }
    eventually(|| world.metric(OPEN_TCP) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_udp_port_with_visitors_is_open_again_soon_after_it_was_lost() {
    let world = World::with_ports(Transport::Quic, RANGE);
    let service = Echo::over_udp(1).await;
    let text = format!(
        "[services.names]\norigin = \"udp://{}\"\npublic = \"20053/udp\"\n",
        service.address
    );
    let _owner = Owner::of(&world, &text).await;
    for _ in 0..2 {
        world.give_ports("mynas", &["20053/udp"]);
        eventually(|| world.metric(OPEN_UDP) == 1).await;
        let mut here = Vec::new();
        for round in 0..10 {
            let one = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            one.send_to(&[round; 40], at(&world, 20_053)).await.unwrap();
            here.push(one);
        }
        world.give_ports("mynas", &[]);
        world.give_ports("mynas", &["20053/udp"]);
        eventually(|| world.metric(OPEN_UDP) == 1).await;
        echoed(&visitor(&world, 20_053).await, b"again").await;
        world.give_ports("mynas", &[]);
    }
}

#[tokio::test]
async fn an_agent_that_publishes_without_end_is_heeded_once_a_second_and_its_newest_counts() {
    let world = World::with_ports(Transport::Tls, RANGE);
    world.device("mynas");
    let mut agent = tunnel(&world, "mynas").await;
    for round in 0..200 {
        publish(&mut agent, &[["20022/tcp", "20023/tcp"][round % 2]]).await;
    }
    publish(&mut agent, &["20024/tcp"]).await;
    let mut count = 1;
    while published(&mut agent).await[0].port.number.get() != 20_024 {
        count += 1;
    }
    assert!(count <= 10, "{count}");
}

#[tokio::test]
async fn who_came_before_its_port_was_closed_leaves_when_the_device_loses_it() {
    let world = World::with_ports(Transport::Quic, RANGE);
    let shell = Echo::over_tcp("shell").await;
    let by_name = format!("[services.shell]\norigin = \"tcp://{}\"\n", shell.address);
    let mut owner = Owner::of(&world, &format!("{by_name}public = \"20022/tcp\"\n")).await;
    world.give_ports("mynas", &["20022/tcp"]);
    world.until_metric(OPEN_TCP, 1).await;
    let mut early = TcpStream::connect(at(&world, 20_022)).await.unwrap();
    early.read_exact(&mut [0; 5]).await.unwrap();
    owner.says(&by_name);
    eventually(|| world.metric(OPEN_TCP) == 0).await;
    early.write_all(b"here").await.unwrap();
    let again = timeout(SOON, early.read_exact(&mut [0; 4])).await;
    again.unwrap().unwrap();
    world.give_ports("mynas", &[]);
    let cut = timeout(SOON, early.read(&mut [0; 16])).await.unwrap();
    assert!(cut.is_err(), "it was cut, which is no orderly end");
}

/// A relay that another has taken over from, and that one again, so often: the port of its device is open at none, and closed at the
/// first when its tunnel has ended.
async fn handed_over(followers: usize) -> (World, Vec<Predecessor>) {
    let mut world = World::with_ports(Transport::Tls, RANGE);
    world.device("mynas");
    world.give_ports("mynas", &["20022/tcp"]);
    let mut agent = tunnel(&world, "mynas").await;
    publish(&mut agent, &["20022/tcp"]).await;
    world.until_metric(OPEN_TCP, 1).await;
    let mut before = Vec::new();
    for _ in 0..followers {
        let relay = world.take_over();
        relay.relay.give_way();
        before.push(relay);
    }
    drop(agent);
    before[0].metric_becomes(OPEN_TCP, 0).await;
    assert_eq!(world.metric(OPEN_TCP), 0);
    (world, before)
}

/// Somebody who comes to the port while no process accepts there, and says something.
async fn waits(world: &World) -> TcpStream {
    let mut visitor = TcpStream::connect(at(world, 20_022)).await.unwrap();
    visitor.write_all(b"!").await.unwrap();
    visitor.shutdown().await.unwrap();
    visitor
}

/// What comes of it.
async fn heard(mut visitor: TcpStream, within: Duration) -> io::Result<Vec<u8>> {
    let mut heard = Vec::new();
    timeout(within, visitor.read_to_end(&mut heard))
        .await
        .unwrap()?;
    Ok(heard)
}

#[tokio::test]
async fn who_waits_at_a_port_at_which_no_process_accepts_is_answered_by_the_last() {
    const WAITING: usize = 50;
    for followers in 1..=2 {
        let (world, _before) = handed_over(followers).await;
        let mut waiting = Vec::new();
        for _ in 0..WAITING {
            waiting.push(waits(&world).await);
        }
        let shell = Echo::over_tcp("shell").await;
        let text = shell.at_port("20022/tcp");
        let _owner = Owner::of(&world, &text).await;
        for visitor in waiting {
            assert_eq!(heard(visitor, SOON).await.unwrap(), b"shell!");
        }
        assert_eq!(world.metric(OPEN_TCP), 1);
    }
}

#[tokio::test]
async fn nobody_waits_at_a_port_that_the_device_has_no_more_or_does_not_want() {
    let (world, _before) = handed_over(1).await;
    let visitor = waits(&world).await;
    world.give_ports("mynas", &[]);
    let sent_away = heard(visitor, SOON).await.unwrap_err();
    assert_eq!(sent_away.kind(), io::ErrorKind::ConnectionReset);

    let (world, _before) = handed_over(1).await;
    let visitor = waits(&world).await;
    let mut agent = tunnel(&world, "mynas").await;
    publish(&mut agent, &["20023/tcp"]).await;
    let sent_away = heard(visitor, SOON).await.unwrap_err();
    assert_eq!(sent_away.kind(), io::ErrorKind::ConnectionReset);
    // It has it again when it wants it.
    publish(&mut agent, &["20022/tcp"]).await;
    world.until_metric(OPEN_TCP, 1).await;
    drop(TcpStream::connect(at(&world, 20_022)).await.unwrap());
}

#[tokio::test]
async fn who_waits_for_a_device_that_does_not_come_is_sent_away_when_agents_have_had_their_time() {
    const AGENTS_TIME: Duration = Duration::from_secs(20);
    let (world, _before) = handed_over(1).await;
    let visitor = waits(&world).await;
    let sent_away = heard(visitor, AGENTS_TIME + SOON).await.unwrap_err();
    assert_eq!(sent_away.kind(), io::ErrorKind::ConnectionReset);
    let refused = TcpStream::connect(at(&world, 20_022)).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}
