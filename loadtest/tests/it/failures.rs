//! Each failure once, and small. What takes its time is waited for beside the others.

use serde_json::Value;

use crate::{measured, median, positive, row};

/// One round of one failure. It needs root for what packets are dropped in, as links do.
fn failed(failure: &str, more: &[&str]) -> Value {
    let results = measured(&[&["failures", "--only", failure][..], more].concat());
    for row in results.as_array().unwrap() {
        assert_eq!(row["scenario"], "failures");
        positive(row, "bystander_mbit_kept_percent");
        positive(row, "bystander_requests_kept_percent");
    }
    results
}

fn never(row: &Value, figures: &[&str]) {
    for figure in figures {
        assert_eq!(median(row, figure), 0.0, "{figure}: {row}");
    }
}

fn within(row: &Value, figure: &str, seconds: f64) {
    let took = median(row, figure);
    assert!(took < seconds, "{figure}: {took}, {row}");
}

#[test]
fn an_agent_that_dies_is_noticed_and_leaves_nothing() {
    let results = failed("agent-killed", &["--connections", "2"]);
    for case in ["agent_killed", "agent_link_down"] {
        let row = row(&results, case);
        within(row, "detected_s", 10.0);
        within(row, "streams_reset_s", 10.0);
        within(row, "visit_after_detection_s", 5.0);
        never(
            row,
            &["streams_left", "tunnels_left", "served_after_detection"],
        );
        never(row, &["bystander_failures"]);
        within(row, "served_again_s", 20.0);
    }
}

#[test]
fn a_service_that_goes_away_is_told_by_how() {
    let results = failed("origin-away", &["--answer-seconds", "1"]);
    for (case, status) in [
        ("origin_stopped", 502.0),
        ("origin_blackholed", 504.0),
        ("origin_hangs", 504.0),
        ("origin_breaks_off", 200.0),
    ] {
        let row = row(&results, case);
        assert_eq!(median(row, "status"), status, "{row}");
        assert_eq!(median(row, "noted_by_agent"), 1.0, "{row}");
        let broken = f64::from(u8::from(case == "origin_breaks_off"));
        assert_eq!(median(row, "broken_off"), broken, "{row}");
        within(row, "answered_s", 15.0);
        within(row, "served_again_s", 20.0);
        never(row, &["tunnels_lost", "bystander_failures"]);
    }
}

#[test]
fn whose_packets_vanish_is_gone_soon_and_who_reads_nothing_stays() {
    let results = failed("half-open", &[]);
    for (case, seconds) in [
        ("half_open_agent_at_rest", 30.0),
        ("half_open_agent_busy", 10.0),
        ("half_open_visitor_busy", 25.0),
    ] {
        let row = row(&results, case);
        never(row, &["not_reaped", "bystander_failures"]);
        within(row, "reaped_s", seconds);
    }
    // Nobody is taken for gone who has missed but a few packets: an end that comes sooner was somebody else's.
    for case in ["half_open_agent_at_rest", "half_open_visitor_busy"] {
        let row = row(&results, case);
        assert!(median(row, "reaped_s") > 5.0, "{row}");
    }
    let busy = row(&results, "half_open_agent_busy");
    within(busy, "other_end_told_s", 10.0);
    let reader = row(&results, "zero_window");
    assert!(median(reader, "reads_on_mib") >= 16.0, "{reader}");
}

#[test]
fn a_download_passes_over_a_hundred_ports() {
    let results = failed("nat-rebinding", &[]);
    let row = row(&results, "nat_rebinding");
    assert_eq!(median(row, "changes"), 100.0, "{row}");
    never(row, &["tunnels_lost", "streams_lost", "bystander_failures"]);
    positive(row, "longest_stall_ms");
}

#[test]
fn nobody_is_refused_while_control_is_away_and_its_relay_is_restarted() {
    let results = failed("control-away", &["--seconds", "6", "--rate", "10"]);
    let row = row(&results, "control_away");
    positive(row, "visits");
    never(row, &["failed"]);
    assert_eq!(median(row, "devices_known_at_start"), 3.0, "{row}");
    within(row, "longest_visit_s", 10.0);
    within(row, "change_reached_s", 60.0);
}
