//! A disk that keeps only what was synced, and of the rest what it likes.
//!
//! - A crash can come at any call; every call after it fails until the disk is rebooted.
//! - Octets that were not synced are gone after a crash, or there in part, or there as zeros.
//! - Names that were not synced are as they were at some moment since.
//! - A sync that fails drops what it should have kept, and the next one claims that all is well (as Linux does).

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use ddns::store::{Disk, LogFile};

/// A clone is the same disk.
#[derive(Clone, Debug)]
pub(crate) struct FakeDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    inodes: Vec<Inode>,
    /// What the running system sees.
    names: BTreeMap<String, usize>,
    /// What a crash leaves, before any of `unsynced`.
    kept_names: BTreeMap<String, usize>,
    unsynced: Vec<NameChange>,
    /// No sync that has failed since the last crash has dropped the removal of a name.
    is_removal_whole: bool,
    dice: Dice,
    /// Calls until the crash.
    calls_left: u64,
    calls: u64,
    /// Of a hundred calls so many fail without a crash.
    faults: u64,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// What the running system sees.
    seen: Vec<u8>,
    /// What a crash leaves.
    kept: Vec<u8>,
    /// The part of `seen` that a failed sync has dropped: later syncs keep zeros there.
    dropped: std::ops::Range<usize>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

/// Numbers that are the same for the same seed (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to `sides - 1`.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.next() % sides
    }
}

impl FakeDisk {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            inodes: Vec::new(),
            names: BTreeMap::new(),
            kept_names: BTreeMap::new(),
            unsynced: Vec::new(),
            is_removal_whole: true,
            dice: Dice(seed),
            calls_left: u64::MAX,
            calls: 0,
            faults: 0,
        })))
    }

    /// The crash comes at the `calls`-th call from now.
    pub(crate) fn crash_after(&self, calls: u64) {
        self.0.lock().unwrap().calls_left = calls;
    }

    /// Of a hundred calls so many fail from now on.
    pub(crate) fn set_faults(&self, of_a_hundred: u64) {
        self.0.lock().unwrap().faults = of_a_hundred;
    }

    pub(crate) fn calls(&self) -> u64 {
        self.0.lock().unwrap().calls
    }

    pub(crate) fn has_crashed(&self) -> bool {
        self.0.lock().unwrap().calls_left == 0
    }

    /// What a crash now would surely leave, under all names that something can be read by.
    pub(crate) fn kept(&self) -> Vec<u8> {
        let state = self.0.lock().unwrap();
        let named = state.kept_names.iter();
        // Nobody can take away again what is not seen any more, before a crash shows it.
        let inodes = named.filter(|(name, _)| {
            !name.ends_with(".new") && (state.names.contains_key(*name) || state.is_removal_whole)
        });
        inodes
            .flat_map(|(_, inode)| state.inodes[*inode].kept.clone())
            .collect()
    }

    /// The process has ended and the machine has not: what was not synced is still seen, and may be lost later.
    pub(crate) fn restart(&self) {
        let mut state = self.0.lock().unwrap();
        state.calls_left = u64::MAX;
        state.faults = 0;
    }

    /// Loses what was not synced, and works again.
    pub(crate) fn reboot(&self) {
        let mut state = self.0.lock().unwrap();
        let State {
            inodes,
            names,
            kept_names,
            unsynced,
            dice,
            ..
        } = &mut *state;
        let lasting = dice.roll(unsynced.len() as u64 + 1) as usize;
        for change in unsynced.drain(..).take(lasting) {
            change.apply(kept_names);
        }
        *names = kept_names.clone();
        for inode in inodes {
            inode.crash(dice);
        }
        state.calls_left = u64::MAX;
        state.faults = 0;
        state.is_removal_whole = true;
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Create(name, inode) => _ = names.insert(name.clone(), *inode),
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            Self::Remove(name) => _ = names.remove(name),
        }
    }
}

impl Inode {
    /// What of `seen` a perfect sync keeps.
    fn keepable(&self) -> Vec<u8> {
        let mut octets = self.seen.clone();
        for at in self.dropped.clone() {
            if let Some(octet) = octets.get_mut(at) {
                *octet = 0;
            }
        }
        octets
    }

