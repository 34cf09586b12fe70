//! Any octets are an answer to a probe or none, and an answer holds no more than came.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::probe::{dns, nat_pmp, negotiation};

fuzz_target!(|octets: &[u8]| {
    if let Some(id) = negotiation::answer(octets) {
        assert_eq!(octets[6..14], id);
    }
    if let Some(address) = nat_pmp::answer(octets) {
        assert_eq!(octets[8..12], address.octets());
    }
    let id = octets.first_chunk().copied().map_or(0, u16::from_be_bytes);
    if let Some(answer) = dns::answer(id, octets) {
        assert!(answer.addresses.len() * 4 <= octets.len());
    }
});
