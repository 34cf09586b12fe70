//! A device's own HTTP/3 service, by name, through the relay: clients and servers that know nothing of it.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::chromium::Chromium;
use crate::nginx::{Nginx, certify};
use crate::process::{Process, SOON, output_of, run_for, until, with_library};
use crate::world::{Place, Server};

/// What moves much is done by then.
const LONG: Duration = Duration::from_secs(240);

const OPENED: &str = "causeway_relay_carriers_opened_total{kind=\"flow\"}";

/// aioquic at work, as `.ci/run` has installed it.
fn python(script: &str) -> Command {
    with_library("aioquic", &format!("http3/{script}"))
}

/// A service on the device, with a certificate of its own for the device's name.
struct Service {
    certificate: PathBuf,
    port: u16,
    _process: Process,
}

impl Service {
    fn start(server: &Server) -> Self {
        let folder = server.folder.path();
        certify(&format!("DNS:mynas.{}", server.ready.zone), folder);
        let [certificate, key] = ["cert.pem", "key.pem"].map(|name| folder.join(name));
        let mut service = python("server.py");
        service.args([&certificate, &key]);
        let process = Process::start(service);
        let said = process.until_said("listening on");
        let port = said.trim().rsplit_once(' ').unwrap().1.parse().unwrap();
        Self {
            certificate,
            port,
            _process: process,
        }
    }

    /// Its device's agent, attached. Over TCP there is no service.
    fn agent(&self, server: &Server) -> Process {
        let http3 = format!("127.0.0.1:{}", self.port);
        let device = server.pair("mynas");
        device.run_with("http://127.0.0.1:9", &["--http3", &http3])
    }

    /// The digest of its key, by which a browser can be told to trust it.
    fn pin(&self) -> String {
        let mut digest = Command::new("sh");
        let script = "openssl x509 -in \"$0\" -pubkey -noout | openssl pkey -pubin -outform der | \
                      openssl dgst -sha256 -binary | openssl base64";
        digest.args(["-c", script]).arg(&self.certificate);
        output_of(digest).trim().to_owned()
    }
}

#[test]
fn aioquic_fetches_and_sends_by_name() {
    let server = Server::start();
    let service = Service::start(&server);
    let _agent = service.agent(&server);
    let mut client = python("client.py");
    client.arg(&service.certificate);
    client.arg(format!("mynas.{}", server.ready.zone));
    client.args([&server.ready.front.port().to_string(), "8000000"]);
    let done = run_for(client, LONG);
    let said = String::from_utf8_lossy(&done.stdout);
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success() && said.contains("all was right"),
        "{said}{error}"
    );
    assert_eq!(server.metric(OPENED), 1);
}

#[test]
fn chromium_comes_by_http3() {
    let server = Server::start();
    let service = Service::start(&server);
    let _agent = service.agent(&server);
    let host = format!("mynas.{}:{}", server.ready.zone, server.ready.front.port());
    let mut chromium = Chromium::start_with(
        &server,
        &[
            "--enable-quic",
            "--host-resolver-rules=MAP *.localhost 127.0.0.1", // [::1] would be tried first, and nothing after it
            &format!("--origin-to-force-quic-on={host}"),
            &format!("--ignore-certificate-errors-spki-list={}", service.pin()),
        ],
    );
    chromium.open(&format!("https://{host}/"));
    chromium.until("document.title === 'HTTP/3'");
    let protocol = "performance.getEntriesByType('navigation')[0].nextHopProtocol";
    assert_eq!(chromium.evaluate(protocol), "h3");
    // Much of it, byte by byte as it was.
    let fetched = "fetch('/bytes/4000000').then(answer => answer.arrayBuffer()).then(buffer => {
        const octets = new Uint8Array(buffer);
        return octets.length === 4000000 && octets.every((octet, at) => octet === at % 251);
    })";
    assert_eq!(chromium.evaluate(fetched), true);
}

