//! Copies of the zone: dig transfers it, ldns-verify-zone judges it, NSD and Knot follow it, Knot by a catalog too.

mod catalog;
mod export;
mod secondaries;

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::world::{Directory, World};

const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const OTHER: &str = "HxECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A file with the key of a secondary.
fn key_file(folder: &TempDir, name: &str, secret: &str) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, format!("hmac-sha256:{name}:{secret}\n")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

/// A zone with these secondaries (address, key, more), signed or not.
fn config(secondaries: &[(SocketAddr, &Path, &str)], dnssec: &str) -> String {
    let secondaries = secondaries.iter().map(|(address, key, more)| {
        format!("[[secondary]]\naddress = \"{address}\"\nkey_file = {key:?}\n{more}\n")
    });
    let secondaries: String = secondaries.collect();
    format!(
        r#"
        listen = "127.0.0.1:0"
        updates_per_minute = 0
        private_addresses = true
        record = [
            {{ name = "www", type = "A", value = "192.0.2.80" }},
            {{ name = "@", type = "MX", value = "10 Mail.Example.com" }},
            {{ name = "_ssh._tcp.www", type = "SRV", value = "0 5 22 WWW.nas.test" }},
        ]
        device_record = [{{ type = "CAA", value = '0 issue "ca.test"' }}]
        {secondaries}
        {dnssec}
        "#
    )
}

fn nowhere() -> SocketAddr {
    "127.0.0.1:9".parse().unwrap()
}

/// What dig prints of a transfer, and whether it came.
async fn dig(server: SocketAddr, words: &str) -> (String, bool) {
    let words = format!("@{} -p {} {words}", server.ip(), server.port());
    let run = move || Command::new("dig").args(words.split(' ')).output().unwrap();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let failed = printed.contains("Transfer failed") || printed.contains("status: ");
    (printed, !failed)
}

/// So long a version may take.
const PUBLISHED: Duration = Duration::from_secs(30);

/// The records of a transfer, sorted. Waits until a version is published.
async fn transferred(server: SocketAddr, key: &str) -> Vec<String> {
    let begun = Instant::now();
    while begun.elapsed() < PUBLISHED {
        let words = format!("+noall +answer +noidnout -y {key} nas.test AXFR");
        let (printed, is_there) = dig(server, &words).await;
        let lines = printed
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with(';'));
        let mut lines: Vec<_> = lines
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        if is_there && !lines.is_empty() {
            lines.sort();
            lines.dedup(); // the SOA is there twice
            return lines;
        }
    }
    panic!("nothing is transferred");
}

/// The names that have a record of a type.
fn names<'l>(lines: &'l [String], rtype: &str) -> Vec<&'l str> {
    let words = lines.iter().map(|line| line.split(' ').collect::<Vec<_>>());
    let with_type = words.filter(|words| words[3] == rtype);
    with_type.map(|words| words[0]).collect()
}

/// Who alone may have certificates for a device: an account with an authority.
const ACCOUNT: (&str, &str) = ("ca.test", "https://ca.test/acct/7");

