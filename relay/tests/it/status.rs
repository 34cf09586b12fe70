//! What an agent finds out about its ways, what it does about it, and `causeway-agent status`, the real program, which tells.

use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use relay::agent::{Attached, VisitorAddress};
use relay::server::Transport;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::byte_path::origin;
use crate::nat::Nat;
use crate::world::{SOON, World};

const ATTACHED: &str = "causeway_relay_tunnels_attached_total{transport=\"quic\"}";
const RAW_ASKED: &str = "causeway_relay_raw_connections_total{outcome=\"missed\"}";

/// More than is called bulk, and more than fits on the way to a visitor who reads nothing.
const BULK: usize = 20_000_000;

pub(crate) async fn status(state: &Path, more: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_causeway-agent"))
        .args(["status", "--state"])
        .arg(state)
        .args(more)
        .kill_on_drop(true)
        .output();
    timeout(SOON, output).await.unwrap().unwrap()
}

pub(crate) async fn status_json(world: &World) -> Value {
    let output = status(&world.state_of("mynas"), &["--json"]).await;
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A download that has to be whole.
async fn download(world: &World, listener: &TcpListener) {
    let octets: Vec<u8> = (0..BULK).map(|i| (i % 251) as u8).collect();
    let mut visitor = world.visit("mynas.nas.localhost").await;
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&octets).await.unwrap();
        stream.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let read = async { visitor.read_to_end(&mut received).await.unwrap() };
    timeout(SOON, async { tokio::join!(serve, read) })
        .await
        .unwrap();
    assert!(received == octets);
}

#[tokio::test]
async fn where_all_is_well_it_says_so_to_people_and_to_machines() {
    for transport in [Transport::Quic, Transport::Tls] {
        let world = World::start(transport);
        let (listener, address) = origin("tcp").await;
        let agent = world.agent("mynas", &address).await;
        download(&world, &listener).await;
        let told = status_json(&world).await;
        assert_eq!(told["device"], "mynas.nas.localhost");
        assert_eq!(told["tunnel"]["transport"], transport.name());
        assert_eq!(told["tunnel"]["bulk"], "raw");
        assert_eq!(
            (&told["raw_came"], &told["raw_missed"]),
            (&json!(1), &json!(0))
        );
        let output = status(&world.state_of("mynas"), &[]).await;
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.starts_with("device      mynas.nas.localhost\n"),
            "{text}"
        );
        assert!(
            text.contains("over TCP beside the tunnel (1 came, 0 did not)"),
            "{text}"
        );
        match transport {
            Transport::Quic => {
                assert_eq!(told["reasons"], json!([]));
                assert_eq!(told["tunnel"]["path"]["congestion_control"], "cubic");
                assert!(text.contains("CUBIC"), "{text}");
            }
            Transport::Tls => {
                assert_eq!(told["reasons"], json!(["udp_unanswered"]));
                assert!(
                    text.contains("because     the relay does not answer over UDP"),
                    "{text}"
                );
            }
        }
        agent.stop().await;
    }
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_said_to_be_so() {
    let world = World::start(Transport::Quic);
    let (_listener, address) = origin("tcp").await;
    world.agent("mynas", &address).await.stop().await;
    let output = status(&world.state_of("mynas"), &[]).await;
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("no agent runs with the state directory"),
        "{said}"
    );
}

#[tokio::test]
async fn a_tunnel_that_has_to_carry_bulk_itself_is_dialled_again_with_more_room() {
    let world = World::without_raw();
    let (listener, address) = origin("tcp").await;
    let _agent = world.agent("mynas", &address).await;
    world.metric_is(ATTACHED, 2).await;
    download(&world, &listener).await;
    let told = status_json(&world).await;
    assert_eq!(told["tunnel"]["bulk"], "tunnel");
    assert_eq!(told["reasons"], json!(["raw_not_offered"]));
    assert_eq!(world.metric(RAW_ASKED), 0, "none was asked for");
}

#[tokio::test]
async fn an_agent_whose_raw_connections_do_not_come_through_stops_counting_on_them() {
    let world = World::start(Transport::Quic);
    let (listener, address) = origin("tcp").await;
    let only_udp = Nat::before(world.front).await;
    let _agent = world
        .agent_by_way_of(only_udp.inside, "mynas", &address, VisitorAddress::Hidden)
        .await;
    for _ in 0..3 {
        assert_eq!(world.metric(ATTACHED), 1);
        download(&world, &listener).await;
    }
    world.metric_is(ATTACHED, 2).await;
    download(&world, &listener).await;
    let told = status_json(&world).await;
    assert_eq!(told["tunnel"]["bulk"], "tunnel");
    assert_eq!(told["reasons"], json!(["raw_missed"]));
    assert_eq!(told["raw_came"], 0);
}

