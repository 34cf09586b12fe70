//! What the operator begins: a roll of the ZSK, which ends by itself, and of the KSK, which waits for the parent.

use std::sync::Arc;

use super::key::{Key, KeyError, Role};
use super::ring::{Held, Keyring, RingError};
use super::timing::{Leads, Timing, date};

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
    pub(super) fn with(&self, new: Key, timing: Timing) -> Result<Vec<Held>, RollError> {
        let tag = new.tag();
        if self.held.iter().any(|held| held.key.tag() == tag) {
            return Err(RollError::SameTag(tag));
        }
        let key = Arc::new(new);
        Ok([&self.held[..], &[Held { key, timing }]].concat())
    }
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
}
