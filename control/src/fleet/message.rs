//! What control and a relay with a process of its own say to each other: lines of JSON.
//!
//! ```text
//!   relay                            control
//!   POST /api/relay/follow       ─► welcome, then a snapshot unless it has one, then changes, for as long as both live
//!   POST /api/relay/presence     ─► who has come and who has gone; every few seconds, if only to be heard
//!   POST /api/relay/certificate  ─► a certificate for <name>.relay.<zone>
//! ```
//!
//! Each request is signed with the relay's key (RFC 9421), as those of devices are with theirs. Nothing that a relay has no
//! use for is told: neither DDNS keys nor who a device belongs to.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;
use directory::{
    Device, DeviceId, DeviceLimits, DeviceName, Identity, PublicKey, PublicPort, Reader,
    RegistrationId,
};
use relay::server::{Attachment, Transport};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

use crate::store::MAX_PORTS;

/// The longest line either side reads, in octets.
pub(crate) const MAX_LINE: usize = 8 * 1024;

/// Reports in one request at most.
pub(crate) const MAX_REPORTS: usize = 200;

/// How often control says that it is there, and a relay reports at least.
pub(crate) const BEAT: Duration = Duration::from_secs(1);

/// After this long without a word the other side is taken for gone. Until then names lead to a relay that stands still, and whoever
/// comes there waits; a path that loses packets needs some seconds now and then.
pub(crate) const SILENCE: Duration = Duration::from_secs(5);

/// What a relay asks with: what it knows already, if anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Follow {
    /// Up to which change, of which epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) known: Option<Known>,
}

/// A point in the history of what control knows. A new process of control begins a new epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Known {
    pub(crate) epoch: Token16,
    pub(crate) version: u64,
}

/// What control tells a relay that follows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Told {
    /// The first line. Reports are to quote the session.
    Welcome { session: Token16 },
    /// All that is known comes now, as it is at `version` or later: about so many devices, then [`Told::Complete`].
    Snapshot {
        epoch: Token16,
        version: u64,
        devices: u64,
    },
    /// A device of the snapshot.
    Device(FollowedDevice),
    /// The snapshot is complete: so many devices came. The digest is [`Checksum`]'s, over their lines as they came.
    Complete { devices: u64, digest: String },
    /// The device was added, or something about it is different now.
    Put {
        version: u64,
        device: FollowedDevice,
    },
    /// Nobody holds the name any more.
    Removed { version: u64, name: String },
    /// Nothing is new.
    Beat { version: u64 },
}

/// What a relay needs to know of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FollowedDevice {
    name: String,
    registration: u64,
    /// Absent until an agent has paired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<Token16>,
    /// Base64url, at most two.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    keys: Vec<String>,
    /// Octets a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes_per_second: Option<NonZeroU64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    visitors: Option<NonZeroU32>,
    /// Of the relays: `20022/tcp`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ports: Vec<String>,
}

/// A device as a relay knows it, with what it may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) device: Device,
    pub(crate) limits: DeviceLimits,
    pub(crate) ports: BTreeSet<PublicPort>,
}

impl Facts {
    /// What is known of a device.
    pub(crate) fn of(device: Device, directory: &Reader) -> Self {
        Self {
            limits: directory.limits(&device.name),
            ports: directory.ports(&device.name),
            device,
        }
    }
}

/// More keys than this no device has: one, or two during a rotation.
const MAX_KEYS: usize = 2;

impl FollowedDevice {
    pub(crate) fn of(facts: &Facts) -> Self {
        let Facts {
            device,
            limits,
            ports,
        } = facts;
        Self {
            name: device.name.to_string(),
            registration: device.registration.0,
            id: device
                .identity
                .as_ref()
                .map(|identity| Token16(*identity.id.as_bytes())),
            keys: device.keys().iter().map(ToString::to_string).collect(),
            bytes_per_second: limits.bytes_per_second,
            visitors: limits.visitors,
            ports: ports
                .iter()
                .take(MAX_PORTS)
                .map(ToString::to_string)
                .collect(),
        }
    }

    /// The device and what it may have; `None` if it makes no sense.
    pub(crate) fn read(&self) -> Option<Facts> {
        let keys: Option<Vec<_>> = self
            .keys
            .iter()
            .map(|key| PublicKey::parse(key).ok())
            .collect();
        let identity = match (self.id, keys?) {
            (Some(id), keys) if !keys.is_empty() && keys.len() <= MAX_KEYS => Some(Identity {
                id: DeviceId::from_bytes(id.0),
                keys,
            }),
            (None, keys) if keys.is_empty() => None,
            _ => return None,
        };
        let device = Device {
            registration: RegistrationId(self.registration),
            name: DeviceName::parse(&self.name).ok()?,
            identity,
            ddns_key: None,
            challenge_key: None,
        };
        let limits = DeviceLimits {
            bytes_per_second: self.bytes_per_second,
            visitors: self.visitors,
        };
        let ports = self.ports.iter().map(|port| port.parse().ok());
        Some(Facts {
            device,
            limits,
            ports: ports.collect::<Option<_>>()?,
        })
    }
}

/// What is computed over a snapshot's devices by whoever writes and whoever reads it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checksum(Sha256);

impl Checksum {
    /// Takes a device's line, without its end.
    pub(crate) fn take(&mut self, line: &[u8]) {
        self.0.update(line);
        self.0.update(b"\n");
    }

