//! What the few devices have that have names below their own beside its wildcard: challenges, and addresses in a network of their own. As
//! values for who writes, and compiled for who answers.
//!
//! A name that is there keeps the wildcard above it from what stands below that name (RFC 4592 section 3.3.1). So that a device is
//! still reached under names which have a challenge, each of those is there once more with all that the device has, and so is
//! its wildcard:
//!
//! ```text
//!  "_acme-challenge.photos.mynas"  TXT         "photos.mynas", "*.photos.mynas"  as "mynas"
//! ```
//!
//! Below `lan` that is not so: the addresses there are for who is in the device's own network, and to lead everybody else by names below
//! it would undo that. Nor is it below `_why`, where there is such a name. A name between it and a challenge is there without records.

use std::collections::BTreeMap;
use std::sync::Arc;

use dashmap::DashMap;
use directory::RegistrationId;

use super::standing::{Owner, Place, Standing, behind_first_label, ends_with_label};
use crate::challenges::{CHALLENGE_LABEL, ChallengeValue, Challenges};
use crate::lan::{LAN_LABEL, LanAddresses};
use crate::own::Own;
use crate::protocol::Type;
use crate::rrset::Rrset;
use crate::why::WHY_LABEL;

/// Seconds. A CA that has looked too early looks again soon.
const TTL: u32 = 5;

/// By registration, so that nothing of a former holder is found under a name.
#[derive(Debug, Default)]
pub(super) struct Subnames {
    compiled: DashMap<RegistrationId, Compiled>,
    /// Each device has a name that says why its own leads where it does, and no wildcard below that.
    has_why: bool,
}

#[derive(Debug)]
struct Compiled {
    challenges: Challenges,
    lan: LanAddresses,
    /// Who owns the names that there are, by their labels in front of the device's own.
    owner_by_front: Owners,
}

/// Who owns names, by their labels in front of a device's own.
pub(super) type Owners = BTreeMap<Box<[u8]>, Owner>;

impl Subnames {
    pub(super) fn new(has_why: bool) -> Self {
        Self {
            compiled: DashMap::new(),
            has_why,
        }
    }

    /// Replaces all that a registration has here.
    pub(super) fn set(&self, registration: RegistrationId, own: &Own) {
        if !own.has_subnames() {
            self.compiled.remove(&registration);
            return;
        }
        let compiled = Compiled {
            challenges: own.challenges.clone(),
            lan: own.lan,
            owner_by_front: owners(own, self.has_why),
        };
        self.compiled.insert(registration, compiled);
    }

    /// The values of a registration.
    pub(super) fn held(&self, registration: RegistrationId) -> (Challenges, LanAddresses) {
        let compiled = self.compiled.get(&registration);
        compiled.map_or_else(Default::default, |compiled| {
            (compiled.challenges.clone(), compiled.lan)
        })
    }

    /// The names that these values make, but for wildcards.
    pub(super) fn owners(&self, registration: RegistrationId) -> Option<Owners> {
        let compiled = self.compiled.get(&registration)?;
        Some(compiled.owner_by_front.clone())
    }

    /// Where a name of this registration stands; `None` if it has nothing here.
    pub(super) fn standing(&self, registration: RegistrationId, front: &[u8]) -> Option<Standing> {
        let compiled = self.compiled.get(&registration)?;
        let mut rest = front;
        loop {
            let is_whole = rest.len() == front.len();
            match compiled.owner_by_front.get(rest) {
                Some(Owner::Device) => return Some(Standing::below_device(front, rest.len())),
                Some(owner) if is_whole => {
                    return Some(Standing {
                        owner: owner.clone(),
                        place: Place::Here,
                    });
                }
                // No wildcard stands below a challenge, nor below `lan`.
                Some(_) => {
                    return Some(Standing {
                        owner: Owner::Nobody,
                        place: Place::Nowhere {
                            encloser: rest.len(),
                        },
                    });
                }
                None if self.has_why && rest == WHY_LABEL => {
                    return Some(Standing::at_or_below_why(front));
                }
                None if rest.is_empty() => return Some(Standing::below_device(front, 0)),
                None => rest = behind_first_label(rest),
            }
        }
    }
}

/// The names that there are, but for wildcards.
fn owners(
    Own {
        challenges, lan, ..
    }: &Own,
    has_why: bool,
) -> Owners {
    let sets = challenges.iter().filter_map(|(host, values)| {
        let set = compile(values)?;
        let label = [&[CHALLENGE_LABEL.len() as u8], CHALLENGE_LABEL].concat();
        let front: Box<[u8]> = [&label, host.as_wire()].concat().into();
        Some((front, Owner::Challenges(Arc::new(set))))
    });
    let mut owners: Owners = sets.collect();
    if !lan.is_empty() {
        owners.insert(LAN_LABEL.into(), Owner::Lan(*lan));
    }
    let is_below_lan = |labels: &[u8]| !lan.is_empty() && ends_with_label(labels, LAN_LABEL);
    let is_below_why = |labels: &[u8]| has_why && ends_with_label(labels, WHY_LABEL);
    for (host, _) in challenges.iter() {
        let mut rest = host.as_wire();
        while !rest.is_empty() {
            if has_why && rest == WHY_LABEL {
                break; // it is there anyway
            }
            let is_apart = is_below_challenge(rest) || is_below_lan(rest) || is_below_why(rest);
            let owner = match is_apart {
                true => Owner::Empty,
                false => Owner::Device,
            };
            owners.entry(rest.into()).or_insert(owner);
            rest = behind_first_label(rest);
        }
    }
    owners
}

