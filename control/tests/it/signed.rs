//! Requests that somebody signs: a device, a stranger, and one who has listened.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use relay::agent::{Identity, State};
use wire::signed_request::{CONTENT_DIGEST, Request, SIGNATURE, SIGNATURE_INPUT};

use serde_json::{Value, json};

use crate::dns::dig;
use crate::process::output_of;
use crate::world::Server;

const NO_ADDRESSES: &str = r#"{"addresses":[]}"#;

/// A signed request that can be sent more than once.
pub(crate) struct SignedRequest {
    method: &'static str,
    pub(crate) path: &'static str,
    body: String,
    headers: [String; 3],
}

impl SignedRequest {
    pub(crate) fn new(
        server: &Server,
        identity: &Identity,
        (method, path): (&'static str, &'static str),
        body: &str,
    ) -> Self {
        let request = Request {
            method,
            target: &server.url("cloud", path),
            body: body.as_bytes(),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let headers = identity
            .sign(&request, now.as_secs(), rand::random())
            .unwrap();
        Self {
            method,
            path,
            body: body.to_owned(),
            headers: [
                format!("{CONTENT_DIGEST}: {}", headers.content_digest),
                format!("{SIGNATURE_INPUT}: {}", headers.signature_input),
                format!("{SIGNATURE}: {}", headers.signature),
            ],
        }
    }

    /// The answer's body and status.
    pub(crate) fn send(&self, server: &Server) -> String {
        self.send_and_tell(server, "%{http_code}")
    }

    /// The answer's body, and in the last line what curl is asked for.
    fn send_and_tell(&self, server: &Server, what: &str) -> String {
        let mut curl = self.command(server);
        curl.args(["--write-out", &format!("\n{what}")]);
        output_of(curl)
    }

    /// The curl that sends it.
    pub(crate) fn command(&self, server: &Server) -> Command {
        let mut curl = server.curl();
        curl.args(["--request", self.method, "--data-binary", &self.body]);
        for header in &self.headers {
            curl.args(["--header", header]);
        }
        curl.arg(server.url("cloud", self.path));
        curl
    }
}

const ADDRESSES: (&str, &str) = ("PUT", "/api/device/addresses");
const DNS: (&str, &str) = ("PATCH", "/api/device/dns");
const RELAYS: (&str, &str) = ("GET", "/api/device/relays");
const PAIR: (&str, &str) = ("POST", "/api/pair");

#[test]
fn what_a_device_has_signed_works_once_and_strangers_take_no_memory() {
    let server = Server::start();
    let device = State::open(server.ready.state.join("demo-agent")).unwrap();
    let device = device.identity().unwrap();
    let report = SignedRequest::new(&server, &device, ADDRESSES, NO_ADDRESSES);
    assert!(report.send(&server).ends_with("\n200"));
    let again = report.send(&server);
    assert!(again.contains("replayed"), "{again}");

    let stranger = State::open(server.folder.path().join("stranger")).unwrap();
    let stranger = stranger.identity().unwrap();
    let report = SignedRequest::new(&server, &stranger, ADDRESSES, NO_ADDRESSES);
    for _ in 0..2 {
        let refused = report.send(&server);
        assert!(refused.contains("unknown_device"), "{refused}");
    }
}

#[test]
fn strangers_write_nothing_of_theirs_into_the_log() {
    let server = Server::start();
    let stranger = State::open(server.folder.path().join("stranger")).unwrap();
    let stranger = stranger.identity().unwrap();
    let forged = r#"{"code":"7X3M","\nERROR the server was forged":1}"#;
    let refused = SignedRequest::new(&server, &stranger, PAIR, forged).send(&server);
    assert!(refused.contains("bad_request"), "{refused}");
    let line = server.process.until_said("Data error of JSON at line 1");
    assert!(line.contains("bad_request"), "{line}");
    assert!(!server.process.said().contains("forged"));

    let colourful = r#"{"code":"7X3M","software":"\u001b[31m"}"#;
    let refused = SignedRequest::new(&server, &stranger, PAIR, colourful).send(&server);
    assert!(refused.contains("bad_request"), "{refused}");
}

/// The demo device, and what it asks for.
struct Demo<'s> {
    server: &'s Server,
    identity: Identity,
}

