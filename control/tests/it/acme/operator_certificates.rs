//! The operator's own hosts with a certificate of an authority that others know: `cloud.` and the name server, as curl, kdig and openssl
//! meet them, which trust that authority and nothing else; and agents, which trust the operator's own and nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{ISSUED, Pebble, World, files_with, is_welcome};
use crate::process::{Process, output_of, run, until};
use crate::world::{Server, causeway};

impl World {
    /// From now on the operator's hosts are to have one too; `more` stands at the end of the file.
    fn orders_for_the_operator(&mut self, more: &str) {
        let config = self.folder.path().join("causeway.toml");
        let text = fs::read_to_string(&config).unwrap();
        let text = text.replace("\n[acme]\n", "\n[acme]\noperator = true\n");
        fs::write(&config, format!("{text}\n{more}\n")).unwrap();
        self.restart();
    }

    /// What `cloud.` answers to somebody who trusts `root` alone: the status, and curl's own.
    fn cloud(&self, root: &Path) -> (String, Option<i32>) {
        let mut curl = self.server.place.command("curl");
        curl.args(["--silent", "--max-time", "10", "--output", "/dev/null"]);
        curl.args(["--write-out", "%{http_code}", "--cacert"])
            .arg(root);
        curl.arg(self.server.url("cloud", "/offline"));
        let output = run(curl);
        let status = String::from_utf8(output.stdout).unwrap();
        (status, output.status.code())
    }

    fn is_trusted(&self, root: &Path) -> bool {
        self.cloud(root) == ("200".to_owned(), Some(0))
    }

    /// Whether the name server proves over TLS to somebody who trusts `root` alone who it is.
    fn name_server_is_trusted(&self, root: &Path) -> bool {
        let dot = self.server.ready.dot;
        let mut kdig = self.server.place.command("kdig");
        kdig.args([&format!("@{}", dot.ip()), "-p", &dot.port().to_string()]);
        kdig.arg(format!("+tls-ca={}", root.display()));
        kdig.args(["+tls-hostname=ns1.nas.localhost", "+norecurse", "+retry=0"]);
        kdig.args(["+short", "nas.localhost", "NS"]);
        let said = String::from_utf8(run(kdig).stdout).unwrap();
        let mut openssl = self.server.place.command("openssl");
        openssl.args(["s_client", "-connect", &dot.to_string(), "-CAfile"]);
        openssl
            .arg(root)
            .args(["-verify_return_error", "-alpn", "dot"]);
        openssl.args(["-verify_hostname", "ns1.nas.localhost"]);
        let is_verified = run(openssl).status.success();
        assert_eq!(said == "ns1.nas.localhost.\n", is_verified, "{said}");
        is_verified
    }

    /// What the server says of itself.
    fn health(&self) -> String {
        let mut curl = self.server.place.command("curl");
        curl.args(["--silent", "--show-error"]);
        curl.arg(format!("http://{}/readyz?verbose", self.server.ready.admin));
        output_of(curl)
    }

    fn issued(&self) -> usize {
        self.server.process.said().matches(ISSUED).count()
    }
}

#[test]
fn everybody_trusts_the_operators_hosts_and_agents_go_on_by_what_they_know() {
    let mut world = World::start(Pebble::default());
    let root = world.root();
    let before = world.server.pair("before");
    let agent = before.run("http://127.0.0.1:1");
    agent.until_said(ISSUED);
    assert_eq!(world.cloud(&root).1, Some(60), "nobody has asked for it");
    assert!(world.is_trusted(&world.server.ready.ca));
    let (accounts, orders) = world.made();

    world.orders_for_the_operator("");
    world.server.process.until_said(ISSUED);
    assert_eq!(world.made(), (accounts + 1, orders + 1));
    assert!(world.is_trusted(&root), "{:?}", world.cloud(&root));
    assert!(world.name_server_is_trusted(&root));
    let own = world.server.ready.ca.clone();
    assert_eq!(
        world.cloud(&own).1,
        Some(60),
        "it is not the operator's own"
    );
    let health = world.health();
    assert!(health.contains("[+]public_certificate ok"), "{health}");
    let expiry = r#"causeway_tls_certificate_expiry_timestamp_seconds{purpose="public"}"#;
    assert!(world.server.metric(expiry) > 1_700_000_000);
    for name in ["cloud", "ns1"] {
        assert_eq!(world.challenges(name), "", "it cleans up");
    }

    // An agent trusts the operator's own authority alone: it comes back to the relay, and another is paired and gets its certificate.
    until(
        || is_welcome(&world.visit(&root, "before")),
        || agent.said(),
    );
    let after = world.server.pair("after");
    let second = after.run("http://127.0.0.1:1");
    second.until_said(ISSUED);
    assert!(is_welcome(&world.visit(&root, "after")));

    // Keys and account are for the server's user alone, and nowhere else.
    let folder = world.server.ready.state.join("acme");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for file in ["tls.pem", "account.pem", "acme.json"] {
        assert_eq!(mode(&folder.join(file)), 0o600, "{file}");
    }
    for key in ["tls.pem", "account.pem"] {
        let pem = fs::read_to_string(folder.join(key)).unwrap();
        let secret = pem.lines().nth(1).unwrap();
        let found = files_with(world.server.folder.path(), secret);
        assert_eq!(found, [folder.join(key)], "{key}");
        let elsewhere = files_with(world.folder.path(), secret);
        assert_eq!(elsewhere, [] as [PathBuf; 0], "{key}");
        assert!(!world.server.process.said().contains(secret));
    }

    // The next process shows it at once, without an authority.
    let made = world.made();
    world.authority.kill();
    world.restart();
    assert!(world.is_trusted(&root));
    assert!(world.name_server_is_trusted(&root));
    assert_eq!(world.made(), made);
}

