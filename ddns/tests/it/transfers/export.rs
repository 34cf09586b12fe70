//! The zone as a file: checkers of others take it, and NSD serves from it what we serve.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use ddns::Handle;
use ddns::transfer::Page;
use tempfile::TempDir;

use super::secondaries::{Secondary, free_address, serves, start};
use super::{SECRET, config, dig, key_file, nowhere, transferred, transferred_with, with_devices};

/// More than a page has.
const DEVICES: usize = 2500;

/// All of the file, and how many pages that were.
fn exported(server: &Handle) -> (String, usize) {
    let export = server.export();
    let (mut text, mut pages) = (String::new(), 0);
    let mut behind: Option<String> = None;
    loop {
        let page: Page = export.page(behind.as_deref());
        assert!(page.done <= page.devices);
        text += &page.text;
        pages += 1;
        match page.next {
            Some(last) => behind = Some(last),
            None => return (text, pages),
        }
    }
}

/// NSD with this file and no primary.
fn nsd(folder: &Path, address: SocketAddr) -> Secondary {
    let place = folder.display();
    let port = address.port();
    let config = format!(
        "server:\n  ip-address: 127.0.0.1\n  port: {port}\n  username: \"\"\n  zonesdir: \"{place}\"\n  database: \"\"\n\
         \x20 pidfile: \"{place}/nsd.pid\"\n  xfrdfile: \"{place}/xfrd.state\"\n  zonelistfile: \"{place}/zone.list\"\n\
         \x20 xfrdir: \"{place}\"\n  server-count: 1\n\
         remote-control:\n  control-enable: no\n\
         key:\n  name: \"ns2-key\"\n  algorithm: hmac-sha256\n  secret: \"{SECRET}\"\n\
         zone:\n  name: \"nas.test\"\n  zonefile: \"exported\"\n  provide-xfr: 127.0.0.1 ns2-key\n"
    );
    let file = folder.join("nsd.conf");
    fs::write(&file, config).unwrap();
    start("/usr/sbin/nsd", &["-d"], &file, address)
}

fn check(program: &str, arguments: &[&str], file: &Path) -> String {
    let output = Command::new(program)
        .args(arguments)
        .arg(file)
        .output()
        .unwrap_or_else(|error| panic!("{program} has to be installed: {error}"));
    let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{program}: {printed}");
    printed
}

/// Of every type that there can be, and with all that has to be escaped.
fn with_every_type(config: &str) -> String {
    let more = r#"record = [
            { name = "@", type = "TXT", value = "v=spf1 -all; \"quoted\" \\ back" },
            { name = "_443._tcp.www", type = "TLSA", value = "3 1 1 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff" },
            { name = "www", type = "HTTPS", value = "1 . alpn=h2,h3 port=8443 ipv4hint=192.0.2.80" },
            { name = "_x.www", type = "SVCB", value = "0 www.nas.test." },
            { name = "www", type = "SSHFP", value = "4 2 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff" },
            { name = "www", type = "AAAA", value = "2001:db8::80" },"#;
    config.replacen("record = [", more, 1)
}

