//! What an UPDATE asks of one device: what has to be so, and what is to become so. The writer applies it to what the device has
//! in that moment, so that nothing comes in between.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::addresses::Addresses;
use crate::challenges::{ChallengeChange, ChallengeHost, ChallengeValue};
use crate::own::{NotApplied, Own};
use crate::protocol::{Rcode, Type};

/// Prerequisites, and operations in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DynamicChange {
    /// All have to be so.
    pub prerequisites: Vec<Prerequisite>,
    /// All are made, one after the other.
    pub operations: Vec<Operation>,
}

/// A name of a device that can have records of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spot {
    /// Its own name: addresses.
    Device,
    /// Challenges.
    Challenge(ChallengeHost),
}

/// What has to be so, in the five forms of RFC 2136 section 2.4. Only what updates have set counts as a record, not where a name
/// leads without any; but the device's own name is in use as long as somebody holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prerequisite {
    /// Section 2.4.1: there are records of this type.
    Exists(Spot, Type),
    /// Section 2.4.2: there are exactly these, by their data.
    Equals(Spot, Type, BTreeSet<Box<[u8]>>),
    /// Section 2.4.3: there are none of this type.
    Absent(Spot, Type),
    /// Section 2.4.4: there are some.
    InUse(Spot),
    /// Section 2.4.5: there are none at all.
    NotInUse(Spot),
}

/// What is to be done with a device's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Section 2.5.1: add an address. There is one of each family, so it takes the place of the one before.
    SetAddress(IpAddr),
    /// Section 2.5.2: delete the address of a family.
    ForgetFamily(Family),
    /// Section 2.5.3: delete all addresses.
    ForgetAddresses,
    /// Section 2.5.4: delete an address, if it is there.
    ForgetAddress(IpAddr),
    /// The same with challenges.
    Challenge(ChallengeChange),
}

/// The type of a device's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// A.
    V4,
    /// AAAA.
    V6,
}

/// A prerequisite is not met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmet {
    /// There are no such records.
    #[error("there are no such records")]
    NoRecords,
    /// There are such records.
    #[error("there are such records")]
    Records,
    /// The name is not in use.
    #[error("the name is not in use")]
    NoName,
    /// The name is in use.
    #[error("the name is in use")]
    Name,
}

impl Unmet {
    /// The code that says so (RFC 2136 section 3.2).
    pub fn rcode(self) -> Rcode {
        match self {
            Self::NoRecords => Rcode::NxRrset,
            Self::Records => Rcode::YxRrset,
            Self::NoName => Rcode::NxDomain,
            Self::Name => Rcode::YxDomain,
        }
    }
}

impl DynamicChange {
    /// Whether a CA is to find something after it.
    pub(crate) fn sets_challenges(&self) -> bool {
        let sets = |operation: &Operation| {
            matches!(operation, Operation::Challenge(ChallengeChange::Add(..)))
        };
        self.operations.iter().any(sets)
    }

    /// What this makes of `before`.
    ///
    /// # Errors
    /// If a prerequisite is not met, or there would be too many challenges. Nothing is changed then.
    pub fn apply(&self, before: &Own) -> Result<Own, NotApplied> {
        for prerequisite in &self.prerequisites {
            prerequisite.check(before)?;
        }
        let mut after = before.clone();
        for operation in &self.operations {
            operation.apply(&mut after)?;
        }
        Ok(after)
    }
}

impl Prerequisite {
    fn check(&self, own: &Own) -> Result<(), Unmet> {
        let (is_met, otherwise) = match self {
            Self::Exists(spot, rtype) => (spot.has_records(own, *rtype), Unmet::NoRecords),
            Self::Equals(spot, rtype, data) => (spot.data(own, *rtype) == *data, Unmet::NoRecords),
            Self::Absent(spot, rtype) => (!spot.has_records(own, *rtype), Unmet::Records),
            Self::InUse(spot) => (spot.is_in_use(own), Unmet::NoName),
            Self::NotInUse(spot) => (!spot.is_in_use(own), Unmet::Name),
        };
        if is_met { Ok(()) } else { Err(otherwise) }
    }
}

impl Spot {
    fn is_in_use(&self, own: &Own) -> bool {
        match self {
            Self::Device => true,
            Self::Challenge(host) => !own.challenges.at(host).is_empty(),
        }
    }

    fn has_records(&self, own: &Own, rtype: Type) -> bool {
        !self.data(own, rtype).is_empty()
    }

    /// The data of all records there of this type.
    fn data(&self, own: &Own, rtype: Type) -> BTreeSet<Box<[u8]>> {
        match (self, rtype) {
            (Self::Device, Type::A) => {
                let v4 = own.addresses.v4.iter();
                v4.map(|v4| v4.octets().into()).collect()
            }
            (Self::Device, Type::AAAA) => {
                let v6 = own.addresses.v6.iter();
                v6.map(|v6| v6.octets().into()).collect()
            }
            (Self::Challenge(host), Type::TXT) => {
                let values = own.challenges.at(host).iter();
                values.map(string).collect()
            }
            _ => BTreeSet::new(),
        }
    }
}

