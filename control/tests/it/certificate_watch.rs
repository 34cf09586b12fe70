//! Somebody gets a certificate for a device's name, and a log shows it; or the log misbehaves.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::Instant;

use relay::agent::State;
use serde_json::{Value, json};

use crate::certificate_log::{CertificateLog, Conduct, certificate_for, key_of};
use crate::process::{Process, run, until};
use crate::reload::good;
use crate::signed::SignedRequest;
use crate::world::{Device, Place, Server, causeway_agent};

pub(crate) const ALARM: &str = "somebody else has a certificate";
const FOUND: &str = "causeway_control_certificate_watch_found_total";
const STRANGE: (&str, &str) = ("PUT", "/api/device/certificates/strange");

/// A server that follows `log`, which has begun when this returns: what the log takes from now on is seen.
fn start(log: &CertificateLog) -> Server {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let config = folder.path().join("causeway.toml");
    fs::write(&config, format!("{}\n{}", good(), log.configuration())).unwrap();
    let config = config.display().to_string();
    let server = Server::start_on(Place::Host, folder, &["--config", &config]);
    until_followed(&server);
    server
}

pub(crate) fn until_followed(server: &Server) {
    let oldest = "causeway_control_certificate_watch_oldest_timestamp_seconds";
    until(|| server.metric(oldest) > 0, || server.process.said());
}

/// `causeway-agent certificates …`
pub(crate) fn certificates(device: &Device, arguments: &[&str]) -> Output {
    let mut command = device.place.command(causeway_agent());
    command.arg("certificates").args(arguments);
    command.arg("--state").arg(&device.state);
    run(command)
}

/// What the agent tells its owner, for programs.
pub(crate) fn status(device: &Device) -> Value {
    let mut command = device.place.command(causeway_agent());
    command
        .args(["status", "--json", "--state"])
        .arg(&device.state);
    serde_json::from_slice(&run(command).stdout).unwrap()
}

/// The keys of what is strange by the agent's status.
pub(crate) fn strange(device: &Device) -> Vec<String> {
    let status = status(device);
    let certificates = status["seen"]["certificates"].as_array();
    let keys = certificates.into_iter().flatten().map(|each| &each["key"]);
    let mut keys: Vec<_> = keys.map(|key| key.as_str().unwrap().to_owned()).collect();
    keys.sort();
    keys
}

/// What `causeway certificates` lists.
pub(crate) fn watched(server: &Server) -> Value {
    let output = server.causeway(&["certificates", "--json"]);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn alarms(agent: &Process) -> usize {
    agent.said().matches(ALARM).count()
}

#[test]
fn a_certificate_for_all_names_alarms_every_device_and_one_for_another_device_only_that() {
    let log = CertificateLog::start(&Place::Host);
    let server = start(&log);
    let [one, two] = ["one", "two"].map(|name| server.pair(name));
    let [first, second] = [&one, &two].map(|device| device.run("http://127.0.0.1:1"));
    let for_all = certificate_for(&["*.nas.localhost"]);
    let for_two = certificate_for(&["photos.two.nas.localhost", "elsewhere.example"]);
    let for_operator = certificate_for(&["cloud.nas.localhost"]);
    log.add(&certificate_for(&[
        "one.nas.localhost.example",
        "*.localhost",
    ]));
    log.add(&for_two);
    log.add_precertificate(&for_operator);
    log.add_precertificate(&for_all);
    let both = {
        let mut both = [key_of(&for_all), key_of(&for_two)];
        both.sort();
        both
    };
    until(|| strange(&two) == both, || second.said());
    until(|| strange(&one) == [key_of(&for_all)], || first.said());
    assert_eq!((alarms(&first), alarms(&second)), (1, 2));
    assert_eq!(server.metric(FOUND), 3);
    let reported = |watched: &Value| {
        let list = watched["certificates"].as_array().unwrap().iter();
        let mut list: Vec<_> = list
            .map(|each| {
                (
                    each["owner"].as_str().unwrap().to_owned(),
                    each["reported"] == true,
                )
            })
            .collect();
        list.sort();
        list
    };
    let all = [("", false), ("*", true), ("two", true)];
    let all = all.map(|(owner, reported)| (owner.to_owned(), reported));
    until(
        || reported(&watched(&server)) == all,
        || watched(&server).to_string(),
    );
    log.was_asked_in_order();

    // A device can say nothing of another's.
    let identity = State::open(&one.state).unwrap().identity().unwrap();
    let before = server.metric("causeway_control_certificate_watch_strange_total");
    assert_eq!(before, 2);
    log.add(&certificate_for(&["third.nas.localhost"]));
    until(|| server.metric(FOUND) == 4, || server.process.said());
    let body = json!({ "keys": [key_of(&for_two)] }).to_string();
    let told = SignedRequest::new(&server, &identity, STRANGE, &body).send(&server);
    assert!(told.ends_with("\n200"), "{told}");
    assert_eq!(
        server.metric("causeway_control_certificate_watch_strange_total"),
        2
    );
    for bad in [
        json!({ "keys": ["x"] }),
        json!({ "keys": vec!["00".repeat(32); 257] }),
    ] {
        let told = SignedRequest::new(&server, &identity, STRANGE, &bad.to_string());
        let told = told.send(&server);
        assert!(told.contains("bad_request"), "{told}");
    }
    // What comes after the path is signed too.
    let mut seen = SignedRequest::new(
        &server,
        &identity,
        ("GET", "/api/device/certificates/seen?after=0"),
        "",
    );
    seen.path = "/api/device/certificates/seen?after=1";
    let told = seen.send(&server);
    assert!(told.contains("wrong_signature"), "{told}");
    let seen = ("GET", "/api/device/certificates/seen?after=-1");
    let told = SignedRequest::new(&server, &identity, seen, "").send(&server);
    assert!(told.contains("bad_request"), "{told}");
    let stranger = State::open(server.folder.path().join("stranger")).unwrap();
    let stranger = stranger.identity().unwrap();
    let seen = ("GET", "/api/device/certificates/seen");
    let told = SignedRequest::new(&server, &stranger, seen, "").send(&server);
    assert!(told.contains("unknown_device"), "{told}");
}

#[test]
fn what_a_log_took_while_the_server_was_away_is_seen_and_an_alarm_outlasts_the_agent() {
    let log = CertificateLog::start(&Place::Host);
    let mut server = start(&log);
    let device = server.pair("mynas");
    let agent = device.run("http://127.0.0.1:1");
    server.process.kill();
    let strangers = certificate_for(&["mynas.nas.localhost"]);
    log.add(&strangers);
    let config = server.folder.path().join("causeway.toml");
    let server = server.restart_with(&["--config", &config.display().to_string()]);
    agent.until_said(ALARM);
    assert_eq!(strange(&device), [key_of(&strangers)]);
    drop(agent);
    let listed = certificates(&device, &["list"]);
    assert!(!listed.status.success());
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains(&key_of(&strangers)), "{listed}");
    // The cloud has told it once, and the device remembers.
    let agent = device.run("http://127.0.0.1:1");
    agent.until_said(ALARM);
    drop(server);
}

