//! What messages that change something, or are signed, are made of: names with their pointers followed, and whole records. Queries
//! have a reader of their own, which is as quick as it is narrow.

#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use crate::protocol::{HEADER_LEN, MAX_LABEL, MAX_NAME, Type};

/// The header of a message (RFC 1035 section 4.1.1; RFC 2136 section 2.2 has other names for the sections).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) opcode: u8,
    /// Entries of each section: question or zone, answer or prerequisite, authority or update, additional.
    pub(crate) counts: [u16; 4],
}

impl Header {
    /// `None` if the message is too short to have one.
    pub(crate) fn read(message: &[u8]) -> Option<Self> {
        let [_, _, flags, _, counts @ ..] = *message.first_chunk::<HEADER_LEN>()?;
        let [q0, q1, a0, a1, n0, n1, r0, r1] = counts;
        Some(Self {
            opcode: (flags & 0x78) >> 3,
            counts: [[q0, q1], [a0, a1], [n0, n1], [r0, r1]].map(u16::from_be_bytes),
        })
    }
}

/// Reads a message from behind its header on; every step forward is checked.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'m> {
    message: &'m [u8],
    at: usize,
}

/// A record, its owner still to be read.
#[derive(Clone, Debug)]
pub(crate) struct Record<'m> {
    /// Stands at the owner.
    owner: Reader<'m>,
    pub(crate) rtype: Type,
    pub(crate) class: u16,
    pub(crate) ttl: u32,
    pub(crate) data: &'m [u8],
}

impl Record<'_> {
    /// Its owner, as [`Reader::name`] gives it.
    pub(crate) fn owner(&self) -> Option<Box<[u8]>> {
        self.owner.clone().name()
    }

    /// Where it begins in the message.
    pub(crate) fn at(&self) -> usize {
        self.owner.at
    }
}

impl<'m> Reader<'m> {
    pub(crate) fn new(message: &'m [u8]) -> Self {
        let at = HEADER_LEN;
        Self { message, at }
    }

    /// A name by itself, which has nothing to point to.
    pub(crate) fn of_data(data: &'m [u8]) -> Self {
        let (message, at) = (data, 0);
        Self { message, at }
    }

    /// Nothing is left.
    pub(crate) fn is_at_end(&self) -> bool {
        self.at == self.message.len()
    }

    /// Octets from the beginning of the message.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn take(&mut self, len: usize) -> Option<&'m [u8]> {
        let end = self.at.checked_add(len)?;
        let taken = self.message.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// A name on the wire in lower case, with its closing zero; pointers are followed (RFC 1035 section 4.1.4).
    pub(crate) fn name(&mut self) -> Option<Box<[u8]>> {
        let mut name = Vec::new();
        let mut reader = self.clone();
        // A pointer leads to a *prior* occurrence; so none can lead in a circle.
        let mut begin = self.at;
        let mut behind_pointer = None;
        loop {
            match reader.array::<1>()? {
                [0] => break,
                [length] if usize::from(length) <= MAX_LABEL => {
                    name.push(length);
                    name.extend_from_slice(reader.take(length.into())?);
                    if name.len() >= MAX_NAME {
                        return None;
                    }
                }
                [high] if high >= 0xC0 => {
                    let [low] = reader.array()?;
                    behind_pointer.get_or_insert(reader.at);
                    let to = usize::from(u16::from_be_bytes([high & 0x3F, low]));
                    if to >= begin {
                        return None;
                    }
                    (begin, reader.at) = (to, to);
                }
                _ => return None,
            }
        }
        name.push(0);
        name.make_ascii_lowercase();
        self.at = behind_pointer.unwrap_or(reader.at);
        Some(name.into())
    }

    /// Passes a name without looking where its pointer leads.
    fn skip_name(&mut self) -> Option<()> {
        loop {
            match self.array::<1>()? {
                [0] => return Some(()),
                [length] if usize::from(length) <= MAX_LABEL => {
                    self.take(length.into())?;
                }
                [high] if high >= 0xC0 => {
                    self.take(1)?;
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    /// Passes a question, or a zone.
    pub(crate) fn skip_question(&mut self) -> Option<()> {
        self.skip_name()?;
        self.take(4).map(drop)
    }

    pub(crate) fn record(&mut self) -> Option<Record<'m>> {
        let owner = self.clone();
        self.skip_name()?;
        let rtype = Type(self.u16()?);
        let class = self.u16()?;
        let ttl = self.array().map(u32::from_be_bytes)?;
        let length = self.u16()?;
        let data = self.take(length.into())?;
        Some(Record {
            owner,
            rtype,
            class,
            ttl,
            data,
        })
    }
}

/// The labels of `name` in front of `zone`, both in the form of [`Reader::name`]; empty for the zone itself, `None` outside of it.
pub(crate) fn labels_below<'n>(name: &'n [u8], zone: &[u8]) -> Option<&'n [u8]> {
    let mut rest = name;
    while rest.len() > zone.len() {
        let (&length, behind) = rest.split_first()?;
        rest = behind.get(usize::from(length)..)?;
    }
    if rest == zone {
        name.strip_suffix(rest)
    } else {
        None
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    fn name(message: &[u8], at: usize) -> Option<(Box<[u8]>, usize)> {
        let mut reader = Reader { message, at };
        Some((reader.name()?, reader.at))
    }

    #[test]
    fn pointers_are_followed_back_and_nowhere_else() {
        let message = b"\x03NAS\0\x01a\xC0\x00\x01b\xC0\x05\xC0\x0D\xC0\x10";
        assert_eq!(name(message, 5), Some((Box::from(*b"\x01a\x03nas\0"), 9)));
        let twice = Box::from(*b"\x01b\x01a\x03nas\0");
        assert_eq!(name(message, 9), Some((twice, 13)));
        assert_eq!(name(message, 13), None, "to itself");
        assert_eq!(name(message, 15), None, "forward");
        assert_eq!(name(b"\x40", 0), None);
        assert_eq!(name(b"\x03na", 0), None);
    }

    #[test]
    fn a_name_has_255_octets_at_most() {
        let label = [&[63][..], &[b'a'; 63]].concat();
        let longest = [&label.repeat(3)[..], &[61], &[b'a'; 61], &[0]].concat();
        assert_eq!(name(&longest, 0).unwrap().0.len(), 255);
        let longer = [&label.repeat(3)[..], &[62], &[b'a'; 62], &[0]].concat();
        assert_eq!(name(&longer, 0), None);
    }

    #[test]
    fn a_name_is_below_a_zone_only_at_a_label() {
        let zone = b"\x03nas\0";
        assert_eq!(labels_below(zone, zone), Some(&b""[..]));
        assert_eq!(labels_below(b"\x01a\x03nas\0", zone), Some(&b"\x01a"[..]));
        assert_eq!(labels_below(b"\x05a\x03nas\0", zone), None);
        assert_eq!(labels_below(b"\0", zone), None);
    }
}
