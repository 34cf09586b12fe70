//! The zone as it has been published, and what has differed between its versions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use super::contents::{Contents, Names, names};
use super::records::{Entry, Records};
use crate::dnssec::{Hash, hash};
use crate::table::Hashes;

/// Parts: one of them is copied when one of its names changes.
const PARTS: usize = 4096;
/// What differs between versions is kept up to so many octets; whoever is further behind gets the whole zone.
const MAX_KEPT: usize = 64 << 20;
/// And so many: a transfer keeps them until it has ended.
const MAX_DIFFERENCES: usize = 20_000;

/// Whose records a list is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Whose {
    /// A device's, by its label: all names at and below it.
    Device(Box<[u8]>),
    /// A name's that is no device's, by its labels.
    Node(Box<[u8]>),
    /// Of the record that begins with this hash.
    Hash(Hash),
}

/// Lists of records.
pub(super) type Part = BTreeMap<Whose, Records>;

/// One version of the zone. A clone is the same one.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) serial: u32,
    /// The SOA, and its signature.
    pub(super) soa: Records,
    pub(super) parts: Arc<[Arc<Part>]>,
}

/// What differs between a version and the one before.
#[derive(Debug)]
pub(super) struct Difference {
    pub(super) from: u32,
    /// The old SOA, and then what is there no more.
    pub(super) removed: Records,
    /// The new SOA, and then what was not there before.
    pub(super) added: Records,
}

/// What secondaries are given: the last version, and how others become it. A clone is the same.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub(super) latest: Version,
    differences: VecDeque<Arc<Difference>>,
}

/// Makes one version of another.
#[derive(Debug)]
pub(super) struct Versions {
    published: Published,
    /// Octets of the differences.
    kept: usize,
    /// Where the hashes of names are part of the zone.
    chain: Option<Hashes>,
    hasher: RandomState,
}

impl Published {
    /// This version, with none before it.
    pub(super) fn only(latest: Version) -> Self {
        Self {
            latest,
            differences: VecDeque::new(),
        }
    }

    /// What makes the last version of the one with this serial; `None` if that is not known any more.
    pub(super) fn since(&self, serial: u32) -> Option<Vec<Arc<Difference>>> {
        if serial == self.latest.serial {
            return Some(Vec::new());
        }
        let mut differences = self.differences.iter();
        let first = differences.position(|difference| difference.from == serial)?;
        Some(self.differences.range(first..).cloned().collect())
    }
}

impl Versions {
    /// Nothing yet.
    pub(super) fn new(has_chain: bool) -> Self {
        Self {
            published: Published::only(Version {
                serial: 0,
                soa: Records::default(),
                parts: (0..PARTS).map(|_| Arc::default()).collect(),
            }),
            kept: 0,
            chain: has_chain.then(|| Hashes::of(Vec::new())),
            hasher: RandomState::new(),
        }
    }

    /// Makes the next version, in which these have these records; `None` if it does not differ. Those are `all` if everything is to be
    /// signed anew where it is time for that: then there is a next version in any case, for the sake of its SOA.
    pub(super) fn publish(
        &mut self,
        serial: u32,
        changed: Vec<(Whose, Records)>,
        all: bool,
        contents: &Contents<'_>,
    ) -> Option<Published> {
        let mut removed = Vec::new();
        let mut added = Vec::new();
        let mut hashes = BTreeSet::new();
        for (whose, records) in changed {
            let before = self.replace(&whose, &records);
            self.chain_names(&before, &records, contents, &mut hashes);
            note(before, records, &mut removed, &mut added);
        }
        let hashes = match (&self.chain, all) {
            (Some(chain), true) => hashes.into_iter().chain(chain.all()).collect(),
            _ => self.with_those_before(hashes),
        };
        for hash in hashes {
            let link = self.chain.as_ref().and_then(|chain| chain.at(&hash));
            let records = link.map_or_else(Records::default, |link| contents.link(&link));
            let before = self.replace(&Whose::Hash(hash), &records);
            note(before, records, &mut removed, &mut added);
        }
        let before = &self.published.latest;
        let (from, old_soa) = (before.serial, before.soa.clone());
        let is_first = old_soa.is_empty();
        if removed.is_empty() && added.is_empty() && !is_first && !all {
            return None;
        }
        let soa = contents.soa(serial);
        if !is_first {
            let list = |soa: &Records, records: &[Records]| {
                let entries = records.iter().flat_map(Records::iter);
                soa.iter().chain(entries).collect::<Records>()
            };
            self.keep(Difference {
                from,
                removed: list(&old_soa, &removed),
                added: list(&soa, &added),
            });
        }
        self.published.latest.serial = serial;
        self.published.latest.soa = soa;
        Some(self.published.clone())
    }