/// How often a round has failed for this reason.
fn failures(server: &Server, reason: &str) -> u64 {
    server.metric(&format!(
        "causeway_control_certificate_watch_failures_total{{reason=\"{reason}\"}}"
    ))
}

fn problem(server: &Server) -> Option<String> {
    let problem = watched(server)["logs"][0]["problem"].clone();
    problem.as_str().map(str::to_owned)
}

#[test]
fn a_log_that_misbehaves_is_survived_and_said_and_what_it_shows_meanwhile_is_seen() {
    let log = CertificateLog::start(&Place::Host);
    let server = start(&log);
    let device = server.pair("mynas");
    let agent = device.run("http://127.0.0.1:1");
    server.process.forget_peak();
    let (at_rest, _) = server.process.memory();
    for (conduct, reason, words) in [
        (Conduct::Rewritten, "rewritten", "rewritten its history"),
        (Conduct::Shrunk, "shrunk", "takes back what it has shown"),
        (Conduct::OtherKey, "nonsense", "not signed with its key"),
        (Conduct::Garbage, "nonsense", "not the JSON"),
        (Conduct::GarbageEntries, "nonsense", "an entry is not as"),
        (Conduct::Huge, "too_long", "longer than 8 MiB"),
        (Conduct::Hangs, "slow", "does not answer within 20 seconds"),
        (Conduct::Stale, "stale", "more than a day old"),
        (Conduct::Broken, "refused", "502"),
    ] {
        let before = failures(&server, reason);
        log.behave(conduct);
        log.add(&certificate_for(&["else.example.org"]));
        until(
            || failures(&server, reason) > before,
            || server.process.said(),
        );
        let said = problem(&server).unwrap();
        assert!(said.contains(words), "{conduct:?}: {said}");
        let said = format!("reason=\"{reason}\"");
        server.process.until_said(&said);
        // Whoever has lied is believed again once it no longer does.
        log.behave(Conduct::Honest);
        until(|| problem(&server).is_none(), || format!("{conduct:?}"));
    }
    let (_, peak) = server.process.memory();
    let grown = peak.saturating_sub(at_rest) / 1024 / 1024;
    println!("memory grew by {grown} MiB at most");
    assert!(grown < 64, "{grown} MiB");
    assert_eq!(alarms(&agent), 0);

    // A log that lies about what was shows a certificate all the same.
    log.behave(Conduct::Rewritten);
    let strangers = certificate_for(&["www.mynas.nas.localhost"]);
    log.add(&strangers);
    let begun = Instant::now();
    agent.until_said(ALARM);
    println!("alarmed after {:?}", begun.elapsed());
    assert_eq!(strange(&device), [key_of(&strangers)]);
    // The certificate may be told before it is known that the log has lied.
    let says_so = || {
        let status = status(&device);
        let problem = status["seen"]["logs"][0]["problem"].as_str();
        problem.is_some_and(|problem| problem.contains("rewritten"))
    };
    until(says_so, || status(&device).to_string());
}

#[test]
fn a_certificate_that_nobody_can_read_and_that_mentions_the_zone_is_said() {
    let log = CertificateLog::start(&Place::Host);
    let server = start(&log);
    log.add(b"neither a certificate nor of the zone");
    log.add(b"no certificate, but for MyNas.NAS.localhost");
    let count =
        |name: &str| server.metric(&format!("causeway_control_certificate_watch_{name}_total"));
    until(|| count("unreadable") == 2, || server.process.said());
    assert_eq!(count("unreadable_of_zone"), 1);
    server
        .process
        .until_said("cannot be read mentions the zone");
}

#[test]
fn an_agent_of_a_server_that_follows_no_log_says_nothing_of_it() {
    let server = Server::start();
    let device = server.pair("mynas");
    let _agent = device.run("http://127.0.0.1:1");
    until(
        || status(&device)["seen"].is_object(),
        || status(&device).to_string(),
    );
    let mut told = device.place.command(causeway_agent());
    told.args(["status", "--state"]).arg(&device.state);
    let told = String::from_utf8(run(told).stdout).unwrap();
    assert!(!told.contains("watched"), "{told}");
    let list = server.causeway(&["certificates"]);
    let list = String::from_utf8(list.stdout).unwrap();
    assert!(list.contains("no log is followed"), "{list}");
    assert!(
        Path::new(&device.state)
            .join("certificates_seen.json")
            .exists()
    );
}