impl<'s> Demo<'s> {
    fn of(server: &'s Server) -> Self {
        let state = State::open(server.ready.state.join("demo-agent")).unwrap();
        let identity = state.identity().unwrap();
        Self { server, identity }
    }

    fn change(&self, body: &Value) -> (Value, String) {
        self.ask(DNS, &body.to_string())
    }

    fn ask(&self, route: (&'static str, &'static str), body: &str) -> (Value, String) {
        let request = SignedRequest::new(self.server, &self.identity, route, body);
        let what = "%{http_code} %header{retry-after}";
        let answer = request.send_and_tell(self.server, what);
        let (body, status) = answer.rsplit_once('\n').unwrap();
        (
            serde_json::from_str(body).unwrap(),
            status.trim().to_owned(),
        )
    }
}

#[test]
fn a_device_hears_where_it_can_bring_its_tunnels_and_a_stranger_does_not() {
    let server = Server::start();
    let (answer, status) = Demo::of(&server).ask(RELAYS, "");
    assert_eq!(status, "200", "{answer}");
    let relay = server.url("relay", "");
    let relay = relay.strip_prefix("https://").unwrap();
    assert_eq!(answer, json!({"relays": [relay]}));

    let stranger = State::open(server.folder.path().join("stranger")).unwrap();
    let stranger = stranger.identity().unwrap();
    let refused = SignedRequest::new(&server, &stranger, RELAYS, "").send(&server);
    assert!(refused.contains("unknown_device"), "{refused}");
}

#[test]
fn a_device_says_where_it_is_and_gets_a_receipt() {
    let server = Server::start();
    let demo = Demo::of(&server);
    let digest = "LPsIwTo7o8BoG0-vjCyGQGBWSVIPxI-i_X336eUOQZo";
    let challenge = json!({"host": "photos", "value": digest});
    let all = json!({
        "ipv4": "203.0.113.7", "ipv6": "2001:db8::7", "challenges": {"add": [challenge]},
    });
    let (receipt, status) = demo.change(&all);
    assert_eq!(status, "200", "{receipt}");
    assert_eq!(receipt["name"], "demo.nas.localhost");
    let addresses = json!({"ipv4": "203.0.113.7", "ipv6": "2001:db8::7"});
    assert_eq!(receipt["addresses"], addresses);
    assert_eq!(receipt["challenges"], json!([challenge]));
    assert_eq!(
        (&receipt["changed"], &receipt["durable"]),
        (&json!(true), &json!(true))
    );
    assert!(receipt["took_us"].as_u64().unwrap() > 0);
    assert_eq!(dig(&server, "demo.nas.localhost", "A"), "203.0.113.7\n");
    let photos = "_acme-challenge.photos.demo.nas.localhost";
    assert_eq!(dig(&server, photos, "TXT"), format!("\"{digest}\"\n"));
    let soa = dig(&server, "nas.localhost", "SOA");
    let serial = receipt["serial"].as_u64().unwrap();
    assert!(soa.contains(&format!(" {serial} ")), "{soa}, not {serial}");

    // Nothing changes; and then only what is named.
    let (again, _) = demo.change(&all);
    assert_eq!(
        (&again["changed"], &again["version"]),
        (&json!(false), &receipt["version"])
    );
    let (later, _) = demo.change(&json!({"ipv6": null, "challenges": {"remove": [challenge]}}));
    assert_eq!(
        later["addresses"],
        json!({"ipv4": "203.0.113.7", "ipv6": null})
    );
    assert_eq!(later["challenges"], json!([]));
    assert!(later["version"].as_u64() > receipt["version"].as_u64());
    let (state, status) = demo.ask(("GET", "/api/device/dns"), "");
    assert_eq!(status, "200");
    for key in [
        "name",
        "version",
        "serial",
        "addresses",
        "lan",
        "challenges",
    ] {
        assert_eq!(state[key], later[key], "{key}");
    }
    let changed = r#"causeway_ddns_updates_total{door="api",result="changed"}"#;
    assert_eq!(server.metric(changed), 2);
}

