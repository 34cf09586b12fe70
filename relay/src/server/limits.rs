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

mod admitted;
mod cohorts;
mod config;
mod device;
mod memory;
mod rate;
mod silent;

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::counts::{Amount, Counted, CountedOfAddress, CountsByAddress};
use crate::program;

use super::metrics::Metrics;
use super::refusal::Refusal;
pub use admitted::Admitted;
pub(crate) use config::VISITORS_PER_DEVICE;
pub use config::{LEAST_BYTES_PER_SECOND, LimitsConfig, MOST_BYTES_PER_SECOND};
pub(crate) use device::{DeviceVisitor, DeviceVisitors};
pub(crate) use memory::Memory;
use rate::RateByAddress;
pub(crate) use silent::Silent;

/// How long a visitor may take to say its name, and an agent to say who it is.
pub(crate) const HELLO_TIME: Duration = Duration::from_secs(5);

/// Of the visitors in all, and of those of one device, one address may have this part: a household or an office behind one
/// address is many, but never everybody.
const PART_PER_ADDRESS: usize = 2;

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
        let unnamed = one.ok_or(refusal)?;
        Ok((Admitted::unnamed(self, from, descriptor, unnamed), most))
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
        Ok(Admitted::without_descriptor(self, from))
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

    /// How much memory there may be, and is.
    pub(crate) fn memory(&self) -> &Memory {
        &self.0.memory
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
