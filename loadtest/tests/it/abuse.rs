//! Each attack once, tiny: what should be turned away is, and the bystander is served.

use serde_json::Value;

use crate::{measured, median, output, positive, row};

/// Few attackers, and not more than are served at a time.
const TINY: [&str; 7] = [
    "abuse",
    "--connections",
    "50",
    "--rate",
    "200",
    "--attempts",
    "60",
];

/// Those that attack `only` in this way, with what is seen of them.
fn attacked(how: &[&str], only: &[&str]) -> Vec<Value> {
    let options = only.join(",").replace('_', "-");
    let results = measured(&[how, &["--only", &options]].concat());
    let rows: Vec<_> = only
        .iter()
        .map(|attack| row(&results, attack).clone())
        .collect();
    for row in &rows {
        positive(row, "attempted");
        for figure in ["mbit", "requests"] {
            positive(row, &format!("bystander_{figure}_per_s"));
            positive(row, &format!("bystander_{figure}_kept_percent"));
        }
        for figure in [
            "bystander_p99_ms",
            "baseline_new_p99_ms",
            "relay_cpu_percent",
        ] {
            positive(row, figure);
        }
        positive(row, "admin_slowest_ms");
    }
    rows
}

fn serves_the_bystander(row: &Value) {
    assert_eq!(median(row, "failures"), 0.0, "{row}");
    positive(row, "bystander_new_p99_ms");
}

#[test]
fn who_says_little_is_held_while_there_is_room() {
    let quiet = [
        "silent",
        "slow_hello",
        "slow_readers",
        "split_hellos",
        "memory",
    ];
    let rows = attacked(&TINY, &quiet);
    for row in &rows {
        serves_the_bystander(row);
        positive(row, "most_held");
        assert!(median(row, "attempted") <= 60.0, "{row}");
        assert!(median(row, "most_held") <= 50.0, "{row}");
    }
    let [.., memory] = &rows[..] else {
        panic!("{rows:?}");
    };
    positive(memory, "relay_mib_most");
    assert!(median(memory, "relay_mib_budget") >= 64.0, "{memory}");
}

#[test]
fn who_says_what_makes_no_sense_is_turned_away_at_once() {
    for row in attacked(
        &TINY,
        &["unknown_name", "long_hellos", "raw_headers", "bad_frames"],
    ) {
        serves_the_bystander(&row);
        assert!(median(&row, "turned_away") >= 30.0, "{row}");
        // A third of those who have a device's key never become its agent; the others do, and go too far then.
        assert!(median(&row, "relay_refused") >= 10.0, "{row}");
    }
}

#[test]
fn http2_that_only_costs_is_told_to_calm_down() {
    for row in attacked(&TINY, &["rapid_reset", "continuations", "empty_data"]) {
        serves_the_bystander(&row);
        assert!(median(&row, "calmed") >= 30.0, "{row}");
        positive(&row, "agent_cpu_percent");
    }
}

#[test]
fn http_that_does_not_end_holds_nobody_up() {
    for row in attacked(&TINY, &["slow_heads", "slow_bodies", "unread_answers"]) {
        serves_the_bystander(&row);
        positive(&row, "most_held");
    }
}

#[test]
fn a_handshake_that_one_end_does_not_finish_is_over_soon() {
    let how = [&TINY[..], &["--seconds", "6"]].concat();
    for row in attacked(&how, &["half_handshakes"]) {
        serves_the_bystander(&row);
        positive(&row, "relay_refused");
        positive(&row, "turned_away");
        for end in ["longest_s", "longest_at_cloud_s"] {
            let seconds = median(&row, end);
            assert!((4.0..10.0).contains(&seconds), "{row}");
        }
    }
}

#[test]
fn packets_of_agents_that_never_come_bring_less_than_they_are() {
    let how = ["abuse", "--rate", "1500", "--attempts", "10000"];
    for row in attacked(&how, &["quic_initials"]) {
        serves_the_bystander(&row);
        positive(&row, "relay_retries");
        positive(&row, "octets_back_per_octet");
        assert!(median(&row, "octets_back_per_octet") <= 3.0, "{row}");
    }
}

#[test]
fn a_relay_without_descriptors_turns_newcomers_away_and_tells_its_counters() {
    let how = ["abuse", "--rate", "400", "--attempts", "1000"];
    for row in attacked(&how, &["descriptors"]) {
        positive(&row, "relay_refused");
        assert!(median(&row, "most_held") < 256.0, "{row}");
        assert!(median(&row, "admin_slowest_ms") < 5000.0, "{row}");
    }
}

#[test]
fn neighbours_and_strangers_leave_the_bystander_its_own() {
    let how = ["abuse", "--rate", "200", "--attempts", "60"];
    let how = [&how[..], &["--connections", "8"]].concat();
    for row in attacked(&how, &["noisy_neighbour", "syn_flood"]) {
        serves_the_bystander(&row);
    }
}

#[test]
fn nobody_elses_relay_is_attacked() {
    let elsewhere = ["--front", "192.0.2.1:443", "--name", "mynas.example.com"];
    let output = output(&[&["abuse"][..], &elsewhere].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        error.contains("192.0.2.1:443 is not on this host"),
        "{error}"
    );
}

#[test]
fn what_needs_a_server_of_its_own_says_so() {
    let given = ["--front", "127.0.0.1:1", "--name", "mynas.example.com"];
    let only = ["abuse", "--only", "descriptors"];
    let output = output(&[&only[..], &given].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(error.contains("leave --front out"), "{error}");
}
