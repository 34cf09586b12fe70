//! Signatures that a KSK has made elsewhere, each set for a period.

use std::sync::Arc;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::key::Key;
use super::ring::InForce;
use super::timing::DNSKEY_TTL;
use crate::dnssec::rrsig::{SIGNATURE_LEN, Terms, Validity, labels};
use crate::protocol::Type;

/// More than four keys are in no set: of each role two.
const MOST_IN_SET: usize = 4;

/// What the zone says of its keys between two moments, and when signatures of that are good. All are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Period {
    /// Its first second.
    pub from: u32,
    /// The first second behind it.
    pub until: u32,
    /// When its signatures begin to be good.
    pub inception: u32,
    /// And when they end.
    pub expiration: u32,
    /// The DNSKEY set, as a zone file has the data.
    pub dnskey: Vec<String>,
    /// The CDNSKEY set likewise. The CDS set is of the same keys.
    pub cdnskey: Vec<String>,
}

/// The same, signed. Signatures are in base64; a set that is empty has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedPeriod {
    /// What.
    pub period: Period,
    /// Of the DNSKEY set.
    pub dnskey: String,
    /// Of the CDNSKEY set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cdnskey: Option<String>,
    /// Of the CDS set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cds: Option<String>,
}

/// A period signed by a KSK whose private half is elsewhere. Each signature has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Premade {
    key: Arc<Key>,
    signed: SignedPeriod,
    /// The data of the RRSIG records.
    records: Vec<(Type, Vec<u8>)>,
}

/// Why a period cannot be signed, or its signatures are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeriodError {
    /// Its maker's.
    #[error("a period ends before it begins, or its signatures are not good in all of it")]
    Moments,
    /// Its maker's.
    #[error("a period has too many keys, or what is none")]
    Keys,
    /// Its maker's.
    #[error("a period has no key {0}")]
    WithoutKey(u16),
    /// Whoever has changed it since.
    #[error("key {0} has not signed this")]
    NotSigned(u16),
    /// The library's.
    #[error("the cryptographic library does not sign")]
    Failed,
}

/// A type, and the data of its records.
type SetOf = (Type, Vec<Vec<u8>>);

impl Period {
    /// What the zone says at `from`.
    pub(super) fn of(in_force: &InForce, (from, until): (u32, u32), validity: Validity) -> Self {
        let texts = |keys: &[Arc<Key>]| keys.iter().map(|key| key.dnskey_text()).collect();
        Self {
            from,
            until,
            inception: validity.inception,
            expiration: validity.expiration,
            dnskey: texts(&in_force.dnskeys),
            cdnskey: texts(&in_force.cds),
        }
    }

    /// Whether it has what the zone says then.
    pub(super) fn is_of(&self, in_force: &InForce) -> bool {
        let are = |texts: &[String], keys: &[Arc<Key>]| {
            texts.iter().eq(keys
                .iter()
                .map(|key| key.dnskey_text())
                .collect::<Vec<_>>()
                .iter())
        };
        are(&self.dnskey, &in_force.dnskeys) && are(&self.cdnskey, &in_force.cds)
    }

    pub(super) fn names(&self, key: &Key) -> bool {
        self.dnskey.contains(&key.dnskey_text())
    }

    /// Signs it.
    pub(super) fn sign(self, ksk: &Key, apex: &[u8]) -> Result<SignedPeriod, PeriodError> {
        let sign = |(rtype, data): &SetOf| {
            let octets = self
                .terms(*rtype, ksk, apex)
                .signed_octets(apex, apex, data);
            let signature = ksk.sign(&octets).map_err(|_| PeriodError::Failed)?;
            Ok::<_, PeriodError>((*rtype, BASE64.encode(&signature)))
        };
        let sets = self.sets(ksk, apex)?;
        let signed = sets.iter().map(sign).collect::<Result<Vec<_>, _>>()?;
        let of = |sought| {
            let mut signed = signed.iter();
            let found = signed.find(|(rtype, _)| *rtype == sought);
            found.map(|(_, signature)| signature.clone())
        };
        Ok(SignedPeriod {
            dnskey: of(Type::DNSKEY).ok_or(PeriodError::Failed)?,
            cdnskey: of(Type::CDNSKEY),
            cds: of(Type::CDS),
            period: self,
        })
    }

