//! What a datagram on the relay's UDP port is, decided once from its first octets.
//!
//! ```text
//!   192..=255   QUIC long header   flags 1 │ version 4 │ length 1 │ destination id │ …     RFC 9000 section 17.2
//!    64..=127   QUIC short header  flags 1 │ destination id (8 octets when ours) │ …       RFC 9000 section 17.3.1
//!   the rest    other protocols of the same port, by first octet                          RFC 9443 section 2
//! ```

use crate::connection_id::{ConnectionIdKey, LENGTH, Owner};

/// RFC 9000 section 17.2: the connection ids of version 1 have at most 20 octets.
pub const MAX_CONNECTION_ID: usize = 20;

/// RFC 9000 section 14.1: a datagram with an Initial has at least 1,200 octets.
const MIN_INITIAL: usize = 1200;

/// Whose a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram {
    /// A packet of a connection that an endpoint of ours holds.
    Ours(Owner),
    /// A packet that may begin a connection: a long header with an id that the client chose, in a full-sized datagram.
    Initial,
    /// QUIC, but with an id that nobody here made.
    Stray,
    /// No QUIC at all.
    Other,
}

impl Datagram {
    /// Classifies one datagram; `key` recognises our connection ids.
    pub fn classify(datagram: &[u8], key: &ConnectionIdKey) -> Self {
        match datagram.split_first() {
            Some((192..=255, rest)) => long_header(rest, datagram.len(), key),
            Some((64..=127, rest)) => short_header(rest, key),
            _ => Self::Other,
        }
    }
}

/// Whether a QUIC packet has a short header, which does not say how long the id is. So it is for every version (RFC 8999).
pub fn has_short_header(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0x80 == 0)
}

/// The ids in the clear of a packet with a long header, whatever its version (RFC 8999 section 5.1): destination and source.
/// `None` where they are no ids that are known here.
pub fn ids(datagram: &[u8]) -> Option<(&[u8], &[u8])> {
    let (first, rest) = datagram.split_first()?;
    let (_version, rest) = rest.split_first_chunk::<4>()?;
    let (destination, rest) = id(rest)?;
    let (source, _) = id(rest)?;
    (first & 0x80 != 0).then_some((destination, source))
}

fn id(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = octets.split_first()?;
    let length = usize::from(*length);
    rest.split_at_checked(length)
        .filter(|_| length <= MAX_CONNECTION_ID)
}

fn long_header(rest: &[u8], length: usize, key: &ConnectionIdKey) -> Datagram {
    let Some((_version, rest)) = rest.split_first_chunk::<4>() else {
        return Datagram::Other;
    };
    let Some((&id_length, rest)) = rest.split_first() else {
        return Datagram::Other;
    };
    let id_length = usize::from(id_length);
    let Some((id, _)) = rest.split_at_checked(id_length) else {
        return Datagram::Other;
    };
    if id_length > MAX_CONNECTION_ID {
        return Datagram::Stray; // of a future version
    }
    match key.owner(id) {
        Some(owner) => Datagram::Ours(owner),
        None if length >= MIN_INITIAL => Datagram::Initial,
        None => Datagram::Stray,
    }
}

fn short_header(rest: &[u8], key: &ConnectionIdKey) -> Datagram {
    let id = rest.split_at_checked(LENGTH).map(|(id, _)| id);
    id.and_then(|id| key.owner(id))
        .map_or(Datagram::Stray, Datagram::Ours)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::connection_id::Generation;

    const OWNER: Owner = Owner {
        worker: 2,
        generation: Generation(7),
    };

    fn key() -> ConnectionIdKey {
        ConnectionIdKey::new([5; 16])
    }

    fn long(id: &[u8], length: usize) -> Vec<u8> {
        let mut datagram = vec![0xc3, 0, 0, 0, 1, id.len() as u8];
        datagram.extend_from_slice(id);
        datagram.resize(length, 0);
        datagram
    }

    #[test]
    fn a_clients_first_packet_is_an_initial_only_if_it_is_large_enough() {
        assert_eq!(
            Datagram::classify(&long(&[1; 18], 1200), &key()),
            Datagram::Initial
        );
        assert_eq!(
            Datagram::classify(&long(&[1; 18], 1199), &key()),
            Datagram::Stray
        );
    }

    #[test]
    fn later_packets_carry_our_id_in_either_header() {
        let id = key().make(OWNER, [1, 2, 3, 4, 5, 6]);
        assert_eq!(
            Datagram::classify(&long(&id, 100), &key()),
            Datagram::Ours(OWNER)
        );
        let mut short = vec![0x45];
        short.extend_from_slice(&id);
        short.extend_from_slice(&[0; 20]);
        assert_eq!(Datagram::classify(&short, &key()), Datagram::Ours(OWNER));
        assert_eq!(Datagram::classify(&short[..8], &key()), Datagram::Stray);
    }

    #[test]
    fn other_protocols_of_the_port_are_told_apart() {
        // RFC 9443: STUN 0..=3, ZRTP 16..=19, DTLS 20..=63, RTP 128..=191
        for first in [0, 3, 16, 20, 63, 128, 191] {
            assert_eq!(Datagram::classify(&[first; 1200], &key()), Datagram::Other);
        }
        assert_eq!(Datagram::classify(&[], &key()), Datagram::Other);
        assert_eq!(Datagram::classify(&[0xc0, 0, 0], &key()), Datagram::Other);
        assert_eq!(
            Datagram::classify(&long(&[1; 21], 1200), &key()),
            Datagram::Stray
        );
    }

    #[test]
    fn the_ids_of_a_long_header_are_in_the_clear() {
        let packet = [0xc3, 9, 9, 9, 9, 2, 7, 8, 3, 4, 5, 6, 0];
        assert_eq!(ids(&packet), Some((&[7, 8][..], &[4, 5, 6][..])));
        assert!(!has_short_header(&packet));
        for cut in 0..12 {
            assert_eq!(ids(&packet[..cut]), None, "{cut}");
        }
        let short = [&[0x43], &packet[1..]].concat();
        assert_eq!(ids(&short), None);
        assert!(has_short_header(&short));
        let mut long = packet;
        long[5] = 21;
        assert_eq!(ids(&[&long[..], &[0; 40]].concat()), None);
    }

    proptest! {
        #[test]
        fn any_octets_have_a_class(octets in prop::collection::vec(any::<u8>(), 0..64)) {
            Datagram::classify(&octets, &key());
            ids(&octets);
        }
    }
}
