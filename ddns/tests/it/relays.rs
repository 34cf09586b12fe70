//! Devices that are held by relays with a process of their own, as who asks for them sees it.

use ddns::RelaysError;
use directory::{DeviceName, RelayName};

use crate::dns::{ask_udp, decode, query, resolve};
use crate::world::{World, ip};

fn relay(name: &str) -> RelayName {
    RelayName::parse(name).unwrap()
}

/// Tells which relays there are, with their addresses.
fn set(world: &World, relays: &[(&str, &[&str])]) -> Result<(), RelaysError> {
    let relays: Vec<_> = relays
        .iter()
        .map(|(name, addresses)| (relay(name), addresses.iter().map(|text| ip(text)).collect()))
        .collect();
    world.server.relays().set(&relays)
}

/// Tells which relays hold a device; `own` is the server's.
fn held(world: &World, device: &str, by: &[&str]) -> bool {
    let by: Vec<_> = by
        .iter()
        .map(|name| (*name != "own").then(|| relay(name)))
        .collect();
    let device = DeviceName::parse(device).unwrap();
    world.server.relays().held(&device, &by)
}

const EU1: (&str, &[&str]) = ("eu1", &["192.0.2.1", "2001:db8::1"]);
const EU2: (&str, &[&str]) = ("eu2", &["192.0.2.2"]);

/// A server with both relays and a device `mynas`.
async fn with_relays() -> World {
    let mut world = World::start().await;
    world.directory.add("mynas");
    set(&world, &[EU1, EU2]).unwrap();
    world
}

async fn assert_leads(world: &World, name: &str, a: &str, aaaa: &str) {
    let name = format!("{name}.nas.test");
    for (rtype, expected) in [("A", a), ("AAAA", aaaa)] {
        assert_eq!(resolve(world.v4(), &name, rtype).await, expected, "{name}");
    }
}

const OWN: [&str; 2] = ["192.0.2.250", "2001:db8::250"];

#[tokio::test]
async fn a_device_leads_to_the_relays_that_hold_it() {
    let world = with_relays().await;
    let leads = |a, aaaa| assert_leads(&world, "mynas", a, aaaa);
    leads(OWN[0], OWN[1]).await;
    assert!(held(&world, "mynas", &["eu1"]));
    leads("192.0.2.1", "2001:db8::1").await;
    assert_leads(&world, "photos.mynas", "192.0.2.1", "2001:db8::1").await;
    assert_eq!(world.metric("names_at_relays"), 1.0);
    // It moves.
    assert!(held(&world, "mynas", &["eu2"]));
    leads("192.0.2.2", "NOERROR").await;
    // Two hold it, or three; the server's own is one like the others.
    assert!(held(&world, "mynas", &["eu2", "eu1", "own"]));
    leads("192.0.2.2 192.0.2.1", "2001:db8::1").await;
    assert!(held(&world, "mynas", &["eu1", "own"]));
    leads("192.0.2.250 192.0.2.1", "2001:db8::250 2001:db8::1").await;
    for nobody in [&["own"][..], &[]] {
        assert!(held(&world, "mynas", nobody));
        leads(OWN[0], OWN[1]).await;
    }
    assert_eq!(world.metric("names_at_relays"), 0.0);
}

#[tokio::test]
async fn two_relays_make_one_answer() {
    let world = with_relays().await;
    assert!(held(&world, "mynas", &["eu1", "eu2"]));
    let answer = ask_udp(world.v4(), &query(&["mynas.nas.test", "A"])).await;
    assert_eq!(
        decode(&answer),
        [
            "NOERROR aa",
            "question mynas.nas.test. A",
            "answer mynas.nas.test. 60 A 192.0.2.1",
            "answer mynas.nas.test. 60 A 192.0.2.2",
        ]
    );
}

#[tokio::test]
async fn own_addresses_win_and_the_relay_comes_back_behind_them() {
    let world = with_relays().await;
    held(&world, "mynas", &["eu1"]);
    world.set("mynas", &["192.0.2.7"]).await.unwrap();
    assert_leads(&world, "mynas", "192.0.2.7", "NOERROR").await;
    held(&world, "mynas", &["eu2"]);
    assert_leads(&world, "mynas", "192.0.2.7", "NOERROR").await;
    let mynas = DeviceName::parse("mynas").unwrap();
    let device = world.directory.reader.device_by_name(&mynas).unwrap();
    let forget = ddns::addresses::ChangeSet::forget_all();
    let updater = world.server.updater();
    updater
        .update(device.registration, &mynas, forget)
        .await
        .unwrap();
    assert_leads(&world, "mynas", "192.0.2.2", "NOERROR").await;
}

