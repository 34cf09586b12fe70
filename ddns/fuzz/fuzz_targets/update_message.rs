//! Any octets as an UPDATE, asked for with each key of a device: no panic, and nothing changes but what the key is for.

#![no_main]

use ddns::challenges::{ChallengeHost, ChallengeValue};
use ddns::dynamic::message::UpdateMessage;
use ddns::dynamic::scope::Scope;
use ddns::lan::LanChange;
use ddns::own::Own;
use ddns::protocol::Rcode;
use directory::Duty;
use libfuzzer_sys::fuzz_target;

const APEX: &[u8] = b"\x03nas\x04test\0";
const DEVICE: &[u8] = b"\x04home\x03nas\x04test\0";

fuzz_target!(|octets: &[u8]| {
    let message = match UpdateMessage::parse(octets) {
        Ok(message) => message,
        Err(rcode) => return assert_eq!(rcode, Rcode::FormErr),
    };
    let mut before = Own::default();
    before.addresses.v4 = Some("192.0.2.7".parse().unwrap());
    let value = ChallengeValue::new(b"proof").unwrap();
    before.challenges.add(&ChallengeHost::device(), &value).unwrap();
    let lan = LanChange::default().set([192, 168, 1, 7].into()).unwrap();
    before.lan = lan.apply(before.lan);
    for duty in [Duty::Addresses, Duty::Challenges] {
        let scope = Scope {
            apex: APEX,
            device: DEVICE,
            duty,
        };
        let Ok(after) = scope.change(&message).map(|change| change.apply(&before)) else {
            continue;
        };
        let Ok(after) = after else { continue };
        assert_eq!(after.lan, before.lan);
        match duty {
            Duty::Addresses => assert_eq!(after.challenges, before.challenges),
            Duty::Challenges => assert_eq!(after.addresses, before.addresses),
        }
        if message.updates.is_empty() {
            assert_eq!(after, before);
        }
    }
});
