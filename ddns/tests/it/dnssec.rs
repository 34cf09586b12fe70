//! What validators make of the signed zone: delv, and unbound as a resolver with aggressive use of what it has cached, for every kind of
//! answer, both ways of denial, and while keys roll.

mod answers;
mod judges;
mod rolls;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use ddns::steering::Lead;

use self::judges::{Unbound, anchors, delv, dnsviz};
use crate::steering::steered;
use crate::world::{Directory, World};

/// The zone, signed with this denial.
fn config(denial: &str) -> String {
    format!(
        r#"
        listen = "[::]:0"
        updates_per_minute = 0
        private_addresses = true
        why = true
        record = [
            {{ name = "www", type = "A", value = "192.0.2.80" }},
            {{ name = "@", type = "TXT", value = "hello there" }},
            {{ name = "@", type = "MX", value = "10 Mail.Example.com" }},
            {{ name = "www", type = "HTTPS", value = "1 . alpn=h2,h3 port=8443" }},
            {{ name = "_ssh._tcp.www", type = "SRV", value = "0 5 22 WWW.causeway.example" }},
        ]
        device_record = [{{ type = "CAA", value = '0 issue "ca.test"' }}]
        [dnssec]
        denial = "{denial}"
        "#
    )
}

/// What there is behind a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Records,
    NoData,
    NoName,
}

const QUESTIONS: [(&str, Kind); 61] = [
    ("causeway.example SOA", Kind::Records),
    ("causeway.example NS", Kind::Records),
    ("causeway.example DNSKEY", Kind::Records),
    ("causeway.example MX", Kind::Records),
    ("causeway.example TXT", Kind::Records),
    ("ns1.causeway.example AAAA", Kind::Records),
    ("cloud.causeway.example A", Kind::Records),
    ("www.causeway.example HTTPS", Kind::Records),
    ("_ssh._tcp.www.causeway.example SRV", Kind::Records),
    ("home.causeway.example A", Kind::Records),
    ("HOME.causeway.EXAMPLE A", Kind::Records),
    ("away.causeway.example AAAA", Kind::Records),
    ("home.causeway.example CAA", Kind::Records),
    ("led.causeway.example CAA", Kind::Records),
    ("_why.led.causeway.example TXT", Kind::Records),
    ("_why.home.causeway.example TXT", Kind::Records),
    ("_why.led.causeway.example A", Kind::NoData),
    ("_why.home.causeway.example CAA", Kind::NoData),
    ("x._why.led.causeway.example TXT", Kind::NoName),
    ("x._why.home.causeway.example A", Kind::NoName),
    ("_why.nobody.causeway.example TXT", Kind::NoName),
    ("x.led.causeway.example CAA", Kind::Records),
    ("led.causeway.example TXT", Kind::NoData),
    ("x.y.home.causeway.example A", Kind::Records),
    ("*.home.causeway.example A", Kind::Records),
    ("_acme-challenge.home.causeway.example TXT", Kind::Records),
    (
        "_acme-challenge.photos.home.causeway.example TXT",
        Kind::Records,
    ),
    ("_acme-challenge.cloud.causeway.example TXT", Kind::Records),
    ("_acme-challenge.cloud.causeway.example A", Kind::NoData),
    ("_acme-challenge.ns1.causeway.example TXT", Kind::NoName),
    ("x._acme-challenge.cloud.causeway.example TXT", Kind::NoName),
    ("photos.home.causeway.example A", Kind::Records),
    ("x.photos.home.causeway.example A", Kind::Records),
    ("led.causeway.example A", Kind::Records),
    ("led.causeway.example HTTPS", Kind::Records),
    ("x.led.causeway.example HTTPS", Kind::Records),
    ("lan.led.causeway.example A", Kind::Records),
    ("lan.led.causeway.example AAAA", Kind::Records),
    ("lan.away.causeway.example A", Kind::Records),
    (
        "_acme-challenge.x.lan.away.causeway.example TXT",
        Kind::Records,
    ),
    ("x.away.causeway.example A", Kind::Records),
    ("lan.led.causeway.example HTTPS", Kind::NoData),
    ("lan.led.causeway.example CAA", Kind::NoData),
    ("lan.away.causeway.example AAAA", Kind::NoData),
    ("x.lan.away.causeway.example A", Kind::NoData),
    ("x.lan.led.causeway.example A", Kind::NoName),
    ("y.lan.away.causeway.example A", Kind::NoName),
    ("_acme-challenge.away.causeway.example TXT", Kind::NoData),
    ("led.causeway.example AAAA", Kind::NoData),
    ("home.causeway.example HTTPS", Kind::NoData),
    ("home.causeway.example AAAA", Kind::NoData),
    ("home.causeway.example TYPE1000", Kind::NoData),
    ("home.causeway.example DS", Kind::NoData),
    ("x.home.causeway.example AAAA", Kind::NoData),
    ("_tcp.www.causeway.example A", Kind::NoData),
    ("causeway.example TYPE1000", Kind::NoData),
    ("nobody.causeway.example A", Kind::NoName),
    ("a.b.nobody.causeway.example A", Kind::NoName),
    ("x.cloud.causeway.example A", Kind::NoName),
    ("x._acme-challenge.home.causeway.example A", Kind::NoName),
    ("x.*.home.causeway.example A", Kind::NoName),
];

