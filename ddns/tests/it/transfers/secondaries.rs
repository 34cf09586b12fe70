//! NSD and Knot as secondaries of one zone, which follow it.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{SECRET, config, dig, key_file, transferred};
use crate::world::World;

/// How many updates they follow.
const UPDATES: usize = 10_000;
const DEVICES: usize = 500;
/// So long they may take to be where we are.
const CATCHING_UP: Duration = Duration::from_secs(30);

/// A server that is killed when this is dropped.
pub(super) struct Secondary {
    process: Child,
    pub(super) address: SocketAddr,
    /// What it says.
    log: PathBuf,
}

impl Drop for Secondary {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An address that nobody has now, for a program that cannot say which it was given.
pub(super) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

pub(super) fn start(
    program: &str,
    arguments: &[&str],
    config: &Path,
    address: SocketAddr,
) -> Secondary {
    let log = config.with_extension("log");
    let file = fs::File::create(&log).unwrap();
    let process = Command::new(program)
        .args(arguments)
        .arg("-c")
        .arg(config)
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .stdin(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} has to be installed: {error}"));
    Secondary {
        process,
        address,
        log,
    }
}

fn nsd(folder: &Path, address: SocketAddr, primary: SocketAddr) -> Secondary {
    let (port, primary_port) = (address.port(), primary.port());
    let place = folder.display();
    let config = format!(
        "server:\n  ip-address: 127.0.0.1\n  port: {port}\n  username: \"\"\n  zonesdir: \"{place}\"\n  database: \"\"\n\
         \x20 pidfile: \"{place}/nsd.pid\"\n  xfrdfile: \"{place}/xfrd.state\"\n  zonelistfile: \"{place}/zone.list\"\n\
         \x20 xfrdir: \"{place}\"\n  server-count: 1\n\
         remote-control:\n  control-enable: no\n\
         key:\n  name: \"nsd-key\"\n  algorithm: hmac-sha256\n  secret: \"{SECRET}\"\n\
         zone:\n  name: \"nas.test\"\n  zonefile: \"nas.test.zone\"\n  request-xfr: 127.0.0.1@{primary_port} nsd-key\n\
         \x20 allow-notify: 127.0.0.1 nsd-key\n  provide-xfr: 127.0.0.1 nsd-key\n"
    );
    let file = folder.join("nsd.conf");
    fs::write(&file, config).unwrap();
    start("/usr/sbin/nsd", &["-d"], &file, address)
}

fn knot(folder: &Path, address: SocketAddr, primary: SocketAddr) -> Secondary {
    let place = folder.display();
    let zones = format!(
        "zone:\n  - domain: nas.test\n    storage: \"{place}\"\n    file: \"knot.zone\"\n    master: primary\n    acl: ours\n\
         \x20   zonefile-sync: -1\n    zonefile-load: none\n    journal-content: all\n"
    );
    knot_with(folder, address, primary, &zones)
}

/// Knot with these zones, by the key `knot-key`.
pub(super) fn knot_with(
    folder: &Path,
    address: SocketAddr,
    primary: SocketAddr,
    zones: &str,
) -> Secondary {
    let (port, primary_port) = (address.port(), primary.port());
    let place = folder.display();
    let config = format!(
        "server:\n  listen: 127.0.0.1@{port}\n  rundir: \"{place}\"\n\
         database:\n  storage: \"{place}/knot\"\n\
         key:\n  - id: knot-key\n    algorithm: hmac-sha256\n    secret: {SECRET}\n\
         remote:\n  - id: primary\n    address: 127.0.0.1@{primary_port}\n    key: knot-key\n\
         acl:\n  - id: ours\n    key: knot-key\n    action: [notify, transfer]\n\
         {zones}"
    );
    fs::create_dir(folder.join("knot")).unwrap();
    let file = folder.join("knot.conf");
    fs::write(&file, config).unwrap();
    start("/usr/sbin/knotd", &[], &file, address)
}

async fn follow(dnssec: &str) {
    let folder = TempDir::new().unwrap();
    let keys = ["nsd-key", "knot-key"].map(|name| key_file(&folder, name, SECRET));
    let addresses = [free_address(), free_address()];
    let secondaries = [(addresses[0], &*keys[0], ""), (addresses[1], &*keys[1], "")];
    let mut world = World::with_config(&config(&secondaries, dnssec)).await;
    for number in 0..DEVICES {
        world.directory.add(&format!("d{number}"));
    }
    let primary = world.v4();
    let secondaries = [
        nsd(folder.path(), addresses[0], primary),
        knot(folder.path(), addresses[1], primary),
    ];
    // They have the zone before it changes.
    for secondary in &secondaries {
        serves(secondary, "d1.nas.test A", "192.0.2.250").await;
    }
    for number in 0..UPDATES {
        let name = format!("d{}", number % DEVICES);
        let address = format!("198.51.{}.{}", number / 250 % 250, number % 250);
        // A challenge waits for NSD, which takes a second to load it.
        if number % 997 == 17 {
            let value = format!("v{number}");
            world.challenge(&name, "", value.as_bytes()).await.unwrap();
            continue;
        }
        match number % 97 {
            13 => {
                world.directory.remove(&name);
                world.directory.add(&name);
            }
            31 => _ = world.set(&name, &["2001:db8::1"]).await.unwrap(),
            _ => _ = world.set(&name, &[&address]).await.unwrap(),
        }
    }
    world.set("d0", &["203.0.113.77"]).await.unwrap();
    for secondary in &secondaries {
        serves(secondary, "d0.nas.test A", "203.0.113.77").await;
    }
    let count = |result| world.metric(&format!(r#"transfers_total{{result="{result}"}}"#));
    // One each to begin with; NSD may ask twice while it starts.
    let said = secondaries
        .iter()
        .map(|secondary| fs::read_to_string(&secondary.log).unwrap());
    let said: String = said.collect();
    assert!(count("axfr") < 6.0, "{} {said}", count("axfr"));
    let ours = same_version(primary, "hmac-sha256:nsd-key", &secondaries).await;
    assert!(ours.len() > 4 * DEVICES, "{}", ours.len());
    assert!(count("ixfr") > 20.0, "{}", count("ixfr"));
    assert!(world.metric(r#"notifies_total{result="heard"}"#) > 1.0);
}

/// Waits until a secondary answers so.
pub(super) async fn serves(secondary: &Secondary, question: &str, answer: &str) {
    let begun = Instant::now();
    loop {
        let (printed, _) = dig(
            secondary.address,
            &format!("+tries=1 +timeout=1 +short {question}"),
        )
        .await;
        if printed.trim() == answer {
            return;
        }
        let said = fs::read_to_string(&secondary.log).unwrap();
        assert!(
            begun.elapsed() < CATCHING_UP,
            "{question}: {printed}\n{said}"
        );
    }
}

/// The zone, when all have the same one.
async fn same_version(primary: SocketAddr, key: &str, secondaries: &[Secondary; 2]) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let ours = transferred(primary, &format!("{key}:{SECRET}")).await;
        let nsd = transferred(
            secondaries[0].address,
            &format!("hmac-sha256:nsd-key:{SECRET}"),
        )
        .await;
        let knot = transferred(
            secondaries[1].address,
            &format!("hmac-sha256:knot-key:{SECRET}"),
        )
        .await;
        if ours == nsd && ours == knot {
            return ours;
        }
        let differ = |theirs: &[String]| -> Vec<String> {
            let gone = ours.iter().filter(|line| !theirs.contains(line));
            let more = theirs.iter().filter(|line| !ours.contains(line));
            gone.chain(more).take(5).cloned().collect()
        };
        assert!(
            begun.elapsed() < CATCHING_UP,
            "NSD: {:?}, Knot: {:?}",
            differ(&nsd),
            differ(&knot)
        );
    }
}

/// Whoever has a challenge acknowledged can send a CA to any secondary.
#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_is_acknowledged_when_all_secondaries_in_rotation_serve_it() {
    let folder = TempDir::new().unwrap();
    let keys = ["nsd-key", "knot-key"].map(|name| key_file(&folder, name, SECRET));
    let addresses = [free_address(), free_address()];
    let listed = [(addresses[0], &*keys[0], ""), (addresses[1], &*keys[1], "")];
    let mut world = World::with_config(&config(&listed, "")).await;
    world.directory.add("home");
    let nsd = nsd(folder.path(), addresses[0], world.v4());
    let mut knot = knot(folder.path(), addresses[1], world.v4());
    for secondary in [&nsd, &knot] {
        serves(secondary, "home.nas.test A", "192.0.2.250").await;
    }
    let begun = Instant::now();
    while world.metric("secondaries_behind") > 0.0 {
        assert!(begun.elapsed() < CATCHING_UP, "they do not come back");
        dig(nsd.address, "nas.test SOA").await;
    }
    let question = "+short _acme-challenge.home.nas.test TXT";
    for round in 0..20 {
        let value = format!("round-{round}");
        world.challenge("home", "", value.as_bytes()).await.unwrap();
        for secondary in [&nsd, &knot] {
            let (printed, _) = dig(secondary.address, question).await;
            assert!(printed.contains(&value), "{:?}: {printed}", secondary.log);
        }
    }
    // So it is with who may have certificates, and with that everybody may again.
    for round in 0..5 {
        let account = format!("https://ca.test/{round}");
        for (accounts, count) in [(&[("ca.test", &*account)][..], 2), (&[], 0)] {
            world.set_issuers("home", accounts).await.unwrap();
            for secondary in [&nsd, &knot] {
                let (printed, _) = dig(secondary.address, "+short home.nas.test CAA").await;
                let found = printed.matches(&account).count();
                assert_eq!(found, count, "{:?}: {printed}", secondary.log);
            }
        }
    }
    // The operator's own host likewise; what is withdrawn is there no more.
    let operators = "_acme-challenge.cloud.nas.test TXT";
    for round in 0..5 {
        let value = format!("cloud-{round}");
        world
            .prove("cloud.nas.test", value.as_bytes())
            .await
            .unwrap();
        for secondary in [&nsd, &knot] {
            let (printed, _) = dig(secondary.address, operators).await;
            assert!(printed.contains(&value), "{:?}: {printed}", secondary.log);
        }
        world.withdraw(value.as_bytes());
    }
    world.challenge("home", "", b"after").await.unwrap();
    for secondary in [&nsd, &knot] {
        let (printed, _) = dig(secondary.address, operators).await;
        assert!(printed.contains("NXDOMAIN"), "{printed}");
    }
    // One that has gone is waited for once, and then no more.
    knot.process.kill().unwrap();
    knot.process.wait().unwrap();
    let begun = Instant::now();
    world.challenge("home", "", b"without-knot").await.unwrap();
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(12), "{waited:?}");
    assert_eq!(world.metric("secondaries_behind"), 1.0);
    let begun = Instant::now();
    world.challenge("home", "", b"still-without").await.unwrap();
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(3), "{waited:?}");
    let (printed, _) = dig(nsd.address, question).await;
    assert!(printed.contains("still-without"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nsd_and_knot_follow_ten_thousand_updates() {
    follow("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nsd_and_knot_follow_ten_thousand_updates_of_a_signed_zone() {
    follow("[dnssec]\ndenial = \"nsec3\"").await;
}
