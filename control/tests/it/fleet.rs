//! Relays with a process of their own, as control sees them: they are registered, they follow, and report who is there.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use relay::agent::Identity;
use serde_json::{Value, json};

use crate::process::{Process, output_of, until};
use crate::signed::SignedRequest;
use crate::world::Server;

const FOLLOW: (&str, &str) = ("POST", "/api/relay/follow");
const PRESENCE: (&str, &str) = ("POST", "/api/relay/presence");
const CERTIFICATE: (&str, &str) = ("POST", "/api/relay/certificate");

/// A relay that has the file of `causeway relay add`, and nothing else.
struct Joined {
    file: PathBuf,
    identity: Identity,
}

impl Joined {
    fn add(server: &Server, name: &str) -> Self {
        let file = server.folder.path().join(format!("{name}.join"));
        let path = file.to_str().unwrap();
        let add = [
            "relay",
            "add",
            name,
            path,
            "--public",
            "192.0.2.9",
            "--port",
            "8443",
        ];
        let host = server.verb(&add, "relay");
        assert_eq!(host, format!("{name}.relay.{}", server.ready.zone));
        let text = std::fs::read_to_string(&file).unwrap();
        let joined: toml::Table = toml::from_str(&text).unwrap();
        let key = joined["key"].as_str().unwrap();
        let identity = Identity::from_pem(key).unwrap();
        Self { file, identity }
    }

    fn ask(&self, server: &Server, call: (&'static str, &'static str), body: &str) -> String {
        SignedRequest::new(server, &self.identity, call, body).send(server)
    }

    /// Follows, until what is given back is dropped.
    fn follow(&self, server: &Server, known: &Value) -> Process {
        let body = json!({ "known": known }).to_string();
        let request = SignedRequest::new(server, &self.identity, FOLLOW, &body);
        let mut curl = request.command(server);
        curl.arg("--no-buffer");
        Process::start(curl)
    }
}

/// The value of the first line that `following` has said of this kind.
fn told(following: &Process, kind: &str) -> Value {
    let line = following.until_said(&format!("{{\"{kind}\":"));
    let line: Value = serde_json::from_str(&line).unwrap();
    line[kind].clone()
}

fn listed(server: &Server) -> Value {
    let output = server.causeway(&["relay", "list", "--json"]);
    let relays: Value = serde_json::from_slice(&output.stdout).unwrap();
    relays[0].clone()
}

fn until_listed(server: &Server, is_so: impl Fn(&Value) -> bool) {
    until(|| is_so(&listed(server)), || listed(server).to_string());
}

fn demo(server: &Server) -> (String, String) {
    let devices = server.devices();
    let demo = devices.as_array().unwrap().first().unwrap();
    let pairing = std::fs::read(server.ready.state.join("demo-agent/pairing.json")).unwrap();
    let pairing: Value = serde_json::from_slice(&pairing).unwrap();
    assert_eq!(pairing["device_id"], demo["id"]);
    let id = data_encoding::BASE32_DNSSEC.decode(demo["id"].as_str().unwrap().as_bytes());
    let id = data_encoding::HEXLOWER.encode(&id.unwrap());
    (demo["name"].as_str().unwrap().to_owned(), id)
}

fn present(name: &str, id: &str) -> Value {
    json!({
        "device": id, "name": name, "since": 1_700_000_000, "transport": "quic",
        "seen_as": "192.0.2.77:4711", "software": "causeway-agent/test",
    })
}