async fn is_served_by_others(dnssec: &str) {
    let folder = TempDir::new().unwrap();
    let key = key_file(&folder, "ns2-key", SECRET);
    let secondaries = [(nowhere(), &*key, "signs = true")];
    let config = with_every_type(&config(&secondaries, dnssec));
    let mut world = with_devices(&config).await;
    for number in 0..DEVICES {
        world.directory.add(&format!("d{number}"));
    }
    world
        .set("d7", &["192.0.2.9", "2001:db8::9"])
        .await
        .unwrap();
    let good = format!("hmac-sha256:ns2-key:{SECRET}");
    let last = "d7.nas.test. 60 IN AAAA 2001:db8::9";
    let ours = transferred_with(world.v4(), &good, last).await;

    let (text, pages) = exported(&world.server);
    assert_eq!(pages, 3);
    assert!(text.starts_with("nas.test. 60 IN SOA ns1.nas.test. hostmaster.nas.test. "));
    let file = folder.path().join("exported");
    fs::write(&file, &text).unwrap();
    check(
        "/usr/bin/named-checkzone",
        &["-i", "local", "nas.test"],
        &file,
    );
    check("/usr/sbin/nsd-checkzone", &["nas.test"], &file);
    check("/usr/bin/kzonecheck", &["-o", "nas.test"], &file);
    check("/usr/bin/ldns-read-zone", &["-c"], &file);

    let nsd = nsd(folder.path(), free_address());
    serves(&nsd, "d7.nas.test AAAA", "2001:db8::9").await;
    let theirs = transferred(nsd.address, &good).await;
    let soa = |line: &&String| line.contains(" SOA ");
    let without = |lines: &[String]| -> Vec<String> {
        let lines = lines.iter().filter(|line| !soa(line));
        lines.cloned().collect()
    };
    assert!(ours.len() > 4 * DEVICES, "{}", ours.len());
    assert_eq!(without(&ours), without(&theirs));
    for question in [
        "home.nas.test A",
        "a.b.home.nas.test A",
        "home.nas.test AAAA",
        "_acme-challenge.home.nas.test TXT",
        "_acme-challenge.x.home.nas.test TXT",
        "photos.home.nas.test CAA",
        "lan.home.nas.test A",
        "lan.home.nas.test AAAA",
        "lan.home.nas.test CAA",
        "x.lan.home.nas.test A",
        "nobody.nas.test A",
        "_tcp.www.nas.test A",
        "www.nas.test HTTPS",
        "nas.test TXT",
        "nas.test MX",
    ] {
        let answers = |printed: String| -> Vec<String> {
            let lines = printed.lines().filter(|line| {
                let is_record = !line.is_empty() && !line.starts_with(';');
                line.contains("status: ") || is_record && !line.contains("SOA")
            });
            let id = |line: &str| line.split(", id: ").next().unwrap_or_default().to_owned();
            let mut lines: Vec<_> = lines.map(id).collect();
            lines.sort();
            lines
        };
        let words = format!("+noauthority +noadditional {question}");
        let ours = answers(dig(world.v4(), &words).await.0);
        let theirs = answers(dig(nsd.address, &words).await.0);
        assert!(!ours.is_empty());
        assert_eq!(ours, theirs, "{question}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_zone_is_read_by_others_and_nsd_serves_the_same() {
    is_served_by_others("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_signed_zone_is_exported_what_another_server_signs() {
    is_served_by_others("[dnssec]\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_change_while_they_are_exported_are_whole_and_none_is_there_twice() {
    let mut world = with_devices(&config(&[], "")).await;
    for number in 0..DEVICES {
        world.directory.add(&format!("d{number}"));
    }
    world
        .set("d7", &["192.0.2.1", "2001:db8::1"])
        .await
        .unwrap();
    let export = world.server.export();
    let first = export.page(None);
    let behind = first.next.unwrap();
    // Of those that come and go between two pages, one is behind the first page and one before it.
    world.directory.remove("d3");
    world.directory.add("a-new-one");
    let second = export.page(Some(&behind));
    assert!(!second.text.contains("\nd3.nas.test. ") && second.text.contains("\nd30.nas.test. "));
    assert!(!second.text.contains("a-new-one"));
    let before: HashSet<_> = first.text.lines().collect();
    assert!(second.text.lines().all(|line| !before.contains(line)));
    // Any cursor will do: nothing but the order is asked of it.
    let last = export.page(Some("zzzz"));
    assert_eq!((&*last.text, last.next, last.done), ("", None, DEVICES + 3));
    for strange in ["", "\u{0}", "ÿ", &"a".repeat(1 << 16)] {
        let page = export.page(Some(strange));
        assert!(page.done <= page.devices);
    }

    // Both families of an address change together, and are exported so.
    let export = world.server.export();
    let reading = std::thread::spawn(move || {
        let behind = "d6zzz";
        let mut seen = BTreeSet::new();
        for _ in 0..100 {
            let page = export.page(Some(behind));
            let lines = page
                .text
                .lines()
                .filter(|line| line.starts_with("d7.nas.test. "));
            let last = |line: &str| line.rsplit(['.', ':']).next().unwrap().to_owned();
            let of_addresses = lines.filter(|line| line.contains(" A"));
            let lasts: BTreeSet<_> = of_addresses.map(last).collect();
            assert_eq!(lasts.len(), 1, "{lasts:?}");
            seen.extend(lasts);
        }
        seen.len()
    });
    let mut host = 1;
    while !reading.is_finished() {
        host = host % 9 + 1;
        let (v4, v6) = (format!("192.0.2.{host}"), format!("2001:db8::{host}"));
        world.set("d7", &[&v4, &v6]).await.unwrap();
    }
    assert!(reading.join().unwrap() > 1, "it never changed");
}
