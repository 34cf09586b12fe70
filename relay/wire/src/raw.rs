//! The header of a raw connection: which visitor it is for, and the proof that the agent of its tunnel dialled it.
//!
//! ```text
//!   first octet 1 │ version 1 │ ticket 16 │ seal 32
//! ```
//!
//! The seal is an HMAC-SHA256 over everything before it, under a key that both ends of the tunnel draw from its TLS
//! session (RFC 8446 section 7.5). Nothing in the header is worth hiding: the ticket works once, for ten seconds, and only
//! under that seal. What follows is the visitor's own TLS.

use crate::frame::Ticket;

/// The first octet: no TLS record (RFC 8446 section 5.1), no HTTP.
pub const FIRST_OCTET: u8 = 0xc5;

/// Octets of the whole header.
pub const HEADER: usize = 50;

/// Octets of the header that the seal covers.
pub const SEALED: usize = 18;

/// Label of the key that both ends draw from the tunnel's TLS session.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-causeway-raw/1";

const VERSION: u8 = 1;

/// A header that was read; its seal is yet to be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which visitor it is for.
    pub ticket: Ticket,
    /// What the seal covers.
    pub sealed: [u8; SEALED],
    /// The seal.
    pub seal: [u8; HEADER - SEALED],
}

/// The part of a header that is to be sealed.
pub fn to_seal(ticket: &Ticket) -> [u8; SEALED] {
    let mut octets = [0; SEALED];
    let parts = [FIRST_OCTET, VERSION].into_iter().chain(ticket.0);
    for (to, from) in octets.iter_mut().zip(parts) {
        *to = from;
    }
    octets
}

impl Header {
    /// Reads a header; `None` if the octets are none of this version.
    pub fn read(octets: &[u8; HEADER]) -> Option<Self> {
        let (sealed, seal) = octets.split_first_chunk::<SEALED>()?;
        let (start, ticket) = sealed.split_first_chunk::<2>()?;
        if *start != [FIRST_OCTET, VERSION] {
            return None;
        }
        Some(Self {
            ticket: Ticket(ticket.try_into().ok()?),
            sealed: *sealed,
            seal: seal.try_into().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let ticket = Ticket([7; 16]);
        let mut octets = [9; HEADER];
        octets[..SEALED].copy_from_slice(&to_seal(&ticket));
        let header = Header::read(&octets).unwrap();
        assert_eq!(header.ticket, ticket);
        assert_eq!(header.sealed, to_seal(&ticket));
        assert_eq!(header.seal, [9; 32]);
    }

    #[test]
    fn another_version_is_not_read() {
        let mut octets = [0; HEADER];
        octets[0] = FIRST_OCTET;
        octets[1] = VERSION + 1;
        assert_eq!(Header::read(&octets), None);
    }
}
