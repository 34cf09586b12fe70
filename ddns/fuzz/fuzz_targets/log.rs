//! Any octets as a log: what is read of them stays the same when the rest is cut off.

#![no_main]

use ddns::store::{Ending, recover};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let all = recover(octets);
    assert!(all.good <= octets.len());
    let good = recover(&octets[..all.good]);
    assert_eq!(good.ending, Ending::Whole);
    assert_eq!(good.records, all.records);
    assert_eq!(good.held_by_registration, all.held_by_registration);
});
