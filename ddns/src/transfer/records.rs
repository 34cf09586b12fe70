//! Records in a list, each with the labels of its owner in front of the zone's name:
//!
//! ```text
//!  octets of the labels 1 │ labels │ type 2 │ TTL 4 │ octets of data 2 │ data, without compression
//! ```
//!
//! A name that has no records, because there are names below it, is there with type 0 alone.

use std::sync::Arc;

use crate::protocol::{CLASS_IN, POINTER_TO_QUESTION, Type};

/// Records, whose order is that of a list or of their octets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Records(Arc<[u8]>);

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry<'r>(&'r [u8]);

/// The type of a name without records.
const NOTHING: Type = Type(0);

/// What is made when the zone is signed. A secondary that signs makes its own.
const SIGNED: [Type; 6] = [
    Type::RRSIG,
    Type::DNSKEY,
    Type::NSEC3,
    Type::NSEC3PARAM,
    Type::CDS,
    Type::CDNSKEY,
];

/// Puts records together.
#[derive(Debug, Default)]
pub(super) struct Gathering(Vec<Vec<u8>>);

impl Gathering {
    pub(super) fn put(&mut self, owner: &[u8], rtype: Type, ttl: u32, data: &[u8]) {
        let length = data.len() as u16; // every set is smaller than MAX_RRSET
        let entry = [
            &[owner.len() as u8],
            owner,
            &rtype.0.to_be_bytes(),
            &ttl.to_be_bytes(),
            &length.to_be_bytes(),
            data,
        ];
        self.0.push(entry.concat());
    }

    /// A name without records.
    pub(super) fn put_nothing(&mut self, owner: &[u8]) {
        self.put(owner, NOTHING, 0, &[]);
    }

    /// In the order of their octets.
    pub(super) fn sorted(mut self) -> Records {
        self.0.sort_unstable();
        self.0.dedup();
        self.listed()
    }

    /// In the order in which they were put.
    pub(super) fn listed(self) -> Records {
        Records(self.0.concat().into())
    }
}

impl Records {
    /// The entry at an octet, and where the next one is.
    pub(super) fn at(&self, octet: usize) -> Option<(Entry<'_>, usize)> {
        let rest = self.0.get(octet..)?;
        let labels = usize::from(*rest.first()?);
        let length = rest.get(labels + 7..)?.first_chunk()?;
        let len = labels + 9 + usize::from(u16::from_be_bytes(*length));
        Some((Entry(rest.get(..len)?), octet + len))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut octet = 0;
        std::iter::from_fn(move || {
            let (entry, next) = self.at(octet)?;
            octet = next;
            Some(entry)
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What these have beyond others; both are sorted.
    pub(super) fn beyond<'r>(&'r self, others: &'r Self) -> impl Iterator<Item = Entry<'r>> {
        let mut others = others.iter().peekable();
        self.iter().filter(move |entry| {
            while others.next_if(|other| other < entry).is_some() {}
            others.peek() != Some(entry)
        })
    }
}

impl<'r> Entry<'r> {
    /// The labels in front of the zone's name.
    pub(super) fn owner(self) -> &'r [u8] {
        let labels = usize::from(self.0[0]);
        &self.0[1..=labels]
    }

    pub(super) fn rtype(self) -> Type {
        let at = 1 + self.owner().len();
        Type(u16::from_be_bytes([self.0[at], self.0[at + 1]]))
    }

    /// In seconds.
    pub(super) fn ttl(self) -> u32 {
        let at = 3 + self.owner().len();
        self.0
            .get(at..)
            .and_then(<[u8]>::first_chunk)
            .copied()
            .map_or(0, u32::from_be_bytes)
    }

    pub(super) fn data(self) -> &'r [u8] {
        self.0.get(9 + self.owner().len()..).unwrap_or_default()
    }

    /// As it is kept.
    pub(super) fn octets(self) -> &'r [u8] {
        self.0
    }

    /// It is a record, and one that this secondary is to have.
    pub(super) fn is_for(self, signs: bool) -> bool {
        let rtype = self.rtype();
        rtype != NOTHING && !(signs && SIGNED.contains(&rtype))
    }

    /// Writes it into a message whose question is for the zone.
    pub(super) fn write(self, message: &mut Vec<u8>) {
        let owner = self.owner();
        let rest = &self.0[1 + owner.len()..];
        message.extend(owner);
        message.extend(POINTER_TO_QUESTION);
        message.extend(&rest[..2]);
        message.extend(CLASS_IN.to_be_bytes());
        message.extend(&rest[2..]);
    }
}

impl<'r> FromIterator<Entry<'r>> for Records {
    fn from_iter<I: IntoIterator<Item = Entry<'r>>>(entries: I) -> Self {
        let octets: Vec<_> = entries.into_iter().map(Entry::octets).collect();
        Self(octets.concat().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(hosts: &[u8]) -> Records {
        let mut gathering = Gathering::default();
        for host in hosts {
            gathering.put(b"\x01a", Type::A, 60, &[192, 0, 2, *host]);
        }
        gathering.sorted()
    }

    #[test]
    fn what_differs_is_what_one_has_and_the_other_has_not() {
        let (old, new) = (records(&[3, 1, 2]), records(&[2, 4, 4]));
        let hosts = |entries: Vec<Entry<'_>>| -> Vec<u8> {
            let last = |entry: Entry<'_>| *entry.octets().last().unwrap();
            entries.into_iter().map(last).collect()
        };
        assert_eq!(hosts(old.beyond(&new).collect()), [1, 3]);
        assert_eq!(hosts(new.beyond(&old).collect()), [4]);
        assert_eq!(hosts(old.iter().collect()), [1, 2, 3]);
        assert_eq!(old.beyond(&old).count(), 0);
        assert_eq!(hosts(old.beyond(&Records::default()).collect()), [1, 2, 3]);
    }

    #[test]
    fn a_record_in_a_message_points_to_the_zone() {
        let mut message = Vec::new();
        let records = records(&[7]);
        let (entry, next) = records.at(0).unwrap();
        assert!(records.at(next).is_none());
        assert!(entry.is_for(true) && entry.rtype() == Type::A);
        entry.write(&mut message);
        let expected = b"\x01a\xC0\x0C\0\x01\0\x01\0\0\0\x3C\0\x04\xC0\0\x02\x07";
        assert_eq!(message, expected);
        let mut empty = Gathering::default();
        empty.put_nothing(b"\x01b");
        let empty = empty.sorted();
        assert!(empty.iter().all(|entry| !entry.is_for(false)));
    }
}