/// Who alone may have certificates for a device: an account with an authority.
const ACCOUNT: (&str, &str) = ("ca.test", "https://ca.test/acct/7");

/// A world with two devices, of which one is being certified.
async fn world(denial: &str) -> World {
    let mut world = World::with_directory(Directory::of("causeway.example"), &config(denial)).await;
    for device in ["home", "away", "led"] {
        world.directory.add(device);
    }
    world.set("home", &["192.0.2.7"]).await.unwrap();
    world.set("led", &["192.0.2.8"]).await.unwrap();
    world.lead("led", steered(true, false, 443));
    for host in ["", "photos"] {
        world.challenge("home", host, b"proof").await.unwrap();
    }
    world.prove("ns1.causeway.example", b"done").await.unwrap();
    world
        .prove("cloud.causeway.example", b"proof")
        .await
        .unwrap();
    world.withdraw(b"done");
    world
        .set_lan("led", &["192.168.1.8", "fd00::8"])
        .await
        .unwrap();
    world.set_issuers("led", &[ACCOUNT]).await.unwrap();
    // With a name without records between it and a challenge.
    world.set_lan("away", &["10.0.0.9"]).await.unwrap();
    world.challenge("away", "x.lan", b"proof").await.unwrap();
    world
}

/// What delv and unbound find wrong.
async fn mistakes(world: &World, denial: &str, anchors: &BTreeSet<String>) -> Vec<String> {
    let mut mistakes = Vec::new();
    let unbound = Unbound::start(world.v4(), anchors).await;
    for (question, kind) in QUESTIONS {
        let printed = delv(world.v4(), anchors, question).await;
        let verdict = match kind {
            Kind::Records => "; fully validated",
            Kind::NoData | Kind::NoName => "; negative response, fully validated",
        };
        if printed.lines().all(|line| line != verdict) {
            mistakes.push(format!("{question}: delv: {printed}"));
        }
        let status = match (kind, denial) {
            (Kind::NoName, "nsec3") => "NXDOMAIN",
            _ => "NOERROR",
        };
        // Twice: first from us, then from what it has kept.
        for _ in 0..2 {
            let printed = unbound.ask(question).await;
            let is_empty = printed.contains("ANSWER: 0,");
            let is_right = printed.contains(&format!("status: {status},"))
                && is_empty == (kind != Kind::Records)
                && is_validated(&printed);
            if !is_right {
                mistakes.push(format!("{question}: unbound: {printed}"));
            }
        }
    }
    mistakes
}

fn is_validated(printed: &str) -> bool {
    let flags = printed.lines().find(|line| line.starts_with(";; flags:"));
    flags.is_some_and(|flags| flags.split([' ', ';']).any(|flag| flag == "ad"))
}

