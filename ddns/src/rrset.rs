//! Record sets compiled to the octets of an answer section, so that a query only copies them.
//!
//! Every owner is the pointer `C0 0C` to the name in the question; that is right for the name itself and for a wildcard
//! below a device alike.

use std::sync::Arc;

use crate::addresses::Addresses;
use crate::protocol::{CLASS_IN, POINTER_TO_QUESTION, Type};
use crate::relays::RelayAddresses;

/// The most octets one RRset may have, which bounds what a TCP connection needs for an answer. A configuration that
/// asks for more is refused.
pub const MAX_RRSET: usize = 4096;

/// Owner, type, class, TTL and length: what stands before the data of a record.
pub(crate) const RECORD_HEAD: usize = 12;

/// One RRset: all records of one type at one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rrset {
    octets: Box<[u8]>,
    count: u16,
}

impl Rrset {
    /// Compiles records of one type. `None` if they are larger than [`MAX_RRSET`].
    pub(crate) fn compile<D: AsRef<[u8]>>(rtype: Type, ttl: u32, data: &[D]) -> Option<Self> {
        let mut octets = Vec::new();
        for data in data {
            let length = u16::try_from(data.as_ref().len()).ok()?;
            octets.extend(record_head(rtype, ttl, length));
            octets.extend(data.as_ref());
        }
        if octets.len() > MAX_RRSET {
            return None;
        }
        Some(Self {
            octets: octets.into(),
            count: u16::try_from(data.len()).ok()?,
        })
    }
}

/// The records of an answer section: a fixed set, some that can change, or one address copied out of the table.
#[derive(Debug)]
pub enum Records<'t> {
    /// From the zone's own contents.
    Fixed(&'t Rrset),
    /// A device's challenges, or who may issue certificates for it, or the keys of the zone, as they are now.
    Shared(Arc<Rrset>),
    /// A device's own address.
    Address(AddressRecord),
    /// Those of relays with a process of their own.
    Relays(RelayAddresses),
}

impl Records<'_> {
    /// The octets to copy.
    pub fn octets(&self) -> Octets<'_> {
        match self {
            Self::Fixed(rrset) => Octets::of(rrset),
            Self::Shared(rrset) => Octets::of(rrset),
            Self::Address(AddressRecord::A(octets)) => Octets::of_one(octets),
            Self::Address(AddressRecord::Aaaa(octets)) => Octets::of_one(octets),
            Self::Relays(relays) => relays.octets(),
        }
    }
}

/// Octets of a section of a message, where they are kept: one set of records, or two of one length of record.
#[derive(Clone, Copy, Debug, Default)]
pub struct Octets<'r> {
    first: &'r [u8],
    first_count: u16,
    /// Only those of its records count that are not among the first.
    second: &'r [u8],
    second_count: u16,
}

impl<'r> Octets<'r> {
    /// Of a set.
    pub(crate) fn of(set: &'r Rrset) -> Self {
        Self {
            first: &set.octets,
            first_count: set.count,
            ..Self::default()
        }
    }

    /// Of one record.
    pub(crate) fn of_one(record: &'r [u8]) -> Self {
        Self {
            first: record,
            first_count: 1,
            ..Self::default()
        }
    }

    /// Of so many records, of whatever type.
    pub(crate) fn of_many(records: &'r [u8], count: u16) -> Self {
        Self {
            first: records,
            first_count: count,
            ..Self::default()
        }
    }

    /// Of two sets of addresses of one family, none of them twice.
    pub(crate) fn of_both(first: &'r Rrset, second: &'r Rrset) -> Self {
        Self {
            second: &second.octets,
            second_count: second.count,
            ..Self::of(first)
        }
    }

