//! The chain of all names by their hashes (RFC 5155), for a zone that proves with it what is not there. It follows each name that
//! changes, and no other.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::hashes::{Hashes, Link};
use super::standing::{Owner, WILDCARD};
use super::subnames::Owners;
use super::{Place, Table};
use crate::dnssec::{Hash, TypeSet, hash};
use crate::why::WHY_LABEL;

/// The chain, and what it has of devices beside their own names.
#[derive(Debug)]
pub(super) struct Chain {
    hashes: Hashes,
    /// The hashes of the zone's name, and of the wildcard right below it.
    of_apex: Hash,
    of_wildcard: Hash,
    /// Held while a name is brought in line with the table, so that whoever does so last has seen the last of it. What stands in
    /// front of the labels of devices with subnames.
    fronts_by_label: Mutex<HashMap<Box<[u8]>, Owners>>,
}

impl Table {
    /// From now on the chain is there, and follows, if the zone is one that has it.
    pub(crate) fn begin_chain(&self) {
        if !self.contents.has_chain {
            return;
        }
        let names = self.other_names();
        let mut all: Vec<_> = names
            .iter()
            .map(|name| (self.hash(name), self.types(name)))
            .collect();
        for label in self.devices.labels() {
            let name = [&[label.len() as u8], &*label].concat();
            let types = self.types(&name);
            all.push((self.hash(&name), types));
            all.push((self.hash(&[WILDCARD, &name].concat()), types));
            if self.contents.has_why {
                let why = [WHY_LABEL, &name].concat();
                all.push((self.hash(&why), TypeSet::of_text()));
            }
        }
        let chain = Chain {
            hashes: Hashes::of(all),
            of_apex: hash(b"", &self.contents.apex),
            of_wildcard: hash(WILDCARD, &self.contents.apex),
            fronts_by_label: Mutex::default(),
        };
        if self.chain.set(chain).is_ok() {
            self.devices
                .labels()
                .for_each(|label| self.chain_subnames(&label));
        }
    }

    fn chain_subnames(&self, label: &[u8]) {
        if self
            .devices
            .get(label)
            .is_some_and(|device| device.has_subnames)
        {
            self.rechain(label);
        }
    }

    /// A device's name has changed, and the chain is brought in line with it.
    pub(super) fn rechain(&self, label: &[u8]) {
        let Some(chain) = self.chain.get() else {
            return;
        };
        let mut fronts_by_label = chain
            .fronts_by_label
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let device = self.devices.get(label);
        let types = device.map(|device| self.types_at_device(label, &device));
        let set = |front: &[u8], types: Option<TypeSet>| {
            let name = [front, &[label.len() as u8], label].concat();
            chain.hashes.set(&self.hash(&name), types);
        };
        let set_owned = |front: &[u8], owner: &Owner, is_there: bool| {
            let types = types.filter(|_| is_there);
            match owner {
                Owner::Device => {
                    set(front, types);
                    set(&[WILDCARD, front].concat(), types);
                }
                Owner::Challenges(_) => {
                    set(front, types.map(|_| TypeSet::of_text()));
                }
                Owner::Why => set(front, types.map(|_| TypeSet::of_text())),
                Owner::Lan(lan) => set(front, types.map(|_| TypeSet::of_lan(*lan))),
                Owner::Empty => set(front, types.map(|_| TypeSet::default())),
                Owner::Nobody => {}
            }
        };
        let after = device.filter(|device| device.has_subnames);
        let after = after.and_then(|device| self.subnames.owners(device.registration));
        let before = match &after {
            Some(after) => fronts_by_label.insert(label.into(), after.clone()),
            None => fronts_by_label.remove(label),
        };
        // What stays is there all the while: a proof that leaves it out would be believed for as long as it is kept.
        let stays = |front: &[u8], owner: &Owner| {
            let after = after.as_ref().and_then(|after| after.get(front));
            after.is_some_and(|after| {
                matches!(after, Owner::Device) || !matches!(owner, Owner::Device)
            })
        };
        for (front, owner) in before.iter().flatten() {
            if !stays(front, owner) {
                set_owned(front, owner, false);
            }
        }
        for (front, owner) in after.iter().flatten() {
            set_owned(front, owner, true);
        }
        if self.contents.has_why {
            set_owned(WHY_LABEL, &Owner::Why, true);
        }
        set_owned(b"", &Owner::Device, true);
    }

    /// The same for a name that is no device's: the zone's own, or a relay's.
    pub(super) fn rechain_node(&self, below: &[u8]) {
        if let Some(chain) = self.chain.get() {
            let types = self.has_node(below).then(|| self.types(below));
            chain.hashes.set(&self.hash(below), types);
        }
    }

