//! Every name there is, compiled. Queries read it while updates change it in place, one name at a time.
//!
//! ```text
//!  below the apex:  ""                    ──► the zone's own records ([`Contents`])
//!                   "www", "cloud", …     ──► the same
//!                   "eu1.relay", …        ──► a relay with a process of its own, if it is known ([`relays`])
//!                   "mynas"               ──► a device
//!                   "*.mynas"             ──► the same device: its wildcard has no other records
//!                   "_acme-challenge.mynas", "_acme-challenge.photos.mynas", …
//!                                         ──► its challenges, while there are some ([`subnames`])
//!                   "_acme-challenge.cloud", …
//!                                         ──► the operator's own, likewise
//!                   "lan.mynas"           ──► where it is at home, if it wants that; nothing stands below ([`subnames`])
//! ```
//!
//! What is answered follows from these names as RFC 4592 has it, so that a copy of the zone answers alike.
//!
//! A device and a record of the operator's never meet: no record is accepted where a device can be.
//!
//! ```text
//!  devices.rs     every device, by its label
//!  slots.rs       where each has its place
//!  slot.rs        the place, read while it is written
//!  standing.rs    which of the names that there are answers for another
//!  subnames.rs    the names of those who have some beside their own and its wildcard
//!  chain.rs       the names by their hashes, where that proves what is not there
//!  hashes.rs      these hashes, in order
//!  marks.rs       which names have changed, for copies of the zone
//!  proved.rs      where a name stands and which types it has, for who proves that and for copies
//! ```

mod chain;
mod devices;
mod hashes;
mod marks;
mod proved;
mod slot;
mod slots;
mod standing;
mod subnames;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::{ArcSwap, Guard};
use directory::{DeviceName, OperatorName, RegistrationId, RelayName};

use self::chain::Chain;
use self::devices::Devices;
pub(crate) use self::hashes::{Hashes, Link};
pub(crate) use self::marks::Marked;
use self::marks::Marks;
use self::slot::Device;
use self::standing::{Owner, Standing};
pub(crate) use self::standing::{Place, WILDCARD};
use self::subnames::Subnames;
use crate::addresses::Addresses;
use crate::challenges::{CHALLENGE_LABEL, ChallengeValue};
use crate::own::Own;
use crate::protocol::{HEADER_LEN, MAX_LABEL, Type};
use crate::relays::{self, Known, Presence, RelayAddresses, RelaysError};
use crate::rrset::{AddressRecord, Records, Rrset, Soa};
use crate::steering::{Lead, https_records};
use crate::zone::{Contents, Node};

/// Where the relays' own names stand.
const RELAY_LABEL: &str = OperatorName::Relay.label();

/// Messages that are prepared for at a time, at most.
const MAX_BATCH: usize = 64;

/// The names and their records.
#[derive(Debug)]
pub struct Table {
    contents: Contents,
    devices: Devices,
    subnames: Subnames,
    relays: ArcSwap<Known>,
    /// The challenges of the operator's own hosts, by the octets of a name that stand before the zone's.
    proofs: ArcSwap<HashMap<Box<[u8]>, Arc<Rrset>>>,
    /// What the zone's own name has beside its contents: its keys, if it is signed.
    keys: ArcSwap<Vec<(Type, Arc<Rrset>)>>,
    /// Where the hashes of names prove what is not there, and once all names are there.
    chain: OnceLock<Chain>,
    /// Where there are copies of the zone.
    marks: OnceLock<Marks>,
    /// Held while relays' numbers are given, taken back and written to devices.
    numbering: Mutex<()>,
    serial: AtomicU32,
}

/// What the table knows of one registration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// What updates have set.
    pub own: Own,
    /// Rises with every update that changes it, below 2^31; 0 before the first. Only versions of one registration can be compared.
    pub version: u32,
}

/// What the table has for a name and a type.
#[derive(Debug)]
pub enum Found<'t> {
    /// These.
    Records(Records<'t>),
    /// The zone's SOA.
    Soa,
    /// The name, without such a record.
    NoData,
    /// No such name.
    NoName,
}

