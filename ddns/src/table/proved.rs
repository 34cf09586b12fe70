//! Where a name stands, and which types of records it has: what a proof says of it, and what a copy of the zone has there.

use super::slot::Device;
use super::standing::Owner;
use super::{Found, Place, RELAY_LABEL, Table, split_last_label};
use crate::dnssec::TypeSet;
use crate::protocol::Type;
use crate::zone::Node;

impl Table {
    /// Where the name stands whose octets before the zone's name are `below`: among the names that there are, or below which of
    /// them.
    pub(crate) fn place(&self, below: &[u8]) -> Place {
        let (front, label) = split_last_label(below);
        if let Some(device) = self.devices.get(label) {
            let of_device = below.len().saturating_sub(front.len());
            return self.standing(&device, front).place(of_device);
        }
        let mut rest = below;
        while !self.has_node(rest) {
            let Some((&length, behind)) = rest.split_first() else {
                break;
            };
            rest = behind.get(length.into()..).unwrap_or_default();
        }
        match rest.len() == below.len() {
            true => Place::Here,
            false => Place::Nowhere {
                encloser: rest.len(),
            },
        }
    }

    /// The types of the records at the name whose octets before the zone's name are `below`, or at the wildcard that answers for it.
    pub(crate) fn types(&self, below: &[u8]) -> TypeSet {
        let (front, label) = split_last_label(below);
        if let Some(device) = self.devices.get(label) {
            return match self.standing(&device, front).owner {
                Owner::Device => self.types_at_device(label, &device),
                Owner::Challenges(_) | Owner::Why => TypeSet::of_text(),
                Owner::Lan(lan) => TypeSet::of_lan(lan),
                Owner::Empty | Owner::Nobody => TypeSet::default(),
            };
        }
        let node = self.contents.node_by_name.get(below);
        let mut types = node.map_or_else(TypeSet::default, Node::types);
        if self.proofs.load().contains_key(below) {
            types = types.with(Type::TXT);
        }
        if below.is_empty() {
            let keys = self.keys.load();
            let keys = keys.iter().map(|(rtype, _)| *rtype);
            return keys.fold(types.with(Type::SOA), TypeSet::with);
        }
        let at_relay = |qtype: &Type| {
            let found = self.find_at_relay(front, node, *qtype);
            matches!(found, Some(Found::Records(_)))
        };
        match label == RELAY_LABEL.as_bytes() {
            true => with_those(types, &at_relay),
            false => types,
        }
    }

    pub(super) fn types_at_device(&self, label: &[u8], device: &Device) -> TypeSet {
        let has = |qtype: &Type| {
            let found = self.find_at_device(label, device, *qtype);
            matches!(found, Found::Records(_))
        };
        let types = with_those(self.contents.device_types, &has);
        match device.has_issuers {
            true => types.with(Type::CAA),
            false => types,
        }
    }

    /// Whether there is such a name that is no device's.
    pub(crate) fn has_node(&self, below: &[u8]) -> bool {
        let (front, label) = split_last_label(below);
        self.contents.node_by_name.contains_key(below)
            || self.proofs.load().contains_key(below)
            || label == RELAY_LABEL.as_bytes() && self.find_at_relay(front, None, Type::A).is_some()
    }
}

/// With those types that a device has or not.
fn with_those(types: TypeSet, has: &dyn Fn(&Type) -> bool) -> TypeSet {
    let there = [Type::A, Type::AAAA, Type::HTTPS].into_iter().filter(has);
    there.fold(types, TypeSet::with)
}
