//! A relay that is started again where somebody has held its front: visitors who came meanwhile wait for their device's agent.

use std::time::{Duration, Instant};

use relay::agent::{State, VisitorAddress};
use relay::resolve::Resolver;
use tokio::time::timeout;

use crate::byte_path::origin;
use crate::world::{SOON, TRANSPORTS, World};

const HOST: &str = "mynas.nas.localhost";
const ACCEPTED: &str = "causeway_relay_visitors_accepted_total";

/// Who comes later than this after the start is sent away at once.
const RETURN_TIME: Duration = Duration::from_secs(6);

#[tokio::test]
async fn who_comes_before_the_agent_is_back_is_served() {
    for transport in TRANSPORTS {
        let mut world = World::start(transport);
        let (listener, address) = origin("tcp").await;
        let agent = world.agent("mynas", &address).await;
        let _served = world.visit(HOST).await;
        timeout(SOON, listener.accept()).await.unwrap().unwrap();
        agent.stop().await;
        world.crash();
        world.hold_front();
        world.start_again();
        let state = State::open(world.state_of("mynas")).unwrap();
        let by_way = Resolver::Fixed(world.front);
        let returned = async {
            world.until_metric(ACCEPTED, 1).await;
            let hidden = VisitorAddress::Hidden;
            world.agent_of(state, by_way, &address, hidden).await
        };
        let (_visitor, _agent) = tokio::join!(world.visit(HOST), returned);
        timeout(SOON, listener.accept()).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn who_asks_for_nobody_waits_as_long_as_for_an_agent_that_is_away_and_then_no_more() {
    let mut world = World::start(TRANSPORTS[0]);
    world.device("mynas");
    world.crash();
    world.hold_front();
    let started = Instant::now();
    world.start_again();
    let alerted = async |host: &str| {
        world.try_visit(host).await.expect_err("nobody is there");
        started.elapsed()
    };
    let (offline, unknown) = tokio::join!(alerted(HOST), alerted("nobody.nas.localhost"));
    for waited in [offline, unknown] {
        assert!(
            waited >= RETURN_TIME - Duration::from_millis(100),
            "{waited:?}"
        );
    }
    let later = Instant::now();
    world.try_visit(HOST).await.expect_err("nobody is there");
    assert!(later.elapsed() < RETURN_TIME / 2, "{:?}", later.elapsed());
}
