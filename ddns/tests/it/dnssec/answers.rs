//! What a signed zone says that validators do not ask for, and what a flood gets.

use super::{config, world};
use crate::dns::{ask_tcp, ask_udp, decode, query, receive, udp_socket};
use crate::world::{Directory, World};

/// Code and records of an answer, without their data.
fn short(reply: &[u8]) -> String {
    let lines = decode(reply);
    let records = lines.iter().filter(|line| !line.starts_with("question"));
    let short = records.map(|line| match line.split_once(' ') {
        Some(("opt", options)) => format!("opt {options}"),
        _ => {
            let words: Vec<_> = line.split(' ').collect();
            words[..words.len().min(4)].join(" ")
        }
    });
    short.collect::<Vec<_>>().join(", ")
}

async fn udp(world: &World, question: &str) -> String {
    let words: Vec<_> = question.split(' ').collect();
    short(&ask_udp(world.v4(), &query(&words)).await)
}

async fn tcp(world: &World, question: &str) -> String {
    let words: Vec<_> = question.split(' ').collect();
    short(&ask_tcp(world.v4(), &query(&words)).await.unwrap())
}

const EDNS: &str = "opt version=0 size=1232";

#[tokio::test]
async fn proofs_come_to_those_who_ask_for_them() {
    let compact = world("compact").await;
    let nsec3 = world("nsec3").await;
    for (world, question, expected) in [
        (
            &compact,
            "home.causeway.example A edns",
            "NOERROR aa, answer home.causeway.example. 60 A, opt version=0 size=1232",
        ),
        (
            &compact,
            "home.causeway.example A do",
            "NOERROR aa, answer home.causeway.example. 60 A, answer home.causeway.example. 60 RRSIG, \
             opt version=0 size=1232 do",
        ),
        (
            &compact,
            "nobody.causeway.example A edns",
            "NXDOMAIN aa, authority causeway.example. 60 SOA, opt version=0 size=1232",
        ),
        (
            &compact,
            "nobody.causeway.example A do",
            "NOERROR aa, authority causeway.example. 60 SOA, authority causeway.example. 60 RRSIG, \
             authority nobody.causeway.example. 60 NSEC, authority nobody.causeway.example. 60 RRSIG, \
             opt version=0 size=1232 do",
        ),
        // RFC 9824 section 5.1: who knows what the proof says gets the code as well.
        (
            &compact,
            "nobody.causeway.example A flags=c000",
            "NXDOMAIN aa, authority causeway.example. 60 SOA, authority causeway.example. 60 RRSIG, \
             authority nobody.causeway.example. 60 NSEC, authority nobody.causeway.example. 60 RRSIG, \
             opt version=0 size=1232 do flags=4000",
        ),
        (
            &compact,
            "home.causeway.example RRSIG",
            "NOERROR aa, answer home.causeway.example. 60 RRSIG",
        ),
        (
            &compact,
            "nobody.causeway.example NSEC",
            "NOERROR aa, answer nobody.causeway.example. 60 NSEC, answer nobody.causeway.example. 60 RRSIG",
        ),
        (&compact, "causeway.example TYPE128", "FORMERR"),
        (
            &compact,
            "home.causeway.example ANY do",
            "NOERROR aa, answer home.causeway.example. 60 A, answer home.causeway.example. 60 RRSIG, \
             opt version=0 size=1232 do",
        ),
        (
            &nsec3,
            "causeway.example NSEC3PARAM",
            "NOERROR aa, answer causeway.example. 0 NSEC3PARAM",
        ),
        (
            &nsec3,
            "home.causeway.example NSEC",
            "NOERROR aa, authority causeway.example. 60 SOA",
        ),
        (
            &nsec3,
            "nobody.causeway.example A flags=c000",
            "NXDOMAIN aa, authority causeway.example. 60 SOA, authority causeway.example. 60 RRSIG, NSEC3S \
             opt version=0 size=1232 do",
        ),
    ] {
        let heard = udp(world, question).await;
        match expected.split_once("NSEC3S ") {
            None => assert_eq!(heard, expected, "{question}"),
            Some((front, back)) => {
                assert!(heard.starts_with(front) && heard.ends_with(back), "{heard}");
                assert!(heard.contains("TYPE50"), "{heard}");
            }
        }
    }
}

