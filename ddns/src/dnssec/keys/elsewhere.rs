//! A KSK whose private half never comes to the server.
//!
//! ```text
//!  the server                                        another machine, without a network
//!  request   what the zone will say of its keys,
//!            period by period          ──────────►   sign      the same, signed
//!  import    checked, and in force     ◄──────────
//! ```
//!
//! What changes the set of keys has to be signed before it comes into force, so it is planned in a request, and comes into force when
//! every KSK elsewhere has signed it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::key::Key;
use super::premade::{PeriodError, Premade};
use super::request::{MOST_PERIODS, Response, VERSION};
use super::ring::Keyring;
use super::roll::RollError;
use super::timing::{Leads, date};

/// So long before the last signatures end, one is told.
const WARN: u32 = 14 * 86_400;

/// A change of the keys that has to be signed elsewhere first.
#[derive(Debug)]
pub enum Plan {
    /// A new ZSK, made here.
    RollZsk,
    /// To a KSK of which the public half is known here.
    RollKsk(Key),
    /// The parent has the DS of the newest KSK and no other: the older one goes when nobody keeps what the parent had before, for so
    /// many seconds.
    DsPublished {
        /// Their number.
        ttl: u32,
    },
}

/// Why signatures are not taken. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// A later program's.
    #[error("this response is of version {0}, which is not known here")]
    Version(u32),
    /// The wrong file.
    #[error("it is for the zone {0}")]
    Zone(String),
    /// The wrong key's.
    #[error("there is no KSK {0} here that signs elsewhere")]
    UnknownKey(u16),
    /// Whoever has changed it.
    #[error("it has more than {MOST_PERIODS} periods")]
    TooMany,
    /// Whoever has changed it.
    #[error(transparent)]
    Period(#[from] PeriodError),
    /// It answers an older request, or one of another server.
    #[error("from {} on the zone will have other keys than it has signed: make another request", date(*.0))]
    OtherKeys(u32),
    /// The same.
    #[error("all that it has signed is over: make another request")]
    Over,
    /// It has come too late.
    #[error("what was planned should have begun at {}, and is not signed in time: make another request that plans it", date(*.0))]
    TooLate(u32),
}

impl Keyring {
    /// The same with `plan`, to begin at `at`, in place of what was planned before.
    pub(super) fn with_plan(
        &self,
        plan: Plan,
        at: u32,
        now: u32,
        leads: Leads,
    ) -> Result<Self, RollError> {
        let planned = match plan {
            Plan::RollZsk => self.roll_zsk(at, leads, self.another(super::Role::Zsk)?)?,
            Plan::RollKsk(public) => self.roll_ksk(at, leads, public)?,
            Plan::DsPublished { ttl } => {
                let ttl = ttl.max(at.saturating_sub(now));
                self.ds_published(now, leads, ttl)?
            }
        };
        let signs_elsewhere = |moment| planned.signing_elsewhere(moment).next().is_some();
        let later = |moment: &u32| *moment >= now;
        if !planned
            .changes()
            .chain([now])
            .filter(later)
            .any(signs_elsewhere)
        {
            return Err(RollError::NoneElsewhere);
        }
        let mut next = self.clone();
        next.planned = Some(Box::new(planned));
        Ok(next)
    }

    /// When the first of what is planned should come into force; `None` if nothing is planned, or nothing changes by it.
    pub(super) fn plan_begins(&self) -> Option<u32> {
        let now: BTreeSet<_> = self.changes().collect();
        let planned = self.planned.as_deref()?.changes();
        planned.filter(|moment| !now.contains(moment)).min()
    }

    /// The same without a plan that should have begun.
    pub(super) fn without_late_plan(&self, now: u32) -> Self {
        let mut next = self.clone();
        if self.plan_begins().is_some_and(|begins| begins <= now) {
            next.planned = None;
        }
        next
    }

    /// The same with signatures of a KSK that is elsewhere; what was planned comes into force if it is signed by them all.
    pub(super) fn import(
        &self,
        response: &Response,
        zone: &str,
        apex: &[u8],
        now: u32,
    ) -> Result<Self, ImportError> {
        if response.version != VERSION {
            return Err(ImportError::Version(response.version));
        }
        if response.zone != zone {
            return Err(ImportError::Zone(response.zone.clone()));
        }
        if response.periods.len() > MOST_PERIODS {
            return Err(ImportError::TooMany);
        }
        let direct = self.with_response(response, apex, now);
        let Some(planned) = self.planned.as_deref() else {
            return direct;
        };
        let planned = planned.with_response(response, apex, now)?;
        if let Some(begins) = self.plan_begins().filter(|begins| *begins <= now) {
            return Err(ImportError::TooLate(begins));
        }
        match planned.not_signed(now) {
            None => Ok(planned),
            Some(_) => {
                let mut next = direct.unwrap_or_else(|_| self.clone());
                next.planned = Some(Box::new(planned));
                Ok(next)
            }
        }
    }

