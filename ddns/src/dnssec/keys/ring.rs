//! The keys of a zone with their moments, and what follows from them. A change makes another keyring, which counts when it is on the disk.

use std::sync::Arc;

use super::key::{Key, KeyError, Role};
use super::premade::Premade;
use super::roll::RollError;
use super::timing::{Leads, Timing};

/// More keys than 30 days of rolls leave behind. Of each role two are published at most.
pub(super) const MAX_KEYS: usize = 64;

/// A key and its moments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) key: Arc<Key>,
    pub(super) timing: Timing,
}

/// All keys of a zone, past and to come. One ZSK goes on signing, and one KSK goes on being published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyring {
    /// In the order in which they came.
    pub(super) held: Vec<Held>,
    /// The ZSK that goes on signing.
    pub(super) zsk: Arc<Key>,
    /// The KSK whose DS the parent is to have at last.
    pub(super) ksk: Arc<Key>,
    /// What KSKs have signed elsewhere.
    pub(super) premade: Vec<Arc<Premade>>,
    /// What this is to become when KSKs have signed it elsewhere.
    pub(super) planned: Option<Box<Self>>,
}

/// What is in force at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// What signs all but the DNSKEY, CDS and CDNSKEY sets.
    pub zsk: Arc<Key>,
    /// What the DNSKEY set has: KSKs first.
    pub dnskeys: Vec<Arc<Key>>,
    /// What signs the DNSKEY, CDS and CDNSKEY sets here (RFC 7344 section 4.1).
    pub ksks: Vec<Arc<Key>>,
    /// Signatures of these sets by KSKs whose private halves are elsewhere.
    pub premade: Vec<Arc<Premade>>,
    /// Whose DS the parent should have: the CDS and CDNSKEY sets. None while it should not have any yet, and then there are no such sets.
    pub cds: Vec<Arc<Key>>,
    /// When something will be different.
    pub next_change: Option<u32>,
}

/// Why keys do not make a keyring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// It would have no answer to give.
    #[error("there is no {0} that stays")]
    NoneStays(Role),
    /// Which of them is to go on cannot be told.
    #[error("there is more than one ZSK that goes on signing")]
    TwoStay,
    /// It would sign before it is published, or after.
    #[error("the moments of {0} {1} do not follow each other")]
    OutOfOrder(Role, u16),
    /// Signatures would not say whose they are.
    #[error("two keys have the tag {0}")]
    Twice(u16),
    /// Too many to answer with.
    #[error("there are more than {MAX_KEYS} keys")]
    TooMany,
}

impl Keyring {
    pub(super) fn new(held: Vec<Held>) -> Result<Self, RingError> {
        if held.len() > MAX_KEYS {
            return Err(RingError::TooMany);
        }
        for (at, Held { key, timing }) in held.iter().enumerate() {
            if !timing.is_in_order() {
                return Err(RingError::OutOfOrder(key.role(), key.tag()));
            }
            let mut earlier = held.iter().take(at);
            if earlier.any(|other| other.key.tag() == key.tag()) {
                return Err(RingError::Twice(key.tag()));
            }
        }
        let of = |role| held.iter().filter(move |held| held.key.role() == role);
        let mut staying = of(Role::Zsk).filter(|held| held.timing.retired.is_none());
        let zsk = staying.next().ok_or(RingError::NoneStays(Role::Zsk))?;
        if staying.next().is_some() {
            return Err(RingError::TwoStay);
        }
        let ksk = of(Role::Ksk)
            .filter(|held| held.timing.removed.is_none())
            .max_by_key(|held| held.timing.published)
            .ok_or(RingError::NoneStays(Role::Ksk))?;
        Ok(Self {
            zsk: Arc::clone(&zsk.key),
            ksk: Arc::clone(&ksk.key),
            held,
            premade: Vec::new(),
            planned: None,
        })
    }

    /// The first keys of a zone, which has not been signed until now. The parent is not to have the DS before every cache has
    /// forgotten answers without signatures.
    pub(super) fn fresh(now: u32, leads: Leads) -> Result<Self, RollError> {
        let timing = Timing::staying(now, now);
        let ksk = Held {
            key: Key::generate(Role::Ksk)?.into(),
            timing: Timing {
                ds_wanted: Some(leads.forgotten(now)),
                ..timing
            },
        };
        let key = another(Role::Zsk, |tag| tag == ksk.key.tag())?.into();
        let zsk = Held { key, timing };
        Ok(Self::new(vec![ksk, zsk])?)
    }

