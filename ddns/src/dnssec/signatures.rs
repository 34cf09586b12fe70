//! The signatures that have been made, until what they are of changes.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{PoisonError, RwLock};

use super::rrsig::Signature;

/// Parts with a lock of their own, so that who answers seldom meets who signs.
const SHARDS: usize = 64;

/// Signatures by what they are of: a name and a type, hashed with a secret.
#[derive(Debug)]
pub(super) struct Signatures {
    shards: [RwLock<HashMap<u64, Made, BuildHasherDefault<Hashed>>>; SHARDS],
    most_of_shard: usize,
}

/// One signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Made {
    /// The hash of the records that it is of, with a secret too.
    pub(super) content: u64,
    /// From when it is good.
    pub(super) inception: u32,
    /// Which key has made it.
    pub(super) key_tag: u16,
    pub(super) signature: Signature,
}

impl Signatures {
    /// Keeps about so many.
    pub(super) fn with_most(most: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| RwLock::default()),
            most_of_shard: (most / SHARDS).max(2),
        }
    }

    /// The signature that was made last of this name and type.
    pub(super) fn get(&self, of: u64) -> Option<Made> {
        let shard = self.shard(of).read();
        shard
            .unwrap_or_else(PoisonError::into_inner)
            .get(&of)
            .copied()
    }

    /// Keeps a signature in place of the one before. Where there is no room, half of the others go, whichever.
    pub(super) fn put(&self, of: u64, made: Made) {
        let shard = self.shard(of).write();
        let mut shard = shard.unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= self.most_of_shard && !shard.contains_key(&of) {
            shard.retain(|other, _| (other ^ of) & HALF != 0);
        }
        shard.insert(of, made);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        let len = |shard: &RwLock<HashMap<_, _, _>>| {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            shard.len()
        };
        self.shards.iter().map(len).sum()
    }

    fn shard(&self, of: u64) -> &RwLock<HashMap<u64, Made, BuildHasherDefault<Hashed>>> {
        &self.shards[(of >> SHARD_BITS_FROM) as usize % SHARDS]
    }
}

/// A bit that says which half goes; like those of the shards, it is none by which a map finds its entries.
const HALF: u64 = 1 << 40;
const SHARD_BITS_FROM: u32 = 48;

/// The hash of what is a hash already.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, octets: &[u8]) {
        for octet in octets {
            self.0 = (self.0 << 8) | u64::from(*octet);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(content: u64) -> Made {
        Made {
            content,
            inception: 1,
            key_tag: 2,
            signature: [3; 64],
        }
    }

    /// Spreads over all bits, as a hash does.
    fn hash(number: u64) -> u64 {
        number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    #[test]
    fn the_last_signature_takes_the_place_of_the_one_before() {
        let signatures = Signatures::with_most(1000);
        assert_eq!(signatures.get(7), None);
        signatures.put(7, made(1));
        signatures.put(7, made(2));
        assert_eq!(signatures.get(7), Some(made(2)));
        assert_eq!(signatures.len(), 1);
    }

    #[test]
    fn there_are_never_more_than_was_said_and_the_newest_is_there() {
        let signatures = Signatures::with_most(6400);
        for number in 0..50_000 {
            signatures.put(hash(number), made(number));
            assert_eq!(signatures.get(hash(number)), Some(made(number)));
        }
        let len = signatures.len();
        assert!((3000..=6400).contains(&len), "{len}");
    }
}
