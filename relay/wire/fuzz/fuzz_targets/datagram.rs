//! Any datagram has a class, and what is ours carries an id that our key made.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::connection_id::{ConnectionIdKey, LENGTH};
use wire::datagram::Datagram;

fuzz_target!(|octets: &[u8]| {
    let key = ConnectionIdKey::new([7; 16]);
    if let Datagram::Ours(owner) = Datagram::classify(octets, &key) {
        let at = if octets[0] < 128 { 1 } else { 6 }; // behind a short header's flags, or a long header's length
        let id = &octets[at..at + LENGTH];
        let nonce = *id[2..].first_chunk().expect("it is longer");
        assert_eq!(id, key.make(owner, nonce));
    }
});