    fn with_response(
        &self,
        response: &Response,
        apex: &[u8],
        now: u32,
    ) -> Result<Self, ImportError> {
        let unknown = ImportError::UnknownKey(response.key);
        let mut keys = self.held.iter().map(|held| &held.key);
        let key = keys
            .find(|key| key.tag() == response.key && key.is_offline())
            .ok_or(unknown)?;
        let mut premade = Vec::new();
        for signed in response
            .periods
            .iter()
            .filter(|signed| signed.period.until > now)
        {
            let one = Premade::new(key, signed.clone(), apex)?;
            let (from, until) = (one.period().from, one.period().until);
            let changes = self
                .changes()
                .filter(|moment| (from..until).contains(moment));
            for moment in changes.chain([from]).map(|moment| moment.max(now)) {
                if !one.period().is_of(&self.in_force(moment)) {
                    return Err(ImportError::OtherKeys(moment));
                }
            }
            premade.push(Arc::new(one));
        }
        let first = premade.iter().map(|premade| premade.period().from).min();
        let first = first.ok_or(ImportError::Over)?;
        let mut next = self.clone();
        let is_replaced = |old: &Premade| old.key() == key && old.period().from >= first;
        next.premade.retain(|old| !is_replaced(old));
        next.premade.extend(premade);
        Ok(next)
    }

    /// The first key that has not signed what the zone says from `now` until after its last change, and the moment.
    pub(super) fn not_signed(&self, now: u32) -> Option<(u16, u32)> {
        let moments: BTreeSet<_> = self
            .changes()
            .filter(|moment| *moment > now)
            .chain([now])
            .collect();
        moments.into_iter().find_map(|moment| {
            let in_force = self.in_force(moment);
            let mut keys = self.signing_elsewhere(moment);
            let key = keys.find(|key| {
                let mut premade = in_force.premade.iter();
                !premade.any(|premade| premade.key() == *key && moment < premade.period().until)
            })?;
            Some((key.tag(), moment))
        })
    }

