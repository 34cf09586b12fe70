//! A record of the log and its octets.
//!
//! ```text
//!  0        2                6         7                  15      16
//!  ┌────────┬────────────────┬─────────┬──────────────────┬───────┬───────────┬────────────┐
//!  │ length │ CRC-32         │ version │ registration     │ has   │ IPv4, 4   │ IPv6, 16   │
//!  └────────┴────────────────┴─────────┴──────────────────┴───────┴───────────┴────────────┘
//!    length: octets behind the CRC        has: 1 an IPv4 address follows, 2 an IPv6 address, 3 both, 0 neither
//! ```
//!
//! Numbers are big-endian. The CRC covers everything but itself.

#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use directory::RegistrationId;

use crate::addresses::Addresses;

/// What a log begins with.
pub(crate) const MAGIC: [u8; 8] = *b"cwddns1\n";

const VERSION: u8 = 1;
const HAS_V4: u8 = 1;
const HAS_V6: u8 = 2;
/// Length and CRC.
const FRAME: usize = 6;

/// The own addresses that a registration has from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose.
    pub registration: RegistrationId,
    /// All of them; what is not here is taken back.
    pub addresses: Addresses,
}

impl Record {
    /// Adds the record's octets to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Addresses { v4, v6 } = self.addresses;
        let mut body = vec![VERSION];
        body.extend(self.registration.0.to_be_bytes());
        body.push(v4.map_or(0, |_| HAS_V4) | v6.map_or(0, |_| HAS_V6));
        body.extend(v4.iter().flat_map(Ipv4Addr::octets));
        body.extend(v6.iter().flat_map(Ipv6Addr::octets));

        #[expect(
            clippy::cast_possible_truncation,
            reason = "a body has 30 octets at most"
        )]
        let length = (body.len() as u16).to_be_bytes();
        out.extend(length);
        out.extend(crc(length, &body).to_be_bytes());
        out.extend(body);
    }
}

/// What a log says.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The addresses of each registration after its last record; those without any are left out.
    pub addresses_by_registration: HashMap<RegistrationId, Addresses>,
    /// How many records were read.
    pub records: u64,
    /// Octets up to the end of the last good record.
    pub good: usize,
    /// How the log ends.
    pub ending: Ending,
}

/// How a log ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// With a whole record.
    #[default]
    Whole,
    /// With octets that are no record: a crash came before their sync, so nobody was told of them.
    Torn,
    /// With a good record of a form that is not known here: another version of this program wrote it.
    Foreign,
}

/// Reads the octets of a log behind its magic; stops at the first that are no record.
pub fn recover(octets: &[u8]) -> Recovered {
    let mut recovered = Recovered::default();
    let mut rest = octets;
    while !rest.is_empty() {
        let Some((body, behind)) = read_frame(rest) else {
            recovered.ending = Ending::Torn;
            return recovered;
        };
        let Some(record) = read_body(body) else {
            recovered.ending = Ending::Foreign;
            return recovered;
        };
        let Record {
            registration,
            addresses,
        } = record;
        let by_registration = &mut recovered.addresses_by_registration;
        if addresses.is_empty() {
            by_registration.remove(&registration);
        } else {
            by_registration.insert(registration, addresses);
        }
        recovered.records = recovered.records.saturating_add(1);
        recovered.good = octets.len().saturating_sub(behind.len());
        rest = behind;
    }
    recovered
}

/// Takes one frame whose CRC is right.
fn read_frame(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[l0, l1, c0, c1, c2, c3], rest) = rest.split_first_chunk::<FRAME>()?;
    let length = [l0, l1];
    let (body, behind) = rest.split_at_checked(u16::from_be_bytes(length).into())?;
    (crc(length, body) == u32::from_be_bytes([c0, c1, c2, c3])).then_some((body, behind))
}

fn read_body(body: &[u8]) -> Option<Record> {
    let (&[version], rest) = body.split_first_chunk()?;
    let (registration, rest) = rest.split_first_chunk()?;
    let (&[has], rest) = rest.split_first_chunk()?;
    if version != VERSION || has & !(HAS_V4 | HAS_V6) != 0 {
        return None;
    }
    let (v4, rest) = read_address(has & HAS_V4 != 0, rest)?;
    let (v6, rest) = read_address(has & HAS_V6 != 0, rest)?;
    rest.is_empty().then_some(Record {
        registration: RegistrationId(u64::from_be_bytes(*registration)),
        addresses: Addresses {
            v4: v4.map(Ipv4Addr::from_octets),
            v6: v6.map(Ipv6Addr::from_octets),
        },
    })
}