    /// A new key whose tag no other key has.
    pub(super) fn another(&self, role: Role) -> Result<Key, KeyError> {
        another(role, |tag| {
            self.held.iter().any(|held| held.key.tag() == tag)
        })
    }

    /// What is in force at `now`. Whoever signs is published, whatever the clock says.
    pub fn in_force(&self, now: u32) -> InForce {
        let of = |role| self.held.iter().filter(move |held| held.key.role() == role);
        let signing = of(Role::Zsk).filter(|held| held.timing.is_signing(now));
        let zsk = signing.max_by_key(|held| held.timing.active);
        let zsk = Arc::clone(zsk.map_or(&self.zsk, |held| &held.key));

        let signing = of(Role::Ksk).filter(|held| held.timing.is_signing(now));
        let mut signing: Vec<_> = signing.map(|held| Arc::clone(&held.key)).collect();
        if signing.is_empty() {
            signing.push(Arc::clone(&self.ksk)); // the clock is before its time
        }
        let is_published = |held: &&Held| {
            held.timing.is_published(now) || held.key == zsk || signing.contains(&held.key)
        };
        let published = self.held.iter().filter(is_published);
        let mut dnskeys: Vec<_> = published.map(|held| Arc::clone(&held.key)).collect();
        dnskeys.sort_by_key(|key| (key.role(), key.tag()));

        let wanted = of(Role::Ksk).filter(|held| held.timing.is_published(now));
        let wanted = wanted.filter(|held| held.timing.wants_ds(now));
        let wanted = wanted.max_by_key(|held| held.timing.ds_wanted);
        let (offline, ksks): (Vec<_>, _) = signing.into_iter().partition(|key| key.is_offline());
        let in_force = InForce {
            zsk,
            dnskeys,
            ksks,
            premade: Vec::new(),
            cds: wanted
                .map(|held| Arc::clone(&held.key))
                .into_iter()
                .collect(),
            next_change: self.moments().filter(|moment| *moment > now).min(),
        };
        let premade = offline.iter().filter_map(|key| {
            // Those of an earlier period may still be good where those of this one are missing.
            let begun = self.premade.iter().filter(|premade| premade.key() == key);
            let begun = begun.filter(|premade| premade.period().from <= now);
            let same = begun.filter(|premade| premade.period().is_of(&in_force));
            same.max_by_key(|premade| premade.period().from)
        });
        InForce {
            premade: premade.cloned().collect(),
            ..in_force
        }
    }

    /// The moments at which something becomes different.
    fn moments(&self) -> impl Iterator<Item = u32> {
        let periods = self.premade.iter().map(|premade| premade.period().from);
        self.changes().chain(periods)
    }

    /// The moments at which what the zone says becomes different.
    pub(super) fn changes(&self) -> impl Iterator<Item = u32> {
        self.held.iter().flat_map(|held| held.timing.moments())
    }

    /// The KSKs that sign at `now`, but not here.
    pub(super) fn signing_elsewhere(&self, now: u32) -> impl Iterator<Item = &Arc<Key>> {
        let ksks = self.held.iter().filter(|held| held.key.role() == Role::Ksk);
        let signing = ksks.filter(move |held| held.timing.is_signing(now));
        let keys = signing.map(|held| &held.key);
        keys.filter(|key| key.is_offline())
    }

    /// The same without keys that were removed long ago.
    pub(super) fn without_history(&self, now: u32) -> Self {
        let mut next = self.clone();
        next.held.retain(|held| !held.timing.is_history(now));
        // The last one of a key may be in use beyond its period.
        let is_past = |premade: &Premade| premade.period().expiration < now;
        next.premade.retain(|premade| !is_past(premade));
        if let Some(planned) = &mut next.planned {
            **planned = planned.without_history(now);
        }
        next
    }
}

