//! What is said, line by line.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64};

use data_encoding::HEXLOWER;
use directory::{
    Device, DeviceId, DeviceLimits, DeviceName, Identity, PublicKey, PublicPort, Reader,
    RegistrationId,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

use crate::MAX_PORTS;

/// What a relay asks with: what it knows already, if anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Follow {
    /// Up to which change, of which epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<Known>,
}

/// A point in the history of what control knows. A new process of control begins a new epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    pub epoch: Token16,
    pub version: u64,
}

/// What control tells a relay that follows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Told {
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
pub struct FollowedDevice {
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
pub struct Facts {
    pub device: Device,
    pub limits: DeviceLimits,
    pub ports: BTreeSet<PublicPort>,
}

impl Facts {
    /// What is known of a device.
    pub fn of(device: Device, directory: &Reader) -> Self {
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
    pub fn of(facts: &Facts) -> Self {
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
    pub fn read(&self) -> Option<Facts> {
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
pub struct Checksum(Sha256);

impl Checksum {
    /// Takes a device's line, without its end.
    pub fn take(&mut self, line: &[u8]) {
        self.0.update(line);
        self.0.update(b"\n");
    }

    /// SHA-256 over all of them, in hexadecimal.
    pub fn finish(self) -> String {
        HEXLOWER.encode(&self.0.finalize())
    }
}

/// What a relay reports: who has come and who has gone since the last report of this session. The first report of a session
/// begins with nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// As in [`Told::Welcome`].
    pub session: Token16,
    /// 0 for the first of the session, then one more each time: one that got lost is noticed.
    pub number: u64,
    pub came: Vec<Present>,
    pub gone: Vec<Token16>,
}

/// A device that has a tunnel at the relay that reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Present {
    /// Whose id it is.
    pub device: Token16,
    /// What it is called.
    pub name: String,
    /// In seconds since 1970.
    pub since: u64,
    /// `quic` or `tls`.
    pub transport: String,
    /// Where its agent comes from.
    pub seen_as: SocketAddr,
    /// The agent's program, as it says itself.
    pub software: String,
}

/// Sixteen octets, in hexadecimal: a device's id, or a random number that tells one thing from all others of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token16(pub [u8; 16]);

impl Token16 {
    pub fn random() -> Self {
        Self(rand::random())
    }

    pub fn parse(text: &str) -> Option<Self> {
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
}
