//! (Query, Answer) → what proves it: signatures, and why there is nothing else.
//!
//! What a name has can change between the answer and its proof; then both are made again.

use std::sync::Arc;

use super::budget::Share;
use super::compact::Nsec;
use super::config::DenialKind;
use super::nsec3;
use super::proof::{NoRoom, Proof};
use super::signer::{NotSigned, Owner, Rrsig, Set, Signer};
use super::types::TypeSet;
use crate::Moment;
use crate::answer::{Answer, answer, one_of_any};
use crate::protocol::{Ede, HEADER_LEN, POINTER_TO_QUESTION, Rcode, Refusal, Type};
use crate::query::Query;
use crate::rrset::{Octets, RECORD_HEAD, Records, Rrset, Soa, record_head};
use crate::server::Transport;
use crate::table::{Found, Link, Place, Table};

/// How often an answer is made again because the zone has changed meanwhile.
const TRIES: usize = 4;

/// An answer, and what proves it.
pub(crate) struct Proved<'t> {
    pub(crate) answer: Answer<'t>,
    /// Nothing where nothing is to be proved.
    pub(crate) proof: Option<Proof>,
    /// The client is told that its knowledge of compact denial has been seen (RFC 9824 section 5.1).
    pub(crate) is_compact: bool,
}

/// Why an answer is not proved.
enum Unproved {
    NotSigned(NotSigned),
    /// The zone has changed since the answer was made.
    Moved,
    NoRoom,
}

impl From<NotSigned> for Unproved {
    fn from(why: NotSigned) -> Self {
        Self::NotSigned(why)
    }
}

impl From<NoRoom> for Unproved {
    fn from(NoRoom: NoRoom) -> Self {
        Self::NoRoom
    }
}

impl Signer {
    /// Whether a question of this type is for a proof itself.
    pub(crate) fn is_asked_for(&self, qtype: Type) -> bool {
        let is_compact = self.denial == DenialKind::Compact;
        qtype == Type::RRSIG || (qtype == Type::NSEC && is_compact)
    }

    /// Proves an answer, or says in its place that it cannot be proved: over UDP that it is to be had over TCP, where there is another
    /// share of signatures, and there that the server fails now.
    pub(crate) fn prove<'t>(
        &self,
        query: &Query<'_>,
        mut given: Answer<'t>,
        table: &'t Table,
        transport: Transport,
        moment: Moment,
    ) -> Proved<'t> {
        let (passing, link) = match transport {
            Transport::Udp => (Share::PassingUdp, Share::Link),
            Transport::Tcp | Transport::Dot => (Share::PassingTcp, Share::Lasting),
        };
        let proving = Proving {
            signer: self,
            query,
            table,
            passing,
            link,
            moment,
        };
        for _ in 0..TRIES {
            match proving.prove(given) {
                Err(Unproved::Moved) => given = answer(query, table),
                Err(Unproved::NoRoom | Unproved::NotSigned(NotSigned::Failed)) => break,
                Err(Unproved::NotSigned(NotSigned::OverBudget)) => {
                    if transport == Transport::Udp {
                        return Proved::alone(Answer::Elsewhere);
                    }
                    break;
                }
                Ok(proved) => {
                    let knows = query.head.edns.is_some_and(|edns| edns.compact_ok);
                    return Proved {
                        is_compact: knows && self.denial == DenialKind::Compact,
                        ..proved
                    };
                }
            }
        }
        let failure = Refusal::because(Rcode::ServFail, Ede::Other);
        Proved::alone(Answer::Refusal(failure))
    }
}

impl<'t> Proved<'t> {
    /// An answer without a proof.
    pub(crate) fn alone(answer: Answer<'t>) -> Self {
        Self {
            answer,
            proof: None,
            is_compact: false,
        }
    }

    fn by(answer: Answer<'t>, proof: Proof) -> Self {
        Self {
            answer,
            proof: Some(proof),
            is_compact: false,
        }
    }
}

/// What a proof is made from.
struct Proving<'s, 't> {
    signer: &'s Signer,
    query: &'s Query<'s>,
    table: &'t Table,
    /// Whose share of signatures what a stranger has made up takes.
    passing: Share,
    /// And what stands between the zone's names.
    link: Share,
    moment: Moment,
}

