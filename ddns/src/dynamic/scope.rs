//! What a key may ask for: of all that an UPDATE can say, the addresses of one device or its challenges.

#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod line;

use std::collections::{BTreeMap, BTreeSet};

use directory::Duty;

use self::line::{on_addresses, on_challenges, prescan};
use super::change::{DynamicChange, Operation, Prerequisite, Spot};
use super::message::{Line, UpdateMessage};
use crate::challenges::{ChallengeHost, challenge_host};
use crate::message::labels_below;
use crate::protocol::{CLASS_ANY, CLASS_IN, CLASS_NONE, Rcode, Type};

/// A device and a duty.
#[derive(Clone, Debug)]
pub struct Scope<'s> {
    /// The zone's name, on the wire in lower case.
    pub apex: &'s [u8],
    /// The device's full name, the same.
    pub device: &'s [u8],
    /// What may be changed.
    pub duty: Duty,
}

impl<'s> Scope<'s> {
    /// The scope of the key of this name, which is a [key's](crate::tsig::key) of that duty.
    pub(super) fn of_key(key: &'s [u8], duty: Duty) -> Option<Self> {
        let device = match duty {
            Duty::Addresses => key,
            Duty::Challenges => parent(key)?,
        };
        let apex = parent(device)?;
        Some(Self { apex, device, duty })
    }
}

fn parent(name: &[u8]) -> Option<&[u8]> {
    let (&length, behind) = name.split_first()?;
    behind.get(length.into()..)
}

