//! How many there are, in all and of each address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// One, counted in a shared number until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted(Arc<AtomicUsize>);

impl Counted {
    /// Counts one more unless that would exceed `limit`.
    pub(crate) fn below(counter: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        counter
            .fetch_update(Relaxed, Relaxed, |count| (count < limit).then(|| count + 1))
            .ok()?;
        Some(Self(Arc::clone(counter)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// So many, counted in a shared sum until it is dropped.
#[derive(Debug)]
pub(crate) struct Amount {
    sum: Arc<AtomicUsize>,
    amount: usize,
}

impl Amount {
    /// Counts `amount` unless the sum would then exceed `limit`.
    pub(crate) fn below(sum: &Arc<AtomicUsize>, amount: usize, limit: usize) -> Option<Self> {
        let more = |sum: usize| sum.checked_add(amount).filter(|sum| *sum <= limit);
        sum.fetch_update(Relaxed, Relaxed, more).ok()?;
        let sum = Arc::clone(sum);
        Some(Self { sum, amount })
    }
}

impl Drop for Amount {
    fn drop(&mut self) {
        self.sum.fetch_sub(self.amount, Relaxed);
    }
}

/// How many there are of each address that has any; clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct CountsByAddress(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl CountsByAddress {
    /// Counts one more of an address unless it would then have more than `limit`.
    pub(crate) fn below(&self, from: IpAddr, limit: usize) -> Option<CountedOfAddress> {
        let address = prefix(from);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.entry(address) {
            Entry::Occupied(count) if *count.get() >= limit => return None,
            Entry::Occupied(mut count) => *count.get_mut() += 1,
            Entry::Vacant(_) if limit == 0 => return None,
            Entry::Vacant(place) => {
                place.insert(1);
            }
        }
        Some(CountedOfAddress {
            address,
            counts: self.clone(),
        })
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().unwrap().is_empty()
    }
}

/// One, counted with its address until it is dropped.
#[derive(Debug)]
pub(crate) struct CountedOfAddress {
    address: IpAddr,
    counts: CountsByAddress,
}

impl Drop for CountedOfAddress {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = counts.entry(self.address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// What counts as one address: all of IPv4, and a site's /56 of IPv6.
pub(crate) fn prefix(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => {
            let mut octets = ip.octets();
            octets[7..].fill(0);
            octets.into()
        }
    }
}
