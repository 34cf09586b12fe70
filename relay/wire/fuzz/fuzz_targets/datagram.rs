//! Any datagram has a class, and what is ours carries an id that our key made. Its ids are read whatever its version, and a flow's
//! datagrams are what was put on the stream.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use wire::connection_id::{ConnectionIdKey, LENGTH};
use wire::datagram::{Datagram, has_short_header, ids};
use wire::flow::{put_number, put_on_stream, take_from_stream, take_number};
use wire::roaming::RoamingKey;

fuzz_target!(|octets: &[u8]| {
    let key = ConnectionIdKey::new([7; 16]);
    if let Datagram::Ours(owner) = Datagram::classify(octets, &key) {
        let at = if octets[0] < 128 { 1 } else { 6 }; // behind a short header's flags, or a long header's length
        let id = &octets[at..at + LENGTH];
        let nonce = *id[2..].first_chunk().expect("it is longer");
        assert_eq!(id, key.make(owner, nonce));
    }
    if let Some((destination, source)) = ids(octets) {
        assert!(!has_short_header(octets));
        assert!(octets.len() >= 7 + destination.len() + source.len());
    }
    let roaming = RoamingKey::new(&[1; 16], &[2; 16]);
    if let Some(tag) = roaming.read(octets) {
        let nonce = octets[1..].first_chunk().expect("it is longer");
        assert!(octets[1..].starts_with(&roaming.make(tag, *nonce)));
    }
    let mut frame = Bytes::copy_from_slice(octets);
    if let Some(number) = take_number(&mut frame) {
        let mut again = Vec::new();
        put_number(number, &mut again);
        assert!(
            again.len() <= octets.len() - frame.len(),
            "in as few octets as can be"
        );
        assert!(octets.ends_with(&frame));
    }
    let mut stream = BytesMut::from(octets);
    let mut again = Vec::new();
    while let Some(datagram) = take_from_stream(&mut stream) {
        put_on_stream(&datagram, &mut again);
    }
    assert_eq!([&again, &stream[..]].concat(), octets);
});