// Reading, for answers.
impl Table {
    /// The part of the wire name `name` (lower case, closing zero included) that stands before the zone's name, empty
    /// for the zone itself; `None` outside the zone.
    pub fn below_apex<'n>(&self, name: &'n [u8]) -> Option<&'n [u8]> {
        let mut rest = name;
        while rest.len() > self.contents.apex.len() {
            let (&length, behind) = rest.split_first()?;
            rest = behind.get(usize::from(length)..)?;
        }
        if *rest != *self.contents.apex {
            return None;
        }
        name.strip_suffix(rest)
    }

    /// Looks up the name whose octets before the zone's name are `below`.
    pub fn find(&self, below: &[u8], qtype: Type) -> Found<'_> {
        let (front, label) = split_last_label(below);
        if let Some(device) = self.devices.get(label) {
            return match self.standing(&device, front).owner {
                Owner::Device => self.find_at_device(label, &device, qtype),
                Owner::Challenges(set) if qtype == Type::TXT => {
                    Found::Records(Records::Shared(set))
                }
                Owner::Lan(lan) => self.find_address(lan.addresses(), qtype),
                Owner::Challenges(_) | Owner::Empty => Found::NoData,
                Owner::Nobody => Found::NoName,
            };
        }
        if qtype == Type::TXT
            && let Some(set) = self.proofs.load().get(below)
        {
            return Found::Records(Records::Shared(Arc::clone(set)));
        }
        let node = self.contents.node_by_name.get(below);
        if label == RELAY_LABEL.as_bytes()
            && let Some(found) = self.find_at_relay(front, node, qtype)
        {
            return found;
        }
        let Some(node) = node else {
            return match self.proofs.load().contains_key(below) {
                true => Found::NoData,
                false => Found::NoName,
            };
        };
        let found = find_at_node(node, qtype);
        if below.is_empty() && matches!(found, Found::NoData) {
            return self.find_at_apex(qtype);
        }
        found
    }

    /// Where a name stands whose labels in front of the device's own are `front`.
    fn standing(&self, device: &Device, front: &[u8]) -> Standing {
        if device.has_subnames
            && let Some(standing) = self.subnames.standing(device.registration, front)
        {
            return standing;
        }
        Standing::below_device(front, 0)
    }

    /// Has the processor fetch what the answers to these messages will be made from, all at once. It makes them quicker and no
    /// different; a message may be anything.
    pub fn bring_near<'m>(&self, messages: impl Iterator<Item = &'m [u8]>) {
        let mut hashes = [0; MAX_BATCH];
        let mut count = 0;
        let found = messages.filter_map(|message| self.hash_of_device(message));
        for (place, hash) in hashes.iter_mut().zip(found) {
            *place = hash;
            count += 1;
        }
        self.devices
            .bring_near(hashes.get(..count).unwrap_or_default());
    }

    /// The hash of the label right under the zone in the question of a message that has one.
    fn hash_of_device(&self, message: &[u8]) -> Option<u64> {
        let mut rest = message.get(HEADER_LEN..)?;
        let apex = &self.contents.apex;
        loop {
            let (&length, behind) = rest.split_first()?;
            let (label, behind) = behind.split_at_checked(length.into())?;
            let is_under = |name: &[u8]| name.eq_ignore_ascii_case(apex);
            if behind.get(..apex.len()).is_some_and(is_under) {
                let mut lower = [0; MAX_LABEL];
                let lower = lower.get_mut(..label.len())?;
                lower.copy_from_slice(label);
                lower.make_ascii_lowercase();
                return self.devices.hash(lower);
            }
            if length == 0 {
                return None;
            }
            rest = behind;
        }
    }

    /// The zone's SOA record as it is now.
    pub fn soa(&self) -> Soa<'_> {
        Soa {
            template: &self.contents.soa,
            serial: self.serial.load(Ordering::Acquire),
            apex_len: self.contents.apex.len(),
        }
    }

    /// What the zone's name has beside its contents.
    fn find_at_apex(&self, qtype: Type) -> Found<'_> {
        if qtype == Type::SOA {
            return Found::Soa;
        }
        let keys = self.keys.load();
        let set = keys.iter().find(|(rtype, _)| *rtype == qtype);
        set.map_or(Found::NoData, |(_, set)| {
            Found::Records(Records::Shared(Arc::clone(set)))
        })
    }

    /// One own address is enough to lead past the relay: a family that the device does not have is then NODATA.
    fn find_at_device(&self, label: &[u8], device: &Device, qtype: Type) -> Found<'_> {
        if qtype == Type::HTTPS
            && let Some((direct, port)) = device.lead.direct(device.addresses)
        {
            return self.find_both_ways(label, direct, port);
        }
        let own = device.lead.addresses(device.addresses);
        let is_address = is_address(qtype);
        if is_address && own.is_empty() && device.presence.is_elsewhere() {
            return self.find_at_its_relays(label, qtype);
        }
        if own.is_empty() || !is_address {
            return find_at_node(&self.contents.device, qtype);
        }
        self.find_address(own, qtype)
    }

    fn find_address(&self, addresses: Addresses, qtype: Type) -> Found<'_> {
        let address = AddressRecord::compile(addresses, qtype, self.contents.ttl);
        address.map_or(Found::NoData, |address| {
            Found::Records(Records::Address(address))
        })
    }

    /// The way to a device itself, and behind it those through the relays that hold it.
    fn find_both_ways(&self, label: &[u8], direct: Addresses, port: NonZeroU16) -> Found<'_> {
        let (known, presence) = self.presence(label);
        let relay = [&[RELAY_LABEL.len() as u8], RELAY_LABEL.as_bytes()].concat();
        let numbers = presence.numbers();
        let relays = numbers.filter_map(|number| {
            let own = match number {
                Presence::OWN => Vec::new(),
                _ => {
                    let label = known.label(number)?;
                    [&[label.len() as u8], label].concat()
                }
            };
            Some([&own, &relay, &*self.contents.apex].concat())
        });
        let relays: Vec<_> = relays.collect();
        let records = https_records(direct, port, &relays, self.contents.ttl);
        records.map_or(Found::NoData, |records| {
            Found::Records(Records::Shared(Arc::new(records)))
        })
    }

    /// The addresses of the relays that hold the device at a label.
    fn find_at_its_relays(&self, label: &[u8], qtype: Type) -> Found<'_> {
        let (known, presence) = self.presence(label);
        match presence.is_elsewhere() {
            true => found_at_relays(RelayAddresses::new(known, presence, qtype)),
            false => find_at_node(&self.contents.device, qtype),
        }
    }

    /// The relays there are, and which of them hold the device at a label.
    fn presence(&self, label: &[u8]) -> (Guard<Arc<Known>>, Presence) {
        let known = self.relays.load();
        // Read now: a number can have gone to another relay between an earlier look and `known`. Before it is given again, it is
        // taken from every device; so whose it is in `known`, it is now.
        let device = self.devices.get(label);
        let presence = device.map_or_else(Presence::default, |device| device.presence);
        let presence = presence.without_those_gone(|number| known.has(number));
        (known, presence)
    }

    /// What a relay with a process of its own has at its own name, which stands before `relay`: its addresses, unless the
    /// operator has set some, and the operator's records. `None` if it is not known, or the operator's alone.
    fn find_at_relay(&self, front: &[u8], node: Option<&Node>, qtype: Type) -> Option<Found<'_>> {
        let (&length, label) = front.split_first()?;
        let is_one_label = usize::from(length) == label.len();
        if !is_one_label || node.is_some_and(Node::has_addresses) {
            return None;
        }
        let known = self.relays.load();
        let presence = Presence::new(known.number(label));
        if !presence.is_elsewhere() {
            return None;
        }
        match (is_address(qtype), node) {
            (true, _) => Some(found_at_relays(RelayAddresses::new(known, presence, qtype))),
            (false, None) => Some(Found::NoData),
            (false, Some(_)) => None,
        }
    }
}

