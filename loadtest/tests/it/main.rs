//! The program as its users run it: every scenario for a second, against what it starts itself and against what is there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod abuse;
mod failures;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Nothing here takes longer unless it is broken.
const SOON: Duration = Duration::from_secs(60);

#[test]
fn throughput_is_measured_in_both_directions() {
    let results = measured(&["throughput", "--connections", "2"]);
    for workload in ["download", "upload"] {
        let row = row(&results, workload);
        assert_eq!(row["scenario"], "throughput");
        assert_eq!(
            (&row["carrier"], &row["connections"]),
            (&json!("quic"), &json!(2))
        );
        positive(row, "gbit_per_s");
        positive(row, "relay_cpu_s_per_gb");
        positive(row, "agent_cpu_s_per_gb");
        assert_eq!(median(row, "failures"), 0.0);
    }
}

#[test]
fn requests_are_measured_over_either_carrier() {
    for carrier in ["quic", "tls"] {
        let results = measured(&["requests", "--connections", "4", "--carrier", carrier]);
        for workload in ["keep_alive", "new_connection"] {
            let row = row(&results, workload);
            assert_eq!(row["carrier"], carrier);
            positive(row, "requests_per_s");
            positive(row, "relay_cpu_us_per_request");
            positive(row, "agent_cpu_us_per_request");
            positive(row, "p50_ms");
            assert!(median(row, "p50_ms") <= median(row, "p99_ms"), "{row}");
            assert!(median(row, "p99_ms") <= median(row, "p999_ms"), "{row}");
            assert_eq!(median(row, "failures"), 0.0, "{row}");
        }
    }
}

#[test]
fn a_body_is_whole_over_http3_and_costs_what_it_costs() {
    let results = measured(&["http3", "--mebibytes", "32"]);
    for peer in [
        "direct-tls",
        "direct-http3",
        "causeway-quic-only",
        "causeway-http3",
    ] {
        let row = row_of(&results, "download", peer);
        assert_eq!(row["mebibytes"], 32);
        for figure in ["gbit_per_s", "origin_cpu_s_per_gb", "visitor_cpu_s_per_gb"] {
            positive(row, figure);
        }
    }
    let through = row_of(&results, "download", "causeway-http3");
    positive(through, "relay_cpu_s_per_gb");
    positive(through, "agent_cpu_s_per_gb");
    let ratios = &through["figures"]["gbit_per_s"]["ratios"];
    assert!(
        ratios["causeway-quic-only"].as_f64() > Some(0.0),
        "{ratios}"
    );
}

#[test]
fn ssh_and_scp_are_measured_by_way_of_causeway_connect() {
    let connect = Path::new(env!("CARGO_BIN_EXE_causeway-loadtest"));
    let connect = connect.with_file_name("causeway-connect");
    assert!(connect.exists(), "cargo test --workspace has built it");
    let results = measured(&["apps", "--mebibytes", "8", "--keys", "100"]);
    for peer in ["direct", "causeway-connect"] {
        positive(row_of(&results, "scp", peer), "gbit_per_s");
        let keys = row_of(&results, "ssh_keys", peer);
        assert_eq!(keys["keys"], 100);
        assert!(median(keys, "p50_us") <= median(keys, "p99_us"), "{keys}");
    }
    positive(
        row_of(&results, "scp", "causeway-connect"),
        "agent_cpu_s_per_gb",
    );
}

#[test]
fn idle_tunnels_stay_attached() {
    let results = measured(&["idle-tunnels", "--connections", "10", "--rounds", "2"]);
    let row = row(&results, "attach_and_rest");
    assert_eq!(rounds(row, "attached"), [10.0, 10.0]);
    assert_eq!(rounds(row, "still_attached"), [10.0, 10.0]);
    positive(row, "attached_per_s");
    positive(row, "relay_kib_per_tunnel");
}

