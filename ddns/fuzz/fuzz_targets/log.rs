//! Any octets as a log and as a snapshot: what is read of a log stays the same when the rest is cut off.

#![no_main]

use ddns::store::{Ending, HeldByRegistration, read_log, read_snapshot};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let mut known = HeldByRegistration::default();
    let all = read_log(octets, &mut known);
    assert!(all.good <= octets.len());
    if all.good > 0 {
        let mut again = HeldByRegistration::default();
        let good = read_log(&octets[..all.good], &mut again);
        assert_eq!(good.ending, Ending::Whole);
        assert_eq!(good.records, all.records);
        assert_eq!(again, known);
    }
    if let Some((_, known)) = read_snapshot(octets) {
        // A record without anything has 20 octets.
        assert!(known.len() <= octets.len() / 20);
    }
});
