//! The PROXY protocol, version 2, binary: tells an origin who the visitor is, before the visitor's own bytes.
//!
//! ```text
//!   signature 12 │ 0x21 │ family 1 │ length 2 │ source │ destination │ source port 2 │ destination port 2
//! ```
//!
//! Source: the specification at haproxy.org, "The PROXY protocol", section 2.2.

use std::net::{IpAddr, SocketAddr};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const VERSION_2_PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// The header for a TCP connection from `visitor` to `front`. If one of the two is IPv6, both are written as IPv6.
pub fn encode(visitor: SocketAddr, front: SocketAddr) -> Vec<u8> {
    let (family, mut addresses) = match (visitor.ip().to_canonical(), front.ip().to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => (
            TCP_OVER_IPV4,
            [source.octets(), destination.octets()].concat(),
        ),
        (source, destination) => (
            TCP_OVER_IPV6,
            [v6_octets(source), v6_octets(destination)].concat(),
        ),
    };
    addresses.extend_from_slice(&visitor.port().to_be_bytes());
    addresses.extend_from_slice(&front.port().to_be_bytes());
    let length = u16::try_from(addresses.len()).unwrap_or(u16::MAX); // 12 or 36
    let mut header = SIGNATURE.to_vec();
    header.extend_from_slice(&[VERSION_2_PROXY, family]);
    header.extend_from_slice(&length.to_be_bytes());
    header.extend_from_slice(&addresses);
    header
}

fn v6_octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    fn hex(visitor: &str, front: &str) -> String {
        HEXLOWER.encode(&encode(visitor.parse().unwrap(), front.parse().unwrap()))
    }

    #[test]
    fn ipv4_on_the_wire() {
        let expected = concat!(
            "0d0a0d0a000d0a515549540a", // signature
            "21",
            "11",
            "000c", // version and command, TCP over IPv4, length
            "cb007107",
            "c6336401", // 203.0.113.7, 198.51.100.1
            "c350",
            "01bb", // 50000, 443
        );
        assert_eq!(hex("203.0.113.7:50000", "198.51.100.1:443"), expected);
        assert_eq!(
            hex("[::ffff:203.0.113.7]:50000", "198.51.100.1:443"),
            expected
        );
    }

    #[test]
    fn mixed_families_are_written_as_ipv6() {
        let expected = concat!(
            "0d0a0d0a000d0a515549540a",
            "21",
            "21",
            "0024",
            "20010db8000000000000000000000007",
            "00000000000000000000ffffc6336401",
            "c350",
            "01bb",
        );
        assert_eq!(hex("[2001:db8::7]:50000", "198.51.100.1:443"), expected);
    }
}