    /// Its sets that are not empty.
    fn sets(&self, ksk: &Key, apex: &[u8]) -> Result<Vec<SetOf>, PeriodError> {
        // Caches keep them for a TTL beyond its end.
        let until = self.until.saturating_add(DNSKEY_TTL);
        let is_good = self.inception <= self.from && until <= self.expiration;
        if self.from >= self.until || !is_good {
            return Err(PeriodError::Moments);
        }
        let keys = |texts: &[String]| {
            if texts.len() > MOST_IN_SET {
                return Err(PeriodError::Keys);
            }
            let keys = texts.iter().map(|text| Key::from_dnskey_text(text));
            keys.collect::<Result<Vec<_>, _>>()
                .map_err(|_| PeriodError::Keys)
        };
        let (dnskey, cdnskey) = (keys(&self.dnskey)?, keys(&self.cdnskey)?);
        if !dnskey.contains(ksk) {
            return Err(PeriodError::WithoutKey(ksk.tag()));
        }
        let data = |keys: &[Key]| keys.iter().map(Key::dnskey_data).collect();
        let digests = cdnskey.iter().map(|key| key.ds_data(apex)).collect();
        let sets = [
            (Type::DNSKEY, data(&dnskey)),
            (Type::CDNSKEY, data(&cdnskey)),
            (Type::CDS, digests),
        ];
        Ok(sets
            .into_iter()
            .filter(|(_, data): &SetOf| !data.is_empty())
            .collect())
    }

    fn terms(&self, covered: Type, ksk: &Key, apex: &[u8]) -> Terms {
        Terms {
            covered,
            labels: labels(apex),
            ttl: DNSKEY_TTL,
            validity: Validity {
                inception: self.inception,
                expiration: self.expiration,
            },
            key_tag: ksk.tag(),
        }
    }
}

impl SignedPeriod {
    fn signature(&self, rtype: Type) -> Option<&str> {
        match rtype {
            Type::DNSKEY => Some(&self.dnskey),
            Type::CDNSKEY => self.cdnskey.as_deref(),
            Type::CDS => self.cds.as_deref(),
            _ => None,
        }
    }
}

impl Premade {
    /// Checks every signature.
    pub(super) fn new(
        key: &Arc<Key>,
        signed: SignedPeriod,
        apex: &[u8],
    ) -> Result<Self, PeriodError> {
        let not_signed = PeriodError::NotSigned(key.tag());
        let mut records = Vec::new();
        for (rtype, data) in signed.period.sets(key, apex)? {
            let terms = signed.period.terms(rtype, key, apex);
            let signature = signed.signature(rtype).ok_or(not_signed)?;
            let signature = BASE64
                .decode(signature.as_bytes())
                .map_err(|_| not_signed)?;
            let octets = terms.signed_octets(apex, apex, &data);
            if signature.len() != SIGNATURE_LEN || !key.has_signed(&octets, &signature) {
                return Err(not_signed);
            }
            records.push((rtype, [&terms.octets(), apex, &signature].concat()));
        }
        Ok(Self {
            key: Arc::clone(key),
            signed,
            records,
        })
    }

    /// Whose signatures they are.
    pub fn key(&self) -> &Arc<Key> {
        &self.key
    }

    /// The data of the RRSIG record of the set of this type: DNSKEY, CDNSKEY or CDS.
    pub fn rrsig_data(&self, rtype: Type) -> Option<&[u8]> {
        let record = self.records.iter().find(|(covered, _)| *covered == rtype);
        record.map(|(_, data)| &data[..])
    }

    /// When they are to be used, and how long they are good.
    pub fn period(&self) -> &Period {
        &self.signed.period
    }

    pub(super) fn signed(&self) -> &SignedPeriod {
        &self.signed
    }
}
