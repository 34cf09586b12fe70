//! What is asked of a name server, as octets, and what it says.

use std::net::Ipv4Addr;

/// RFC 1035 section 4.1.1.
pub(crate) const NO_ERROR: u8 = 0;
pub(crate) const NAME_ERROR: u8 = 3;

/// The type of an IPv4 address's record (RFC 1035 section 3.2.2).
pub(crate) const A: u8 = 1;

/// That of an IPv6 address's (RFC 3596 section 2.1), and of text.
pub(crate) const AAAA: u8 = 28;
pub(crate) const TXT: u8 = 16;

/// Octets of a message's header.
pub(crate) const HEADER_LEN: usize = 12;

/// The longest question: a header, a name of 255 octets (RFC 1035 section 2.3.4), and what stands behind it.
pub(crate) const MAX_QUESTION: usize = HEADER_LEN + 255 + 4 + OPT.len();

/// What stands at the end of each question: for 1232 octets at most, and without DNSSEC (RFC 6891 section 6.1.2).
pub(crate) const OPT: [u8; 11] = [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];

/// Where in it the flag stands that asks for DNSSEC's records (RFC 3225 section 3).
const DO: (usize, u8) = (7, 0x80);

/// A question for the IPv4 address of `host`, as a resolver asks: with EDNS (RFC 6891), for 1232 octets at most. Its id is
/// to be filled in. `None` if `host` can be no name in DNS.
pub(crate) fn question(host: &str) -> Option<Box<[u8]>> {
    const HEADER: [u8; HEADER_LEN] = [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    const MAX_NAME: usize = 255; // RFC 1035 section 2.3.4
    const A_IN: [u8; 4] = [0, A, 0, 1];
    let mut octets = HEADER.to_vec();
    for label in host.split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|length| (1..64).contains(length))?;
        octets.push(length);
        octets.extend_from_slice(label.as_bytes());
    }
    octets.push(0);
    if octets.len() > HEADER.len() + MAX_NAME {
        return None;
    }
    octets.extend_from_slice(&A_IN);
    octets.extend_from_slice(&OPT);
    Some(octets.into())
}

/// A question for records of another type and their signatures: the same with the DO bit.
pub(crate) fn signed_question(host: &str, rtype: u8) -> Option<Box<[u8]>> {
    let mut octets = question(host)?;
    let opt = octets.len() - OPT.len();
    octets[opt - 3] = rtype;
    octets[opt + DO.0] |= DO.1;
    Some(octets)
}

/// Whether `answer` has an A record with `address` in it.
pub(crate) fn shows(answer: &[u8], address: Ipv4Addr) -> bool {
    let [a, b, c, d] = address.octets();
    // The length of the record's data, and the data.
    answer.windows(6).any(|octets| octets == [0, 4, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_written_as_dns_has_it() {
        let question = question("a.bc").unwrap();
        assert_eq!(question[5], 1);
        assert_eq!(&question[12..22], b"\x01a\x02bc\0\0\x01\0\x01");
        assert_eq!(super::question("a..b"), None);
        assert_eq!(super::question(&"a".repeat(64)), None);
        assert_eq!(super::question(&["a"; 128].join(".")), None);
        let longest = super::question(&["a"; 127].join(".")).unwrap();
        assert_eq!(longest.len(), MAX_QUESTION);
    }

    #[test]
    fn an_answer_shows_the_address_in_it_and_no_other() {
        let mut answer = question("a.bc").unwrap().to_vec();
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
        assert!(shows(&answer, Ipv4Addr::new(192, 0, 2, 1)));
        assert!(!shows(&answer, Ipv4Addr::new(192, 0, 2, 2)));
    }
}