#[test]
fn a_device_says_where_it_is_at_home_and_only_there_is_it_answered() {
    let server = Server::start();
    let demo = Demo::of(&server);
    let lan = "lan.demo.nas.localhost";
    assert_eq!(dig(&server, lan, "A"), "127.0.0.1\n", "like any name below");
    let at_home = json!({"ipv4": "192.168.1.7", "ipv6": "fd00::7"});
    let (receipt, status) = demo.change(&json!({"lan": at_home}));
    assert_eq!(status, "200", "{receipt}");
    assert_eq!(receipt["lan"], at_home);
    assert_eq!(receipt["addresses"], json!({"ipv4": null, "ipv6": null}));
    assert_eq!(dig(&server, lan, "A"), "192.168.1.7\n");
    assert_eq!(dig(&server, lan, "AAAA"), "fd00::7\n");
    assert_eq!(dig(&server, "x.lan.demo.nas.localhost", "A"), "");
    assert_eq!(dig(&server, "demo.nas.localhost", "A"), "127.0.0.1\n");
    let (later, _) = demo.change(&json!({"lan": {"ipv4": null, "ipv6": null}}));
    assert_eq!(later["lan"], json!({"ipv4": null, "ipv6": null}));
    assert_eq!(dig(&server, lan, "A"), "127.0.0.1\n");
}

#[test]
fn what_a_device_may_not_say_of_itself_is_refused_as_a_whole() {
    let server = Server::start();
    let demo = Demo::of(&server);
    for (body, status, code) in [
        (
            json!({"ipv4": "203.0.113.7", "ipv6": "::"}),
            "422",
            "not_public",
        ),
        (
            json!({"ipv4": "203.0.113.7", "lan": {"ipv4": "203.0.113.7"}}),
            "422",
            "not_of_lan",
        ),
        (
            json!({"ipv4": "203.0.113.7", "lan": {"ipv6": "fe80::7"}}),
            "422",
            "not_of_lan",
        ),
        (
            json!({"ipv4": "203.0.113.7", "name": "mynas"}),
            "400",
            "bad_request",
        ),
        (
            json!({"ipv4": "203.0.113.7", "challenges": {"add": [{"host": "..", "value": "a"}]}}),
            "422",
            "bad_challenge",
        ),
    ] {
        let (problem, told) = demo.change(&body);
        assert_eq!(
            (&problem["code"], told.as_str()),
            (&json!(code), status),
            "{body}"
        );
    }
    assert_eq!(dig(&server, "demo.nas.localhost", "A"), "127.0.0.1\n");
    let stranger = State::open(server.folder.path().join("stranger")).unwrap();
    let stranger = stranger.identity().unwrap();
    let refused = SignedRequest::new(&server, &stranger, DNS, "{}").send(&server);
    assert!(refused.contains("unknown_device"), "{refused}");
}

#[test]
fn a_device_that_changes_too_often_hears_when_to_come_back() {
    let server = Server::start();
    let demo = Demo::of(&server);
    for last in 1..100 {
        let (answer, status) = demo.change(&json!({"ipv4": format!("203.0.113.{last}")}));
        if status != "200" {
            assert!(last > 10, "after {last}");
            assert_eq!(
                (&answer["code"], status.as_str()),
                (&json!("too_often"), "429 60")
            );
            let same = json!({"ipv4": format!("203.0.113.{}", last - 1)});
            assert_eq!(demo.change(&same).1, "200", "it changes nothing");
            return;
        }
    }
    panic!("nobody is held up");
}
