//! Names that lead to a device itself while it can be reached there, and else to its relays, as who asks for them sees it.

use std::num::NonZeroU16;
use std::process::Command;

use ddns::steering::{Direct, Lead};
use directory::{DeviceName, RegistrationId, RelayName};

use crate::dns::resolve;
use crate::world::{World, ip};

/// Reached at the IPv4 address, the IPv6 address, and by which port.
pub(crate) fn steered(v4: bool, v6: bool, port: u16) -> Lead {
    let port = NonZeroU16::new(port).unwrap();
    Lead::Steered(Direct { v4, v6, port })
}

async fn with_device() -> World {
    let mut world = World::start().await;
    world.directory.add("mynas");
    world
        .set("mynas", &["192.0.2.7", "2001:db8::7"])
        .await
        .unwrap();
    world
}

/// What A, AAAA and HTTPS say of a name; dig reads the last.
async fn leads(world: &World, name: &str) -> [String; 3] {
    let name = format!("{name}.nas.test");
    let server = world.v4();
    let dig = {
        let name = name.clone();
        let run = move || {
            let at = [
                format!("@{}", server.ip()),
                "-p".into(),
                server.port().to_string(),
            ];
            let words = [&*name, "HTTPS", "+short", "+tries=1"];
            Command::new("dig").args(at).args(words).output().unwrap()
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    };
    let mut https: Vec<_> = std::str::from_utf8(&dig.stdout).unwrap().lines().collect();
    https.sort();
    [
        resolve(server, &name, "A").await,
        resolve(server, &name, "AAAA").await,
        https.join("; "),
    ]
}

const RELAY: [&str; 2] = ["192.0.2.250", "2001:db8::250"];

#[tokio::test]
async fn a_name_leads_where_the_device_is_reached() {
    let world = with_device().await;
    let own = ["192.0.2.7", "2001:db8::7"];
    assert_eq!(leads(&world, "mynas").await, [own[0], own[1], ""]);
    let alpn = "alpn=\"h2,http/1.1\"";
    let relay = format!("2 relay.nas.test. {alpn}");
    for (lead, a, aaaa, https) in [
        (
            steered(true, true, 443),
            own[0],
            own[1],
            format!("1 . {alpn} ipv4hint=192.0.2.7 ipv6hint=2001:db8::7; {relay}"),
        ),
        // One family is enough to lead past the relay.
        (
            steered(false, true, 443),
            "NOERROR",
            own[1],
            format!("1 . {alpn} ipv6hint=2001:db8::7; {relay}"),
        ),
        // An address has no port, so it must be the relay's.
        (
            steered(true, false, 8443),
            RELAY[0],
            RELAY[1],
            format!("1 . {alpn} port=8443 ipv4hint=192.0.2.7; {relay}"),
        ),
        (
            steered(false, false, 443),
            RELAY[0],
            RELAY[1],
            String::new(),
        ),
        (Lead::Given, own[0], own[1], String::new()),
    ] {
        world.lead("mynas", lead);
        for name in ["mynas", "photos.mynas"] {
            assert_eq!(leads(&world, name).await, [a, aaaa, &https], "{lead:?}");
        }
    }
}

#[tokio::test]
async fn behind_the_direct_way_are_those_through_the_relays_that_hold_the_device() {
    let world = with_device().await;
    let relays = ["eu1", "eu2"].map(|name| RelayName::parse(name).unwrap());
    let addresses = ["192.0.2.1", "192.0.2.2"].map(ip);
    let given: Vec<_> = relays
        .iter()
        .cloned()
        .zip(addresses.map(|address| vec![address]))
        .collect();
    world.server.relays().set(&given).unwrap();
    let device = DeviceName::parse("mynas").unwrap();
    let [eu1, eu2] = relays.map(Some);
    assert!(world.server.relays().held(&device, &[eu1.clone(), eu2]));
    world.lead("mynas", steered(true, false, 8443));
    let [a, _, https] = leads(&world, "mynas").await;
    assert_eq!(a, "192.0.2.1 192.0.2.2");
    let names: Vec<_> = https
        .split("; ")
        .filter_map(|line| line.split(' ').nth(1))
        .collect();
    assert_eq!(names, [".", "eu1.relay.nas.test.", "eu2.relay.nas.test."]);
    assert_eq!(resolve(world.v4(), names[1], "A").await, "192.0.2.1");
    // The tunnel moves, and nothing else does.
    assert!(world.server.relays().held(&device, &[None, eu1]));
    let [a, _, https] = leads(&world, "mynas").await;
    assert_eq!(a, "192.0.2.250 192.0.2.1");
    assert!(
        https.contains("; 2 relay.nas.test. ") && https.contains("; 3 eu1."),
        "{https}"
    );
}

#[tokio::test]
async fn a_new_address_is_none_at_which_the_device_is_known_to_be_reached() {
    let mut world = with_device().await;
    world.lead("mynas", steered(true, true, 443));
    world
        .set("mynas", &["192.0.2.8", "2001:db8::7"])
        .await
        .unwrap();
    let [a, aaaa, https] = leads(&world, "mynas").await;
    assert_eq!([&*a, &*aaaa], ["NOERROR", "2001:db8::7"]);
    assert!(!https.contains("ipv4hint"), "{https}");
    world.lead("mynas", steered(true, true, 443));
    assert_eq!(leads(&world, "mynas").await[0], "192.0.2.8");
    // Nor does anything pass to whoever has the name next.
    world.directory.remove("mynas");
    world.directory.add("mynas");
    assert_eq!(leads(&world, "mynas").await, [RELAY[0], RELAY[1], ""]);
    let device = DeviceName::parse("mynas").unwrap();
    let steering = world.server.steering();
    assert!(!steering.lead(&device, RegistrationId(1), steered(true, true, 443)));
}
