//! The visitors of one device: how many there may be, and of one address.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::PART_PER_ADDRESS;
use crate::counts::{Counted, CountedOfAddress, CountsByAddress};

/// The count of a device's session that takes no visitors any more: above every limit.
const CLOSED: usize = usize::MAX;

/// A visitor counted among those of its device, until it is dropped.
#[derive(Debug)]
pub(crate) struct DeviceVisitor {
    _here: Counted,
    /// Absent until it takes one.
    place: Option<(Counted, CountedOfAddress)>,
}

/// The visitors of one device.
#[derive(Debug, Default)]
pub(crate) struct DeviceVisitors {
    here: Arc<AtomicUsize>,
    of_device: OfDevice,
    /// Those who converse at its public UDP ports, who take no places of the others.
    at_ports: OfDevice,
}

/// The same over all sessions that the device has.
#[derive(Clone, Debug, Default)]
struct OfDevice {
    all: Arc<AtomicUsize>,
    by_address: CountsByAddress,
}

impl OfDevice {
    fn place(&self, from: IpAddr, most: usize) -> Option<(Counted, CountedOfAddress)> {
        let one = Counted::below(&self.all, most)?;
        let per_address = most.div_ceil(PART_PER_ADDRESS);
        Some((one, self.by_address.below(from, per_address)?))
    }
}

impl DeviceVisitors {
    /// Those of another session of the same device, of which there are none yet.
    pub(crate) fn beside(&self) -> Self {
        Self {
            here: Arc::default(),
            of_device: self.of_device.clone(),
            at_ports: self.at_ports.clone(),
        }
    }

    /// Counts a visitor in, until the value is dropped; `None` if the device has `most`, in all or as many of them from there as
    /// one address may have.
    pub(crate) fn admit(&self, from: IpAddr, most: usize) -> Option<DeviceVisitor> {
        let mut visitor = self.admit_without_place()?;
        self.give_place(&mut visitor, from, most).then_some(visitor)
    }

    /// The same of one whose address may be forged: the session knows that it is there, but it takes none of the device's places.
    pub(crate) fn admit_without_place(&self) -> Option<DeviceVisitor> {
        Some(DeviceVisitor {
            _here: Counted::below(&self.here, CLOSED)?,
            place: None,
        })
    }

    /// It takes a place now; `false` if there is none for it.
    pub(crate) fn give_place(
        &self,
        visitor: &mut DeviceVisitor,
        from: IpAddr,
        most: usize,
    ) -> bool {
        visitor.place = self.of_device.place(from, most);
        visitor.place.is_some()
    }

    /// The same of those at its public UDP ports.
    pub(crate) fn give_place_at_port(
        &self,
        visitor: &mut DeviceVisitor,
        from: IpAddr,
        most: usize,
    ) -> bool {
        visitor.place = self.at_ports.place(from, most);
        visitor.place.is_some()
    }

    pub(crate) fn any(&self) -> bool {
        self.now() > 0
    }

    /// How many there are.
    pub(crate) fn now(&self) -> usize {
        match self.here.load(Relaxed) {
            CLOSED => 0,
            count => count,
        }
    }

    /// Admits nobody any more, from a moment at which there is nobody; `false` if there is somebody now.
    pub(crate) fn close_if_empty(&self) -> bool {
        let closed = self.here.compare_exchange(0, CLOSED, Relaxed, Relaxed);
        closed.is_ok() || closed == Err(CLOSED)
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::VISITORS_PER_DEVICE as MOST;
    use super::super::tests::ip;
    use super::*;

    #[test]
    fn one_address_may_have_half_of_a_device() {
        let device = DeviceVisitors::default();
        let from_one: Vec<_> = std::iter::from_fn(|| device.admit(ip("192.0.2.1"), MOST)).collect();
        assert_eq!(from_one.len(), MOST / PART_PER_ADDRESS);
        assert!(device.admit(ip("192.0.2.2"), MOST).is_some());
        assert!(
            device
                .admit(ip("192.0.2.2"), MOST / PART_PER_ADDRESS)
                .is_none()
        );
        drop(from_one);
        assert!(!device.any());
        assert!(device.admit(ip("192.0.2.1"), 1).is_some());
    }

    #[test]
    fn a_device_has_its_places_once_however_many_sessions_it_has() {
        let older = DeviceVisitors::default();
        let newer = older.beside();
        let _visitor = older.admit(ip("192.0.2.1"), 2).unwrap();
        let other = newer.admit(ip("192.0.2.2"), 2).unwrap();
        assert!(newer.admit(ip("192.0.2.3"), 2).is_none());
        assert_eq!((older.now(), newer.now()), (1, 1));
        drop(other);
        assert!(newer.close_if_empty(), "of its own it has none");
        assert!(older.admit(ip("192.0.2.3"), 2).is_some());
    }

    #[test]
    fn who_is_let_in_is_there_before_it_closes_or_not_at_all() {
        let device = DeviceVisitors::default();
        let visitor = device.admit(ip("192.0.2.1"), MOST).unwrap();
        assert!(!device.close_if_empty());
        drop(visitor);
        assert!(device.close_if_empty());
        assert!(device.close_if_empty());
        assert!(!device.any());
        assert!(device.admit(ip("192.0.2.1"), MOST).is_none());
    }

    #[test]
    fn coming_and_closing_at_once_never_both_succeed() {
        for _ in 0..1000 {
            let device = DeviceVisitors::default();
            let (came, closed) = std::thread::scope(|scope| {
                let comes = scope.spawn(|| device.admit(ip("192.0.2.1"), MOST));
                let closed = device.close_if_empty();
                (comes.join().unwrap(), closed)
            });
            assert_ne!(came.is_some(), closed);
        }
    }
}