#[tokio::test]
async fn on_a_path_that_loses_much_batches_are_given_up_first_and_then_quic() {
    let world = World::start(Transport::Quic);
    let (listener, address) = origin("tcp").await;
    let echo = tokio::spawn(async move {
        let mut streams = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            streams.spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    let nat = Nat::losing(6, world.front).await;
    let mut agent = world
        .agent_by_way_of(nat.inside, "mynas", &address, VisitorAddress::Hidden)
        .await;
    let world = Arc::new(world);
    let mut visitors = JoinSet::new();
    for _ in 0..8 {
        let world = Arc::clone(&world);
        visitors.spawn(async move {
            loop {
                let mut visitor = world.visit("mynas.nas.localhost").await;
                for octet in 0..20 {
                    let mut octets = [octet; 1000];
                    visitor.write_all(&octets).await.unwrap();
                    visitor.read_exact(&mut octets).await.unwrap();
                    assert_eq!(octets, [octet; 1000]);
                }
            }
        });
    }
    let over_tls = |attached: &Option<Attached>| {
        attached
            .as_ref()
            .is_some_and(|attached| attached.transport == Transport::Tls)
    };
    tokio::select! {
        ended = visitors.join_next() => panic!("a visitor's connection broke: {ended:?}"),
        left = timeout(SOON * 2, agent.attached.wait_for(over_tls)) => drop(left.unwrap().unwrap()),
    }
    let told = status_json(&world).await;
    assert_eq!(told["tunnel"]["transport"], "tls");
    assert_eq!(told["reasons"], json!(["path_lossy", "batches_lost"]));
    assert!(visitors.try_join_next().is_none(), "nobody was lost");
    echo.abort();
}

#[tokio::test]
async fn nobody_is_sent_away_while_a_tunnel_is_dialled_again() {
    const WORLDS: usize = 30; // the moment is short
    for _ in 0..WORLDS {
        let world = World::without_raw();
        let (listener, address) = origin("tcp").await;
        let served = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(b"x").await.unwrap();
            }
        });
        let _agent = world.agent("mynas", &address).await;
        let mut is_last = false;
        while !is_last {
            is_last = world.metric(ATTACHED) == 2;
            let mut visitor = world.visit("mynas.nas.localhost").await;
            timeout(SOON, visitor.read_u8()).await.unwrap().unwrap();
        }
        served.abort();
    }
}

#[tokio::test]
async fn what_is_amiss_is_told_with_its_hop_and_with_what_to_do() {
    let world = World::start(Transport::Tls); // nobody answers over UDP
    let _agent = world.agent("mynas", "http://127.0.0.1:1").await;
    let visitor = world.visit("mynas.nas.localhost").await;
    let (_, mut asked) = tokio::io::split(visitor);
    asked
        .write_all(b"GET / HTTP/1.1\r\nHost: mynas.nas.localhost\r\n\r\n")
        .await
        .unwrap();
    let complaints = async {
        loop {
            let told = status_json(&world).await;
            let complaints = told["complaints"].as_array().unwrap().clone();
            if complaints.len() == 2 {
                return complaints;
            }
        }
    };
    let complaints = timeout(SOON, complaints).await.unwrap();
    for (complaint, hop, health, mend) in [
        (
            &complaints[0],
            "way",
            "slow",
            "let UDP to the relay's port out",
        ),
        (&complaints[1], "service", "ill", "start the service"),
    ] {
        assert_eq!(
            (&complaint["hop"], &complaint["health"]),
            (&json!(hop), &json!(health))
        );
        assert!(
            complaint["mend"].as_str().unwrap().contains(mend),
            "{complaint}"
        );
    }
    let text = String::from_utf8(status(&world.state_of("mynas"), &[]).await.stdout).unwrap();
    assert!(
        text.contains("to mend     the way to the relay ("),
        "{text}"
    );
    assert!(
        text.contains("to mend     its service (service 127.0.0.1:1): start the service"),
        "{text}"
    );
}
