//! A device, its id and its keys.

use std::fmt;

use data_encoding::{BASE32_DNSSEC, BASE64URL_NOPAD};
use sha2::{Digest, Sha256};

use crate::name::DeviceName;
use crate::token::TokenHash;

/// A name under the zone and whoever holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Which registration of the name this is; what a former holder left behind never comes back under the name.
    pub registration: RegistrationId,
    /// The DNS label under the zone.
    pub name: DeviceName,
    /// Who the device is; `None` until an agent has paired (the name can already be updated by DDNS).
    pub identity: Option<Identity>,
    /// The key with which the device's addresses may be updated, and nothing else.
    pub ddns_key: Option<TokenHash>,
    /// The key with which the device's ACME challenges may be set, and nothing else.
    pub challenge_key: Option<TokenHash>,
}

impl Device {
    /// The keys with which this device may authenticate now.
    pub fn keys(&self) -> &[PublicKey] {
        self.identity
            .as_ref()
            .map_or(&[], |identity| &identity.keys)
    }

    /// Whether `key` is one of the keys valid now.
    pub fn has_key(&self, key: &PublicKey) -> bool {
        self.keys().contains(key)
    }

    /// The key that may do `duty` for this device; `None` if none was made.
    pub fn key_for(&self, duty: Duty) -> Option<TokenHash> {
        match duty {
            Duty::Addresses => self.ddns_key,
            Duty::Challenges => self.challenge_key,
        }
    }
}

/// What a key that a device's owner carries elsewhere may change. Each key does one: a router that reports addresses
/// cannot get a certificate, and a certificate client that is broken into cannot lead visitors astray.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Duty {
    /// The device's A and AAAA records.
    Addresses,
    /// The TXT records at `_acme-challenge` below the device (RFC 8555 section 8.4).
    Challenges,
}

/// The number control gives to a name when it is registered. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistrationId(pub u64);

/// The proven identity of a device: a lasting id, and the keys that stand for it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Derived from the first key and never changing.
    pub id: DeviceId,
    /// The keys valid now: one, or two during a rotation.
    pub keys: Vec<PublicKey>,
}

impl Identity {
    /// The identity of a device that has just shown its first key.
    pub fn first(key: PublicKey) -> Self {
        Self {
            id: DeviceId::of(&key),
            keys: vec![key],
        }
    }
}

/// A device's lasting id: the first 16 bytes of SHA-256 over its first public key. Shown as 26 lower-case letters and
/// digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId([u8; 16]);

impl DeviceId {
    /// The id of the device whose first key is `key`.
    pub fn of(key: &PublicKey) -> Self {
        let digest = Sha256::digest(key.as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }

    /// An id read back from where it was kept.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes to keep.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_DNSSEC.encode(&self.0))
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceId({self})")
    }
}

/// An Ed25519 public key (RFC 8032), 32 bytes. Shown as base64url.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// A key as it stands on the wire or in a row.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads the form that [`Display`](fmt::Display) writes.
    ///
    /// # Errors
    /// If `text` is not 43 characters of unpadded base64url.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let bytes = BASE64URL_NOPAD
            .decode(text.as_bytes())
            .map_err(|_| KeyError)?;
        Ok(Self(bytes.try_into().map_err(|_| KeyError)?))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64URL_NOPAD.encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// The text is not a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 public key in base64url")]
pub struct KeyError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_comes_from_the_first_key_and_reads_as_text() {
        let key = PublicKey::from_bytes([0; 32]);
        let id = DeviceId::of(&key);
        // SHA-256 of 32 zero bytes begins 66687aadf862bd776c8fc18b8e9f8e20.
        assert_eq!(id.as_bytes()[..4], [0x66, 0x68, 0x7a, 0xad]);
        assert_eq!(id.to_string().len(), 26);
        assert_eq!(DeviceId::from_bytes(*id.as_bytes()), id);
    }

    #[test]
    fn a_key_survives_its_text_form() {
        let key = PublicKey::from_bytes([0xfb; 32]);
        assert_eq!(PublicKey::parse(&key.to_string()), Ok(key));
        for bad in ["", "AAAA", "+++", &"A".repeat(44)] {
            assert_eq!(PublicKey::parse(bad), Err(KeyError), "{bad}");
        }
    }

    #[test]
    fn each_duty_has_a_key_of_its_own() {
        let device = Device {
            registration: RegistrationId(1),
            name: DeviceName::parse("mynas").unwrap(),
            identity: None,
            ddns_key: Some(TokenHash::of("a")),
            challenge_key: None,
        };
        assert_eq!(device.key_for(Duty::Addresses), Some(TokenHash::of("a")));
        assert_eq!(device.key_for(Duty::Challenges), None);
        let device = Device {
            ddns_key: None,
            challenge_key: Some(TokenHash::of("c")),
            ..device
        };
        assert_eq!(device.key_for(Duty::Addresses), None);
        assert_eq!(device.key_for(Duty::Challenges), Some(TokenHash::of("c")));
    }
}
