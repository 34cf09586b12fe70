//! What a KSK elsewhere is asked to sign, and what it answers: files that a person carries there and back.

use std::collections::BTreeSet;

use directory::Zone;
use serde::{Deserialize, Serialize};

use super::key::Key;
use super::premade::{Period, PeriodError, SignedPeriod};
use super::ring::Keyring;
use super::roll::RollError;
use super::timing::date;
use crate::dnssec::rrsig::Validity;

const HOUR: u32 = 3600;
const DAY: u32 = 24 * HOUR;
/// As long, one signature is used.
const PERIOD: u32 = 10 * DAY;
/// As long, it is good beyond that: time for somebody to notice that the next ones are missing.
const OVERLAP: u32 = 10 * DAY;
/// How much earlier it begins to be good: clocks differ.
const BEFORE: u32 = 3 * HOUR;
/// The longest time that signatures are made for.
pub const MOST_DAYS: u32 = 366;
/// More than a request for the longest time has.
pub(super) const MOST_PERIODS: usize = 128;
/// What is written there first, so that a later program knows what it reads.
pub(super) const VERSION: u32 = 1;

/// What KSKs are asked to sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub(super) version: u32,
    /// The zone.
    pub zone: String,
    /// The keys that are asked, as a zone file has the data of their DNSKEY records.
    pub ksks: Vec<String>,
    /// What the zone will say, one period after the other.
    pub periods: Vec<Period>,
}

/// What a KSK has signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Response {
    pub(super) version: u32,
    /// The zone.
    pub zone: String,
    /// The tag of the key that has signed.
    pub key: u16,
    /// The periods in which the zone has that key.
    pub periods: Vec<SignedPeriod>,
}

/// Why a request is not signed. Whoever has the key decides.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A later program's.
    #[error("this request is of version {0}, which is not known here")]
    Version(u32),
    /// Whoever has changed it.
    #[error("{0} is no zone")]
    Zone(String),
    /// The wrong file.
    #[error("key {0} is not asked to sign this")]
    NotAsked(u16),
    /// The server's, or the clock's.
    #[error("it asks for signatures until {}, and more than {MOST_DAYS} days from now are never signed; is the clock right?", date(*.0))]
    TooLong(u32),
    /// Whoever has changed it.
    #[error("it has more than {MOST_PERIODS} periods")]
    TooMany,
    /// Whoever has changed it.
    #[error(transparent)]
    Period(#[from] PeriodError),
}

impl Request {
    /// What KSKs elsewhere have to sign for so many days.
    pub(super) fn of(ring: &Keyring, zone: &str, days: u32, now: u32) -> Result<Self, RollError> {
        let ring = ring.planned.as_deref().unwrap_or(ring);
        let days = days.clamp(1, MOST_DAYS);
        let end = now.saturating_add(days.saturating_mul(DAY));
        let regular =
            (0..=days / 10).map(|number| now.saturating_add(number.saturating_mul(PERIOD)));
        let begins: BTreeSet<_> = regular.chain(ring.changes()).collect();
        let begins: Vec<_> = begins
            .into_iter()
            .filter(|begin| (now..end).contains(begin))
            .collect();
        let ends = begins.iter().copied().skip(1).chain([end]);
        let period = |(from, until): (u32, u32)| {
            let validity = Validity {
                inception: from.saturating_sub(BEFORE),
                expiration: until.saturating_add(OVERLAP),
            };
            Period::of(&ring.in_force(from), (from, until), validity)
        };
        let periods: Vec<_> = begins.iter().copied().zip(ends).map(period).collect();
        let mut ksks = Vec::new();
        for moment in begins {
            for key in ring.signing_elsewhere(moment).map(|key| key.dnskey_text()) {
                if !ksks.contains(&key) {
                    ksks.push(key);
                }
            }
        }
        match ksks.is_empty() {
            true => Err(RollError::NoneElsewhere),
            false => Ok(Self {
                version: VERSION,
                zone: zone.to_owned(),
                ksks,
                periods,
            }),
        }
    }

    /// Signs it, on the machine that has the private half of `ksk`.
    ///
    /// # Errors
    /// If it had better not be signed.
    pub fn sign(self, ksk: &Key, now: u32) -> Result<Response, RequestError> {
        if self.version != VERSION {
            return Err(RequestError::Version(self.version));
        }
        let Ok(zone) = Zone::parse(&self.zone) else {
            return Err(RequestError::Zone(self.zone));
        };
        if self.periods.len() > MOST_PERIODS {
            return Err(RequestError::TooMany);
        }
        let latest = now.saturating_add(MOST_DAYS * DAY).saturating_add(OVERLAP);
        let ends = self.periods.iter().map(|period| period.expiration);
        if let Some(end) = ends.max().filter(|end| *end > latest) {
            return Err(RequestError::TooLong(end));
        }
        let asked = self.ksks.contains(&ksk.dnskey_text());
        let periods = self.periods.into_iter().filter(|period| period.names(ksk));
        let apex = crate::zone::apex_of(&zone);
        let signed = periods.map(|period| period.sign(ksk, &apex));
        let periods = signed.collect::<Result<Vec<_>, _>>()?;
        match asked && !periods.is_empty() {
            false => Err(RequestError::NotAsked(ksk.tag())),
            true => Ok(Response {
                version: VERSION,
                zone: self.zone,
                key: ksk.tag(),
                periods,
            }),
        }
    }
}
