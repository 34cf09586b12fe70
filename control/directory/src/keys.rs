//! Which device a public key stands for: the key's hash, and the hash of the name whose device has it.
//!
//! Neither hash proves anything. Whoever is found is asked for the key itself.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::device::PublicKey;
use crate::table::NameHash;

/// As for the names: growing stops one shard's readers only.
const SHARDS: usize = 256;

/// The names by the keys of their devices.
pub(crate) struct Keys {
    hasher: RandomState,
    shards: Box<[RwLock<HashTable<Holding>>]>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Holding {
    key: u64,
    name: NameHash,
}

impl Keys {
    pub(crate) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
        }
    }

    /// What `ask` gives for the first name that may have `key` and for which it gives something.
    pub(crate) fn find<T>(
        &self,
        key: &PublicKey,
        ask: impl Fn(NameHash) -> Option<T>,
    ) -> Option<T> {
        let hash = self.hash(key);
        let shard = self.shard(hash).read();
        shard
            .unwrap_or_else(PoisonError::into_inner)
            .iter_hash(hash)
            .filter(|holding| holding.key == hash)
            .find_map(|holding| ask(holding.name))
    }

    pub(crate) fn insert(&self, key: &PublicKey, name: NameHash) {
        let (holding, mut holdings) = self.change(key, name);
        if let Entry::Vacant(entry) =
            holdings.entry(holding.key, |other| *other == holding, |other| other.key)
        {
            entry.insert(holding);
        }
    }

    pub(crate) fn remove(&self, key: &PublicKey, name: NameHash) {
        let (holding, mut holdings) = self.change(key, name);
        if let Ok(entry) = holdings.find_entry(holding.key, |other| *other == holding) {
            entry.remove();
        }
    }

    /// What is kept of a key and a name, and where, to be changed.
    fn change(
        &self,
        key: &PublicKey,
        name: NameHash,
    ) -> (Holding, RwLockWriteGuard<'_, HashTable<Holding>>) {
        let key = self.hash(key);
        let shard = self.shard(key).write();
        (
            Holding { key, name },
            shard.unwrap_or_else(PoisonError::into_inner),
        )
    }

    fn hash(&self, key: &PublicKey) -> u64 {
        self.hasher.hash_one(key)
    }

    fn shard(&self, hash: u64) -> &RwLock<HashTable<Holding>> {
        &self.shards[(hash >> 48) as usize % SHARDS]
    }
}
