//! The PROXY protocol, version 2, binary: who the visitor is, before the visitor's own bytes. An origin may want to hear it, and a
//! proxy before the front may say it.
//!
//! ```text
//!   signature 12 │ 2, command │ family │ length 2 │ source │ destination │ source port 2 │ destination port 2 │ TLVs
//! ```
//!
//! Source: the specification at haproxy.org, "The PROXY protocol", section 2.2.

use std::net::{IpAddr, SocketAddr};

/// Octets of the longest header that is read. The specification has it fit into one segment, and this is what each path takes
/// (RFC 9293 section 3.7.1).
pub const LONGEST: usize = 536;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const VERSION: u8 = 2;
const VERSION_2_LOCAL: u8 = 0x20;
const VERSION_2_PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// Octets before the block whose length they say.
const FIXED: usize = 16;

/// How a header of version 1 begins, which is text.
const VERSION_1: &[u8] = b"PROXY ";

/// The type of the TLV that has a CRC32c of the header (section 2.2.3).
const CRC32C: u8 = 0x03;

/// The header of a connection that is made for nobody, to see whether somebody answers (section 2.2, `LOCAL`).
pub const LOCAL: [u8; FIXED] = *b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

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

/// Both ends of a connection, as the visitor sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The visitor's.
    pub source: SocketAddr,
    /// Where it has come to.
    pub destination: SocketAddr,
}

/// How far the reading of a header has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many octets of it are still to come, at least: never more than that are wanted at once.
    NeedMore(usize),
    /// The connection is that of somebody who has come to the proxy.
    Proxied(Ends),
    /// It is the proxy's own, such as a health check, or of a kind that has no addresses of TCP: whoever has opened it is whose it is.
    Local,
}

/// Why octets are no header that is read here. Always whoever sends them is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAHeader {
    /// They are something else.
    #[error("no PROXY header")]
    Missing,
    /// A header of version 1, or of one that is not known.
    #[error("another version of the PROXY protocol than 2")]
    OtherVersion,
    /// It is longer than [`LONGEST`].
    #[error("a PROXY header of more than {LONGEST} octets")]
    TooLong,
    /// It breaks the protocol.
    #[error("a malformed PROXY header")]
    Malformed,
    /// It is not as it was sent.
    #[error("a PROXY header with another checksum than it has")]
    Checksum,
}

/// Reads one header, whose octets may come in any portions.
#[derive(Debug, Default)]
pub struct Reader {
    octets: Vec<u8>,
}

impl Reader {
    /// Reads on in what has come. Says how many octets of it are the header's, and how far that has got.
    ///
    /// # Errors
    /// As soon as it is certain that there is no header to be read.
    pub fn push(&mut self, mut octets: &[u8]) -> Result<(usize, Progress), NotAHeader> {
        let mut taken = 0_usize;
        loop {
            let progress = self.progress()?;
            let Progress::NeedMore(missing) = progress else {
                return Ok((taken, progress));
            };
            if octets.is_empty() {
                return Ok((taken, progress));
            }
            let (next, rest) = octets.split_at(missing.min(octets.len()));
            self.octets.extend_from_slice(next);
            taken = taken.saturating_add(next.len());
            octets = rest;
        }
    }

