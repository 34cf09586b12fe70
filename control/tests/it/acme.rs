//! Devices with certificates of an authority of the operator's choice: pebble, which asks our name server, and which every visitor here
//! trusts and nothing else.

mod advised;
mod authority;
mod issuers;
mod lying;
mod operator_certificates;
mod rows;
mod watch;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use relay::agent::State;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Process, output_of, run, until};
use crate::reload::good;
use crate::signed::SignedRequest;
use crate::world::{Device, Place, Server, causeway_agent};

const DIRECTORY: &str = "https://127.0.0.1:14000/dir";
const ACME: (&str, &str) = ("GET", "/api/device/acme");
const DNS: &str = "127.0.0.1:5300";
/// As pebble writes it in its examples.
const EAB_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

const ISSUED: &str = "a certificate authority has given a certificate";

/// How an authority is.
#[derive(Clone, Copy, Default)]
struct Pebble {
    /// Of 100 good nonces so many are refused.
    nonces_refused: u32,
    /// How long its certificates are good, in seconds.
    validity: Option<u32>,
    /// It takes only devices of somebody who has an account already.
    is_bound: bool,
}

impl Pebble {
    /// It listens when this returns; `folder` has its files.
    fn start(self, place: &Place, folder: &Path) -> Process {
        let mut config = json!({
            "listenAddress": "127.0.0.1:14000",
            "managementListenAddress": "127.0.0.1:15000",
            "certificate": "pebble.pem",
            "privateKey": "pebble.key",
            "externalAccountBindingRequired": self.is_bound,
            "externalAccountMACKeys": { "kid-1": EAB_KEY },
        });
        if let Some(validity) = self.validity {
            config["certificateValidityPeriod"] = json!(validity);
        }
        let config = json!({ "pebble": config }).to_string();
        fs::write(folder.join("pebble.json"), config).unwrap();
        let mut pebble = place.command("pebble");
        pebble.current_dir(folder);
        pebble.args(["-config", "pebble.json", "-dnsserver", DNS]);
        pebble.env("PEBBLE_VA_NOSLEEP", "1");
        pebble.env("PEBBLE_WFE_NONCEREJECT", self.nonces_refused.to_string());
        let process = Process::start(pebble);
        process.until_said("ACME directory available");
        // It says that it listens before it does.
        let mut curl = place.command("curl");
        curl.args(["--silent", "--show-error", "--fail", "--retry", "9"]);
        curl.args(["--retry-connrefused", "--cacert"])
            .arg(folder.join("pebble.pem"));
        curl.arg(DIRECTORY);
        output_of(curl);
        process
    }
}

/// A server whose operator has an authority asked, and that authority.
struct World {
    server: Server,
    authority: Process,
    /// The authority's own.
    folder: TempDir,
}

impl World {
    fn start(pebble: Pebble) -> Self {
        Self::start_with(pebble, "")
    }

    /// With more lines about the authority, or another; PEM stands for where its certificate is.
    fn start_with(pebble: Pebble, more: &str) -> Self {
        Self::start_at(Place::namespace(), pebble, more)
    }

    fn start_at(place: Place, pebble: Pebble, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Its own certificate is not of this very moment, as nobody's is.
        let mut openssl = Command::new("faketime");
        openssl.current_dir(folder.path());
        openssl.args(["-f", "-1d", "openssl"]).args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ]);
        openssl.args([
            "-subj",
            "/CN=pebble",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ]);
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        openssl.args(["-keyout", "pebble.key", "-out", "pebble.pem"]);
        output_of(openssl);
        let authority = pebble.start(&place, folder.path());
        let config = folder.path().join("causeway.toml");
        let text = good();
        let ca = folder.path().join("pebble.pem");
        let text = format!(
            "{text}\n[acme]\ncontact = \"mailto:hostmaster@example.com\"\n\
             [[acme.ca]]\ndirectory = \"{DIRECTORY}\"\nca_file = \"{}\"\n{more}\n",
            ca.display()
        );
        let text = text.replace("PEM", &ca.display().to_string());
        fs::write(&config, text).unwrap();
        let config = config.display().to_string();
        let server = Server::start_with(place, &["--config", &config, "--dns", DNS]);
        Self {
            server,
            authority,
            folder,
        }
    }

    /// The server again, after a kill, on the same ports and state.
    fn restart(&mut self) {
        self.server.process.kill();
        let config = self.folder.path().join("causeway.toml");
        let config = config.display().to_string();
        self.server = self.server.restart_with(&["--config", &config]);
    }

    /// What visitors trust, in a file.
    fn root(&self) -> PathBuf {
        let mut curl = self.server.place.command("curl");
        curl.args(["--silent", "--show-error", "--fail", "--insecure"]);
        curl.arg("https://127.0.0.1:15000/roots/0");
        let root = self.folder.path().join("root.pem");
        fs::write(&root, output_of(curl)).unwrap();
        root
    }

    fn visit(&self, root: &Path, name: &str) -> (String, Option<i32>) {
        visit(&self.server, root, name)
    }

    /// What has been put into the DNS for the authority.
    fn challenges(&self, name: &str) -> String {
        let mut dig = self.server.place.command("dig");
        dig.args(["@127.0.0.1", "-p", "5300", "+short", "+norecurse", "TXT"]);
        dig.arg(format!("_acme-challenge.{name}.nas.localhost"));
        output_of(dig)
    }

    /// How often the authority has said so.
    fn has_said(&self, what: &str) -> usize {
        let said = self.authority.said();
        said.lines().filter(|line| line.contains(what)).count()
    }

    /// How often accounts were made, and orders: it tells their number each time.
    fn made(&self) -> (usize, usize) {
        (
            self.has_said(" accounts in memory"),
            self.has_said("Added order"),
        )
    }
}

