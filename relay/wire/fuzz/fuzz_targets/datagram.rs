//! Any datagram has a class, and what is ours carries an id that our key made.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::connection_id::ConnectionIdKey;
use wire::datagram::Datagram;

fuzz_target!(|octets: &[u8]| {
    Datagram::classify(octets, &ConnectionIdKey::new([7; 16]));
});
