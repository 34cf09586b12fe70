//! Who gets a tunnel, and when it ends.

use std::time::{Duration, Instant};

use relay::agent::State;
use relay::server::Transport;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::byte_path::origin;
use crate::world::{SOON, TRANSPORTS, World, eventually};

#[tokio::test]
async fn an_agent_whose_key_nobody_knows_is_refused_and_stays_away() {
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (_listener, address) = origin("tcp").await;
        let mut agent = world.agent("mynas", &address).await;
        // The name gets another key: the tunnel ends, and the agent's own key is worth nothing any more.
        let other = State::open(world.state_of("other")).unwrap();
        world.put("mynas", &other);
        agent.is_detached().await;
        world
            .metric_is("causeway_relay_tunnels_closed_total{code=\"removed\"}", 1)
            .await;
        assert_eq!(
            world.metric(&format!(
                "causeway_relay_tunnels{{transport=\"{}\"}}",
                transport.name()
            )),
            0
        );
    }
}

#[tokio::test]
async fn a_stranger_with_a_key_of_its_own_gets_no_tunnel() {
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (_listener, address) = origin("tcp").await;
        world.device("mynas");
        world.remove("mynas");
        // Everything on its disk is right but the key is not in the Directory.
        let stranger = world.device("stranger");
        world.remove("stranger");
        let config = relay::agent::Config {
            state: stranger,
            services: relay::agent::Origin::new(
                address.parse().unwrap(),
                Default::default(),
                &relay::agent::OriginTrust::Anything,
            )
            .unwrap()
            .into(),
            resolver: relay::resolve::Resolver::Fixed(world.front),
            workers: world.threads.workers(),
            gso: relay::agent::Gso::Auto,
            dns: relay::agent::Dns::Off,
            lan: relay::agent::Lan::Off,
            caa: relay::agent::Caa::Own,
            direct: None,
            retire: Default::default(),
            tunnels: relay::agent::Tunnels::default(),
        };
        let stop = tokio_util::sync::CancellationToken::new();
        let (attached, _) = tokio::sync::watch::channel(None);
        let run = tokio::spawn(relay::agent::run(config, attached, stop.clone()));
        world
            .until_metric(
                "causeway_relay_tunnels_refused_total{reason=\"unknown_device\"}",
                1,
            )
            .await;
        stop.cancel();
        timeout(SOON, run).await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test]
async fn removing_a_device_cuts_its_tunnel_and_its_visitors_within_a_second() {
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (listener, address) = origin("tcp").await;
        let mut agent = world.agent("mynas", &address).await;
        let mut visitor = world.visit("mynas.nas.localhost").await;
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"x").await.unwrap();
        timeout(SOON, visitor.read_u8()).await.unwrap().unwrap();

        let start = Instant::now();
        world.remove("mynas");
        let cut = timeout(SOON, visitor.read_u8()).await.unwrap();
        cut.expect_err("the visitor is cut");
        agent.is_detached().await;
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "{:?}",
            start.elapsed()
        );
        world
            .try_visit("mynas.nas.localhost")
            .await
            .expect_err("nobody is there any more");
        world
            .until_metric("causeway_relay_visitors_ended_total{end=\"cut\"}", 1)
            .await;
    }
}

#[tokio::test]
async fn the_newest_agent_wins_and_the_older_is_told() {
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (first_listener, first) = origin("tcp").await;
        let (second_listener, second) = origin("tcp").await;
        let mut older = world.agent("mynas", &first).await;
        let mut newer = world.agent("mynas", &second).await;
        older.is_detached().await;
        world
            .metric_is("causeway_relay_tunnels_closed_total{code=\"displaced\"}", 1)
            .await;
        assert!(newer.is_attached().await.transport == transport);
        let _visitor = world.visit("mynas.nas.localhost").await;
        timeout(SOON, second_listener.accept())
            .await
            .unwrap()
            .unwrap();
        drop(first_listener);
    }
}

#[tokio::test]
async fn presence_follows_the_tunnel() {
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (_listener, address) = origin("tcp").await;
        let presence = world.relay.as_ref().unwrap().presence();
        let agent = world.agent("mynas", &address).await;
        let device = world.directory.devices()[0].identity.clone().unwrap().id;
        let attachment = presence.of(&device).unwrap();
        assert_eq!(attachment.transport, transport);
        assert!(attachment.seen_as.ip().is_loopback());
        assert!(attachment.software.starts_with("causeway-agent/"));
        agent.stop().await;
        eventually(|| presence.of(&device).is_none()).await;
        world
            .metric_is("causeway_relay_tunnels_closed_total{code=\"done\"}", 1)
            .await;
    }
}

#[tokio::test]
async fn a_tunnel_that_breaks_is_followed_by_another() {
    let world = World::start(Transport::Quic);
    let (listener, address) = origin("tcp").await;
    let mut agent = world.agent("mynas", &address).await;
    // The same key is put again under another registration: the tunnel stays.
    let state = State::open(world.state_of("mynas")).unwrap();
    world.put("mynas", &state);
    let _visitor = world.visit("mynas.nas.localhost").await;
    timeout(SOON, listener.accept()).await.unwrap().unwrap();
    agent.is_attached().await;
    world
        .metric_is(
            "causeway_relay_tunnels_attached_total{transport=\"quic\"}",
            1,
        )
        .await;
}

#[tokio::test]
async fn two_devices_do_not_meet() {
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (first_listener, first) = origin("tcp").await;
        let (second_listener, second) = origin("tcp").await;
        let _first = world.agent("first", &first).await;
        let _second = world.agent("second", &second).await;
        for (host, listener) in [
            ("first", &first_listener),
            ("second", &second_listener),
            ("first", &first_listener),
        ] {
            let mut visitor = world.visit(&format!("{host}.nas.localhost")).await;
            let (mut stream, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
            stream.write_all(host.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut heard = String::new();
            timeout(SOON, visitor.read_to_string(&mut heard))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(heard, host);
        }
    }
}