/// What a CA finds.
pub(super) fn compile(values: &[ChallengeValue]) -> Option<Rrset> {
    let strings: Vec<_> = values
        .iter()
        .map(|value| string(value.as_bytes()))
        .collect();
    Rrset::compile(Type::TXT, TTL, &strings)
}

/// Whether one of the labels is that of challenges.
fn is_below_challenge(labels: &[u8]) -> bool {
    let mut rest = labels;
    while let Some((&length, behind)) = rest.split_first() {
        if behind.get(..length.into()) == Some(CHALLENGE_LABEL) {
            return true;
        }
        rest = behind_first_label(rest);
    }
    false
}

/// A character-string (RFC 1035 section 3.3), which a value is never too long for.
fn string(value: &[u8]) -> Vec<u8> {
    [&[value.len() as u8], value].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::challenges::ChallengeHost;
    use crate::lan::LanChange;

    fn front(name: &str) -> Box<[u8]> {
        let labels: Vec<_> = name.split('.').filter(|label| !label.is_empty()).collect();
        crate::zone::octets(&labels)
    }

    #[test]
    fn names_with_challenges_keep_the_device_reachable_below_them() {
        let mut own = Own::default();
        for host in ["", "photos", "a.b", "_acme-challenge.c"] {
            let host = ChallengeHost::parse(host).unwrap();
            own.challenges
                .add(&host, &ChallengeValue::new(b"v").unwrap())
                .unwrap();
        }
        let subnames = Subnames::default();
        subnames.set(RegistrationId(1), &own);
        let is_challenge = |owner: &Owner| matches!(owner, Owner::Challenges(_));
        let is_device = |owner: &Owner| matches!(owner, Owner::Device);
        let is_empty = |owner: &Owner| matches!(owner, Owner::Empty);
        let is_nobody = |owner: &Owner| matches!(owner, Owner::Nobody);
        type Owns = fn(&Owner) -> bool;
        let cases: [(&str, Owns, Place); 15] = [
            ("", is_device, Place::Here),
            ("_acme-challenge", is_challenge, Place::Here),
            ("_acme-challenge.photos", is_challenge, Place::Here),
            ("photos", is_device, Place::Here),
            ("*.photos", is_device, Place::Here),
            ("x.photos", is_device, Place::Wildcard { encloser: 7 }),
            ("b", is_device, Place::Here),
            ("x.b", is_device, Place::Wildcard { encloser: 2 }),
            ("y.a.b", is_device, Place::Wildcard { encloser: 4 }),
            ("other", is_device, Place::Wildcard { encloser: 0 }),
            ("*", is_device, Place::Here),
            ("x.*", is_nobody, Place::Nowhere { encloser: 2 }),
            (
                "x._acme-challenge",
                is_nobody,
                Place::Nowhere { encloser: 16 },
            ),
            ("_acme-challenge.c", is_empty, Place::Here),
            ("c", is_device, Place::Here),
        ];
        for (name, owns, place) in cases {
            let standing = subnames.standing(RegistrationId(1), &front(name)).unwrap();
            assert!(owns(&standing.owner), "{name}: {:?}", standing.owner);
            assert_eq!(standing.place, place, "{name}");
        }
        assert!(subnames.standing(RegistrationId(2), b"").is_none());
    }

    #[test]
    fn nothing_below_lan_leads_to_the_device() {
        let mut own = Own::default();
        for host in ["lan", "photos.lan", "slan"] {
            let host = ChallengeHost::parse(host).unwrap();
            let value = ChallengeValue::new(b"v").unwrap();
            own.challenges.add(&host, &value).unwrap();
        }
        let subnames = Subnames::default();
        let standing = |name: &str| {
            let standing = subnames.standing(RegistrationId(1), &front(name));
            let Standing { owner, place } = standing.unwrap();
            let owner = match owner {
                Owner::Device => "device",
                Owner::Challenges(_) => "challenges",
                Owner::Lan(_) => "lan",
                Owner::Why => "why",
                Owner::Empty => "empty",
                Owner::Nobody => "nobody",
            };
            (owner, place)
        };
        subnames.set(RegistrationId(1), &own);
        assert_eq!(standing("lan"), ("device", Place::Here));
        let below = Place::Wildcard { encloser: 4 };
        assert_eq!(standing("x.lan"), ("device", below));

        let v4 = [192, 168, 1, 2].into();
        own.lan = LanChange::default().set(v4).unwrap().apply(own.lan);
        subnames.set(RegistrationId(1), &own);
        for (name, owner, place) in [
            ("lan", "lan", Place::Here),
            ("x.lan", "nobody", Place::Nowhere { encloser: 4 }),
            ("*.lan", "nobody", Place::Nowhere { encloser: 4 }),
            ("_acme-challenge.lan", "challenges", Place::Here),
            ("photos.lan", "empty", Place::Here),
            ("x.photos.lan", "nobody", Place::Nowhere { encloser: 11 }),
            ("_acme-challenge.photos.lan", "challenges", Place::Here),
            ("lan.x", "device", Place::Wildcard { encloser: 0 }),
            ("x.slan", "device", Place::Wildcard { encloser: 5 }),
            ("", "device", Place::Here),
        ] {
            assert_eq!(standing(name), (owner, place), "{name}");
        }
        let (challenges, lan) = subnames.held(RegistrationId(1));
        assert_eq!((challenges, lan), (own.challenges, own.lan));
    }
}
