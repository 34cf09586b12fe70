//! How a device is packed: which octets stand for it.
//!
//! ```text
//!   octets   4             8, 16 … 64       16             16               16        32
//!            registration  name, NUL …      address key?   challenge key?   identity: id, public key?
//! ```

use crate::device::{Device, DeviceId, Identity, PublicKey, RegistrationId};
use crate::name::DeviceName;
use crate::token::TokenHash;

/// Names take whole units of so many octets, so that there are few shapes.
const NAME_UNIT: usize = 8;

/// What a packed device has, and with that how long its record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    name_octets: usize,
    address_key: bool,
    challenge_key: bool,
    identity: bool,
}

impl Shape {
    /// The shape of `device`, with its registration number. There is none for the few devices that are kept whole: those
    /// with another number of public keys than one, as while they change theirs, and with numbers beyond 32 bits.
    pub(super) fn of(device: &Device) -> Option<(Self, u32)> {
        let registration = device.registration.0.try_into().ok()?;
        let one_key = |identity: &Identity| identity.keys.len() == 1;
        if !device.identity.as_ref().is_none_or(one_key) {
            return None;
        }
        let shape = Self {
            name_octets: device.name.as_str().len().next_multiple_of(NAME_UNIT),
            address_key: device.ddns_key.is_some(),
            challenge_key: device.challenge_key.is_some(),
            identity: device.identity.is_some(),
        };
        Some((shape, registration))
    }

    /// How long a record of this shape is.
    pub(super) fn octets(self) -> usize {
        let optional = |has: bool, octets| if has { octets } else { 0 };
        4 + self.name_octets
            + optional(self.address_key, TokenHash::LEN)
            + optional(self.challenge_key, TokenHash::LEN)
            + optional(self.identity, 16 + 32)
    }

    /// Appends the record of `device`, which has this shape.
    pub(super) fn write(self, registration: u32, device: &Device, records: &mut Vec<u8>) {
        let start = records.len();
        records.extend_from_slice(&registration.to_ne_bytes());
        records.extend_from_slice(device.name.as_str().as_bytes());
        records.resize(start + 4 + self.name_octets, 0);
        for key in [device.ddns_key, device.challenge_key].iter().flatten() {
            records.extend_from_slice(key.as_bytes());
        }
        if let Some(identity) = &device.identity {
            records.extend_from_slice(identity.id.as_bytes());
            for key in &identity.keys {
                records.extend_from_slice(key.as_bytes());
            }
        }
    }

    /// The device of a record of this shape.
    pub(super) fn device(self, record: &[u8]) -> Device {
        let rest = &mut &record[4 + self.name_octets..];
        let mut key = |has: bool| has.then(|| TokenHash::from_bytes(take(rest)));
        let (ddns_key, challenge_key) = (key(self.address_key), key(self.challenge_key));
        let identity = self.identity.then(|| Identity {
            id: DeviceId::from_bytes(take(rest)),
            keys: vec![PublicKey::from_bytes(take(rest))],
        });
        Device {
            registration: self.registration(record),
            name: DeviceName::from_kept(self.name(record)),
            identity,
            ddns_key,
            challenge_key,
        }
    }

    pub(super) fn registration(self, mut record: &[u8]) -> RegistrationId {
        RegistrationId(u32::from_ne_bytes(take(&mut record)).into())
    }

    pub(super) fn name(self, record: &[u8]) -> &[u8] {
        let padded = &record[4..4 + self.name_octets];
        let length = padded.iter().position(|octet| *octet == 0);
        &padded[..length.unwrap_or(padded.len())]
    }
}

/// Takes `N` octets from the front.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (front, back) = rest.split_at(N);
    *rest = back;
    let mut octets = [0; N];
    octets.copy_from_slice(front);
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_comes_out_of_its_record_as_it_went_in() {
        let key = PublicKey::from_bytes([3; 32]);
        for name in ["a", "eight-ch", "nine-char", &"x".repeat(63)] {
            for (addresses, challenges, identity) in [
                (None, None, None),
                (Some("a"), None, None),
                (None, Some("c"), Some(key)),
                (Some("a"), Some("c"), Some(key)),
            ] {
                let device = Device {
                    registration: RegistrationId(u32::MAX.into()),
                    name: DeviceName::parse(name).unwrap(),
                    identity: identity.map(Identity::first),
                    ddns_key: addresses.map(TokenHash::of),
                    challenge_key: challenges.map(TokenHash::of),
                };
                let (shape, registration) = Shape::of(&device).unwrap();
                let mut record = Vec::new();
                shape.write(registration, &device, &mut record);
                assert_eq!(record.len(), shape.octets());
                assert_eq!(shape.name(&record), name.as_bytes());
                assert_eq!(shape.registration(&record), device.registration);
                assert_eq!(shape.device(&record), device);
            }
        }
    }

    #[test]
    fn what_does_not_fit_has_no_shape() {
        let device = |registration, keys| Device {
            registration: RegistrationId(registration),
            name: DeviceName::parse("mynas").unwrap(),
            identity: Some(Identity {
                id: DeviceId::from_bytes([1; 16]),
                keys,
            }),
            ddns_key: None,
            challenge_key: None,
        };
        let key = PublicKey::from_bytes([3; 32]);
        assert!(Shape::of(&device(1, vec![key])).is_some());
        assert!(Shape::of(&device(1, vec![])).is_none());
        assert!(Shape::of(&device(1, vec![key, key])).is_none());
        assert!(Shape::of(&device(1 << 32, vec![key])).is_none());
    }
}
