//! The sets at the zone's own name that tell of its keys, and their signatures, which the KSKs make.

use std::sync::Arc;

use super::keys::{DNSKEY_TTL, InForce, Key, SignError};
use super::rrsig::{Terms, Validity, labels};
use crate::protocol::Type;
use crate::rrset::Rrset;

/// DNSKEY (RFC 4034 section 2), CDS and CDNSKEY (RFC 7344 section 3), with their signatures.
#[derive(Debug)]
pub(super) struct KeySets(Vec<KeySet>);

#[derive(Debug)]
struct KeySet {
    rtype: Type,
    records: Arc<Rrset>,
    signatures: Arc<Rrset>,
}

impl KeySets {
    /// Compiles and signs them.
    ///
    /// # Errors
    /// If a KSK does not sign.
    pub(super) fn sign(
        apex: &[u8],
        in_force: &InForce,
        validity: Validity,
    ) -> Result<Self, SignError> {
        let dnskey: Vec<_> = in_force
            .dnskeys
            .iter()
            .map(|key| key.dnskey_data())
            .collect();
        let cdnskey: Vec<_> = in_force.cds.iter().map(|key| key.dnskey_data()).collect();
        let cds: Vec<_> = in_force.cds.iter().map(|key| key.ds_data(apex)).collect();
        let sets = [
            (Type::DNSKEY, dnskey),
            (Type::CDNSKEY, cdnskey),
            (Type::CDS, cds),
        ];
        let sets = sets.into_iter().filter(|(_, data)| !data.is_empty());
        let signed = sets.map(|(rtype, data)| {
            let sign = |ksk: &Arc<Key>| {
                let terms = Terms {
                    covered: rtype,
                    labels: labels(apex),
                    ttl: DNSKEY_TTL,
                    validity,
                    key_tag: ksk.tag(),
                };
                let signature = ksk.sign(&terms.signed_octets(apex, apex, &data))?;
                Ok([&terms.octets(), apex, &signature].concat())
            };
            let premade = in_force.premade.iter();
            let premade = premade.filter_map(|premade| premade.rrsig_data(rtype));
            let here = in_force.ksks.iter().map(sign);
            let all = here.chain(premade.map(|data| Ok(data.to_vec())));
            let signatures: Result<Vec<_>, SignError> = all.collect();
            let set = |rtype, data: &[Vec<u8>]| {
                Rrset::compile(rtype, DNSKEY_TTL, data)
                    .map(Arc::new)
                    .ok_or(SignError::Failed)
            };
            Ok(KeySet {
                rtype,
                records: set(rtype, &data)?,
                signatures: set(Type::RRSIG, &signatures?)?,
            })
        });
        Ok(Self(signed.collect::<Result<_, _>>()?))
    }

    /// The sets, for the table.
    pub(super) fn records(&self) -> Vec<(Type, Arc<Rrset>)> {
        let sets = self.0.iter();
        sets.map(|set| (set.rtype, Arc::clone(&set.records)))
            .collect()
    }

    /// The signatures of one of them.
    pub(super) fn signatures(&self, rtype: Type) -> Option<Arc<Rrset>> {
        let set = self.0.iter().find(|set| set.rtype == rtype)?;
        Some(Arc::clone(&set.signatures))
    }
}