fn read_address<const N: usize>(is_there: bool, rest: &[u8]) -> Option<(Option<[u8; N]>, &[u8])> {
    if !is_there {
        return Some((None, rest));
    }
    let (address, rest) = rest.split_first_chunk()?;
    Some((Some(*address), rest))
}

/// Zeros, which a file system may leave behind a crash, are no record: their CRC would be that of two zero octets.
fn crc(length: [u8; 2], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(registration: u64, v4: Option<u8>, v6: Option<u8>) -> Record {
        Record {
            registration: RegistrationId(registration),
            addresses: Addresses {
                v4: v4.map(|last| Ipv4Addr::new(192, 0, 2, last)),
                v6: v6.map(|last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into())),
            },
        }
    }

    fn log(records: &[Record]) -> Vec<u8> {
        let mut octets = Vec::new();
        for record in records {
            record.write(&mut octets);
        }
        octets
    }

    #[test]
    fn a_record_has_these_octets() {
        #[rustfmt::skip]
        assert_eq!(
            log(&[record(0x0102, Some(7), None)]),
            [
                0, 14,                            // length
                0x90, 0x07, 0x28, 0x7E,           // CRC-32
                1,                                // version
                0, 0, 0, 0, 0, 0, 1, 2,           // registration
                1,                                // an IPv4 address
                192, 0, 2, 7,
            ]
        );
    }

    #[test]
    fn the_last_record_of_a_registration_counts() {
        let octets = log(&[
            record(1, Some(1), None),
            record(2, Some(2), Some(2)),
            record(1, None, Some(3)),
            record(2, None, None),
        ]);
        let recovered = recover(&octets);
        assert_eq!(recovered.ending, Ending::Whole);
        assert_eq!((recovered.records, recovered.good), (4, octets.len()));
        let last = record(1, None, Some(3));
        assert_eq!(
            recovered.addresses_by_registration,
            HashMap::from([(last.registration, last.addresses)])
        );
    }

    #[test]
    fn a_tail_cut_anywhere_is_torn_and_loses_only_itself() {
        let whole = log(&[record(1, Some(1), None)]);
        let octets = log(&[record(1, Some(1), None), record(2, Some(2), Some(2))]);
        for end in whole.len() + 1..octets.len() {
            let recovered = recover(&octets[..end]);
            assert_eq!(recovered.ending, Ending::Torn, "{end}");
            assert_eq!(recovered.good, whole.len());
        }
        let zeros = [&whole[..], &[0; 4096]].concat();
        assert_eq!(recover(&zeros).ending, Ending::Torn);
    }

    #[test]
    fn a_good_record_of_another_form_is_foreign_and_not_torn() {
        for (at, value) in [(6, 2), (15, 4), (15, 3), (15, 0)] {
            let mut octets = log(&[record(1, Some(1), None)]);
            octets[at] = value;
            let crc = crc([octets[0], octets[1]], &octets[6..]).to_be_bytes();
            octets[2..6].copy_from_slice(&crc);
            assert_eq!(recover(&octets).ending, Ending::Foreign, "{at} {value}");
        }
    }

    proptest! {
        #[test]
        fn no_octets_break_it(octets in prop::collection::vec(any::<u8>(), 0..200)) {
            recover(&octets);
        }

        #[test]
        fn what_is_written_is_read(
            records in prop::collection::vec((0..5_u64, any::<Option<u8>>(), any::<Option<u8>>()), 0..20),
            flip in any::<Option<(usize, u8)>>(),
        ) {
            let records: Vec<_> = records.into_iter().map(|(r, v4, v6)| record(r, v4, v6)).collect();
            let mut octets = log(&records);
            match flip {
                Some((at, bits)) if bits != 0 && !octets.is_empty() => {
                    let at = at % octets.len();
                    octets[at] ^= bits;
                    let recovered = recover(&octets);
                    prop_assert_eq!(recovered.ending, Ending::Torn);
                    prop_assert!(recovered.good <= at);
                }
                _ => {
                    let mut expected = HashMap::new();
                    for record in &records {
                        expected.insert(record.registration, record.addresses);
                    }
                    expected.retain(|_, addresses| !addresses.is_empty());
                    prop_assert_eq!(recover(&octets).addresses_by_registration, expected);
                }
            }
        }
    }
}
