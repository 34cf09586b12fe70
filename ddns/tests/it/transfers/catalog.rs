//! Knot has the catalog in its configuration and not the zone, and serves the zone.

use tempfile::TempDir;

use super::secondaries::{Secondary, free_address, knot_with, serves};
use super::{OTHER, SECRET, config, dig, key_file, nowhere, with_devices};

const MEMBERS: &str = "template:\n  - id: members\n    storage: \"PLACE\"\n    master: primary\n    acl: ours\n\
                       \x20   zonefile-sync: -1\n    zonefile-load: none\n    journal-content: all\n\
                       zone:\n  - domain: _catalog.nas.test\n    storage: \"PLACE\"\n    master: primary\n    acl: ours\n\
                       \x20   catalog-role: interpret\n    catalog-template: members\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_secondary_that_follows_the_catalog_serves_the_zone_without_being_told_of_it() {
    followed("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_zone_is_served_by_the_catalog_with_its_signatures() {
    let knot = followed("[dnssec]\ndenial = \"nsec3\"").await;
    let (printed, _) = dig(knot.address, "+dnssec home.nas.test A").await;
    assert!(printed.contains("RRSIG"), "{printed}");
    let (printed, _) = dig(knot.address, "+dnssec nobody.nas.test A").await;
    assert!(
        printed.contains("status: NXDOMAIN") && printed.contains("NSEC3"),
        "{printed}"
    );
}

/// A secondary of which this is so.
async fn followed(dnssec: &str) -> Secondary {
    let folder = TempDir::new().unwrap();
    let key = key_file(&folder, "knot-key", SECRET);
    let address = free_address();
    let world = with_devices(&config(&[(address, &key, "catalog = true")], dnssec)).await;
    let zones = MEMBERS.replace("PLACE", &folder.path().display().to_string());
    let knot = knot_with(folder.path(), address, world.v4(), &zones);
    serves(&knot, "home.nas.test A", "192.0.2.7").await;
    serves(&knot, "photos.home.nas.test A", "192.0.2.7").await;
    // It follows the zone as any other secondary.
    world.set("home", &["192.0.2.8"]).await.unwrap();
    serves(&knot, "home.nas.test A", "192.0.2.8").await;
    assert!(world.metric(r#"transfers_total{result="ixfr"}"#) >= 1.0);
    assert!(world.metric(r#"notifies_total{result="heard"}"#) >= 1.0);
    knot
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_is_there_for_nobody_but_secondaries_that_follow_it() {
    let folder = TempDir::new().unwrap();
    let key = key_file(&folder, "ns2-key", SECRET);
    let other = key_file(&folder, "ns3-key", OTHER);
    let secondaries = [
        (nowhere(), &*key, "catalog = true"),
        (nowhere(), &*other, ""),
    ];
    let world = with_devices(&config(&secondaries, "")).await;
    let server = world.v4();
    let (good, plain) = (
        format!("-y hmac-sha256:ns2-key:{SECRET}"),
        format!("-y hmac-sha256:ns3-key:{OTHER}"),
    );
    for (qtype, records) in [("AXFR", 5), ("IXFR=0", 5), ("IXFR=1", 1)] {
        let words = format!("+noall +answer {good} _catalog.nas.test {qtype}");
        let (printed, is_there) = dig(server, &words).await;
        let lines = printed.lines().filter(|line| !line.starts_with(';'));
        let lines = lines.filter(|line| !line.is_empty());
        assert!(is_there && lines.count() == records, "{qtype}: {printed}");
        let has_all = [
            "_catalog.nas.test. 0 IN SOA invalid. invalid. 1 3600 600 2147483646 0",
            "_catalog.nas.test. 0 IN NS invalid.",
            "version._catalog.nas.test. 0 IN TXT \"2\"",
            "zone.zones._catalog.nas.test. 0 IN PTR nas.test.",
        ];
        let words = printed.split_whitespace().collect::<Vec<_>>().join(" ");
        let has = has_all.iter().filter(|line| words.contains(**line));
        assert_eq!(has.count(), if records == 1 { 1 } else { 4 }, "{printed}");
    }
    let (printed, _) = dig(server, &format!("+notcp {good} _catalog.nas.test SOA")).await;
    assert!(printed.contains("invalid. invalid. 1 "), "{printed}");
    // Its other names are none, and none of its names is one for others.
    for (who, name, qtype, said) in [
        ("", "_catalog.nas.test", "AXFR", "Transfer failed"),
        ("", "_catalog.nas.test", "SOA", "status: NXDOMAIN"),
        ("", "version._catalog.nas.test", "TXT", "status: NXDOMAIN"),
        (&*plain, "_catalog.nas.test", "AXFR", "Transfer failed"),
        (&*plain, "_catalog.nas.test", "SOA", "status: NXDOMAIN"),
        (
            &*good,
            "version._catalog.nas.test",
            "AXFR",
            "Transfer failed",
        ),
        (
            &*good,
            "zone.zones._catalog.nas.test",
            "PTR",
            "status: NXDOMAIN",
        ),
    ] {
        let words = format!("{who} {name} {qtype}");
        let (printed, _) = dig(server, words.trim()).await;
        assert!(printed.contains(said), "{words}: {printed}");
    }
    let forged = format!("-y hmac-sha256:ns2-key:{OTHER} _catalog.nas.test AXFR");
    let (printed, is_there) = dig(server, &forged).await;
    assert!(!is_there && !printed.contains("invalid."), "{printed}");
}
