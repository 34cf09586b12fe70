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
//!                   "_why.mynas"          ──► why it leads where it does, if the operator wants that; nothing stands below
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
//!  write.rs       what changes the table, and is read by who changes it
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
mod write;

use std::collections::HashMap;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use arc_swap::{ArcSwap, Guard};
use dashmap::DashMap;
use directory::{DeviceName, OperatorName, RegistrationId};

use self::chain::Chain;
use self::devices::Devices;
pub(crate) use self::hashes::{Hashes, Link};
pub(crate) use self::marks::Marked;
use self::marks::Marks;
use self::slot::Device;
use self::standing::{Owner, Standing, ends_with_label};
pub(crate) use self::standing::{Place, WILDCARD};
use self::subnames::Subnames;
use crate::addresses::Addresses;
use crate::caa::Issuers;
use crate::own::Own;
use crate::protocol::{HEADER_LEN, MAX_LABEL, Type};
use crate::relays::{Known, Presence, RelayAddresses};
use crate::rrset::{AddressRecord, Records, Rrset, Soa};
use crate::steering::https_records;
use crate::why::{self, WHY_LABEL};
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
    /// Who alone may issue certificates for whom. By registration, as `subnames`.
    issuers: DashMap<RegistrationId, Issuers>,
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
                Owner::Why if qtype == Type::TXT => self.find_why(label, &device),
                Owner::Challenges(_) | Owner::Why | Owner::Empty => Found::NoData,
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
        if self.contents.has_why && ends_with_label(front, WHY_LABEL) {
            return Standing::at_or_below_why(front);
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
        if qtype == Type::CAA
            && device.has_issuers
            && let Some(issuers) = self.issuers.get(&device.registration)
            && let Some(set) = issuers.compile()
        {
            return Found::Records(Records::Shared(Arc::new(set)));
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

    fn find_why(&self, label: &[u8], device: &Device) -> Found<'_> {
        let (known, presence) = self.presence(label);
        let relays: Vec<_> = presence
            .numbers()
            .filter_map(|of| known.label(of))
            .collect();
        let set = why::compile(device.lead, device.addresses, &relays);
        set.map_or(Found::NoData, |set| {
            Found::Records(Records::Shared(Arc::new(set)))
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
