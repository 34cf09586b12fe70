//! What changes the table, and what is read by those who change it. Queries see each change of a name whole.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use directory::{DeviceName, RegistrationId, RelayName};

use super::devices::Devices;
use super::slot::Device;
use super::subnames::{self, Subnames};
use super::{Held, Table, label};
use crate::caa::Issuers;
use crate::challenges::{CHALLENGE_LABEL, ChallengeValue};
use crate::own::Own;
use crate::protocol::Type;
use crate::relays::{self, Known, Presence, RelaysError};
use crate::rrset::Rrset;
use crate::steering::Lead;
use crate::zone::Contents;

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
            subnames: Subnames::new(contents.has_why),
            contents,
            devices: Devices::new(),
            issuers: DashMap::new(),
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
        let has_issuers = !held.own.issuers.is_empty();
        self.keep_aside(registration, &held.own);
        let before = self.devices.change(label(name), held.version, |before| {
            // Another registration is another device, which no relay holds yet.
            let same = before.filter(|before| before.registration == registration);
            Some(Device {
                registration,
                addresses: held.own.addresses,
                has_subnames,
                has_issuers,
                is_recorded: recorded.is_some(),
                presence: same.map_or_else(Presence::default, |same| same.presence),
                lead: same.map_or_else(Lead::default, |same| {
                    let after = held.own.addresses;
                    same.lead.after_change(same.addresses, after)
                }),
            })
        });
        if let Some(before) = before {
            let is_other = before.registration != registration;
            self.forget_aside(
                before.registration,
                before.has_subnames && (is_other || !has_subnames),
                before.has_issuers && (is_other || !has_issuers),
            );
        }
        self.follow(label(name));
    }

    /// Takes the name away. Says whether it was there.
    pub fn remove(&self, name: &DeviceName) -> bool {
        let before = self.devices.change(label(name), 0, |_| None);
        self.follow(label(name));
        before.is_some_and(|before| {
            self.forget_aside(before.registration, before.has_subnames, before.has_issuers);
            true
        })
    }

    /// What devices say at length has no room in their places. Whoever sees there that they have it finds it: so it comes first, and goes last.
    fn keep_aside(&self, registration: RegistrationId, own: &Own) {
        if own.has_subnames() {
            self.subnames.set(registration, own);
        }
        if !own.issuers.is_empty() {
            self.issuers.insert(registration, own.issuers.clone());
        }
    }

    fn forget_aside(&self, registration: RegistrationId, subnames: bool, issuers: bool) {
        if subnames {
            self.subnames.set(registration, &Own::default());
        }
        if issuers {
            self.issuers.remove(&registration);
        }
    }

    /// Replaces what a device has of its own, as the log has it now, if this registration still holds the name. Says whether it
    /// does.
    pub fn set(&self, name: &DeviceName, registration: RegistrationId, held: &Held) -> bool {
        let has_subnames = held.own.has_subnames();
        let has_issuers = !held.own.issuers.is_empty();
        self.keep_aside(registration, &held.own);
        let mut is_held = false;
        let before = self.devices.change(label(name), held.version, |before| {
            let mut device = before?;
            is_held = device.registration == registration;
            if is_held {
                let after = held.own.addresses;
                device.lead = device.lead.after_change(device.addresses, after);
                device.addresses = after;
                device.has_subnames = has_subnames;
                device.has_issuers = has_issuers;
                device.is_recorded = true;
            }
            Some(device)
        });
        let had = |what: fn(&Device) -> bool| before.as_ref().is_some_and(what);
        self.forget_aside(
            registration,
            !is_held || (had(|before| before.has_subnames) && !has_subnames),
            !is_held || (had(|before| before.has_issuers) && !has_issuers),
        );
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
    pub(super) fn follow(&self, label: &[u8]) {
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
                issuers: self.issuers(device),
            },
            version: if device.is_recorded { version } else { 0 },
        }
    }

    fn issuers(&self, device: &Device) -> Issuers {
        let held = device
            .has_issuers
            .then(|| self.issuers.get(&device.registration));
        held.flatten()
            .map_or_else(Issuers::default, |held| held.clone())
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