    /// SHA-256 over all of them, in hexadecimal.
    pub(crate) fn finish(self) -> String {
        HEXLOWER.encode(&self.0.finalize())
    }
}

/// What a relay reports: who has come and who has gone since the last report of this session. The first report of a session
/// begins with nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Report {
    /// As in [`Told::Welcome`].
    pub(crate) session: Token16,
    /// 0 for the first of the session, then one more each time: one that got lost is noticed.
    pub(crate) number: u64,
    pub(crate) came: Vec<Present>,
    pub(crate) gone: Vec<Token16>,
}

/// A device that has a tunnel at the relay that reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Present {
    pub(crate) device: Token16,
    name: String,
    /// In seconds since 1970.
    since: u64,
    transport: String,
    seen_as: SocketAddr,
    software: String,
}

impl Present {
    pub(crate) fn of(device: &DeviceId, attachment: &Attachment) -> Self {
        let since = attachment.since.duration_since(SystemTime::UNIX_EPOCH);
        Self {
            device: Token16(*device.as_bytes()),
            name: attachment.name.to_string(),
            since: since.unwrap_or_default().as_secs(),
            transport: attachment.transport.name().to_owned(),
            seen_as: attachment.seen_as,
            software: attachment.software.clone(),
        }
    }

    /// How it is attached; `None` if that makes no sense.
    pub(crate) fn read(self) -> Option<(DeviceId, Attachment)> {
        let transport = [Transport::Quic, Transport::Tls]
            .into_iter()
            .find(|transport| transport.name() == self.transport)?;
        let since = Duration::from_secs(self.since);
        let attachment = Attachment {
            name: DeviceName::parse(&self.name).ok()?,
            since: SystemTime::UNIX_EPOCH.checked_add(since)?,
            transport,
            seen_as: self.seen_as,
            software: self.software,
        };
        Some((DeviceId::from_bytes(self.device.0), attachment))
    }
}

/// Sixteen octets, in hexadecimal: a device's id, or a random number that tells one thing from all others of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Token16(pub(crate) [u8; 16]);

impl Token16 {
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let octets = HEXLOWER.decode(text.as_bytes()).ok()?;
        Some(Self(octets.try_into().ok()?))
    }
}

impl std::fmt::Display for Token16 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl Serialize for Token16 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Token16 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("not sixteen octets in hexadecimal"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paired() -> Device {
        Device {
            registration: RegistrationId(7),
            name: DeviceName::parse("mynas").unwrap(),
            identity: Some(Identity::first(PublicKey::from_bytes([7; 32]))),
            ddns_key: Some(directory::TokenHash::of("secret")),
            challenge_key: None,
        }
    }

    #[test]
    fn a_device_arrives_as_it_was_but_for_its_secrets() {
        let limits = DeviceLimits {
            visitors: NonZeroU32::new(3),
            ..DeviceLimits::default()
        };
        let facts = Facts {
            device: paired(),
            limits,
            ports: ["20022/tcp", "20053/udp"]
                .map(|port| port.parse().unwrap())
                .into(),
        };
        let line = serde_json::to_string(&Told::Device(FollowedDevice::of(&facts)));
        let Told::Device(read) = serde_json::from_str(&line.unwrap()).unwrap() else {
            panic!("another line");
        };
        let without_secrets = Device {
            ddns_key: None,
            ..paired()
        };
        let expected = Facts {
            device: without_secrets,
            ..facts
        };
        assert_eq!(read.read(), Some(expected));
    }

    #[test]
    fn what_makes_no_sense_is_no_device() {
        let good = FollowedDevice::of(&Facts {
            device: paired(),
            limits: DeviceLimits::default(),
            ports: BTreeSet::new(),
        });
        let bad = |change: fn(&mut FollowedDevice)| {
            let mut device = good.clone();
            change(&mut device);
            device.read()
        };
        assert!(good.read().is_some());
        assert_eq!(bad(|device| device.name = "a.b".to_owned()), None);
        assert_eq!(bad(|device| device.id = None), None);
        assert_eq!(bad(|device| device.keys.clear()), None);
        assert_eq!(bad(|device| device.ports.push("22".to_owned())), None);
        assert_eq!(bad(|device| device.keys.push("x".to_owned())), None);
        let more = bad(|device| device.keys = vec![device.keys[0].clone(); MAX_KEYS + 1]);
        assert_eq!(more, None);
    }

    #[test]
    fn unknown_fields_and_lines_are_refused() {
        for line in [
            r#"{"put":{"version":1,"device":{"name":"a","registration":1},"more":1}}"#,
            r#"{"device":{"name":"a","registration":1,"owner":"x"}}"#,
            r#"{"erase":{}}"#,
            r#"{"welcome":{"session":"00"}}"#,
        ] {
            assert!(serde_json::from_str::<Told>(line).is_err(), "{line}");
        }
    }

    #[test]
    fn an_attachment_arrives_as_it_was() {
        let attachment = Attachment {
            name: DeviceName::parse("mynas").unwrap(),
            since: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            transport: Transport::Tls,
            seen_as: ([192, 0, 2, 7], 4711).into(),
            software: "causeway-agent/1".to_owned(),
        };
        let id = DeviceId::from_bytes([9; 16]);
        assert_eq!(
            Present::of(&id, &attachment).read(),
            Some((id, attachment.clone()))
        );
        let mut present = Present::of(&id, &attachment);
        present.transport = "pigeon".to_owned();
        assert_eq!(present.read(), None);
    }
}
