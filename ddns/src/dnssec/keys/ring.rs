//! The keys of a zone with their moments, and what follows from them. A change makes another keyring, which counts when it is on the disk.

use std::sync::Arc;

use super::key::{Key, KeyError, Role};
use super::premade::Premade;
use super::timing::{Leads, Timing, date};

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
    held: Vec<Held>,
    zsk: Arc<Key>,
    ksk: Arc<Key>,
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

/// Why a roll does not begin or go on. All are the operator's to wait for, but the last two.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RollError {
    /// One is under way that ends by itself.
    #[error("a roll of the {role} is under way until {}, when key {old} goes; another can begin then", date(*until))]
    Until {
        /// Of which keys.
        role: Role,
        /// The key that goes.
        old: u16,
        /// When.
        until: u32,
    },
    /// One is under way that waits for the parent.
    #[error(
        "a roll of the KSK is under way: key {old} stays until the parent has the DS of key {new} and you say so \
         (`causeway dnssec roll ksk --ds-published`)"
    )]
    UntilSaid {
        /// The key that goes.
        old: u16,
        /// The key that comes.
        new: u16,
    },
    /// Caches have the set of keys without it.
    #[error(
        "the parent should not have the DS of key {key} before {}, when every cache has the key itself; say so then", date(*from)
    )]
    TooEarly {
        /// The key that comes.
        key: u16,
        /// From when on.
        from: u32,
    },
    /// It was said before.
    #[error("the parent has the DS of key {key}: that was said at {}", date(*at))]
    SaidAlready {
        /// Whose.
        key: u16,
        /// When.
        at: u32,
    },
    /// It changes what a key has to sign that is elsewhere.
    #[error(
        "key {0} signs elsewhere, and has to sign this first: plan it with `causeway dnssec request`, which has --roll-zsk, --roll-ksk \
         FILE and --ds-published"
    )]
    Elsewhere(u16),
    /// There is nothing to be asked.
    #[error("no KSK of this zone signs elsewhere: the server signs for itself")]
    NoneElsewhere,
    /// The new key is one of the old, or looks like it.
    #[error("a key with the tag {0} is there already; take another")]
    SameTag(u16),
    /// There are a great many.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The system's.
    #[error(transparent)]
    Key(#[from] KeyError),
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

    /// All keys, in the order in which they came.
    pub(super) fn held(&self) -> &[Held] {
        &self.held
    }

    /// The KSK whose DS the parent is to have at last.
    pub(super) fn ksk(&self) -> &Arc<Key> {
        &self.ksk
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

    /// Begins to roll the ZSK to `new`, which ends by itself.
    pub(super) fn roll_zsk(&self, now: u32, leads: Leads, new: Key) -> Result<Self, RollError> {
        self.is_quiet(Role::Zsk, now)?;
        let active = leads.visible(now);
        let mut next = self.with(new, Timing::staying(now, active))?;
        for held in next.iter_mut().filter(|held| held.key == self.zsk) {
            held.timing.retired = Some(active);
            held.timing.removed = Some(leads.forgotten(active));
        }
        self.with_held(next)
    }

    /// Begins to roll the KSK to `new`.
    pub(super) fn roll_ksk(&self, now: u32, leads: Leads, new: Key) -> Result<Self, RollError> {
        self.is_quiet(Role::Ksk, now)?;
        let mut before = self.held.iter().filter(|held| held.key == self.ksk);
        // Where the parent is not to have any yet, it is not to have this one sooner.
        let first = before.find_map(|held| held.timing.ds_wanted);
        let timing = Timing {
            ds_wanted: Some(leads.visible(now).max(first.unwrap_or(0))),
            ..Timing::staying(now, now)
        };
        self.with_held(self.with(new, timing)?)
    }

    /// The operator says that the parent has the DS of the KSK that stays, and of no other. `ttl` is for how long others may keep
    /// what the parent had before.
    pub(super) fn ds_published(&self, now: u32, leads: Leads, ttl: u32) -> Result<Self, RollError> {
        let key = self.ksk.tag();
        let stays = self.held.iter().find(|held| held.key == self.ksk);
        let timing = stays.map(|held| held.timing);
        if let Some(at) = timing.and_then(|timing| timing.ds_published) {
            return Err(RollError::SaidAlready { key, at });
        }
        let from = timing.and_then(|timing| timing.ds_wanted);
        let is_roll = self.leaving_ksks(now).next().is_some();
        if let Some(from) = from.filter(|from| is_roll && *from > now) {
            return Err(RollError::TooEarly { key, from });
        }
        let gone = leads.forgotten_of_the_parent(now, ttl);
        let mut next = self.held.clone();
        for held in next.iter_mut().filter(|held| held.key.role() == Role::Ksk) {
            if held.key == self.ksk {
                held.timing.ds_published = Some(now);
            } else if held.timing.removed.is_none() {
                held.timing.retired = Some(gone);
                held.timing.removed = Some(gone);
            }
        }
        self.with_held(next)
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

    /// The same with other keys. What was planned was a change of the keys as they were.
    fn with_held(&self, held: Vec<Held>) -> Result<Self, RollError> {
        Ok(Self {
            premade: self.premade.clone(),
            ..Self::new(held)?
        })
    }

    /// Whether this can come into force in place of `before` without a KSK's signing elsewhere.
    pub(super) fn can_follow(&self, before: &Self, now: u32) -> Result<(), RollError> {
        let changes = before.changes().chain(self.changes());
        let moments = changes.filter(|moment| *moment > now).chain([now]);
        for moment in moments {
            let (then, was) = (self.in_force(moment), before.in_force(moment));
            let same = (&then.dnskeys, &then.cds) == (&was.dnskeys, &was.cds);
            if !same && let Some(key) = self.signing_elsewhere(moment).next() {
                return Err(RollError::Elsewhere(key.tag()));
            }
        }
        Ok(())
    }

    /// The KSKs that are still published beside the one that stays.
    fn leaving_ksks(&self, now: u32) -> impl Iterator<Item = &Held> {
        let ksks = self.held.iter().filter(|held| held.key.role() == Role::Ksk);
        ksks.filter(move |held| held.key != self.ksk && !held.timing.is_removed(now))
    }

    /// Whether no roll of such keys is under way.
    fn is_quiet(&self, role: Role, now: u32) -> Result<(), RollError> {
        let leaving = self.held.iter().find(|held| {
            let stays = match role {
                Role::Zsk => &self.zsk,
                Role::Ksk => &self.ksk,
            };
            held.key.role() == role && held.key != *stays && !held.timing.is_removed(now)
        });
        let Some(Held { key, timing }) = leaving else {
            return Ok(());
        };
        let (old, new) = (key.tag(), self.ksk.tag());
        Err(match timing.removed {
            Some(until) => RollError::Until { role, old, until },
            None => RollError::UntilSaid { old, new },
        })
    }

    /// All keys, and `new` behind them.
    fn with(&self, new: Key, timing: Timing) -> Result<Vec<Held>, RollError> {
        let tag = new.tag();
        if self.held.iter().any(|held| held.key.tag() == tag) {
            return Err(RollError::SameTag(tag));
        }
        let key = Arc::new(new);
        Ok([&self.held[..], &[Held { key, timing }]].concat())
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

    fn sorted<const N: usize>(mut tags: [u16; N]) -> Vec<u16> {
        tags.sort_unstable();
        tags.to_vec()
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
    fn a_zsk_is_published_before_it_signs_and_after_it_has_signed() {
        let ring = Keyring::fresh(START, LEADS).unwrap();
        let (ksk, old) = (ring.ksk.tag(), ring.zsk.tag());
        let at = START + 40 * DAY;
        let new = ring.another(Role::Zsk).unwrap();
        let new_tag = new.tag();
        let ring = ring.roll_zsk(at, LEADS, new).unwrap();
        let signs = at + 3600 + 7200;
        let gone = signs + DAY + 7200;
        #[rustfmt::skip]
        let table = [
            // now      signs    published beside the KSK        next change
            (at - 1,    old,     sorted([old]),          Some(at)),
            (at,        old,     sorted([old, new_tag]), Some(signs)),
            (signs - 1, old,     sorted([old, new_tag]), Some(signs)),
            (signs,     new_tag, sorted([old, new_tag]), Some(gone)),
            (gone - 1,  new_tag, sorted([old, new_tag]), Some(gone)),
            (gone,      new_tag, sorted([new_tag]),      None),
            (u32::MAX,  new_tag, sorted([new_tag]),      None),
        ];
        for (now, signs, published, next_change) in table {
            let in_force = ring.in_force(now);
            assert_eq!(in_force.zsk.tag(), signs, "{now}");
            assert_eq!(
                tags(&in_force.dnskeys),
                [&[ksk][..], &published].concat(),
                "{now}"
            );
            assert_eq!(in_force.next_change, next_change, "{now}");
            assert_eq!(tags(&in_force.ksks), [ksk]);
        }
        let refused = |now| {
            let another = ring.another(Role::Zsk).unwrap();
            ring.roll_zsk(now, LEADS, another).map(|_| ())
        };
        let error = refused(gone - 1).unwrap_err();
        assert_eq!(
            error,
            RollError::Until {
                role: Role::Zsk,
                old,
                until: gone
            }
        );
        assert!(error.to_string().contains("until 2027-01-10T"), "{error}");
        assert_eq!(refused(gone), Ok(()));
    }

    #[test]
    fn a_ksk_stays_until_the_parent_has_the_next_and_caches_have_forgotten_the_old() {
        let first = Keyring::fresh(START, LEADS).unwrap();
        let (zsk, old) = (first.zsk.tag(), first.ksk.tag());
        let at = START + 40 * DAY;
        let new = first.another(Role::Ksk).unwrap();
        let new_tag = new.tag();
        let ring = first.roll_ksk(at, LEADS, new).unwrap();
        let wanted = at + 3600 + 7200;
        let said = wanted + 5 * DAY;
        let error = ring.ds_published(wanted - 1, LEADS, DAY).unwrap_err();
        assert_eq!(
            error,
            RollError::TooEarly {
                key: new_tag,
                from: wanted
            }
        );
        let ended = ring.ds_published(said, LEADS, DAY).unwrap();
        let gone = said + DAY + 7200;
        let both = sorted([old, new_tag]);
        #[rustfmt::skip]
        let table = [
            // now         sign and are published   the parent should have
            (&ring,  at - 1,     vec![old],         old),
            (&ring,  at,         both.clone(),      old),
            (&ring,  wanted - 1, both.clone(),      old),
            (&ring,  wanted,     both.clone(),      new_tag),
            (&ring,  u32::MAX,   both.clone(),      new_tag), // nobody has said anything
            (&ended, said,       both.clone(),      new_tag),
            (&ended, gone - 1,   both,              new_tag),
            (&ended, gone,       vec![new_tag],     new_tag),
        ];
        for (ring, now, ksks, cds) in table {
            let in_force = ring.in_force(now);
            let mut sign = tags(&in_force.ksks);
            sign.sort_unstable();
            assert_eq!(sign, ksks, "{now}");
            assert_eq!(
                tags(&in_force.dnskeys),
                [&ksks[..], &[zsk]].concat(),
                "{now}"
            );
            assert_eq!(tags(&in_force.cds), [cds], "{now}");
            assert_eq!(in_force.zsk.tag(), zsk);
        }
        let refused = |ring: &Keyring, now| {
            let another = ring.another(Role::Ksk).unwrap();
            ring.roll_ksk(now, LEADS, another).map(|_| ()).unwrap_err()
        };
        assert_eq!(
            refused(&ring, said),
            RollError::UntilSaid { old, new: new_tag }
        );
        let until = RollError::Until {
            role: Role::Ksk,
            old,
            until: gone,
        };
        assert_eq!(refused(&ended, said), until);
        assert!(
            ended
                .roll_ksk(gone, LEADS, ended.another(Role::Ksk).unwrap())
                .is_ok()
        );
        // The ZSK can be rolled all the while.
        assert!(
            ring.roll_zsk(said, LEADS, ring.another(Role::Zsk).unwrap())
                .is_ok()
        );
    }

    #[test]
    fn a_roll_does_not_bring_the_first_ds_forward() {
        let first = Keyring::fresh(START, LEADS).unwrap();
        let new = first.another(Role::Ksk).unwrap();
        let ring = first.roll_ksk(START, LEADS, new).unwrap();
        let from = START + DAY + 7200;
        assert!(ring.in_force(from - 1).cds.is_empty());
        assert_eq!(ring.in_force(from).cds, [Arc::clone(&ring.ksk)]);
    }

    #[test]
    fn without_leads_each_step_is_over_at_once() {
        let ring = Keyring::fresh(START, Leads::NONE).unwrap();
        assert_eq!(tags(&ring.in_force(START).cds), [ring.ksk.tag()]);
        let (zsk, ksk) = (
            ring.another(Role::Zsk).unwrap(),
            ring.another(Role::Ksk).unwrap(),
        );
        let (zsk_tag, ksk_tag) = (zsk.tag(), ksk.tag());
        let ring = ring.roll_zsk(START, Leads::NONE, zsk).unwrap();
        let ring = ring.roll_ksk(START, Leads::NONE, ksk);
        let ring = ring.unwrap().ds_published(START, Leads::NONE, 0).unwrap();
        let in_force = ring.in_force(START);
        assert_eq!(tags(&in_force.dnskeys), [ksk_tag, zsk_tag]);
        assert_eq!(in_force.zsk.tag(), zsk_tag);
        assert_eq!(in_force.next_change, None);
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