async fn with_devices(config: &str) -> World {
    let mut world = World::with_config(config).await;
    for name in ["home", "away", "a-device-with-quite-a-long-name"] {
        world.directory.add(name);
    }
    world.set("home", &["192.0.2.7"]).await.unwrap();
    for host in ["", "photos"] {
        world.challenge("home", host, b"proof").await.unwrap();
    }
    world.prove("cloud.nas.test", b"proof").await.unwrap();
    world
        .set_lan("home", &["192.168.1.7", "fd00::7"])
        .await
        .unwrap();
    world.set_issuers("home", &[ACCOUNT]).await.unwrap();
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_is_the_zone_and_only_secondaries_get_it() {
    let folder = TempDir::new().unwrap();
    let key = key_file(&folder, "ns2-key", SECRET);
    let world = with_devices(&config(&[(nowhere(), &key, "")], "")).await;
    let server = world.v4();
    let good = format!("hmac-sha256:ns2-key:{SECRET}");
    let last = "lan.home.nas.test. 60 IN AAAA fd00::7";
    let lines = transferred_with(server, &good, last).await;
    assert_eq!(names(&lines, "SOA"), ["nas.test."]);
    for (rtype, name, is_there) in [
        ("NS", "nas.test.", true),
        ("MX", "nas.test.", true),
        ("A", "www.nas.test.", true),
        ("SRV", "_ssh._tcp.www.nas.test.", true),
        ("A", "home.nas.test.", true),
        ("AAAA", "home.nas.test.", false),
        ("A", "*.home.nas.test.", true),
        ("CAA", "*.away.nas.test.", true),
        ("AAAA", "away.nas.test.", true),
        ("TXT", "_acme-challenge.home.nas.test.", true),
        ("TXT", "_acme-challenge.photos.home.nas.test.", true),
        ("TXT", "_acme-challenge.cloud.nas.test.", true),
        ("A", "photos.home.nas.test.", true),
        ("A", "*.photos.home.nas.test.", true),
        ("A", "lan.home.nas.test.", true),
        ("AAAA", "lan.home.nas.test.", true),
        ("CAA", "lan.home.nas.test.", false),
        ("A", "*.lan.home.nas.test.", false),
        ("A", "lan.away.nas.test.", false),
        ("A", "a-device-with-quite-a-long-name.nas.test.", true),
        ("RRSIG", "nas.test.", false),
    ] {
        let is = names(&lines, rtype).contains(&name);
        assert_eq!(is, is_there, "{rtype} {name}: {}", lines.join("\n"));
    }
    let bound = "CAA 0 issuewild \"ca.test\\; accounturi=https://ca.test/acct/7\\; validationmethods=dns-01\"";
    for name in [
        "home.nas.test.",
        "*.home.nas.test.",
        "*.photos.home.nas.test.",
    ] {
        let of_name = lines
            .iter()
            .filter(|line| line.starts_with(&format!("{name} ")));
        let caa: Vec<_> = of_name.filter(|line| line.contains(" CAA ")).collect();
        assert_eq!(caa.len(), 2, "{name}: {caa:?}");
        assert!(
            caa.iter()
                .any(|line| line.replace('\\', "").ends_with(&bound.replace('\\', ""))),
            "{caa:?}"
        );
    }
    for words in [
        "nas.test AXFR".to_owned(),
        format!("-y hmac-sha256:ns2-key:{OTHER} nas.test AXFR"),
        format!("-y hmac-sha256:nobody:{SECRET} nas.test AXFR"),
        format!("-y {good} home.nas.test AXFR"),
    ] {
        let (printed, is_there) = dig(server, &words).await;
        assert!(!is_there, "{words}: {printed}");
    }
    // A secondary asks like anybody, and is told which version it can have.
    let (printed, _) = dig(server, &format!("-y {good} home.nas.test A")).await;
    assert!(printed.contains("192.0.2.7"), "{printed}");
    let (printed, _) = dig(server, &format!("+notcp -y {good} nas.test SOA")).await;
    assert!(printed.contains("ns1.nas.test."), "{printed}");
    assert!(world.metric(r#"transfers_total{result="axfr"}"#) >= 1.0);
    assert!(world.metric(r#"transfers_total{result="serial"}"#) >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secondary_that_cannot_sign_is_refused_where_only_one_that_signs_is_served() {
    let folder = TempDir::new().unwrap();
    let key = key_file(&folder, "ns2-key", SECRET);
    let compact = "[dnssec]\ndenial = \"compact\"";
    let world = World::start().await;
    let start = async |config: String| {
        let registry = prometheus::Registry::new();
        let reader = &world.directory.reader;
        let started = crate::world::start(reader, folder.path(), &config, &registry, &world.stop);
        started.await
    };
    let refused = start(config(&[(nowhere(), &key, "")], compact)).await;
    let sentence = refused.unwrap_err().to_string();
    assert!(sentence.contains("set `signs = true`"), "{sentence}");
    let twice = [(nowhere(), &*key, ""), (nowhere(), &*key, "")];
    let sentence = start(config(&twice, "")).await.unwrap_err().to_string();
    assert!(sentence.contains("same name"), "{sentence}");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let refused = start(config(&[(nowhere(), &key, "")], "")).await;
    let sentence = refused.unwrap_err().to_string();
    assert!(sentence.contains("chmod o-rwx"), "{sentence}");

    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let server = start(config(&[(nowhere(), &key, "signs = true")], compact))
        .await
        .unwrap();
    let good = format!("hmac-sha256:ns2-key:{SECRET}");
    let lines = transferred(server.addr(), &good).await;
    for rtype in ["RRSIG", "DNSKEY", "NSEC3", "NSEC3PARAM", "NSEC"] {
        assert!(names(&lines, rtype).is_empty(), "{rtype}");
    }
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ldns_verifies_a_transfer_and_what_has_followed_it() {
    let folder = TempDir::new().unwrap();
    let key = key_file(&folder, "ns2-key", SECRET);
    let good = format!("hmac-sha256:ns2-key:{SECRET}");
    let dnssec = "[dnssec]\ndenial = \"nsec3\"";
    let text = format!("why = true\n{}", config(&[(nowhere(), &key, "")], dnssec));
    let mut world = with_devices(&text).await;
    for number in 0..300 {
        world.directory.add(&format!("d{number}"));
    }
    let server = world.v4();
    let verify = async |lines: Vec<String>| {
        let file = folder.path().join("zone");
        fs::write(&file, lines.join("\n") + "\n").unwrap();
        let output = Command::new("ldns-verify-zone")
            .arg(&file)
            .output()
            .unwrap();
        let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(
            printed.contains("Zone is verified and complete"),
            "{printed}"
        );
    };
    let lines = transferred_with(server, &good, "d299.nas.test. 60 IN A 192.0.2.250").await;
    verify(lines).await;
    for number in 100..200 {
        world.directory.remove(&format!("d{number}"));
    }
    world.set("d1", &["192.0.2.1"]).await.unwrap();
    world.set_lan("d3", &["192.168.1.3"]).await.unwrap();
    world.set_issuers("d4", &[ACCOUNT]).await.unwrap();
    world.set_issuers("home", &[]).await.unwrap();
    world.set_lan("home", &["fd00::8"]).await.unwrap();
    world.set("d2", &["2001:db8::1"]).await.unwrap();
    let lines = transferred_with(server, &good, "d2.nas.test. 60 IN AAAA 2001:db8::1").await;
    assert!(!names(&lines, "A").contains(&"d150.nas.test."));
    let at_home = |rtype, name| names(&lines, rtype).contains(&name);
    assert!(at_home("TXT", "_why.d3.nas.test.") && !at_home("A", "_why.d3.nas.test."));
    let given = |line: &&String| line.starts_with("_why.d1.nas.test. ") && line.contains("given: ");
    assert_eq!(lines.iter().filter(given).count(), 1);
    assert!(at_home("A", "lan.d3.nas.test.") && at_home("AAAA", "lan.home.nas.test."));
    assert!(!at_home("A", "lan.home.nas.test."));
    let count = |name| {
        names(&lines, "CAA")
            .iter()
            .filter(|of| **of == name)
            .count()
    };
    assert_eq!((count("d4.nas.test."), count("home.nas.test.")), (2, 1));
    verify(lines).await;
}

/// Names of the large zone; each has a wildcard below it.
const MANY: usize = 100_000;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: `cargo test -p ddns --test it a_hundred_thousand -- --ignored --nocapture`"]
async fn ldns_verifies_a_transfer_of_a_hundred_thousand_names() {
    let folder = TempDir::new().unwrap();
    let key = key_file(&folder, "ns2-key", SECRET);
    let mut directory = Directory::of("causeway.example");
    for number in 0..MANY {
        directory.add(&format!("d{number}"));
    }
    let config = config(&[(nowhere(), &key, "")], "[dnssec]\ndenial = \"nsec3\"");
    let begun = Instant::now();
    let world =
        World::with_directory(directory, &config.replace("nas.test", "causeway.example")).await;
    let file = folder.path().join("zone");
    let server = world.v4();
    let transfer = format!(
        "@{} -p {} +noall +answer +onesoa -y hmac-sha256:ns2-key:{SECRET} causeway.example AXFR",
        server.ip(),
        server.port(),
    );
    // Until the first version has been signed there is none.
    let size = loop {
        let dig = Command::new("dig")
            .args(transfer.split(' '))
            .stdout(fs::File::create(&file).unwrap())
            .status();
        assert!(dig.unwrap().success());
        let size = fs::metadata(&file).unwrap().len();
        if size > 1_000_000 {
            break size;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(900),
            "nothing is transferred"
        );
    };
    println!(
        "signed and transferred: {size} octets of text in {:?}",
        begun.elapsed()
    );
    let text = fs::read_to_string(&file).unwrap();
    let of_type = |rtype: &str| {
        text.lines()
            .filter(|line| line.split_whitespace().nth(3) == Some(rtype))
            .count()
    };
    // The names, their wildcards, those of the zone itself and those without records between them.
    assert_eq!(of_type("CAA"), 2 * MANY);
    let (between, signatures) = (of_type("NSEC3"), of_type("RRSIG"));
    assert!((2 * MANY..2 * MANY + 20).contains(&between), "{between}");
    println!("{between} NSEC3, {signatures} RRSIG");
    let begun = Instant::now();
    let output = Command::new("ldns-verify-zone")
        .arg(&file)
        .output()
        .unwrap();
    let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    let tail: Vec<_> = printed.lines().rev().take(5).collect();
    assert!(
        printed.contains("Zone is verified and complete"),
        "{tail:?}"
    );
    println!("verified by ldns-verify-zone in {:?}", begun.elapsed());
}

/// The records of a transfer as soon as this one is among them.
async fn transferred_with(server: SocketAddr, key: &str, line: &str) -> Vec<String> {
    loop {
        let lines = transferred(server, key).await;
        if lines.iter().any(|other| other == line) {
            return lines;
        }
    }
}
