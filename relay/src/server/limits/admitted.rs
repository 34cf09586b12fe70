//! A connection that has been let in, and what it counts for on its way: unnamed, then served, with the descriptors that it takes.

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::cohorts::Member;
use super::{Counts, Limits, MOST_AT_PORTS, PART_FOR_OTHERS, PART_PER_ADDRESS, Refusal, Silent};
use crate::counts::{Counted, CountedOfAddress};

/// A connection counted against the bounds, until it is dropped.
#[derive(Debug)]
pub struct Admitted {
    limits: Limits,
    from: IpAddr,
    _descriptor: Option<Counted>,
    /// That of its tls carrier, if it has one.
    carrier: Option<Box<Second>>,
    /// That of its raw connection.
    raw: Mutex<Option<Box<Second>>>,
    unnamed: Option<Unnamed>,
    served: Option<(Counted, CountedOfAddress)>,
    /// Absent until it is served.
    member: Option<Member>,
}

/// One more descriptor of a visitor.
#[derive(Debug)]
struct Second {
    _descriptor: Counted,
    _of_address: CountedOfAddress,
}

/// What counts a connection until it has said its name.
#[derive(Debug)]
struct Unnamed {
    _one: Counted,
    /// At its worker.
    here: Option<Counted>,
    /// Absent until its address is known.
    of_address: Option<CountedOfAddress>,
}

impl Admitted {
    /// A connection that has not said its name.
    pub(super) fn unnamed(
        limits: &Limits,
        from: IpAddr,
        descriptor: Counted,
        unnamed: Counted,
    ) -> Self {
        Self {
            _descriptor: Some(descriptor),
            unnamed: Some(Unnamed {
                _one: unnamed,
                here: None,
                of_address: None,
            }),
            ..Self::without_descriptor(limits, from)
        }
    }

    /// One over QUIC.
    pub(super) fn without_descriptor(limits: &Limits, from: IpAddr) -> Self {
        Self {
            limits: limits.clone(),
            from,
            _descriptor: None,
            carrier: None,
            raw: Mutex::default(),
            unnamed: None,
            served: None,
            member: None,
        }
    }

    /// The address it counts for.
    pub(crate) fn from(&self) -> IpAddr {
        self.from
    }

    /// It is known where it comes from: it counts for that address from now on.
    pub(crate) fn comes_from(&mut self, from: IpAddr) -> Result<(), Refusal> {
        let Counts {
            bounds,
            unnamed_by_address,
            connections,
            ..
        } = &*self.limits.0;
        self.from = from;
        if let Some(unnamed) = &mut self.unnamed {
            let per_address = bounds.unnamed_per_address.load(Relaxed);
            let of_address = unnamed_by_address.below(from, per_address);
            unnamed.of_address = Some(of_address.ok_or(Refusal::AddressBusy)?);
        }
        let each_second = bounds.connections_per_second.load(Relaxed);
        if !connections.take(from, each_second, Instant::now()) {
            return Err(Refusal::AddressTooFast);
        }
        Ok(())
    }

    /// It waits at a worker where there may be so many; somebody else may have to leave for it.
    pub(super) fn waits_among(&mut self, silent: &Silent, most: usize) {
        if let Some(unnamed) = &mut self.unnamed {
            unnamed.here = silent.one_more(most);
        }
    }

    /// The first octets have come: it is no longer one who says nothing.
    pub(crate) fn named(&mut self) {
        self.unnamed = None;
    }

    /// It is a visitor and is to be served: it counts as one from now on.
    pub(crate) fn serve(&mut self) -> Result<(), Refusal> {
        let counts = &*self.limits.0;
        if counts.memory.is_over() {
            return Err(Refusal::Memory); // those who are served keep what they have
        }
        self.count()?;
        self.member = Some(self.limits.0.memory.let_in(Instant::now()));
        Ok(())
    }

    /// Cancelled once it is to leave for want of memory. `None`: it is not served, or will not be told.
    pub(crate) fn shed(&self) -> Option<&CancellationToken> {
        self.member.as_ref().map(Member::shed)
    }

    /// It is to have a tls carrier, which is one more descriptor.
    pub(crate) fn takes_carrier(&mut self) -> Result<(), Refusal> {
        if self.carrier.is_none() {
            let second = self.second(self.limits.0.descriptors)?;
            self.carrier = Some(Box::new(second));
        }
        Ok(())
    }

    /// Whether it may have a raw connection, for which there is a descriptor then until it [has none](Self::leaves_raw), or leaves.
    pub(crate) fn takes_raw(&self) -> bool {
        let descriptors = self.limits.0.descriptors;
        let second = self.second(descriptors - descriptors / PART_FOR_OTHERS);
        let is_room = second.is_ok();
        *self.raw() = second.ok().map(Box::new);
        is_room
    }

    /// Its raw connection has not come.
    pub(crate) fn leaves_raw(&self) {
        *self.raw() = None;
    }

    fn raw(&self) -> MutexGuard<'_, Option<Box<Second>>> {
        self.raw.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A second descriptor, with which there are so many at most.
    fn second(&self, most: usize) -> Result<Second, Refusal> {
        let counts = &*self.limits.0;
        let descriptor = Counted::below(&counts.descriptors_taken, most);
        let per_address = counts.bounds.seconds_per_address.load(Relaxed);
        let of_address = counts.seconds_by_address.below(self.from, per_address);
        Ok(Second {
            _descriptor: descriptor.ok_or(Refusal::Full)?,
            _of_address: of_address.ok_or(Refusal::AddressFull)?,
        })
    }

    /// It counts as a visitor, and as one of its address, from now on.
    pub(crate) fn count(&mut self) -> Result<(), Refusal> {
        let bounds = &self.limits.0.bounds;
        let visitor = Counted::below(&self.limits.0.visitors, bounds.visitors.load(Relaxed));
        let visitor = visitor.ok_or(Refusal::Full)?;
        let per_address = bounds.visitors_per_address.load(Relaxed);
        let of_address = self
            .limits
            .0
            .visitors_by_address
            .below(self.from, per_address);
        self.served = Some((visitor, of_address.ok_or(Refusal::AddressFull)?));
        Ok(())
    }

    /// It counts as one who converses at a public UDP port, and as no other visitor.
    pub(crate) fn count_at_port(&mut self) -> Result<(), Refusal> {
        let counts = &*self.limits.0;
        let most = counts.bounds.visitors.load(Relaxed).min(MOST_AT_PORTS);
        let visitor = Counted::below(&counts.at_ports, most).ok_or(Refusal::Full)?;
        let per_address = most.div_ceil(PART_PER_ADDRESS);
        let of_address = counts.at_ports_by_address.below(self.from, per_address);
        self.served = Some((visitor, of_address.ok_or(Refusal::AddressFull)?));
        Ok(())
    }
}