    fn keep(&mut self, difference: Difference) {
        self.kept += difference.octets();
        let differences = &mut self.published.differences;
        differences.push_back(Arc::new(difference));
        while (self.kept > MAX_KEPT || differences.len() > MAX_DIFFERENCES)
            && let Some(oldest) = differences.pop_front()
        {
            self.kept -= oldest.octets();
        }
    }

    /// Puts records in the place of those before.
    fn replace(&mut self, whose: &Whose, records: &Records) -> Records {
        let part = self.part(whose);
        let Some(part) = Arc::make_mut(&mut self.published.latest.parts).get_mut(part) else {
            return Records::default();
        };
        let part = Arc::make_mut(part);
        let before = match records.is_empty() {
            true => part.remove(whose),
            false => part.insert(whose.clone(), records.clone()),
        };
        before.unwrap_or_default()
    }

    /// Brings the chain in line with the names of a list.
    fn chain_names(
        &self,
        before: &Records,
        after: &Records,
        contents: &Contents<'_>,
        hashes: &mut BTreeSet<Hash>,
    ) {
        let Some(chain) = &self.chain else {
            return;
        };
        let (before, after) = (names(before), names(after));
        let differs = |one: &Names, other: &Names| -> Vec<Box<[u8]>> {
            let differ = one
                .iter()
                .filter(|(name, types)| other.get(*name) != Some(types));
            differ.map(|(name, _)| name.clone()).collect()
        };
        let mut changed: BTreeSet<_> = differs(&before, &after).into_iter().collect();
        changed.extend(differs(&after, &before));
        for name in changed {
            let hash = hash(&name, contents.table.apex());
            chain.set(&hash, after.get(&name).copied());
            hashes.insert(hash);
        }
    }

    /// With the hashes whose next ones these are.
    fn with_those_before(&self, hashes: BTreeSet<Hash>) -> BTreeSet<Hash> {
        let Some(chain) = &self.chain else {
            return hashes;
        };
        let before = hashes.iter().filter_map(|hash| chain.before(hash));
        let before: Vec<_> = before.collect();
        hashes.into_iter().chain(before).collect()
    }

    fn part(&self, whose: &Whose) -> usize {
        self.hasher.hash_one(whose) as usize % PARTS
    }
}

impl Difference {
    fn octets(&self) -> usize {
        self.removed.len() + self.added.len()
    }
}

