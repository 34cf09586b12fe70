//! The hashes of names in their order (RFC 5155 section 7.1), each with the types that its name has. Whoever answers waits at most for
//! one name that is being written.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock};

use crate::dnssec::{Hash, TypeSet};

/// Parts with a lock of their own, by the first bits of a hash.
const PARTS: usize = 16;
const PART_BITS_FROM: u32 = 4;

/// A hash that is there, and the one that follows: there is none between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) hash: Hash,
    pub(crate) next: Hash,
    /// The types of its name, without that of signatures.
    pub(crate) types: TypeSet,
}

#[derive(Debug)]
pub(crate) struct Hashes {
    parts: [RwLock<BTreeMap<Hash, u16>>; PARTS],
    /// The sets of types that there have been, which are few: a hash has the number of its own.
    kinds: RwLock<Vec<TypeSet>>,
}

impl Hashes {
    /// All hashes at once.
    pub(crate) fn of(mut all: Vec<(Hash, TypeSet)>) -> Self {
        all.sort_unstable_by_key(|(hash, _)| *hash);
        let hashes = Self {
            parts: std::array::from_fn(|_| RwLock::default()),
            kinds: RwLock::default(),
        };
        for part in all.chunk_by(|(one, _), (other, _)| part(one) == part(other)) {
            let Some((first, _)) = part.first() else {
                continue;
            };
            let kinds = part
                .iter()
                .map(|(hash, types)| (*hash, hashes.kind(*types)));
            *hashes.write(first) = kinds.collect();
        }
        hashes
    }

    /// The name of this hash has these types from now on, or is there no more.
    pub(crate) fn set(&self, hash: &Hash, types: Option<TypeSet>) {
        match types {
            Some(types) => {
                let kind = self.kind(types);
                self.write(hash).insert(*hash, kind);
            }
            None => {
                self.write(hash).remove(hash);
            }
        }
    }

    /// The link that begins with this hash.
    pub(crate) fn at(&self, hash: &Hash) -> Option<Link> {
        let kind = *self.read(part(hash)).get(hash)?;
        self.link(*hash, kind)
    }

    /// The link that this hash is within; `None` if it is there itself.
    pub(crate) fn covering(&self, hash: &Hash) -> Option<Link> {
        if self.read(part(hash)).contains_key(hash) {
            return None;
        }
        self.at(&self.before(hash)?)
    }

    /// All that are there.
    pub(crate) fn all(&self) -> impl Iterator<Item = Hash> {
        (0..PARTS).flat_map(|part| self.read(part).keys().copied().collect::<Vec<_>>())
    }

    /// The hash before this one, whether that is there or not.
    pub(crate) fn before(&self, hash: &Hash) -> Option<Hash> {
        let before = {
            let part = self.read(part(hash));
            part.range(..*hash).next_back().map(|(hash, _)| *hash)
        };
        before.or_else(|| {
            // The last of the parts before it, around the end.
            (1..=PARTS).find_map(|back| {
                let other = self.read((part(hash) + PARTS - back) % PARTS);
                other.last_key_value().map(|(hash, _)| *hash)
            })
        })
    }

    fn link(&self, hash: Hash, kind: u16) -> Option<Link> {
        let next = {
            let part = self.read(part(&hash));
            let behind = (Bound::Excluded(hash), Bound::Unbounded);
            part.range(behind).next().map(|(hash, _)| *hash)
        };
        let next = next.or_else(|| {
            (1..=PARTS).find_map(|ahead| {
                let other = self.read((part(&hash) + ahead) % PARTS);
                other.first_key_value().map(|(hash, _)| *hash)
            })
        });
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        Some(Link {
            hash,
            next: next?,
            types: *kinds.get(usize::from(kind))?,
        })
    }

    fn kind(&self, types: TypeSet) -> u16 {
        let find = |kinds: &[TypeSet]| kinds.iter().position(|kind| *kind == types);
        let known = find(&self.kinds.read().unwrap_or_else(PoisonError::into_inner));
        let number = known.unwrap_or_else(|| {
            let mut kinds = self.kinds.write().unwrap_or_else(PoisonError::into_inner);
            find(&kinds).unwrap_or_else(|| {
                kinds.push(types);
                kinds.len() - 1
            })
        });
        number as u16 // a zone has a few dozen sets of types
    }

    fn read(&self, part: usize) -> std::sync::RwLockReadGuard<'_, BTreeMap<Hash, u16>> {
        self.parts[part]
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, hash: &Hash) -> std::sync::RwLockWriteGuard<'_, BTreeMap<Hash, u16>> {
        self.parts[part(hash)]
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn part(hash: &Hash) -> usize {
    usize::from(hash[0] >> PART_BITS_FROM)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::protocol::Type;

    fn hash(number: u8) -> Hash {
        let mut hash = [0; 20];
        hash[0] = number.wrapping_mul(73);
        hash[19] = number;
        hash
    }

    fn types(number: u8) -> TypeSet {
        TypeSet::default().with(Type(1 + u16::from(number % 3)))
    }

    proptest! {
        #[test]
        fn links_close_a_ring_over_all_that_are_there(
            first in prop::collection::btree_set(any::<u8>(), 1..40),
            changes in prop::collection::vec((any::<u8>(), any::<bool>()), 0..80),
        ) {
            let hashes = Hashes::of(first.iter().map(|number| (hash(*number), types(*number))).collect());
            let mut model: BTreeSet<Hash> = first.iter().map(|number| hash(*number)).collect();
            for (number, is_there) in changes {
                hashes.set(&hash(number), is_there.then(|| types(number)));
                match is_there {
                    true => model.insert(hash(number)),
                    false => model.remove(&hash(number)),
                };
            }
            for number in 0..=u8::MAX {
                let hash = hash(number);
                let next = model.range((Bound::Excluded(hash), Bound::Unbounded)).next();
                let next = next.or(model.first()).copied();
                let before = model.range(..hash).next_back().or(model.last()).copied();
                let at = hashes.at(&hash);
                let covering = hashes.covering(&hash);
                if model.contains(&hash) {
                    prop_assert_eq!(covering, None);
                    prop_assert_eq!(at, next.map(|next| Link { hash, next, types: types(number) }));
                } else {
                    prop_assert_eq!(at, None);
                    prop_assert_eq!(covering.map(|link| (link.hash, link.next)), before.zip(next));
                }
            }
        }
    }
}
