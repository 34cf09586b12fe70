//! Agents older and newer than this relay, spoken by hand.

use relay::server::Transport;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use wire::frame::Frame;
use wire::{ALPN_TUNNEL, CloseCode, Features, Hello, InstanceId};

use crate::by_hand::{connect, hear};
use crate::world::World;

/// An agent that says only what a test makes it say.
struct ByHand {
    stream: TlsStream<TcpStream>,
}

impl ByHand {
    async fn connect(world: &World, name: &str) -> Self {
        world.device(name);
        Self {
            stream: connect(world, name, ALPN_TUNNEL).await,
        }
    }

    async fn say(&mut self, octets: &[u8]) {
        self.stream.write_all(octets).await.unwrap();
    }

    async fn hello(&mut self, version: u32, features: u64) {
        let hello = Hello {
            version,
            features: Features(features),
            instance: InstanceId([7; 16]),
            software: "by hand".into(),
        };
        self.say(&Frame::Hello(hello).encode().unwrap()).await;
    }

    async fn hear(&mut self) -> Frame {
        hear(&mut self.stream).await
    }
}

#[tokio::test]
async fn a_newer_agent_is_answered_in_our_version() {
    let world = World::start(Transport::Tls);
    let mut agent = ByHand::connect(&world, "mynas").await;
    agent.hello(99, u64::MAX).await;
    let Frame::Welcome {
        version,
        features,
        seen_as,
    } = agent.hear().await
    else {
        panic!("not welcome")
    };
    let all = Features::TLS_CARRIER
        .and(Features::RAW_CARRIER)
        .and(Features::DATAGRAMS)
        .and(Features::PORTS);
    assert_eq!((version, features), (1, all));
    assert_eq!(seen_as, agent.stream.get_ref().0.local_addr().unwrap());
    // Frames that this relay does not know are skipped, and the tunnel goes on.
    agent.say(&[0, 3, 0xfa, 0x01, 0]).await;
    agent
        .say(&Frame::Ping { sequence: 3 }.encode().unwrap())
        .await;
    assert_eq!(agent.hear().await, Frame::Pong { sequence: 3 });
}

#[tokio::test]
async fn an_agent_that_brings_no_carriers_is_not_asked_for_any() {
    let world = World::start(Transport::Tls);
    let mut agent = ByHand::connect(&world, "mynas").await;
    agent.hello(1, 0).await;
    agent.hear().await;
    world
        .try_visit("mynas.nas.localhost")
        .await
        .expect_err("there is no way to the device");
    world
        .metric_is(
            "causeway_relay_visitors_refused_total{reason=\"no_carrier\"}",
            1,
        )
        .await;
    agent
        .say(&Frame::Ping { sequence: 4 }.encode().unwrap())
        .await;
    assert_eq!(
        agent.hear().await,
        Frame::Pong { sequence: 4 },
        "nothing was said in between"
    );
}

#[tokio::test]
async fn an_agent_without_a_version_is_told_so() {
    let world = World::start(Transport::Tls);
    let mut agent = ByHand::connect(&world, "mynas").await;
    agent.hello(0, 0).await;
    assert_eq!(
        agent.hear().await,
        Frame::Close {
            code: Ok(CloseCode::Version)
        }
    );
}

#[tokio::test]
async fn an_agent_that_breaks_the_protocol_is_told_so() {
    for nonsense in [&[0xff, 0xff][..], &[0, 2, 0xff, 0xff], &[0, 2, 0x3a, 0]] {
        let world = World::start(Transport::Tls);
        let mut agent = ByHand::connect(&world, "mynas").await;
        agent.hello(1, 1).await;
        agent.hear().await;
        agent.say(nonsense).await;
        let Frame::Close { code } = agent.hear().await else {
            panic!("not closed")
        };
        // The last one is no nonsense but a Close of the agent's own.
        assert!(
            matches!(code, Ok(CloseCode::Protocol | CloseCode::Done)),
            "{code:?}"
        );
    }
}

#[tokio::test]
async fn an_agent_that_never_says_hello_is_closed() {
    let world = World::start(Transport::Tls);
    let mut agent = ByHand::connect(&world, "mynas").await;
    assert_eq!(
        agent.hear().await,
        Frame::Close {
            code: Ok(CloseCode::TooSlow)
        }
    );
    world
        .metric_is(
            "causeway_relay_tunnels_refused_total{reason=\"no_hello\"}",
            1,
        )
        .await;
}

#[tokio::test]
async fn a_superseded_tunnel_loses_its_right_with_the_device() {
    let world = World::start(Transport::Tls);
    let mut older = ByHand::connect(&world, "mynas").await;
    older.hello(1, Features::TLS_CARRIER.0).await;
    assert!(matches!(older.hear().await, Frame::Welcome { .. }));
    // A visitor waits for its carrier on the older tunnel, which is therefore kept when a newer one comes.
    let visit = world.try_visit("mynas.nas.localhost");
    let lose = async {
        for _the_visitors_and_a_spare_one in 0..2 {
            assert!(matches!(older.hear().await, Frame::Dial { .. }));
        }
        let mut newer = ByHand::connect(&world, "mynas").await;
        newer.hello(1, Features::TLS_CARRIER.0).await;
        assert!(matches!(newer.hear().await, Frame::Welcome { .. }));
        assert!(matches!(older.hear().await, Frame::Drain { .. }));
        world.remove("mynas");
        for tunnel in [&mut newer, &mut older] {
            let mut heard = tunnel.hear().await;
            while matches!(heard, Frame::Dial { .. }) {
                heard = tunnel.hear().await; // for the visitor, who goes on to the tunnel that is left
            }
            let code = Ok(CloseCode::Removed);
            assert_eq!(heard, Frame::Close { code });
        }
    };
    let (visited, ()) = tokio::join!(visit, lose);
    visited.expect_err("nobody is there any more");
}
