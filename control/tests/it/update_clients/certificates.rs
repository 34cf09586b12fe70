//! Clients that get a certificate for a device's names, from an ACME server that looks at the DNS.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::{CLOUD, NAME, Scene, said_by};
use crate::process::{Process, output_of};

/// The device's own name, all below it, and one further below.
const NAMES: [&str; 3] = [
    NAME,
    "*.mynas.causeway.example",
    "a.photos.mynas.causeway.example",
];
/// Where the challenges of the first two are, at the same time.
const CHALLENGE: &str = "_acme-challenge.mynas.causeway.example";
const DIRECTORY: &str = "https://127.0.0.1:14000/dir";

/// An ACME server beside ours, which it asks for challenges, and nobody else.
struct Pebble {
    /// What has to be trusted to talk to it, and to the cloud.
    trust: PathBuf,
    _process: Process,
}

impl Pebble {
    fn start(scene: &Scene) -> Self {
        let mut openssl = Command::new("openssl");
        openssl.current_dir(scene.folder.path());
        openssl.args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ]);
        openssl.args(["-subj", "/CN=pebble", "-addext"]);
        openssl.arg("subjectAltName=IP:127.0.0.1");
        openssl.args(["-keyout", "pebble.key", "-out", "pebble.pem"]);
        output_of(openssl);
        let config = json!({"pebble": {
            "listenAddress": "127.0.0.1:14000",
            "managementListenAddress": "127.0.0.1:15000",
            "certificate": "pebble.pem",
            "privateKey": "pebble.key",
        }});
        scene.file("pebble.json", &config.to_string());
        let mut pebble = scene.client("pebble");
        pebble.args(["-config", "pebble.json", "-dnsserver", "127.0.0.1:53"]);
        // To try its clients out it would wait before it looks, and take some of their nonces for used ones.
        pebble.env("PEBBLE_VA_NOSLEEP", "1");
        pebble.env("PEBBLE_WFE_NONCEREJECT", "0");
        let process = Process::start(pebble);
        let own = fs::read_to_string(scene.folder.path().join("pebble.pem")).unwrap();
        let ours = fs::read_to_string(scene.ca()).unwrap();
        let trust = scene.file("trust.pem", &(own + &ours));
        // It says that it listens before it does.
        process.until_said("ACME directory available");
        let mut curl = scene.client("curl");
        curl.args(["--silent", "--show-error", "--fail", "--retry", "5"]);
        curl.args(["--retry-connrefused", "--cacert"]).arg(&trust);
        curl.arg(DIRECTORY);
        output_of(curl);
        Self {
            trust,
            _process: process,
        }
    }
}

/// lego, asked for a certificate for the device's names.
fn lego(scene: &Scene, pebble: &Pebble, dialect: &str) -> Command {
    let mut lego = scene.client("lego");
    lego.env("LEGO_CA_CERTIFICATES", &pebble.trust);
    lego.env("SSL_CERT_FILE", &pebble.trust);
    lego.args(["--accept-tos", "--email", "owner@causeway.example"]);
    lego.args(["--server", DIRECTORY, "--path", ".", "--dns", dialect]);
    // It looks for the zone, and whether the challenge is there.
    lego.args(["--dns.resolvers", "127.0.0.1:53"]);
    for name in NAMES {
        lego.args(["--domains", name]);
    }
    lego.arg("run");
    lego
}

/// certbot, asked for one for these names.
fn certbot(scene: &Scene, pebble: &Pebble, names: &[&str], options: &[&str]) -> Command {
    let mut certbot = scene.client("certbot");
    certbot.env("REQUESTS_CA_BUNDLE", &pebble.trust);
    certbot.args(["certonly", "--non-interactive", "--agree-tos"]);
    certbot.args(["--register-unsafely-without-email", "--server", DIRECTORY]);
    certbot.args(["--config-dir", ".", "--work-dir", ".", "--logs-dir", "."]);
    certbot.args(["-d", &names.join(",")]).args(options);
    certbot
}

/// A certificate, which must be there, is for these names.
fn assert_is_for(names: &[&str], scene: &Scene, file: &str) {
    let mut openssl = Command::new("openssl");
    openssl.args(["x509", "-noout", "-issuer", "-ext", "subjectAltName", "-in"]);
    openssl.arg(scene.folder.path().join(file));
    let text = output_of(openssl);
    assert!(text.contains("Pebble"), "{text}");
    for name in names {
        assert!(text.contains(&format!("DNS:{name}")), "{text}");
    }
}

fn lego_by_rfc2136(scene: &Scene, pebble: &Pebble, secret: &str) -> Command {
    let tsig = &scene.challenges.tsig;
    let mut lego = lego(scene, pebble, "rfc2136");
    lego.env("RFC2136_NAMESERVER", CLOUD);
    lego.env("RFC2136_TSIG_ALGORITHM", format!("{}.", tsig.algorithm));
    lego.env("RFC2136_TSIG_KEY", &tsig.name);
    lego.env("RFC2136_TSIG_SECRET", secret);
    // Seconds; a minute between two names if nothing is said.
    lego.env("RFC2136_SEQUENCE_INTERVAL", "0");
    lego.env("RFC2136_POLLING_INTERVAL", "1");
    lego
}

