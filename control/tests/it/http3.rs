//! A device's own HTTP/3 service, by name, through the relay: clients and servers that know nothing of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::chromium::Chromium;
use crate::nginx::certify;
use crate::process::{Process, output_of, run_for};
use crate::world::Server;

/// What moves much is done by then.
const LONG: Duration = Duration::from_secs(240);

const OPENED: &str = "causeway_relay_carriers_opened_total{kind=\"flow\"}";

/// aioquic at work, as `.ci/run` has installed it.
fn python(script: &str) -> Command {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", repository.join("target/python/aioquic"));
    python.arg(repository.join("control/tests/it/http3").join(script));
    python
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
