//! Many devices, much traffic, long outages and wrong clocks; and a browser that trusts what others trust.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use data_encoding::BASE64;

use super::{ISSUED, Pebble, World, files_with, is_welcome, status};
use crate::chromium::certutil;
use crate::nginx::Nginx;
use crate::process::{Process, output_of, run_for, until};
use crate::world::{Device, causeway_agent};

/// The files below `folder` in which these octets stand.
fn files_holding(folder: &Path, octets: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            found.extend(files_holding(&path, octets));
        } else if kind.is_file() {
            let text = fs::read(&path).unwrap_or_default(); // gone again
            if text.windows(octets.len()).any(|window| window == octets) {
                found.push(path);
            }
        }
    }
    found
}

/// A PKCS #8 key in DER, and the secret number in it (RFC 5915).
fn secrets(pem: &str) -> (Vec<u8>, Vec<u8>) {
    let lines = pem.lines().filter(|line| !line.starts_with('-'));
    let der = BASE64.decode(lines.collect::<String>().as_bytes()).unwrap();
    let number = der.windows(2).position(|window| window == [4, 32]).unwrap() + 2;
    let number = der[number..number + 32].to_vec();
    (der, number)
}

#[test]
fn a_browser_trusts_a_device_by_an_authority_that_it_knows_and_the_key_is_on_no_other_disk() {
    let world = World::start(Pebble::default());
    let place = &world.server.place;
    let nginx = Nginx::start(place);
    fs::write(
        nginx.file("page.html"),
        "<title>My NAS</title><h1>At home</h1>",
    )
    .unwrap();
    let device = world.server.pair("mynas");
    let agent = device.run(&nginx.origin());
    agent.until_said(ISSUED);
    let root = world.root();
    let url = world.server.url("mynas", "/page.html");

    // Chromium, which trusts pebble's root and no other that is not its own.
    let home = tempfile::tempdir().unwrap();
    let database = home.path().join(".pki/nssdb");
    fs::create_dir_all(&database).unwrap();
    let database = format!("sql:{}", database.display());
    certutil(&["-d", &database, "-N", "--empty-password"]);
    let browse = |options: &[&str]| {
        let mut chromium = place.command("chromium");
        chromium.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
        ]);
        chromium.args(["--disable-background-networking", "--window-size=600,300"]);
        chromium.arg(format!(
            "--user-data-dir={}",
            home.path().join("profile").display()
        ));
        chromium.args(options).arg(&url).env("HOME", home.path());
        String::from_utf8_lossy(&run_for(chromium, Duration::from_secs(60)).stdout).into_owned()
    };
    let distrusted = browse(&["--dump-dom"]);
    assert!(!distrusted.contains("At home"), "{distrusted}");
    let root_file = root.to_str().unwrap();
    certutil(&[
        "-d", &database, "-A", "-t", "C,,", "-n", "pebble", "-i", root_file,
    ]);
    let shown = browse(&["--dump-dom"]);
    assert!(shown.contains("<h1>At home</h1>"), "{shown}");
    let pictures = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("screenshots");
    fs::create_dir_all(&pictures).unwrap();
    let picture = pictures.join("acme.png");
    let _ = fs::remove_file(&picture);
    browse(&[&format!("--screenshot={}", picture.display())]);
    assert!(fs::metadata(&picture).unwrap().len() > 2000);
    // And curl, the same.
    let mut curl = place.command("curl");
    curl.args(["--silent", "--fail", "--cacert"]).arg(&root);
    curl.arg(&url);
    assert!(output_of(curl).contains("At home"));

    // In whatever form it is written.
    let key = device.state.join("tls.pem");
    let pem = fs::read_to_string(&key).unwrap();
    let (der, number) = secrets(&pem);
    assert!(files_holding(&device.state, pem.as_bytes()) == [key]);
    let others = [
        world.server.folder.path().join("state"),
        world.folder.path().into(),
    ];
    for folder in others {
        assert!(folder.read_dir().unwrap().next().is_some());
        for secret in [&der, &number] {
            assert_eq!(files_holding(&folder, secret), [] as [PathBuf; 0]);
        }
        let line = pem.lines().nth(1).unwrap();
        assert_eq!(files_with(&folder, line), [] as [PathBuf; 0]);
    }
}

