//! How it stands with the keys, in words.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::key::{Key, Role};
use super::ring::{Held, Keyring};
use super::timing::{DNSKEY_TTL, KEPT, Timing, date};

/// How it stands with the keys of a zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The zone.
    pub zone: String,
    /// Its keys, KSKs first, each kind in the order in which they came.
    pub keys: Vec<KeyStatus>,
    /// What somebody has to do next, or that there is nothing to do.
    pub next: String,
    /// What will go wrong if nobody does anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// How it stands with one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStatus {
    /// `KSK` or `ZSK`.
    pub role: String,
    /// What signatures call it by.
    pub tag: u16,
    /// Its algorithm's mnemonic.
    pub algorithm: String,
    /// Whether its private half is elsewhere.
    pub offline: bool,
    /// What it does.
    pub state: String,
    /// Since when, as `2026-11-30T20:15:00Z`.
    pub since: String,
    /// Until when, if that is known.
    pub until: Option<String>,
}

/// What the parent is to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    /// The zone.
    pub zone: String,
    /// The keys whose DS the parent should have, and no others.
    pub keys: Vec<DelegatedKey>,
    /// What to do with them, and when.
    pub next: String,
}

/// One key for the parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelegatedKey {
    /// Its tag.
    pub tag: u16,
    /// Its DS record, as a zone file has it; its TTL is the parent's choice.
    pub ds: String,
    /// Its DNSKEY record, for parents that make the DS themselves.
    pub dnskey: String,
}

const MNEMONIC: &str = "ECDSAP256SHA256";

impl Status {
    pub(super) fn of(ring: &Keyring, zone: &str, now: u32) -> Self {
        let planned = ring.planned.as_deref().map(|ring| &ring.held[..]);
        let planned = planned.unwrap_or_default().iter();
        let is_new = |held: &&Held| ring.held.iter().all(|other| other.key != held.key);
        let keys = ring.held.iter().map(|held| KeyStatus::of(held, ring, now));
        let planned = planned.filter(is_new).map(|held| KeyStatus {
            state: "planned".to_owned(),
            since: date(held.timing.published),
            until: None,
            ..KeyStatus::of(held, ring, now)
        });
        let mut keys: Vec<_> = keys.chain(planned).collect();
        keys.sort_by(|one, other| one.role.cmp(&other.role)); // and else as they are
        Self {
            zone: zone.to_owned(),
            keys,
            next: next(ring, now),
            warning: ring.warning(now),
        }
    }
}

impl KeyStatus {
    fn of(held: &Held, ring: &Keyring, now: u32) -> Self {
        let Held { key, timing } = held;
        let (state, since, until) = state(key, timing, *key == ring.ksk, now);
        Self {
            role: key.role().to_string(),
            tag: key.tag(),
            algorithm: MNEMONIC.to_owned(),
            offline: key.is_offline(),
            state: state.to_owned(),
            since: date(since),
            until: until.map(date),
        }
    }
}

impl Delegation {
    pub(super) fn of(ring: &Keyring, zone: &str, apex: &[u8], now: u32) -> Self {
        let mut keys = ring.in_force(now).cds;
        if keys.is_empty() {
            keys.push(Arc::clone(&ring.ksk));
        }
        let delegated = |key: &Arc<Key>| DelegatedKey {
            tag: key.tag(),
            ds: format!("{zone}. IN DS {}", key.ds_text(apex)),
            dnskey: format!("{zone}. {DNSKEY_TTL} IN DNSKEY {}", key.dnskey_text()),
        };
        Self {
            zone: zone.to_owned(),
            keys: keys.iter().map(delegated).collect(),
            next: next(ring, now),
        }
    }
}

