//! Any query string of an update.

#![no_main]

use ddns::http::dyn2::request::{MAX_HOSTS, UpdateRequest, Wish};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|query: &str| {
    let request = UpdateRequest::parse(query);
    assert!(request.hosts.len() <= MAX_HOSTS + 1);
    if let Wish::Change(change) = request.wish {
        for address in change.addresses() {
            assert!(!address.is_unspecified() && !address.is_multicast());
        }
    }
});
