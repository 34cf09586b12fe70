//! Our OPT record, and the options in it.
//!
//! ```text
//!  name  type  class  TTL                                      length  (code, length, octets)*
//!  0     41    1232   high rcode │ version 0 │ DO, 15 zeros            cookie 28, EDE 6, ZONEVERSION 10, NSID ≤ 68
//! ```

use super::Writer;
use crate::cookie::Whole;
use crate::protocol::{Ede, OptionCode, Rcode, Type, UDP_LIMIT};
use crate::query::Edns;

/// Octets of the record without options.
pub(super) const OPT_LEN: usize = 11;
/// The most octets that a server's name for itself has.
pub const MAX_NSID: usize = 64;
/// The most octets that all options together have.
pub(super) const MAX_OPTIONS: usize =
    COOKIE_LEN + EDE_LEN + ZONE_VERSION_LEN + OPTION_HEAD + MAX_NSID;

/// Code and length in front of an option.
const OPTION_HEAD: usize = 4;
const COOKIE_LEN: usize = OPTION_HEAD + size_of::<Whole>();
const EDE_LEN: usize = OPTION_HEAD + 2;
const ZONE_VERSION_LEN: usize = OPTION_HEAD + 6;

/// The options of a reply, in the order in which they stand there.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplyOptions<'s> {
    /// The client's cookie and ours (RFC 7873 section 5.2).
    pub cookie: Option<Whole>,
    /// Why there is no answer (RFC 8914 section 2).
    pub reason: Option<Ede>,
    /// What the answer is from (RFC 9660 section 2).
    pub zone_version: Option<ZoneVersion>,
    /// Who answers (RFC 5001 section 2.2), at most [`MAX_NSID`] octets.
    pub nsid: Option<&'s [u8]>,
    /// That the code of the reply says more than its proof (RFC 9824 section 5.1).
    pub compact: bool,
}

/// The version of a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneVersion {
    /// How many labels the zone's name has.
    pub labels: u8,
    /// The serial of its SOA.
    pub serial: u32,
}

impl ReplyOptions<'_> {
    /// What is worth its room even if there is little: without a cookie, the client's next query is no better.
    pub(super) fn least(&self) -> Self {
        Self {
            cookie: self.cookie,
            compact: self.compact,
            ..Self::default()
        }
    }

    /// Octets of all of them.
    pub(super) fn len(&self) -> usize {
        let fixed = |is_there: bool, len: usize| if is_there { len } else { 0 };
        let nsid = self
            .nsid
            .map_or(0, |nsid| nsid.len().saturating_add(OPTION_HEAD));
        fixed(self.cookie.is_some(), COOKIE_LEN)
            .saturating_add(fixed(self.reason.is_some(), EDE_LEN))
            .saturating_add(fixed(self.zone_version.is_some(), ZONE_VERSION_LEN))
            .saturating_add(nsid)
    }

    /// RFC 3225 section 3: "The DO bit of the query MUST be copied in the response." The flags of another version of EDNS are not
    /// ours to read, and no other flag but CO is known here (RFC 6891 section 6.1.4).
    fn flags(&self, edns: Edns) -> u8 {
        match (edns.version, edns.dnssec_ok, self.compact) {
            (0, true, true) => DO | CO,
            (0, true, false) => DO,
            _ => 0,
        }
    }

    /// Writes the record with these options.
    pub(super) fn write(&self, edns: Edns, rcode: Rcode, writer: &mut Writer<'_>) -> Option<()> {
        let flags = self.flags(edns);
        writer.put(&head(flags, rcode, u16::try_from(self.len()).ok()?))?;
        if let Some(cookie) = &self.cookie {
            option(OptionCode::COOKIE, cookie, writer)?;
        }
        if let Some(reason) = self.reason {
            option(OptionCode::EDE, &reason.code().to_be_bytes(), writer)?;
        }
        if let Some(ZoneVersion { labels, serial }) = self.zone_version {
            let [s0, s1, s2, s3] = serial.to_be_bytes();
            let version = [labels, SOA_SERIAL, s0, s1, s2, s3];
            option(OptionCode::ZONEVERSION, &version, writer)?;
        }
        if let Some(nsid) = self.nsid {
            option(OptionCode::NSID, nsid, writer)?;
        }
        Some(())
    }
}

/// The type of version that is the serial of the SOA (RFC 9660).
const SOA_SERIAL: u8 = 0;

fn option(code: OptionCode, octets: &[u8], writer: &mut Writer<'_>) -> Option<()> {
    writer.put(&code.0.to_be_bytes())?;
    writer.put(&u16::try_from(octets.len()).ok()?.to_be_bytes())?;
    writer.put(octets)
}

/// RFC 6891 section 6.1.2: version 0, and what we take.
fn head(flags: u8, rcode: Rcode, options: u16) -> [u8; OPT_LEN] {
    let [type0, type1] = Type::OPT.0.to_be_bytes();
    #[expect(clippy::cast_possible_truncation, reason = "1232 fits in 16 bits")]
    let [size0, size1] = (UDP_LIMIT as u16).to_be_bytes();
    let [length0, length1] = options.to_be_bytes();
    [
        0,
        type0,
        type1,
        size0,
        size1,
        rcode.high_bits(),
        0,
        flags,
        0,
        length0,
        length1,
    ]
}

const DO: u8 = 0x80;
const CO: u8 = 0x40;
