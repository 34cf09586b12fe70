//! The records that prove an answer, as they stand in the message.

#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use super::rrsig::{SIGNATURE_LEN, TERMS_LEN};
use super::signer::Rrsig;
use crate::protocol::{CLASS_IN, MAX_NAME, Type};
use crate::rrset::Octets;

/// The most octets of a proof: RRSIG of the SOA, and three NSEC3 with an RRSIG each, in a zone with the longest name.
pub(crate) const MAX_PROOF: usize = 2048;

/// Records beside those that were asked for: first those of the answer section, then those of the authority section.
#[derive(Clone, Debug)]
pub struct Proof {
    octets: [u8; MAX_PROOF],
    len: usize,
    answer_len: usize,
    answers: u16,
    authorities: u16,
}

/// It has no room for more; then the answer has none either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

impl Proof {
    pub(super) fn new() -> Self {
        Self {
            octets: [0; MAX_PROOF],
            len: 0,
            answer_len: 0,
            answers: 0,
            authorities: 0,
        }
    }

    /// What stands behind the records of the answer.
    pub(crate) fn answer(&self) -> Octets<'_> {
        let octets = self.octets.get(..self.answer_len);
        Octets::of_many(octets.unwrap_or_default(), self.answers)
    }

    /// What stands in the authority section, behind the SOA if that is there.
    pub(crate) fn authority(&self) -> Octets<'_> {
        let octets = self.octets.get(self.answer_len..self.len);
        Octets::of_many(octets.unwrap_or_default(), self.authorities)
    }

    /// All records from now on stand in the authority section.
    pub(super) fn begin_authority(&mut self) {
        self.answer_len = self.len;
        self.answers = std::mem::take(&mut self.authorities);
    }

    /// Records as they are.
    pub(super) fn put_records(&mut self, records: Octets<'_>) -> Result<(), NoRoom> {
        records.pieces().try_for_each(|piece| self.put(piece))?;
        self.authorities = self.authorities.saturating_add(records.count());
        Ok(())
    }

    /// One record. `owner` may be a pointer.
    pub(super) fn put_record(
        &mut self,
        owner: &[u8],
        rtype: Type,
        ttl: u32,
        data: &[&[u8]],
    ) -> Result<(), NoRoom> {
        let length = data.iter().map(|piece| piece.len()).sum::<usize>();
        self.put(owner)?;
        self.put(&rtype.0.to_be_bytes())?;
        self.put(&CLASS_IN.to_be_bytes())?;
        self.put(&ttl.to_be_bytes())?;
        self.put(&u16::try_from(length).map_err(|_| NoRoom)?.to_be_bytes())?;
        data.iter().try_for_each(|piece| self.put(piece))?;
        self.authorities = self.authorities.saturating_add(1);
        Ok(())
    }

    /// The signature of a set that has this owner, by the keys of the zone `apex`.
    pub(super) fn put_rrsig(
        &mut self,
        owner: &[u8],
        rrsig: &Rrsig,
        apex: &[u8],
    ) -> Result<(), NoRoom> {
        let Rrsig { terms, signature } = rrsig;
        let data: [&[u8]; 3] = [&terms.octets(), apex, signature];
        self.put_record(owner, Type::RRSIG, terms.ttl, &data)
    }

    fn put(&mut self, octets: &[u8]) -> Result<(), NoRoom> {
        let end = self.len.checked_add(octets.len()).ok_or(NoRoom)?;
        let place = self.octets.get_mut(self.len..end).ok_or(NoRoom)?;
        place.copy_from_slice(octets);
        self.len = end;
        Ok(())
    }
}

/// Three hashes with an owner each, and what signs them and the SOA, fit there.
const _: () = {
    const HEAD: usize = 10;
    const HASHED_OWNER: usize = 33 + 2;
    const SIGNED: usize = HEAD + TERMS_LEN + MAX_NAME + SIGNATURE_LEN;
    const NSEC3: usize = HASHED_OWNER + HEAD + 6 + 20 + super::types::TypeSet::MAX_LEN;
    assert!(2 + SIGNED + 3 * (NSEC3 + HASHED_OWNER + SIGNED) <= MAX_PROOF);
};