/// A visit by somebody who trusts `root` alone: the status, 502 since the service is down, and curl's own.
fn visit(server: &Server, root: &Path, name: &str) -> (String, Option<i32>) {
    let mut curl = server.place.command("curl");
    curl.args(["--silent", "--max-time", "10", "--output", "/dev/null"]);
    curl.args(["--write-out", "%{http_code}", "--cacert"])
        .arg(root);
    curl.arg(server.url(name, "/"));
    let output = run(curl);
    let status = String::from_utf8(output.stdout).unwrap();
    (status, output.status.code())
}

fn is_welcome(visit: &(String, Option<i32>)) -> bool {
    *visit == ("502".to_owned(), Some(0))
}

/// What the agent tells its owner.
fn status(device: &Device) -> String {
    let mut command = device.place.command(causeway_agent());
    command.arg("status").arg("--state").arg(&device.state);
    output_of(command)
}

/// How it stands with the certificate, as programs are told.
fn certificate_status(device: &Device) -> Value {
    let mut command = device.place.command(causeway_agent());
    command.args(["status", "--json", "--state"]);
    command.arg(&device.state);
    let status: Value = serde_json::from_str(&output_of(command)).unwrap();
    status["certificate"].clone()
}

/// The files below `folder` in which `text` stands.
fn files_with(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut grep = Command::new("grep");
    grep.args([
        "--recursive",
        "--files-with-matches",
        "--fixed-strings",
        "--text",
    ]);
    grep.args(["--devices=skip", "--", text]).arg(folder);
    let found = String::from_utf8(run(grep).stdout).unwrap();
    found.lines().map(PathBuf::from).collect()
}

#[test]
fn visitors_trust_a_device_by_an_authority_that_they_know() {
    let world = World::start(Pebble::default());
    let server = &world.server;
    let device = server.pair("mynas");
    let agent = device.run("http://127.0.0.1:1");
    agent.until_said(ISSUED);
    let root = world.root();
    for name in ["mynas", "photos.mynas"] {
        let visit = world.visit(&root, name);
        assert!(is_welcome(&visit), "{name}: {visit:?}");
    }
    let operators = world.visit(&world.server.ready.ca, "mynas");
    assert_eq!(operators.1, Some(60), "it is not the operator's own");
    let told = status(&device);
    assert!(
        told.contains("certificate from 127.0.0.1, until "),
        "{told}"
    );
    assert!(!told.contains("not renewed"), "{told}");
    assert_eq!(world.challenges("mynas"), "", "it cleans up");
    assert_eq!(world.made(), (1, 1));

    // The keys are on the device's disk, for its owner alone, and nowhere else.
    for (key, others) in [("tls.pem", 0o077), ("account.pem", 0o077)] {
        let file = device.state.join(key);
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
        assert_eq!(mode & others, 0, "{key}");
        let pem = fs::read_to_string(&file).unwrap();
        let secret = pem.lines().nth(1).unwrap();
        assert_eq!(files_with(server.folder.path(), secret), [file], "{key}");
        assert_eq!(
            files_with(world.folder.path(), secret),
            [] as [PathBuf; 0],
            "{key}"
        );
        assert!(!server.process.said().contains(secret) && !agent.said().contains(secret));
    }

    // The next agent shows it at once and asks nobody.
    drop(agent);
    let _agent = device.run("http://127.0.0.1:1");
    assert!(is_welcome(&world.visit(&root, "mynas")));
    assert_eq!(world.made(), (1, 1));
}