/// Made-up names cost a signature each; the zone's own names do not wait for them.
#[tokio::test]
async fn a_flood_of_made_up_names_is_sent_to_tcp_and_leaves_the_zones_own_alone() {
    let config = format!("{}\nsignatures_per_second = 1", config("compact"));
    let mut world = World::with_directory(Directory::of("causeway.example"), &config).await;
    world.directory.add("home");
    let refused = |share: &str| format!(r#"signatures_refused_total{{share="{share}"}}"#);
    let elsewhere = format!("NOERROR tc, {EDNS} do");
    let mut sent_to_tcp = 0;
    for number in 0..20 {
        let heard = udp(&world, &format!("n{number}.causeway.example A do")).await;
        let is_proved = heard.contains("NSEC") && heard.contains("RRSIG");
        assert!(is_proved || heard == elsewhere, "{heard}");
        sent_to_tcp += u32::from(!is_proved);
        let heard = udp(&world, &format!("n{number}.causeway.example A edns")).await;
        assert!(heard.starts_with("NXDOMAIN aa"), "{heard}");
    }
    assert!((17..20).contains(&sent_to_tcp), "{sent_to_tcp}");
    assert_eq!(
        world.metric(&refused("made_up_udp")),
        f64::from(sent_to_tcp)
    );
    // Over TCP there is another share; beyond it the server says that it cannot now.
    let heard = tcp(&world, "n19.causeway.example A do").await;
    assert!(heard.contains("NSEC"), "{heard}");
    let heard = tcp(&world, "n18.causeway.example A do").await;
    assert_eq!(heard, format!("SERVFAIL, {EDNS} do ede=0"));
    assert_eq!(world.metric(&refused("made_up_tcp")), 1.0);
    // What has been signed is kept, and what the zone has is signed.
    let heard = tcp(&world, "n19.causeway.example A do").await;
    assert!(heard.contains("NSEC"), "{heard}");
    let heard = udp(&world, "home.causeway.example A do").await;
    assert!(heard.contains("RRSIG"), "{heard}");
    assert_eq!(world.metric(&refused("zone")), 0.0);
}

/// With NSEC3 what is signed for them stands between the names of the zone, and takes nothing from those either.
#[tokio::test]
async fn a_flood_that_asks_for_all_that_stands_between_names_leaves_the_names_alone() {
    const NAMES: usize = 60;
    let config = format!("{}\nsignatures_per_second = 100", config("nsec3"));
    let mut world = World::with_directory(Directory::of("causeway.example"), &config).await;
    let names: Vec<_> = (0..NAMES).map(|number| format!("home{number}")).collect();
    for name in &names {
        world.directory.add(name);
    }
    let elsewhere = format!("NOERROR tc, {EDNS} do");
    let mut sent_to_tcp = 0;
    for number in 0..NAMES {
        let heard = udp(&world, &format!("n{number}.causeway.example A do")).await;
        sent_to_tcp += u32::from(heard == elsewhere);
    }
    assert!(sent_to_tcp > 0);
    let refused = |share: &str| format!(r#"signatures_refused_total{{share="{share}"}}"#);
    assert_eq!(
        world.metric(&refused("between_names")),
        f64::from(sent_to_tcp)
    );
    // Names that are there, and whoever is where it says, have a share that nothing of that was taken from.
    assert_eq!(world.metric(&refused("zone")), 0.0);
    let heard = udp(&world, "home7.causeway.example A do").await;
    assert!(heard.contains("RRSIG"), "{heard}");
    let heard = tcp(&world, "nobody.causeway.example A do").await;
    assert!(heard.contains("TYPE50"), "{heard}");
}

/// A network that has had its share of answers costs no signatures either: they are left for others.
#[tokio::test]
async fn what_is_not_sent_is_not_signed() {
    const ASKED: usize = 200;
    let limits = "threads = 1\nresponses_per_second = 5\nslip = 0";
    let config = config("compact").replace("[dnssec]", &format!("{limits}\n[dnssec]"));
    let world = World::with_directory(Directory::of("causeway.example"), &config).await;
    let client = udp_socket(world.v4()).await;
    for number in 0..ASKED {
        let question = query(&[&format!("n{number}.causeway.example"), "A", "do"]);
        client.send(&question).await.unwrap();
    }
    // Another class of answers, and so another share: it is answered behind all the others.
    client
        .send(&query(&["causeway.example", "NS"]))
        .await
        .unwrap();
    let mut answered = 0;
    while !decode(&receive(&client).await)[1].contains(" NS") {
        answered += 1;
    }
    let made = world.metric(r#"signatures_made_total{share="made_up_udp"}"#);
    assert_eq!(made, f64::from(answered));
    assert!((5..100).contains(&answered), "{answered}");
    // Whoever is where it says gets all that it asks for.
    let heard = tcp(&world, "n199.causeway.example A do").await;
    assert!(heard.contains("NSEC"), "{heard}");
}

/// A name of 253 or more octets has no room for a label in front, where the next name would stand.
#[tokio::test]
async fn the_longest_names_are_proved_too() {
    let world = world("compact").await;
    for labels in [115, 116, 117] {
        for end in [
            "causeway.example",
            "x.causeway.example",
            "xy.causeway.example",
        ] {
            let name = format!("{}{end}", "a.".repeat(labels));
            let heard = udp(&world, &format!("{name} A do")).await;
            assert!(heard.contains("NSEC"), "{name}: {heard}");
        }
    }
}
