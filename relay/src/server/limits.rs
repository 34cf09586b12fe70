//! Who may come in: bounds on visitors before anything is known of them, on those who are served, and on handshakes.
//!
//! ```text
//!   accept ─► unnamed: one descriptor, so many a second ─► its hello ─► served: one of a device's places
//!         a second descriptor, when there is to be one: a tls carrier, without which it is sent away, or a raw connection, without which
//!         it stays where it is
//! ```
//!
//! Descriptors are what runs out first, so they are what is counted: those who say nothing can never have so many that none is
//! left for those who are served. All bounds may change at any time, and hold for whoever comes next.

mod cohorts;
mod config;
mod memory;
mod rate;
mod silent;

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::counts::{Amount, Counted, CountedOfAddress, CountsByAddress};
use crate::program;

use super::metrics::Metrics;
use super::refusal::Refusal;
use cohorts::Member;
pub(crate) use config::VISITORS_PER_DEVICE;
pub use config::{LEAST_BYTES_PER_SECOND, LimitsConfig, MOST_BYTES_PER_SECOND};
use memory::Memory;
use rate::RateByAddress;
pub(crate) use silent::Silent;

/// How long a visitor may take to say its name, and an agent to say who it is.
pub(crate) const HELLO_TIME: Duration = Duration::from_secs(5);

/// Of the visitors in all, and of those of one device, one address may have this part: a household or an office behind one
/// address is many, but never everybody.
const PART_PER_ADDRESS: usize = 2;

/// The count of a device's session that takes no visitors any more: above every limit.
const CLOSED: usize = usize::MAX;

/// Descriptors left for everything that is not a visitor: listeners, files, the database, agents over TLS, spare tls carriers, and pipes.
const RESERVED_DESCRIPTORS: u64 = 2048;

/// Of the descriptors, visitors with one each leave at least this part, to those who are yet to come and to tls carriers; and so do raw
/// connections, which arrive as everybody does.
const PART_FOR_OTHERS: usize = 8;

/// Of the descriptors, the carriers and raw connections of one address's visitors have this part: half of those that there are if each
/// visitor has one.
const PART_FOR_SECONDS_OF_ADDRESS: usize = 2 * PART_PER_ADDRESS;

/// Of the descriptors, those who have not said their name leave at least this part to those who are served.
const PART_FOR_SERVED: usize = 7;

/// Who is sent away and told keeps a descriptor for a second or two; of one address only so many do. The others' connections are closed
/// at once, and they may not hear why.
const LINGERING_PER_ADDRESS: usize = 64;

/// While memory is short, so many do in all: each takes some kilobytes.
const LINGERING_WHEN_MEMORY_IS_SHORT: usize = 256;

/// So many may be there while others are still about to leave, in parts of the bound.
const PART_TO_GIVE_WAY: usize = 16;

/// While memory is short, so many may be there who have not said their name, in parts of the bound: each may hold some kilobytes of a
/// hello, and would be sent away at its end.
const PART_WHEN_MEMORY_IS_SHORT: usize = 32;

/// So many converse at public UDP ports of all devices, and never more than there may be visitors. They take no descriptors here.
const MOST_AT_PORTS: usize = 16_384;

/// Octets held of one hello are not counted up to here. They are held twice, and most hellos have less than two thousand.
const USUAL_HELLO: usize = 4 * 1024;

/// What is held beyond that, of all hellos together: with as many usual ones as there may be, less than a hundred megabytes.
const LONG_HELLOS: usize = 32 * 1024 * 1024;

/// The bounds that are in force.
#[derive(Debug, Default)]
struct Bounds {
    visitors: AtomicUsize,
    visitors_per_address: AtomicUsize,
    /// How many descriptors an address's visitors have beside their own.
    seconds_per_address: AtomicUsize,
    visitors_per_device: AtomicUsize,
    unnamed: AtomicUsize,
    unnamed_per_address: AtomicUsize,
    connections_per_second: AtomicU32,
    handshakes_per_second: AtomicU32,
    tls_handshakes: AtomicUsize,
    retry_above: AtomicUsize,
    /// 0: none.
    bytes_per_second_per_device: AtomicU64,
}