async fn every_answer_is_believed(denial: &str) {
    let world = world(denial).await;
    let anchors = anchors(world.v4()).await;
    let mistakes = mistakes(&world, denial, &anchors).await;
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
    let keys = world.server.keys().unwrap().in_force();
    let ds = keys.ksks[0].ds_text(b"\x08causeway\x07example\0");
    let names = [
        "causeway.example",
        "home.causeway.example",
        "x.home.causeway.example",
        "nobody.causeway.example",
    ];
    let (complaints, states) = dnsviz(world.v4(), &ds, &names).await;
    assert_eq!(complaints.trim(), "", "dnsviz, {denial}");
    let valid = states.iter().filter(|state| state.contains("\"VALID\""));
    assert!(valid.count() > 20, "{states:?}");
    let is_bad = |state: &&String| {
        ["INVALID", "BOGUS", "EXPIRED"]
            .iter()
            .any(|bad| state.contains(bad))
    };
    assert_eq!(states.iter().find(is_bad), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_believed_with_compact_denial() {
    every_answer_is_believed("compact").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_believed_with_denial_by_hashes() {
    every_answer_is_believed("nsec3").await;
}

/// An answer that follows a change is of what is there now, however often it was asked for before.
#[tokio::test(flavor = "multi_thread")]
async fn what_changes_is_signed_anew_and_nothing_else_is() {
    for denial in ["compact", "nsec3"] {
        let mut world = world(denial).await;
        let anchors = anchors(world.v4()).await;
        let believed = async |server: SocketAddr, question: &str| {
            let printed = delv(server, &anchors, question).await;
            let is_believed = printed.contains("fully validated");
            assert!(is_believed, "{denial} {question}: {printed}");
            printed
        };
        let server = world.v4();
        let questions = [
            "home.causeway.example A",
            "away.causeway.example A",
            "home.causeway.example AAAA",
            "later.causeway.example A",
        ];
        for question in questions {
            believed(server, question).await;
        }
        let made = r#"signatures_made_total{share="zone"}"#;
        for host in 1..4 {
            world
                .set("home", &[&format!("198.51.100.{host}")])
                .await
                .unwrap();
            let before = world.metric(made);
            let printed = believed(server, "home.causeway.example A").await;
            assert!(printed.contains(&format!("198.51.100.{host}")), "{printed}");
            believed(server, "away.causeway.example A").await;
            believed(server, "causeway.example DNSKEY").await;
            assert_eq!(world.metric(made), before + 1.0, "{denial}");
        }
        for (lead, is_there) in [
            (steered(true, false, 8443), true),
            (steered(false, false, 443), false),
        ] {
            world.lead("home", lead);
            let printed = believed(server, "_why.home.causeway.example TXT").await;
            let why = if is_there {
                "but at port 8443"
            } else {
                "is not found"
            };
            assert!(printed.contains(why), "{printed}");
            let printed = believed(server, "home.causeway.example HTTPS").await;
            assert_eq!(printed.contains("port=8443"), is_there, "{printed}");
            let printed = believed(server, "home.causeway.example A").await;
            assert!(printed.contains("192.0.2.250"), "{printed}");
        }
        world.lead("home", Lead::Given);
        world.set("home", &["2001:db8::7"]).await.unwrap();
        let printed = believed(server, "home.causeway.example AAAA").await;
        assert!(printed.contains("2001:db8::7"), "{printed}");
        for (addresses, hears) in [
            (&["192.168.1.7"][..], "192.168.1.7"),
            (&["192.168.1.7", "fd00::7"], "192.168.1.7"),
            (&["fd00::7"], "negative response"),
            (&[], "192.0.2.250"),
        ] {
            world.set_lan("away", addresses).await.unwrap();
            let printed = believed(server, "lan.away.causeway.example A").await;
            assert!(printed.contains(hears), "{addresses:?}: {printed}");
            let printed = believed(server, "y.lan.away.causeway.example AAAA").await;
            let is_there = !printed.contains("negative response");
            assert_eq!(is_there, addresses.is_empty(), "{printed}");
        }
        world.directory.add("later");
        let printed = believed(server, "later.causeway.example A").await;
        assert!(printed.contains("192.0.2.250"), "{printed}");
        world.directory.remove("later");
        let printed = believed(server, "later.causeway.example A").await;
        assert!(printed.contains("negative response"), "{printed}");
    }
}

/// Where the operator has set nothing for every device, the type itself comes and goes, and so does what proves that.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_issue_is_believed_and_so_is_that_nobody_has_said_it() {
    for denial in ["nsec3", "compact"] {
        let config = config(denial);
        let without: Vec<_> = config
            .lines()
            .filter(|line| !line.contains("device_record"))
            .collect();
        let directory = Directory::of("causeway.example");
        let mut world = World::with_directory(directory, &without.join("\n")).await;
        world.directory.add("home");
        let anchors = anchors(world.v4()).await;
        for accounts in [&[][..], &[ACCOUNT], &[], &[ACCOUNT]] {
            world.set_issuers("home", accounts).await.unwrap();
            let verdict = match accounts {
                [] => "; negative response, fully validated",
                _ => "; fully validated",
            };
            for name in ["home", "x.home", "*.home"] {
                let question = format!("{name}.causeway.example CAA");
                let printed = delv(world.v4(), &anchors, &question).await;
                assert!(
                    printed.lines().any(|line| line == verdict),
                    "{denial} {question}: {printed}"
                );
                let has = printed.contains("https://ca.test/acct/7");
                assert_eq!(has, !accounts.is_empty(), "{printed}");
            }
            let printed = delv(world.v4(), &anchors, "home.causeway.example TXT").await;
            assert!(
                printed.contains("; negative response, fully validated"),
                "{printed}"
            );
        }
    }
}
