//! Signs the sets of the zone when they are asked for, and keeps the signatures.
//!
//! A signature is good for eight days and made anew after two, at a time that differs from name to name, so that they do not
//! all come at once. Where its share of signatures is used up, one that is still good for days is sent instead.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use prometheus::Registry;
use siphasher::sip::SipHasher13;
use std::hash::Hasher as _;

use super::apex::KeySets;
use super::budget::{Budget, Share};
use super::config::{Config, DenialKind};
use super::keys::{InForce, Key, SignError};
use super::rrsig::{Signature, Terms, Validity, labels};
use super::signatures::{HASH, Made, Signatures};
use crate::Moment;
use crate::cookie::{Secret, SecretError};
use crate::metrics::Metrics;
use crate::protocol::Type;
use crate::rrset::{Octets, Soa};
use crate::table::{Table, WILDCARD};

const HOUR: u32 = 3600;
const DAY: u32 = 24 * HOUR;
/// How long a signature is sent.
const PERIOD: u32 = 2 * DAY;
/// How long it is good, counted from the beginning of its period.
const LIFE: u32 = 8 * DAY;
/// How much earlier it begins: clocks differ, ours and theirs.
const BEFORE: u32 = 3 * HOUR;
/// A signature that is good for less than this is not sent.
const LEAST_LEFT: u32 = DAY;
/// How long signatures of the key before are sent where there is no share for new ones: far less than others still have that key.
const SENT_ON: u32 = HOUR;
/// Names that strangers have made up and that are kept for when they come again.
const PASSING: usize = 65_536;
/// As long, a signed SOA may be behind the zone: what changes a thousand times a second is signed ten times a second.
const SOA_BEHIND_NS: u64 = 100_000_000;

/// Who owns a set of records.
#[derive(Clone, Copy, Debug)]
pub(super) enum Owner<'n> {
    /// The name, whole and in lower case.
    Name(&'n [u8]),
    /// The wildcard right below it.
    WildcardBelow(&'n [u8]),
}

/// A set of records as a message has them, each with the pointer to its owner.
#[derive(Clone, Copy, Debug)]
pub(super) struct Set<'r> {
    pub(super) owner: Owner<'r>,
    pub(super) rtype: Type,
    pub(super) records: Octets<'r>,
}

/// A signature with all that its record says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rrsig {
    pub(super) terms: Terms,
    pub(super) signature: Signature,
}

/// Why there is no signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotSigned {
    /// Too many have been made in this second.
    OverBudget,
    /// Ours: the key does not sign.
    Failed,
}

/// Signs for one zone.
pub struct Signer {
    pub(super) apex: Box<[u8]>,
    pub(super) denial: DenialKind,
    /// Keyed: who chooses names shall not know which fall together.
    hasher: SipHasher13,
    keys: ArcSwap<Signing>,
    lasting: Signatures,
    passing: Signatures,
    budget: Budget,
    soa: ArcSwapOption<SignedSoa>,
    metrics: Arc<Metrics>,
}

/// The keys as they are now.
struct Signing {
    in_force: InForce,
    /// The ZSK before, and until when its signatures are sent.
    before: Option<(u16, u32)>,
    /// When their own signatures are good.
    validity: Validity,
    sets: KeySets,
}

#[derive(Clone, Copy)]
struct SignedSoa {
    serial: u32,
    made_ns: u64,
    rrsig: Rrsig,
}

impl Signer {
    /// Signs the zone of `table` by these keys, and says so there.
    ///
    /// # Errors
    /// If a key does not sign, or the system has no random numbers.
    pub(crate) fn new(
        table: &Table,
        config: &Config,
        in_force: &InForce,
        now: u32,
        metrics: Arc<Metrics>,
    ) -> Result<Self, SignerError> {
        let signing = Signing::new(table.apex(), in_force, now)?;
        table.publish(signing.sets.records());
        Ok(Self {
            keys: ArcSwap::from_pointee(signing),
            apex: table.apex().into(),
            denial: config.denial,
            hasher: SipHasher13::new_with_key(Secret::random()?.reveal()),
            lasting: Signatures::with_most(config.signatures.count()),
            passing: Signatures::with_most(PASSING),
            budget: Budget::new(config.signatures_per_second.get()),
            soa: ArcSwapOption::empty(),
            metrics,
        })
    }

    /// The same for a table that no server of this crate answers from, and that has its names. What it counts is told by `registry`.
    ///
    /// # Errors
    /// The same, or a counter is there already.
    pub fn for_table(
        table: &Table,
        config: &Config,
        in_force: &InForce,
        now: u32,
        registry: &Registry,
    ) -> Result<Self, SignerError> {
        let metrics = Arc::new(Metrics::register(registry)?);
        table.begin_chain();
        Self::new(table, config, in_force, now, metrics)
    }

