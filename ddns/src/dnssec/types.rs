//! The types of record at one name, as NSEC and NSEC3 records tell them (RFC 4034 section 4.1.2).

use crate::lan::LanAddresses;
use crate::protocol::Type;

/// Octets of a window that covers 256 types, and of the beginning of the next, in which CAA is.
const FIRST: usize = 32;
const SECOND: usize = 8;

/// A set of types below 320; no zone of ours has others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct TypeSet {
    first: [u8; FIRST],
    second: [u8; SECOND],
}

impl TypeSet {
    /// The most octets that a set has in a record.
    pub(crate) const MAX_LEN: usize = 2 + FIRST + 2 + SECOND;

    /// What a name has that says something.
    pub(crate) fn of_text() -> Self {
        Self::default().with(Type::TXT)
    }

    /// What a name with addresses of a LAN has.
    pub(crate) fn of_lan(lan: LanAddresses) -> Self {
        let addresses = lan.addresses();
        let v4 = addresses.v4.map(|_| Type::A);
        let v6 = addresses.v6.map(|_| Type::AAAA);
        let types = v4.into_iter().chain(v6);
        types.fold(Self::default(), Self::with)
    }

    /// With this type too. One from 320 on is left out.
    #[must_use]
    pub(crate) fn with(mut self, rtype: Type) -> Self {
        let [window, low] = rtype.0.to_be_bytes();
        let octets: &mut [u8] = match window {
            0 => &mut self.first,
            1 => &mut self.second,
            _ => &mut [],
        };
        if let Some(octet) = octets.get_mut(usize::from(low / 8)) {
            *octet |= 0x80 >> (low % 8);
        }
        self
    }

    /// Whether this type is one of them.
    pub(crate) fn has(&self, rtype: Type) -> bool {
        let [window, low] = rtype.0.to_be_bytes();
        let octets: &[u8] = match window {
            0 => &self.first,
            1 => &self.second,
            _ => &[],
        };
        let octet = octets.get(usize::from(low / 8));
        octet.is_some_and(|octet| octet & (0x80 >> (low % 8)) != 0)
    }

    /// The types, in order of their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Type> {
        const TYPES: u16 = 8 * (FIRST + SECOND) as u16;
        (0..TYPES).map(Type).filter(|rtype| self.has(*rtype))
    }

    /// The bit maps, window by window: number, length, octets up to the last that is not zero.
    pub(crate) fn octets(&self) -> impl AsRef<[u8]> + use<> {
        let mut written = Written {
            octets: [0; Self::MAX_LEN],
            len: 0,
        };
        written.window(0, &self.first);
        written.window(1, &self.second);
        written
    }
}

struct Written {
    octets: [u8; TypeSet::MAX_LEN],
    len: usize,
}

impl Written {
    fn window(&mut self, number: u8, octets: &[u8]) {
        let used = octets.iter().rposition(|octet| *octet != 0);
        let Some(used) = used.map(|last| last + 1) else {
            return;
        };
        let place = &mut self.octets[self.len..][..2 + used];
        place[0] = number;
        place[1] = used as u8; // 32 at most
        place[2..].copy_from_slice(&octets[..used]);
        self.len += 2 + used;
    }
}

impl AsRef<[u8]> for Written {
    fn as_ref(&self) -> &[u8] {
        &self.octets[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_but_for_its_last_type() {
        // RFC 4034 section 4.3, without TYPE1234, which no zone of ours has.
        let types = [Type::A, Type::MX, Type::RRSIG, Type::NSEC, Type(1234)];
        let set = types.into_iter().fold(TypeSet::default(), TypeSet::with);
        let octets = set.octets();
        assert_eq!(octets.as_ref(), [0, 6, 0x40, 0x01, 0x00, 0x00, 0x00, 0x03]);
        assert!(set.has(Type::MX) && !set.has(Type::TXT) && !set.has(Type(1234)));
    }

    #[test]
    fn the_second_window_follows_the_first() {
        let set = TypeSet::default().with(Type::CAA);
        assert_eq!(set.octets().as_ref(), [1, 1, 0x40]);
        let set = set.with(Type::A);
        assert_eq!(set.octets().as_ref(), [0, 1, 0x40, 1, 1, 0x40]);
        let all = (0..320).map(Type).fold(set, TypeSet::with);
        assert_eq!(all.octets().as_ref().len(), TypeSet::MAX_LEN);
        assert!(TypeSet::default().octets().as_ref().is_empty());
        let types: Vec<_> = set.iter().collect();
        assert_eq!(types, [Type::A, Type::CAA]);
    }
}
