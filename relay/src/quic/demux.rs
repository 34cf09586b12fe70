//! Whose a datagram is that comes to the relay's UDP port: it is decided once. The QUIC endpoint is the only customer so far;
//! HTTP/3 pass-through and parked devices will be others on the same port.

use std::time::Duration;

use prometheus::IntCounter;
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use wire::connection_id::{ConnectionIdKey, LENGTH, Owner};
use wire::datagram::Datagram;

/// What came on the UDP port and was nobody's.
#[derive(Clone, Debug)]
pub(crate) struct DatagramCounts {
    /// QUIC packets with a connection id that nobody here made.
    pub(crate) stray: IntCounter,
    /// No QUIC at all.
    pub(crate) other: IntCounter,
    /// For a connection of another worker. The kernel steers them; while the sockets are being bound it does not.
    pub(crate) misdirected: IntCounter,
}

pub(super) struct Demultiplexer {
    key: ConnectionIdKey,
    owner: Owner,
    counts: DatagramCounts,
}

impl Demultiplexer {
    pub(super) fn new(key: ConnectionIdKey, owner: Owner, counts: DatagramCounts) -> Self {
        Self { key, owner, counts }
    }

    /// Whether the datagram is for the QUIC endpoint. If not, it is counted.
    pub(super) fn is_quic(&self, datagram: &[u8]) -> bool {
        match Datagram::classify(datagram, &self.key) {
            Datagram::Ours(owner) if owner != self.owner => {
                // The endpoint would take it for one of a connection that is no more, and end that.
                self.counts.misdirected.inc();
                false
            }
            Datagram::Ours(_) | Datagram::Initial => true,
            Datagram::Stray => {
                self.counts.stray.inc();
                false
            }
            Datagram::Other => {
                self.counts.other.inc();
                false
            }
        }
    }
}

/// Gives the QUIC endpoint connection ids that the demultiplexer recognises.
pub(super) struct ConnectionIds {
    key: ConnectionIdKey,
    owner: Owner,
}

impl ConnectionIds {
    pub(super) fn new(key: ConnectionIdKey, owner: Owner) -> Self {
        Self { key, owner }
    }
}

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.key.make(self.owner, rand::random()))
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        match self.key.owner(id) {
            Some(owner) if owner == self.owner => Ok(()),
            _ => Err(InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
