//! What the Directory costs. Alone in its process, because it is the process that is weighed.

#![allow(
    clippy::unwrap_used,
    reason = "a test says by a panic what is wrong; the lints' own exception covers only unit tests"
)]

use std::fs;

use directory::{Device, DeviceName, RegistrationId, TokenHash, Zone, directory};

const DEVICES: u64 = 1_000_000;

/// The name of eight octets, the key of 32 and the number are 44 octets of that; finding them takes the rest.
const OCTETS_EACH: u64 = 58;

#[test]
fn a_million_devices_with_an_address_key_take_58_octets_each() {
    let name = |number| DeviceName::parse(&format!("d{number:07}")).unwrap();
    let device = |number| Device {
        registration: RegistrationId(number),
        name: name(number),
        identity: None,
        ddns_key: Some(TokenHash::of(&number.to_string())),
        challenge_key: None,
    };
    let before = resident_octets();
    let (mut writer, reader) = directory(Zone::parse("nas.test").unwrap());
    for number in 0..DEVICES {
        writer.put(device(number));
    }
    let each = (resident_octets() - before) / DEVICES;
    println!("{each} octets a device");
    assert!(each <= OCTETS_EACH, "{each} octets a device");

    for number in (0..DEVICES).step_by(9_973) {
        assert_eq!(reader.device_by_name(&name(number)), Some(device(number)));
    }
    assert_eq!(reader.device_by_name(&name(DEVICES)), None);
}

/// The process's memory that is really there (proc(5)), heap and all.
fn resident_octets() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kibibytes.unwrap().trim().parse::<u64>().unwrap() * 1024
}
