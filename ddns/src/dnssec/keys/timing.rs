//! When a key does what. All moments are seconds since 1970, and stand in the key's metadata from the beginning of a roll: what is in
//! force follows from them and the clock alone, and nothing has to happen at the right moment.
//!
//! ```text
//!  ZSK, by pre-publication (RFC 6781 section 4.1.1.1, RFC 7583 section 3.2.1)
//!    old  ══ signs ═════════════════╪── published ───╪
//!    new        ╪── published ──────╪══ signs ═══════════════
//!               roll                │                └ no cache has a signature of the old one: the longest TTL later
//!                                   └ every cache has the new one: the DNSKEY set's TTL later
//!
//!  KSK, by double signature (RFC 6781 section 4.1.2, RFC 7583 section 3.3.2)
//!    old  ══ signs the DNSKEY set ═══════════════════════════════╪
//!    new        ╪══ signs it too ════════════════════════════════════════
//!               roll                ╪ CDS names   ╪ the operator └ no cache has the old DS: its TTL later
//!                                     the new one   says: the parent does
//! ```

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// For how long others may keep the set of keys, in seconds: the TTL of DNSKEY, CDS and CDNSKEY.
pub const DNSKEY_TTL: u32 = 3600;
/// For how long the metadata and the file of a key are kept after it was removed from the zone.
pub(super) const KEPT: u32 = 30 * 86_400;

/// How long one waits for caches, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leads {
    /// How long a cache may keep the set of keys.
    pub dnskey_ttl: u32,
    /// How long a cache may keep any signature: the longest TTL that the configuration allows.
    pub longest_ttl: u32,
    /// What is added to each: a secondary that missed a NOTIFY asks again after 3600 s and twice 600 s (the zone's SOA), and clocks
    /// differ.
    pub margin: u32,
}

impl Default for Leads {
    fn default() -> Self {
        Self {
            dnskey_ttl: DNSKEY_TTL,
            longest_ttl: 86_400,
            margin: 7200,
        }
    }
}

impl Leads {
    /// None at all, for tests: each step of a roll is over at once.
    pub const NONE: Self = Self {
        dnskey_ttl: 0,
        longest_ttl: 0,
        margin: 0,
    };

    /// From when on every cache has the set of keys as it was published at `moment`.
    pub(super) fn visible(self, moment: u32) -> u32 {
        after(moment, &[self.dnskey_ttl, self.margin])
    }

    /// From when on no cache has an answer from before `moment`.
    pub(super) fn forgotten(self, moment: u32) -> u32 {
        after(moment, &[self.longest_ttl, self.margin])
    }

    /// From when on no cache has what the parent said before `moment`, which others may keep for `ttl`.
    pub(super) fn forgotten_of_the_parent(self, moment: u32, ttl: u32) -> u32 {
        after(moment, &[ttl, self.margin])
    }
}

fn after(moment: u32, leads: &[u32]) -> u32 {
    leads.iter().copied().fold(moment, u32::saturating_add)
}

/// The moments of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// It is among the zone's keys from then on.
    pub published: u32,
    /// It signs from then on.
    pub active: u32,
    /// It signs no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<u32>,
    /// It is not among the zone's keys any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<u32>,
    /// Of a KSK: the parent should have its DS from then on, and not before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ds_wanted: Option<u32>,
    /// Of a KSK: when the operator said that the parent has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ds_published: Option<u32>,
}

impl Timing {
    /// Of a key that comes and stays.
    pub(super) fn staying(published: u32, active: u32) -> Self {
        Self {
            published,
            active,
            retired: None,
            removed: None,
            ds_wanted: None,
            ds_published: None,
        }
    }

    pub(super) fn is_published(&self, now: u32) -> bool {
        self.published <= now && !self.is_removed(now)
    }

    pub(super) fn is_signing(&self, now: u32) -> bool {
        self.active <= now && self.retired.is_none_or(|retired| now < retired)
    }

    pub(super) fn is_removed(&self, now: u32) -> bool {
        self.removed.is_some_and(|removed| removed <= now)
    }

    pub(super) fn wants_ds(&self, now: u32) -> bool {
        self.ds_wanted.is_some_and(|wanted| wanted <= now)
    }

    /// Whether nothing of it needs to be known any more.
    pub(super) fn is_history(&self, now: u32) -> bool {
        let removed = self.removed.map(|removed| removed.saturating_add(KEPT));
        removed.is_some_and(|gone| gone <= now)
    }

    /// Whether its moments follow each other.
    pub(super) fn is_in_order(&self) -> bool {
        let retired = self.retired.or(self.removed);
        self.published <= self.active
            && retired.is_none_or(|retired| self.active <= retired)
            && match (self.retired, self.removed) {
                (Some(retired), Some(removed)) => retired <= removed,
                (None, Some(_)) => false, // it would sign without being published
                (_, None) => true,
            }
    }

    /// The moments at which something becomes different.
    pub(super) fn moments(&self) -> impl Iterator<Item = u32> + use<> {
        let Self {
            published,
            active,
            retired,
            removed,
            ds_wanted,
            ds_published: _, // what others know changes nothing here
        } = *self;
        [Some(published), Some(active), retired, removed, ds_wanted]
            .into_iter()
            .flatten()
    }
}

/// A moment as people and programs read it: `2026-11-30T20:15:00Z`.
pub fn date(moment: u32) -> String {
    let moment = UNIX_EPOCH + Duration::from_secs(moment.into());
    humantime::format_rfc3339_seconds(moment).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_that_do_not_follow_each_other_are_found() {
        let timing = |active, retired, removed| Timing {
            published: 10,
            active,
            retired,
            removed,
            ds_wanted: None,
            ds_published: None,
        };
        for (timing, in_order) in [
            (timing(10, None, None), true),
            (timing(20, Some(20), Some(20)), true),
            (timing(20, Some(30), None), true),
            (timing(9, None, None), false),
            (timing(20, Some(19), None), false),
            (timing(20, Some(30), Some(29)), false),
            (timing(20, None, Some(30)), false),
        ] {
            assert_eq!(timing.is_in_order(), in_order, "{timing:?}");
        }
    }

    #[test]
    fn a_moment_near_the_end_of_the_clock_does_not_begin_anew() {
        assert_eq!(Leads::default().visible(u32::MAX - 1), u32::MAX);
        assert_eq!(date(u32::MAX), "2106-02-07T06:28:15Z");
        assert_eq!(date(1_796_000_000), "2026-11-30T00:53:20Z");
    }
}
