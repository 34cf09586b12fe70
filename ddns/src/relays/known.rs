use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::Guard;
use directory::RelayName;

use super::{MAX_ADDRESSES, MAX_RELAYS, Presence, RelaysError};
use crate::addresses::reachable;
use crate::protocol::Type;
use crate::rrset::{Octets, Rrset};
use crate::zone::Node;

/// The relays there are, compiled. It is replaced as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// Of those with a process of their own: from 1.
    number_by_label: HashMap<Box<[u8]>, u8>,
    /// The addresses. A number that is nobody's has none.
    node_by_number: Vec<Node>,
}

/// Relays that are to be known.
pub(crate) type Compiled<'r> = BTreeMap<&'r RelayName, Node>;

/// Compiles what [`Relays::set`](super::Relays::set) is given, with this TTL in seconds.
pub(crate) fn compile(
    relays: &[(RelayName, Vec<IpAddr>)],
    ttl: u32,
) -> Result<Compiled<'_>, RelaysError> {
    if relays.len() > MAX_RELAYS {
        return Err(RelaysError::TooMany(relays.len()));
    }
    let mut compiled = Compiled::new();
    for (name, given) in relays {
        let mut addresses = Vec::new();
        for &address in given {
            let canonical =
                reachable(address).map_err(|_| RelaysError::BadAddress(name.clone(), address))?;
            // RFC 2181 section 5: no record is there twice.
            if !addresses.contains(&canonical) {
                addresses.push(canonical);
            }
        }
        if addresses.is_empty() {
            return Err(RelaysError::NoAddress(name.clone()));
        }
        let too_many = || RelaysError::TooManyAddresses(name.clone());
        if addresses.len() > MAX_ADDRESSES {
            return Err(too_many());
        }
        let node = Node::of_addresses(&addresses, ttl).map_err(|_| too_many())?;
        if compiled.insert(name, node).is_some() {
            return Err(RelaysError::Twice(name.clone()));
        }
    }
    Ok(compiled)
}

impl Known {
    /// Nobody but the server's own relay, which has the addresses of `own`.
    pub(crate) fn only(own: Node) -> Self {
        let mut node_by_number = vec![Node::default(); MAX_RELAYS + 1];
        node_by_number[usize::from(Presence::OWN)] = own;
        Self {
            number_by_label: HashMap::new(),
            node_by_number,
        }
    }

    /// Those that stay of these when there are to be others, each with its number and its new addresses.
    pub(crate) fn staying(&self, relays: &Compiled<'_>) -> Self {
        let own = self.node_by_number[usize::from(Presence::OWN)].clone();
        let mut staying = Self::only(own);
        for (name, node) in relays {
            if let Some(number) = self.number(label(name)) {
                staying.put(name, number, node);
            }
        }
        staying
    }

    /// Adds those that are not known yet, each with a number that is nobody's.
    pub(crate) fn add(&mut self, relays: &Compiled<'_>) {
        let mut free = (Presence::OWN + 1..=u8::MAX)
            .filter(|number| !self.has(*number))
            .collect::<Vec<_>>()
            .into_iter();
        for (name, node) in relays {
            if self.number(label(name)).is_none()
                && let Some(number) = free.next()
            {
                self.put(name, number, node);
            }
        }
    }

    fn put(&mut self, name: &RelayName, number: u8, node: &Node) {
        self.number_by_label.insert(label(name).into(), number);
        self.node_by_number[usize::from(number)] = node.clone();
    }

    /// Of the relay whose label this is, in lower case.
    pub(crate) fn number(&self, label: &[u8]) -> Option<u8> {
        self.number_by_label.get(label).copied()
    }

    /// Whether the number is somebody's.
    pub(crate) fn has(&self, number: u8) -> bool {
        self.node_by_number[usize::from(number)].has_addresses()
    }

    /// The labels of those with a process of their own.
    pub(crate) fn labels(&self) -> impl Iterator<Item = &[u8]> {
        self.number_by_label.keys().map(|label| &**label)
    }

    /// The label of the relay with this number, if it has a process of its own.
    pub(crate) fn label(&self, number: u8) -> Option<&[u8]> {
        let mut numbers = self.number_by_label.iter();
        numbers.find_map(|(label, other)| (*other == number).then_some(&**label))
    }

    /// How many have a process of their own.
    pub(crate) fn len(&self) -> usize {
        self.number_by_label.len()
    }

    fn find(&self, number: u8, qtype: Type) -> Option<&Rrset> {
        self.node_by_number[usize::from(number)].find(qtype)
    }
}

fn label(name: &RelayName) -> &[u8] {
    name.as_str().as_bytes()
}

/// The addresses of one or two relays, of one family. They stay what they were when they were looked up.
#[derive(Debug)]
pub struct RelayAddresses {
    known: Guard<Arc<Known>>,
    presence: Presence,
    qtype: Type,
}

impl RelayAddresses {
    /// `None` if the relays have no address of that family.
    pub(crate) fn new(known: Guard<Arc<Known>>, presence: Presence, qtype: Type) -> Option<Self> {
        let has_some = presence
            .numbers()
            .any(|number| known.find(number, qtype).is_some());
        has_some.then_some(Self {
            known,
            presence,
            qtype,
        })
    }

    /// Two relays behind one address are led to once (RFC 2181 section 5).
    pub(crate) fn octets(&self) -> Octets<'_> {
        let numbers = self.presence.numbers();
        let mut sets = numbers.filter_map(|number| self.known.find(number, self.qtype));
        match (sets.next(), sets.next()) {
            (Some(first), Some(second)) => Octets::of_both(first, second),
            (Some(set), None) => Octets::of(set),
            (None, _) => Octets::default(),
        }
    }
}
