//! What an authority wants beside the order: when it has certificates renewed (RFC 9773), of which kind they are, and whose devices they are for.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use super::authority::{Advice, Lie, Manner};
use super::lying::Choice;
use super::{EAB_KEY, ISSUED, certificate_status, is_welcome, visit};
use crate::process::until;

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs()
}

/// Advice is asked for as soon as there is a certificate, which is renewed at once if its time has passed; but not again and again.
#[test]
fn an_authority_moves_a_renewal_forward_and_cannot_have_a_device_order_without_end() {
    const HOUR: u64 = 3600;
    let advising = |advice| Manner {
        advice: Some(advice),
        binding: Some(("kid-1", EAB_KEY)),
        ..Manner::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("eab");
    fs::write(&key, EAB_KEY).unwrap();
    let key = key.display();
    let bound = format!("eab_key_id = \"kid-1\"\neab_key_file = \"{key}\"");
    let first = advising(Advice::Month);
    let world = Choice::start((first, &bound), (Manner::default(), ""));
    let asked = |which: usize| {
        let asked = |books: &super::authority::Books| books.asked_for_advice.get(which).cloned();
        world.first.look(asked)
    };
    let orders = || {
        world.first.look(|books| {
            let orders = books.orders.iter();
            orders
                .map(|order| order.replaces.clone())
                .collect::<Vec<_>>()
        })
    };

    let steady = world.server.pair("steady");
    let agent = steady.run("http://127.0.0.1:1");
    agent.until_said(ISSUED);
    let renew_at = |device| {
        certificate_status(device)["renew_at"]
            .as_u64()
            .unwrap_or_default()
    };
    let by_life = renew_at(&steady);
    assert!(by_life > now() + 50 * 24 * HOUR, "{by_life}");
    let month = now() + 30 * 24 * HOUR - 60..now() + 31 * 24 * HOUR + 60;
    until(|| month.contains(&renew_at(&steady)), || agent.said());
    assert!(asked(0).is_some() && asked(1).is_none());
    drop(agent);

    world.first.is_to(advising(Advice::Past));
    let hasty = world.server.pair("hasty");
    let agent = hasty.run("http://127.0.0.1:1");
    agent.until_said(ISSUED);
    until(|| asked(2).is_some(), || agent.said());
    let (first, second) = (asked(1).unwrap(), asked(2).unwrap());
    assert_ne!(first, second);
    assert_eq!(
        orders(),
        [None, None, Some(first)],
        "that it replaces it is said"
    );
    let hours = now() + 5 * HOUR..now() + 6 * HOUR + 1;
    until(
        || hours.contains(&renew_at(&hasty)),
        || format!("{} {}", certificate_status(&hasty), agent.said()),
    );
    assert!(is_welcome(&visit(
        &world.server,
        &world.first.root(),
        "hasty"
    )));
    assert_eq!(orders().len(), 3);
    assert_eq!(world.first.look(|books| books.accounts.len()), 2);
    assert_eq!(world.first.look(|books| books.refusals.clone()), [""; 0]);
    assert_eq!(world.second.look(|books| books.orders.len()), 0);
}

#[test]
fn what_an_authority_says_beside_the_order_holds_up_no_certificate() {
    let world = Choice::start((Manner::default(), ""), (Manner::default(), ""));
    let lying = |advice, place, lie| Manner {
        advice: Some(advice),
        lie: Some((place, lie)),
        ..Manner::default()
    };
    // Its advice cannot be read: then its certificates are renewed at two thirds.
    for (name, lie) in [("garbage", Lie::Garbage), ("endless", Lie::Endless)] {
        world.first.is_to(lying(Advice::Past, "/renewal", lie));
        let device = world.server.pair(name);
        let agent = device.run("http://127.0.0.1:1");
        agent.until_said("the certificate authority does not say when to renew");
        let told = certificate_status(&device);
        assert!(
            told["renew_at"].as_u64() > Some(now() + 50 * 86_400),
            "{told}"
        );
        assert!(agent.memory().1 < 128 << 20);
    }
    // It takes no order that replaces the certificate before: then one that replaces none.
    world
        .first
        .is_to(lying(Advice::Past, "/order", Lie::Replaced));
    let device = world.server.pair("replaced");
    let agent = device.run("http://127.0.0.1:1");
    let issued = || agent.said().matches(ISSUED).count();
    until(|| issued() == 2, || agent.said());
    assert!(certificate_status(&device)["passed_over"].is_null());
    let refusals = world.first.look(|books| books.refusals.clone());
    assert!(
        refusals.len() == 1 && refusals[0].starts_with("alreadyReplaced"),
        "{refusals:?}"
    );
    assert_eq!(world.second.look(|books| books.orders.len()), 0);
}

#[test]
fn a_profile_is_ordered_where_the_authority_has_it_and_none_other_instead() {
    const KINDS: &[&str] = &["classic", "shortlived"];
    let kinds = |profiles| Manner {
        profiles,
        ..Manner::default()
    };
    let profile = |name: &str| format!("profile = \"{name}\"");
    let world = Choice::start(
        (kinds(KINDS), &profile("tlsserver")),
        (kinds(KINDS), &profile("shortlived")),
    );
    for (name, first, words) in [
        (
            "mynas",
            KINDS,
            "it has no profile \"tlsserver\"; it has classic, shortlived",
        ),
        ("other", &[], "it has no profile \"tlsserver\"; it has none"),
    ] {
        world.first.is_to(kinds(first));
        let device = world.server.pair(name);
        let agent = device.run("http://127.0.0.1:1");
        agent.until_said(ISSUED);
        let told = certificate_status(&device);
        let passed_over = &told["passed_over"];
        assert_eq!(passed_over["problem"], words, "{told}");
        let mend = passed_over["mend"].as_str().unwrap_or_default();
        assert!(mend.contains("`profile` in [[acme.ca]]"), "{told}");
    }
    let ordered = |books: &super::authority::Books| {
        let orders = books.orders.iter();
        orders
            .map(|order| order.profile.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(world.first.look(ordered), []);
    assert_eq!(
        world.second.look(ordered),
        vec![Some("shortlived".to_owned()); 2]
    );
    assert_eq!(world.second.look(|books| books.refusals.clone()), [""; 0]);

    world.first.is_to(kinds(&["tlsserver"]));
    let device = world.server.pair("third");
    let agent = device.run("http://127.0.0.1:1");
    agent.until_said(ISSUED);
    assert!(certificate_status(&device)["passed_over"].is_null());
    assert_eq!(world.first.look(ordered), [Some("tlsserver".to_owned())]);
}