#[test]
fn web_sockets_rest_and_are_answered_afterwards() {
    let results = measured(&["web-sockets", "--connections", "12"]);
    let row = row(&results, "open_and_rest");
    assert_eq!(row["scenario"], "web-sockets");
    for figure in ["open", "answered"] {
        assert_eq!(median(row, figure), 12.0, "{row}");
    }
    assert_eq!(median(row, "failures"), 0.0, "{row}");
    for figure in ["relay_kib_per_web_socket", "agent_kib_per_web_socket"] {
        positive(row, figure);
    }
    assert!(median(row, "p50_ms") <= median(row, "p99_ms"), "{row}");
}

#[test]
fn agents_are_whole_again_after_each_fault_and_visitors_are_served() {
    let results = measured(&["reconnect", "--connections", "20"]);
    for fault in ["restarted", "killed", "silent"] {
        let row = row(&results, fault);
        assert_eq!(row["connections"], 20);
        assert_eq!(median(row, "whole_percent"), 100.0, "{row}");
        let [half, most, all] =
            ["whole_50_s", "whole_99_s", "whole_100_s"].map(|figure| median(row, figure));
        assert!(half <= most && most <= all, "{row}");
        positive(row, "whole_100_s");
        positive(row, "relay_cpu_percent");
        positive(row, "bystander_mbit_kept_percent");
        positive(row, "bystander_requests_kept_percent");
        for figure in ["handshakes_refused", "quic_retries", "failures"] {
            assert_eq!(median(row, figure), 0.0, "{figure}: {row}");
        }
    }
    // Half of the agents, and a part of them at each relay: some come to the one that is left.
    for fault in ["killed", "silent"] {
        let row = row(&results, fault);
        positive(row, "longest_wait_one_tunnel_s");
        positive(row, "longest_wait_two_tunnels_s");
        positive(row, "relay_cpu_ms_per_attach");
    }
    let restarted = row(&results, "restarted");
    positive(restarted, "relay_away_s");
    assert!(median(restarted, "relay_away_s") <= median(restarted, "whole_50_s"));
}

#[test]
fn dns_is_measured_for_names_that_exist_and_names_that_do_not() {
    let results = measured(&["dns", "--connections", "3", "--devices", "20"]);
    for workload in ["hit", "miss"] {
        let row = row(&results, workload);
        positive(row, "queries_per_s");
        positive(row, "server_cpu_us_per_query");
        positive(row, "p50_us");
        assert!(median(row, "p50_us") <= median(row, "p99_us"), "{row}");
        assert_eq!(median(row, "wrong"), 0.0, "{row}");
    }
}

#[test]
fn name_servers_that_are_installed_do_the_same_work_in_turn() {
    let small = ["dns-peers", "--names", "1000", "--window", "20"];
    let results = measured(&[&small[..], &["--workloads", "hit,miss"]].concat());
    let peers = peers_with(&results, "start");
    assert_eq!(peers[..2], ["causeway", "empty"], "they are always here");
    for peer in &peers {
        let start = row_of(&results, "start", peer);
        for figure in ["first_answer_s", "rss_mib", "pss_mib", "anonymous_mib"] {
            positive(start, figure);
        }
        answered_right(row_of(&results, "hit", peer));
        if *peer != "empty" {
            let miss = row_of(&results, "miss", peer);
            answered_right(miss);
            positive(miss, "server_cpu_to_a_hits");
        }
    }
    let by_dnsperf = peers_with(&results, "hit_dnsperf");
    assert!(
        by_dnsperf.is_empty() || by_dnsperf == peers,
        "{by_dnsperf:?}"
    );
}

