//! The operator's own records: at names of the zone, and at every device.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use directory::Zone;
use domain::base::rdata::ComposeRecordData as _;
use domain::zonefile::inplace::{Entry, Zonefile};
use serde::Deserialize;

use super::Bounded;
use crate::protocol::{MAX_LABEL, Type};

/// One record of the operator's own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WrittenRecord")]
pub struct Record {
    /// Where it stands.
    pub name: RecordName,
    /// Type and value.
    pub data: RecordData,
    /// Its TTL, if not the configuration's `ttl_seconds`.
    pub ttl_seconds: Option<Bounded<1, 86_400>>,
}

/// One record that every device has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WrittenDeviceRecord")]
pub struct DeviceRecord {
    /// Type and value; never an address.
    pub data: RecordData,
    /// Its TTL, if not the configuration's `ttl_seconds`.
    pub ttl_seconds: Option<Bounded<1, 86_400>>,
}

/// The types of record that an operator can set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordData {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// Text of any length; it is cut into strings of 255 octets, as the DNS wants it.
    Txt(String),
    /// One of the other types, as the wire has it; names in it are not compressed.
    Other(Type, Box<[u8]>),
}

/// A record as the file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRecord {
    name: RecordName,
    r#type: RecordType,
    ttl_seconds: Option<Bounded<1, 86_400>>,
    value: String,
}

/// The same without a name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenDeviceRecord {
    r#type: RecordType,
    ttl_seconds: Option<Bounded<1, 86_400>>,
    value: String,
}

/// What the zone is made of (NS, SOA) is the server's to say, and CNAME would stand alone at its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum RecordType {
    A,
    Aaaa,
    Txt,
    Caa,
    Https,
    Mx,
    Srv,
    Sshfp,
    Svcb,
    Tlsa,
}

impl TryFrom<WrittenRecord> for Record {
    type Error = ValueError;

    fn try_from(written: WrittenRecord) -> Result<Self, ValueError> {
        Ok(Self {
            name: written.name,
            data: RecordData::parse(written.r#type, written.value)?,
            ttl_seconds: written.ttl_seconds,
        })
    }
}

impl TryFrom<WrittenDeviceRecord> for DeviceRecord {
    type Error = ValueError;

    fn try_from(written: WrittenDeviceRecord) -> Result<Self, ValueError> {
        if matches!(written.r#type, RecordType::A | RecordType::Aaaa) {
            return Err(ValueError::Address);
        }
        Ok(Self {
            data: RecordData::parse(written.r#type, written.value)?,
            ttl_seconds: written.ttl_seconds,
        })
    }
}

impl RecordData {
    fn parse(rtype: RecordType, value: String) -> Result<Self, ValueError> {
        let (wire_type, token) = match rtype {
            RecordType::A => {
                let address = value.parse().map(Self::A);
                return address.map_err(|_| ValueError::not(value, "an IPv4 address"));
            }
            RecordType::Aaaa => {
                let address = value.parse().map(Self::Aaaa);
                return address.map_err(|_| ValueError::not(value, "an IPv6 address"));
            }
            RecordType::Txt => return Ok(Self::Txt(value)),
            RecordType::Caa => (Type::CAA, "CAA"),
            RecordType::Https => (Type::HTTPS, "HTTPS"),
            RecordType::Mx => (Type::MX, "MX"),
            RecordType::Srv => (Type::SRV, "SRV"),
            RecordType::Sshfp => (Type::SSHFP, "SSHFP"),
            RecordType::Svcb => (Type::SVCB, "SVCB"),
            RecordType::Tlsa => (Type::TLSA, "TLSA"),
        };
        match presentation(token, &value) {
            Some(octets) => Ok(Self::Other(wire_type, octets)),
            None => Err(ValueError::NotData { value, token }),
        }
    }
}

/// Compiles a value as zone files have it. Names in it are full names, whether a dot closes them or not.
fn presentation(token: &str, value: &str) -> Option<Box<[u8]>> {
    // Nothing but one value: no second line, and no comment in which the rest would be lost.
    if value.contains(|c: char| c.is_control() || c == ';') {
        return None;
    }
    let mut file = Zonefile::from(format!(". 0 IN {token} {value}\n").as_bytes());
    file.set_origin(domain::base::Name::root_bytes());
    let Ok(Some(Entry::Record(record))) = file.next_entry() else {
        return None;
    };
    let mut octets = Vec::new();
    // In the form that signatures are over (RFC 4034 section 6.2).
    record.data().compose_canonical_rdata(&mut octets).ok()?;
    Some(octets.into())
}

/// A record's value is not of its type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// It is no address.
    #[error("`{value}` is not {wanted}")]
    NotAddress {
        /// The text.
        value: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// It is not what zone files have for this type.
    #[error("`{value}` is not the value of a {token} record as zone files have it")]
    NotData {
        /// The text.
        value: String,
        /// The type.
        token: &'static str,
    },
    /// All devices cannot have one address.
    #[error("a device's addresses are its own or the relay's, and no record for all")]
    Address,
}

impl ValueError {
    fn not(value: String, wanted: &'static str) -> Self {
        Self::NotAddress { value, wanted }
    }
}

/// A name relative to the zone, in lower case; `@` is the zone itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct RecordName(String);

impl RecordName {
    const APEX: &'static str = "@";

