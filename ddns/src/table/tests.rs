use std::net::Ipv4Addr;

use directory::{RegistrationId, Zone};

use super::*;
use crate::challenges::{ChallengeHost, ChallengeValue};
use crate::config::Config;
use crate::lan::LanChange;
use crate::zone::octets;

/// `nas.test` with a relay at 192.0.2.250 and 2001:db8::250, a device `home` at 192.0.2.7 and one `away` without
/// own addresses.
pub(crate) fn with_devices() -> Table {
    let zone = Zone::parse("nas.test").unwrap();
    let relay = [
        "192.0.2.250".parse().unwrap(),
        "2001:db8::250".parse().unwrap(),
    ];
    let contents = Contents::new(&zone, &Config::default(), &relay, &[]).unwrap();
    let table = Table::new(contents, 1);
    table.put(&name("home"), RegistrationId(1), Some(&v4(7)));
    table.put(&name("away"), RegistrationId(2), None);
    table
}

/// A name on the wire, lower case.
pub(crate) fn wire(name: &str) -> Vec<u8> {
    let labels: Vec<_> = name.split('.').filter(|label| !label.is_empty()).collect();
    [&octets(&labels), &[0][..]].concat()
}

fn name(text: &str) -> DeviceName {
    DeviceName::parse(text).unwrap()
}

fn v4(last: u8) -> Held {
    let mut held = Held::default();
    held.own.addresses.v4 = Some(Ipv4Addr::new(192, 0, 2, last));
    held
}

fn addresses(table: &Table, device: &str, registration: u64) -> Option<Addresses> {
    let held = table.held(&name(device), RegistrationId(registration))?;
    Some(held.own.addresses)
}

#[test]
fn a_name_is_in_the_zone_only_at_a_label_boundary() {
    let table = with_devices();
    assert_eq!(table.below_apex(&wire("nas.test")), Some(&b""[..]));
    assert_eq!(
        table.below_apex(&wire("a.b.nas.test")),
        Some(&b"\x01a\x01b"[..])
    );
    for outside in ["", "test", "xnas.test", "nas.test.x", "nas"] {
        assert_eq!(table.below_apex(&wire(outside)), None, "{outside}");
    }
    // One label that holds the octets of the zone's name is not below it.
    assert_eq!(table.below_apex(b"\x0Ax\x03nas\x04test\0"), None);
}

#[test]
fn only_the_registration_that_holds_the_name_moves_it() {
    let table = with_devices();
    assert!(table.set(&name("home"), RegistrationId(1), &v4(8)));
    assert!(!table.set(&name("home"), RegistrationId(9), &v4(9)));
    assert!(!table.set(&name("nobody"), RegistrationId(1), &v4(9)));
    assert_eq!(addresses(&table, "home", 1), Some(v4(8).own.addresses));
    assert_eq!(addresses(&table, "home", 9), None);
}

#[test]
fn a_name_given_to_another_registration_keeps_nothing() {
    let table = with_devices();
    table.set(&name("home"), RegistrationId(1), &challenge());
    table.put(&name("home"), RegistrationId(5), None);
    let held = table.held(&name("home"), RegistrationId(5)).unwrap();
    assert_eq!(held.own, Own::default());
    assert_eq!(table.devices_with_addresses(), 0);
    table.put(&name("home"), RegistrationId(1), None);
    let held = table.held(&name("home"), RegistrationId(1)).unwrap();
    assert_eq!(held.own, Own::default());
}

#[test]
fn the_counts_follow() {
    let table = with_devices();
    assert_eq!((table.devices(), table.devices_with_addresses()), (2, 1));
    let recorded: Vec<_> = table.recorded().collect();
    let version = 1;
    assert_eq!(recorded, [(RegistrationId(1), Held { version, ..v4(7) })]);
    table.set(&name("away"), RegistrationId(2), &v4(2));
    assert_eq!(table.devices_with_addresses(), 2);
    assert!(table.remove(&name("home")));
    assert!(!table.remove(&name("home")));
    assert_eq!((table.devices(), table.devices_with_addresses()), (1, 1));
    table.set(&name("away"), RegistrationId(2), &Held::default());
    assert_eq!(table.devices_with_addresses(), 0);
    assert_eq!(table.devices_recorded(), 1, "its version is to last");
}

#[test]
fn to_prepare_for_anything_changes_nothing() {
    let table = with_devices();
    let ask = |name: &str| [&[0; HEADER_LEN][..], &wire(name), &[0, 1, 0, 1]].concat();
    let asked = ["home.nas.test", "x.HOME.nas.Test", "nobody.nas.test"].map(ask);
    let hash = |message: &[u8]| table.hash_of_device(message);
    assert!(hash(&asked[0]).is_some());
    assert_eq!(hash(&asked[0]), hash(&asked[1]));
    let others = ["nas.test", "", "example.com", &"a".repeat(63)].map(ask);
    let cut = &asked[0][..20];
    for other in others
        .iter()
        .map(Vec::as_slice)
        .chain([cut, &[], &[0xC0; 40]])
    {
        assert_eq!(hash(other), None);
    }
    let many = asked.iter().cycle().take(100);
    table.bring_near(many.map(Vec::as_slice));
}

