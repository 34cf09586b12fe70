//! Hashed denial of existence (RFC 5155), without salt and further iterations (RFC 9276 section 3.1).
//!
//! ```text
//!  hash.zone │ NSEC3 │ 1 (SHA-1) │ 0 (flags) │ 0 0 (iterations) │ 0 (salt) │ 20 │ the next hash │ types
//! ```

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use data_encoding::BASE32HEX_NOPAD;

use super::types::TypeSet;
use crate::protocol::{MAX_NAME, Type};
use crate::rrset::record_head;

/// The hash of a name (RFC 5155 section 5).
pub(crate) type Hash = [u8; HASH_LEN];

const HASH_LEN: usize = 20;
/// Octets of a hash in base32hex, and the label's length in front.
pub(crate) const LABEL_LEN: usize = 33;
/// SHA-1, no flags, no iterations, no salt.
pub(crate) const PARAMETERS: [u8; 5] = [1, 0, 0, 0, 0];

/// The hash of a name in lower case, which has these labels in front of the zone's name on the wire.
pub(crate) fn hash(below: &[u8], apex: &[u8]) -> Hash {
    let mut name = [0; MAX_NAME];
    let (whole, len) = (below.iter().chain(apex), below.len() + apex.len());
    name.iter_mut()
        .zip(whole)
        .for_each(|(octet, of)| *octet = *of);
    let sha1 = digest(&SHA1_FOR_LEGACY_USE_ONLY, &name[..len.min(MAX_NAME)]);
    let mut hash = [0; HASH_LEN];
    hash.copy_from_slice(sha1.as_ref());
    hash
}

/// The label that a record with this hash has, in lower case.
pub(crate) fn label(hash: &Hash) -> [u8; LABEL_LEN] {
    let mut label = [0; LABEL_LEN];
    label[0] = (LABEL_LEN - 1) as u8;
    BASE32HEX_NOPAD.encode_mut(hash, &mut label[1..]);
    label.make_ascii_lowercase();
    label
}

/// The record that begins with a hash, with a pointer in place of its owner.
pub(crate) fn record(next: &Hash, types: &TypeSet, ttl: u32) -> Vec<u8> {
    let data = data(next, types);
    let length = data.len() as u16; // 70 at most
    [&record_head(Type::NSEC3, ttl, length), &data[..]].concat()
}

/// The data of a record.
fn data(next: &Hash, types: &TypeSet) -> Vec<u8> {
    // A name without records has no signatures either.
    let types = match *types == TypeSet::default() {
        true => *types,
        false => types.with(Type::RRSIG),
    };
    let length = [HASH_LEN as u8];
    [&PARAMETERS[..], &length, next, types.octets().as_ref()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_that_ldns_makes() {
        // `ldns-nsec3-hash -t 0 example.`, and the same of `a.example.`
        for (below, text) in [
            (&b""[..], "3msev9usmd4br9s97v51r2tdvmr9iqo1"),
            (b"\x01a", "6cd522290vma0nr8lqu1ivtcofj94rga"),
        ] {
            let label = label(&hash(below, b"\x07example\0"));
            assert_eq!(&label[1..], text.as_bytes());
            assert_eq!(label[0], 32);
        }
    }

    #[test]
    fn a_record_says_which_hash_is_next_and_which_types_there_are() {
        let next = [7; 20];
        let empty = data(&next, &TypeSet::default());
        assert_eq!(empty, [&[1, 0, 0, 0, 0, 20][..], &next].concat());
        let with_address = data(&next, &TypeSet::default().with(Type::A));
        assert_eq!(with_address[26..], [0, 6, 0x40, 0, 0, 0, 0, 2]);
    }
}
