//! Signals end the server in order.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::process::{Process, run};
use crate::world::Server;

#[test]
fn either_signal_ends_the_demo_in_order_within_five_seconds() {
    for signal in ["-INT", "-TERM"] {
        let mut server = Server::start();
        // A visitor in the middle of a download that will not end in time.
        let mut curl = server.curl();
        curl.args([
            "--limit-rate",
            "1k",
            "--output",
            "/dev/null",
            &server.url("demo", "/files/100-mebibytes.bin"),
        ]);
        let _visitor = Process::start(curl);
        while server.metric("causeway_relay_carriers_opened_total{kind=\"quic\"}") < 2 {}
        // And one in the middle of a question to the admin listener.
        let mut monitor = TcpStream::connect(server.ready.admin).unwrap();
        monitor.write_all(b"GET").unwrap();
        let start = Instant::now();
        server.process.signal(signal);
        let status = server.process.ended();
        assert_eq!(status.code(), Some(0), "{}", server.process.said());
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{:?}",
            start.elapsed()
        );
        assert!(!server.folder.path().join("ready.json").exists());
    }
}

#[test]
fn what_an_earlier_server_said_of_its_readiness_is_gone_before_another_starts() {
    let server = Server::start();
    let stale = server.folder.path().join("stale.json");
    std::fs::write(&stale, "{}").unwrap();
    let mut command = server.command(&["up", "--demo"]);
    command.arg("--ready-file").arg(&stale);
    assert!(!run(command).status.success(), "the state is in use");
    assert!(!stale.exists());
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = Server::start();
    let mut curl = server.curl();
    curl.args([
        "--limit-rate",
        "1k",
        "--output",
        "/dev/null",
        &server.url("demo", "/files/100-mebibytes.bin"),
    ]);
    let _visitor = Process::start(curl);
    while server.metric("causeway_relay_carriers_opened_total{kind=\"quic\"}") < 2 {}
    server.process.signal("-TERM");
    server.process.until_said("a second signal ends at once");
    let second = Instant::now();
    server.process.signal("-INT");
    let status = server.process.ended();
    assert!(
        second.elapsed() < Duration::from_secs(1),
        "{:?}",
        second.elapsed()
    );
    assert_ne!(status.code(), Some(0));
}

#[test]
fn readiness_ends_while_liveness_and_the_operators_verbs_do_not_until_visitors_have_left() {
    let server = Server::start();
    let mut curl = server.curl();
    curl.args([
        "--limit-rate",
        "1k",
        "--output",
        "/dev/null",
        &server.url("demo", "/files/100-mebibytes.bin"),
    ]);
    let _visitor = Process::start(curl);
    while server.metric("causeway_relay_carriers_opened_total{kind=\"quic\"}") < 2 {}
    server.process.signal("-TERM");
    server.process.until_said("stopping");
    let status = |path: &str| {
        let mut curl = std::process::Command::new("curl");
        curl.args([
            "--silent",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
        ]);
        curl.arg(format!("http://{}{path}", server.ready.admin));
        crate::process::output_of(curl)
    };
    // It says so before it does so.
    let began = Instant::now();
    while status("/readyz") != "503" {
        assert!(began.elapsed() < Duration::from_secs(10), "still ready");
    }
    assert_eq!(status("/livez"), "200");
    assert_eq!(server.devices()[0]["name"], "demo");
}