impl Scope<'_> {
    /// What `message` asks of the device, if that is all it asks.
    ///
    /// # Errors
    /// The code to answer with: FORMERR, NOTAUTH, NOTZONE or REFUSED.
    pub fn change(&self, message: &UpdateMessage<'_>) -> Result<DynamicChange, Rcode> {
        self.check_zone(message)?;
        let prerequisites = self.prerequisites(message)?;
        // All have to be well formed before any is looked at more closely (RFC 2136 section 3.4.1).
        for line in &message.updates {
            prescan(line, &message.zone)?;
        }
        let operations = self.operations(&message.updates)?;
        Ok(DynamicChange {
            prerequisites,
            operations,
        })
    }

    /// The zone is ours, or the device: Dyn's clients took each host for a zone, and it does no harm.
    fn check_zone(&self, message: &UpdateMessage<'_>) -> Result<(), Rcode> {
        let is_ours = *message.zone == *self.apex || *message.zone == *self.device;
        if message.class == CLASS_IN && is_ours {
            Ok(())
        } else {
            Err(Rcode::NotAuth)
        }
    }

    /// RFC 2136 section 3.2.
    fn prerequisites(&self, message: &UpdateMessage<'_>) -> Result<Vec<Prerequisite>, Rcode> {
        let mut prerequisites = Vec::new();
        let mut equal: BTreeMap<_, BTreeSet<Box<[u8]>>> = BTreeMap::new();
        for line in &message.prerequisites {
            if line.ttl != 0 {
                return Err(Rcode::FormErr);
            }
            labels_below(&line.name, &message.zone).ok_or(Rcode::NotZone)?;
            if line.class != CLASS_IN && !line.data.is_empty() {
                return Err(Rcode::FormErr);
            }
            let spot = self.spot(&line.name).ok_or(Rcode::Refused)?;
            match (line.class, line.rtype) {
                (CLASS_ANY, Type::ANY) => prerequisites.push(Prerequisite::InUse(spot)),
                (CLASS_ANY, rtype) => prerequisites.push(Prerequisite::Exists(spot, rtype)),
                (CLASS_NONE, Type::ANY) => prerequisites.push(Prerequisite::NotInUse(spot)),
                (CLASS_NONE, rtype) => prerequisites.push(Prerequisite::Absent(spot, rtype)),
                (CLASS_IN, rtype) => {
                    let set = equal.entry((spot, rtype)).or_default();
                    set.insert(line.data.into());
                }
                _ => return Err(Rcode::FormErr),
            }
        }
        let equal = equal.into_iter();
        prerequisites
            .extend(equal.map(|((spot, rtype), data)| Prerequisite::Equals(spot, rtype, data)));
        Ok(prerequisites)
    }

    fn operations(&self, lines: &[Line<'_>]) -> Result<Vec<Operation>, Rcode> {
        let mut operations = Vec::new();
        let mut set_by_family = BTreeMap::new();
        for line in lines {
            let spot = self.spot(&line.name).ok_or(Rcode::Refused)?;
            let operation = match (self.duty, spot) {
                (Duty::Addresses, Spot::Device) => Some(on_addresses(line)?),
                (Duty::Challenges, Spot::Challenge(host)) => on_challenges(line, host)?,
                _ => return Err(Rcode::Refused),
            };
            // There is room for one of each family; which of two was meant cannot be known.
            if let Some(Operation::SetAddress(address)) = operation
                && *set_by_family.entry(line.rtype).or_insert(address) != address
            {
                return Err(Rcode::Refused);
            }
            operations.extend(operation);
        }
        Ok(operations)
    }

    /// Where a name is at this device; `None` if it has no records of its own there.
    fn spot(&self, name: &[u8]) -> Option<Spot> {
        let below = labels_below(name, self.device)?;
        if below.is_empty() {
            return Some(Spot::Device);
        }
        let host = challenge_host(below)?;
        ChallengeHost::from_wire(host).map(Spot::Challenge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZONE: &[u8] = b"\x03nas\x04test\0";
    const HOME: &[u8] = b"\x04home\x03nas\x04test\0";
    const CHALLENGE: &[u8] = b"\x0f_acme-challenge\x04home\x03nas\x04test\0";
    const BELOW: &[u8] = b"\x01x\x04home\x03nas\x04test\0";
    const OTHER: &[u8] = b"\x05other\x03nas\x04test\0";
    const OUTSIDE: &[u8] = b"\x07example\0";

    fn line<'m>(name: &[u8], rtype: Type, class: u16, data: &'m [u8]) -> Line<'m> {
        Line {
            name: name.into(),
            rtype,
            class,
            ttl: if class == CLASS_IN { 60 } else { 0 },
            data,
        }
    }

    fn message<'m>(prerequisites: Vec<Line<'m>>, updates: Vec<Line<'m>>) -> UpdateMessage<'m> {
        UpdateMessage {
            zone: ZONE.into(),
            class: CLASS_IN,
            prerequisites,
            updates,
            edns: None,
        }
    }

    fn addresses() -> Scope<'static> {
        Scope::of_key(HOME, Duty::Addresses).unwrap()
    }

    fn challenges() -> Scope<'static> {
        Scope::of_key(CHALLENGE, Duty::Challenges).unwrap()
    }

    const V4: &[u8] = &[192, 0, 2, 7];
    const MAPPED: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 192, 0, 2, 7];

    #[test]
    fn the_zone_is_ours_or_the_device() {
        for (zone, class, result) in [
            (ZONE, CLASS_IN, Ok(DynamicChange::default())),
            (HOME, CLASS_IN, Ok(DynamicChange::default())),
            (OTHER, CLASS_IN, Err(Rcode::NotAuth)),
            (OUTSIDE, CLASS_IN, Err(Rcode::NotAuth)),
            (ZONE, 3, Err(Rcode::NotAuth)),
        ] {
            let mut message = message(Vec::new(), Vec::new());
            (message.zone, message.class) = (zone.into(), class);
            assert_eq!(addresses().change(&message), result);
            assert_eq!(challenges().change(&message), result);
        }
    }

    #[test]
    fn a_key_writes_what_it_is_for_and_nothing_else() {
        let to = |name, rtype, class, data| line(name, rtype, class, data);
        let (any, none) = (CLASS_ANY, CLASS_NONE);
        for (line, by_addresses, by_challenges) in [
            (to(HOME, Type::A, CLASS_IN, V4), None, Some(Rcode::Refused)),
            (to(HOME, Type::A, none, V4), None, Some(Rcode::Refused)),
            (to(HOME, Type::AAAA, any, &[]), None, Some(Rcode::Refused)),
            (to(HOME, Type::ANY, any, &[]), None, Some(Rcode::Refused)),
            (
                to(CHALLENGE, Type::TXT, CLASS_IN, b"\x01a"),
                Some(Rcode::Refused),
                None,
            ),
            (
                to(CHALLENGE, Type::TXT, none, b"\x01a"),
                Some(Rcode::Refused),
                None,
            ),
            (
                to(CHALLENGE, Type::TXT, none, b"\x01a\x01b"),
                Some(Rcode::Refused),
                None,
            ),
            (
                to(CHALLENGE, Type::ANY, any, &[]),
                Some(Rcode::Refused),
                None,
            ),
        ] {
            let message = message(Vec::new(), vec![line.clone()]);
            assert_eq!(addresses().change(&message).err(), by_addresses, "{line:?}");
            assert_eq!(
                challenges().change(&message).err(),
                by_challenges,
                "{line:?}"
            );
        }
        for (line, code) in [
            (to(HOME, Type::TXT, CLASS_IN, b"\x01a"), Rcode::Refused),
            (to(HOME, Type::TXT, any, &[]), Rcode::Refused),
            (to(HOME, Type::AAAA, CLASS_IN, MAPPED), Rcode::Refused),
            (to(HOME, Type::A, CLASS_IN, &[0; 4]), Rcode::Refused),
            (to(CHALLENGE, Type::A, CLASS_IN, V4), Rcode::Refused),
            (to(CHALLENGE, Type::TXT, CLASS_IN, b"\0"), Rcode::Refused),
            (
                to(CHALLENGE, Type::TXT, CLASS_IN, b"\x01a\x01b"),
                Rcode::Refused,
            ),
            (to(BELOW, Type::A, CLASS_IN, V4), Rcode::Refused),
            (to(OTHER, Type::A, CLASS_IN, V4), Rcode::Refused),
            (to(ZONE, Type::SOA, CLASS_IN, &[]), Rcode::Refused),
            (to(OUTSIDE, Type::A, CLASS_IN, V4), Rcode::NotZone),
            (to(HOME, Type::ANY, CLASS_IN, &[]), Rcode::FormErr),
            (to(HOME, Type::AXFR, any, &[]), Rcode::FormErr),
            (to(HOME, Type::ANY, none, &[]), Rcode::FormErr),
            (to(HOME, Type::A, any, V4), Rcode::FormErr),
            (to(HOME, Type::A, 3, V4), Rcode::FormErr),
        ] {
            let message = message(Vec::new(), vec![line.clone()]);
            assert_eq!(addresses().change(&message), Err(code), "{line:?}");
            assert_eq!(challenges().change(&message), Err(code), "{line:?}");
        }
        for (line, scope) in [
            (to(HOME, Type::A, CLASS_IN, MAPPED), addresses()),
            (to(HOME, Type::AAAA, CLASS_NONE, V4), addresses()),
            (to(CHALLENGE, Type::TXT, CLASS_IN, b""), challenges()),
            (to(CHALLENGE, Type::TXT, CLASS_IN, b"\x02a"), challenges()),
            (
                to(CHALLENGE, Type::TXT, CLASS_NONE, b"\x01a\x02b"),
                challenges(),
            ),
        ] {
            let message = message(Vec::new(), vec![line.clone()]);
            assert_eq!(scope.change(&message), Err(Rcode::FormErr), "{line:?}");
        }
    }

    #[test]
    fn of_each_family_one_address_can_be_set() {
        let set = |last: &'static [u8]| line(HOME, Type::A, CLASS_IN, last);
        let v6 = line(HOME, Type::AAAA, CLASS_IN, &[0x20; 16]);
        let change = |lines: &[Line<'static>]| addresses().change(&message(vec![], lines.to_vec()));
        assert!(change(&[set(V4), v6, set(V4)]).is_ok());
        let two = [set(V4), set(&[192, 0, 2, 8])];
        assert_eq!(change(&two), Err(Rcode::Refused));
    }

    #[test]
    fn prerequisites_may_look_at_the_device_and_its_challenges() {
        let any = |name, rtype| line(name, rtype, CLASS_ANY, &[]);
        let none = |name, rtype| line(name, rtype, CLASS_NONE, &[]);
        let mut equal = line(HOME, Type::A, CLASS_IN, V4);
        equal.ttl = 0;
        let lines = vec![
            equal.clone(),
            any(HOME, Type::A),
            any(CHALLENGE, Type::ANY),
            none(CHALLENGE, Type::TXT),
            none(HOME, Type::ANY),
        ];
        let challenge = || Spot::Challenge(ChallengeHost::device());
        let expected = [
            Prerequisite::Exists(Spot::Device, Type::A),
            Prerequisite::InUse(challenge()),
            Prerequisite::Absent(challenge(), Type::TXT),
            Prerequisite::NotInUse(Spot::Device),
            Prerequisite::Equals(Spot::Device, Type::A, BTreeSet::from([V4.into()])),
        ];
        for scope in [addresses(), challenges()] {
            let change = scope.change(&message(lines.clone(), Vec::new())).unwrap();
            assert_eq!(change.prerequisites, expected);
        }
        equal.ttl = 1;
        for (line, code) in [
            (equal, Rcode::FormErr),
            (line(HOME, Type::A, CLASS_ANY, V4), Rcode::FormErr),
            (line(HOME, Type::A, CLASS_NONE, V4), Rcode::FormErr),
            (any(OUTSIDE, Type::A), Rcode::NotZone),
            (any(OTHER, Type::A), Rcode::Refused),
            (any(BELOW, Type::ANY), Rcode::Refused),
            (any(ZONE, Type::SOA), Rcode::Refused),
        ] {
            let message = message(vec![line.clone()], Vec::new());
            assert_eq!(addresses().change(&message), Err(code), "{line:?}");
        }
    }
}