#[test]
fn our_name_server_is_measured_with_all_work_there_is() {
    // So many that few are moved too often.
    let small = ["dns-peers", "--names", "50000", "--only", "causeway"];
    let results = measured(&[&small[..], &["--updates", "50", "--load", "own"]].concat());
    for workload in ["hit", "miss", "mix", "hit_do", "hit_paced"] {
        answered_right(row_of(&results, workload, "causeway"));
    }
    let moved = row_of(&results, "hit_beside_updates", "causeway");
    answered_right(moved);
    let seen = row_of(&results, "update_to_visible", "causeway");
    positive(seen, "p50_us");
    let [alone, beside, by_nsupdate] = ["updates", "updates_beside_hits", "updates_nsupdate"]
        .map(|workload| row_of(&results, workload, "causeway"));
    for row in [alone, beside] {
        positive(row, "update_p99_us");
        assert_eq!(median(row, "lost"), 0.0, "{row}");
    }
    positive(beside, "queries_per_s");
    for row in [alone, beside, by_nsupdate] {
        positive(row, "updates_per_s");
        positive(row, "server_cpu_us_per_update");
    }
    for row in [moved, seen] {
        positive(row, "updates_per_s");
        assert_eq!(median(row, "failures"), 0.0, "{row}");
    }
    assert_eq!(
        median(seen, "stale"),
        0.0,
        "an acknowledged update is seen at once"
    );
}

#[test]
fn a_fixed_rate_is_kept() {
    let only = ["--only", "causeway", "--workloads", "hit_paced"];
    let rate = ["dns-peers", "--names", "100", "--rate", "2000"];
    let results = measured(&[&rate[..], &only].concat());
    let row = row(&results, "hit_paced");
    let rate = median(row, "queries_per_s");
    assert!((1500.0..2500.0).contains(&rate), "{row}");
    assert_eq!(median(row, "lost"), 0.0, "{row}");
}

#[test]
fn peers_are_measured_over_a_link() {
    let peers = ["--only", "direct,causeway-quic,causeway-tls,splice2"];
    let load = ["peers", "--workloads", "keep_alive,new_connection"];
    let link = ["--link", "20ms,0.1%,200mbit"];
    let results = measured(&[&load[..], &peers, &link].concat());
    for row in results.as_array().unwrap() {
        assert_eq!(
            row["link"],
            "40 ms round trip, 0.1 % lost each way, 200 Mbit/s"
        );
        let one = median(row, "p50_ms");
        assert!((40.0..400.0).contains(&one), "a round trip at least: {row}");
        assert_eq!(median(row, "failures"), 0.0, "{row}");
    }
    assert_eq!(results.as_array().unwrap().len(), 8);
}

#[test]
fn what_is_no_link_is_refused() {
    let output = output(&["peers", "--link", "25ms,fast"]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("a rate such as 1gbit"), "{said}");
}

#[test]
fn peers_do_the_same_work_in_turn() {
    let load = ["peers", "--connections", "50", "--datagram-mbit", "20"];
    let results = measured(&[&load[..], &["--only", "direct,causeway-quic,splice2"]].concat());
    for peer in ["direct", "causeway-quic", "splice2"] {
        for (workload, figures) in [
            ("idle_visitors", &["visitors"][..]),
            ("bulk_1", &["gbit_per_s"]),
            ("bulk_8", &["gbit_per_s"]),
            ("first_64_mib", &["p50_ms"]),
            ("keep_alive", &["requests_per_s", "p50_ms", "p99_ms"]),
            ("new_connection", &["requests_per_s", "p50_ms", "p99_ms"]),
        ] {
            let mut rows = results.as_array().unwrap().iter();
            let row = rows.find(|row| row["workload"] == workload && row["peer"] == peer);
            let row = row.unwrap_or_else(|| panic!("no {workload} of {peer} in {results}"));
            assert_eq!(row["scenario"], "peers");
            for figure in figures {
                positive(row, figure);
                let others = row["figures"][figure]["ratios"].as_object().unwrap();
                assert_eq!(others.len(), 2, "{row}");
            }
            if workload == "idle_visitors" {
                assert_eq!(median(row, "visitors"), 50.0, "{row}");
                continue;
            }
            assert_eq!(median(row, "failures"), 0.0, "{row}");
            let costs = match workload {
                "keep_alive" | "new_connection" => "cpu_us_per_request",
                _ => "cpu_s_per_gb",
            };
            if peer == "direct" {
                assert!(row["figures"][costs].is_null(), "nothing is between");
            } else {
                positive(row, costs);
            }
        }
    }
}