// Writing, and reading for those who write.
impl Table {
    /// A table without devices. `serial` is the SOA's until the first change.
    pub fn new(contents: Contents, serial: u32) -> Self {
        Self {
            relays: ArcSwap::from_pointee(Known::only(contents.relay.clone())),
            proofs: ArcSwap::default(),
            keys: ArcSwap::default(),
            chain: OnceLock::new(),
            marks: OnceLock::new(),
            numbering: Mutex::new(()),
            contents,
            devices: Devices::new(),
            subnames: Subnames::default(),
            serial: AtomicU32::new(serial),
        }
    }

    /// Makes room for so many devices at once.
    pub fn make_room_for(&self, devices: usize) {
        self.devices.make_room_for(devices);
    }

    /// Puts a device there, in place of whatever held its name. `recorded` is what the log has of this registration.
    pub fn put(&self, name: &DeviceName, registration: RegistrationId, recorded: Option<&Held>) {
        let nothing = Held::default();
        let held = recorded.unwrap_or(&nothing);
        let has_subnames = held.own.has_subnames();
        if has_subnames {
            self.subnames.set(registration, &held.own);
        }
        let before = self.devices.change(label(name), held.version, |before| {
            // Another registration is another device, which no relay holds yet.
            let same = before.filter(|before| before.registration == registration);
            Some(Device {
                registration,
                addresses: held.own.addresses,
                has_subnames,
                is_recorded: recorded.is_some(),
                presence: same.map_or_else(Presence::default, |same| same.presence),
                lead: same.map_or_else(Lead::default, |same| {
                    let after = held.own.addresses;
                    same.lead.after_change(same.addresses, after)
                }),
            })
        });
        if let Some(before) = before
            && (before.registration != registration || !has_subnames)
        {
            self.forget_subnames(&before);
        }
        self.follow(label(name));
    }

