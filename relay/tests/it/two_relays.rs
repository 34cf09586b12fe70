//! An agent at two relays: whoever comes is served while one of them is there, and the operator may change which they are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use relay::agent::{Attached, State, Tunnels, VisitorAddress};
use relay::resolve::Resolver;
use relay::server::{CloudVisitor, Transport};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;

use crate::byte_path::{origin, read_head};
use crate::status::{status, status_json};
use crate::world::{Agent, SOON, TRANSPORTS, World, eventually};

const ATTACHED: &str = "causeway_relay_tunnels_attached_total{transport=\"quic\"}";
const TUNNELS: &str = "causeway_relay_tunnels{transport=\"quic\"}";
const LEFT: &str = "causeway_relay_tunnels_closed_total{code=\"done\"}";

/// How long it may take until a quiet tunnel is missed and another stands.
const MISSED: Duration = Duration::from_secs(60);

fn tunnels_over(transport: Transport) -> String {
    let transport = transport.name();
    format!("causeway_relay_tunnels{{transport=\"{transport}\"}}")
}

/// A device of `world` whose agent knows these relays.
fn device_at(world: &World, relays: &[&World]) -> State {
    let state = world.device("mynas");
    let mut pairing = state.pairing().unwrap();
    pairing.relays = relays.iter().map(|relay| relay.address()).collect();
    state.keep_pairing(&pairing).unwrap();
    state
}

async fn agent_at(world: &World, relays: &[&World], origin: &str) -> Agent {
    let state = device_at(world, relays);
    world
        .agent_of(state, Resolver::System, origin, VisitorAddress::Hidden)
        .await
}

/// A visitor at this relay who has heard an octet, and the origin's end of it.
async fn visitor(world: &World, listener: &TcpListener) -> (TlsStream<TcpStream>, TcpStream) {
    let mut visitor = world.visit("mynas.nas.localhost").await;
    let (mut stream, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    stream.write_all(b"x").await.unwrap();
    timeout(SOON, visitor.read_u8()).await.unwrap().unwrap();
    (visitor, stream)
}

/// Polls what takes longer than [`eventually`] waits.
async fn within(time: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let poll = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(time, poll).await.expect("it never came true");
}

/// The cloud behind the relay of a world, as far as it says which relays there are. It is away until it has a list.
struct Cloud {
    list: watch::Sender<Option<Value>>,
    _serves: AbortOnDropHandle<()>,
}

impl Cloud {
    fn of(world: &Arc<World>) -> Self {
        let (list, heard) = watch::channel(None);
        let world = Arc::clone(world);
        let serves = tokio::spawn(async move {
            let mut visitors = world.cloud_visitors.lock().await;
            while let Some(visitor) = visitors.recv().await {
                tokio::spawn(serve(visitor, heard.clone()));
            }
        });
        Self {
            list,
            _serves: AbortOnDropHandle::new(serves),
        }
    }

    fn says(&self, relays: Value) {
        self.list.send_replace(Some(json!({ "relays": relays })));
    }
}

/// One request: of the list once there is one, of anything else in vain.
async fn serve(visitor: CloudVisitor, mut list: watch::Receiver<Option<Value>>) {
    let mut stream = visitor.stream;
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        let Ok(octet) = stream.read_u8().await else {
            return;
        };
        asked.push(octet);
    }
    let answer = match asked.starts_with(b"GET /api/device/relays ") {
        true => {
            let Ok(list) = list.wait_for(Option::is_some).await else {
                return;
            };
            let list = list.as_ref().unwrap().to_string();
            let length = list.len();
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{list}")
        }
        false => "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_owned(),
    };
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
    let _ = stream.read_to_end(&mut asked).await; // what is left of the request must not reset the answer
}