#[tokio::test]
async fn a_relay_has_its_name_until_it_is_taken_away() {
    let world = with_relays().await;
    held(&world, "mynas", &["eu1"]);
    assert_leads(&world, "eu1.relay", "192.0.2.1", "2001:db8::1").await;
    assert_leads(&world, "EU2.Relay", "192.0.2.2", "NOERROR").await;
    assert_leads(&world, "eu3.relay", "NXDOMAIN", "NXDOMAIN").await;
    assert_leads(&world, "relay", OWN[0], OWN[1]).await;
    assert_eq!(world.metric("relays"), 2.0);
    // Others come at once, who could have its number.
    let eu3 = ("eu3", &["192.0.2.3"][..]);
    set(&world, &[("eu0", &["192.0.2.4"]), EU2, eu3]).unwrap();
    assert_leads(&world, "eu1.relay", "NXDOMAIN", "NXDOMAIN").await;
    assert_leads(&world, "eu3.relay", "192.0.2.3", "NOERROR").await;
    assert_leads(&world, "mynas", OWN[0], OWN[1]).await;
    assert_eq!(world.metric("names_at_relays"), 0.0);
    // It has other addresses when it comes back, and does not hold what it held.
    set(&world, &[("eu1", &["192.0.2.9"])]).unwrap();
    assert_leads(&world, "eu1.relay", "192.0.2.9", "NOERROR").await;
    assert_leads(&world, "mynas", OWN[0], OWN[1]).await;
    held(&world, "mynas", &["eu1"]);
    set(&world, &[("eu1", &["192.0.2.10"])]).unwrap();
    assert_leads(&world, "mynas", "192.0.2.10", "NOERROR").await;
}

#[tokio::test]
async fn who_is_unknown_is_left_out() {
    let world = with_relays().await;
    assert!(!held(&world, "nobody", &["eu1"]));
    assert!(!held(&world, "mynas", &["eu9", "eu2"]));
    assert_leads(&world, "mynas", "192.0.2.2", "NOERROR").await;
    assert!(!held(&world, "mynas", &["eu9"]));
    assert_leads(&world, "mynas", OWN[0], OWN[1]).await;
    assert_leads(&world, "nobody", "NXDOMAIN", "NXDOMAIN").await;
}

#[tokio::test]
async fn a_device_keeps_its_relays_with_new_keys_and_not_beyond_its_end() {
    let mut world = with_relays().await;
    held(&world, "mynas", &["eu1"]);
    world.directory.new_keys("mynas");
    assert_leads(&world, "mynas", "192.0.2.1", "2001:db8::1").await;
    world.directory.remove("mynas");
    assert_eq!(world.metric("names_at_relays"), 0.0);
    world.directory.add("mynas");
    assert_leads(&world, "mynas", OWN[0], OWN[1]).await;
}

#[tokio::test]
async fn after_a_start_nobody_is_held() {
    let world = with_relays().await;
    world.set("mynas", &["192.0.2.7"]).await.unwrap();
    held(&world, "mynas", &["eu1"]);
    let world = world.restart().await;
    assert_leads(&world, "mynas", "192.0.2.7", "NOERROR").await;
    assert_leads(&world, "eu1.relay", "NXDOMAIN", "NXDOMAIN").await;
    assert_eq!(world.metric("names_at_relays"), 0.0);
    assert!(!held(&world, "mynas", &["eu1"]));
}

/// Where devices are held is nothing that a serial counts; which relays there are is.
#[tokio::test]
async fn the_serial_moves_with_the_relays_alone() {
    let world = with_relays().await;
    let soa = || async { decode(&ask_udp(world.v4(), &query(&["nas.test", "SOA"])).await) };
    let before = soa().await;
    held(&world, "mynas", &["eu1"]);
    assert_eq!(soa().await, before);
    set(&world, &[EU1]).unwrap();
    assert_ne!(soa().await, before);
}
