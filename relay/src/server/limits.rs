//! Who may come in: bounds on visitors before anything is known of them, and on visitors in all.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::program;

use super::refusal::Refusal;

/// How long a visitor may take to say its name, and an agent to say who it is.
pub(crate) const HELLO_TIME: Duration = Duration::from_secs(5);

/// Connections whose hello has not come yet, at most. Each may hold `client_hello::MAX_READ` octets.
const MAX_UNNAMED: usize = 4096;

/// The same from one address: a quarter, so that four addresses are needed to shut others out for [`HELLO_TIME`].
const MAX_UNNAMED_PER_ADDRESS: usize = 1024;

/// Of the visitors in all, and of those of one device, one address may have this part: a household or an office behind one
/// address is many, but never everybody.
const PART_PER_ADDRESS: usize = 2;

/// Visitors of one device at a time. Below the number of streams its agent grants, so that one is always free.
const MAX_VISITORS_PER_DEVICE: usize = 4000;

/// The count of a device's session that takes no visitors any more: above every limit.
const CLOSED: usize = usize::MAX;

/// Descriptors left for everything that is not a visitor: listeners, files, the database, agents over TLS, pipes, and raw
/// connections beside tls carriers.
const RESERVED_DESCRIPTORS: u64 = 2048;

/// Counts visitors against the bounds; clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    max_visitors: usize,
    visitors: Arc<AtomicUsize>,
    visitors_by_address: CountsByAddress,
    unnamed: Arc<AtomicUsize>,
    unnamed_by_address: CountsByAddress,
}

impl Limits {
    /// Bounds for a process with as many descriptors as it may have; raises its soft limit to the hard one.
    pub(crate) fn for_this_process() -> Self {
        let descriptors = program::raise_descriptor_limit();
        // A visitor over a tls carrier takes two descriptors here.
        let reserved = RESERVED_DESCRIPTORS.min(descriptors / 4);
        let max_visitors = (descriptors - reserved) / 2;
        Self::new(usize::try_from(max_visitors.max(1)).unwrap_or(usize::MAX))
    }

    fn new(max_visitors: usize) -> Self {
        Self {
            max_visitors,
            visitors: Arc::default(),
            visitors_by_address: CountsByAddress::default(),
            unnamed: Arc::default(),
            unnamed_by_address: CountsByAddress::default(),
        }
    }

    /// Lets a visitor in, or says why not.
    pub(crate) fn admit(&self, from: IpAddr) -> Result<Admitted, Refusal> {
        let visitor = Counted::below(&self.visitors, self.max_visitors).ok_or(Refusal::Full)?;
        let unnamed = Counted::below(&self.unnamed, MAX_UNNAMED).ok_or(Refusal::Full)?;
        let per_address = (self.max_visitors / PART_PER_ADDRESS).max(1);
        let of_address = self.visitors_by_address.below(from, per_address);
        let unnamed_of_address = self.unnamed_by_address.below(from, MAX_UNNAMED_PER_ADDRESS);
        let (Some(of_address), Some(unnamed_of_address)) = (of_address, unnamed_of_address) else {
            return Err(Refusal::AddressBusy);
        };
        Ok(Admitted {
            _visitor: (visitor, of_address),
            unnamed: Some((unnamed, unnamed_of_address)),
        })
    }
}

/// A visitor counted against the bounds, until it is dropped.
#[derive(Debug)]
pub struct Admitted {
    _visitor: (Counted, CountedOfAddress),
    unnamed: Option<(Counted, CountedOfAddress)>,
}

impl Admitted {
    /// The hello has come: only the bounds on visitors as such count from now on.
    pub(crate) fn named(&mut self) {
        self.unnamed = None;
    }
}

/// A visitor counted among those of its device, until it is dropped.
#[derive(Debug)]
pub(crate) struct DeviceVisitor {
    _counted: (Counted, CountedOfAddress),
}

/// The visitors of one device.
#[derive(Debug, Default)]
pub(crate) struct DeviceVisitors {
    all: Arc<AtomicUsize>,
    by_address: CountsByAddress,
}

impl DeviceVisitors {
    /// Counts a visitor in, until the value is dropped; `None` if the device has as many as it may, in all or from there.
    pub(crate) fn admit(&self, from: IpAddr) -> Option<DeviceVisitor> {
        let one = Counted::below(&self.all, MAX_VISITORS_PER_DEVICE)?;
        let of_address = self
            .by_address
            .below(from, MAX_VISITORS_PER_DEVICE / PART_PER_ADDRESS)?;
        Some(DeviceVisitor {
            _counted: (one, of_address),
        })
    }