/// What a key does, since when and until when.
fn state(
    key: &Key,
    timing: &Timing,
    stays_ksk: bool,
    now: u32,
) -> (&'static str, u32, Option<u32>) {
    let Timing {
        published,
        active,
        retired,
        removed,
        ds_wanted,
        ds_published,
    } = *timing;
    if let Some(removed) = removed.filter(|removed| *removed <= now) {
        let forgotten = removed.saturating_add(KEPT);
        return ("removed", removed, Some(forgotten));
    }
    if now < published {
        return ("not published yet", now, Some(published));
    }
    if now < active {
        return ("published, does not sign yet", published, Some(active));
    }
    if let Some(retired) = retired.filter(|retired| *retired <= now) {
        return ("published, signs no more", retired, removed);
    }
    match key.role() {
        Role::Zsk => ("signs", active, retired),
        Role::Ksk if stays_ksk => match (ds_wanted.filter(|wanted| now < *wanted), ds_published) {
            (_, Some(said)) => ("signs, the parent has its DS", said, None),
            (Some(wanted), None) => ("signs, not for the parent yet", active, Some(wanted)),
            (None, None) => {
                let since = ds_wanted.unwrap_or(active);
                ("signs, waits for the parent's DS", since, None)
            }
        },
        Role::Ksk => ("signs beside its successor", active, retired),
    }
}

