//! Visitors who have not shown yet that they hear what is said to them. Their addresses may be forged, so there is a bound on them, in
//! all and for each device: with one more the oldest gives way, who has mostly shown it by then if its address is its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use directory::DeviceId;
use tokio_util::sync::CancellationToken;

/// So many of one relay.
const MOST: usize = 1024;

/// Those of one relay; clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Unproved(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    /// Whose visitor each is, and what tells it to give way.
    by_age: BTreeMap<u64, (DeviceId, CancellationToken)>,
    of_device: HashMap<DeviceId, BTreeSet<u64>>,
    next: u64,
}

impl Waiting {
    /// The one that gives way if one more comes to a device that may have so many.
    fn too_many(&self, device: &DeviceId, most: usize) -> Option<u64> {
        let of_device = self.of_device.get(device);
        let of_device = of_device.filter(|of_device| of_device.len() >= most);
        match of_device.and_then(BTreeSet::first) {
            Some(oldest) => Some(*oldest),
            None if self.by_age.len() >= MOST => self.by_age.keys().next().copied(),
            None => None,
        }
    }

    fn remove(&mut self, number: u64) -> Option<CancellationToken> {
        let (device, gives_way) = self.by_age.remove(&number)?;
        if let Some(of_device) = self.of_device.get_mut(&device) {
            of_device.remove(&number);
            if of_device.is_empty() {
                self.of_device.remove(&device);
            }
        }
        Some(gives_way)
    }
}

/// One of them, until it is dropped.
pub(super) struct Newcomer {
    unproved: Unproved,
    number: u64,
}

impl Unproved {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in one more of a device that may have so many, who is told by `gives_way` if it has to leave for another.
    pub(super) fn come(
        &self,
        device: DeviceId,
        most: usize,
        gives_way: CancellationToken,
    ) -> Newcomer {
        let mut waiting = self.lock();
        let oldest = waiting.too_many(&device, most);
        let oldest = oldest.and_then(|oldest| waiting.remove(oldest));
        let number = waiting.next;
        waiting.next += 1;
        waiting.by_age.insert(number, (device, gives_way));
        waiting.of_device.entry(device).or_default().insert(number);
        drop(waiting);
        if let Some(gives_way) = oldest {
            gives_way.cancel();
        }
        let unproved = self.clone();
        Newcomer { unproved, number }
    }
}

impl Newcomer {
    /// It has shown that it hears, and stays; `false` if it has to leave all the same, as it has been told.
    pub(super) fn stays(self) -> bool {
        self.leave()
    }

    fn leave(&self) -> bool {
        self.unproved.lock().remove(self.number).is_some()
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(number: usize) -> DeviceId {
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&number.to_be_bytes());
        DeviceId::from_bytes(octets)
    }

    fn tokens(count: usize) -> Vec<CancellationToken> {
        (0..count).map(|_| CancellationToken::new()).collect()
    }

    fn told(tokens: &[CancellationToken]) -> usize {
        tokens.iter().filter(|token| token.is_cancelled()).count()
    }

    #[test]
    fn as_many_give_way_as_come_beyond_the_bound_and_they_are_the_oldest() {
        let unproved = Unproved::default();
        let tokens = tokens(MOST + 100);
        let each = tokens.iter().enumerate();
        let mut came: Vec<_> = each
            .map(|(number, token)| unproved.come(device(number), 1, token.clone()))
            .collect();
        assert_eq!(told(&tokens), 100);
        assert_eq!(told(&tokens[..100]), 100);
        // None of those who were told has left yet, and of the others some do: for them nobody has to.
        assert!(!came.remove(0).stays());
        assert!(came.split_off(MOST).into_iter().all(Newcomer::stays));
        let more = (0..99).map(|number| unproved.come(device(number), 1, CancellationToken::new()));
        let more: Vec<_> = more.collect();
        assert_eq!(told(&tokens), 100);
        drop((came, more));
        let waiting = unproved.lock();
        assert!(waiting.by_age.is_empty() && waiting.of_device.is_empty());
    }

    #[test]
    fn of_one_device_its_own_oldest_give_way() {
        let unproved = Unproved::default();
        let (before, flood) = (tokens(5), tokens(20));
        let come =
            |number, token: &CancellationToken| unproved.come(device(number), 8, token.clone());
        let others: Vec<_> = before.iter().map(|token| come(1, token)).collect();
        let mut forged: Vec<_> = flood.iter().map(|token| come(2, token)).collect();
        assert_eq!((told(&before), told(&flood)), (0, 12));
        assert_eq!(told(&flood[..12]), 12);
        assert!(forged.remove(19).stays());
        forged.push(come(2, &CancellationToken::new()));
        assert_eq!(told(&flood), 12, "there was room");
        assert!(others.into_iter().all(Newcomer::stays));
    }
}