    /// The labels, from the left; none for the zone itself.
    pub(crate) fn labels(&self) -> impl Iterator<Item = &str> {
        self.0.split('.').filter(|label| *label != Self::APEX)
    }

    /// The full name in `zone`.
    pub(crate) fn in_zone(&self, zone: &Zone) -> String {
        match self.0.as_str() {
            Self::APEX => zone.to_string(),
            name => format!("{name}.{zone}"),
        }
    }
}

impl TryFrom<String> for RecordName {
    type Error = RecordNameError;

    fn try_from(name: String) -> Result<Self, RecordNameError> {
        let name = name.to_ascii_lowercase();
        let is_label = |label: &str| {
            (1..=MAX_LABEL).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
        };
        if name == Self::APEX || name.split('.').all(is_label) {
            Ok(Self(name))
        } else {
            Err(RecordNameError(name))
        }
    }
}

impl fmt::Display for RecordName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is not a name for a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a name relative to the zone: write labels of letters, digits, hyphens and underscores, \
     or `@` for the zone itself"
)]
pub struct RecordNameError(String);

#[cfg(test)]
mod tests {
    use super::*;

    fn data(rtype: RecordType, value: &str) -> Option<Vec<u8>> {
        match RecordData::parse(rtype, value.into()) {
            Ok(RecordData::Other(_, octets)) => Some(octets.into()),
            Ok(RecordData::A(_) | RecordData::Aaaa(_) | RecordData::Txt(_)) | Err(_) => None,
        }
    }

    #[test]
    fn values_are_those_of_zone_files() {
        // RFC 8659 section 4.1, RFC 9460 section 2.2, RFC 1035 section 3.3.9, RFC 2782.
        for (rtype, value, octets) in [
            (
                RecordType::Caa,
                r#"0 issue "ca.test""#,
                &b"\0\x05issueca.test"[..],
            ),
            (
                RecordType::Https,
                "1 . alpn=h2,h3 port=8443",
                b"\0\x01\0\0\x01\0\x06\x02h2\x02h3\0\x03\0\x02\x20\xFB",
            ),
            (
                RecordType::Mx,
                "10 Mail.nas.test",
                b"\0\x0A\x04mail\x03nas\x04test\0",
            ),
            (
                RecordType::Srv,
                "0 5 443 a.test.",
                b"\0\0\0\x05\x01\xBB\x01a\x04test\0",
            ),
        ] {
            assert_eq!(data(rtype, value).as_deref(), Some(octets), "{value}");
        }
    }

    #[test]
    fn what_is_no_value_or_more_than_one_is_refused() {
        for value in [
            "",
            "10",
            "ten mail",
            "10 mail ; and more",
            "10 mail\n. 0 IN NS evil.",
            "10 mail 20",
            "( 10 mail",
        ] {
            assert_eq!(data(RecordType::Mx, value), None, "{value}");
        }
    }
}