    /// The same for all relays that are known now or were before, and for all devices that one of them holds.
    pub(super) fn rechain_relays<'l>(&self, before: impl Iterator<Item = &'l [u8]>) {
        if self.chain.get().is_none() && self.marks.get().is_none() {
            return;
        }
        let known = self.relays.load();
        let names = known.labels().map(name_of_relay);
        for name in names.chain(before.map(name_of_relay)) {
            self.rechain_node(&name);
        }
        for label in self.devices.labels() {
            let device = self.devices.get(&label);
            if device.is_some_and(|device| device.presence.is_elsewhere()) {
                self.follow(&label);
            }
        }
    }

    /// The links that prove what stands at a place of the zone, or does not. `None` if the zone has changed meanwhile.
    pub(crate) fn links(&self, below: &[u8], place: Place, is_answered: bool) -> Option<Vec<Link>> {
        let hashes = &self.chain.get()?.hashes;
        let at = |name: &[u8]| hashes.at(&self.hash(name));
        let covering = |name: &[u8]| hashes.covering(&self.hash(name));
        Some(match place {
            Place::Here => vec![at(below)?],
            Place::Wildcard { encloser } => {
                let (encloser, next_closer) = around(below, encloser);
                let covering = covering(next_closer)?;
                match is_answered {
                    // RFC 5155 section 7.2.6
                    true => vec![covering],
                    // RFC 5155 section 7.2.5
                    false => vec![at(encloser)?, covering, at(&[WILDCARD, encloser].concat())?],
                }
            }
            // RFC 5155 section 7.2.2
            Place::Nowhere { encloser } => {
                let (encloser, next_closer) = around(below, encloser);
                vec![
                    at(encloser)?,
                    covering(next_closer)?,
                    covering(&[WILDCARD, encloser].concat())?,
                ]
            }
        })
    }

    /// Most of those that are asked for are not there, and then it is the zone's name and its wildcard that say so.
    fn hash(&self, below: &[u8]) -> Hash {
        match (self.chain.get(), below) {
            (Some(chain), b"") => chain.of_apex,
            (Some(chain), WILDCARD) => chain.of_wildcard,
            _ => hash(below, &self.contents.apex),
        }
    }
}

/// The closest encloser, which is the last octets of a name, and the name that is a label longer.
fn around(below: &[u8], encloser: usize) -> (&[u8], &[u8]) {
    let mut next_closer = below;
    loop {
        let rest = super::standing::behind_first_label(next_closer);
        if rest.len() <= encloser {
            return (rest, next_closer);
        }
        next_closer = rest;
    }
}

pub(super) fn name_of_relay(label: &[u8]) -> Box<[u8]> {
    let relay = directory::OperatorName::Relay.label().as_bytes();
    let relay = [&[relay.len() as u8], relay].concat();
    [&[label.len() as u8], label, &relay].concat().into()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use directory::{DeviceName, RegistrationId, Zone};

    use super::*;
    use crate::Config;
    use crate::challenges::{ChallengeHost, ChallengeValue};
    use crate::dnssec::{self, DenialKind};
    use crate::lan::LanChange;
    use crate::protocol::Type;
    use crate::table::Held;
    use crate::zone::Contents;

    #[test]
    fn a_name_that_stays_is_in_every_proof_while_others_beside_it_come_and_go() {
        const CHANGES: u8 = 200;
        let config = Config {
            dnssec: Some(dnssec::Config {
                denial: DenialKind::Nsec3,
                ..dnssec::Config::default()
            }),
            ..Config::default()
        };
        let zone = Zone::parse("nas.test").unwrap();
        let relay = ["192.0.2.250".parse().unwrap()];
        let table = Table::new(Contents::new(&zone, &config, &relay, &[]).unwrap(), 1);
        let name = DeviceName::parse("home").unwrap();
        let mut held = Held::default();
        let lan = LanChange::default().set([192, 168, 1, 7].into()).unwrap();
        held.own.lan = lan.apply(held.own.lan);
        table.put(&name, RegistrationId(1), Some(&held));
        table.begin_chain();

        let at_home = b"\x03lan\x04home";
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let mut looks = 0;
                while !is_done.load(Ordering::Acquire) || looks == 0 {
                    let links = table.links(at_home, Place::Here, false).unwrap();
                    assert!(links[0].types.has(Type::A));
                    looks += 1;
                }
            });
            let host = ChallengeHost::parse("photos").unwrap();
            let value = ChallengeValue::new(b"proof").unwrap();
            for number in 0..CHANGES {
                held.version += 1;
                held.own.addresses.v4 = Some([192, 0, 2, number].into());
                match number % 2 {
                    0 => held.own.challenges.add(&host, &value).unwrap(),
                    _ => held.own.challenges.clear(&host),
                }
                table.set(&name, RegistrationId(1), &held);
            }
            is_done.store(true, Ordering::Release);
            reading.join().unwrap();
        });
        let photos = b"\x0f_acme-challenge\x06photos\x04home";
        assert!(table.links(photos, Place::Here, false).is_none());
        held.own.lan = Default::default();
        table.set(&name, RegistrationId(1), &held);
        assert!(table.links(at_home, Place::Here, false).is_none());
    }
}