/// The agent, by whose clock it is `offset` later, such as `+1h`.
fn run_at(device: &Device, offset: &str) -> Process {
    // faketime(1) itself would stand between: what ends it leaves the agent.
    let preloaded = "LD_PRELOAD=$(echo /usr/lib/*/faketime/libfaketimeMT.so.1) exec \"$0\" \"$@\"";
    let mut faketime = device.place.command("sh");
    faketime.args(["-c", preloaded]).arg(causeway_agent());
    faketime.args(["run", "--origin", "http://127.0.0.1:1", "--state"]);
    faketime.arg(&device.state).env("CAUSEWAY_LOG", "debug");
    faketime.env("FAKETIME", offset);
    faketime
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
    let process = Process::start(faketime);
    process.until_said("attached to the relay");
    process
}

/// Certificates of two hours; what is said of clocks is the device's alone.
const TWO_HOURS: Pebble = Pebble {
    nonces_refused: 0,
    validity: Some(7200),
    is_bound: false,
};

#[test]
fn an_authority_may_be_away_for_an_hour_and_the_last_certificate_serves_until_it_ends() {
    let mut world = World::start(TWO_HOURS);
    let device = world.server.pair("mynas");
    let agent = device.run("http://127.0.0.1:1");
    agent.until_said(ISSUED);
    let root = world.root();
    drop(agent);
    world.authority.kill();
    // Due at two thirds: for the next 40 minutes there is none to be had, nor was there for half an hour.
    for offset in ["+82m", "+118m"] {
        let agent = run_at(&device, offset);
        agent.until_said("there is no new certificate");
        assert!(is_welcome(&world.visit(&root, "mynas")), "{offset}");
        let told = status(&device);
        assert!(
            told.contains("certificate from 127.0.0.1, until "),
            "{told}"
        );
        assert!(told.contains("not renewed "), "{told}");
    }
    // It has ended: visitors are shown that of the operator's own authority, and the name is led to as before.
    let agent = run_at(&device, "+121m");
    agent.until_said("there is no new certificate");
    assert!(is_welcome(&world.visit(&world.server.ready.ca, "mynas")));
    let told = status(&device);
    assert!(
        told.contains("certificate from the operator's own authority"),
        "{told}"
    );
    drop(agent);
    // Whoever has the right time has lost nothing.
    let _agent = device.run("http://127.0.0.1:1");
    assert!(is_welcome(&world.visit(&root, "mynas")));
}

/// A clock is wrong after a start until somebody sets it. The device is reached all the same, and has its certificate.
#[test]
fn a_clock_that_is_an_hour_off_is_said_and_costs_nothing() {
    let world = World::start(TWO_HOURS);
    for (name, offset, way) in [("fast", "+1h", "ahead of"), ("slow", "-1h", "behind")] {
        let device = world.server.pair(name);
        let agent = run_at(&device, offset);
        agent.until_said(ISSUED);
        assert!(is_welcome(&world.visit(&world.root(), name)), "{offset}");
        let told = status(&device);
        let expected = format!("clock       1h {way} the cloud's; set it");
        assert!(
            told.contains(&expected) || told.contains("clock       59m"),
            "{offset}: {told}"
        );
        assert!(
            told.contains("certificate from 127.0.0.1, until "),
            "{told}"
        );
        drop(agent);
        let agent = device.run("http://127.0.0.1:1");
        agent.until_said("attached to the relay");
        assert!(!status(&device).contains("clock "), "{offset}");
    }
}

/// By the cloud's clock it is good: then it is not the authority that lies.
#[test]
fn a_clock_by_which_a_new_certificate_has_ended_is_named() {
    let world = World::start(TWO_HOURS);
    let device = world.server.pair("mynas");
    let agent = run_at(&device, "+3h");
    agent.until_said("there is no new certificate");
    let told = status(&device);
    for expected in [
        "not renewed 127.0.0.1: its certificate has ended already by this device's clock, which is wrong",
        "to mend     certificate: set this device's clock",
        "certificate from the operator's own authority",
    ] {
        assert!(told.contains(expected), "{told}");
    }
    assert!(is_welcome(&world.visit(&world.server.ready.ca, "mynas")));
}

