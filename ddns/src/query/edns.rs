//! The OPT record of a query, and those of its options that mean something here.

use super::reader::{Reader, Record};
use crate::cookie::Cookie;
use crate::protocol::OptionCode;

/// What the client's OPT record says (RFC 6891 section 6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// Octets that the client takes over UDP.
    pub payload: u16,
    /// The version it speaks; only 0 exists.
    pub version: u8,
    /// DO (RFC 3225).
    pub dnssec_ok: bool,
    /// CO: it understands NXDOMAIN beside a proof that the name has nothing (RFC 9824 section 5.1).
    pub compact_ok: bool,
    /// What it asks for by options; nothing in another version, whose data is not ours to read.
    pub options: Options,
}

/// The options that are understood here. RFC 6891 section 6.1.2: "Any OPTION-CODE values not understood by a responder or
/// requestor MUST be ignored."
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The client's cookie, with ours if it has one (RFC 7873).
    pub cookie: Option<Cookie>,
    /// It wants to know which server this is (RFC 5001).
    pub nsid: bool,
    /// It wants to know which version of the zone it is told of (RFC 9660).
    pub zone_version: bool,
}

impl Edns {
    /// Reads an OPT record; `None` is FORMERR:
    ///
    /// ```text
    ///  name   type   class     TTL                                    data
    ///  0      41     payload   high rcode | version | DO, 15 zeros    (code, length, octets)*
    /// ```
    pub(super) fn read(record: &Record<'_>) -> Option<Self> {
        let [_, version, flags, _] = record.ttl;
        // RFC 6891 section 6.1.2: "MUST be 0 (root domain)".
        if !record.at_root {
            return None;
        }
        let options = match version {
            0 => Options::read(record.data)?,
            _ => Options::default(),
        };
        Some(Self {
            payload: record.class,
            version,
            dnssec_ok: flags & DO != 0,
            compact_ok: flags & CO != 0,
            options,
        })
    }
}

const DO: u8 = 0x80;
const CO: u8 = 0x40;

impl Options {
    fn read(data: &[u8]) -> Option<Self> {
        let mut found = Self::default();
        let mut options = Reader(data);
        while !options.0.is_empty() {
            let code = OptionCode(options.u16()?);
            let length = options.u16()?;
            let octets = options.take(usize::from(length))?;
            match code {
                // RFC 7873 section 5.2: of several, only the first counts.
                OptionCode::COOKIE if found.cookie.is_none() => {
                    found.cookie = Some(Cookie::read(octets)?);
                }
                // RFC 5001 section 2.1 and RFC 9660 section 3.1: what a query says in them is ignored.
                OptionCode::NSID => found.nsid = true,
                OptionCode::ZONEVERSION => found.zone_version = true,
                _ => {}
            }
        }
        Some(found)
    }
}
