//! Steps through the octets of a message, each of them checked.

use crate::protocol::{MAX_LABEL, Type};

/// What is left to read; every step forward is checked.
pub(super) struct Reader<'m>(pub(super) &'m [u8]);

impl<'m> Reader<'m> {
    pub(super) fn take(&mut self, len: usize) -> Option<&'m [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Passes a name that is written out in full. A pointer in the first name of a message could only lead into the
    /// header or in a circle, so the question has none. The length of the whole is [`Name::lowered`]'s to refuse.
    pub(super) fn skip_plain_name(&mut self) -> Option<()> {
        loop {
            match usize::from(self.array::<1>().map(u8::from_be_bytes)?) {
                0 => return Some(()),
                len if len <= MAX_LABEL => self.take(len)?,
                _ => return None,
            };
        }
    }

    /// Passes the name before a record, which may end in a pointer (RFC 1035 section 4.1.4); it is not followed.
    /// Says whether it is the root.
    fn skip_owner(&mut self) -> Option<bool> {
        let mut at_root = true;
        loop {
            match usize::from(self.array::<1>().map(u8::from_be_bytes)?) {
                0 => return Some(at_root),
                len if len <= MAX_LABEL => self.take(len)?,
                pointer if pointer >= 0xC0 => {
                    self.take(1)?;
                    return Some(false);
                }
                _ => return None,
            };
            at_root = false;
        }
    }

    pub(super) fn record(&mut self) -> Option<Record<'m>> {
        let at_root = self.skip_owner()?;
        let rtype = Type(self.u16()?);
        let class = self.u16()?;
        let ttl = self.array()?;
        let length = self.u16()?;
        let data = self.take(usize::from(length))?;
        Some(Record {
            at_root,
            rtype,
            class,
            ttl,
            data,
        })
    }
}

/// A record that is passed or looked into.
pub(super) struct Record<'m> {
    pub(super) at_root: bool,
    pub(super) rtype: Type,
    pub(super) class: u16,
    pub(super) ttl: [u8; 4],
    pub(super) data: &'m [u8],
}