    /// From now on signs by these keys, and says so in `table`, unless it does so already.
    ///
    /// # Errors
    /// If one does not sign; all is then as it was.
    pub(crate) fn use_keys(
        &self,
        in_force: &InForce,
        table: &Table,
        now: u32,
    ) -> Result<(), SignError> {
        let before = self.keys.load();
        if before.in_force == *in_force && before.validity == validity(0, now) {
            return Ok(());
        }
        let mut signing = Signing::new(&self.apex, in_force, now)?;
        signing.before = match before.zsk().tag() == signing.zsk().tag() {
            true => before.before,
            false => Some((before.zsk().tag(), now.wrapping_add(SENT_ON))),
        };
        table.publish(signing.sets.records());
        let is_other_zsk = before.zsk().tag() != signing.zsk().tag();
        self.keys.store(Arc::new(signing));
        if is_other_zsk {
            table.mark_all();
        }
        table.changed(now);
        Ok(())
    }

    /// Tells how many signatures are kept.
    pub(crate) fn count(&self) {
        let kept = self.lasting.len().saturating_add(self.passing.len());
        self.metrics.signatures_kept(kept);
    }

    /// The signatures of the set of keys, or of what tells the parent of them.
    pub(crate) fn of_keys(&self, rtype: Type) -> Option<Arc<crate::rrset::Rrset>> {
        self.keys.load().sets.signatures(rtype)
    }

    /// The signature of a set, made now or before.
    ///
    /// # Errors
    /// If there is none, and none can be made.
    pub(super) fn sign(
        &self,
        set: &Set<'_>,
        share: Share,
        moment: Moment,
    ) -> Result<Rrsig, NotSigned> {
        let of = self.hash_of(set) & HASH;
        let content = self.hash_content(set) & HASH;
        let period = period(of, moment.unix_seconds);
        let keys = self.keys.load();
        let signatures = match share {
            Share::Lasting | Share::Link | Share::Copy => &self.lasting,
            Share::PassingUdp | Share::PassingTcp => &self.passing,
        };
        let kept = signatures.get(of).filter(|made| made.content == content);
        if let Some(made) = kept
            && made.period == period
            && made.key_tag == keys.zsk().tag()
        {
            return Ok(set.rrsig(of, &made));
        }
        if !self.budget.take(share, moment.nanoseconds) {
            self.metrics.signature_refused(share);
            let usable = kept.filter(|made| keys.can_send(of, made, moment.unix_seconds));
            return usable
                .map(|made| set.rrsig(of, &made))
                .ok_or(NotSigned::OverBudget);
        }
        let terms = set.terms(validity_of(of, period), keys.zsk().tag());
        let octets = terms.signed_octets(
            &self.apex,
            &set.owner.octets(),
            &set.records.data(&self.apex),
        );
        let signature = self.signature(keys.zsk(), &octets, share)?;
        let made = Made {
            content,
            period,
            key_tag: terms.key_tag,
            signature,
        };
        signatures.put(of, made);
        Ok(Rrsig { terms, signature })
    }

    /// The zone's SOA, signed: as it is, or as it was a tenth of a second ago.
    ///
    /// # Errors
    /// If the key does not sign.
    pub(super) fn soa<'t>(
        &self,
        soa: Soa<'t>,
        moment: Moment,
    ) -> Result<(Soa<'t>, Rrsig), NotSigned> {
        let keys = self.keys.load();
        let validity = validity(0, moment.unix_seconds);
        let kept = self.soa.load();
        if let Some(kept) = kept.as_deref()
            && kept.rrsig.terms.validity == validity
            && kept.rrsig.terms.key_tag == keys.zsk().tag()
            && (kept.serial == soa.serial
                || moment.nanoseconds.saturating_sub(kept.made_ns) < SOA_BEHIND_NS)
        {
            let serial = kept.serial;
            return Ok((Soa { serial, ..soa }, kept.rrsig));
        }
        let rrsig = self.sign_soa(&soa, keys.zsk(), validity)?;
        self.soa.store(Some(Arc::new(SignedSoa {
            serial: soa.serial,
            made_ns: moment.nanoseconds,
            rrsig,
        })));
        Ok((soa, rrsig))
    }

    fn sign_soa(&self, soa: &Soa<'_>, zsk: &Key, validity: Validity) -> Result<Rrsig, NotSigned> {
        let terms = Terms {
            covered: Type::SOA,
            labels: labels(&self.apex),
            ttl: soa.ttl(),
            validity,
            key_tag: zsk.tag(),
        };
        let octets = terms.signed_octets(&self.apex, &self.apex, &[soa.data(&self.apex)]);
        let signature = self.signature(zsk, &octets, Share::Lasting)?;
        Ok(Rrsig { terms, signature })
    }

    /// The data of the signature of an SOA, for a copy of the zone.
    ///
    /// # Errors
    /// If the key does not sign.
    pub(crate) fn soa_signature(
        &self,
        soa: &Soa<'_>,
        moment: Moment,
    ) -> Result<Vec<u8>, NotSigned> {
        let keys = self.keys.load();
        let validity = validity(0, moment.unix_seconds);
        let rrsig = self.sign_soa(soa, keys.zsk(), validity)?;
        Ok(rrsig.data(&self.apex))
    }

    /// The data of the signatures of a set, for a copy of the zone; `below` is what stands in front of the zone's name.
    ///
    /// # Errors
    /// If the key does not sign.
    pub(crate) fn signatures_of(
        &self,
        below: &[u8],
        rtype: Type,
        records: Octets<'_>,
        moment: Moment,
    ) -> Result<Vec<Vec<u8>>, NotSigned> {
        if below.is_empty()
            && let Some(signatures) = self.of_keys(rtype)
        {
            return Ok(Octets::of(&signatures).data(&self.apex));
        }
        let (is_wildcard, name) = match below.strip_prefix(WILDCARD) {
            Some(rest) => (true, [rest, &self.apex].concat()),
            None => (false, [below, &self.apex].concat()),
        };
        let owner = match is_wildcard {
            true => Owner::WildcardBelow(&name),
            false => Owner::Name(&name),
        };
        let set = Set {
            owner,
            rtype,
            records,
        };
        let rrsig = self.sign(&set, Share::Copy, moment)?;
        Ok(vec![rrsig.data(&self.apex)])
    }

    fn signature(&self, zsk: &Key, octets: &[u8], share: Share) -> Result<Signature, NotSigned> {
        match zsk.sign(octets) {
            Ok(signature) => {
                self.metrics.signature_made(share);
                Ok(signature)
            }
            Err(_) => {
                self.metrics.signature_failed();
                Err(NotSigned::Failed)
            }
        }
    }

    fn hash_of(&self, set: &Set<'_>) -> u64 {
        let mut hasher = self.hasher;
        let (kind, name) = match set.owner {
            Owner::Name(name) => (0, name),
            Owner::WildcardBelow(name) => (1, name),
        };
        hasher.write(name);
        hasher.write_u32((u32::from(set.rtype.0) << 1) | kind);
        hasher.finish()
    }

    fn hash_content(&self, set: &Set<'_>) -> u64 {
        let mut hasher = self.hasher;
        set.records.pieces().for_each(|piece| hasher.write(piece));
        hasher.finish()
    }
}

