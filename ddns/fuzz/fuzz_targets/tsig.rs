//! Any octets as a signed message: no panic, nobody's signature is good, and what is told about it can be read again.

#![no_main]

use ddns::query::{Parsed, parse};
use ddns::tsig::{Fault, Master, split, tell};
use directory::TokenHash;
use libfuzzer_sys::fuzz_target;
use zeroize::Zeroizing;

const NOW: u64 = 1_800_000_000;

fuzz_target!(|octets: &[u8]| {
    let is_signed = matches!(parse(octets), Parsed::Signed);
    let signed = match split(octets) {
        Ok(Some(signed)) => signed,
        Ok(None) => return assert!(!is_signed, "a signature that is not there"),
        Err(_) => return,
    };
    let secret = Master::new(Zeroizing::new([7; Master::LEN])).secret(&TokenHash::of("key"));
    let Err(fault) = signed.verify(&secret, NOW) else {
        panic!("a signature by whoever does not know the secret");
    };
    assert!(split(&signed.message).is_ok_and(|rest| rest.is_none()));
    let mut reply = signed.message.clone();
    tell(&mut reply, &signed.signature, fault, NOW);
    if fault == Fault::NoMac {
        return assert_eq!(reply, signed.message);
    }
    let told = split(&reply).unwrap().expect("nothing told");
    assert_eq!(told.message, signed.message);
    assert_eq!(told.signature.key, signed.signature.key);
    assert_eq!(Some(told.signature.error), fault.code());
});
