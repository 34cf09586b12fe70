//! One question to the zone's own name server for the addresses of a name (RFC 1035 section 4), without recursion.
//!
//! ```text
//!   id 2 │ flags 2 │ questions 2 │ answers 2 │ 4 │ question… │ record…
//!   record   name │ type 2 │ class 2 │ TTL 4 │ length 2 │ data
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::cursor::Cursor;

/// The longest answer that is read, in octets: what comes over UDP without EDNS.
pub const LONGEST: usize = 512;

const INTERNET: u16 = 1;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Addresses of IPv4.
    A,
    /// Addresses of IPv6.
    Aaaa,
}

impl Kind {
    fn number(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Aaaa => 28,
        }
    }
}

/// What a name server has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it says so of its own knowledge, and not of somebody else's.
    pub is_authoritative: bool,
    /// The addresses in its answer.
    pub addresses: Vec<IpAddr>,
}

/// The question for `host`; `None` if that is no host name.
pub fn question(id: u16, host: &str, kind: Kind) -> Option<Vec<u8>> {
    let mut question = id.to_be_bytes().to_vec();
    question.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in host.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok()?;
        if !(1..=63).contains(&length) {
            return None;
        }
        question.push(length);
        question.extend_from_slice(label.as_bytes());
    }
    question.push(0);
    for number in [kind.number(), INTERNET] {
        question.extend_from_slice(&number.to_be_bytes());
    }
    // RFC 1035 section 2.3.4: a name has 255 octets at most.
    (question.len() <= 12 + 255 + 4).then_some(question)
}

/// Reads the answer to the question `id`; `None` if `datagram` is none, or the server could not or would not say.
pub fn answer(id: u16, datagram: &[u8]) -> Option<Answer> {
    const IS_ANSWER: u16 = 0x8000;
    const OF_ITS_OWN: u16 = 0x0400;
    const OUTCOME: u16 = 0x000f;
    let rest = &mut Cursor(datagram);
    let (its_id, flags) = (rest.u16()?, rest.u16()?);
    let (questions, answers) = (rest.u16()?, rest.u16()?);
    rest.u32()?;
    // No error, or no such name, which has no addresses.
    let is_said = matches!(flags & OUTCOME, 0 | 3);
    if its_id != id || flags & IS_ANSWER == 0 || !is_said {
        return None;
    }
    for _ in 0..questions {
        skip_name(rest)?;
        rest.u32()?;
    }
    let mut addresses = Vec::new();
    for _ in 0..answers {
        skip_name(rest)?;
        let (kind, class) = (rest.u16()?, rest.u16()?);
        rest.u32()?;
        let data = rest.vec16()?.0;
        if class == INTERNET {
            addresses.extend(address(kind, data));
        }
    }
    Some(Answer {
        is_authoritative: flags & OF_ITS_OWN != 0,
        addresses,
    })
}

fn address(kind: u16, data: &[u8]) -> Option<IpAddr> {
    if kind == Kind::A.number() {
        let octets: [u8; 4] = data.try_into().ok()?;
        Some(Ipv4Addr::from(octets).into())
    } else if kind == Kind::Aaaa.number() {
        let octets: [u8; 16] = data.try_into().ok()?;
        Some(Ipv6Addr::from(octets).into())
    } else {
        None
    }
}

/// Past a name, which ends with an empty label or with a pointer to where it goes on (RFC 1035 section 4.1.4).
fn skip_name(rest: &mut Cursor<'_>) -> Option<()> {
    loop {
        match rest.u8()? {
            0 => return Some(()),
            length @ 1..=63 => rest.take(usize::from(length))?,
            192..=255 => return rest.u8().map(|_| ()),
            64..=191 => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer that a server makes of a question: one record of this kind, by a pointer to the name that was asked for.
    fn answered(question: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
        let mut answer = question.to_vec();
        answer[2..4].copy_from_slice(&[0x84, 0]);
        answer[7] = 1;
        answer.extend_from_slice(&[0xc0, 12]);
        answer.extend_from_slice(&kind.to_be_bytes());
        answer.extend_from_slice(&[0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
        answer.extend_from_slice(data);
        answer
    }

    #[test]
    fn addresses_of_both_families_are_read() {
        let ask = |kind| question(7, "mynas.example.com", kind).unwrap();
        let v4 = answer(7, &answered(&ask(Kind::A), 1, &[203, 0, 113, 7])).unwrap();
        assert!(v4.is_authoritative);
        assert_eq!(v4.addresses, ["203.0.113.7".parse::<IpAddr>().unwrap()]);
        let octets = "2001:db8::7".parse::<Ipv6Addr>().unwrap().octets();
        let v6 = answer(7, &answered(&ask(Kind::Aaaa), 28, &octets)).unwrap();
        assert_eq!(v6.addresses, ["2001:db8::7".parse::<IpAddr>().unwrap()]);
        let other = answer(7, &answered(&ask(Kind::A), 5, &[1, 0])).unwrap();
        assert!(other.addresses.is_empty(), "a CNAME is no address");
    }

    #[test]
    fn no_such_name_is_told_from_no_answer() {
        let mut said = question(7, "mynas.example.com", Kind::A).unwrap();
        said[2] = 0x84;
        for (outcome, is_answer) in [(0, true), (3, true), (2, false), (5, false)] {
            said[3] = outcome;
            let addresses = answer(7, &said).map(|answer| answer.addresses);
            assert_eq!(addresses, is_answer.then(Vec::new), "{outcome}");
        }
        said[3] = 0;
        assert_eq!(answer(8, &said), None, "of another question");
        said[2] = 0;
        assert_eq!(answer(7, &said), None, "that is the question");
    }

    #[test]
    fn what_is_cut_short_is_no_answer() {
        let ask = question(7, "mynas.example.com", Kind::A).unwrap();
        let whole = answered(&ask, 1, &[203, 0, 113, 7]);
        for length in 0..whole.len() {
            assert_eq!(answer(7, &whole[..length]), None, "{length}");
        }
    }

    #[test]
    fn what_is_no_host_name_is_not_asked_for() {
        let long = ["a"; 200].join(".");
        for bad in ["", "a..b", &"a".repeat(64), &long] {
            assert_eq!(question(7, bad, Kind::A), None, "{bad:?}");
        }
    }
}
