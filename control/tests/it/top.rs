//! `causeway top` while a real visitor downloads.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{Process, run};
use crate::world::Server;

/// A visitor of the demo who downloads about so much a second, for minutes.
fn visitor(server: &Server, rate: &str) -> Process {
    let mut curl = server.curl();
    curl.args(["--limit-rate", rate, "--output", "/dev/null"]);
    curl.arg(server.url("demo", "/files/100-mebibytes.bin"));
    Process::start(curl)
}

fn top(server: &Server, options: &[&str]) -> String {
    let mut command = server.command(&["top"]);
    command.args(options);
    let output = run(command);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_passes_is_shown_and_counted_while_it_passes() {
    let server = Server::start();
    let quiet = server.pair("quiet");
    let _agent = quiet.run("http://127.0.0.1:1");
    server.verb(&["device", "add", "faraway"], "code");
    let _visitor = visitor(&server, "1M");
    let deadline = Instant::now() + Duration::from_secs(40);
    let (shown, busiest) = loop {
        let json = top(&server, &["--once", "--json", "--interval", "500ms"]);
        let shown: Value = serde_json::from_str(&json).unwrap();
        let busiest = shown["busiest"][0].clone();
        // What a buffer held in the beginning is over.
        let rate = busiest["to_visitor_per_second"].as_u64().unwrap();
        if (200_000..3_000_000).contains(&rate) && busiest["visitors"] == 1 {
            break (shown, busiest);
        }
        assert!(Instant::now() < deadline, "{json}");
    };
    assert_eq!(
        (&shown["registered"], &shown["attached"]),
        (&3.into(), &2.into())
    );
    assert_eq!(busiest["host"], "demo.nas.localhost");
    assert_eq!(
        (&busiest["state"], &busiest["transport"]),
        (&"attached".into(), &"quic".into())
    );
    assert!(busiest["since"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(shown["busiest"][1]["host"], "quiet.nas.localhost");
    assert_eq!(shown["busiest"][1]["to_visitor_per_second"], 0);

    // The visitor is still there, and what it got is counted.
    let passed = "causeway_relay_bytes_total{direction=\"to_visitor\"}";
    let before = server.metric(passed);
    while server.metric(passed) < before + 1_000_000 {
        assert!(
            Instant::now() < deadline,
            "nothing more is counted than {before}"
        );
    }
    // So are the packets that carry it, and how long they take.
    let round_trips = "causeway_relay_quic_rtt_seconds_count";
    while server.metric(round_trips) == 0 {
        assert!(Instant::now() < deadline, "no round trip is measured");
    }
    assert!(server.metric("causeway_relay_quic_packets_sent_total") > 0);
    // No device, name or address is in a metric.
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        &format!("http://{}/metrics", server.ready.admin),
    ]);
    let metrics = String::from_utf8(run(curl).stdout).unwrap();
    for secret in ["quiet", "faraway", "nas.localhost", "127.0.0.1"] {
        assert!(!metrics.contains(secret), "{secret}");
    }
}

#[test]
fn a_pipe_gets_one_table_and_a_terminal_a_screen_that_is_given_back() {
    let mut server = Server::start();
    let table = top(&server, &["--interval", "100ms"]);
    let mut lines = table.lines();
    let totals = lines.next().unwrap();
    assert!(totals.starts_with("1 of 1 devices attached, "), "{table}");
    assert!(lines.nth(1).unwrap().starts_with("DEVICE "), "{table}");
    assert!(
        lines
            .next()
            .unwrap()
            .starts_with("demo.nas.localhost  attached  quic ")
    );
    assert!(!table.contains('\x1b'));

    // script(1) has it believe in a terminal.
    let mut script = Command::new("script");
    let words = format!(
        "{} top --interval 100ms --state {}",
        crate::world::causeway().display(),
        server.ready.state.display()
    );
    script.args([
        "--quiet",
        "--flush",
        "--return",
        "--command",
        &words,
        "/dev/null",
    ]);
    let mut screen = Process::start(script);
    screen.until_said("\x1b[?1049h");
    screen.until_said("demo.nas.localhost");
    // It ends when the server does, says so, and gives the screen back.
    server.process.kill();
    let ended = screen.ended();
    assert!(!ended.success());
    let said = screen.said();
    assert!(said.contains("\x1b[?25h\x1b[?1049l"), "{said:?}");
    assert!(said.contains("causeway"), "{said:?}");
    let refused = server.causeway(&["top", "--once"]);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("no causeway is running"), "{error}");
    let refused = server.causeway(&["top", "--interval", "1h"]);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("at most"), "{error}");
}