#[test]
fn certificates_of_half_a_minute_are_renewed_under_handshakes_and_the_last_good_one_serves() {
    let pebble = Pebble {
        validity: Some(30),
        ..Pebble::default()
    };
    let mut world = World::start(pebble);
    let root = world.root();
    world.orders_for_the_operator("");
    world.server.process.until_said(ISSUED);
    let begun = Instant::now();
    let (mut visits, mut failed) = (0, Vec::new());
    while world.issued() < 3 {
        let visit = world.cloud(&root);
        visits += 1;
        if visit != ("200".to_owned(), Some(0)) {
            failed.push((begun.elapsed(), visit));
        }
        if !world.name_server_is_trusted(&root) {
            failed.push((begun.elapsed(), ("DNS over TLS".to_owned(), None)));
        }
        let said = || world.server.process.said();
        assert!(begun.elapsed() < Duration::from_secs(75), "{}", said());
    }
    assert!(failed.is_empty(), "of {visits}: {failed:?}");
    assert!(visits > 50, "{visits}");
    println!("{visits} visits and as many handshakes of DNS over TLS, none failed");
    assert_eq!(world.made(), (1, 3));

    world.authority.kill();
    world
        .server
        .process
        .until_said("there is no new certificate");
    assert!(world.is_trusted(&root), "the last one serves on");
    let health = world.health();
    for expected in [
        "[!]public_certificate degraded: no new one from 127.0.0.1: it cannot be reached",
        "the one of 127.0.0.1 is shown, which ends in",
        "\nready\n",
    ] {
        assert!(health.contains(expected), "{health}");
    }
    assert!(world.server.metric("causeway_acme_failures_total") > 0);

    // What has ended is shown to nobody: the operator's own is.
    let own = world.server.ready.ca.clone();
    until(
        || world.is_trusted(&own),
        || format!("{:?}", world.cloud(&own)),
    );
    assert!(world.name_server_is_trusted(&own));
    let expiry = r#"causeway_tls_certificate_expiry_timestamp_seconds{purpose="public"}"#;
    until(
        || !world.server.metrics(expiry).contains("public"),
        || world.health(),
    );

    // It comes back without its memory and with another root.
    world.authority = pebble.start(&world.server.place, world.folder.path());
    let root = world.root();
    until(|| world.is_trusted(&root), || world.server.process.said());
}

/// A certificate on disk that is for other names, or of another key, or has ended, is shown to nobody.
#[test]
fn what_is_not_what_was_asked_for_is_never_shown() {
    let mut world = World::start(Pebble::default());
    let root = world.root();
    world.orders_for_the_operator("");
    world.server.process.until_said(ISSUED);
    let file = world.server.ready.state.join("acme/acme.json");
    let kept = fs::read_to_string(&file).unwrap();
    let folder = world.folder.path().to_owned();
    let self_signed = |subject: &str, key: Option<&Path>| {
        let mut openssl = Command::new("openssl");
        openssl.current_dir(&folder);
        openssl.args(["req", "-x509", "-days", "2", "-subj", "/CN=other"]);
        openssl.args(["-addext", &format!("subjectAltName={subject}")]);
        match key {
            Some(key) => openssl.arg("-key").arg(key),
            None => openssl.args(["-newkey", "rsa:2048", "-nodes", "-keyout", "other.key"]),
        };
        output_of(openssl)
    };
    let key = world.server.ready.state.join("acme/tls.pem");
    let names = "DNS:cloud.nas.localhost,DNS:ns1.nas.localhost";
    let wrong = [
        self_signed(names, None),
        self_signed("DNS:cloud.other.localhost", Some(&key)),
        "nonsense".to_owned(),
    ];
    world.authority.kill();
    let own = world.server.ready.ca.clone();
    for chain in wrong {
        let mut json: serde_json::Value = serde_json::from_str(&kept).unwrap();
        json["certificate"]["chain"] = chain.clone().into();
        fs::write(&file, json.to_string()).unwrap();
        world.restart();
        assert!(world.is_trusted(&own), "{chain}");
        assert_eq!(world.cloud(&root).1, Some(60), "{chain}");
    }
    fs::write(&file, &kept).unwrap();
    world.restart();
    assert!(world.is_trusted(&root), "the good one is");
}