#[test]
fn a_relay_is_told_everything_once_and_then_what_changes() {
    let server = Server::start();
    let relay = Joined::add(&server, "eu1");
    let mode = std::fs::metadata(&relay.file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let following = relay.follow(&server, &Value::Null);
    assert!(told(&following, "welcome")["session"].is_string());
    let snapshot = told(&following, "snapshot");
    assert_eq!(snapshot["devices"], 1);
    let device = told(&following, "device");
    assert_eq!(device["name"], demo(&server).0);
    assert!(!following.said().contains("ddns"));
    assert_eq!(told(&following, "complete")["devices"], 1);

    server.verb(&["device", "add", "second"], "code");
    let put = told(&following, "put");
    assert_eq!(put["device"]["name"], "second");
    server.causeway(&["device", "limit", "second", "--visitors", "7"]);
    following.until_said("\"visitors\":7");
    server.causeway(&["device", "remove", "second"]);
    let removed = told(&following, "removed");
    assert_eq!(removed["name"], "second");
    drop(following);
    until_listed(&server, |relay| relay["following"] == false);

    // What it knows already is not told again; what it has missed is.
    server.verb(&["device", "add", "third"], "code");
    let known = json!({ "epoch": snapshot["epoch"], "version": removed["version"] });
    let following = relay.follow(&server, &known);
    assert_eq!(told(&following, "put")["device"]["name"], "third");
    assert!(
        !following.said().contains("snapshot"),
        "{}",
        following.said()
    );

    // A removed relay hears nothing more.
    let mut following = relay.follow(&server, &known);
    told(&following, "put");
    server.causeway(&["relay", "remove", "eu1"]);
    following.ended();
    let refused = relay.ask(&server, FOLLOW, "{}");
    assert!(
        refused.contains("unknown_relay") && refused.ends_with("\n403"),
        "{refused}"
    );
}

#[test]
fn what_a_relay_reports_is_true_for_as_long_as_it_follows() {
    let server = Server::start();
    let relay = Joined::add(&server, "eu1");
    let (name, id) = demo(&server);
    let following = relay.follow(&server, &Value::Null);
    let session = told(&following, "welcome")["session"].clone();
    let report = |session: &Value, number: u64, came: &[Value], gone: &[&str]| {
        let report = json!({ "session": session, "number": number, "came": came, "gone": gone });
        relay.ask(&server, PRESENCE, &report.to_string())
    };
    let stranger = present("nobody", &id);
    let first = report(&session, 0, &[present(&name, &id), stranger], &[]);
    assert!(first.ends_with("\n200"), "{first}");
    assert_eq!(listed(&server)["devices"], 1);
    assert_eq!(listed(&server)["following"], true);

    let other = json!("00000000000000000000000000000000");
    for (session, number) in [(&session, 0), (&session, 2), (&other, 1)] {
        let refused = report(session, number, &[], &[]);
        assert!(
            refused.contains("old_session") && refused.ends_with("\n409"),
            "{refused}"
        );
    }
    let mut nonsense = present(&name, &id);
    nonsense["transport"] = json!("pigeon");
    let refused = report(&session, 1, &[nonsense], &[]);
    assert!(refused.ends_with("\n400"), "{refused}");
    let many = vec![present(&name, &id); 201];
    let refused = report(&session, 1, &many, &[]);
    assert!(
        refused.ends_with("\n400") || refused.ends_with("\n413"),
        "{refused}"
    );

    let gone = report(&session, 1, &[], &[&id]);
    assert!(gone.ends_with("\n200"), "{gone}");
    assert_eq!(listed(&server)["devices"], 0);
    let back = report(&session, 2, &[present(&name, &id)], &[]);
    assert!(back.ends_with("\n200"), "{back}");
    drop(following);
    until_listed(&server, |relay| {
        relay["following"] == false && relay["devices"] == 0
    });
}

#[test]
fn a_relay_that_says_nothing_is_given_up() {
    let server = Server::start();
    let relay = Joined::add(&server, "eu1");
    let mut following = relay.follow(&server, &Value::Null);
    told(&following, "beat");
    following.ended();
    let silent = "causeway_control_relay_sessions_ended_total{reason=\"silent\"}";
    assert_eq!(server.metric(silent), 1);
}

#[test]
fn a_relay_is_certified_for_its_own_host_only_and_a_device_is_no_relay() {
    let server = Server::start();
    let relay = Joined::add(&server, "eu1");
    let tls_key = relay::agent::State::open(server.folder.path().join("relay")).unwrap();
    let tls_key = tls_key.tls_key().unwrap();
    let zone = &server.ready.zone;
    let ask = |host: String| {
        let request = tls_key.signing_request(vec![host]).unwrap();
        relay.ask(&server, CERTIFICATE, &request)
    };
    let good = ask(format!("eu1.relay.{zone}"));
    assert!(good.ends_with("\n200"), "{good}");
    for other in ["relay", "cloud", "demo", "eu2.relay"] {
        let refused = ask(format!("{other}.{zone}"));
        assert!(refused.contains("bad_signing"), "{other}: {refused}");
    }
    let device = relay::agent::State::open(server.ready.state.join("demo-agent")).unwrap();
    let device = device.identity().unwrap();
    for call in [FOLLOW, PRESENCE, CERTIFICATE] {
        let refused = SignedRequest::new(&server, &device, call, "{}").send(&server);
        assert!(refused.contains("unknown_relay"), "{refused}");
    }
    let report = SignedRequest::new(
        &server,
        &relay.identity,
        ("POST", "/api/device/certificate"),
        "",
    );
    assert!(report.send(&server).contains("unknown_device"));
}

#[test]
fn what_cannot_be_a_relay_is_refused_and_leaves_no_file() {
    let server = Server::start();
    let taken = Joined::add(&server, "eu1");
    let file = server.folder.path().join("new.join");
    let path = file.to_str().unwrap();
    for (name, address, sentence) in [
        ("eu1", "192.0.2.9", "already"),
        ("e u", "192.0.2.9", "only the letters"),
        ("eu2", "0.0.0.0", "at which it can be reached"),
        (
            "eu2",
            "::ffff:255.255.255.255",
            "at which it can be reached",
        ),
    ] {
        let output = server.causeway(&["relay", "add", name, path, "--public", address]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && said.contains(sentence),
            "{said}"
        );
        assert!(!file.exists());
    }
    let before = std::fs::read(&taken.file).unwrap();
    let path = taken.file.to_str().unwrap();
    let output = server.causeway(&["relay", "add", "eu2", path, "--public", "192.0.2.9"]);
    assert!(!output.status.success());
    assert_eq!(std::fs::read(&taken.file).unwrap(), before);
    let list = output_of(server.command(&["relay", "list"]));
    assert!(
        list.contains("eu1.relay") && list.contains("away") && !list.contains("eu2"),
        "{list}"
    );
    let output = server.causeway(&["relay", "remove", "eu2"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no relay named eu2"), "{said}");
}