/// A new key whose tag is not taken: validators that meet the same tag twice may give up (RFC 4034 section 5.3.1 only wants them not to).
fn another(role: Role, is_taken: impl Fn(u16) -> bool) -> Result<Key, KeyError> {
    const TRIES: usize = 64;
    let mut made = (0..TRIES).map(|_| Key::generate(role));
    made.find(|key| key.as_ref().is_ok_and(|key| !is_taken(key.tag())) || key.is_err())
        .unwrap_or(Err(KeyError::NotMade))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u32 = 86_400;
    const START: u32 = 1_796_000_000;
    const LEADS: Leads = Leads {
        dnskey_ttl: 3600,
        longest_ttl: DAY,
        margin: 7200,
    };

    fn tags(keys: &[Arc<Key>]) -> Vec<u16> {
        keys.iter().map(|key| key.tag()).collect()
    }

    #[test]
    fn the_parent_is_to_have_the_first_ds_when_unsigned_answers_are_forgotten() {
        let ring = Keyring::fresh(START, LEADS).unwrap();
        let from = START + DAY + 7200;
        for (now, wanted, next) in [
            (START, false, Some(from)),
            (from - 1, false, Some(from)),
            (from, true, None),
        ] {
            let in_force = ring.in_force(now);
            assert_eq!(tags(&in_force.dnskeys), [ring.ksk.tag(), ring.zsk.tag()]);
            assert_eq!(in_force.zsk, ring.zsk);
            assert_eq!(tags(&in_force.ksks), [ring.ksk.tag()]);
            assert_eq!(in_force.cds.is_empty(), !wanted);
            assert_eq!(in_force.next_change, next);
        }
        let said = ring.ds_published(START, LEADS, DAY).unwrap();
        let again = said.ds_published(START + 1, LEADS, DAY).unwrap_err();
        assert!(
            again
                .to_string()
                .contains("that was said at 2026-11-30T00:53:20Z"),
            "{again}"
        );
        assert_eq!(said.in_force(START).ksks, ring.in_force(START).ksks);
    }

    #[test]
    fn a_clock_before_its_time_leaves_the_zone_with_keys() {
        let in_force = Keyring::fresh(START, LEADS).unwrap().in_force(0);
        assert!(in_force.dnskeys.contains(&in_force.zsk));
        assert!(in_force.dnskeys.contains(in_force.ksks.first().unwrap()));
        assert!(in_force.cds.is_empty());
    }

    #[test]
    fn keys_that_leave_the_zone_without_one_are_no_keyring() {
        let ring = Keyring::fresh(START, LEADS).unwrap();
        let changed = |role: Role, change: fn(&mut Timing)| {
            let mut held = ring.held.clone();
            let of_role = held.iter_mut().filter(|held| held.key.role() == role);
            of_role.for_each(|held| change(&mut held.timing));
            Keyring::new(held).unwrap_err()
        };
        let retired = |timing: &mut Timing| timing.retired = Some(timing.active + 1);
        let gone = |timing: &mut Timing| {
            timing.retired = Some(timing.active + 1);
            timing.removed = timing.retired;
        };
        assert_eq!(changed(Role::Zsk, retired), RingError::NoneStays(Role::Zsk));
        assert_eq!(changed(Role::Ksk, gone), RingError::NoneStays(Role::Ksk));
        let early = changed(Role::Zsk, |timing| timing.active -= 1);
        assert_eq!(early, RingError::OutOfOrder(Role::Zsk, ring.zsk.tag()));
        let twice = [&ring.held[..], &ring.held[..1]].concat();
        assert_eq!(
            Keyring::new(twice).unwrap_err(),
            RingError::Twice(ring.ksk.tag())
        );
        let timing = Timing::staying(START, START);
        let two = ring.with(ring.another(Role::Zsk).unwrap(), timing).unwrap();
        assert_eq!(Keyring::new(two).unwrap_err(), RingError::TwoStay);
    }

    #[test]
    fn a_key_is_history_thirty_days_after_it_was_removed() {
        let ring = Keyring::fresh(START, Leads::NONE).unwrap();
        let new = ring.another(Role::Zsk).unwrap();
        let ring = ring.roll_zsk(START, Leads::NONE, new).unwrap();
        let left = |now| ring.without_history(now).held.len();
        assert_eq!(left(START + 30 * DAY - 1), 3);
        assert_eq!(left(START + 30 * DAY), 2);
    }
}
