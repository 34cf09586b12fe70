//! A record and its octets, in a log and in a snapshot.
//!
//! ```text
//!  0        2                6      7                  15          19
//!  ┌────────┬────────────────┬──────┬──────────────────┬───────────┬───────┬─────────┬──────────┬────────────┬─────────┬──────────┬─────────┐
//!  │ length │ CRC-32         │ form │ registration     │ version   │ has   │ IPv4, 4 │ IPv6, 16 │ challenges │ IPv4, 4 │ IPv6, 16 │ issuers │
//!  └────────┴────────────────┴──────┴──────────────────┴───────────┴───────┴─────────┴──────────┴────────────┴─────────┴──────────┴─────────┘
//!    length: octets behind the CRC        has: 1 an IPv4 address follows, 2 an IPv6 address, 4 challenges,
//!                                              8 an IPv4 address in its own network, 16 an IPv6 address there,
//!                                              32 who alone may issue certificates for it, to the end
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

use std::net::{Ipv4Addr, Ipv6Addr};

use directory::RegistrationId;

use crate::addresses::Addresses;
use crate::caa::Issuers;
use crate::challenges::{ChallengeHost, ChallengeValue, Challenges};
use crate::lan::LanAddresses;
use crate::own::Own;
use crate::table::Held;

const RECORD: u8 = 2;
const HAS_V4: u8 = 1;
const HAS_V6: u8 = 2;
const HAS_CHALLENGES: u8 = 4;
const HAS_LAN_V4: u8 = 8;
const HAS_LAN_V6: u8 = 16;
const HAS_ISSUERS: u8 = 32;
const HAS_ALL: u8 = HAS_V4 | HAS_V6 | HAS_CHALLENGES | HAS_LAN_V4 | HAS_LAN_V6 | HAS_ISSUERS;
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
        let lan = self.held.own.lan.addresses();
        let issuers = self.held.own.issuers.as_octets();
        let has = v4.map_or(0, |_| HAS_V4)
            | v6.map_or(0, |_| HAS_V6)
            | lan.v4.map_or(0, |_| HAS_LAN_V4)
            | lan.v6.map_or(0, |_| HAS_LAN_V6)
            | if challenges.is_empty() {
                0
            } else {
                HAS_CHALLENGES
            }
            | if issuers.is_empty() { 0 } else { HAS_ISSUERS };
        let mut body = vec![RECORD];
        body.extend(self.registration.0.to_be_bytes());
        body.extend(self.held.version.to_be_bytes());
        body.push(has);
        body.extend(v4.iter().flat_map(Ipv4Addr::octets));
        body.extend(v6.iter().flat_map(Ipv6Addr::octets));
        if !challenges.is_empty() {
            write_challenges(challenges, &mut body);
        }
        body.extend(lan.v4.iter().flat_map(Ipv4Addr::octets));
        body.extend(lan.v6.iter().flat_map(Ipv6Addr::octets));
        body.extend(issuers);
        write_frame(&body, out);
    }
}

/// Adds a frame. `body` has less than 64 KiB: 16 names of 8 values, the most that a device can have, are 37 KiB,
/// and issuers fit into an answer of 4.
#[expect(clippy::cast_possible_truncation, reason = "see above")]
pub(super) fn write_frame(body: &[u8], out: &mut Vec<u8>) {
    let length = (body.len() as u16).to_be_bytes();
    out.extend(length);
    out.extend(crc(length, body).to_be_bytes());
    out.extend(body);
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

/// Takes one frame whose CRC is right.
pub(super) fn read_frame(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[l0, l1, c0, c1, c2, c3], rest) = rest.split_first_chunk::<FRAME>()?;
    let length = [l0, l1];
    let (body, behind) = rest.split_at_checked(u16::from_be_bytes(length).into())?;
    (crc(length, body) == u32::from_be_bytes([c0, c1, c2, c3])).then_some((body, behind))
}

