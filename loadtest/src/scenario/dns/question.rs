//! What is asked, as octets.

/// A question for the IPv4 address of `host`, as a resolver asks: with EDNS (RFC 6891), for 1232 octets at most. Its id is
/// to be filled in. `None` if `host` can be no name in DNS.
pub(super) fn question(host: &str) -> Option<Box<[u8]>> {
    const HEADER: [u8; 12] = [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    const MAX_NAME: usize = 255; // RFC 1035 section 2.3.4
    const A_IN: [u8; 4] = [0, 1, 0, 1];
    const OPT: [u8; 11] = [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];
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

#[cfg(test)]
mod tests {
    #[test]
    fn a_question_is_written_as_dns_has_it() {
        let question = super::question("a.bc").unwrap();
        assert_eq!(question[5], 1);
        assert_eq!(&question[12..22], b"\x01a\x02bc\0\0\x01\0\x01");
        assert_eq!(super::question("a..b"), None);
        assert_eq!(super::question(&"a".repeat(64)), None);
        assert_eq!(super::question(&["a"; 128].join(".")), None);
        assert!(super::question(&["a"; 127].join(".")).is_some());
    }
}