    /// Takes the name away. Says whether it was there.
    pub fn remove(&self, name: &DeviceName) -> bool {
        let before = self.devices.change(label(name), 0, |_| None);
        self.follow(label(name));
        before.is_some_and(|before| {
            self.forget_subnames(&before);
            true
        })
    }

    fn forget_subnames(&self, device: &Device) {
        if device.has_subnames {
            self.subnames.set(device.registration, &Own::default());
        }
    }

    /// Replaces what a device has of its own, as the log has it now, if this registration still holds the name. Says whether it
    /// does.
    pub fn set(&self, name: &DeviceName, registration: RegistrationId, held: &Held) -> bool {
        let has_subnames = held.own.has_subnames();
        // Whoever sees that there are some finds them; so they come first, and go last.
        if has_subnames {
            self.subnames.set(registration, &held.own);
        }
        let mut is_held = false;
        let before = self.devices.change(label(name), held.version, |before| {
            let mut device = before?;
            is_held = device.registration == registration;
            if is_held {
                let after = held.own.addresses;
                device.lead = device.lead.after_change(device.addresses, after);
                device.addresses = after;
                device.has_subnames = has_subnames;
                device.is_recorded = true;
            }
            Some(device)
        });
        let had_subnames = before.is_some_and(|before| before.has_subnames);
        if !is_held || (had_subnames && !has_subnames) {
            self.subnames.set(registration, &Own::default());
        }
        self.follow(label(name));
        is_held
    }

    /// Replaces what the zone's own name has beside its contents.
    pub(crate) fn publish(&self, keys: Vec<(Type, Arc<Rrset>)>) {
        self.keys.store(Arc::new(keys));
        self.mark_others();
        self.rechain_node(b"");
    }

    /// Replaces the challenges of the operator's own hosts: by the octets of such a host that stand before the zone's name, the values.
    /// Each host is there itself. Who asks must be told of another serial than before.
    pub(crate) fn prove(&self, values_by_host: &BTreeMap<Box<[u8]>, Vec<ChallengeValue>>) {
        let compiled = values_by_host.iter().filter_map(|(host, values)| {
            let label = [&[CHALLENGE_LABEL.len() as u8], CHALLENGE_LABEL].concat();
            let name: Box<[u8]> = [&label, &**host].concat().into();
            Some((name, Arc::new(subnames::compile(values)?)))
        });
        let next: HashMap<_, _> = compiled.collect();
        let names: Vec<_> = next.keys().cloned().collect();
        let before = self.proofs.swap(Arc::new(next));
        self.mark_others();
        for name in before.keys().chain(&names) {
            self.rechain_node(name);
        }
    }

    /// A device's name has changed, and what is made of it follows.
    fn follow(&self, label: &[u8]) {
        self.mark(label);
        self.rechain(label);
    }

    /// The zone's name on the wire, in lower case.
    pub(crate) fn apex(&self) -> &[u8] {
        &self.contents.apex
    }

    /// Replaces the relays with a process of their own. Says whether that changes anything.
    ///
    /// # Errors
    /// As [`Relays::set`](relays::Relays::set).
    pub fn set_relays(&self, given: &[(RelayName, Vec<IpAddr>)]) -> Result<bool, RelaysError> {
        let compiled = relays::compile(given, self.contents.ttl)?;
        let _one_numbers = self
            .numbering
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = self.relays.load_full();
        let mut known = before.staying(&compiled);
        if known.len() < before.len() {
            // A number that is free again must be found neither here nor at a device before it is another's.
            self.relays.store(Arc::new(known.clone()));
            self.devices.leave_those_gone(|number| known.has(number));
        }
        known.add(&compiled);
        let is_other = known != *before;
        self.relays.store(Arc::new(known));
        if is_other {
            self.mark_others();
            self.rechain_relays(before.labels());
        }
        Ok(is_other)
    }