fn note(before: Records, after: Records, removed: &mut Vec<Records>, added: &mut Vec<Records>) {
    let is_record = |entry: &Entry<'_>| entry.is_for(false);
    let gone: Records = before.beyond(&after).filter(is_record).collect();
    let new: Records = after.beyond(&before).filter(is_record).collect();
    removed.extend((!gone.is_empty()).then_some(gone));
    added.extend((!new.is_empty()).then_some(new));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use directory::{DeviceName, RegistrationId, Zone};
    use prometheus::Registry;

    use super::*;
    use crate::Moment;
    use crate::config::Config;
    use crate::dnssec::keys::{InForce, Key, Role};
    use crate::dnssec::{self, DenialKind, Signer};
    use crate::protocol::Type;
    use crate::table::Table;

    const NOW: u32 = 1_800_000_000;
    const DAY: u32 = 86_400;

    fn signed() -> (Table, Signer) {
        let dnssec = dnssec::Config {
            denial: DenialKind::Nsec3,
            ..dnssec::Config::default()
        };
        let config = Config {
            dnssec: Some(dnssec.clone()),
            ..Config::default()
        };
        let zone = Zone::parse("nas.test").unwrap();
        let relay = ["192.0.2.250".parse().unwrap()];
        let contents = crate::zone::Contents::new(&zone, &config, &relay, &relay).unwrap();
        let table = Table::new(contents, 1);
        for (number, name) in ["home", "away", "other"].iter().enumerate() {
            let name = DeviceName::parse(name).unwrap();
            table.put(&name, RegistrationId(number as u64), None);
        }
        let [ksk, zsk] = [Role::Ksk, Role::Zsk].map(|role| Arc::new(Key::generate(role).unwrap()));
        let in_force = InForce {
            dnskeys: vec![Arc::clone(&ksk), Arc::clone(&zsk)],
            zsk,
            ksks: vec![ksk],
            premade: Vec::new(),
            cds: Vec::new(),
            next_change: None,
        };
        let registry = Registry::new();
        let signer = Signer::for_table(&table, &dnssec, &in_force, NOW, &registry).unwrap();
        (table, signer)
    }

    fn all(contents: &Contents<'_>) -> Vec<(Whose, Records)> {
        let nodes = contents.table.other_names().into_iter();
        let nodes = nodes.map(|name| (Whose::Node(name.clone()), contents.node(&name)));
        let devices = ["home", "away", "other"].map(|label| {
            let label = label.as_bytes();
            (Whose::Device(label.into()), contents.device(label))
        });
        nodes.chain(devices).collect()
    }

    /// When the first of the signatures ends that the zone's own key has made, and how many they are.
    fn first_end(published: &Published) -> (u32, usize) {
        let parts = published.latest.parts.iter();
        let lists = parts
            .flat_map(|part| part.values())
            .chain([&published.latest.soa]);
        let entries: Vec<_> = lists.flat_map(Records::iter).collect();
        let ends: Vec<_> = entries
            .iter()
            .filter(|entry| entry.rtype() == Type::RRSIG)
            .map(|entry| &entry.octets()[1 + entry.owner().len() + 8..])
            // The set of keys is signed when the keys are taken into use.
            .filter(|data| data[..2] != Type::DNSKEY.0.to_be_bytes())
            .map(|data| u32::from_be_bytes(*data[8..].first_chunk().unwrap()))
            .collect();
        (*ends.iter().min().unwrap(), ends.len())
    }

    #[test]
    fn every_signature_is_made_anew_long_before_it_ends() {
        let (table, signer) = signed();
        let at = |days: u32| Contents {
            table: &table,
            signer: Some(&signer),
            moment: Moment {
                unix_seconds: NOW + days * DAY,
                nanoseconds: u64::from(days) * 86_400_000_000_000,
            },
        };
        let mut versions = Versions::new(true);
        let first = versions.publish(1, all(&at(0)), true, &at(0)).unwrap();
        let (end, count) = first_end(&first);
        assert!(end > NOW + 5 * DAY, "{}", end - NOW);
        for days in 1..30 {
            let contents = at(days);
            let next = versions.publish(1 + days, all(&contents), true, &contents);
            let (end, after) = first_end(&next.unwrap());
            assert!(end > NOW + (days + 5) * DAY, "{days}: {}", end - NOW);
            assert_eq!(after, count);
        }
        assert!(versions.publish(98, all(&at(29)), false, &at(29)).is_none());
        // What is still good stays as it is: but for the SOA, this version is the one before.
        let same = versions.publish(99, all(&at(29)), true, &at(29)).unwrap();
        let differences = same.since(30).unwrap();
        let entries = |records: &Records| {
            records
                .iter()
                .map(|entry| entry.rtype())
                .collect::<Vec<_>>()
        };
        assert_eq!(differences.len(), 1);
        assert_eq!(entries(&differences[0].removed), [Type::SOA, Type::RRSIG]);
        assert_eq!(entries(&differences[0].added), [Type::SOA, Type::RRSIG]);
        assert_eq!(first.since(1).map(|differences| differences.len()), Some(0));
    }
}