/// Reads what is in a frame; `None` if it is no record, or one of a form that is not known here.
pub(super) fn read_record(body: &[u8]) -> Option<Record> {
    let (&[form], rest) = body.split_first_chunk()?;
    let (registration, rest) = rest.split_first_chunk()?;
    let (version, rest) = rest.split_first_chunk()?;
    let (&[has], rest) = rest.split_first_chunk()?;
    if form != RECORD || has & !HAS_ALL != 0 {
        return None;
    }
    let (addresses, rest) = read_addresses(has & HAS_V4 != 0, has & HAS_V6 != 0, rest)?;
    let (challenges, rest) = match has & HAS_CHALLENGES != 0 {
        true => read_challenges(rest)?,
        false => (Challenges::default(), rest),
    };
    let (lan, rest) = read_addresses(has & HAS_LAN_V4 != 0, has & HAS_LAN_V6 != 0, rest)?;
    let has_issuers = has & HAS_ISSUERS != 0;
    let own = Own {
        addresses,
        challenges,
        lan: LanAddresses::new(lan)?,
        issuers: Issuers::from_octets(if has_issuers { rest } else { &[] })?,
    };
    (rest.is_empty() != has_issuers).then_some(Record {
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

fn read_addresses(has_v4: bool, has_v6: bool, rest: &[u8]) -> Option<(Addresses, &[u8])> {
    let (v4, rest) = read_address(has_v4, rest)?;
    let (v6, rest) = read_address(has_v6, rest)?;
    let addresses = Addresses {
        v4: v4.map(Ipv4Addr::from_octets),
        v6: v6.map(Ipv6Addr::from_octets),
    };
    Some((addresses, rest))
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
pub(super) mod tests {
    use super::*;
    use crate::caa::Issuer;

    pub(in crate::store) fn record(registration: u64, v4: Option<u8>, v6: Option<u8>) -> Record {
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
        // And those of every third registration are somewhere at home.
        if registration.is_multiple_of(3) {
            held.own.lan = LanAddresses::new(Addresses {
                v4: v4.map(|last| Ipv4Addr::new(192, 168, 1, last)),
                v6: v6.map(|last| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into())),
            })
            .unwrap();
        }
        // And for those of every fifth only these may issue.
        if registration.is_multiple_of(5) {
            let account = format!("https://ca.test/{registration}");
            let issuer = Issuer {
                issuer: "ca.test",
                account: &account,
            };
            held.own.issuers = Issuers::new(&[issuer]).unwrap();
        }
        Record {
            registration: RegistrationId(registration),
            held,
        }
    }

    fn octets(record: &Record) -> Vec<u8> {
        let mut octets = Vec::new();
        record.write(&mut octets);
        octets
    }

    #[test]
    fn a_record_has_these_octets() {
        #[rustfmt::skip]
        assert_eq!(
            octets(&record(0x0102, Some(8), None)),
            [
                0, 40,                            // length
                0x90, 0xDA, 0x4F, 0x6D,           // CRC-32
                2,                                // a record
                0, 0, 0, 0, 0, 0, 1, 2,           // registration
                0, 0, 1, 7,                       // version
                13,                               // an IPv4 address, challenges, and an IPv4 address at home
                192, 0, 2, 8,
                2,                                // names with challenges
                0, 1, 2, b'v', 8,                 // the device's own, with one value
                7, 6, b'p', b'h', b'o', b't', b'o', b's', 1, 2, b'v', 8,
                192, 168, 1, 8,
            ]
        );
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_never_with_a_public_address_at_home() {
        for registration in 1..=6 {
            for (v4, v6) in [
                (None, None),
                (Some(1), None),
                (None, Some(2)),
                (Some(1), Some(2)),
            ] {
                let record = record(registration, v4, v6);
                let body = octets(&record).split_off(FRAME);
                assert_eq!(read_record(&body), Some(record));
            }
        }
        let mut body = octets(&record(3, Some(1), None)).split_off(FRAME);
        let at_home = body.len() - 4;
        assert_eq!(body[at_home..], [192, 168, 1, 1]);
        body[at_home] = 203;
        assert_eq!(read_record(&body), None);
    }

    #[test]
    fn a_body_of_another_form_is_no_record() {
        let body = octets(&record(1, Some(1), None)).split_off(FRAME);
        assert!(read_record(&body).is_some());
        for (at, value) in [
            (0, 1),
            (13, 64),
            (13, 33),
            (13, 8),
            (13, 5),
            (13, 3),
            (13, 0),
        ] {
            let mut body = body.clone();
            body[at] = value;
            assert_eq!(read_record(&body), None, "{at} {value}");
        }
    }
}