#[tokio::test]
async fn an_agent_is_at_both_and_says_so() {
    for transport in TRANSPORTS {
        let first = World::start(transport);
        let second = first.beside("eu1");
        let (listener, address) = origin("tcp").await;
        let mut agent = agent_at(&first, &[&first, &second], &address).await;
        assert_eq!(agent.is_attached().await.transport, transport);
        let tunnels = tunnels_over(transport);
        for relay in [&first, &second] {
            relay.until_metric(&tunnels, 1).await;
            drop(visitor(relay, &listener).await);
        }
        within(SOON, async || {
            status_json(&first).await["tunnels"]
                .as_array()
                .unwrap()
                .len()
                == 2
        })
        .await;
        let told = status_json(&first).await;
        let relays = |tunnel: usize| {
            told["tunnels"][tunnel]["relay"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        let mut at = [relays(0), relays(1)];
        at.sort();
        assert_eq!(at, [second.address(), first.address()]);
        assert_eq!(told["tunnel"], told["tunnels"][0]);
        let words = status(&first.state_of("mynas"), &[]).await.stdout;
        let words = String::from_utf8(words).unwrap();
        for relay in [&first, &second] {
            let line = format!(
                "{} to {}, for ",
                transport.name().to_uppercase(),
                relay.address()
            );
            assert!(words.contains(&line), "{words}");
        }
        agent.stop().await;
        for relay in [&first, &second] {
            eventually(|| relay.metric(&tunnels) == 0).await;
            relay.metric_is(LEFT, 1).await;
        }
    }
}

#[tokio::test]
async fn where_there_is_one_relay_there_is_one_tunnel_however_often_it_is_named() {
    let world = World::start(Transport::Quic);
    let (listener, address) = origin("tcp").await;
    let agent = agent_at(&world, &[&world, &world], &address).await;
    for _ in 0..2 {
        drop(visitor(&world, &listener).await);
        let told = status_json(&world).await;
        assert_eq!(told["tunnels"].as_array().unwrap().len(), 1, "{told}");
    }
    assert_eq!(world.metric(ATTACHED), 1);
    agent.stop().await;
}

#[tokio::test]
async fn a_relay_that_is_killed_is_missed_by_nobody_and_found_again() {
    for killed in [0, 1] {
        let first = World::start(Transport::Quic);
        let second = first.beside("eu1");
        let (listener, address) = origin("tcp").await;
        let agent = agent_at(&first, &[&first, &second], &address).await;
        let mut relays = [first, second];
        for relay in &relays {
            relay.until_metric(TUNNELS, 1).await;
        }
        let mut running = visitor(&relays[1 - killed], &listener).await;
        relays[killed].crash();
        let crashed = Instant::now();
        drop(visitor(&relays[1 - killed], &listener).await);
        assert!(
            crashed.elapsed() < Duration::from_secs(1),
            "{:?}",
            crashed.elapsed()
        );
        relays[killed].start_again();
        let again = &relays[killed];
        within(MISSED, async || again.metric(TUNNELS) == 1).await;
        drop(visitor(again, &listener).await);
        // Nothing of that has touched the other tunnel.
        running.1.write_all(b"y").await.unwrap();
        let heard = timeout(SOON, running.0.read_u8()).await.unwrap();
        assert_eq!(heard.unwrap(), b'y');
        assert!(agent.attached.borrow().is_some());
        assert_eq!(relays[1 - killed].metric(ATTACHED), 1);
        agent.stop().await;
    }
}

#[tokio::test]
async fn a_quiet_tunnel_is_missed_soon_and_the_only_one_sooner() {
    /// When each tunnel has been pinged once and answered, and is known to be quiet.
    const QUIET: Duration = Duration::from_millis(4500);
    /// Five seconds, and what a busy machine takes.
    const NOTICED: Duration = Duration::from_secs(8);
    let mut first = World::start(Transport::Quic);
    let mut second = first.beside("eu1");
    let (_listener, address) = origin("tcp").await;
    let mut agent = agent_at(&first, &[&first, &second], &address).await;
    first.until_metric(TUNNELS, 1).await;
    second.until_metric(TUNNELS, 1).await;
    let count = async |world: &World| {
        let told = status_json(world).await;
        told["tunnels"].as_array().unwrap().len()
    };
    // One that is quiet is not given up, however it is pinged.
    tokio::time::sleep(QUIET * 3).await;
    assert_eq!(count(&first).await, 2);
    assert_eq!((first.metric(ATTACHED), second.metric(ATTACHED)), (1, 1));
    second.crash();
    within(NOTICED, async || count(&first).await == 1).await;
    first.crash();
    let crashed = Instant::now();
    agent.is_detached().await;
    assert!(
        crashed.elapsed() < Duration::from_secs(6),
        "{:?}",
        crashed.elapsed()
    );
}

#[tokio::test]
async fn an_agent_that_is_to_keep_one_tunnel_keeps_one_and_brings_it_to_another_relay() {
    let mut first = World::start(Transport::Quic);
    let second = first.beside("eu1");
    let (listener, address) = origin("tcp").await;
    let state = device_at(&first, &[&first, &second]);
    let (resolver, hidden) = (Resolver::System, VisitorAddress::Hidden);
    let agent = first.agent_keeping(Tunnels::One, state, resolver, &address, hidden);
    let agent = agent.await;
    let mut attached = agent.attached.clone();
    let at = async |attached: &mut watch::Receiver<Option<Attached>>, relay: String| {
        let there =
            |now: &Option<Attached>| now.as_ref().is_some_and(|now| now.relays == [&*relay]);
        drop(
            timeout(SOON, attached.wait_for(there))
                .await
                .unwrap()
                .unwrap(),
        );
    };
    at(&mut attached, first.address()).await;
    drop(visitor(&first, &listener).await);
    assert_eq!(second.metric(ATTACHED), 0);
    first.crash();
    let crashed = Instant::now();
    at(&mut attached, second.address()).await;
    drop(visitor(&second, &listener).await);
    assert!(
        crashed.elapsed() < Duration::from_secs(8),
        "{:?}",
        crashed.elapsed()
    );
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_loses_a_relay_goes_to_a_third() {
    let first = World::start(Transport::Quic);
    let (mut second, third) = (first.beside("eu1"), first.beside("eu2"));
    let (listener, address) = origin("tcp").await;
    let relays = [&first, &second, &third];
    let _agent = agent_at(&first, &relays, &address).await;
    first.until_metric(TUNNELS, 1).await;
    second.until_metric(TUNNELS, 1).await;
    assert_eq!(third.metric(ATTACHED), 0);
    let _visitor = visitor(&second, &listener).await; // so that the loss is noticed soon
    second.crash();
    let crashed = Instant::now();
    third.until_metric(TUNNELS, 1).await;
    assert!(
        crashed.elapsed() < Duration::from_secs(10),
        "{:?}",
        crashed.elapsed()
    );
    drop(visitor(&third, &listener).await);
    assert_eq!(first.metric(ATTACHED), 1);
}

#[tokio::test]
async fn a_relay_that_is_taken_off_the_list_is_left_once_another_is_reached() {
    let first = Arc::new(World::start(Transport::Quic));
    let (second, third) = (first.beside("eu1"), first.beside("eu2"));
    let cloud = Cloud::of(&first);
    let (listener, address) = origin("tcp").await;
    let agent = agent_at(&first, &[&first, &second], &address).await;
    first.until_metric(TUNNELS, 1).await;
    second.until_metric(TUNNELS, 1).await;
    let (mut running, mut stream) = visitor(&second, &listener).await;

    cloud.says(json!([third.address(), first.address()]));
    third.until_metric(TUNNELS, 1).await;
    drop(visitor(&third, &listener).await);
    // Who is here may finish, and nobody new is taken.
    second
        .try_visit("mynas.nas.localhost")
        .await
        .expect_err("the agent has left");
    stream.write_all(b"the rest").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    timeout(SOON, running.read_to_string(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(rest, "the rest");
    assert_eq!(second.metric(TUNNELS), 1);
    running.shutdown().await.unwrap();
    drop((running, stream));
    second.metric_is(LEFT, 1).await;
    assert_eq!(second.metric(TUNNELS), 0);
    assert_eq!((first.metric(ATTACHED), second.metric(ATTACHED)), (1, 1));

    // The next start begins with what was heard.
    let kept = State::open(first.state_of("mynas")).unwrap();
    let relays = [third.address(), first.address()];
    eventually(|| kept.pairing().unwrap().relays == relays).await;
    agent.stop().await;
}

#[tokio::test]
async fn of_two_relays_the_only_one_left_is_enough() {
    for left in [0, 1] {
        let first = Arc::new(World::start(Transport::Quic));
        let second = first.beside("eu1");
        let cloud = Cloud::of(&first);
        let (listener, address) = origin("tcp").await;
        let agent = agent_at(&first, &[&first, &second], &address).await;
        let relays = [&*first, &second];
        for relay in relays {
            relay.until_metric(TUNNELS, 1).await;
        }
        cloud.says(json!([relays[left].address()]));
        relays[1 - left].metric_is(LEFT, 1).await;
        drop(visitor(relays[left], &listener).await);
        eventually(|| relays[1 - left].metric(TUNNELS) == 0).await;
        assert_eq!(relays[left].metric(ATTACHED), 1);
        assert!(agent.attached.borrow().is_some());
        agent.stop().await;
    }
}

#[tokio::test]
async fn a_relay_that_is_added_is_gone_to() {
    let first = Arc::new(World::start(Transport::Quic));
    let second = first.beside("eu1");
    let cloud = Cloud::of(&first);
    let (listener, address) = origin("tcp").await;
    let _agent = agent_at(&first, &[&first], &address).await;
    drop(visitor(&first, &listener).await);
    assert_eq!(second.metric(ATTACHED), 0);
    cloud.says(json!([first.address(), second.address()]));
    second.until_metric(TUNNELS, 1).await;
    drop(visitor(&second, &listener).await);
    assert_eq!(first.metric(ATTACHED), 1);
}

#[tokio::test]
async fn a_list_that_makes_no_sense_changes_nothing_and_the_next_is_asked_for() {
    let first = Arc::new(World::start(Transport::Quic));
    let second = first.beside("eu1");
    let cloud = Cloud::of(&first);
    cloud.says(json!([]));
    let (listener, address) = origin("tcp").await;
    let _agent = agent_at(&first, &[&first, &second], &address).await;
    for relay in [&*first, &second] {
        relay.until_metric(TUNNELS, 1).await;
        drop(visitor(relay, &listener).await);
    }
    let state = State::open(first.state_of("mynas")).unwrap();
    assert_eq!(state.pairing().unwrap().relays.len(), 2);
    // It comes within ten seconds.
    cloud.says(json!([second.address()]));
    first.metric_is(LEFT, 1).await;
    eventually(|| state.pairing().unwrap().relays == [second.address()]).await;
}

/// A request on a connection that is kept, and the head of its answer in lower case.
async fn ask(visitor: &mut TlsStream<TcpStream>, listener: &TcpListener) -> String {
    let request = "GET / HTTP/1.1\r\nHost: mynas.nas.localhost\r\n\r\n";
    visitor.write_all(request.as_bytes()).await.unwrap();
    let (mut stream, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    read_head(&mut stream).await;
    let answer = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
    stream.write_all(answer.as_bytes()).await.unwrap();
    read_head(visitor).await
}

#[tokio::test]
async fn who_asks_again_and_again_comes_anew_once_another_tunnel_stands() {
    for transport in TRANSPORTS {
        let mut first = World::start(transport);
        let (second, third) = (first.beside("eu1"), first.beside("eu2"));
        let (listener, address) = origin("http").await;
        let _agent = agent_at(&first, &[&first, &second, &third], &address).await;
        let tunnels = tunnels_over(transport);
        for relay in [&first, &second] {
            relay.until_metric(&tunnels, 1).await;
        }
        let mut busy = first.visit("mynas.nas.localhost").await;
        let mut resting = first.visit("mynas.nas.localhost").await;
        for visitor in [&mut busy, &mut resting] {
            let answer = ask(visitor, &listener).await;
            assert!(!answer.contains("connection: close"), "{answer}");
        }
        let mut relay = first.relay.take().unwrap();
        relay.set_end(SOON, Duration::ZERO);
        let visitors = async {
            third.until_metric(&tunnels, 1).await;
            let mut answer = ask(&mut busy, &listener).await;
            while !answer.contains("connection: close") {
                answer = ask(&mut busy, &listener).await; // the relay says that it stands before the agent knows
            }
            for mut visitor in [busy, resting] {
                let mut rest = Vec::new();
                let end = timeout(SOON, visitor.read_to_end(&mut rest)).await;
                end.unwrap().unwrap();
                assert!(rest.is_empty());
            }
        };
        tokio::select! {
            () = relay.leave() => panic!("they are still here"),
            () = visitors => {}
        }
    }
}