#[test]
#[ignore = "takes a minute and a half: `cargo test -p control --test it acme::rows -- --ignored --nocapture`"]
fn certificates_of_a_minute_are_renewed_under_load_and_no_handshake_fails() {
    let world = World::start(Pebble {
        validity: Some(60),
        ..Pebble::default()
    });
    let nginx = Nginx::start(&world.server.place);
    fs::write(nginx.file("page"), "a page").unwrap();
    let device = world.server.pair("mynas");
    let agent = device.run(&nginx.origin());
    agent.until_said(ISSUED);
    let hosts = world.folder.path().join("hosts");
    fs::write(&hosts, "127.0.0.1 mynas.nas.localhost\n").unwrap();
    let mut wrk = world
        .server
        .place
        .furnished([(hosts, "/etc/hosts")])
        .command("wrk");
    wrk.args([
        "--threads",
        "1",
        "--connections",
        "8",
        "--duration",
        "100s",
        "--timeout",
        "10s",
    ]);
    // Each request shakes hands anew.
    wrk.args(["--header", "Connection: close"])
        .arg(world.server.url("mynas", "/page"));
    let wrk = run_for(wrk, Duration::from_secs(150));
    let said = String::from_utf8_lossy(&wrk.stdout);
    println!("{said}");
    assert!(wrk.status.success() && !said.contains("Socket errors") && !said.contains("Non-2xx"));
    let issued = agent.said().matches(ISSUED).count();
    println!("{issued} certificates");
    assert!(issued >= 3, "{issued}");
    assert_eq!(world.made(), (1, issued));
}

#[test]
fn two_hundred_devices_have_certificates_twenty_at_a_time() {
    const DEVICES: usize = 200;
    const AT_A_TIME: usize = 20;
    let world = World::start(Pebble {
        nonces_refused: 50,
        ..Pebble::default()
    });
    let names: Vec<_> = (0..DEVICES).map(|number| format!("nas{number}")).collect();
    let devices: Vec<_> = names.iter().map(|name| world.server.pair(name)).collect();
    let root = world.root();
    let begun = Instant::now();
    for (names, devices) in names.chunks(AT_A_TIME).zip(devices.chunks(AT_A_TIME)) {
        let agents = devices
            .iter()
            .map(|device| device.run("http://127.0.0.1:1"));
        let agents: Vec<_> = agents.collect();
        for (name, agent) in names.iter().zip(&agents) {
            agent.until_said(ISSUED);
            assert!(is_welcome(&world.visit(&root, name)), "{name}");
        }
    }
    println!("{DEVICES} certificates in {:?}", begun.elapsed());
    assert_eq!(world.made(), (DEVICES, DEVICES));
    until(
        || world.challenges("nas0").is_empty(),
        || world.challenges("nas0"),
    );
}

/// What an authority gives to the whole zone is shared by all its devices, also by those that come after a restart.
#[test]
fn devices_order_in_turn_where_an_authority_gives_only_so_many() {
    let limit = "orders = 2\norders_within = \"7d\"";
    let mut world = World::start_with(Pebble::default(), limit);
    let root = world.root();
    let devices = ["first", "second", "third", "fourth"].map(|name| world.server.pair(name));
    let [first, second, third, fourth] = &devices;
    let served = [first, second].map(|device| {
        let agent = device.run("http://127.0.0.1:1");
        agent.until_said(ISSUED);
        agent
    });
    let waits = |device: &Device| {
        let agent = device.run("http://127.0.0.1:1");
        agent.until_said("there is no new certificate");
        agent
    };
    let waiting = waits(third);
    let told = status(third);
    assert!(
        told.contains("it gives only so many certificates, and this one is next"),
        "{told}"
    );
    assert!(is_welcome(&world.visit(&world.server.ready.ca, "third")));
    let last = waits(fourth);
    let told = status(fourth);
    assert!(told.contains("and one other comes before"), "{told}");
    assert_eq!(world.made().1, 2);
    assert_eq!(world.server.metric("causeway_control_acme_waiting"), 2);

    drop((waiting, last));
    let config = world.folder.path().join("causeway.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("orders = 2", "orders = 3")).unwrap();
    world.restart();
    let _third = {
        let agent = third.run("http://127.0.0.1:1");
        agent.until_said(ISSUED);
        agent
    };
    assert!(is_welcome(&world.visit(&root, "third")));
    let _fourth = waits(fourth);
    assert_eq!(world.made().1, 3);
    // Who has one keeps it.
    let of_first = || world.visit(&root, "first");
    until(|| is_welcome(&of_first()), || format!("{:?}", of_first()));
    drop(served);
}