#[test]
fn lego_gets_a_certificate_by_rfc2136() {
    let scene = Scene::start();
    let pebble = Pebble::start(&scene);
    let other = &scene.addresses.tsig.secret; // well formed, and another key's
    let said = said_by(lego_by_rfc2136(&scene, &pebble, other), false);
    assert!(said.contains("bad authentication"), "{said}");

    let secret = &scene.challenges.tsig.secret;
    said_by(lego_by_rfc2136(&scene, &pebble, secret), true);
    assert_is_for(&NAMES, &scene, "certificates/mynas.causeway.example.crt");
    assert_eq!(scene.dig(CHALLENGE, "TXT"), "", "it cleans up");
}

fn lego_by_httpreq(scene: &Scene, pebble: &Pebble, mode: &str, key: &str) -> Command {
    let mut lego = lego(scene, pebble, "httpreq");
    lego.env("HTTPREQ_ENDPOINT", format!("https://{CLOUD}"));
    lego.env("HTTPREQ_MODE", mode);
    lego.env("HTTPREQ_USERNAME", "mynas");
    lego.env("HTTPREQ_PASSWORD", key);
    lego.env("HTTPREQ_POLLING_INTERVAL", "1"); // a second
    lego
}

#[test]
fn lego_gets_a_certificate_by_httpreq_in_both_its_modes() {
    let scene = Scene::start();
    let pebble = Pebble::start(&scene);
    let said = said_by(lego_by_httpreq(&scene, &pebble, "", "wrong"), false);
    assert!(said.contains("401"), "{said}");
    for mode in ["", "RAW"] {
        said_by(
            lego_by_httpreq(&scene, &pebble, mode, &scene.challenges.key),
            true,
        );
        let file = "certificates/mynas.causeway.example.crt";
        assert_is_for(&NAMES, &scene, file);
        assert_eq!(scene.dig(CHALLENGE, "TXT"), "", "it cleans up");
        fs::remove_file(scene.folder.path().join(file)).unwrap();
    }
}

fn certbot_by_rfc2136(scene: &Scene, pebble: &Pebble, secret: &str) -> Command {
    let tsig = &scene.challenges.tsig;
    let credentials = format!(
        "dns_rfc2136_server = 127.0.0.1\ndns_rfc2136_name = {}\ndns_rfc2136_secret = {secret}\n\
         dns_rfc2136_algorithm = {}\n",
        tsig.name,
        tsig.algorithm.to_uppercase() // otherwise it signs with MD5 and says nothing
    );
    let credentials = scene.file("rfc2136.ini", &credentials);
    let credentials = credentials.display().to_string();
    let options = [
        "--dns-rfc2136",
        "--dns-rfc2136-propagation-seconds=0",
        "--dns-rfc2136-credentials",
        &credentials,
    ];
    certbot(scene, pebble, &NAMES, &options)
}

#[test]
fn certbot_gets_a_certificate_by_rfc2136() {
    let scene = Scene::start();
    let pebble = Pebble::start(&scene);
    let other = &scene.addresses.tsig.secret; // well formed, and another key's
    let said = said_by(certbot_by_rfc2136(&scene, &pebble, other), false);
    let refused = "The peer didn't like the signature";
    assert!(said.contains(refused), "{said}");

    let secret = &scene.challenges.tsig.secret;
    said_by(certbot_by_rfc2136(&scene, &pebble, secret), true);
    assert_is_for(&NAMES, &scene, "live/mynas.causeway.example/cert.pem");
    assert_eq!(scene.dig(CHALLENGE, "TXT"), "", "it cleans up");
}

/// The plugin by those who made acme-dns, beside certbot; .ci/run has put it there.
const PLUGIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/python/certbot");

/// What `/register` gives, as it comes.
fn register(scene: &Scene) -> Value {
    let mut curl = scene.client("curl");
    curl.args(["--silent", "--show-error", "--fail", "--request", "POST"]);
    curl.args(["--user", &format!("mynas:{}", scene.challenges.key)]);
    curl.arg("--cacert").arg(scene.ca());
    curl.arg(format!("https://{CLOUD}/register"));
    serde_json::from_str(&output_of(curl)).unwrap()
}

fn certbot_by_acme_dns(scene: &Scene, pebble: &Pebble, account: &Value) -> Command {
    let accounts = scene.file("accounts.json", &json!({ NAME: account }).to_string());
    let credentials = format!(
        "dns_acmedns_api_url = https://{CLOUD}\ndns_acmedns_registration_file = {}\n",
        accounts.display()
    );
    let credentials = scene
        .file("acmedns.ini", &credentials)
        .display()
        .to_string();
    let options = [
        "--authenticator=dns-acmedns",
        "--dns-acmedns-propagation-seconds=0",
        "--dns-acmedns-credentials",
        &credentials,
    ];
    // An account is for one place in the DNS.
    let mut certbot = certbot(scene, pebble, &NAMES[..2], &options);
    certbot.env("PYTHONPATH", PLUGIN);
    certbot
}

/// Debian's lego is built without its acme-dns, so it is certbot's plugin.
#[test]
fn certbot_gets_a_certificate_by_acme_dns() {
    let scene = Scene::start();
    let pebble = Pebble::start(&scene);
    let account = register(&scene);
    assert_eq!(account["fulldomain"], CHALLENGE);
    let mut stranger = account.clone();
    stranger["password"] = json!("x".repeat(40));
    let said = said_by(certbot_by_acme_dns(&scene, &pebble, &stranger), false);
    assert!(said.contains("401"), "{said}");

    said_by(certbot_by_acme_dns(&scene, &pebble, &account), true);
    assert_is_for(&NAMES[..2], &scene, "live/mynas.causeway.example/cert.pem");
    // Nothing is cleaned up in this dialect: there are the last two, as the CA has seen them.
    assert_eq!(scene.dig(CHALLENGE, "TXT").lines().count(), 2);
}
