//! Whose a datagram is: found by where it comes from, and if that is new, by an id that only who has heard it can know.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use dashmap::DashMap;
use directory::DeviceId;
use wire::datagram::{self, MAX_CONNECTION_ID};

use super::unproved::Unproved;
use super::{Flow, LEAST_ID};

/// Flows of one port: a client may have all its connections on one.
const MOST_OF_A_PORT: usize = 32;

/// A connection id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Id {
    octets: [u8; MAX_CONNECTION_ID],
    length: u8,
}

impl Id {
    /// `None` if it is longer than any.
    pub(super) fn new(id: &[u8]) -> Option<Self> {
        let mut octets = [0; MAX_CONNECTION_ID];
        octets.get_mut(..id.len())?.copy_from_slice(id);
        let length = u8::try_from(id.len()).ok()?;
        Some(Self { octets, length })
    }

    fn octets(&self) -> &[u8] {
        &self.octets[..self.length.into()]
    }

    /// Whether a packet is for who has it. Of a short header the length of the id is not known, so it is if it begins with it.
    pub(super) fn is_destination_of(&self, packet: &[u8]) -> bool {
        match datagram::ids(packet) {
            Some((destination, _)) => destination == self.octets(),
            None => {
                self.length > 0
                    && packet
                        .get(1..)
                        .is_some_and(|rest| rest.starts_with(self.octets()))
            }
        }
    }
}

/// Whose a datagram is.
pub(super) enum Found {
    /// Of this one, who may be the only one there.
    Known {
        flow: Arc<Flow>,
        alone: bool,
    },
    /// Of this one, who was elsewhere before.
    Moved(Arc<Flow>),
    Nobody,
}

/// The flows of one relay, for all of its workers. No entry is held while a flow is locked, but the other way round it may be.
#[derive(Default)]
pub(crate) struct Table {
    by_address: DashMap<SocketAddr, Vec<Arc<Flow>>>,
    /// By the ids that devices' servers have given themselves.
    by_id: DashMap<Id, Arc<Flow>>,
    /// How many of these have which length.
    lengths: [AtomicUsize; MAX_CONNECTION_ID + 1],
    /// How many have an entry by address.
    count: AtomicUsize,
    pub(super) unproved: Unproved,
}

impl Table {
    pub(super) fn of(&self, from: SocketAddr, packet: &[u8]) -> Found {
        if self.count.load(Relaxed) == 0 {
            return Found::Nobody;
        }
        let (only, several) = match self.by_address.get(&from).as_deref().map(Vec::as_slice) {
            Some([flow]) => (Some(Arc::clone(flow)), Vec::new()),
            Some(flows) => (None, flows.to_vec()),
            None => (None, Vec::new()),
        };
        let here = match &only {
            Some(_) => only.as_slice(),
            None => &several,
        };
        let known = |flow: &Arc<Flow>| Found::Known {
            flow: Arc::clone(flow),
            alone: here.len() == 1,
        };
        if let Some(flow) = here.iter().find(|flow| flow.is_for(packet)) {
            return known(flow);
        }
        // Nobody moves before its handshake is over (RFC 9000 section 9).
        if !datagram::has_short_header(packet) {
            return Found::Nobody;
        }
        // Somebody else may have been here before. If not, a server may have given its client ids that were not in the clear: not
        // that of a newcomer, which the port's owner need not have sent.
        let moved = self.by_id(packet).map(Found::Moved);
        moved.unwrap_or_else(|| {
            let proved = here.iter().rfind(|flow| flow.is_proved());
            proved.or(here.last()).map_or(Found::Nobody, known)
        })
    }

    /// The flow of a device that is there.
    pub(super) fn of_device(&self, from: SocketAddr, device: &DeviceId) -> Option<Arc<Flow>> {
        let flows = self.by_address.get(&from)?;
        let mut flows = flows.iter().rev();
        flows.find(|flow| flow.session.device == *device).cloned()
    }

    fn by_id(&self, packet: &[u8]) -> Option<Arc<Flow>> {
        let lengths = (LEAST_ID..=MAX_CONNECTION_ID).rev();
        let mut lengths = lengths.filter(|length| self.lengths[*length].load(Relaxed) > 0);
        lengths.find_map(|length| {
            let id = Id::new(packet.get(1..=length)?)?;
            self.by_id.get(&id).map(|flow| Arc::clone(&flow))
        })
    }

    /// Makes it known that a flow is there; `false` if that port has as many as may be.
    pub(super) fn add(&self, address: SocketAddr, flow: &Arc<Flow>) -> bool {
        let mut flows = self.by_address.entry(address).or_default();
        if flows.len() >= MOST_OF_A_PORT {
            return false;
        }
        if !flows.iter().any(|other| Arc::ptr_eq(other, flow)) {
            flows.push(Arc::clone(flow));
            self.count.fetch_add(1, Relaxed);
        }
        true
    }

    /// The flow is not there any more.
    pub(super) fn forget(&self, address: SocketAddr, flow: &Arc<Flow>) {
        self.by_address.remove_if_mut(&address, |_, flows| {
            let before = flows.len();
            flows.retain(|other| !Arc::ptr_eq(other, flow));
            self.count.fetch_sub(before - flows.len(), Relaxed);
            flows.is_empty()
        });
    }

    /// The flow's server has given itself this id. If another has it already, that one keeps it.
    pub(super) fn know(&self, id: Id, flow: &Arc<Flow>) {
        self.by_id.entry(id).or_insert_with(|| {
            self.lengths[usize::from(id.length)].fetch_add(1, Relaxed);
            Arc::clone(flow)
        });
    }

    /// Nobody is to be found by these any more.
    pub(super) fn forget_ids(&self, ids: &[Id], flow: &Arc<Flow>) {
        for id in ids {
            let forgotten = self
                .by_id
                .remove_if(id, |_, known| Arc::ptr_eq(known, flow));
            if forgotten.is_some() {
                self.lengths[usize::from(id.length)].fetch_sub(1, Relaxed);
            }
        }
    }
}
