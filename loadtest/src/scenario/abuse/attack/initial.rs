//! A client's first packet of QUIC (RFC 9000 section 17.2.2), sealed as it must be (RFC 9001 section 5.2).
//!
//! ```text
//!   flags 1 │ version 4 │ 20 │ destination id 20 │ 8 │ source id 8 │ 0, no token │ length 2 │ number 4 │ frames … │ tag 16
//!             └───────────────────── not sealed, but vouched for ───────────────────────────┘
//! ```

use aws_lc_rs::aead::quic::{self, HeaderProtectionKey};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};

/// RFC 9001 section 5.2.
const SALT: [u8; 20] = [
    0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad,
    0xcc, 0xbb, 0x7f, 0x0a,
];

const VERSION: u32 = 1;

/// A long header of an Initial whose number has four octets.
const FLAGS: u8 = 0xc3;

/// Octets of the number, and of the tag that seals.
const NUMBER: usize = 4;
const TAG: usize = 16;

/// Frames (RFC 9000 sections 19.1 and 19.6).
const PADDING: u8 = 0;
const CRYPTO: u8 = 6;

/// The ids of a connection that is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ids {
    /// What the client calls the server for now. With twenty octets an agent asks for nothing special.
    pub(super) destination: [u8; 20],
    /// How the server is to call the client.
    pub(super) source: [u8; 8],
}

/// The frames of a packet that carries `hello`.
pub(super) fn frames_of(hello: &[u8]) -> Vec<u8> {
    [&[CRYPTO, 0][..], &length(hello.len()), hello].concat()
}

/// A datagram of `size` octets with an Initial in it that has these frames, and padding behind them.
pub(super) fn datagram(ids: &Ids, frames: &[u8], size: usize) -> Result<Vec<u8>, Unspecified> {
    let mut packet = vec![FLAGS];
    packet.extend(VERSION.to_be_bytes());
    for id in [&ids.destination[..], &ids.source] {
        packet.push(u8::try_from(id.len()).map_err(|_| Unspecified)?);
        packet.extend(id);
    }
    packet.push(0);
    let sealed = size - packet.len() - 2;
    packet.extend(length(sealed));
    let number_at = packet.len();
    packet.extend([0; NUMBER]);
    let head = packet.len();
    packet.extend(frames);
    packet.resize(size - TAG, PADDING);

    let keys = Keys::of(&ids.destination)?;
    let (head_octets, body) = packet.split_at_mut(head);
    // Its number is 0, so the nonce is as it was drawn (RFC 9001 section 5.3).
    let nonce = Nonce::assume_unique_for_key(keys.nonce);
    let seal = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &keys.key)?);
    let tag = seal.seal_in_place_separate_tag(nonce, Aad::from(&*head_octets), body)?;
    packet.extend(tag.as_ref());

    // RFC 9001 section 5.4.1: what is hidden are the low bits of the flags, and the number.
    let sample = &packet[number_at + NUMBER..][..16];
    let mask = HeaderProtectionKey::new(&quic::AES_128, &keys.head)?.new_mask(sample)?;
    packet[0] ^= mask[0] & 0x0f;
    for (octet, mask) in packet[number_at..].iter_mut().zip(&mask[1..]) {
        *octet ^= mask;
    }
    Ok(packet)
}

/// A number below 16,384 (RFC 9000 section 16).
fn length(octets: usize) -> [u8; 2] {
    let length = u16::try_from(octets).unwrap_or_default();
    (0x4000 | length).to_be_bytes()
}

/// With what a client seals its Initials.
#[derive(Debug, PartialEq, Eq)]
struct Keys {
    key: [u8; 16],
    nonce: [u8; 12],
    head: [u8; 16],
}

impl Keys {
    fn of(destination: &[u8]) -> Result<Self, Unspecified> {
        let initial = Salt::new(HKDF_SHA256, &SALT).extract(destination);
        let mut secret = [0; 32];
        expand(&initial, b"client in", &mut secret)?;
        let secret = Prk::new_less_safe(HKDF_SHA256, &secret);
        let mut keys = Self {
            key: [0; 16],
            nonce: [0; 12],
            head: [0; 16],
        };
        expand(&secret, b"quic key", &mut keys.key)?;
        expand(&secret, b"quic iv", &mut keys.nonce)?;
        expand(&secret, b"quic hp", &mut keys.head)?;
        Ok(keys)
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446 section 7.1).
fn expand(secret: &Prk, label: &[u8], to: &mut [u8]) -> Result<(), Unspecified> {
    let octets = u16::try_from(to.len()).map_err(|_| Unspecified)?;
    let whole = u8::try_from(b"tls13 ".len() + label.len()).map_err(|_| Unspecified)?;
    let info: [&[u8]; 5] = [&octets.to_be_bytes(), &[whole], b"tls13 ", label, &[0]];
    secret.expand(&info, Octets(to.len()))?.fill(to)
}

/// How many are to be drawn.
struct Octets(usize);

impl KeyType for Octets {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9001 appendix A.1.
    #[test]
    fn keys_are_those_of_the_standard() {
        let destination = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];
        let keys = Keys::of(&destination).unwrap();
        let hex = |octets: &[u8]| data_encoding::HEXLOWER.encode(octets);
        assert_eq!(hex(&keys.key), "1f369613dd76d5467730efcbe3b1a22d");
        assert_eq!(hex(&keys.nonce), "fa044b2f42a3fd3b46fb255c");
        assert_eq!(hex(&keys.head), "9f50449e04a0e810283a1e9933adedd2");
    }

    #[test]
    fn a_datagram_has_the_size_that_was_asked_for() {
        let ids = Ids {
            destination: [7; 20],
            source: [9; 8],
        };
        for size in [300, 1200, 1452] {
            let packet = datagram(&ids, &frames_of(b"hello"), size).unwrap();
            assert_eq!(packet.len(), size);
            assert_eq!(packet[0] & 0xf0, FLAGS & 0xf0);
        }
    }
}