/// Counts visitors against the bounds; clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Limits(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    bounds: Bounds,
    memory: Memory,
    /// How many descriptors there are for visitors.
    descriptors: usize,
    descriptors_taken: Arc<AtomicUsize>,
    visitors: Arc<AtomicUsize>,
    visitors_by_address: CountsByAddress,
    seconds_by_address: CountsByAddress,
    /// Those who converse at public UDP ports, whose addresses may be forged all the same.
    at_ports: Arc<AtomicUsize>,
    at_ports_by_address: CountsByAddress,
    unnamed: Arc<AtomicUsize>,
    unnamed_by_address: CountsByAddress,
    /// Octets of hellos that are long and not complete.
    long_hellos: Arc<AtomicUsize>,
    /// Those who are being told why they are sent away.
    lingering: Arc<AtomicUsize>,
    lingering_by_address: CountsByAddress,
    connections: RateByAddress,
    /// Visitors over QUIC, whose addresses may be forged.
    flows: RateByAddress,
    /// Of addresses that are known to be real, and of those that may be forged.
    handshakes: RateByAddress,
    handshakes_unproved: RateByAddress,
}

impl Limits {
    /// Bounds for a process with as many descriptors as it may have; raises its soft limit to the hard one.
    pub(crate) fn for_this_process(config: &LimitsConfig, metrics: &Metrics) -> Self {
        let descriptors = program::raise_descriptor_limit();
        let reserved = RESERVED_DESCRIPTORS.min(descriptors / 4);
        let for_visitors = usize::try_from(descriptors - reserved).unwrap_or(usize::MAX);
        let [used, budget] = metrics.memory();
        Self::new(for_visitors, Memory::new(used, budget), config)
    }

    fn new(descriptors: usize, memory: Memory, config: &LimitsConfig) -> Self {
        let now = Instant::now();
        let limits = Self(Arc::new(Counts {
            bounds: Bounds::default(),
            memory,
            descriptors,
            descriptors_taken: Arc::default(),
            visitors: Arc::default(),
            visitors_by_address: CountsByAddress::default(),
            seconds_by_address: CountsByAddress::default(),
            at_ports: Arc::default(),
            at_ports_by_address: CountsByAddress::default(),
            unnamed: Arc::default(),
            unnamed_by_address: CountsByAddress::default(),
            long_hellos: Arc::default(),
            lingering: Arc::default(),
            lingering_by_address: CountsByAddress::default(),
            connections: RateByAddress::new(now),
            flows: RateByAddress::new(now),
            handshakes: RateByAddress::new(now),
            handshakes_unproved: RateByAddress::new(now),
        }));
        limits.set(config);
        limits
    }