    /// What happens if no more signatures come, in words, where that is soon.
    pub(super) fn warning(&self, now: u32) -> Option<String> {
        let soon = now.saturating_add(WARN);
        self.signing_elsewhere(now).find_map(|key| {
            let of_key = self.premade.iter().filter(|premade| premade.key() == key);
            let last = of_key.map(|premade| premade.period()).max_by_key(|period| period.until);
            let tag = key.tag();
            let how = match last {
                Some(last) if last.until >= soon => return None,
                Some(last) => format!(
                    "Key {tag} has signed until {}, and its last signature is good until {}: no validating resolver takes what the \
                     zone says after that.",
                    date(last.until),
                    date(last.expiration)
                ),
                None => format!("Key {tag} has signed nothing that is good now: no validating resolver takes what the zone says."),
            };
            Some(format!("{how} Have it sign more: `causeway dnssec request`."))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Role;
    use super::super::request::{Request, RequestError};
    use super::super::ring::InForce;
    use super::*;
    use crate::protocol::Type;

    const HOUR: u32 = 3600;
    const DAY: u32 = 24 * HOUR;
    const START: u32 = 1_796_000_000;
    const ZONE: &str = "nas.example";
    const APEX: &[u8] = b"\x03nas\x07example\0";
    const LEADS: Leads = Leads {
        dnskey_ttl: HOUR,
        longest_ttl: DAY,
        margin: 2 * HOUR,
    };

    fn public(key: &Key) -> Key {
        Key::from_public_text(key.role(), &key.dnskey_text()).unwrap()
    }

    fn request(ring: &Keyring, days: u32, now: u32) -> Request {
        Request::of(ring, ZONE, days, now).unwrap()
    }

    fn import(ring: &Keyring, response: &Response, now: u32) -> Result<Keyring, ImportError> {
        // By way of its text, as it comes.
        let text = serde_json::to_string(response).unwrap();
        ring.import(&serde_json::from_str(&text).unwrap(), ZONE, APEX, now)
    }

    /// A zone of `START` whose KSK has been given to `ksk`, elsewhere, by a day later; and the moment at which it has all been done.
    fn elsewhere(ksk: &Key) -> (Keyring, u32) {
        let fresh = Keyring::fresh(START, Leads::NONE).unwrap();
        let begins = START + DAY;
        let plan = Plan::RollKsk(public(ksk));
        let planned = fresh.with_plan(plan, begins, START, LEADS).unwrap();
        assert_eq!(planned.in_force(START), fresh.in_force(START));
        let response = request(&planned, 90, START).sign(ksk, START).unwrap();
        let ring = import(&planned, &response, START + HOUR).unwrap();
        assert!(ring.planned.is_none());
        // The old one goes: planned and signed as well.
        let said = begins + DAY;
        let gone = said + DAY + LEADS.margin;
        let ring = ring
            .with_plan(Plan::DsPublished { ttl: DAY }, said, said, LEADS)
            .unwrap();
        assert_eq!(ring.in_force(gone).ksks.len(), 1);
        let response = request(&ring, 90, said).sign(ksk, said).unwrap();
        let ring = import(&ring, &response, said).unwrap();
        assert!(ring.in_force(gone).ksks.is_empty());
        (ring, gone)
    }

    fn is_signed(in_force: &InForce) -> bool {
        let types = [Type::DNSKEY, Type::CDS, Type::CDNSKEY];
        let has_all = |premade: &Arc<Premade>| {
            types
                .iter()
                .all(|rtype| premade.rrsig_data(*rtype).is_some())
        };
        in_force.ksks.is_empty() && in_force.premade.iter().any(has_all)
    }

    #[test]
    fn a_ksk_goes_elsewhere_and_what_it_has_signed_there_serves_for_months() {
        let ksk = Key::generate(Role::Ksk).unwrap();
        let (ring, gone) = elsewhere(&ksk);
        assert_eq!(ring.ksk.tag(), ksk.tag());
        let end = gone + 80 * DAY;
        let mut now = gone;
        while now < end {
            let in_force = ring.in_force(now);
            assert!(is_signed(&in_force), "{now}");
            assert_eq!(in_force.premade.len(), 1);
            let period = in_force.premade[0].period();
            assert!(period.inception <= now && now + 10 * DAY <= period.expiration);
            assert!(period.is_of(&in_force));
            now = in_force.next_change.unwrap_or(end);
        }
        assert_eq!(ring.warning(gone), None);
        let warning = ring.warning(gone + 80 * DAY).unwrap();
        assert!(
            warning.starts_with(&format!("Key {} has signed until", ksk.tag())),
            "{warning}"
        );
    }

    #[test]
    fn the_record_is_that_of_the_signature() {
        let ksk = Key::generate(Role::Ksk).unwrap();
        let (ring, now) = elsewhere(&ksk);
        let in_force = ring.in_force(now);
        let record = in_force.premade[0].rrsig_data(Type::DNSKEY).unwrap();
        let (terms, rest) = record.split_at(18);
        let signature = rest.strip_prefix(APEX).unwrap();
        assert_eq!(terms[..8], [0, 48, 13, 2, 0, 0, 0x0E, 0x10]);
        let mut data: Vec<_> = in_force
            .dnskeys
            .iter()
            .map(|key| key.dnskey_data())
            .collect();
        data.sort();
        let mut message = [terms, APEX].concat();
        for data in data {
            message.extend([APEX, &[0, 48, 0, 1, 0, 0, 0x0E, 0x10, 0, 68], &data[..]].concat());
        }
        assert!(ksk.has_signed(&message, signature));
    }

    #[test]
    fn a_zsk_is_rolled_when_the_ksk_elsewhere_has_signed_each_set_and_not_before() {
        let ksk = Key::generate(Role::Ksk).unwrap();
        let (ring, now) = elsewhere(&ksk);
        let direct = ring
            .roll_zsk(now, LEADS, ring.another(Role::Zsk).unwrap())
            .unwrap();
        assert_eq!(
            direct.can_follow(&ring, now),
            Err(RollError::Elsewhere(ksk.tag()))
        );
        let begins = now + 3 * DAY;
        let planned = ring.with_plan(Plan::RollZsk, begins, now, LEADS).unwrap();
        let asked = request(&planned, 90, now);
        let response = asked.clone().sign(&ksk, now).unwrap();
        let late = import(&planned, &response, begins).unwrap_err();
        assert_eq!(late, ImportError::TooLate(begins));
        let rolled = import(&planned, &response, begins - 1).unwrap();
        let mut moment = begins - 1;
        let mut sets = Vec::new();
        while let Some(next) = rolled.in_force(moment).next_change {
            let in_force = rolled.in_force(moment);
            assert!(is_signed(&in_force), "{moment}");
            sets.push((
                in_force.dnskeys.len(),
                in_force.zsk == ring.in_force(now).zsk,
            ));
            moment = next;
        }
        sets.dedup();
        assert_eq!(sets, [(2, true), (3, true), (3, false), (2, false)]);
        // A request that is too short does not bring it into force.
        let short = request(&planned, 4, now).sign(&ksk, now).unwrap();
        let waiting = import(&planned, &short, now).unwrap();
        assert!(waiting.planned.is_some());
        assert_eq!(waiting.in_force(now).dnskeys, ring.in_force(now).dnskeys);
        assert_eq!(planned.without_late_plan(begins).planned, None);
        assert_eq!(asked.ksks, [ksk.dnskey_text()]);
    }

    #[test]
    fn what_a_ksk_has_not_signed_or_for_another_set_is_refused() {
        let ksk = Key::generate(Role::Ksk).unwrap();
        let (ring, now) = elsewhere(&ksk);
        let good = request(&ring, 30, now).sign(&ksk, now).unwrap();
        assert!(import(&ring, &good, now).is_ok());
        let refused = |change: fn(&mut Response)| {
            let mut response = good.clone();
            change(&mut response);
            import(&ring, &response, now).unwrap_err()
        };
        let not_signed = ImportError::Period(PeriodError::NotSigned(ksk.tag()));
        let other = Key::generate(Role::Ksk).unwrap();
        assert_eq!(
            refused(|response| response.version = 2),
            ImportError::Version(2)
        );
        assert_eq!(
            refused(|response| response.zone.push('x')),
            ImportError::Zone("nas.examplex".to_owned())
        );
        assert!(matches!(
            refused(|response| response.key ^= 1),
            ImportError::UnknownKey(_)
        ));
        assert_eq!(
            refused(|response| response.periods.clear()),
            ImportError::Over
        );
        let expiration = |response: &mut Response| response.periods[0].period.expiration += 1;
        assert_eq!(refused(expiration), not_signed);
        let ends = |response: &mut Response| response.periods[0].period.until = u32::MAX - DAY;
        assert_eq!(refused(ends), ImportError::Period(PeriodError::Moments));
        let swapped =
            |response: &mut Response| response.periods[1].cds = response.periods[0].cds.clone();
        assert_eq!(refused(swapped), not_signed);
        assert_eq!(
            refused(|response| response.periods[0].cdnskey = None),
            not_signed
        );
        assert_eq!(
            refused(|response| response.periods[0].dnskey.clear()),
            not_signed
        );
        let keys = |response: &mut Response| response.periods[0].period.dnskey.push(String::new());
        assert_eq!(refused(keys), ImportError::Period(PeriodError::Keys));
        let many =
            |response: &mut Response| response.periods = vec![response.periods[0].clone(); 129];
        assert_eq!(refused(many), ImportError::TooMany);
        // Signed by the right key, but with a ZSK that is not the zone's.
        let mut foreign = request(&ring, 30, now);
        for period in &mut foreign.periods {
            *period.dnskey.last_mut().unwrap() = Key::generate(Role::Zsk).unwrap().dnskey_text();
        }
        let foreign = foreign.sign(&ksk, now).unwrap();
        assert_eq!(
            import(&ring, &foreign, now),
            Err(ImportError::OtherKeys(now))
        );
        let asked = request(&ring, 30, now);
        assert_eq!(
            asked.clone().sign(&other, now),
            Err(RequestError::NotAsked(other.tag()))
        );
        let online = Keyring::fresh(START, Leads::NONE).unwrap();
        assert_eq!(
            Request::of(&online, ZONE, 30, now),
            Err(RollError::NoneElsewhere)
        );
        let plan = online.with_plan(Plan::RollZsk, now, now, LEADS);
        assert_eq!(plan, Err(RollError::NoneElsewhere));
    }

    #[test]
    fn a_key_does_not_sign_for_years() {
        let ksk = Key::generate(Role::Ksk).unwrap();
        let (ring, now) = elsewhere(&ksk);
        let longest = request(&ring, u32::MAX, now);
        assert!(longest.periods.len() <= MOST_PERIODS);
        assert!(longest.clone().sign(&ksk, now).is_ok());
        let far = longest.clone().sign(&ksk, now - HOUR).unwrap_err();
        assert!(matches!(far, RequestError::TooLong(_)), "{far:?}");
        for (change, error) in [
            (
                (|request| request.version = 7) as fn(&mut Request),
                RequestError::Version(7),
            ),
            (
                |request| request.zone.clear(),
                RequestError::Zone(String::new()),
            ),
            (
                |request| request.periods[0].inception = u32::MAX,
                RequestError::Period(PeriodError::Moments),
            ),
        ] {
            let mut request = longest.clone();
            change(&mut request);
            assert_eq!(request.sign(&ksk, now).unwrap_err(), error);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_brings_a_key_to_sign_what_is_no_request(text in ".*", from: u32, until: u32, expiration: u32) {
            let ksk = Key::generate(Role::Ksk).unwrap();
            let mut request = Request::of(&Keyring::fresh(START, LEADS).unwrap().with_plan(
                Plan::RollKsk(public(&ksk)), START, START, LEADS,
            ).unwrap(), ZONE, 10, START).unwrap();
            let period = &mut request.periods[0];
            (period.from, period.until, period.expiration) = (from, until, expiration);
            period.dnskey.push(text);
            proptest::prop_assert!(request.sign(&ksk, START).is_err());
        }
    }
}
