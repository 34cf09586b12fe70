//! The table → the records of a device, or of another name, as a copy of the zone has them.

use std::collections::BTreeMap;

use super::records::{Gathering, Records};
use crate::Moment;
use crate::dnssec::{Signer, TypeSet, hash_label, nsec3_record};
use crate::protocol::Type;
use crate::rrset::{Octets, Soa};
use crate::table::{Found, Link, Table};

/// Where records come from.
pub(super) struct Contents<'s> {
    pub(super) table: &'s Table,
    /// Where the copy has signatures.
    pub(super) signer: Option<&'s Signer>,
    pub(super) moment: Moment,
}

/// The names of a list of records, each with the types that it has.
pub(super) type Names = BTreeMap<Box<[u8]>, TypeSet>;

impl Contents<'_> {
    /// All names of a device; none if it is gone.
    pub(super) fn device(&self, label: &[u8]) -> Records {
        let mut gathering = Gathering::default();
        for name in self.table.names_of_device(label) {
            self.put_name(&name, &mut gathering);
        }
        gathering.sorted()
    }

    /// A name that is no device's; nothing if it is gone.
    pub(super) fn node(&self, below: &[u8]) -> Records {
        let mut gathering = Gathering::default();
        if self.table.has_node(below) {
            self.put_name(below, &mut gathering);
        }
        gathering.sorted()
    }

    /// The record between two hashes.
    pub(super) fn link(&self, link: &Link) -> Records {
        let mut gathering = Gathering::default();
        let record = nsec3_record(&link.next, &link.types, self.table.soa().ttl());
        let records = Octets::of_one(&record);
        self.put_set(
            &hash_label(&link.hash),
            Type::NSEC3,
            records,
            &mut gathering,
        );
        gathering.sorted()
    }

    /// The SOA with this serial, and its signature.
    pub(super) fn soa(&self, serial: u32) -> Records {
        let soa = Soa {
            serial,
            ..self.table.soa()
        };
        let mut gathering = Gathering::default();
        gathering.put(&[], Type::SOA, soa.ttl(), &soa.data(self.table.apex()));
        let signer = self.signer;
        let signature = signer.map(|signer| signer.soa_signature(&soa, self.moment));
        if let Some(Ok(signature)) = signature {
            gathering.put(&[], Type::RRSIG, soa.ttl(), &signature);
        }
        gathering.listed()
    }

    fn put_name(&self, below: &[u8], gathering: &mut Gathering) {
        let types = self.table.types(below);
        let mut is_empty = true;
        for rtype in types.iter() {
            if let Found::Records(records) = self.table.find(below, rtype) {
                is_empty = false;
                self.put_set(below, rtype, records.octets(), gathering);
            }
        }
        if is_empty && !types.has(Type::SOA) {
            gathering.put_nothing(below);
        }
    }

    fn put_set(&self, below: &[u8], rtype: Type, records: Octets<'_>, gathering: &mut Gathering) {
        let ttl = records.ttl();
        for data in records.data(self.table.apex()) {
            gathering.put(below, rtype, ttl, &data);
        }
        let sign = |signer: &Signer| signer.signatures_of(below, rtype, records, self.moment);
        let signatures = self.signer.and_then(|signer| sign(signer).ok());
        for signature in signatures.into_iter().flatten() {
            gathering.put(below, Type::RRSIG, ttl, &signature);
        }
    }
}

/// The names of records, with their types but for what a signature adds.
pub(super) fn names(records: &Records) -> Names {
    let mut names = Names::new();
    for entry in records.iter() {
        let types = names.entry(entry.owner().into()).or_default();
        if entry.is_for(false) && entry.rtype() != Type::RRSIG {
            *types = types.with(entry.rtype());
        }
        if entry.owner().is_empty() {
            *types = types.with(Type::SOA);
        }
    }
    names
}
