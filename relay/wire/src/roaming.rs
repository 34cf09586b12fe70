//! Connection ids that lead to a device from whatever address they come: a relay makes them for the agents that speak HTTP/3 themselves,
//! and a visitor who changes its network keeps its connection.
//!
//! ```text
//!   nonce 8 │ tag 8 ⊕ SipHash-2-4(key, nonce)        tag = SipHash-2-4(another key, device)
//! ```
//!
//! No two are alike in anything that shows: who sees them learns neither the device nor that two are of the same connection (RFC 9000
//! section 9.5). Who makes one up meets a device by chance, one in 2⁶⁴ for each that there is. An agent is given the ids alone, so it
//! makes none for others. Nothing in them is of a process: who comes next on the port, with the same key, reads them too.

use std::fmt;
use std::hash::Hasher as _;

use siphasher::sip::SipHasher24;

/// The length of each, in octets.
pub const LENGTH: usize = NONCE + 8;

/// Of the part that differs.
pub const NONCE: usize = 8;

/// So many go into one frame.
pub const MOST_AT_ONCE: usize = 56;

/// A connection id.
pub type RoamingId = [u8; LENGTH];

/// What stands for a device in them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag(u64);

/// It is as secret as the key.
impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tag(…)")
    }
}

/// Makes them and reads them.
#[derive(Clone)]
pub struct RoamingKey {
    mask: SipHasher24,
    tags: SipHasher24,
}

impl RoamingKey {
    /// `mask` and `tags` are secret, and all processes of a relay have the same.
    pub fn new(mask: &[u8; 16], tags: &[u8; 16]) -> Self {
        Self {
            mask: SipHasher24::new_with_key(mask),
            tags: SipHasher24::new_with_key(tags),
        }
    }

    /// What stands for the device.
    pub fn tag(&self, device: &[u8]) -> Tag {
        Tag(hash(self.tags, device))
    }

    /// An id that leads there; `nonce` is random.
    pub fn make(&self, Tag(tag): Tag, nonce: [u8; NONCE]) -> RoamingId {
        let masked = tag ^ hash(self.mask, &nonce);
        let id = u128::from(u64::from_be_bytes(nonce)) << 64 | u128::from(masked);
        id.to_be_bytes()
    }

    /// What the id of a packet with a short header says, whatever it is worth; `None` if there is no room for one.
    pub fn read(&self, packet: &[u8]) -> Option<Tag> {
        let (_, rest) = packet.split_first()?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE>()?;
        let masked = u64::from_be_bytes(*rest.first_chunk()?);
        Some(Tag(masked ^ hash(self.mask, nonce)))
    }
}

fn hash(mut hasher: SipHasher24, octets: &[u8]) -> u64 {
    hasher.write(octets);
    hasher.finish()
}

impl fmt::Debug for RoamingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RoamingKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn key() -> RoamingKey {
        RoamingKey::new(&[1; 16], &[2; 16])
    }

    fn packet(id: &[u8]) -> Vec<u8> {
        [&[0x43], id, &[7; 30]].concat()
    }

    #[test]
    fn ids_of_one_device_have_nothing_in_common_and_others_cannot_read_them() {
        let key = key();
        let tag = key.tag(b"a device");
        assert_ne!(tag, key.tag(b"another"));
        let mut seen = HashSet::new();
        for number in 0..1000_u64 {
            let id = key.make(tag, number.to_be_bytes());
            assert_eq!(key.read(&packet(&id)), Some(tag));
            let other = RoamingKey::new(&[3; 16], &[2; 16]);
            assert_ne!(other.read(&packet(&id)), Some(tag));
            seen.insert(id[NONCE..].to_vec());
        }
        assert_eq!(seen.len(), 1000);
    }

    proptest! {
        #[test]
        fn a_changed_id_leads_elsewhere(nonce: [u8; NONCE], at in 0..LENGTH, change in 1..=255_u8) {
            let key = key();
            let tag = key.tag(b"a device");
            let mut id = key.make(tag, nonce);
            id[at] ^= change;
            prop_assert_ne!(key.read(&packet(&id)), Some(tag));
        }

        #[test]
        fn any_octets_are_read(packet in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(key().read(&packet).is_some(), packet.len() > LENGTH);
        }
    }
}
