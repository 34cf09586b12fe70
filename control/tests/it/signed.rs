//! Requests that somebody signs: a device, a stranger, and one who has listened.

use std::time::{SystemTime, UNIX_EPOCH};

use relay::agent::{Identity, State};
use wire::signed_request::{CONTENT_DIGEST, Request, SIGNATURE, SIGNATURE_INPUT};

use crate::process::output_of;
use crate::world::Server;

const NO_ADDRESSES: &str = r#"{"addresses":[]}"#;

/// A signed request that can be sent more than once.
struct SignedRequest {
    method: &'static str,
    path: &'static str,
    body: String,
    headers: [String; 3],
}

impl SignedRequest {
    fn new(
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

    /// The answer's status and body.
    fn send(&self, server: &Server) -> String {
        let mut curl = server.curl();
        curl.args(["--request", self.method, "--data-binary", &self.body]);
        curl.args(["--write-out", "\n%{http_code}"]);
        for header in &self.headers {
            curl.args(["--header", header]);
        }
        curl.arg(server.url("cloud", self.path));
        output_of(curl)
    }
}

const ADDRESSES: (&str, &str) = ("PUT", "/api/device/addresses");
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