impl Rrsig {
    /// The data of its record.
    fn data(&self, apex: &[u8]) -> Vec<u8> {
        [&self.terms.octets(), apex, &self.signature].concat()
    }
}

impl Signing {
    fn new(apex: &[u8], in_force: &InForce, now: u32) -> Result<Self, SignError> {
        let validity = validity(0, now);
        Ok(Self {
            in_force: in_force.clone(),
            before: None,
            validity,
            sets: KeySets::sign(apex, in_force, validity)?,
        })
    }

    fn zsk(&self) -> &Key {
        &self.in_force.zsk
    }

    /// Whether a signature of an earlier period, or of a key before, is still good.
    fn can_send(&self, of: u64, made: &Made, now: u32) -> bool {
        let left = validity_of(of, made.period).expiration.wrapping_sub(now);
        let is_key_good = made.key_tag == self.zsk().tag()
            || self.before.is_some_and(|(tag, until)| {
                tag == made.key_tag && until.wrapping_sub(now) <= SENT_ON
            });
        is_key_good && (LEAST_LEFT..=BEFORE + LIFE).contains(&left)
    }
}

impl Owner<'_> {
    fn octets(self) -> Vec<u8> {
        match self {
            Self::Name(name) => name.to_vec(),
            Self::WildcardBelow(name) => [b"\x01*", name].concat(),
        }
    }

    fn labels(self) -> u8 {
        match self {
            Self::Name(name) | Self::WildcardBelow(name) => labels(name),
        }
    }
}

impl Set<'_> {
    fn terms(&self, validity: Validity, key_tag: u16) -> Terms {
        Terms {
            covered: self.rtype,
            labels: self.owner.labels(),
            ttl: self.records.ttl(),
            validity,
            key_tag,
        }
    }

    fn rrsig(&self, of: u64, made: &Made) -> Rrsig {
        Rrsig {
            terms: self.terms(validity_of(of, made.period), made.key_tag),
            signature: made.signature,
        }
    }
}

/// When a signature that is sent at `now` is good.
fn validity(of: u64, now: u32) -> Validity {
    validity_of(of, period(of, now))
}

/// The period of a signature that is sent at `now`. `of` decides when those of a name begin.
fn period(of: u64, now: u32) -> u16 {
    let period = (u64::from(now) + of % u64::from(PERIOD)) / u64::from(PERIOD);
    period as u16 // all seconds of 32 bits have 24856 of them
}

/// When the signatures of a period are good.
fn validity_of(of: u64, period: u16) -> Validity {
    #[expect(clippy::cast_possible_truncation, reason = "less than a period")]
    let phase = (of % u64::from(PERIOD)) as u32;
    let begin = u32::from(period).wrapping_mul(PERIOD).wrapping_sub(phase);
    let inception = begin.wrapping_sub(BEFORE);
    Validity {
        inception,
        expiration: inception.wrapping_add(BEFORE + LIFE),
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("denial", &self.denial)
            .finish_non_exhaustive()
    }
}

/// Why a zone cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// Ours, or the system's.
    #[error(transparent)]
    Key(#[from] SignError),
    /// The system's.
    #[error(transparent)]
    Random(#[from] SecretError),
    /// Ours.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}