    /// From now on these bounds are in force. Nobody who is here has to leave.
    pub(crate) fn set(&self, config: &LimitsConfig) {
        let Counts {
            bounds,
            descriptors,
            ..
        } = &*self.0;
        let possible = (descriptors - descriptors / PART_FOR_OTHERS).max(1);
        let visitors = config.visitors.unwrap_or(possible).min(possible);
        let per_address = (visitors / PART_PER_ADDRESS).max(1);
        let seconds = (descriptors / PART_FOR_SECONDS_OF_ADDRESS).max(1);
        let unnamed = config.unnamed.unwrap_or(config::UNNAMED);
        let unnamed = unnamed.min(descriptors - descriptors / PART_FOR_SERVED);
        for (bound, value) in [
            (&bounds.visitors, visitors),
            (
                &bounds.visitors_per_address,
                config.visitors_per_address.unwrap_or(per_address),
            ),
            (
                &bounds.seconds_per_address,
                config
                    .visitors_per_address
                    .map_or(seconds, |most| most.saturating_mul(2)), // a carrier, and a raw connection beside it
            ),
            (
                &bounds.visitors_per_device,
                config
                    .visitors_per_device
                    .unwrap_or(config::VISITORS_PER_DEVICE),
            ),
            (&bounds.unnamed, unnamed),
            (
                &bounds.unnamed_per_address,
                config
                    .unnamed_per_address
                    .unwrap_or(config::UNNAMED_PER_ADDRESS),
            ),
            (
                &bounds.tls_handshakes,
                config
                    .tls_handshakes_per_worker
                    .unwrap_or(config::TLS_HANDSHAKES),
            ),
            (
                &bounds.retry_above,
                config.retry_above.unwrap_or(config::RETRY_ABOVE),
            ),
        ] {
            bound.store(value, Relaxed);
        }
        let connections = config.connections_per_second_per_address;
        let connections = connections.unwrap_or(config::CONNECTIONS_PER_SECOND);
        bounds.connections_per_second.store(connections, Relaxed);
        let handshakes = config.handshakes_per_second_per_address;
        let handshakes = handshakes.unwrap_or(config::HANDSHAKES_PER_SECOND);
        bounds.handshakes_per_second.store(handshakes, Relaxed);
        self.0.memory.set_budget(config.memory);
        let bytes = config.bytes_per_second_per_device.unwrap_or(0);
        bounds.bytes_per_second_per_device.store(bytes, Relaxed);
    }

    /// Lets a connection in where the `silent` wait who came before it, or says why not.
    pub(crate) fn admit(&self, from: IpAddr, silent: &Silent) -> Result<Admitted, Refusal> {
        let (mut admitted, most) = self.admit_one(from)?;
        admitted.comes_from(from)?;
        admitted.waits_among(silent, most);
        Ok(admitted)
    }

    /// The same for one of a proxy, which is yet to say who it is that [comes](Admitted::comes_from): no address is counted until then.
    pub(crate) fn admit_from_proxy(
        &self,
        proxy: IpAddr,
        silent: &Silent,
    ) -> Result<Admitted, Refusal> {
        let (mut admitted, most) = self.admit_one(proxy)?;
        admitted.waits_among(silent, most);
        Ok(admitted)
    }

    /// Counts one more among those who have not said their name, of whom there are to be so many.
    fn admit_one(&self, from: IpAddr) -> Result<(Admitted, usize), Refusal> {
        let Counts {
            bounds,
            descriptors,
            ..
        } = &*self.0;
        let descriptor = Counted::below(&self.0.descriptors_taken, *descriptors);
        let descriptor = descriptor.ok_or(Refusal::Full)?;
        // Who has been silent longest gives way to the newest: mostly that one has said its name by then, whatever flood there is.
        let most = bounds.unnamed.load(Relaxed);
        let (most, refusal) = match self.0.memory.is_over() {
            true => ((most / PART_WHEN_MEMORY_IS_SHORT).max(1), Refusal::Memory),
            false => (most, Refusal::UnnamedFull),
        };
        let one = Counted::below(&self.0.unnamed, most + most / PART_TO_GIVE_WAY);
        let unnamed = Unnamed {
            _one: one.ok_or(refusal)?,
            here: None,
            of_address: None,
        };
        let admitted = Admitted {
            limits: self.clone(),
            from,
            _descriptor: Some(descriptor),
            carrier: None,
            raw: Mutex::default(),
            unnamed: Some(unnamed),
            served: None,
            member: None,
        };
        Ok((admitted, most))
    }