    fn progress(&self) -> Result<Progress, NotAHeader> {
        let octets = self.octets.as_slice();
        let begun = octets.get(..SIGNATURE.len()).unwrap_or(octets);
        if !SIGNATURE.starts_with(begun) {
            return if begun.starts_with(VERSION_1) {
                Err(NotAHeader::OtherVersion)
            } else if VERSION_1.starts_with(begun) {
                let missing = VERSION_1.len().saturating_sub(begun.len());
                Ok(Progress::NeedMore(missing))
            } else {
                Err(NotAHeader::Missing)
            };
        }
        let Some((fixed, block)) = octets.split_first_chunk::<FIXED>() else {
            return Ok(Progress::NeedMore(FIXED.saturating_sub(octets.len())));
        };
        let [.., version_and_command, family, high, low] = *fixed;
        if version_and_command >> 4 != VERSION {
            return Err(NotAHeader::OtherVersion);
        }
        let is_local = match version_and_command {
            VERSION_2_LOCAL => true,
            VERSION_2_PROXY => false,
            _ => return Err(NotAHeader::Malformed),
        };
        // Of a local connection the family says nothing, and need not be one.
        if !is_local && (family >> 4 > 3 || family & 0xf > 2) {
            return Err(NotAHeader::Malformed);
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > LONGEST.saturating_sub(FIXED) {
            return Err(NotAHeader::TooLong);
        }
        match length.checked_sub(block.len()) {
            Some(missing) if missing > 0 => return Ok(Progress::NeedMore(missing)),
            Some(_) | None => {}
        }
        let (source, destination, tlvs) = match family {
            // "discard the protocol block including the family": nor would it be known where its TLVs begin.
            _ if is_local => return Ok(Progress::Local),
            TCP_OVER_IPV4 => {
                let (ips, rest) = block
                    .split_first_chunk::<8>()
                    .ok_or(NotAHeader::Malformed)?;
                let [a, b, c, d, e, f, g, h] = *ips;
                (IpAddr::from([a, b, c, d]), IpAddr::from([e, f, g, h]), rest)
            }
            TCP_OVER_IPV6 => {
                let (source, rest) = split_v6(block)?;
                let (destination, rest) = split_v6(rest)?;
                (source, destination, rest)
            }
            _ => return Ok(Progress::Local),
        };
        let (ports, tlvs) = tlvs.split_first_chunk::<4>().ok_or(NotAHeader::Malformed)?;
        let [a, b, c, d] = *ports;
        if let Some((at, said)) = checksum_in(tlvs)? {
            let at = octets.len().saturating_sub(tlvs.len()).saturating_add(at);
            if crc32c_without(octets, at) != said {
                return Err(NotAHeader::Checksum);
            }
        }
        Ok(Progress::Proxied(Ends {
            source: SocketAddr::new(source, u16::from_be_bytes([a, b])),
            destination: SocketAddr::new(destination, u16::from_be_bytes([c, d])),
        }))
    }
}

/// Whether a connection that begins with these octets begins like one with a header, of either version. Nothing else that comes to a
/// public port does.
pub fn is_begun_by(octets: &[u8]) -> bool {
    let begun = octets.get(..SIGNATURE.len()).unwrap_or(octets);
    (SIGNATURE.starts_with(begun) && !begun.is_empty()) || octets.starts_with(VERSION_1)
}

/// An address of IPv6, or the one of IPv4 that is written as such.
fn split_v6(octets: &[u8]) -> Result<(IpAddr, &[u8]), NotAHeader> {
    let (ip, rest) = octets
        .split_first_chunk::<16>()
        .ok_or(NotAHeader::Malformed)?;
    Ok((IpAddr::from(*ip).to_canonical(), rest))
}

/// The checksum among TLVs, and where in them it is. What else they say is passed over.
fn checksum_in(tlvs: &[u8]) -> Result<Option<(usize, u32)>, NotAHeader> {
    let mut rest = tlvs;
    let mut checksum = None;
    while let Some(([kind, high, low], after)) = rest.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, after_it) = after
            .split_at_checked(length)
            .ok_or(NotAHeader::Malformed)?;
        if *kind == CRC32C {
            let said = value.try_into().map_err(|_| NotAHeader::Malformed)?;
            let at = tlvs.len().saturating_sub(after.len());
            if checksum.replace((at, u32::from_be_bytes(said))).is_some() {
                return Err(NotAHeader::Malformed);
            }
        }
        rest = after_it;
    }
    match rest.is_empty() {
        true => Ok(checksum),
        false => Err(NotAHeader::Malformed),
    }
}

