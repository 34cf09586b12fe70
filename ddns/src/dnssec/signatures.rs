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

/// Signatures one behind the other, and where each is.
#[derive(Debug, Default)]
struct Shard {
    blocks: Blocks,
    places: HashTable<u32>,
}

/// In blocks that stay where they are: there is no room for more than one block to come, and none is left behind by what has moved.
#[derive(Debug, Default)]
struct Blocks(Vec<Vec<(u64, Made)>>);

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
            shard.blocks.len()
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
/// Signatures of a block: eleven kibibytes.
const BLOCK: usize = 128;

impl Shard {
    fn get(&self, of: u64) -> Option<Made> {
        let place = self
            .places
            .find(of, |place| self.blocks.is_at(*place, of))?;
        self.blocks.get(*place).map(|(_, made)| *made)
    }

    fn put(&mut self, of: u64, made: Made, most: usize) {
        let place = self.places.find(of, |place| self.blocks.is_at(*place, of));
        if let Some((_, before)) = place.and_then(|place| self.blocks.get_mut(*place)) {
            *before = made;
            return;
        }
        if self.blocks.len() >= most {
            self.places.clear();
            for (other, made) in std::mem::take(&mut self.blocks).into_all() {
                if (other ^ of) & HALF != 0 {
                    self.add(other, made);
                }
            }
        }
        self.add(of, made);
    }

    /// Keeps one that is not there.
    fn add(&mut self, of: u64, made: Made) {
        let place = self.blocks.push((of, made));
        let hash = |place: &u32| self.blocks.get(*place).map_or(0, |(of, _)| *of);
        self.places.insert_unique(of, place, hash);
    }
}

impl Blocks {
    fn len(&self) -> usize {
        let full = self.0.len().saturating_sub(1) * BLOCK;
        full + self.0.last().map_or(0, Vec::len)
    }

    fn get(&self, place: u32) -> Option<&(u64, Made)> {
        let place = place as usize;
        self.0.get(place / BLOCK)?.get(place % BLOCK)
    }

    fn get_mut(&mut self, place: u32) -> Option<&mut (u64, Made)> {
        let place = place as usize;
        self.0.get_mut(place / BLOCK)?.get_mut(place % BLOCK)
    }

    fn is_at(&self, place: u32, of: u64) -> bool {
        self.get(place).is_some_and(|(other, _)| *other == of)
    }

    /// Says where it is.
    fn push(&mut self, one: (u64, Made)) -> u32 {
        let place = self.len();
        match self.0.last_mut() {
            Some(last) if last.len() < BLOCK => last.push(one),
            _ => {
                let mut block = Vec::with_capacity(BLOCK);
                block.push(one);
                self.0.push(block);
            }
        }
        place as u32 // fewer than the configuration allows
    }

    /// One block after the other is given back on the way.
    fn into_all(self) -> impl Iterator<Item = (u64, Made)> {
        self.0.into_iter().flatten()
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
