//! What strangers send as Initials is read without a panic, protected or not, and means the same in one datagram as in two.
//!
//! The first octet of the input says which version, and where the rest is cut into the frames of two packets; nought and one are
//! the octets of a datagram as they are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rustls::Side;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::quic::Version;
use wire::client_hello::Progress;
use wire::initial::Reader;

const ID: [u8; 8] = [7; 8];

/// A packet with these frames, as a client sends it.
fn initial(version: Version, number: u8, frames: &[u8]) -> Vec<u8> {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().expect("it is of TLS 1.3");
    let suite = suite.quic_suite().expect("it is one for QUIC");
    let keys = suite.keys(&ID, Side::Client, version).local;
    let (first, version) = match version {
        Version::V2 => (0xd0_u8, 0x6b33_43cf_u32),
        _ => (0xc0, 1),
    };
    let mut payload = frames.to_vec();
    payload.resize(frames.len().max(20), 0);
    let length = 1 + payload.len() + keys.packet.tag_len();
    let mut header = vec![first];
    header.extend(version.to_be_bytes());
    header.push(ID.len() as u8);
    header.extend(ID);
    header.extend([0, 0]);
    header.extend((length as u32 | 0x8000_0000).to_be_bytes());
    header.push(number);
    let tag = keys
        .packet
        .encrypt_in_place(number.into(), &header, &mut payload)
        .expect("it is short");
    payload.extend(tag.as_ref());
    let number_at = header.len() - 1;
    let (clear, number) = header.split_at_mut(number_at);
    let sample = &payload[3..][..keys.header.sample_len()];
    keys.header
        .encrypt_in_place(sample, &mut clear[0], number)
        .expect("the sample is whole");
    [header, payload].concat()
}

fuzz_target!(|octets: &[u8]| {
    let Some((&how, octets)) = octets.split_first() else {
        return;
    };
    if how < 2 {
        if let Ok(mut reader) = Reader::new(octets) {
            let _ = reader.push(octets);
        }
        return;
    }
    let version = if how % 2 == 0 {
        Version::V1
    } else {
        Version::V2
    };
    let (first, second) = octets.split_at(octets.len() * usize::from(how) / 256);
    let packets = [initial(version, 0, first), initial(version, 1, second)];
    let mut apart = Reader::new(&packets[0]).expect("it is an Initial");
    if apart.push(&packets[0]) == Ok(Progress::NeedMore) {
        let both = packets.concat();
        let mut together = Reader::new(&both).expect("it begins with one");
        assert_eq!(apart.push(&packets[1]), together.push(&both));
    }
});
