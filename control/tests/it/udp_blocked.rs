//! Networks that drop UDP: the tunnel falls back to TLS by itself, and everything goes on working.

use std::time::{Duration, Instant};

use crate::process::Process;
use crate::transfer::Scene;
use crate::world::{Place, Server};

/// What an agent says when it is attached over TLS.
const OVER_TLS: &str = "attached to the relay transport=\"tls\"";

fn until_said(process: &Process, text: &str, since: Instant, within: Duration) {
    process.until_said(text);
    assert!(since.elapsed() < within, "{text}: {:?}", since.elapsed());
}

#[test]
fn an_agent_that_starts_behind_such_a_network_is_attached_within_five_seconds() {
    let place = Place::namespace();
    let server = Server::start_with(place.clone(), &[]);
    let device = server.pair("mynas");
    place.block_udp();
    let start = Instant::now();
    let agent = device.run("http://127.0.0.1:1");
    until_said(&agent, OVER_TLS, start, Duration::from_secs(5));
}

#[test]
fn a_tunnel_whose_udp_is_blocked_under_it_is_over_tls_within_five_seconds_and_comes_back() {
    let place = Place::namespace();
    let server = Server::start_with(place.clone(), &[]);
    let agent = server.pair("mynas").run("http://127.0.0.1:1");
    agent.until_said("attached to the relay transport=\"quic\"");
    place.block_udp();
    until_said(&agent, OVER_TLS, Instant::now(), Duration::from_secs(5));
    // It looks every minute whether UDP works again.
    place.unblock_udp();
    let start = Instant::now();
    while server.devices()[1]["transport"] != "quic" {
        assert!(
            start.elapsed() < Duration::from_secs(80),
            "{}",
            agent.said()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(server.devices()[1]["state"], "attached");
}

#[test]
fn a_gigabyte_goes_each_way_without_udp() {
    let place = Place::namespace();
    let scene = Scene::start(place.clone(), &["--no-udp"]);
    place.block_udp();
    assert_eq!(scene.transport(), "tls");
    scene.a_gigabyte_each_way();
}

#[test]
fn a_thousand_slow_visitors_starve_nobody_without_udp() {
    let place = Place::namespace();
    let scene = Scene::start(place.clone(), &["--no-udp"]);
    place.block_udp();
    scene.a_thousand_slow_downloads();
}

#[test]
fn a_browsers_hundred_requests_share_one_connection_without_udp() {
    let place = Place::namespace();
    let scene = Scene::start(place.clone(), &["--no-udp"]);
    place.block_udp();
    scene.a_hundred_streams();
}