    /// Says by which relays a device is held; `None` is the server's own. False if one of them is unknown.
    pub fn hold(&self, name: &DeviceName, by: &[Option<RelayName>]) -> bool {
        let _one_numbers = self
            .numbering
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = self.relays.load();
        let number = |relay: &Option<RelayName>| match relay {
            Some(relay) => known.number(relay.as_str().as_bytes()),
            None => Some(Presence::OWN),
        };
        let all_are_known = by.iter().all(|relay| number(relay).is_some());
        let presence = Presence::new(by.iter().filter_map(number));
        let is_there = self.devices.hold(label(name), presence);
        if is_there {
            self.follow(label(name));
        }
        is_there && all_are_known
    }

    /// Says where a device's name leads, if this registration holds it. Says whether it does.
    pub(crate) fn lead(&self, name: &DeviceName, registration: RegistrationId, lead: Lead) -> bool {
        let is_held = self.devices.lead(label(name), registration, lead);
        if is_held {
            self.follow(label(name));
        }
        is_held
    }

    /// What a device has of its own; `None` if this registration does not hold the name.
    pub fn held(&self, name: &DeviceName, registration: RegistrationId) -> Option<Held> {
        let (device, version) = self.devices.get_with_version(label(name))?;
        (device.registration == registration).then(|| self.held_by(&device, version))
    }

    fn held_by(&self, device: &Device, version: u32) -> Held {
        let (challenges, lan) = match device.has_subnames {
            true => self.subnames.held(device.registration),
            false => Default::default(),
        };
        Held {
            own: Own {
                addresses: device.addresses,
                challenges,
                lan,
            },
            version: if device.is_recorded { version } else { 0 },
        }
    }

    /// The version that the next [`set`](Self::set) of this name can have.
    pub fn next_version(&self, name: &DeviceName) -> u32 {
        let device = self.devices.get_with_version(label(name));
        device.map_or(0, |(_, version)| version.saturating_add(1))
    }

    /// Who holds the name.
    pub fn registration(&self, name: &DeviceName) -> Option<RegistrationId> {
        Some(self.devices.get(label(name))?.registration)
    }

    /// Every device of which the log has to have a record, in no order.
    pub fn recorded(&self) -> impl Iterator<Item = (RegistrationId, Held)> {
        self.devices
            .iter()
            .filter(|(device, _)| device.is_recorded)
            .map(|(device, version)| (device.registration, self.held_by(&device, version)))
    }

    /// How many devices there are.
    pub fn devices(&self) -> usize {
        self.devices.len()
    }

    /// How many of them have own addresses.
    pub fn devices_with_addresses(&self) -> usize {
        self.devices.with_addresses()
    }

    /// How many of them are held by a relay with a process of its own.
    pub fn devices_elsewhere(&self) -> usize {
        self.devices.elsewhere()
    }

    /// How many relays have a process of their own.
    pub fn relays(&self) -> usize {
        self.relays.load().len()
    }

    /// Of how many of them the log has to have a record.
    pub fn devices_recorded(&self) -> usize {
        self.devices.recorded()
    }

    /// Tells that the zone has changed, after it has: its serial becomes `second`, or the next one if it is there or further already.
    pub fn changed(&self, second: u32) {
        let next = |serial: u32| {
            // RFC 1982 section 3.2: half of all numbers are ahead.
            let is_ahead = (1..=u32::MAX / 2).contains(&second.wrapping_sub(serial));
            if is_ahead {
                second
            } else {
                serial.wrapping_add(1)
            }
        };
        self.serial
            .update(Ordering::Release, Ordering::Relaxed, next);
    }
}

fn find_at_node(node: &Node, qtype: Type) -> Found<'_> {
    node.find(qtype)
        .map_or(Found::NoData, |set| Found::Records(Records::Fixed(set)))
}

fn found_at_relays<'t>(addresses: Option<RelayAddresses>) -> Found<'t> {
    addresses.map_or(Found::NoData, |addresses| {
        Found::Records(Records::Relays(addresses))
    })
}

fn is_address(qtype: Type) -> bool {
    matches!(qtype, Type::A | Type::AAAA)
}

fn label(name: &DeviceName) -> &[u8] {
    name.as_str().as_bytes()
}

/// The last label of `below`, the one right under the zone, and what stands in front of it. Both are empty for the zone itself.
fn split_last_label(below: &[u8]) -> (&[u8], &[u8]) {
    let mut rest = below;
    loop {
        let Some((label, behind)) = rest
            .split_first()
            .and_then(|(&length, behind)| behind.split_at_checked(length.into()))
        else {
            return (&[], &[]);
        };
        if behind.is_empty() {
            let front = below.strip_suffix(rest).unwrap_or_default();
            return (front, label);
        }
        rest = behind;
    }
}

#[cfg(test)]
pub(crate) mod tests;