    pub(crate) fn any(&self) -> bool {
        self.now() > 0
    }

    /// How many there are.
    pub(crate) fn now(&self) -> usize {
        match self.all.load(Relaxed) {
            CLOSED => 0,
            count => count,
        }
    }

    /// Admits nobody any more, from a moment at which there is nobody; `false` if there is somebody now.
    pub(crate) fn close_if_empty(&self) -> bool {
        let closed = self.all.compare_exchange(0, CLOSED, Relaxed, Relaxed);
        closed.is_ok() || closed == Err(CLOSED)
    }
}

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

/// How many there are of each address that has any; clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct CountsByAddress(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl CountsByAddress {
    /// Counts one more of an address unless it would then have more than `limit`.
    pub(crate) fn below(&self, from: IpAddr, limit: usize) -> Option<CountedOfAddress> {
        let address = prefix(from);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_insert(0);
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(CountedOfAddress {
            address,
            counts: self.clone(),
        })
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
fn prefix(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => {
            let mut octets = ip.octets();
            octets[7..].fill(0);
            octets.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_cannot_take_every_place() {
        let limits = Limits::new(usize::MAX);
        let mut held = Vec::new();
        while let Ok(admitted) = limits.admit(ip("2001:db8::1")) {
            held.push(admitted);
        }
        assert_eq!(held.len(), MAX_UNNAMED_PER_ADDRESS);
        assert_eq!(
            limits.admit(ip("2001:db8:0:ff::2")).unwrap_err(),
            Refusal::AddressBusy
        );
        assert!(limits.admit(ip("2001:db8:0:100::1")).is_ok());

        held[0].named();
        assert!(limits.admit(ip("2001:db8::3")).is_ok());
    }

    #[test]
    fn everybody_who_leaves_makes_room() {
        let limits = Limits::new(2);
        let first = limits.admit(ip("192.0.2.1")).unwrap();
        let _second = limits.admit(ip("192.0.2.2")).unwrap();
        assert_eq!(limits.admit(ip("192.0.2.3")).unwrap_err(), Refusal::Full);
        drop(first);
        assert!(limits.admit(ip("192.0.2.3")).is_ok());
    }

    #[test]
    fn one_address_may_have_half_of_the_visitors_and_leaves_nothing_behind() {
        let limits = Limits::new(4);
        let mut held = Vec::new();
        while let Ok(mut admitted) = limits.admit(ip("192.0.2.1")) {
            admitted.named();
            held.push(admitted);
        }
        assert_eq!(held.len(), 2);
        assert!(limits.admit(ip("192.0.2.2")).is_ok());
        drop(held);
        assert!(limits.visitors_by_address.0.lock().unwrap().is_empty());
        assert!(limits.unnamed_by_address.0.lock().unwrap().is_empty());
    }

    #[test]
    fn one_address_may_have_half_of_a_device() {
        let device = DeviceVisitors::default();
        let from_one: Vec<_> = std::iter::from_fn(|| device.admit(ip("192.0.2.1"))).collect();
        assert_eq!(from_one.len(), MAX_VISITORS_PER_DEVICE / PART_PER_ADDRESS);
        assert!(device.admit(ip("192.0.2.2")).is_some());
        drop(from_one);
        assert!(!device.any());
    }

    #[test]
    fn who_is_let_in_is_there_before_it_closes_or_not_at_all() {
        let device = DeviceVisitors::default();
        let visitor = device.admit(ip("192.0.2.1")).unwrap();
        assert!(!device.close_if_empty());
        drop(visitor);
        assert!(device.close_if_empty());
        assert!(device.close_if_empty());
        assert!(!device.any());
        assert!(device.admit(ip("192.0.2.1")).is_none());
    }

    #[test]
    fn coming_and_closing_at_once_never_both_succeed() {
        for _ in 0..1000 {
            let device = DeviceVisitors::default();
            let (came, closed) = std::thread::scope(|scope| {
                let comes = scope.spawn(|| device.admit(ip("192.0.2.1")));
                let closed = device.close_if_empty();
                (comes.join().unwrap(), closed)
            });
            assert_ne!(came.is_some(), closed);
        }
    }
}