#[test]
fn an_authority_that_refuses_half_the_nonces_and_wants_to_know_whose_devices_they_are_gives_them() {
    let pebble = Pebble {
        nonces_refused: 50,
        is_bound: true,
        ..Pebble::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("eab");
    fs::write(&key, EAB_KEY).unwrap();
    let bound = format!(
        "eab_key_id = \"kid-1\"\neab_key_file = \"{}\"",
        key.display()
    );
    let world = World::start_with(pebble, &bound);
    let devices = ["one", "two", "three"].map(|name| (name, world.server.pair(name)));
    let agents = devices
        .each_ref()
        .map(|(_, device)| device.run("http://127.0.0.1:1"));
    let root = world.root();
    for (agent, (name, _)) in agents.iter().zip(&devices) {
        agent.until_said(ISSUED);
        assert!(is_welcome(&world.visit(&root, name)), "{name}");
        assert!(!agent.said().contains(EAB_KEY));
    }
    assert_eq!(world.made(), (3, 3));
    assert!(!world.server.process.said().contains(EAB_KEY));
    // A stranger does not hear the operator's key, a device does.
    let ask = |state: &Path| {
        let identity = State::open(state).unwrap().identity().unwrap();
        SignedRequest::new(&world.server, &identity, ACME, "").send(&world.server)
    };
    assert!(ask(&devices[0].1.state).contains(EAB_KEY));
    let told = ask(&folder.path().join("stranger"));
    assert!(
        told.contains("unknown_device") && !told.contains("kid-1"),
        "{told}"
    );
}

#[test]
fn what_an_authority_does_not_give_is_said_with_what_to_do() {
    let pebble = Pebble {
        is_bound: true,
        ..Pebble::default()
    };
    let world = World::start(pebble);
    let device = world.server.pair("mynas");
    let agent = device.run("http://127.0.0.1:1");
    agent.until_said("there is no new certificate");
    let told = status(&device);
    for expected in [
        "certificate from the operator's own authority",
        "not renewed 127.0.0.1: it refuses: ",
        "to mend     certificate: the operator has to set `eab_key_id`",
    ] {
        assert!(told.contains(expected), "{told}");
    }
    // Visitors who trust the operator's own come all the same.
    assert!(is_welcome(&world.visit(&world.server.ready.ca, "mynas")));
    assert_eq!(world.made(), (0, 0));
}

#[test]
fn certificates_of_half_a_minute_are_renewed_and_outlast_their_authority() {
    let pebble = Pebble {
        validity: Some(30),
        ..Pebble::default()
    };
    let mut world = World::start(pebble);
    let device = world.server.pair("mynas");
    let agent = device.run("http://127.0.0.1:1");
    agent.until_said(ISSUED);
    let root = world.root();
    let begun = Instant::now();
    let (mut visits, mut failed) = (0, Vec::new());
    let issued = |agent: &Process| agent.said().matches(ISSUED).count();
    while issued(&agent) < 3 {
        let visit = world.visit(&root, "mynas");
        visits += 1;
        if !is_welcome(&visit) {
            failed.push((begun.elapsed(), visit));
        }
        assert!(
            begun.elapsed() < Duration::from_secs(75),
            "{}",
            agent.said()
        );
    }
    assert!(failed.is_empty(), "of {visits}: {failed:?}");
    assert!(visits > 100, "{visits}");
    assert_eq!(world.made(), (1, 3));

    world.authority.kill();
    agent.until_said("there is no new certificate");
    assert!(
        is_welcome(&world.visit(&root, "mynas")),
        "the last one serves on"
    );
    let told = status(&device);
    for expected in [
        "certificate from 127.0.0.1, until ",
        "not renewed 127.0.0.1: it cannot be reached: ",
        "to mend     certificate: see that this device reaches it",
    ] {
        assert!(told.contains(expected), "{told}");
    }

    // It comes back without its memory and with another root.
    world.authority = pebble.start(&world.server.place, world.folder.path());
    let root = world.root();
    until(|| is_welcome(&world.visit(&root, "mynas")), || agent.said());
    assert!(!status(&device).contains("not renewed"));
}

/// The agent, killed when it has its `nth` file written.
fn killed_at(device: &Device, nth: u32) -> Process {
    let mut strace = device.place.command("strace");
    // -D: what is started is the program, and strace ends with it.
    strace.args([
        "-D",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=fsync",
        "-e",
    ]);
    strace.arg(format!("inject=fsync:signal=KILL:when={nth}"));
    strace
        .arg(causeway_agent())
        .args(["run", "--origin", "http://127.0.0.1:1", "--state"]);
    strace.arg(&device.state).env("CAUSEWAY_LOG", "debug");
    Process::start(strace)
}

#[test]
fn an_agent_that_is_killed_at_any_step_has_one_account_and_one_order() {
    let world = World::start(Pebble::default());
    let root = world.root();
    let (mut killed, mut resumed) = (0, 0);
    for nth in 1.. {
        let name = format!("mynas{nth}");
        let device = world.server.pair(&name);
        let mut agent = killed_at(&device, nth);
        until(
            || agent.said().contains(ISSUED) || agent.has_ended(),
            || agent.said(),
        );
        let is_through = !agent.has_ended();
        agent.kill();
        let agent = device.run("http://127.0.0.1:1");
        until(
            || is_welcome(&world.visit(&root, &name)),
            || format!("{name}: {}", agent.said()),
        );
        let each = usize::try_from(nth).unwrap();
        assert_eq!(world.made(), (each, each), "{name}: {}", agent.said());
        killed += 1;
        resumed += usize::from(agent.said().contains("is taken up again"));
        if is_through {
            break;
        }
    }
    assert!(killed > 10 && resumed > 4, "{killed} {resumed}");
    println!("{killed} devices, {resumed} orders taken up again");
}
