//! RRSIG records (RFC 4034 section 3): what a signature is over, and its record.

use crate::protocol::{CLASS_IN, Type};

/// ECDSA over P-256 with SHA-256 (RFC 6605).
pub(crate) const ALGORITHM: u8 = 13;
/// Octets of a signature: r and s (RFC 6605 section 4).
pub(crate) const SIGNATURE_LEN: usize = 64;
/// Octets of a record's data in front of the signer's name.
pub(crate) const TERMS_LEN: usize = 18;

/// A signature of a set of records.
pub(crate) type Signature = [u8; SIGNATURE_LEN];

/// When a signature is good: seconds since 1970, modulo 2^32, both ends included (RFC 4034 section 3.1.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) inception: u32,
    pub(crate) expiration: u32,
}

/// What an RRSIG record says beside signer and signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) covered: Type,
    /// How many labels the owner has, a wildcard's `*` and the root not counted (RFC 4034 section 3.1.3).
    pub(crate) labels: u8,
    /// The TTL of the set, in seconds.
    pub(crate) ttl: u32,
    pub(crate) validity: Validity,
    pub(crate) key_tag: u16,
}

impl Terms {
    /// What the signature is over (RFC 4034 section 3.1.8.1). `apex` and `owner` are whole names on the wire in lower case; `data` is
    /// that of each record, without compression and with its names in lower case where RFC 4034 section 6.2 wants that, in any
    /// order.
    pub(crate) fn signed_octets<D: AsRef<[u8]>>(
        &self,
        apex: &[u8],
        owner: &[u8],
        data: &[D],
    ) -> Vec<u8> {
        let mut sorted: Vec<&[u8]> = data.iter().map(AsRef::as_ref).collect();
        sorted.sort_unstable();
        let mut octets = [&self.octets(), apex].concat();
        for data in sorted {
            octets.extend_from_slice(owner);
            octets.extend(self.covered.0.to_be_bytes());
            octets.extend(CLASS_IN.to_be_bytes());
            octets.extend(self.ttl.to_be_bytes());
            #[expect(
                clippy::cast_possible_truncation,
                reason = "every set is smaller than MAX_RRSET"
            )]
            octets.extend((data.len() as u16).to_be_bytes());
            octets.extend_from_slice(data);
        }
        octets
    }

    /// The data of the record, in front of the signer's name.
    pub(crate) fn octets(&self) -> [u8; TERMS_LEN] {
        let mut octets = [0; TERMS_LEN];
        octets[0..2].copy_from_slice(&self.covered.0.to_be_bytes());
        octets[2] = ALGORITHM;
        octets[3] = self.labels;
        octets[4..8].copy_from_slice(&self.ttl.to_be_bytes());
        octets[8..12].copy_from_slice(&self.validity.expiration.to_be_bytes());
        octets[12..16].copy_from_slice(&self.validity.inception.to_be_bytes());
        octets[16..18].copy_from_slice(&self.key_tag.to_be_bytes());
        octets
    }
}

/// The labels of a whole name on the wire, as [`Terms::labels`] counts them.
pub(crate) fn labels(owner: &[u8]) -> u8 {
    let mut rest = owner;
    let mut labels = 0_u8;
    while let Some((&length @ 1.., behind)) = rest.split_first() {
        let is_wildcard = rest.len() == owner.len() && behind.first() == Some(&b'*') && length == 1;
        labels = labels.saturating_add(u8::from(!is_wildcard));
        rest = behind.get(length.into()..).unwrap_or_default();
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_over_terms_signer_and_sorted_records() {
        let terms = Terms {
            covered: Type::A,
            labels: 2,
            ttl: 60,
            validity: Validity {
                inception: 0x0102_0304,
                expiration: 0x0506_0708,
            },
            key_tag: 0x090A,
        };
        let apex = b"\x02nz\0";
        let owner = b"\x01a\x02nz\0";
        let octets = terms.signed_octets(apex, owner, &[[192, 0, 2, 2], [192, 0, 2, 1]]);
        let record = |last: u8| {
            let head = b"\x01a\x02nz\0\0\x01\0\x01\0\0\0\x3C\0\x04";
            [&head[..], &[192, 0, 2, last]].concat()
        };
        let expected = [
            &[0, 1, 13, 2, 0, 0, 0, 60, 5, 6, 7, 8, 1, 2, 3, 4, 9, 10][..],
            apex,
            &record(1),
            &record(2),
        ]
        .concat();
        assert_eq!(octets, expected);
    }

    #[test]
    fn a_wildcards_own_label_is_not_counted() {
        for (owner, count) in [
            (&b"\0"[..], 0),
            (b"\x01a\x02nz\0", 2),
            (b"\x01*\x02nz\0", 1),
            (b"\x01a\x01*\x02nz\0", 3),
            (b"\x02*a\x02nz\0", 2),
        ] {
            assert_eq!(labels(owner), count);
        }
    }
}
