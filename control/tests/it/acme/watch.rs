//! What a device's own certificate authority has issued is its own; what another has is not.

use std::time::Instant;

use data_encoding::BASE64;
use serde_json::Value;

use super::{ISSUED, Pebble, World, status};
use crate::certificate_log::{CertificateLog, certificate_for, key_of};
use crate::certificate_watch::{ALARM, certificates, strange, until_followed, watched};
use crate::process::until;
use crate::world::Place;

/// The certificate that the authority has given the device, in DER.
fn issued(state: &std::path::Path) -> Vec<u8> {
    let kept = std::fs::read(state.join("acme.json")).unwrap();
    let kept: Value = serde_json::from_slice(&kept).unwrap();
    let chain = kept["certificate"]["chain"].as_str().unwrap();
    let leaf = chain.split("-----").nth(2).unwrap();
    BASE64.decode(leaf.replace('\n', "").as_bytes()).unwrap()
}

#[test]
fn a_devices_own_certificates_are_quiet_and_a_strangers_alarm_until_its_owner_accepts_them() {
    let place = Place::namespace();
    let log = CertificateLog::start(&place);
    let world = World::start_at(place, Pebble::default(), &log.configuration());
    let server = &world.server;
    until_followed(server);
    let device = server.pair("mynas");
    let agent = device.run("http://127.0.0.1:1");
    agent.until_said(ISSUED);
    let own = issued(&device.state);
    log.add_precertificate(&own);
    log.add(&own);
    let own_seen = || {
        let kept = std::fs::read_to_string(device.state.join("certificates_seen.json"));
        kept.is_ok_and(|kept| kept.contains("\"until\": 1,"))
    };
    until(own_seen, || agent.said());
    assert!(!agent.said().contains(ALARM));
    let told = status(&device);
    assert!(
        told.contains("watched     no certificate of anybody else's"),
        "{told}"
    );
    let listed = certificates(&device, &["list"]);
    assert!(listed.status.success());
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains(&key_of(&own)), "{listed}");

    let names = ["mynas", "*.mynas", "www.mynas"].map(|name| format!("{name}.nas.localhost"));
    let strangers = names.each_ref().map(|name| certificate_for(&[name]));
    let begun = Instant::now();
    log.add_precertificate(&strangers[0]);
    log.add(&strangers[1]);
    log.add(&strangers[2]);
    let mut keys = strangers.each_ref().map(|certificate| key_of(certificate));
    keys.sort();
    until(|| strange(&device) == keys, || agent.said());
    println!("three strangers were seen after {:?}", begun.elapsed());
    for name in &names {
        agent.until_said(&format!("names=[\"{name}\"]"));
    }
    assert_eq!(agent.said().matches(ALARM).count(), 3);
    let told = status(&device);
    for expected in [
        "3 CERTIFICATES FOR THIS NAME ARE NOT THIS DEVICE'S",
        "to mend     its name (certificates): `causeway-agent certificates list`",
        &keys[0],
    ] {
        assert!(told.contains(expected), "{told}");
    }
    let reported = || watched(server)["certificates"].as_array().unwrap().len();
    until(|| reported() == 3, || watched(server).to_string());
    server.process.until_said("are not its own");
    let table = server.causeway(&["certificates"]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(
        table.contains("certificate  not mynas's own: *.mynas.nas.localhost"),
        "{table}"
    );

    // Its owner knows one of them, by how its key begins.
    for (key, works) in [
        ("0123456789", false),
        (&keys[1][..4], false),
        (&keys[1][..16], true),
    ] {
        let accepted = certificates(&device, &["accept", key]);
        assert_eq!(accepted.status.success(), works, "{key}");
    }
    assert_eq!(strange(&device), [keys[0].clone(), keys[2].clone()]);
    until(|| reported() == 2, || watched(server).to_string());
    log.was_asked_in_order();
}
