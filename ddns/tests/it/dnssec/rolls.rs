//! Keys roll while validators look on. Hours pass by setting back all that the keys' metadata says.

use std::collections::BTreeSet;

use ddns::dnssec::keys::Role;

use super::judges::anchors;
use super::{config, mistakes, world};
use crate::steering::steered;
use crate::world::World;

const HOUR: u32 = 3600;
const DAY: u32 = 24 * HOUR;

fn now() -> u32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_secs().try_into().unwrap()
}

/// The same server, so many seconds later.
async fn later(world: World, denial: &str, seconds: u32) -> World {
    let file = world.state.path().join("dnssec/keys.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let mut index: serde_json::Value = serde_json::from_str(&text).unwrap();
    for key in index["keys"].as_array_mut().unwrap() {
        for value in key.as_object_mut().unwrap().values_mut() {
            set_back(value, seconds);
        }
    }
    std::fs::write(&file, index.to_string()).unwrap();
    let world = world.restart_with(&config(denial)).await;
    // Where names lead and the operator's own challenges are in memory alone.
    world.lead("led", steered(true, false, 443));
    world
        .prove("cloud.causeway.example", b"proof")
        .await
        .unwrap();
    world
}

/// Moments are the only numbers that large.
fn set_back(value: &mut serde_json::Value, seconds: u32) {
    if let Some(moment) = value.as_u64().filter(|moment| *moment > 1_000_000_000) {
        *value = (moment - u64::from(seconds)).into();
    }
    if let Some(object) = value.as_object_mut() {
        object
            .values_mut()
            .for_each(|value| set_back(value, seconds));
    }
}

async fn believed(world: &World, denial: &str, anchors: &BTreeSet<String>, when: &str) {
    let mistakes = mistakes(world, denial, anchors).await;
    assert!(
        mistakes.is_empty(),
        "{denial}, {when}: {}",
        mistakes.join("\n")
    );
}

async fn every_answer_is_believed_while_keys_roll(denial: &str) {
    let world = world(denial).await;
    let first = anchors(world.v4()).await;
    let keys = world.server.keys().unwrap();
    let zsk = keys.in_force().zsk.tag();
    keys.roll(Role::Zsk, now()).unwrap();
    assert_eq!(keys.in_force().dnskeys.len(), 3);
    believed(&world, denial, &first, "a new ZSK is published").await;
    let world = later(world, denial, 4 * HOUR).await;
    let keys = world.server.keys().unwrap();
    assert_ne!(keys.in_force().zsk.tag(), zsk);
    assert_eq!(keys.in_force().dnskeys.len(), 3);
    believed(&world, denial, &first, "a new ZSK signs").await;
    let world = later(world, denial, 2 * DAY).await;
    let keys = world.server.keys().unwrap();
    assert_eq!(keys.in_force().dnskeys.len(), 2);
    believed(&world, denial, &first, "the old ZSK is gone").await;

    keys.roll(Role::Ksk, now()).unwrap();
    assert_eq!(keys.in_force().ksks.len(), 2);
    let both = anchors(world.v4()).await;
    let second: BTreeSet<_> = both.difference(&first).cloned().collect();
    assert_eq!(second.len(), 1, "{both:?}");
    believed(&world, denial, &first, "two KSKs, the parent has the first").await;
    believed(
        &world,
        denial,
        &second,
        "two KSKs, the parent has the second",
    )
    .await;
    let world = later(world, denial, DAY).await;
    let keys = world.server.keys().unwrap();
    let [wanted] = &keys.in_force().cds[..] else {
        panic!("{:?}", keys.in_force().cds);
    };
    assert!(
        second.contains(&wanted.dnskey_text()),
        "{}",
        wanted.dnskey_text()
    );
    believed(&world, denial, &second, "CDS names the second").await;
    keys.ds_published(DAY, now()).unwrap();
    let world = later(world, denial, 2 * DAY).await;
    assert_eq!(anchors(world.v4()).await, second);
    believed(&world, denial, &second, "the first KSK is gone").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_believed_while_keys_roll_with_compact_denial() {
    every_answer_is_believed_while_keys_roll("compact").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_believed_while_keys_roll_with_denial_by_hashes() {
    every_answer_is_believed_while_keys_roll("nsec3").await;
}
