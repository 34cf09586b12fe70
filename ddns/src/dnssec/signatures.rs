//! The signatures that have been made, until what they are of changes.

use std::sync::{PoisonError, RwLock};

use hashbrown::HashTable;

use super::rrsig::Signature;

/// Parts with a lock of their own, so that who answers seldom meets who signs.
const SHARDS: usize = 64;

/// Signatures by what they are of: a name and a type, hashed with a secret.
#[derive(Debug)]
pub(super) struct Signatures {
    shards: [RwLock<Shard>; SHARDS],
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

/// Signatures one behind the other, so that they take hardly more room than they have, and where each is.
#[derive(Debug, Default)]
struct Shard {
    made: Vec<(u64, Made)>,
    places: HashTable<u32>,
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
        shard.unwrap_or_else(PoisonError::into_inner).get(of)
    }

    /// Keeps a signature in place of the one before. Where there is no room, half of the others go, whichever.
    pub(super) fn put(&self, of: u64, made: Made) {
        let shard = self.shard(of).write();
        let mut shard = shard.unwrap_or_else(PoisonError::into_inner);
        shard.put(of, made, self.most_of_shard);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        let len = |shard: &RwLock<Shard>| {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            shard.made.len()
        };
        self.shards.iter().map(len).sum()
    }

    fn shard(&self, of: u64) -> &RwLock<Shard> {
        &self.shards[(of >> SHARD_BITS_FROM) as usize % SHARDS]
    }
}

/// A bit that says which half goes; like those of the shards, it is none by which a table finds its entries.
const HALF: u64 = 1 << 40;
const SHARD_BITS_FROM: u32 = 48;
/// So much room there is for more: an eighth of what is there.
const GROWTH: usize = 8;

impl Shard {
    fn get(&self, of: u64) -> Option<Made> {
        let place = self.places.find(of, |place| self.is_at(*place, of))?;
        self.made.get(*place as usize).map(|(_, made)| *made)
    }

    fn put(&mut self, of: u64, made: Made, most: usize) {
        let place = self.places.find(of, |place| self.is_at(*place, of));
        if let Some(before) = place.and_then(|place| self.made.get_mut(*place as usize)) {
            before.1 = made;
            return;
        }
        if self.made.len() >= most {
            self.made.retain(|(other, _)| (other ^ of) & HALF != 0);
            self.places.clear();
            for place in 0..self.made.len() {
                self.find_at(place);
            }
        }
        if self.made.len() == self.made.capacity() {
            self.made.reserve_exact(self.made.len() / GROWTH + GROWTH);
        }
        self.made.push((of, made));
        self.find_at(self.made.len() - 1);
    }

    /// From now on the one at a place is found.
    fn find_at(&mut self, place: usize) {
        let (of, _) = self.made[place];
        let made = &self.made;
        let hash = |place: &u32| made[*place as usize].0;
        self.places.insert_unique(of, place as u32, hash); // fewer than MAX of the configuration
    }

    fn is_at(&self, place: u32, of: u64) -> bool {
        self.made
            .get(place as usize)
            .is_some_and(|(other, _)| *other == of)
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
