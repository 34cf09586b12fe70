//! A record of the log and its octets.
//!
//! ```text
//!  0        2                6      7                  15          19
//!  ┌────────┬────────────────┬──────┬──────────────────┬───────────┬───────┬───────────┬────────────┬────────────┐
//!  │ length │ CRC-32         │ form │ registration     │ version   │ has   │ IPv4, 4   │ IPv6, 16   │ challenges │
//!  └────────┴────────────────┴──────┴──────────────────┴───────────┴───────┴───────────┴────────────┴────────────┘
//!    length: octets behind the CRC        has: 1 an IPv4 address follows, 2 an IPv6 address, 4 challenges
//!
//!  challenges   names 1 │ (length 1 │ labels │ values 1 │ (length 1 │ value)*)*
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
use crate::challenges::{ChallengeHost, ChallengeValue, Challenges};
use crate::own::Own;
use crate::table::Held;

/// What a log begins with.
pub(crate) const MAGIC: [u8; 8] = *b"cwddns2\n";

const FORM: u8 = 2;
const HAS_V4: u8 = 1;
const HAS_V6: u8 = 2;
const HAS_CHALLENGES: u8 = 4;
/// Length and CRC.
const FRAME: usize = 6;

/// What a registration has from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose.
    pub registration: RegistrationId,
    /// All of it; what is not here is taken back.
    pub held: Held,
}

impl Record {
    /// Adds the record's octets to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Addresses { v4, v6 } = self.held.own.addresses;
        let challenges = &self.held.own.challenges;
        let has = v4.map_or(0, |_| HAS_V4)
            | v6.map_or(0, |_| HAS_V6)
            | if challenges.is_empty() {
                0
            } else {
                HAS_CHALLENGES
            };
        let mut body = vec![FORM];
        body.extend(self.registration.0.to_be_bytes());
        body.extend(self.held.version.to_be_bytes());
        body.push(has);
        body.extend(v4.iter().flat_map(Ipv4Addr::octets));
        body.extend(v6.iter().flat_map(Ipv6Addr::octets));
        if !challenges.is_empty() {
            write_challenges(challenges, &mut body);
        }

        #[expect(
            clippy::cast_possible_truncation,
            reason = "16 names of 8 values have 37 KiB at most"
        )]
        let length = (body.len() as u16).to_be_bytes();
        out.extend(length);
        out.extend(crc(length, &body).to_be_bytes());
        out.extend(body);
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the types of challenges bound every count and length by 255"
)]
fn write_challenges(challenges: &Challenges, body: &mut Vec<u8>) {
    body.push(challenges.iter().len() as u8);
    for (host, values) in challenges.iter() {
        body.push(host.as_wire().len() as u8);
        body.extend(host.as_wire());
        body.push(values.len() as u8);
        for value in values {
            body.push(value.as_bytes().len() as u8);
            body.extend(value.as_bytes());
        }
    }
}

/// What a log says.
#[derive(Debug, Default)]
pub struct Recovered {
    /// What each registration has after its last record.
    pub held_by_registration: HashMap<RegistrationId, Held>,
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
        let Record { registration, held } = record;
        recovered.held_by_registration.insert(registration, held);
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
    let (&[form], rest) = body.split_first_chunk()?;
    let (registration, rest) = rest.split_first_chunk()?;
    let (version, rest) = rest.split_first_chunk()?;
    let (&[has], rest) = rest.split_first_chunk()?;
    if form != FORM || has & !(HAS_V4 | HAS_V6 | HAS_CHALLENGES) != 0 {
        return None;
    }
    let (v4, rest) = read_address(has & HAS_V4 != 0, rest)?;
    let (v6, rest) = read_address(has & HAS_V6 != 0, rest)?;
    let (challenges, rest) = match has & HAS_CHALLENGES != 0 {
        true => read_challenges(rest)?,
        false => (Challenges::default(), rest),
    };
    let own = Own {
        addresses: Addresses {
            v4: v4.map(Ipv4Addr::from_octets),
            v6: v6.map(Ipv6Addr::from_octets),
        },
        challenges,
    };
    rest.is_empty().then_some(Record {
        registration: RegistrationId(u64::from_be_bytes(*registration)),
        held: Held {
            own,
            version: u32::from_be_bytes(*version),
        },
    })
}

fn read_challenges(rest: &[u8]) -> Option<(Challenges, &[u8])> {
    let mut challenges = Challenges::default();
    let (&names, mut rest) = rest.split_first()?;
    for _ in 0..names {
        let labels;
        (labels, rest) = read_string(rest)?;
        let host = ChallengeHost::from_wire(labels)?;
        let count;
        (count, rest) = rest.split_first()?;
        for _ in 0..*count {
            let value;
            (value, rest) = read_string(rest)?;
            challenges.add(&host, &ChallengeValue::new(value)?).ok()?;
        }
    }
    Some((challenges, rest))
}

fn read_string(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = rest.split_first()?;
    rest.split_at_checked(length.into())
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
        let mut held = Held {
            version: registration as u32 + 5,
            ..Held::default()
        };
        held.own.addresses = Addresses {
            v4: v4.map(|last| Ipv4Addr::new(192, 0, 2, last)),
            v6: v6.map(|last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into())),
        };
        // Those that have an even one have challenges, so that there are records of all forms.
        for last in [v4, v6].into_iter().flatten().filter(|last| last % 2 == 0) {
            for host in [&b""[..], b"\x06photos"] {
                let host = ChallengeHost::from_wire(host).unwrap();
                let value = ChallengeValue::new(&[b'v', last]).unwrap();
                held.own.challenges.add(&host, &value).unwrap();
            }
        }
        Record {
            registration: RegistrationId(registration),
            held,
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
            log(&[record(0x0102, Some(8), None)]),
            [
                0, 36,                            // length
                0xB6, 0xAF, 0x7C, 0x3F,           // CRC-32
                2,                                // form
                0, 0, 0, 0, 0, 0, 1, 2,           // registration
                0, 0, 1, 7,                       // version
                5,                                // an IPv4 address and challenges
                192, 0, 2, 8,
                2,                                // names with challenges
                0, 1, 2, b'v', 8,                 // the device's own, with one value
                7, 6, b'p', b'h', b'o', b't', b'o', b's', 1, 2, b'v', 8,
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
        let last = [record(1, None, Some(3)), record(2, None, None)];
        assert_eq!(
            recovered.held_by_registration,
            HashMap::from(last.map(|record| (record.registration, record.held)))
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
        for (at, value) in [(6, 1), (19, 8), (19, 5), (19, 3), (19, 0)] {
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
                        expected.insert(record.registration, record.held.clone());
                    }
                    prop_assert_eq!(recover(&octets).held_by_registration, expected);
                }
            }
        }
    }
}
