//! The signatures that have been made, until what they are of changes.

use std::sync::{PoisonError, RwLock};

use hashbrown::HashTable;

use super::rrsig::Signature;

/// Parts with a lock of their own, so that who answers seldom meets who signs.
const SHARDS: usize = 64;

/// As many bits are kept of a hash. Two names that fall together take each other's place, and no more; two contents of one name would
/// need more changes than anybody makes.
pub(super) const HASH: u64 = (1 << 48) - 1;

/// Signatures by what they are of: a name and a type, hashed with a secret, within [`HASH`].
#[derive(Debug)]
pub(super) struct Signatures {
    shards: [RwLock<Shard>; SHARDS],
    most_of_shard: usize,
}

/// One signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Made {
    /// The hash of the records that it is of, with a secret too, within [`HASH`].
    pub(super) content: u64,
    /// In which period of its name.
    pub(super) period: u16,
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
struct Blocks(Vec<Vec<Kept>>);

/// A signature as it is kept, in 80 octets.
#[derive(Clone, Copy, Debug)]
struct Kept {
    of: [u16; 3],
    content: [u16; 3],
    period: u16,
    key_tag: u16,
    signature: Signature,
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
        shard.put(of, &made, self.most_of_shard);
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

const SHARD_BITS_FROM: u32 = 42;
/// A bit that says which half goes, beside those that say which shard.
const HALF: u64 = 1 << 41;
/// Signatures of a block: ten kibibytes.
const BLOCK: usize = 128;

impl Shard {
    fn get(&self, of: u64) -> Option<Made> {
        self.blocks.get(self.place(of)?).map(Kept::made)
    }

    fn put(&mut self, of: u64, made: &Made, most: usize) {
        let kept = Kept::new(of, made);
        let place = self.place(of);
        if let Some(before) = place.and_then(|place| self.blocks.get_mut(place)) {
            *before = kept;
            return;
        }
        if self.blocks.len() >= most {
            self.places.clear();
            for other in std::mem::take(&mut self.blocks).into_all() {
                if (other.of() ^ of) & HALF != 0 {
                    self.add(other);
                }
            }
        }
        self.add(kept);
    }

    fn place(&self, of: u64) -> Option<u32> {
        let is_there = |place: &u32| {
            let kept = self.blocks.get(*place);
            kept.is_some_and(|kept| kept.of() == of)
        };
        self.places.find(spread(of), is_there).copied()
    }

    /// Keeps one that is not there.
    fn add(&mut self, kept: Kept) {
        let place = self.blocks.push(kept);
        let blocks = &self.blocks;
        let hash = |place: &u32| blocks.get(*place).map_or(0, |kept| spread(kept.of()));
        self.places.insert_unique(spread(kept.of()), place, hash);
    }
}

/// By which a table finds its entries: it looks at the highest bits and the lowest.
fn spread(of: u64) -> u64 {
    of.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl Kept {
    fn new(of: u64, made: &Made) -> Self {
        Self {
            of: parts(of),
            content: parts(made.content),
            period: made.period,
            key_tag: made.key_tag,
            signature: made.signature,
        }
    }

    fn of(&self) -> u64 {
        whole(self.of)
    }

    fn made(&self) -> Made {
        Made {
            content: whole(self.content),
            period: self.period,
            key_tag: self.key_tag,
            signature: self.signature,
        }
    }
}

/// A hash without the octets that it does not fill.
fn parts(hash: u64) -> [u16; 3] {
    [hash as u16, (hash >> 16) as u16, (hash >> 32) as u16]
}

fn whole(parts: [u16; 3]) -> u64 {
    let [low, middle, high] = parts.map(u64::from);
    low | middle << 16 | high << 32
}

impl Blocks {
    fn len(&self) -> usize {
        let full = self.0.len().saturating_sub(1) * BLOCK;
        full + self.0.last().map_or(0, Vec::len)
    }

    fn get(&self, place: u32) -> Option<&Kept> {
        let place = place as usize;
        self.0.get(place / BLOCK)?.get(place % BLOCK)
    }

    fn get_mut(&mut self, place: u32) -> Option<&mut Kept> {
        let place = place as usize;
        self.0.get_mut(place / BLOCK)?.get_mut(place % BLOCK)
    }

    /// Says where it is.
    fn push(&mut self, one: Kept) -> u32 {
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
    fn into_all(self) -> impl Iterator<Item = Kept> {
        self.0.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(content: u64) -> Made {
        Made {
            content,
            period: 1,
            key_tag: 2,
            signature: [3; 64],
        }
    }

    /// Spreads over all bits, as a hash does.
    fn hash(number: u64) -> u64 {
        number.wrapping_mul(0x9E37_79B9_7F4A_7C15) & HASH
    }

    #[test]
    fn what_is_kept_has_no_holes_and_comes_back_as_it_was() {
        assert_eq!(size_of::<Kept>(), 80);
        let made = Made {
            content: 0xABCD_EF01_2345,
            period: 0x8765,
            key_tag: 0xFEDC,
            signature: [9; 64],
        };
        let kept = Kept::new(0x9234_5678_9ABC, &made);
        assert_eq!((kept.of(), kept.made()), (0x9234_5678_9ABC, made));
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
