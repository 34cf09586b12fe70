//! gRPC by name: its own client and server, which know nothing of the relay between them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::nginx::certify;
use crate::process::{Process, run_for, with_library};
use crate::world::Server;

/// All calls are over by then.
const LONG: Duration = Duration::from_secs(240);

/// Longer than the body of a request that is no call may keep the agent waiting.
const REST: &str = "13";

/// grpcio at work, as `.ci/run` has installed it.
fn python(script: &str) -> Command {
    with_library("grpcio", &format!("grpc/{script}"))
}

/// A service, and the port on which it listens.
fn service(files: &[&Path]) -> (Process, u16) {
    let mut server = python("server.py");
    server.args(files);
    let process = Process::start(server);
    let said = process.until_said("listening on");
    let port = said.trim().rsplit_once(' ').unwrap().1.parse().unwrap();
    (process, port)
}

/// Calls in every way there is; `certificate` vouches for whoever ends the client's TLS.
fn calls(server: &Server, certificate: &Path) {
    let mut client = python("client.py");
    client.arg(certificate);
    client.arg(format!("mynas.{}", server.ready.zone));
    client.args([&server.ready.front.port().to_string(), REST]);
    let done = run_for(client, LONG);
    let said = String::from_utf8_lossy(&done.stdout);
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success() && said.contains("all was right"),
        "{said}{error}"
    );
}

const OPENED: &str = "causeway_relay_carriers_opened_total{kind=\"quic\"}";

#[test]
fn calls_go_to_a_service_in_clear_and_their_tls_ends_on_the_agent() {
    let server = Server::start();
    let (_service, port) = service(&[]);
    let device = server.pair("mynas");
    let _agent = device.run(&format!("h2c://127.0.0.1:{port}"));
    let before = server.metric(OPENED);
    calls(&server, &server.ready.ca);
    assert_eq!(server.metric(OPENED) - before, 1, "all over one connection");
}

#[test]
fn calls_go_to_a_service_over_tls_that_the_agent_speaks() {
    let server = Server::start();
    let folder = server.folder.path();
    certify("IP:127.0.0.1", folder);
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| folder.join(name));
    let (_service, port) = service(&[&certificate, &key]);
    let device = server.pair("mynas");
    let trusted = ["--origin-ca", certificate.to_str().unwrap()];
    let _agent = device.run_with(&format!("h2://127.0.0.1:{port}"), &trusted);
    calls(&server, &server.ready.ca);
}

#[test]
fn calls_go_to_a_service_that_ends_the_clients_tls_itself() {
    let server = Server::start();
    let folder = server.folder.path();
    certify(&format!("DNS:mynas.{}", server.ready.zone), folder);
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| folder.join(name));
    let (_service, port) = service(&[&certificate, &key]);
    let device = server.pair("mynas");
    let _agent = device.run(&format!("tls://127.0.0.1:{port}"));
    calls(&server, &certificate);
}