    /// The octets to copy, one piece after the other.
    pub fn pieces(self) -> impl Iterator<Item = &'r [u8]> {
        [self.first].into_iter().chain(self.added())
    }

    /// The records of the second set that are not in the first.
    fn added(self) -> impl Iterator<Item = &'r [u8]> {
        let records = usize::from(self.second_count).max(1);
        let length = (self.second.len() / records).max(1);
        let is_new =
            move |record: &&[u8]| !self.first.chunks_exact(length).any(|one| one == *record);
        self.second.chunks_exact(length).filter(is_new)
    }

    /// How many octets they are.
    pub fn len(self) -> usize {
        self.pieces().map(<[u8]>::len).sum()
    }

    /// The type of the first one.
    pub(crate) fn rtype(self) -> Option<Type> {
        let rtype = self.pieces().next()?.get(2..)?.first_chunk()?;
        Some(Type(u16::from_be_bytes(*rtype)))
    }

    /// The TTL of the first one, in seconds.
    pub(crate) fn ttl(self) -> u32 {
        let first = self.pieces().next().unwrap_or_default();
        let ttl = first.get(6..).and_then(<[u8]>::first_chunk);
        ttl.copied().map_or(0, u32::from_be_bytes)
    }

    /// The data of each, without compression; `apex` is the name that a pointer to the question leads to.
    pub(crate) fn data(self, apex: &[u8]) -> Vec<Vec<u8>> {
        let is_compressed = self.rtype() == Some(Type::NS);
        let whole = |data: &[u8]| match data.strip_suffix(&POINTER_TO_QUESTION) {
            Some(front) if is_compressed => [front, apex].concat(),
            _ => data.to_vec(),
        };
        let records = self.pieces().flat_map(|mut rest| {
            std::iter::from_fn(move || {
                let (head, behind) = rest.split_first_chunk::<RECORD_HEAD>()?;
                let [.., high, low] = *head;
                let length = u16::from_be_bytes([high, low]);
                let (data, behind) = behind.split_at_checked(length.into())?;
                rest = behind;
                Some(data)
            })
        });
        records.map(whole).collect()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.first.is_empty() && self.second.is_empty()
    }

    /// How many records they are.
    pub fn count(self) -> u16 {
        let added = self.added().count() as u16; // at most `second_count`
        self.first_count.saturating_add(added)
    }

    /// All in one piece.
    pub fn to_vec(self) -> Vec<u8> {
        self.pieces().flatten().copied().collect()
    }
}

/// One compiled address record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressRecord {
    /// A.
    A([u8; 16]),
    /// AAAA.
    Aaaa([u8; 28]),
}

impl AddressRecord {
    /// The record of this type; `None` if there is no such address, or the type has none.
    pub(crate) fn compile(addresses: Addresses, qtype: Type, ttl: u32) -> Option<Self> {
        match qtype {
            Type::A => {
                let head = record_head(qtype, ttl, 4);
                let v4 = addresses.v4?;
                Some(Self::A(joined(head, v4.octets())))
            }
            Type::AAAA => {
                let head = record_head(qtype, ttl, 16);
                let v6 = addresses.v6?;
                Some(Self::Aaaa(joined(head, v6.octets())))
            }
            _ => None,
        }
    }
}

/// Octets of an SOA record:
///
/// ```text
///  0     2     4     6     10      12    16    18             29    31      35
///  owner │type │class│TTL  │length │3 ns1│apex │10 hostmaster │apex │serial │refresh retry expire minimum
///  (ptr)                                 (ptr)                (ptr)
/// ```
const SOA_LEN: usize = 51;

/// The zone's SOA record (RFC 1035 section 3.3.13). The names in it end in a pointer to the zone's name, and where that
/// stands depends on the question; the serial moves; the rest is compiled.
#[derive(Clone, Debug)]
pub(crate) struct SoaTemplate([u8; SOA_LEN]);

/// An SOA record for one answer.
#[derive(Clone, Copy, Debug)]
pub struct Soa<'t> {
    pub(crate) template: &'t SoaTemplate,
    /// The second of the zone's last change.
    pub(crate) serial: u32,
    /// Octets of the zone's name on the wire, closing zero included: it is the end of the name in the question.
    pub(crate) apex_len: usize,
}

impl SoaTemplate {
    const REFRESH: u32 = 3600;
    const RETRY: u32 = 600;
    const EXPIRE: u32 = 604_800;

    /// `ttl` is both the record's TTL and the MINIMUM field, so that negative answers live as long as their smaller
    /// one (RFC 2308 section 5).
    pub(crate) fn new(ttl: u32) -> Self {
        let mut octets = Vec::with_capacity(SOA_LEN);
        octets.extend(record_head(Type::SOA, ttl, 39));
        octets.extend(b"\x03ns1\0\0");
        octets.extend(b"\x0Ahostmaster\0\0");
        for field in [0, Self::REFRESH, Self::RETRY, Self::EXPIRE, ttl] {
            octets.extend(field.to_be_bytes());
        }
        let mut template = [0; SOA_LEN];
        template.copy_from_slice(&octets);
        Self(template)
    }
}

impl Soa<'_> {
    /// The record, with its three pointers leading to `apex` (an offset in the message, below 2^14).
    pub(crate) fn record(&self, apex: u16) -> [u8; SOA_LEN] {
        let pointer = (0xC000 | apex).to_be_bytes();
        let mut record = self.template.0;
        record[0..2].copy_from_slice(&pointer);
        record[16..18].copy_from_slice(&pointer);
        record[29..31].copy_from_slice(&pointer);
        record[31..35].copy_from_slice(&self.serial.to_be_bytes());
        record
    }

    /// The record's TTL, and that of what says that something does not exist (RFC 2308 section 5, RFC 9077 section 3).
    pub(crate) fn ttl(&self) -> u32 {
        let [.., t0, t1, t2, t3] = *self.template.0.first_chunk::<10>().unwrap_or(&[0; 10]);
        u32::from_be_bytes([t0, t1, t2, t3])
    }

    /// The record's data without pointers.
    pub(crate) fn data(&self, apex: &[u8]) -> Vec<u8> {
        let record = self.record(0);
        [&record[12..16], apex, &record[18..29], apex, &record[31..]].concat()
    }
}

