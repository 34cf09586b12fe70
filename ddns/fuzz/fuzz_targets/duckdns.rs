//! Any query string, and any path, of a DuckDNS update.

#![no_main]

use ddns::http::duckdns::request::{DuckRequest, MAX_DOMAINS, Wish};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for request in [DuckRequest::parse(text), DuckRequest::parse_path(text)] {
        assert!(request.domains.len() <= MAX_DOMAINS + 1);
        if let Wish::Addresses(change) = request.wish {
            for address in change.addresses() {
                assert!(!address.is_unspecified() && !address.is_multicast());
            }
        }
    }
});