#[test]
fn datagrams_of_peers_are_counted_where_they_arrive() {
    let load = ["peers", "--workloads", "datagrams", "--datagram-mbit", "40"];
    let only = ["--only", "direct,splice2,causeway-quic"];
    let results = measured(&[&load[..], &only].concat());
    // Who carries bytes alone has no part in it.
    assert_eq!(
        peers_with(&results, "datagrams"),
        ["direct", "causeway-quic"]
    );
    for peer in ["direct", "causeway-quic"] {
        let row = row_of(&results, "datagrams", peer);
        let offered = median(row, "offered_mbit_per_s");
        assert!((30.0..=40.1).contains(&offered), "{row}");
        assert!(median(row, "lost_percent") < 50.0, "{row}");
        assert!(median(row, "half_lost_percent") < 50.0, "{row}");
        positive(row, "mbit_per_s");
        assert!(median(row, "half_mbit_per_s") < offered * 0.6, "{row}");
    }
    let ours = row_of(&results, "datagrams", "causeway-quic");
    positive(ours, "relay_cpu_s_per_gb");
    positive(ours, "agent_cpu_s_per_gb");
}

#[test]
fn a_peer_that_is_not_here_is_named_with_what_installs_it() {
    let arguments = ["peers", "--only", "bore"];
    let output = loadtest(&arguments).env("PATH", "").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(error.contains("cargo install bore-cli"), "{error}");
}

#[test]
fn a_server_that_is_there_is_measured_at_its_addresses() {
    let server = Server::start();
    let address = |part: &str| server.ready[part].as_str().unwrap();
    let process = server.process.id().to_string();
    let results = measured(&["dns", "--dns", address("dns"), "--zone", "nas.localhost"]);
    positive(row(&results, "hit"), "queries_per_s");
    assert!(
        row(&results, "hit")["figures"]["server_cpu_us_per_query"].is_null(),
        "nobody said which process"
    );

    let place = ["--front", address("front"), "--ca", address("ca")];
    let state = ["--state", address("state"), "--relay-pid", &process];
    let load = ["idle-tunnels", "--connections", "3"];
    let results = measured(&[&load[..], &place, &state].concat());
    let row = row(&results, "attach_and_rest");
    assert_eq!(median(row, "still_attached"), 3.0);

    assert_eq!(server.devices(), json!([]), "they have left again");
}

#[test]
fn a_load_that_does_not_come_about_is_an_error_with_a_sentence() {
    for (arguments, sentence) in [
        (
            &["dns", "--dns", "127.0.0.1:1", "--zone", "a.test"][..],
            "127.0.0.1:1 does not answer; does a DNS server listen there?",
        ),
        (
            &["requests", "--dns", "127.0.0.1:1", "--zone", "a.test"],
            "requests needs --front ADDR and --name HOST too",
        ),
        (
            &["requests", "--relay-pid", "1"],
            "<--front <ADDR>|--dns <ADDR>>",
        ),
    ] {
        let output = output(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(error.contains(sentence), "{error}");
    }
}

#[test]
fn an_interrupt_leaves_nothing_behind() {
    let folder = TempDir::new().unwrap();
    let mut program = loadtest(&["requests", "--seconds", "600"])
        .env("TMPDIR", folder.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually(|| children(program.id()).len() == 3); // server, origin, agent
    let children = children(program.id());
    let interrupted = Command::new("kill")
        .args(["-INT", &program.id().to_string()])
        .status();
    assert!(interrupted.unwrap().success());
    eventually(|| program.try_wait().unwrap().is_some());
    for child in children {
        assert!(!fs::exists(format!("/proc/{child}")).unwrap(), "{child}");
    }
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}

/// The results that the program writes as JSON after a second's load of each kind in one round, unless `arguments` say more.
pub(crate) fn measured(arguments: &[&str]) -> Value {
    let output = output(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["program"], "causeway-loadtest");
    assert!(report["machine"]["cores"].as_u64() > Some(0), "{report}");
    report["results"].clone()
}

pub(crate) fn output(arguments: &[&str]) -> Output {
    let mut command = loadtest(arguments);
    command.arg("--json");
    // A body of some size takes as long as it takes.
    let few: &[&str] = match arguments.contains(&"--mebibytes") {
        true => &["--rounds"],
        false => &["--seconds", "--rounds"],
    };
    for &few in few {
        if !arguments.contains(&few) {
            command.args([few, "1"]);
        }
    }
    command.output().unwrap()
}

fn loadtest(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causeway-loadtest"));
    command.args(arguments).stdin(Stdio::null());
    command
}

pub(crate) fn row<'r>(results: &'r Value, workload: &str) -> &'r Value {
    let mut rows = results.as_array().unwrap().iter();
    rows.find(|row| row["workload"] == workload)
        .unwrap_or_else(|| panic!("no {workload} in {results}"))
}

