//! An UPDATE on the wire (RFC 2136 section 2).
//!
//! ```text
//!  header 12 │ zone: one name, SOA, class │ prerequisites │ updates │ additional
//! ```

#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use crate::message::{Header, Reader, Record};
use crate::protocol::{Rcode, Type};

/// What an UPDATE says, before anybody asks what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateMessage<'m> {
    /// The zone's name, as all names here on the wire and in lower case.
    pub zone: Box<[u8]>,
    /// The zone's class.
    pub class: u16,
    /// What has to be so (section 2.4).
    pub prerequisites: Vec<Line<'m>>,
    /// What is to become so (section 2.5).
    pub updates: Vec<Line<'m>>,
    /// The version of EDNS that the client speaks, if it does.
    pub edns: Option<u8>,
}

/// A record as a prerequisite or an update uses it: what it means depends on its class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'m> {
    /// Whose record it is.
    pub name: Box<[u8]>,
    /// Its type.
    pub rtype: Type,
    /// The zone's class, ANY or NONE.
    pub class: u16,
    /// Its TTL, in seconds.
    pub ttl: u32,
    /// Its data, unread.
    pub data: &'m [u8],
}

impl<'m> UpdateMessage<'m> {
    /// Reads a message whose operation is UPDATE, without its signature.
    ///
    /// # Errors
    /// FORMERR, if it is none.
    pub fn parse(message: &'m [u8]) -> Result<Self, Rcode> {
        Self::read(message).ok_or(Rcode::FormErr)
    }

    fn read(message: &'m [u8]) -> Option<Self> {
        let [zones, prerequisites, updates, additionals] = Header::read(message)?.counts;
        // RFC 2136 section 3.1.1: "The Zone Section is checked to see that there is exactly one RR therein".
        if zones != 1 {
            return None;
        }
        let mut reader = Reader::new(message);
        let zone = reader.name()?;
        let ztype = Type(reader.u16()?);
        let class = reader.u16()?;
        // The same: "and that the RR's ZTYPE is SOA, else signal FORMERR to the requestor."
        if ztype != Type::SOA {
            return None;
        }
        let prerequisites = lines(&mut reader, prerequisites)?;
        let updates = lines(&mut reader, updates)?;
        let mut edns = None;
        for _ in 0..additionals {
            let record = reader.record()?;
            if record.rtype == Type::OPT {
                let [_, version, _, _] = record.ttl.to_be_bytes();
                // RFC 6891 section 6.1.1: more than one is a FORMERR.
                if edns.replace(version).is_some() {
                    return None;
                }
            }
        }
        reader.is_at_end().then_some(Self {
            zone,
            class,
            prerequisites,
            updates,
            edns,
        })
    }
}

fn lines<'m>(reader: &mut Reader<'m>, count: u16) -> Option<Vec<Line<'m>>> {
    (0..count).map(|_| Line::of(&reader.record()?)).collect()
}

impl<'m> Line<'m> {
    fn of(record: &Record<'m>) -> Option<Self> {
        Some(Self {
            name: record.owner()?,
            rtype: record.rtype,
            class: record.class,
            ttl: record.ttl,
            data: record.data,
        })
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn update(counts: [u8; 4], ztype: u8, rest: &[u8]) -> Vec<u8> {
        let [zones, prerequisites, updates, additionals] = counts;
        let mut message = vec![7, 8, 0x28, 0, 0, zones, 0, prerequisites];
        message.extend([0, updates, 0, additionals]);
        message.extend(b"\x03NAS\x04test\0\0");
        message.extend([ztype, 0, 1]);
        message.extend(rest);
        message
    }

    const LINES: &[u8] = b"\x04home\xC0\x0C\0\xFF\0\xFF\0\0\0\0\0\0\
                           \xC0\x1A\0\x01\0\x01\0\0\0\x3C\0\x04\xC0\0\x02\x07\
                           \0\0\x29\x04\xD0\0\0\0\0\0\0";

    #[test]
    fn an_update_is_a_zone_and_lines() {
        let octets = update([1, 1, 1, 1], 6, LINES);
        let message = UpdateMessage::parse(&octets).unwrap();
        assert_eq!(
            (&*message.zone, message.class),
            (&b"\x03nas\x04test\0"[..], 1)
        );
        let [prerequisite] = &message.prerequisites[..] else {
            panic!("{message:?}");
        };
        assert_eq!(*prerequisite.name, *b"\x04home\x03nas\x04test\0");
        assert_eq!((prerequisite.class, prerequisite.rtype), (255, Type::ANY));
        let [line] = &message.updates[..] else {
            panic!("{message:?}");
        };
        assert_eq!(line.name, prerequisite.name);
        assert_eq!((line.rtype, line.ttl), (Type::A, 60));
        assert_eq!(line.data, [192, 0, 2, 7]);
        assert_eq!(message.edns, Some(0));
    }

    #[test]
    fn anything_else_is_a_format_error() {
        for malformed in [
            update([0, 0, 0, 0], 6, b""),
            update([2, 0, 0, 0], 6, b"\0\0\x06\0\x01"),
            update([1, 0, 0, 0], 1, b""),
            update([1, 1, 1, 2], 6, LINES),
            update([1, 1, 1, 0], 6, LINES),
            update([1, 1, 1, 1], 6, &LINES[..30]),
        ] {
            assert_eq!(UpdateMessage::parse(&malformed), Err(Rcode::FormErr));
        }
    }
}