    /// Lets in a visitor who has come over QUIC, or says why not. It takes no descriptor here. Its address may be forged: what that
    /// uses up in a second is no part of what the address's owner may use over TCP, and as long as it may be, it does not
    /// [count](Admitted::count).
    pub(crate) fn admit_flow(&self, from: IpAddr) -> Result<Admitted, Refusal> {
        let each_second = self.0.bounds.connections_per_second.load(Relaxed);
        if !self.0.flows.take(from, each_second, Instant::now()) {
            return Err(Refusal::AddressTooFast);
        }
        if self.0.memory.is_over() {
            return Err(Refusal::Memory);
        }
        Ok(Admitted {
            limits: self.clone(),
            from,
            _descriptor: None,
            carrier: None,
            raw: Mutex::default(),
            unnamed: None,
            served: None,
            member: None,
        })
    }

    /// Counts the octets of one hello that is not complete, anew whenever there are more of them. Whoever sends no more than is
    /// usual is not sent away for others who do.
    pub(crate) fn hold(&self, held: &mut Option<Amount>, octets: usize) -> Result<(), Refusal> {
        *held = None;
        let beyond = octets.saturating_sub(USUAL_HELLO);
        if beyond > 0 {
            let counted = Amount::below(&self.0.long_hellos, beyond, LONG_HELLOS);
            *held = Some(counted.ok_or(Refusal::HellosFull)?);
        }
        Ok(())
    }

    /// Room for one more from an address who is told why it is sent away, and may take a while to hear it.
    pub(crate) fn linger(&self, from: IpAddr) -> Option<(Counted, CountedOfAddress)> {
        let most = match self.0.memory.is_over() {
            true => LINGERING_WHEN_MEMORY_IS_SHORT,
            false => self.0.descriptors,
        };
        let one = Counted::below(&self.0.lingering, most)?;
        let of_address = self
            .0
            .lingering_by_address
            .below(from, LINGERING_PER_ADDRESS)?;
        Some((one, of_address))
    }

    /// Looks how much memory is used. To be called several times a second.
    pub(crate) fn look_at_memory(&self) {
        self.0.memory.look(Instant::now());
    }

    /// Whether so much is used, or will be, that newcomers are sent away.
    pub(crate) fn memory_is_over(&self) -> bool {
        self.0.memory.is_over()
    }

    /// Whether so much is used that what is free is to be given back.
    pub(crate) fn memory_is_short(&self) -> bool {
        self.0.memory.is_short()
    }

    /// Whether it is more than the budget.
    pub(crate) fn memory_is_exceeded(&self) -> bool {
        self.0.memory.is_exceeded()
    }

    /// Where more than the budget is used, tells the newest visitors to leave, and says how many.
    pub(crate) fn shed_newest(&self) -> usize {
        self.0.memory.shed_newest(Instant::now())
    }

    /// Whether one more agent from an address may begin a handshake. An address that has not been `proved` to be real has a
    /// bucket of its own, so that whoever forges it cannot empty the other.
    pub(crate) fn handshake(&self, from: IpAddr, proved: bool) -> bool {
        let each_second = self.0.bounds.handshakes_per_second.load(Relaxed);
        let handshakes = match proved {
            true => &self.0.handshakes,
            false => &self.0.handshakes_unproved,
        };
        handshakes.take(from, each_second, Instant::now())
    }

    /// The handshake was for a visitor who waits at this address's device: there may be as many as there are visitors.
    pub(crate) fn was_carrier(&self, from: IpAddr) {
        let each_second = self.0.bounds.handshakes_per_second.load(Relaxed);
        self.0.handshakes.give_back(from, each_second);
        self.was_expected(from);
    }

    /// The connection was asked for by this relay.
    pub(crate) fn was_expected(&self, from: IpAddr) {
        let each_second = self.0.bounds.connections_per_second.load(Relaxed);
        self.0.connections.give_back(from, each_second);
    }

    /// How many TLS handshakes one worker may have under way.
    pub(crate) fn tls_handshakes(&self) -> usize {
        self.0.bounds.tls_handshakes.load(Relaxed)
    }

    /// With how many QUIC handshakes under way newcomers have to show that their address is theirs.
    pub(crate) fn retry_above(&self) -> usize {
        self.0.bounds.retry_above.load(Relaxed)
    }

