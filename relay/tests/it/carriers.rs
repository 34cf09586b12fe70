//! Where UDP is blocked: TLS connections that are there before the visitor is.

use relay::server::Transport;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use wire::frame::{Frame, Ticket};
use wire::{ALPN_CARRIER, ALPN_TUNNEL, Features, Hello, InstanceId};

use crate::by_hand::{connect, hear};
use crate::byte_path::origin;
use crate::raw;
use crate::world::{SOON, World, eventually};

const SPARE: &str = "causeway_relay_spare_carriers";
const FROM_AGENTS: &str = "causeway_relay_visitors_handed_over_total{to=\"tunnel\"}";
const REFUSED: &str = "causeway_relay_tunnels_refused_total{reason=\"unknown_ticket\"}";

async fn spare_carriers_are(world: &World, count: u64) {
    eventually(|| world.metric(SPARE) == count).await;
}

/// A visitor who gets an octet through, and the origin's end of it.
async fn visitor(world: &World, listener: &TcpListener) -> (TlsStream<TcpStream>, TcpStream) {
    let mut visitor = world.visit("mynas.nas.localhost").await;
    let (mut stream, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    stream.write_all(b"x").await.unwrap();
    timeout(SOON, visitor.read_u8()).await.unwrap().unwrap();
    (visitor, stream)
}

#[tokio::test]
async fn the_next_visitor_finds_a_carrier_and_a_device_at_rest_keeps_none() {
    let world = World::start(Transport::Tls);
    let (listener, address) = origin("tcp").await;
    let agent = world.agent("mynas", &address).await;
    spare_carriers_are(&world, 0).await;
    let first = visitor(&world, &listener).await;
    spare_carriers_are(&world, 1).await;
    world.metric_is(FROM_AGENTS, 3).await; // the tunnel, the visitor's carrier, and the spare one
    let second = visitor(&world, &listener).await;
    world.until_metric(FROM_AGENTS, 4).await;
    spare_carriers_are(&world, 1).await;
    drop((first, second));
    // Nobody comes any more.
    spare_carriers_are(&world, 0).await;
    // And the agent can still be visited.
    visitor(&world, &listener).await;
    agent.stop().await;
    spare_carriers_are(&world, 0).await;
}

/// A tunnel over TLS, spoken by hand.
struct ByHand<'a> {
    world: &'a World,
    tunnel: TlsStream<TcpStream>,
}

impl<'a> ByHand<'a> {
    async fn attached(world: &'a World) -> Self {
        world.device("demo");
        Self::attached_again(world).await
    }

    async fn attached_again(world: &'a World) -> Self {
        let mut tunnel = connect(world, "demo", ALPN_TUNNEL).await;
        let hello = Frame::Hello(Hello {
            version: 1,
            features: Features::TLS_CARRIER,
            instance: InstanceId([7; 16]),
            software: "by hand".into(),
        });
        tunnel.write_all(&hello.encode().unwrap()).await.unwrap();
        assert!(matches!(hear(&mut tunnel).await, Frame::Welcome { .. }));
        Self { world, tunnel }
    }

    async fn ticket(&mut self) -> Ticket {
        let Frame::Dial { ticket } = hear(&mut self.tunnel).await else {
            panic!("no carrier is asked for");
        };
        ticket
    }

    async fn carrier(&self, ticket: Ticket) -> TlsStream<TcpStream> {
        let mut carrier = connect(self.world, "demo", ALPN_CARRIER).await;
        carrier.get_ref().0.set_nodelay(true).unwrap(); // what is said next is not to wait for this to be acknowledged
        let carry = Frame::Carry { ticket }.encode().unwrap();
        carrier.write_all(&carry).await.unwrap();
        carrier
    }
}

#[tokio::test]
async fn a_spare_carrier_that_has_ended_or_spoken_is_no_visitors() {
    for speaks in [false, true] {
        let world = World::start(Transport::Tls);
        let mut agent = ByHand::attached(&world).await;
        let _first = raw::visitor(&world).await;
        let (for_visitor, for_spare) = (agent.ticket().await, agent.ticket().await);
        let mut carrier = agent.carrier(for_visitor).await;
        assert!(matches!(hear(&mut carrier).await, Frame::Open(_)));
        let mut spare = agent.carrier(for_spare).await;
        spare_carriers_are(&world, 1).await;
        match speaks {
            true => spare.write_all(b"too soon").await.unwrap(),
            false => drop(spare.get_mut().0.shutdown().await),
        }
        // The relay has no way to say that it has heard; its answer to a ping on the tunnel comes later than that.
        for sequence in 0..20 {
            let ping = Frame::Ping { sequence }.encode().unwrap();
            agent.tunnel.write_all(&ping).await.unwrap();
            assert_eq!(hear(&mut agent.tunnel).await, Frame::Pong { sequence });
        }
        let _second = raw::visitor(&world).await;
        let ticket = agent.ticket().await;
        let mut carrier = agent.carrier(ticket).await;
        assert!(matches!(hear(&mut carrier).await, Frame::Open(_)));
    }
}

#[tokio::test]
async fn a_ticket_works_once_and_no_longer_than_its_tunnel() {
    let world = World::start(Transport::Tls);
    let mut agent = ByHand::attached(&world).await;
    let _visitor = raw::visitor(&world).await;
    let (for_visitor, for_spare) = (agent.ticket().await, agent.ticket().await);
    let mut carrier = agent.carrier(for_visitor).await;
    assert!(matches!(hear(&mut carrier).await, Frame::Open(_)));
    let _again = agent.carrier(for_visitor).await;
    world.metric_is(REFUSED, 1).await;
    let ByHand { tunnel, .. } = agent;
    drop(tunnel);
    world
        .until_metric("causeway_relay_tunnels{transport=\"tls\"}", 0)
        .await;
    let late = ByHand {
        world: &world,
        tunnel: connect(&world, "demo", ALPN_TUNNEL).await,
    };
    let _late = late.carrier(for_spare).await;
    world.metric_is(REFUSED, 2).await;
    spare_carriers_are(&world, 0).await;
}

#[tokio::test]
async fn a_visitor_whose_tunnel_ends_before_a_carrier_comes_goes_on_with_the_next_tunnel() {
    let world = World::start(Transport::Tls);
    let mut older = ByHand::attached(&world).await;
    let _visitor = raw::visitor(&world).await;
    older.ticket().await;
    let mut newer = ByHand::attached_again(&world).await;
    drop(older);
    let ticket = newer.ticket().await;
    let mut carrier = newer.carrier(ticket).await;
    assert!(matches!(hear(&mut carrier).await, Frame::Open(_)));
    let refused = "causeway_relay_visitors_refused_total{reason=\"no_carrier\"}";
    assert_eq!(world.metric(refused), 0);
}