#[test]
fn chromium_hears_of_the_agents_http3_and_comes_back_by_it() {
    let server = Server::start();
    let nginx = Nginx::start(&server.place);
    std::fs::write(nginx.file("index.html"), "<title>Photos</title>").unwrap();
    let octets: Vec<u8> = (0..4_000_000_u32).map(|at| (at % 251) as u8).collect();
    std::fs::write(nginx.file("bytes"), &octets).unwrap();
    let device = server.pair("mynas");
    let _agent = device.run_with(&nginx.origin(), &["--http3", "agent"]);
    let name = format!("mynas.{}", server.ready.zone);
    let url = format!("https://{name}:{}/", server.ready.front.port());
    let mut chromium = Chromium::start_with(
        &server,
        &[
            "--enable-quic",
            "--host-resolver-rules=MAP *.localhost 127.0.0.1",
            // It is not forced on here: for this name an authority of one's own is good enough, which over QUIC it is not else.
            &format!("--origin-to-force-quic-on={name}:1"),
        ],
    );
    let protocol = "performance.getEntriesByType('navigation')[0].nextHopProtocol";
    chromium.open(&url);
    chromium.until("document.title === 'Photos'");
    assert_eq!(chromium.evaluate(protocol), "h2", "nobody has told it");
    // Until the tunnel has found out how much its path carries, it is told that there is none.
    let begun = Instant::now();
    let mut times = 0;
    while chromium.evaluate(protocol) != "h3" {
        assert!(begun.elapsed() < SOON, "it does not come by HTTP/3");
        // Of what is kept the browser says how it came first.
        times += 1;
        chromium.open(&format!("{url}?{times}"));
        chromium.until("document.title === 'Photos'");
    }
    let passed = "fetch('/bytes').then(answer => answer.arrayBuffer())
        .then(buffer => fetch('/sent', { method: 'PUT', body: buffer })).then(answer => answer.status)";
    assert_eq!(chromium.evaluate(passed), 201);
    assert!(std::fs::read(nginx.file("sent")).unwrap() == octets);
    let by =
        "performance.getEntriesByType('resource').every(entry => entry.nextHopProtocol === 'h3')";
    assert_eq!(chromium.evaluate(by), true);
    assert!(server.metric(OPENED) >= 1);
}

/// What an answer of `mynas` over TCP says of HTTP/3.
fn offered(server: &Server) -> Option<String> {
    let mut curl = server.curl();
    curl.args(["--silent", "--head", &server.url("mynas", "/")]);
    let head = output_of(curl).to_ascii_lowercase();
    let offer = head.lines().find_map(|line| line.strip_prefix("alt-svc: "));
    offer.map(|offer| offer.trim().to_owned())
}

fn offer(server: &Server) -> Option<String> {
    let port = server.ready.front.port();
    Some(format!("h3=\":{port}\"; ma=3600"))
}

#[test]
fn where_udp_is_blocked_no_http3_is_offered() {
    let place = Place::namespace();
    let server = Server::start_with(place.clone(), &[]);
    let nginx = Nginx::start(&place);
    std::fs::write(nginx.file("index.html"), "there").unwrap();
    let device = server.pair("mynas");
    let agent = device.run_with(&nginx.origin(), &["--http3", "agent"]);
    until(|| offered(&server) == offer(&server), || agent.said());
    place.block_udp();
    agent.until_said("attached to the relay transport=\"tls\"");
    let is_taken_back = || offered(&server).as_deref() == Some("clear");
    until(is_taken_back, || agent.said());
}

#[test]
fn where_the_path_takes_no_packets_within_packets_no_http3_is_offered() {
    let place = Place::namespace();
    let mtu = |octets: &str| {
        let mut ip = place.command("ip");
        ip.args(["link", "set", "dev", "lo", "mtu", octets]);
        output_of(ip);
    };
    mtu("1280"); // the least that a path of IPv6 has
    let server = Server::start_with(place.clone(), &[]);
    let nginx = Nginx::start(&place);
    std::fs::write(nginx.file("index.html"), "there").unwrap();
    let device = server.pair("mynas");
    let agent = device.run_with(&nginx.origin(), &["--http3", "agent"]);
    agent.until_said("attached to the relay transport=\"quic\"");
    for _ in 0..20 {
        assert_eq!(offered(&server).as_deref(), Some("clear"));
    }
    drop(agent);
    mtu("1500");
    let agent = device.run_with(&nginx.origin(), &["--http3", "agent"]);
    until(|| offered(&server) == offer(&server), || agent.said());
}
