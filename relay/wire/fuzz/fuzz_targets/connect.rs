//! A request that was read is written again as the same octets, and no more of them are taken than there are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::connect;

fuzz_target!(|octets: &[u8]| {
    if let Ok(Some(request)) = connect::read(octets) {
        assert_eq!(connect::write(request.service).as_deref(), octets.get(..request.length).ok_or(connect::NotARequest::Name));
    }
});
