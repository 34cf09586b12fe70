//! A request that was read is written again as the same octets, and no more of them are taken than there are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::connect::{read, write};

fuzz_target!(|octets: &[u8]| {
    if let Ok(Some(request)) = read(octets) {
        assert_eq!(write(request.service).unwrap(), octets[..request.length]);
    }
});