fn row_of<'r>(results: &'r Value, workload: &str, peer: &str) -> &'r Value {
    let mut rows = results.as_array().unwrap().iter();
    rows.find(|row| row["workload"] == workload && row["peer"] == peer)
        .unwrap_or_else(|| panic!("no {workload} of {peer} in {results}"))
}

fn peers_with<'r>(results: &'r Value, workload: &str) -> Vec<&'r str> {
    let rows = results.as_array().unwrap().iter();
    let rows = rows.filter(|row| row["workload"] == workload);
    rows.map(|row| row["peer"].as_str().unwrap()).collect()
}

/// What a name server has done when it was asked.
fn answered_right(row: &Value) {
    for figure in ["queries_per_s", "server_cpu_us_per_query", "p50_us"] {
        positive(row, figure);
    }
    assert!(median(row, "p50_us") <= median(row, "p99_us"), "{row}");
    assert_eq!(median(row, "wrong"), 0.0, "{row}");
}

pub(crate) fn median(row: &Value, figure: &str) -> f64 {
    let median = row["figures"][figure]["median"].as_f64();
    median.unwrap_or_else(|| panic!("no {figure} in {row}"))
}

fn rounds(row: &Value, figure: &str) -> Vec<f64> {
    let rounds = row["figures"][figure]["rounds"].as_array().unwrap();
    rounds.iter().map(|round| round.as_f64().unwrap()).collect()
}

pub(crate) fn positive(row: &Value, figure: &str) {
    let median = median(row, figure);
    assert!(median > 0.0 && median.is_finite(), "{figure}: {median}");
}

/// A server for the program to find. It plays the part that the program would start itself.
struct Server {
    process: Child,
    ready: Value,
    _folder: TempDir,
}

impl Server {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let mut process = loadtest(&["part", "up"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let state = folder.path().join("state");
        let order = json!({ "state": state, "front": "127.0.0.1:0", "udp": true, "raw": true });
        let stdin = process.stdin.as_mut().unwrap();
        writeln!(stdin, "{order}").unwrap();
        let mut ready = String::new();
        BufReader::new(process.stdout.as_mut().unwrap())
            .read_line(&mut ready)
            .unwrap();
        Self {
            process,
            ready: serde_json::from_str(&ready).unwrap(),
            _folder: folder,
        }
    }
}

impl Server {
    /// The devices it knows, as the operator's programs ask for them.
    fn devices(&self) -> Value {
        let state = Path::new(self.ready["state"].as_str().unwrap());
        let mut socket = UnixStream::connect(state.join(control::operator::SOCKET)).unwrap();
        socket.write_all(b"\"list_devices\"\n").unwrap();
        let answer: Value = serde_json::from_reader(socket).unwrap();
        answer["devices"].clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn children(process: u32) -> Vec<u32> {
    let mut children = Vec::new();
    // Whichever thread has started them.
    for thread in fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let list = fs::read_to_string(thread.unwrap().path().join("children")).unwrap();
        children.extend(list.split_whitespace().map(|id| id.parse::<u32>().unwrap()));
    }
    children
}

/// Polls a condition that has no event of its own. Only the pace depends on the pause, never the outcome.
fn eventually(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "it never came true");
        std::thread::sleep(Duration::from_millis(10));
    }
}