/// A record's head: the pointer to the name in the question, type, class, TTL in seconds, and octets of data.
pub(crate) fn record_head(rtype: Type, ttl: u32, length: u16) -> [u8; RECORD_HEAD] {
    let [p0, p1] = POINTER_TO_QUESTION;
    let [t0, t1] = rtype.0.to_be_bytes();
    let [c0, c1] = CLASS_IN.to_be_bytes();
    let [l0, l1, l2, l3] = ttl.to_be_bytes();
    let [n0, n1] = length.to_be_bytes();
    [p0, p1, t0, t1, c0, c1, l0, l1, l2, l3, n0, n1]
}

fn joined<const D: usize, const N: usize>(head: [u8; RECORD_HEAD], data: [u8; D]) -> [u8; N] {
    const { assert!(RECORD_HEAD + D == N) };
    let mut record = [0; N];
    record[..RECORD_HEAD].copy_from_slice(&head);
    record[RECORD_HEAD..].copy_from_slice(&data);
    record
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn an_address_is_sixteen_or_twenty_eight_octets() {
        let addresses = Addresses {
            v4: Some(Ipv4Addr::new(192, 0, 2, 1)),
            v6: Some("2001:db8::1".parse().unwrap()),
        };
        let compile = |addresses, qtype| AddressRecord::compile(addresses, qtype, 60);
        assert_eq!(
            compile(addresses, Type::A),
            Some(AddressRecord::A([
                0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1
            ]))
        );
        let Some(AddressRecord::Aaaa(aaaa)) = compile(addresses, Type::AAAA) else {
            panic!("no AAAA");
        };
        assert_eq!(
            aaaa[..14],
            [0xC0, 12, 0, 28, 0, 1, 0, 0, 0, 60, 0, 16, 0x20, 0x01]
        );
        assert_eq!(compile(addresses, Type::TXT), None);
        assert_eq!(compile(Addresses::default(), Type::A), None);
    }

    #[test]
    fn a_set_counts_its_records_and_has_a_limit() {
        let set = Rrset::compile(Type::A, 60, &[[192, 0, 2, 1], [192, 0, 2, 2]]).unwrap();
        let records = Records::Fixed(&set);
        let octets = records.octets();
        assert_eq!((octets.count(), octets.len()), (2, 32));
        assert!(Rrset::compile(Type::TXT, 60, &[vec![0; MAX_RRSET]]).is_none());
    }

    #[test]
    fn what_two_sets_have_in_common_is_there_once() {
        let set = |hosts: &[u8]| {
            let data: Vec<_> = hosts.iter().map(|host| [192, 0, 2, *host]).collect();
            Rrset::compile(Type::A, 60, &data).unwrap()
        };
        let first = set(&[1, 2]);
        for (second, last_octets) in [
            (&[][..], &[1, 2][..]),
            (&[3, 4], &[1, 2, 3, 4]),
            (&[2, 3], &[1, 2, 3]),
            (&[2, 1], &[1, 2]),
        ] {
            let second = set(second);
            let both = Octets::of_both(&first, &second);
            assert_eq!(both.to_vec(), set(last_octets).octets.to_vec());
            assert_eq!(usize::from(both.count()), last_octets.len());
            assert_eq!(both.len(), 16 * last_octets.len());
        }
    }

    #[test]
    fn the_soa_points_at_the_zone_wherever_it_stands() {
        let template = SoaTemplate::new(30);
        let soa = Soa {
            template: &template,
            serial: 0x0102_0304,
            apex_len: 10,
        };
        #[rustfmt::skip]
        let expected = [
            0xC0, 0x12, 0, 6, 0, 1, 0, 0, 0, 30, 0, 39,                                       // head
            3, b'n', b's', b'1', 0xC0, 0x12,                                                  // MNAME
            10, b'h', b'o', b's', b't', b'm', b'a', b's', b't', b'e', b'r', 0xC0, 0x12,       // RNAME
            1, 2, 3, 4, 0, 0, 0x0E, 0x10, 0, 0, 0x02, 0x58, 0, 0x09, 0x3A, 0x80, 0, 0, 0, 30, // the numbers
        ];
        assert_eq!(soa.record(0x12), expected);
        assert_eq!(soa.ttl(), 30);
        let apex = b"\x03nas\0";
        let data = [
            &expected[12..16],
            apex,
            &expected[18..29],
            apex,
            &expected[31..],
        ]
        .concat();
        assert_eq!(soa.data(apex), data);
    }
}