/// What somebody has to do next.
fn next(ring: &Keyring, now: u32) -> String {
    if let Some(begins) = ring.plan_begins().filter(|begins| *begins > now)
        && let Some((key, _)) = ring
            .planned
            .as_deref()
            .and_then(|plan| plan.not_signed(now))
    {
        return format!(
            "What is planned for {} waits for signatures of key {key}: import what it has signed (`causeway dnssec import`) before.",
            date(begins)
        );
    }
    let ksks = ring.held.iter().filter(|held| held.key.role() == Role::Ksk);
    let staying = ring.held.iter().find(|held| held.key == ring.ksk);
    if let Some(Held { key, timing }) = staying
        && timing.ds_published.is_none()
    {
        let tag = key.tag();
        let others = ksks.filter(|held| held.key != *key && !held.timing.is_removed(now));
        let instead = match others.map(|held| held.key.tag()).next() {
            Some(old) => format!(" in place of that of key {old}"),
            None => String::new(),
        };
        let when = match timing.ds_wanted.filter(|wanted| now < *wanted) {
            Some(wanted) => format!("Wait until {}, then give", date(wanted)),
            None => "Give".to_owned(),
        };
        // What changes the set of keys, a KSK elsewhere has to sign before.
        let verb = match key.is_offline() {
            true => "request",
            false => "roll ksk",
        };
        return format!(
            "{when} the parent the DS record of key {tag}{instead} (`causeway dnssec ds`), unless it takes it from the CDS records by \
             itself; when it has it, say so: `causeway dnssec {verb} --ds-published`."
        );
    }
    let going = ring.held.iter().filter(|held| !held.timing.is_removed(now));
    let going = going.filter_map(|held| Some((held.timing.removed?, &held.key)));
    match going.min_by_key(|(removed, _)| *removed) {
        Some((removed, key)) => format!(
            "Nothing: the roll of the {} ends by itself when key {} goes at {}.",
            key.role(),
            key.tag(),
            date(removed)
        ),
        None => "Nothing.".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::timing::Leads;
    use super::*;

    const DAY: u32 = 86_400;
    const START: u32 = 1_796_000_000;
    const APEX: &[u8] = b"\x03nas\x07example\0";

    /// `KSK signs, … | ZSK signs | …`, without tags and dates.
    fn states(ring: &Keyring, now: u32) -> Vec<String> {
        let keys = Status::of(ring, "nas.example", now).keys.into_iter();
        keys.map(|key| format!("{} {}", key.role, key.state))
            .collect()
    }

    #[test]
    fn each_step_of_a_ksks_roll_says_what_is_to_be_done() {
        let leads = Leads::default();
        let ring = Keyring::fresh(START, leads).unwrap();
        let old = ring.ksk.tag();
        assert_eq!(
            states(&ring, START),
            ["KSK signs, not for the parent yet", "ZSK signs"]
        );
        let status = Status::of(&ring, "nas.example", START);
        assert!(
            status
                .next
                .starts_with("Wait until 2026-12-01T02:53:20Z, then give"),
            "{status:?}"
        );
        assert_eq!(
            status.keys[0].until.as_deref(),
            Some("2026-12-01T02:53:20Z")
        );
        assert_eq!(
            states(&ring, START + 2 * DAY)[0],
            "KSK signs, waits for the parent's DS"
        );
        let delegation = Delegation::of(&ring, "nas.example", APEX, START + 2 * DAY);
        assert!(
            delegation.next.starts_with("Give the parent"),
            "{delegation:?}"
        );
        let ring = ring.ds_published(START + 2 * DAY, leads, DAY).unwrap();
        assert_eq!(
            states(&ring, START + 2 * DAY)[0],
            "KSK signs, the parent has its DS"
        );
        assert_eq!(
            Status::of(&ring, "nas.example", START + 2 * DAY).next,
            "Nothing."
        );

        let at = START + 10 * DAY;
        let new = ring.another(Role::Ksk).unwrap();
        let tag = new.tag();
        let ring = ring.roll_ksk(at, leads, new).unwrap();
        let expected = [
            "KSK signs beside its successor",
            "KSK signs, not for the parent yet",
            "ZSK signs",
        ];
        assert_eq!(states(&ring, at), expected);
        let of = |now| Delegation::of(&ring, "nas.example", APEX, now).keys;
        assert_eq!(of(at)[0].tag, old);
        assert_eq!(of(at + DAY)[0].tag, tag);
        assert_eq!(of(at + DAY).len(), 1);
        let next = Status::of(&ring, "nas.example", at + DAY).next;
        assert!(
            next.contains(&format!("key {tag} in place of that of key {old} (")),
            "{next}"
        );
        let ring = ring.ds_published(at + DAY, leads, DAY).unwrap();
        let next = Status::of(&ring, "nas.example", at + DAY).next;
        let ends = format!(
            "Nothing: the roll of the KSK ends by itself when key {old} goes at 2026-12-12T"
        );
        assert!(next.starts_with(&ends), "{next}");
        assert_eq!(states(&ring, at + 3 * DAY)[0], "KSK removed");
    }

    #[test]
    fn a_zsk_goes_through_all_its_states() {
        let leads = Leads::default();
        let ring = Keyring::fresh(START, leads).unwrap();
        let ring = ring.ds_published(START, leads, DAY).unwrap();
        let new = ring.another(Role::Zsk).unwrap();
        let ring = ring.roll_zsk(START, leads, new).unwrap();
        for (now, old, new) in [
            (START - 1, "not published yet", "not published yet"),
            (START, "signs", "published, does not sign yet"),
            (START + DAY / 2, "published, signs no more", "signs"),
            (START + 2 * DAY, "removed", "signs"),
        ] {
            let states = &states(&ring, now)[1..];
            assert_eq!(
                states,
                [format!("ZSK {old}"), format!("ZSK {new}")],
                "{now}"
            );
        }
        let next = Status::of(&ring, "nas.example", START).next;
        assert!(
            next.starts_with("Nothing: the roll of the ZSK ends by itself"),
            "{next}"
        );
    }

    #[test]
    fn records_for_the_parent_are_as_in_a_zone_file() {
        let ring = Keyring::fresh(START, Leads::NONE).unwrap();
        let delegation = Delegation::of(&ring, "nas.example", APEX, START);
        let [key] = &delegation.keys[..] else {
            panic!("{delegation:?}");
        };
        let tag = ring.ksk.tag();
        assert!(
            key.ds
                .starts_with(&format!("nas.example. IN DS {tag} 13 2 ")),
            "{key:?}"
        );
        assert!(
            key.dnskey
                .starts_with("nas.example. 3600 IN DNSKEY 257 3 13 "),
            "{key:?}"
        );
    }
}