/// The data of a TXT record of one string (RFC 1035 section 3.3.14).
fn string(value: &ChallengeValue) -> Box<[u8]> {
    let octets = value.as_bytes();
    let length = octets.len() as u8; // a value is no longer
    [&[length], octets].concat().into()
}

impl Operation {
    fn apply(&self, own: &mut Own) -> Result<(), NotApplied> {
        let addresses = &mut own.addresses;
        match self {
            Self::SetAddress(IpAddr::V4(v4)) => addresses.v4 = Some(*v4),
            Self::SetAddress(IpAddr::V6(v6)) => addresses.v6 = Some(*v6),
            Self::ForgetFamily(Family::V4) => addresses.v4 = None,
            Self::ForgetFamily(Family::V6) => addresses.v6 = None,
            Self::ForgetAddresses => *addresses = Addresses::default(),
            Self::ForgetAddress(IpAddr::V4(v4)) => {
                addresses.v4 = addresses.v4.filter(|there| there != v4);
            }
            Self::ForgetAddress(IpAddr::V6(v6)) => {
                addresses.v6 = addresses.v6.filter(|there| there != v6);
            }
            Self::Challenge(change) => change.apply(&mut own.challenges)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    /// A device at 192.0.2.7, with one challenge.
    fn own() -> Own {
        let mut own = Own::default();
        Operation::SetAddress(V4).apply(&mut own).unwrap();
        let value = ChallengeValue::new(b"proof").unwrap();
        let (host, other) = (ChallengeHost::device(), ChallengeHost::device());
        let add = Operation::Challenge(ChallengeChange::Add(host, value.clone()));
        add.apply(&mut own).unwrap();
        assert_eq!(own.challenges.at(&other), [value]);
        own
    }

    fn elsewhere() -> Spot {
        Spot::Challenge(ChallengeHost::from_wire(b"\x01x").unwrap())
    }

    fn set(data: &[&[u8]]) -> BTreeSet<Box<[u8]>> {
        data.iter().map(|data| Box::from(*data)).collect()
    }

    #[test]
    fn each_form_of_prerequisite_is_met_or_says_what_is_wrong() {
        use Prerequisite::{Absent, Equals, Exists, InUse, NotInUse};
        use Unmet::{Name, NoName, NoRecords, Records};
        let (device, challenge) = (Spot::Device, Spot::Challenge(ChallengeHost::device()));
        for (prerequisite, result) in [
            (Exists(device.clone(), Type::A), Ok(())),
            (Exists(device.clone(), Type::AAAA), Err(NoRecords)),
            (Exists(challenge.clone(), Type::TXT), Ok(())),
            (Exists(device.clone(), Type::SOA), Err(NoRecords)),
            (Absent(device.clone(), Type::AAAA), Ok(())),
            (Absent(device.clone(), Type::A), Err(Records)),
            (Absent(elsewhere(), Type::TXT), Ok(())),
            (InUse(device.clone()), Ok(())),
            (InUse(challenge.clone()), Ok(())),
            (InUse(elsewhere()), Err(NoName)),
            (NotInUse(elsewhere()), Ok(())),
            (NotInUse(challenge.clone()), Err(Name)),
            (NotInUse(device.clone()), Err(Name)),
            (
                Equals(device.clone(), Type::A, set(&[&[192, 0, 2, 7]])),
                Ok(()),
            ),
            (
                Equals(device.clone(), Type::A, set(&[&[192, 0, 2, 8]])),
                Err(NoRecords),
            ),
            (
                Equals(device, Type::A, set(&[&[192, 0, 2, 7], &[192, 0, 2, 8]])),
                Err(NoRecords),
            ),
            (Equals(challenge, Type::TXT, set(&[b"\x05proof"])), Ok(())),
            (
                Equals(elsewhere(), Type::TXT, set(&[b"\x05proof"])),
                Err(NoRecords),
            ),
        ] {
            assert_eq!(prerequisite.check(&own()), result, "{prerequisite:?}");
        }
    }

    #[test]
    fn operations_are_made_in_their_order_and_touch_nothing_else() {
        let v6: IpAddr = "2001:db8::7".parse().unwrap();
        let apply = |operations: &[Operation]| {
            let change = DynamicChange {
                prerequisites: Vec::new(),
                operations: operations.to_vec(),
            };
            change.apply(&own()).unwrap()
        };
        let both = apply(&[Operation::SetAddress(v6)]);
        assert_eq!(both.addresses.iter().collect::<Vec<_>>(), [V4, v6]);
        assert_eq!(both.challenges, own().challenges);
        for (operations, left) in [
            (&[Operation::ForgetFamily(Family::V4)][..], None),
            (&[Operation::ForgetFamily(Family::V6)], Some(V4)),
            (&[Operation::ForgetAddress(V4)], None),
            (&[Operation::ForgetAddress(v6)], Some(V4)),
            (&[Operation::ForgetAddresses], None),
            (
                &[Operation::ForgetAddresses, Operation::SetAddress(v6)],
                Some(v6),
            ),
            (
                &[Operation::SetAddress(v6), Operation::ForgetAddresses],
                None,
            ),
        ] {
            let after = apply(operations);
            assert_eq!(after.addresses.iter().next(), left, "{operations:?}");
        }
    }
}