impl<'t> Proving<'_, 't> {
    fn prove(&self, answer: Answer<'t>) -> Result<Proved<'t>, Unproved> {
        match answer {
            Answer::Refusal(_) | Answer::Elsewhere | Answer::ProofAlone => {
                Ok(Proved::alone(answer))
            }
            _ if self.query.qtype == Type::RRSIG => self.signatures_alone(),
            _ if self.query.qtype == Type::NSEC && self.signer.denial == DenialKind::Compact => {
                self.nsec_alone(&answer)
            }
            Answer::Records(records) => self.records(records),
            Answer::Soa(soa) => {
                let (soa, rrsig) = self.signer.soa(soa, self.moment)?;
                let mut proof = Proof::new();
                self.put_rrsig(&mut proof, &POINTER_TO_QUESTION, &rrsig)?;
                proof.begin_authority();
                Ok(Proved::by(Answer::Soa(soa), proof))
            }
            Answer::NoData(soa) => {
                let types = self.table.types(self.below());
                if types.has(self.query.qtype) {
                    return Err(Unproved::Moved);
                }
                self.nothing(soa, Some(types))
            }
            Answer::NoName(soa) => self.nothing(soa, None),
        }
    }

    fn records(&self, records: Records<'t>) -> Result<Proved<'t>, Unproved> {
        let rtype = records.octets().rtype().unwrap_or(self.query.qtype);
        let mut proof = Proof::new();
        let place = self.put_signatures(&mut proof, rtype, records.octets())?;
        proof.begin_authority();
        self.put_no_closer_name(&mut proof, place)?;
        Ok(Proved::by(Answer::Records(records), proof))
    }

    /// Whoever asks for signatures gets those of one set, as with ANY (RFC 8482 section 4.1).
    fn signatures_alone(&self) -> Result<Proved<'t>, Unproved> {
        let mut proof = Proof::new();
        let mut place = Place::Here;
        match one_of_any(self.below(), self.table) {
            (rtype, Found::Records(records)) => {
                place = self.put_signatures(&mut proof, rtype, records.octets())?;
            }
            (_, Found::Soa) => {
                let (_, rrsig) = self.signer.soa(self.table.soa(), self.moment)?;
                self.put_rrsig(&mut proof, &POINTER_TO_QUESTION, &rrsig)?;
            }
            (_, Found::NoData) => {
                return self.nothing(self.table.soa(), Some(self.table.types(self.below())));
            }
            (_, Found::NoName) => return self.nothing(self.table.soa(), None),
        }
        proof.begin_authority();
        self.put_no_closer_name(&mut proof, place)?;
        Ok(Proved::by(Answer::ProofAlone, proof))
    }

    /// The signatures of a set that the name in the question has. Says where it stands.
    fn put_signatures(
        &self,
        proof: &mut Proof,
        rtype: Type,
        records: Octets<'_>,
    ) -> Result<Place, Unproved> {
        if let Some(signatures) = self.of_keys(rtype) {
            proof.put_records(Octets::of(&signatures))?;
            return Ok(Place::Here);
        }
        let name = self.query.name.as_wire();
        let place = self.table.place(self.below());
        let (owner, share) = match (place, self.signer.denial) {
            (Place::Here, _) => (Owner::Name(name), Share::Lasting),
            (Place::Wildcard { encloser }, DenialKind::Nsec3) => {
                let encloser = name.len().saturating_sub(self.signer.apex.len() + encloser);
                let encloser = name.get(encloser..).unwrap_or_default();
                (Owner::WildcardBelow(encloser), Share::Lasting)
            }
            // The answer is signed as if the name were there: that costs no more than to prove that it is not.
            (Place::Wildcard { .. }, DenialKind::Compact) => (Owner::Name(name), self.passing),
            (Place::Nowhere { .. }, _) => return Err(Unproved::Moved),
        };
        let set = Set {
            owner,
            rtype,
            records,
        };
        let rrsig = self.signer.sign(&set, share, self.moment)?;
        self.put_rrsig(proof, &POINTER_TO_QUESTION, &rrsig)?;
        Ok(place)
    }

    /// That no name is closer to the one that was asked for than the wildcard that has answered.
    fn put_no_closer_name(&self, proof: &mut Proof, place: Place) -> Result<(), Unproved> {
        match (place, self.signer.denial) {
            (Place::Wildcard { .. }, DenialKind::Nsec3) => self.put_links(proof, place, true),
            _ => Ok(()),
        }
    }

    /// The signatures of a set of the zone's name that tells of its keys.
    fn of_keys(&self, rtype: Type) -> Option<Arc<Rrset>> {
        match self.below().is_empty() {
            true => self.signer.of_keys(rtype),
            false => None,
        }
    }

    /// That the name has nothing but these types; `None` is that there is no such name.
    fn nothing(&self, soa: Soa<'t>, types: Option<TypeSet>) -> Result<Proved<'t>, Unproved> {
        let (soa, rrsig) = self.signer.soa(soa, self.moment)?;
        let mut proof = Proof::new();
        proof.begin_authority();
        self.put_rrsig(&mut proof, &self.pointer_to_apex()?, &rrsig)?;
        match self.signer.denial {
            DenialKind::Compact => self.put_nsec(&mut proof, soa.ttl(), types)?,
            DenialKind::Nsec3 => {
                let place = self.table.place(self.below());
                if matches!(place, Place::Nowhere { .. }) != types.is_none() {
                    return Err(Unproved::Moved);
                }
                self.put_links(&mut proof, place, false)?;
            }
        }
        let knows = self.query.head.edns.is_some_and(|edns| edns.compact_ok);
        let answer = match (types, self.signer.denial) {
            // RFC 9824 section 3.1: the proof says that the name has nothing, and so does the code, unless the client knows better.
            (None, DenialKind::Compact) if !knows => Answer::NoData(soa),
            (None, _) => Answer::NoName(soa),
            (Some(_), _) => Answer::NoData(soa),
        };
        Ok(Proved::by(answer, proof))
    }

    /// The records between hashes that prove what stands at a place, or does not.
    fn put_links(
        &self,
        proof: &mut Proof,
        place: Place,
        is_answered: bool,
    ) -> Result<(), Unproved> {
        let links = self.table.links(self.below(), place, is_answered);
        let links = links.ok_or(Unproved::Moved)?;
        let asked = match place {
            Place::Here => links.first(),
            Place::Wildcard { .. } if !is_answered => links.last(),
            Place::Wildcard { .. } | Place::Nowhere { .. } => None,
        };
        if asked.is_some_and(|link| link.types.has(self.query.qtype)) {
            return Err(Unproved::Moved);
        }
        for (at, link) in links.iter().enumerate() {
            let is_there = links.iter().take(at).any(|other| other.hash == link.hash);
            if !is_there {
                self.put_link(proof, link)?;
            }
        }
        Ok(())
    }

    fn put_link(&self, proof: &mut Proof, link: &Link) -> Result<(), Unproved> {
        let label = nsec3::label(&link.hash);
        let ttl = self.table.soa().ttl();
        let record = nsec3::record(&link.next, &link.types, ttl);
        let owner = [&label, &*self.signer.apex].concat();
        let set = Set {
            owner: Owner::Name(&owner),
            rtype: Type::NSEC3,
            records: Octets::of_one(&record),
        };
        let rrsig = self.signer.sign(&set, self.link, self.moment)?;
        let owner = [&label[..], &self.pointer_to_apex()?].concat();
        let data = record.get(RECORD_HEAD..).unwrap_or_default();
        proof.put_record(&owner, Type::NSEC3, ttl, &[data])?;
        self.put_rrsig(proof, &owner, &rrsig)
    }

    /// RFC 9824 section 3.4: whoever asks for the record that proves what is not there gets it.
    fn nsec_alone(&self, answer: &Answer<'t>) -> Result<Proved<'t>, Unproved> {
        let is_there = !matches!(answer, Answer::NoName(_));
        let types = is_there.then(|| self.table.types(self.below()));
        let mut proof = Proof::new();
        self.put_nsec(&mut proof, self.table.soa().ttl(), types)?;
        proof.begin_authority();
        Ok(Proved::by(Answer::ProofAlone, proof))
    }

    fn put_nsec(
        &self,
        proof: &mut Proof,
        ttl: u32,
        types: Option<TypeSet>,
    ) -> Result<(), Unproved> {
        let name = self.query.name.as_wire();
        let data = Nsec::at(name, types).ok_or(Unproved::NoRoom)?.data();
        let length = u16::try_from(data.len()).map_err(|_| Unproved::NoRoom)?;
        let record = [&record_head(Type::NSEC, ttl, length), &data[..]].concat();
        let set = Set {
            owner: Owner::Name(name),
            rtype: Type::NSEC,
            records: Octets::of_one(&record),
        };
        let share = match self.table.place(self.below()) {
            Place::Here => Share::Lasting,
            Place::Wildcard { .. } | Place::Nowhere { .. } => self.passing,
        };
        let rrsig = self.signer.sign(&set, share, self.moment)?;
        proof.put_records(Octets::of_one(&record))?;
        self.put_rrsig(proof, &POINTER_TO_QUESTION, &rrsig)
    }

    fn put_rrsig(&self, proof: &mut Proof, owner: &[u8], rrsig: &Rrsig) -> Result<(), Unproved> {
        Ok(proof.put_rrsig(owner, rrsig, &self.signer.apex)?)
    }

    /// The part of the name that stands before the zone's name, which is the end of it.
    fn below(&self) -> &[u8] {
        let name = self.query.name.as_wire();
        name.strip_suffix(&*self.signer.apex).unwrap_or_default()
    }

    fn pointer_to_apex(&self) -> Result<[u8; 2], Unproved> {
        let offset =
            u16::try_from(HEADER_LEN + self.below().len()).map_err(|_| Unproved::NoRoom)?;
        Ok((0xC000 | offset).to_be_bytes())
    }
}
