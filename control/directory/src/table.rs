//! Every device by its name: packed, in shards, so that millions take little room and nobody waits long for a lock.
//!
//! ```text
//!   name ──hash──► shard ──► handles, four octets a device, found by the hash
//!                              └──► records: all of one shape side by side
//! ```
//!
//! A lookup makes its [`Device`] from the record. The hash is keyed anew in each process, so that nobody can choose names
//! that crowd one place.

mod records;
mod shape;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hashbrown::HashTable;

use crate::device::{Device, RegistrationId};
use crate::name::DeviceName;
use records::{Handle, Records};

/// Growing moves all handles of one shard, while nobody can read that shard: with ten million devices 40,000 of them.
const SHARDS: usize = 256;

/// The devices by name.
pub(crate) struct Table {
    hasher: RandomState,
    shards: Box<[RwLock<Shard>]>,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
        }
    }

    /// What stands for `name` where the name itself would be too long. Two names may share one.
    pub(crate) fn hash(&self, name: &DeviceName) -> NameHash {
        hash(&self.hasher, name.as_str().as_bytes())
    }

    pub(crate) fn device(&self, name: &DeviceName) -> Option<Device> {
        let hash = self.hash(name);
        let shard = self.read(hash);
        let handle = shard.find(hash, name)?;
        Some(shard.records.device(handle))
    }

    pub(crate) fn registration(&self, name: &DeviceName) -> Option<RegistrationId> {
        let hash = self.hash(name);
        let shard = self.read(hash);
        let handle = shard.find(hash, name)?;
        Some(shard.records.registration(handle))
    }

    /// The first device that `is_it`, among those whose names have this hash.
    pub(crate) fn device_by_hash(
        &self,
        hash: NameHash,
        is_it: impl Fn(&Device) -> bool,
    ) -> Option<Device> {
        let shard = self.read(hash);
        shard
            .handles
            .iter_hash(hash.0)
            .map(|handle| shard.records.device(*handle))
            .find(|device| self.hash(&device.name) == hash && is_it(device))
    }

    /// Keeps `device`; what was under its name before.
    pub(crate) fn put(&self, device: &Device) -> Option<Device> {
        let hash = self.hash(&device.name);
        let mut shard = self.write(hash);
        let before = shard.remove(hash, &device.name, &self.hasher);
        shard.insert(hash, device, &self.hasher);
        before
    }

    pub(crate) fn remove(&self, name: &DeviceName) -> Option<Device> {
        let hash = self.hash(name);
        self.write(hash).remove(hash, name, &self.hasher)
    }

    /// Calls `f` for each device, in no order and without a lock.
    pub(crate) fn for_each(&self, mut f: impl FnMut(Device)) {
        for shard in &self.shards {
            // A copy of one shard at a time: `f` may look things up here, and a lock that is taken twice may never be had.
            let devices = {
                let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
                let mut devices = Vec::with_capacity(shard.handles.len());
                shard.records.for_each(|device| devices.push(device));
                devices
            };
            devices.into_iter().for_each(&mut f);
        }
    }

    pub(crate) fn len(&self) -> usize {
        let len = |shard: &RwLock<Shard>| {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            shard.handles.len()
        };
        self.shards.iter().map(len).sum()
    }

    fn read(&self, hash: NameHash) -> RwLockReadGuard<'_, Shard> {
        self.shards[hash.shard()]
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, hash: NameHash) -> RwLockWriteGuard<'_, Shard> {
        self.shards[hash.shard()]
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A keyed hash of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NameHash(u64);

impl NameHash {
    /// By bits that say nothing of the place within the shard: hashbrown takes the lowest and the seven highest.
    fn shard(self) -> usize {
        (self.0 >> 48) as usize % SHARDS
    }
}

fn hash(hasher: &RandomState, name: &[u8]) -> NameHash {
    NameHash(hasher.hash_one(name))
}

/// The devices whose names' hashes lead here.
#[derive(Default)]
struct Shard {
    handles: HashTable<Handle>,
    records: Records,
}

impl Shard {
    fn find(&self, hash: NameHash, name: &DeviceName) -> Option<Handle> {
        let name = name.as_str().as_bytes();
        self.handles
            .find(hash.0, |handle| self.records.name(*handle) == name)
            .copied()
    }

    /// Adds a device whose name is not here.
    fn insert(&mut self, hash: NameHash, device: &Device, hasher: &RandomState) {
        let handle = self.records.push(device);
        let records = &self.records;
        self.handles.insert_unique(hash.0, handle, |handle| {
            self::hash(hasher, records.name(*handle)).0
        });
    }

    fn remove(
        &mut self,
        hash: NameHash,
        name: &DeviceName,
        hasher: &RandomState,
    ) -> Option<Device> {
        let name = name.as_str().as_bytes();
        let records = &self.records;
        let entry = self
            .handles
            .find_entry(hash.0, |handle| records.name(*handle) == name)
            .ok()?;
        let (handle, _) = entry.remove();
        let device = self.records.device(handle);
        if let Some(moved_from) = self.records.swap_remove(handle) {
            let hash = self::hash(hasher, self.records.name(handle));
            if let Some(moved) = self.handles.find_mut(hash.0, |h| *h == moved_from) {
                *moved = handle;
            }
        }
        Some(device)
    }
}
