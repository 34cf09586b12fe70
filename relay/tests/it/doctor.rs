//! `causeway-agent doctor`, the real program, beside relays that answer and relays that do not.

use std::path::Path;
use std::process::Output;

use relay::agent::State;
use relay::server::Transport;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::byte_path::origin;
use crate::world::{SOON, World};

pub(crate) async fn doctor(state: &Path, more: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_causeway-agent"))
        .args(["doctor", "--state"])
        .arg(state)
        .args(more)
        .kill_on_drop(true)
        .output();
    timeout(SOON, output).await.unwrap().unwrap()
}

/// Each relay's findings over UDP and over TCP, by health.
fn ways(output: &Output) -> Vec<(String, String)> {
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let text = |finding: &Value, key| finding[key].as_str().unwrap().to_owned();
    findings
        .iter()
        .map(|finding| (text(finding, "subject"), text(finding, "health")))
        .filter(|(subject, _)| subject.contains(" over "))
        .map(|(subject, health)| (subject.rsplit(' ').next().unwrap().to_owned(), health))
        .collect()
}

fn way(way: &str, health: &str) -> (String, String) {
    (way.to_owned(), health.to_owned())
}

#[tokio::test]
async fn a_relay_that_answers_is_well_and_the_running_agent_stays_attached() {
    let world = World::start(Transport::Quic);
    let (_listener, address) = origin("tcp").await;
    let agent = world.agent("mynas", &address).await;
    let output = doctor(&world.state_of("mynas"), &["--json"]).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(ways(&output), [way("UDP", "well"), way("TCP", "well")]);
    let for_people = doctor(&world.state_of("mynas"), &[]).await;
    let text = String::from_utf8(for_people.stdout).unwrap();
    assert!(text.starts_with("ok    pairing"), "{text}");
    assert!(text.contains("congestion control"), "{text}");
    assert!(agent.attached.borrow().is_some());
    let attached = "causeway_relay_tunnels_attached_total{transport=\"quic\"}";
    assert_eq!(world.metric(attached), 1);
}

#[tokio::test]
async fn without_udp_it_is_slow_and_without_a_relay_bad() {
    let mut world = World::start(Transport::Tls);
    world.device("mynas");
    let output = doctor(&world.state_of("mynas"), &["--json"]).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(ways(&output), [way("UDP", "slow"), way("TCP", "well")]);
    world.relay.take().unwrap().shutdown().await;
    let output = doctor(&world.state_of("mynas"), &["--json"]).await;
    assert!(!output.status.success());
    assert_eq!(ways(&output), [way("UDP", "ill"), way("TCP", "ill")]);
}

#[tokio::test]
async fn an_unpaired_device_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    State::open(folder.path()).unwrap();
    let output = doctor(folder.path(), &[]).await;
    assert!(!output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("bad   pairing") && text.contains("pair"),
        "{text}"
    );
}