    /// How many octets a second a device may move that has no limit of its own; `None`: any number.
    pub(crate) fn bytes_per_second_per_device(&self) -> Option<NonZeroU64> {
        NonZeroU64::new(self.0.bounds.bytes_per_second_per_device.load(Relaxed))
    }

    /// How many visitors a device may have that has no limit of its own.
    pub(crate) fn visitors_per_device(&self) -> usize {
        self.0.bounds.visitors_per_device.load(Relaxed)
    }
}

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
    fn waits_among(&mut self, silent: &Silent, most: usize) {
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
        *self.raw() = second.ok().map(Box::new);
        self.raw().is_some()
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
    use super::*;

    const MOST: usize = config::VISITORS_PER_DEVICE;

    pub(super) fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    pub(super) fn limits(descriptors: usize) -> Limits {
        let registry = prometheus::Registry::new();
        let [used, budget] = Metrics::register(&registry).unwrap().memory();
        let memory = Memory::new(used, budget);
        Limits::new(descriptors, memory, &LimitsConfig::default())
    }

    /// Lets in as many as may come from `from`, and lets each get as far as `then`.
    fn fill(
        limits: &Limits,
        from: &str,
        then: impl Fn(&mut Admitted) -> Result<(), Refusal>,
    ) -> (Vec<Admitted>, Refusal) {
        let mut held = Vec::new();
        loop {
            let refusal = match limits.admit(ip(from), &Silent::at_one_of(1)) {
                Ok(mut admitted) => match then(&mut admitted) {
                    Ok(()) => {
                        held.push(admitted);
                        continue;
                    }
                    Err(refusal) => refusal,
                },
                Err(refusal) => refusal,
            };
            return (held, refusal);
        }
    }

    fn served(admitted: &mut Admitted) -> Result<(), Refusal> {
        admitted.named();
        admitted.serve()
    }

    fn served_over_tls(admitted: &mut Admitted) -> Result<(), Refusal> {
        served(admitted)?;
        admitted.takes_carrier()
    }

    #[test]
    fn one_address_cannot_take_every_place() {
        let limits = limits(usize::MAX);
        let (mut held, refusal) = fill(&limits, "2001:db8::1", |_| Ok(()));
        assert_eq!(held.len(), config::UNNAMED_PER_ADDRESS);
        assert_eq!(refusal, Refusal::AddressBusy);
        assert_eq!(
            limits
                .admit(ip("2001:db8:0:ff::2"), &Silent::at_one_of(1))
                .unwrap_err(),
            Refusal::AddressBusy
        );
        assert!(
            limits
                .admit(ip("2001:db8:0:100::1"), &Silent::at_one_of(1))
                .is_ok()
        );

        held[0].named();
        assert!(
            limits
                .admit(ip("2001:db8::3"), &Silent::at_one_of(1))
                .is_ok()
        );
    }

    #[test]
    fn those_who_say_nothing_leave_descriptors_for_those_who_are_served() {
        let limits = limits(70);
        let mut visitor = limits
            .admit(ip("192.0.2.9"), &Silent::at_one_of(1))
            .unwrap();
        visitor.named();
        let (held, refusal) = fill(&limits, "192.0.2.1", |_| Ok(()));
        // Nobody here hears that it is to give way.
        assert_eq!((held.len(), refusal), (60 + 3, Refusal::UnnamedFull));
        assert_eq!(visitor.serve(), Ok(()));
        assert_eq!(visitor.takes_carrier(), Ok(()));
        assert!(!visitor.takes_raw(), "a carrier may need it");
        drop(held);
        assert!(visitor.takes_raw());
        let (held, refusal) = fill(&limits, "192.0.2.1", served);
        // Half of the 62 who can be, and of another address the rest but for the one.
        assert_eq!((held.len(), refusal), (31, Refusal::AddressFull));
        let (others, refusal) = fill(&limits, "192.0.2.2", served);
        assert_eq!((others.len(), refusal), (30, Refusal::Full));
        // Those who have one each leave some to whoever comes, and to carriers.
        let mut newcomer = limits
            .admit(ip("192.0.2.3"), &Silent::at_one_of(1))
            .unwrap();
        assert_eq!(served(&mut newcomer), Err(Refusal::Full));
    }

    #[test]
    fn a_second_descriptor_is_counted_where_there_is_one() {
        let limits = limits(80);
        let taken = || limits.0.descriptors_taken.load(Relaxed);
        let come = |from| {
            let mut visitor = limits.admit(ip(from), &Silent::at_one_of(1)).unwrap();
            served(&mut visitor).unwrap();
            visitor
        };
        let mut visitor = come("192.0.2.1");
        assert_eq!(taken(), 1);
        visitor.takes_carrier().unwrap();
        visitor.takes_carrier().unwrap();
        assert_eq!(taken(), 2, "one, however often it is opened");
        assert!(visitor.takes_raw());
        assert_eq!(taken(), 3);
        visitor.leaves_raw();
        assert_eq!(taken(), 2);
        assert!(visitor.takes_raw());

        // Of one address a quarter of all, of which this one has two.
        let (held, refusal) = fill(&limits, "192.0.2.1", served_over_tls);
        assert_eq!((held.len(), refusal), (18, Refusal::AddressFull));
        let same = come("192.0.2.1");
        assert!(!same.takes_raw());
        // Raw connections leave an eighth of them.
        let mut others = Vec::new();
        while let Some(visitor) = Some(come("192.0.2.2")).filter(Admitted::takes_raw) {
            others.push(visitor);
        }
        assert_eq!((others.len(), taken()), (15, 70));
        let mut last = come("192.0.2.3");
        while taken() < 80 {
            others.push(come("192.0.2.4"));
        }
        assert_eq!(last.takes_carrier(), Err(Refusal::Full));
        drop((visitor, held, same, others, last));
        assert_eq!(taken(), 0);
        assert!(limits.0.seconds_by_address.is_empty());
    }

    #[test]
    fn while_memory_is_short_few_are_there_who_have_not_said_their_name() {
        let limits = limits(1000);
        limits.set(&LimitsConfig {
            memory: Some(1),
            ..LimitsConfig::default()
        });
        let (held, refusal) = fill(&limits, "192.0.2.1", |_| Ok(()));
        // Of 858 the 32nd part, and one more while another leaves.
        assert_eq!((held.len(), refusal), (27, Refusal::Memory));
        limits.set(&LimitsConfig {
            memory: Some(1 << 40),
            ..LimitsConfig::default()
        });
        let (more, refusal) = fill(&limits, "192.0.2.2", |_| Ok(()));
        assert_eq!((27 + more.len(), refusal), (858 + 53, Refusal::UnnamedFull));
    }

    #[test]
    fn few_are_told_at_leisure_of_one_address_and_in_all_while_memory_is_short() {
        let limits = limits(10_000);
        let told_of = |address: u8, wanted: usize| -> Vec<_> {
            let from = IpAddr::from([192, 0, 2, address]);
            (0..wanted).map_while(|_| limits.linger(from)).collect()
        };
        assert_eq!(told_of(1, 1000).len(), LINGERING_PER_ADDRESS);
        limits.set(&LimitsConfig {
            memory: Some(1),
            ..LimitsConfig::default()
        });
        let told: Vec<_> = (0..=255).flat_map(|address| told_of(address, 4)).collect();
        assert_eq!(told.len(), LINGERING_WHEN_MEMORY_IS_SHORT);
        drop(told);
        assert_eq!(told_of(1, 1000).len(), LINGERING_PER_ADDRESS);
    }

    #[test]
    fn everybody_who_leaves_makes_room_and_leaves_nothing_behind() {
        let limits = limits(4);
        let first = fill(&limits, "192.0.2.1", served_over_tls).0;
        let second = fill(&limits, "192.0.2.2", served_over_tls).0;
        assert_eq!((first.len(), second.len()), (1, 1));
        assert_eq!(
            limits
                .admit(ip("192.0.2.3"), &Silent::at_one_of(1))
                .unwrap_err(),
            Refusal::Full
        );
        drop(first);
        let (third, _) = fill(&limits, "192.0.2.3", served_over_tls);
        assert_eq!(third.len(), 1);
        drop((second, third));
        assert!(limits.0.visitors_by_address.is_empty());
        assert!(limits.0.unnamed_by_address.is_empty());
        assert_eq!(limits.0.descriptors_taken.load(Relaxed), 0);
        assert_eq!(limits.0.visitors.load(Relaxed), 0);
        assert_eq!(limits.0.unnamed.load(Relaxed), 0);
    }

    #[test]
    fn an_address_that_comes_too_often_waits_and_what_was_asked_for_does_not_count() {
        let limits = limits(1000);
        limits.set(&LimitsConfig {
            connections_per_second_per_address: Some(1),
            handshakes_per_second_per_address: Some(1),
            ..LimitsConfig::default()
        });
        let come = || {
            limits
                .admit(ip("192.0.2.1"), &Silent::at_one_of(1))
                .map(drop)
        };
        for _ in 0..4 {
            assert_eq!(come(), Ok(()));
        }
        assert_eq!(come(), Err(Refusal::AddressTooFast));
        limits.was_expected(ip("192.0.2.1"));
        assert_eq!(come(), Ok(()));
        assert!(limits.admit(ip("192.0.2.2"), &Silent::at_one_of(1)).is_ok());

        // Who forges an address takes nothing from it.
        while limits.handshake(ip("192.0.2.1"), false) {}
        assert!(limits.handshake(ip("192.0.2.1"), true));
        while limits.handshake(ip("192.0.2.1"), true) {}
        limits.was_carrier(ip("192.0.2.1"));
        assert!(limits.handshake(ip("192.0.2.1"), true));
    }

    #[test]
    fn bounds_that_change_hold_for_whoever_comes_next() {
        let limits = limits(1000);
        let (held, _) = fill(&limits, "192.0.2.1", served);
        assert_eq!(held.len(), 437);
        let less = LimitsConfig {
            visitors: Some(100),
            ..LimitsConfig::default()
        };
        limits.set(&less);
        let mut next = limits
            .admit(ip("192.0.2.2"), &Silent::at_one_of(1))
            .unwrap();
        assert_eq!(served(&mut next), Err(Refusal::Full));
        limits.set(&LimitsConfig::default());
        let mut next = limits
            .admit(ip("192.0.2.2"), &Silent::at_one_of(1))
            .unwrap();
        assert_eq!(served(&mut next), Ok(()));
    }

    #[test]
    fn long_hellos_have_a_bound_together_and_usual_ones_have_none() {
        let limits = limits(1000);
        let hold = |octets| {
            let mut held = None;
            limits.hold(&mut held, octets).map(|()| held)
        };
        let mut growing = None;
        for octets in [USUAL_HELLO, USUAL_HELLO + 1, USUAL_HELLO + 1024] {
            limits.hold(&mut growing, octets).unwrap();
            let counted = limits.0.long_hellos.load(Relaxed);
            assert_eq!(counted, octets - USUAL_HELLO);
        }
        let rest = hold(USUAL_HELLO + LONG_HELLOS - 1024).unwrap();
        assert_eq!(hold(USUAL_HELLO + 1).unwrap_err(), Refusal::HellosFull);
        assert!(hold(USUAL_HELLO).unwrap().is_none());
        drop((growing, rest));
        assert_eq!(limits.0.long_hellos.load(Relaxed), 0);
    }

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