    fn crash(&mut self, dice: &mut Dice) {
        let unsynced = self.keepable();
        let kept = self.kept.len();
        self.kept = match dice.roll(4) {
            // It grew only at its end, and some of that is there, or its length is and zeros are.
            choice @ (0 | 1) if unsynced.starts_with(&self.kept) => {
                let grown = (unsynced.len() - kept) as u64;
                let there = kept + dice.roll(grown + 1) as usize;
                let mut octets = unsynced;
                if choice == 0 {
                    octets.truncate(there);
                } else {
                    octets[there..].fill(0);
                }
                octets
            }
            2 => unsynced,
            _ => self.kept.clone(),
        };
        self.seen = self.kept.clone();
        self.dropped = 0..0;
    }
}

impl State {
    /// Whether this call comes to its end. A call that does not may still have done something.
    fn call(&mut self) -> io::Result<()> {
        if self.calls_left == 0 {
            return Err(io::Error::other("the disk is gone"));
        }
        self.calls += 1;
        self.calls_left -= 1;
        if self.calls_left == 0 {
            return Err(io::Error::other("a crash"));
        }
        if self.dice.roll(100) < self.faults {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl Disk for FakeDisk {
    type File = FakeFile;

    fn names(&self) -> io::Result<Vec<String>> {
        let mut state = self.0.lock().unwrap();
        state.call()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let mut state = self.0.lock().unwrap();
        state.call()?;
        let inode = state.names.get(name).copied();
        Ok(inode.map(|inode| state.inodes[inode].seen.clone()))
    }

    fn create(&self, name: &str) -> io::Result<FakeFile> {
        let mut state = self.0.lock().unwrap();
        let came_to_end = state.call();
        let inode = match state.names.get(name) {
            Some(&inode) => inode,
            None => {
                state.inodes.push(Inode::default());
                let inode = state.inodes.len() - 1;
                let change = NameChange::Create(name.into(), inode);
                change.apply(&mut state.names);
                state.unsynced.push(change);
                inode
            }
        };
        state.inodes[inode].seen.clear();
        state.inodes[inode].dropped = 0..0;
        came_to_end.map(|()| FakeFile {
            disk: self.clone(),
            inode,
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        let came_to_end = state.call();
        if came_to_end.is_ok() || state.dice.roll(2) == 0 {
            let change = NameChange::Remove(name.into());
            change.apply(&mut state.names);
            state.unsynced.push(change);
        }
        came_to_end
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        let came_to_end = state.call();
        if came_to_end.is_ok() || state.dice.roll(2) == 0 {
            let change = NameChange::Rename(from.into(), to.into());
            change.apply(&mut state.names);
            state.unsynced.push(change);
        }
        came_to_end
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        let came_to_end = state.call();
        let State {
            kept_names,
            unsynced,
            is_removal_whole,
            dice,
            ..
        } = &mut *state;
        let all = unsynced.len();
        let lasting = match came_to_end {
            Ok(()) => all,
            Err(_) => dice.roll(all as u64 + 1) as usize,
        };
        let dropped = &unsynced[lasting..];
        *is_removal_whole &= !dropped
            .iter()
            .any(|change| matches!(change, NameChange::Remove(_)));
        // What a failed sync has not kept is never kept, unless it is done again.
        for change in unsynced.drain(..).take(lasting) {
            change.apply(kept_names);
        }
        came_to_end
    }
}

#[derive(Debug)]
pub(crate) struct FakeFile {
    disk: FakeDisk,
    inode: usize,
}

impl LogFile for FakeFile {
    fn append(&mut self, octets: &[u8]) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        let came_to_end = state.call();
        let written = match came_to_end {
            Ok(()) => octets.len(),
            Err(_) => state.dice.roll(octets.len() as u64 + 1) as usize,
        };
        state.inodes[self.inode].seen.extend(&octets[..written]);
        came_to_end
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        let came_to_end = state.call();
        let State { inodes, dice, .. } = &mut *state;
        let inode = &mut inodes[self.inode];
        match came_to_end {
            Ok(()) => inode.kept = inode.keepable(),
            Err(_) => {
                let kept = inode.kept.len().min(inode.seen.len());
                inode.crash_in_part(kept, dice);
            }
        }
        came_to_end
    }
}

impl Inode {
    /// A failed sync: some of what was new is kept, and the rest never will be.
    fn crash_in_part(&mut self, kept: usize, dice: &mut Dice) {
        let new = (self.seen.len() - kept) as u64;
        let there = kept + dice.roll(new + 1) as usize;
        if self.seen.starts_with(&self.kept) {
            self.kept = self.keepable()[..there].to_vec();
        }
        let dropped = there..self.seen.len();
        self.dropped = if self.dropped.is_empty() {
            dropped
        } else {
            self.dropped.start..self.seen.len()
        };
    }
}