/// The server, killed when it has the `nth` file of what it keeps of this written.
fn killed_at(server: &Server, config: &Path, nth: u32) -> Process {
    let folder = server.ready.state.join("acme");
    let mut strace = server.place.command("strace");
    // -D: what is started is the program, and strace ends with it.
    strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync"]);
    for file in ["acme.json.new", "account.pem.new", "tls.pem.new"] {
        strace.arg("-P").arg(folder.join(file));
    }
    strace.arg("-P").arg(&folder);
    strace.args(["-e", &format!("inject=fsync:signal=KILL:when={nth}")]);
    strace.arg(causeway()).arg("up");
    strace.arg("--state").arg(&server.ready.state);
    for (option, address) in [
        ("--front", server.ready.front),
        ("--http", server.ready.http),
        ("--dns", server.ready.dns),
        ("--dot", server.ready.dot),
        ("--admin", server.ready.admin),
    ] {
        strace.args([option, &address.to_string()]);
    }
    strace
        .arg("--config")
        .arg(config)
        .env("CAUSEWAY_LOG", "debug");
    Process::start(strace)
}

#[test]
fn a_server_that_is_killed_at_any_step_has_one_account_and_one_order() {
    let mut world = World::start(Pebble::default());
    let root = world.root();
    world.orders_for_the_operator("");
    world.server.process.until_said(ISSUED);
    let config = world.folder.path().join("causeway.toml");
    let (mut killed, mut resumed) = (0, 0);
    for nth in 1.. {
        world.server.process.kill();
        fs::remove_dir_all(world.server.ready.state.join("acme")).unwrap();
        let mut process = killed_at(&world.server, &config, nth);
        until(
            || process.said().contains(ISSUED) || process.has_ended(),
            || process.said(),
        );
        let is_through = !process.has_ended();
        process.kill();
        world.restart();
        until(
            || world.is_trusted(&root),
            || format!("{nth}: {}", world.server.process.said()),
        );
        let each = usize::try_from(nth).unwrap() + 1;
        let said = world.server.process.said();
        assert_eq!(world.made(), (each, each), "{nth}: {said}");
        resumed += usize::from(said.contains("is taken up again"));
        if is_through {
            break;
        }
        killed += 1;
    }
    assert_eq!(world.challenges("cloud"), "");
    assert!(killed > 8 && resumed > 2, "{killed} {resumed}");
    println!("killed {killed} times, {resumed} orders taken up again");
}

/// A process that another has started, and that ends with the test.
struct Successor(u32);

impl Drop for Successor {
    fn drop(&mut self) {
        let _ = Command::new("kill")
            .args(["-KILL", &self.0.to_string()])
            .status();
    }
}

#[test]
fn a_successor_shows_it_at_once_and_orders_the_next() {
    let pebble = Pebble {
        validity: Some(30),
        ..Pebble::default()
    };
    let mut world = World::start(pebble);
    let root = world.root();
    world.orders_for_the_operator("");
    let server = &world.server.process;
    server.until_said(ISSUED);
    server.signal("-USR2");
    let said = || server.said();
    let starting = || {
        let said = server.said();
        let (_, id) = said.split_once("a successor is starting process=")?;
        id.split_whitespace().next()?.parse().ok()
    };
    until(|| starting().is_some(), said);
    let _successor = Successor(starting().unwrap());
    let begun = Instant::now();
    while !server.said().contains("another process has taken over") || world.issued() < 3 {
        let visit = world.cloud(&root);
        assert_eq!(visit, ("200".to_owned(), Some(0)), "{}", said());
        assert!(begun.elapsed() < Duration::from_secs(75), "{}", said());
    }
    let (accounts, orders) = world.made();
    assert_eq!((accounts, orders), (1, world.issued()), "{}", said());
}