fn challenge() -> Held {
    let mut held = Held::default();
    let value = ChallengeValue::new(b"proof").unwrap();
    let challenges = &mut held.own.challenges;
    challenges.add(&ChallengeHost::device(), &value).unwrap();
    held
}

#[test]
fn challenges_are_found_at_their_own_name_and_nowhere_else() {
    let table = with_devices();
    let txt = |below: &[u8]| match table.find(below, Type::TXT) {
        Found::Records(records) => records.octets().to_vec().last_chunk::<6>().copied(),
        Found::NoData => None,
        Found::Soa | Found::NoName => panic!("it exists"),
    };
    let at_home = b"\x0f_acme-challenge\x04home";
    assert_eq!(txt(at_home), None);
    table.set(&name("home"), RegistrationId(1), &challenge());
    assert_eq!(txt(at_home), Some(*b"\x05proof"));
    assert_eq!(txt(b"\x0f_acme-challenge\x01x\x04home"), None);
    assert_eq!(txt(b"\x04home"), None);
    assert!(matches!(table.find(at_home, Type::A), Found::NoData));
    table.set(&name("home"), RegistrationId(1), &Held::default());
    assert_eq!(txt(at_home), None);
}

#[test]
fn an_address_at_home_is_found_at_its_own_name_and_goes_with_its_holder() {
    let table = with_devices();
    let found = |below: &[u8], qtype| match table.find(below, qtype) {
        Found::Records(records) => records.octets().to_vec().last().copied(),
        Found::NoData => Some(0),
        Found::Soa | Found::NoName => None,
    };
    let mut held = v4(7);
    let lan = LanChange::default().set([10, 0, 0, 9].into()).unwrap();
    held.own.lan = lan.apply(held.own.lan);
    assert_eq!(found(b"\x03lan\x04home", Type::A), Some(7));
    table.set(&name("home"), RegistrationId(1), &held);
    for (below, qtype, last) in [
        (&b"\x03lan\x04home"[..], Type::A, Some(9)),
        (b"\x03lan\x04home", Type::AAAA, Some(0)),
        (b"\x03lan\x04home", Type::HTTPS, Some(0)),
        (b"\x01x\x03lan\x04home", Type::A, None),
        (b"\x04home", Type::A, Some(7)),
        (b"\x01x\x04home", Type::A, Some(7)),
        (b"\x03lan\x04away", Type::A, Some(250)),
    ] {
        assert_eq!(found(below, qtype), last, "{}", below.escape_ascii());
    }
    let types = table.types(b"\x03lan\x04home");
    assert_eq!(types.iter().collect::<Vec<_>>(), [Type::A]);
    let there = table.held(&name("home"), RegistrationId(1)).unwrap();
    assert_eq!(there.own, held.own);

    // Whoever has the name next has nothing of it.
    table.put(&name("home"), RegistrationId(5), None);
    assert_eq!(found(b"\x03lan\x04home", Type::A), Some(250));
    table.put(&name("home"), RegistrationId(1), None);
    assert_eq!(found(b"\x03lan\x04home", Type::A), Some(250));
}

#[test]
fn every_name_is_found_where_it_stands() {
    let table = with_devices();
    table.set(&name("home"), RegistrationId(1), &challenge());
    let below = |name: &str| {
        let wire = wire(name);
        wire[..wire.len() - 1].to_vec()
    };
    for (name, place) in [
        ("", Place::Here),
        ("cloud", Place::Here),
        ("away", Place::Here),
        ("*.away", Place::Here),
        ("_acme-challenge.home", Place::Here),
        ("_acme-challenge.away", Place::Wildcard { encloser: 5 }),
        ("a.b.away", Place::Wildcard { encloser: 5 }),
        ("x.*.away", Place::Nowhere { encloser: 7 }),
        ("x._acme-challenge.home", Place::Nowhere { encloser: 21 }),
        ("x.cloud", Place::Nowhere { encloser: 6 }),
        ("nobody", Place::Nowhere { encloser: 0 }),
        ("a.nobody", Place::Nowhere { encloser: 0 }),
    ] {
        let below = below(name);
        assert_eq!(table.place(&below), place, "{name}");
        let is_nowhere = matches!(place, Place::Nowhere { .. });
        let found = table.find(&below, Type::A);
        assert_eq!(matches!(found, Found::NoName), is_nowhere, "{name}");
    }
}

#[test]
fn a_recorded_version_comes_back_and_the_next_is_higher() {
    let table = with_devices();
    let recorded = Held {
        version: 7,
        ..v4(1)
    };
    table.put(&name("back"), RegistrationId(3), Some(&recorded));
    let held = table.held(&name("back"), RegistrationId(3)).unwrap();
    assert_eq!(held, recorded);
    table.set(&name("back"), RegistrationId(3), &v4(2));
    let held = table.held(&name("back"), RegistrationId(3)).unwrap();
    assert_eq!(held.version, 8);
}

#[test]
fn every_change_moves_the_serial_on() {
    let table = with_devices();
    for (second, serial) in [(100, 100), (100, 101), (50, 102), (200, 200)] {
        table.changed(second);
        assert_eq!(table.soa().serial, serial);
    }
    // Past the largest number comes the smallest.
    for (second, serial) in [(1 << 31, 1 << 31), (u32::MAX, u32::MAX), (0, 0), (0, 1)] {
        table.changed(second);
        assert_eq!(table.soa().serial, serial);
    }
}