/// CRC32c (RFC 9260 appendix A) of a header, with nought in the place of the four octets at `at`. Bit by bit: it is short.
fn crc32c_without(header: &[u8], at: usize) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78; // 0x1edc6f41, its bits the other way round
    let checksum = at..at.saturating_add(4);
    let octets = header.iter().enumerate();
    let octets = octets.map(|(i, octet)| if checksum.contains(&i) { 0 } else { *octet });
    !octets.fold(!0, |crc, octet| {
        (0..8).fold(crc ^ u32::from(octet), |crc, _| match crc & 1 {
            0 => crc >> 1,
            _ => (crc >> 1) ^ POLYNOMIAL,
        })
    })
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

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
    fn nobodys_on_the_wire() {
        let expected = concat!("0d0a0d0a000d0a515549540a", "20", "00", "0000");
        assert_eq!(HEXLOWER.encode(&LOCAL), expected);
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

    /// A header with this command, family and block.
    fn header(version_and_command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [
            &SIGNATURE[..],
            &[version_and_command, family],
            &length,
            block,
        ]
        .concat()
    }

    fn read(octets: &[u8]) -> Result<(usize, Progress), NotAHeader> {
        Reader::default().push(octets)
    }

    /// What octets say that come in portions.
    fn read_in_portions(octets: &[u8], size: usize) -> Result<(usize, Progress), NotAHeader> {
        let mut reader = Reader::default();
        let (mut taken, mut progress) = (0, Progress::NeedMore(FIXED));
        for portion in octets.chunks(size) {
            let (more, now) = reader.push(portion)?;
            (taken, progress) = (taken + more, now);
            if more < portion.len() {
                break;
            }
        }
        Ok((taken, progress))
    }

    fn ends(source: &str, destination: &str) -> Progress {
        Progress::Proxied(Ends {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        })
    }

    /// 203.0.113.7 and 198.51.100.1, 50000 and 443
    const IPV4: [u8; 12] = [203, 0, 113, 7, 198, 51, 100, 1, 0xc3, 0x50, 0x01, 0xbb];

    fn ipv4_with(tlvs: &[u8]) -> Vec<u8> {
        header(0x21, 0x11, &[&IPV4, tlvs].concat())
    }

    #[test]
    fn what_the_specification_has_is_read_and_not_an_octet_more() {
        let from_4 = ends("203.0.113.7:50000", "198.51.100.1:443");
        let mut ipv6 = vec![0x20, 0x01, 0x0d, 0xb8];
        ipv6.extend_from_slice(&[0; 11]);
        ipv6.extend_from_slice(&[7]);
        ipv6.extend_from_slice(&[&[0; 15][..], &[1], &IPV4[8..]].concat());
        let from_6 = ends("[2001:db8::7]:50000", "[::1]:443");
        for (octets, expected) in [
            (header(0x21, 0x11, &IPV4), from_4),
            (header(0x21, 0x21, &ipv6), from_6),
            // A unique id, and what nobody knows.
            (ipv4_with(b"\x05\0\x04abcd\xe0\0\0"), from_4),
            // Health checks, with nothing or with what is to be passed over.
            (LOCAL.to_vec(), Progress::Local),
            (header(0x20, 0x00, &[3; 40]), Progress::Local),
            (header(0x20, 0xff, &IPV4), Progress::Local),
            // Unspecified, UDP, and local sockets.
            (header(0x21, 0x00, &[]), Progress::Local),
            (header(0x21, 0x00, &[9; 30]), Progress::Local),
            (header(0x21, 0x12, &IPV4), Progress::Local),
            (header(0x21, 0x22, &ipv6), Progress::Local),
            (header(0x21, 0x31, &[0; 216]), Progress::Local),
            (header(0x21, 0x32, &[0; 216]), Progress::Local),
            (header(0x21, 0x10, &IPV4), Progress::Local),
            (
                ipv4_with(&[&[4, 1, 0xf9][..], &[0; 0x1f9]].concat()),
                from_4,
            ), // as long as can be
        ] {
            assert_eq!(read(&octets), Ok((octets.len(), expected)), "{octets:?}");
            let and_more = [&octets[..], &octets].concat();
            assert_eq!(read(&and_more), Ok((octets.len(), expected)), "{octets:?}");
        }
    }

    #[test]
    fn what_is_no_header_is_told_apart_as_soon_as_it_is_certain() {
        use NotAHeader::{Checksum, Malformed, Missing, OtherVersion, TooLong};
        for (octets, fault) in [
            (&b"\x16"[..], Missing),
            (b"GET / HTTP/1.1\r\n", Missing),
            (b"PRO\x16", Missing),
            (b"\r\n\r\n\0\r\nQUIT\r", Missing),
            (
                b"PROXY TCP4 203.0.113.7 198.51.100.1 50000 443\r\n",
                OtherVersion,
            ),
            (&header(0x11, 0x11, &IPV4)[..16], OtherVersion),
            (&header(0x31, 0x11, &IPV4)[..16], OtherVersion),
            (&header(0x22, 0x11, &IPV4)[..16], Malformed),
            (&header(0x21, 0x41, &IPV4)[..16], Malformed),
            (&header(0x21, 0x13, &IPV4)[..16], Malformed),
            (&header(0x21, 0x11, &[0; 521])[..16], TooLong),
            (&header(0x20, 0x00, &[0; 65_535])[..16], TooLong),
            (&header(0x21, 0x11, &IPV4[..11]), Malformed),
            (&header(0x21, 0x21, &[0; 35]), Malformed),
            (&header(0x21, 0x11, &[]), Malformed),
            // TLVs that are cut, and checksums of another length, twice, or wrong.
            (&ipv4_with(&[5]), Malformed),
            (&ipv4_with(&[5, 0]), Malformed),
            (&ipv4_with(&[5, 0, 2, 1]), Malformed),
            (&ipv4_with(&[3, 0, 3, 1, 2, 3]), Malformed),
            (&ipv4_with(&[3, 0, 4, 1, 2, 3, 4]), Checksum),
            (
                &ipv4_with(&[3, 0, 4, 1, 2, 3, 4, 3, 0, 4, 1, 2, 3, 4]),
                Malformed,
            ),
        ] {
            assert_eq!(read(octets), Err(fault), "{octets:?}");
            let Some((_, before)) = octets.split_last() else {
                panic!("nothing is no fault");
            };
            if matches!(fault, Missing) && octets.len() <= SIGNATURE.len() {
                assert!(matches!(read(before), Ok((_, Progress::NeedMore(_)))));
            }
        }
    }

    fn captured(after_the_signature: &str) -> Vec<u8> {
        let octets = HEXLOWER.decode(after_the_signature.as_bytes()).unwrap();
        [&SIGNATURE[..], &octets].concat()
    }

    #[test]
    fn a_checksum_is_that_of_the_whole_header() {
        // The check value of CRC-32/ISCSI, which is this one; nothing is left out.
        assert_eq!(crc32c_without(b"123456789", 9), 0xe306_9283);
        // What haproxy 2.6.12 sends with `proxy-v2-options crc32c,unique-id`, for a visitor and to see whether somebody is there.
        let good =
            captured("2111001f7f0000077f000001c3504d63030004bad18b6c05000976697369746f722d31");
        let expected = ends("127.0.0.7:50000", "127.0.0.1:19811");
        assert_eq!(read(&good), Ok((good.len(), expected)));
        let own = captured("20000007030004a9b87e8f");
        assert_eq!(read(&own), Ok((own.len(), Progress::Local)));
        for i in (16..28).chain(29..good.len()) {
            // without its type, at 28, there is no checksum
            let mut bad = good.clone();
            bad[i] ^= 0x10;
            assert!(read(&bad).is_err(), "octet {i}");
        }
    }

    #[test]
    fn what_looks_like_a_header_is_known_by_its_beginning() {
        for octets in [&LOCAL[..], &LOCAL[..1], b"PROXY UNKNOWN\r\n"] {
            assert!(is_begun_by(octets), "{octets:?}");
        }
        for octets in [
            &b""[..],
            b"\x16\x03\x01",
            b"\r\n\r\nGET",
            b"PROPFIND /",
            b"P",
        ] {
            assert!(!is_begun_by(octets), "{octets:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_in_any_portions(
            visitor: SocketAddr, front: SocketAddr, size in 1..60_usize, after in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
            let header = encode(visitor, front);
            let ends = Ends { source: canonical(visitor), destination: canonical(front) };
            let octets = [&header[..], &after].concat();
            let read = read_in_portions(&octets, size);
            prop_assert_eq!(read, Ok((header.len(), Progress::Proxied(ends))));
            prop_assert!(is_begun_by(&octets));
        }

        #[test]
        fn any_octets_are_a_header_or_none_however_they_are_cut(
            signature in any::<bool>(),
            command in prop_oneof![0x20..0x22_u8, any::<u8>()],
            family in prop_oneof![Just(0x11), Just(0x21), any::<u8>()],
            length in prop_oneof![0..64_u16, any::<u16>()],
            block in prop::collection::vec(prop_oneof![0..5_u8, any::<u8>()], 0..600),
            size in 1..700_usize,
        ) {
            let [high, low] = length.to_be_bytes();
            let fixed = [command, family, high, low];
            let begin = if signature { &SIGNATURE[..] } else { &[] };
            let octets = [begin, &fixed, &block].concat();
            let whole = read(&octets);
            prop_assert_eq!(read_in_portions(&octets, size), whole);
            if let Ok((taken, progress)) = whole {
                prop_assert!(taken <= LONGEST && taken <= octets.len());
                if let Progress::NeedMore(missing) = progress {
                    prop_assert!(missing > 0 && taken == octets.len() && taken + missing <= LONGEST);
                }
            }
        }
    }
}
