//! (Query, Answer, proof, options, limit) → the octets of the reply. The only place that truncates.
//!
//! ```text
//!  header 12 │ question, as it came │ answer: an RRset, or nothing │ authority: SOA, or nothing │ OPT, or nothing
//!                                    and its proof                  and its proof
//! ```

#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod opt;

use self::opt::{MAX_OPTIONS, OPT_LEN};
use crate::answer::Answer;
use crate::dnssec::{MAX_PROOF, Proof};
use crate::protocol::{HEADER_LEN, Rcode};
use crate::query::Head;
use crate::rrset::{MAX_RRSET, Octets, Soa};

pub use self::opt::{MAX_NSID, ReplyOptions, ZoneVersion};

/// The most octets a reply of ours can have, over TCP.
pub const MAX_REPLY: usize =
    HEADER_LEN + MAX_QUESTION + MAX_RRSET + MAX_PROOF + OPT_LEN + MAX_OPTIONS;

const MAX_QUESTION: usize = crate::protocol::MAX_NAME + 4;

/// Writes the reply to `out` and returns its length, which is at most `limit`. `None` if not even the header and the
/// question fit there, which 512 octets always have room for. What fits least goes first: options other than the cookie,
/// then the records. A client without EDNS gets no options.
pub fn encode(
    head: &Head<'_>,
    answer: &Answer<'_>,
    proof: Option<&Proof>,
    options: &ReplyOptions<'_>,
    limit: usize,
    out: &mut [u8],
) -> Option<usize> {
    let soa = match answer {
        Answer::Soa(soa) | Answer::NoData(soa) | Answer::NoName(soa) => {
            Some(soa.record(apex_offset(head, soa)?))
        }
        Answer::Records(_) | Answer::ProofAlone | Answer::Refusal(_) | Answer::Elsewhere => None,
    };
    let mut body = match (answer, &soa) {
        (Answer::Records(records), _) => Body::new(records.octets(), Octets::default(), proof),
        (Answer::Soa(_), Some(soa)) => Body::new(Octets::of_one(soa), Octets::default(), proof),
        (_, Some(soa)) => Body::new(Octets::default(), Octets::of_one(soa), proof),
        (_, None) => Body::new(Octets::default(), Octets::default(), proof),
    };
    let limit = limit.min(out.len());
    let fits = |body: &Body<'_>, options: &ReplyOptions<'_>| {
        let opt = head
            .edns
            .map_or(0, |_| OPT_LEN.saturating_add(options.len()));
        HEADER_LEN
            .saturating_add(head.question.len())
            .saturating_add(body.len())
            .saturating_add(opt)
            <= limit
    };
    let least = options.least();
    let options = if fits(&body, options) {
        options
    } else {
        &least
    };
    // RFC 2181 section 9: with TC set the client throws away what is there and asks again over TCP, so nothing is.
    let truncated = matches!(answer, Answer::Elsewhere) || !fits(&body, options);
    if truncated {
        body = Body::default();
    }
    let rcode = rcode(answer);
    let mut writer = Writer { out, len: 0 };
    writer.put(&header(head, rcode, answer, truncated, body.counts()))?;
    writer.put(head.question)?;
    body.write(&mut writer)?;
    if let Some(edns) = head.edns {
        options.write(edns, rcode, &mut writer)?;
    }
    (writer.len <= limit).then_some(writer.len)
}

/// What stands between question and OPT record.
#[derive(Clone, Copy, Default)]
struct Body<'b> {
    answer: Octets<'b>,
    answer_proof: Octets<'b>,
    authority: Octets<'b>,
    authority_proof: Octets<'b>,
}

impl<'b> Body<'b> {
    fn new(answer: Octets<'b>, authority: Octets<'b>, proof: Option<&'b Proof>) -> Self {
        Self {
            answer,
            answer_proof: proof.map_or_else(Octets::default, Proof::answer),
            authority,
            authority_proof: proof.map_or_else(Octets::default, Proof::authority),
        }
    }

    fn parts(&self) -> [Octets<'b>; 4] {
        [
            self.answer,
            self.answer_proof,
            self.authority,
            self.authority_proof,
        ]
    }

    fn len(&self) -> usize {
        let len = |sum: usize, part: Octets<'_>| sum.saturating_add(part.len());
        self.parts().into_iter().fold(0, len)
    }

    fn counts(&self) -> [u16; 2] {
        let [answer, answer_proof, authority, authority_proof] = self.parts().map(Octets::count);
        [
            answer.saturating_add(answer_proof),
            authority.saturating_add(authority_proof),
        ]
    }

    fn write(&self, writer: &mut Writer<'_>) -> Option<()> {
        let mut parts = self.parts().into_iter();
        parts.try_for_each(|part| part.pieces().try_for_each(|piece| writer.put(piece)))
    }
}

fn rcode(answer: &Answer<'_>) -> Rcode {
    match answer {
        Answer::Records(_)
        | Answer::Soa(_)
        | Answer::NoData(_)
        | Answer::ProofAlone
        | Answer::Elsewhere => Rcode::NoError,
        Answer::NoName(_) => Rcode::NxDomain,
        Answer::Refusal(refusal) => refusal.rcode,
    }
}

/// The zone's name is the end of the name in the question, before type and class.
fn apex_offset(head: &Head<'_>, soa: &Soa<'_>) -> Option<u16> {
    let end = HEADER_LEN
        .checked_add(head.question.len())?
        .checked_sub(4)?;
    u16::try_from(end.checked_sub(soa.apex_len)?).ok()
}

/// RFC 1035 section 4.1.1. AD and CD are never set (RFC 4035 section 3.1.6), nor is the bit that MUST be zero.
fn header(
    head: &Head<'_>,
    rcode: Rcode,
    answer: &Answer<'_>,
    truncated: bool,
    [answers, authorities]: [u16; 2],
) -> [u8; HEADER_LEN] {
    let authoritative = !matches!(answer, Answer::Refusal(_) | Answer::Elsewhere);
    let flags = QR
        | (head.opcode << 3)
        | if authoritative { AA } else { 0 }
        | if truncated { TC } else { 0 }
        | if head.recursion_desired { RD } else { 0 };
    let [id0, id1] = head.id;
    let [an0, an1] = answers.to_be_bytes();
    let [ns0, ns1] = authorities.to_be_bytes();
    let questions = u8::from(!head.question.is_empty());
    let additionals = u8::from(head.edns.is_some());
    let code = rcode.low_bits();
    [
        id0,
        id1,
        flags,
        code,
        0,
        questions,
        an0,
        an1,
        ns0,
        ns1,
        0,
        additionals,
    ]
}

const QR: u8 = 0x80;
const AA: u8 = 0x04;
const TC: u8 = 0x02;
const RD: u8 = 0x01;

struct Writer<'o> {
    out: &'o mut [u8],
    len: usize,
}

impl Writer<'_> {
    fn put(&mut self, octets: &[u8]) -> Option<()> {
        let end = self.len.checked_add(octets.len())?;
        self.out.get_mut(self.len..end)?.copy_from_slice(octets);
        self.len = end;
        Some(())
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::protocol::{Ede, Type};
    use crate::query::{Edns, Options};
    use crate::rrset::{Records, Rrset, SoaTemplate};

    const QUESTION: &[u8] = b"\x05MyNas\x03nas\x04test\0\0\x01\0\x01";

    fn head(edns: Option<Edns>) -> Head<'static> {
        Head {
            id: [0xAB, 0xCD],
            opcode: 0,
            recursion_desired: true,
            question: QUESTION,
            edns,
        }
    }

    fn edns(version: u8, dnssec_ok: bool) -> Option<Edns> {
        Some(Edns {
            payload: 1232,
            version,
            dnssec_ok,
            compact_ok: false,
            options: Options::default(),
        })
    }

    fn encoded(head: &Head<'_>, answer: &Answer<'_>, limit: usize) -> Vec<u8> {
        with_options(head, answer, &ReplyOptions::default(), limit)
    }

    fn with_options(
        head: &Head<'_>,
        answer: &Answer<'_>,
        options: &ReplyOptions<'_>,
        limit: usize,
    ) -> Vec<u8> {
        let mut out = vec![0; MAX_REPLY];
        let len = encode(head, answer, None, options, limit, &mut out).unwrap();
        out.truncate(len);
        out
    }

    #[test]
    fn an_answer_is_header_question_and_records() {
        let set = Rrset::compile(Type::A, 60, &[[192, 0, 2, 1]]).unwrap();
        let reply = encoded(&head(None), &Answer::Records(Records::Fixed(&set)), 512);
        let mut expected = vec![0xAB, 0xCD, 0x85, 0, 0, 1, 0, 1, 0, 0, 0, 0];
        expected.extend(QUESTION);
        expected.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
        assert_eq!(reply, expected);
    }

    #[test]
    fn a_missing_name_brings_the_soa_in_the_authority_section() {
        let template = SoaTemplate::new(60);
        let soa = Soa {
            template: &template,
            serial: 7,
            apex_len: 10,
        };
        let reply = encoded(&head(edns(0, true)), &Answer::NoName(soa), 512);
        assert_eq!(reply[..12], [0xAB, 0xCD, 0x85, 3, 0, 1, 0, 0, 0, 1, 0, 1]);
        let soa_at = 12 + QUESTION.len();
        // "nas" begins 18 octets into the message.
        assert_eq!(reply[soa_at..][..4], [0xC0, 18, 0, 6]);
        assert_eq!(reply[18..22], *b"\x03nas");
        let opt_at = soa_at + 51;
        assert_eq!(reply[opt_at..], [0, 0, 41, 0x04, 0xD0, 0, 0, 0x80, 0, 0, 0]);
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_said_so() {
        let set = Rrset::compile(Type::TXT, 60, &[vec![0; 700]]).unwrap();
        let answer = Answer::Records(Records::Fixed(&set));
        let whole = 12 + QUESTION.len() + 712 + 11;
        let head = head(edns(0, false));
        assert_eq!(encoded(&head, &answer, whole).len(), whole);

        let cut = encoded(&head, &answer, whole - 1);
        assert_eq!(cut.len(), 12 + QUESTION.len() + 11);
        assert_eq!(cut[2] & TC, TC);
        assert_eq!(cut[4..12], [0, 1, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn another_version_of_edns_gets_its_code_and_no_flags() {
        let reply = encoded(
            &head(edns(1, true)),
            &Answer::Refusal(Rcode::BadVers.into()),
            512,
        );
        assert_eq!(reply[2..4], [0x81, 0]);
        assert_eq!(
            reply[12 + QUESTION.len()..],
            [0, 0, 41, 0x04, 0xD0, 1, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn a_place_too_small_for_the_question_gets_nothing() {
        let mut out = [0; 20];
        assert_eq!(
            encode(
                &head(None),
                &Answer::Refusal(Rcode::Refused.into()),
                None,
                &ReplyOptions::default(),
                512,
                &mut out
            ),
            None
        );
    }

    const ALL: ReplyOptions<'static> = ReplyOptions {
        cookie: Some([7; 24]),
        reason: Some(Ede::NotAuthoritative),
        zone_version: Some(ZoneVersion {
            labels: 2,
            serial: 0x0102_0304,
        }),
        nsid: Some(b"ns1"),
        compact: false,
    };

    #[test]
    fn options_stand_in_the_opt_record_of_a_client_that_has_one() {
        let refusal = Answer::Refusal(Rcode::Refused.into());
        let reply = with_options(&head(edns(0, false)), &refusal, &ALL, 512);
        let expected = [
            &[0, 0, 41, 0x04, 0xD0, 0, 0, 0, 0, 0, 51][..],
            &[0, 10, 0, 24],
            &[7; 24],
            &[0, 15, 0, 2, 0, 20],
            &[0, 19, 0, 6, 2, 0, 1, 2, 3, 4],
            b"\0\x03\0\x03ns1",
        ]
        .concat();
        assert_eq!(reply[12 + QUESTION.len()..], expected);
        let without = with_options(&head(None), &refusal, &ALL, 512);
        assert_eq!(without.len(), 12 + QUESTION.len());
    }

    #[test]
    fn options_but_the_cookie_make_room_for_the_records() {
        let set = Rrset::compile(Type::TXT, 60, &[vec![0; 700]]).unwrap();
        let answer = Answer::Records(Records::Fixed(&set));
        let head = head(edns(0, false));
        let without = 12 + QUESTION.len() + 712 + 11;
        for (limit, len, tc) in [
            (without + 51, without + 51, 0),
            (without + 50, without + 28, 0),
            (without + 28, without + 28, 0),
            (without + 27, 12 + QUESTION.len() + 11 + 28, TC),
        ] {
            let reply = with_options(&head, &answer, &ALL, limit);
            assert_eq!((reply.len(), reply[2] & TC), (len, tc), "{limit}");
        }
    }

    #[test]
    fn what_is_to_be_had_elsewhere_is_empty_and_says_so() {
        let reply = encoded(&head(None), &Answer::Elsewhere, 512);
        let mut expected = vec![0xAB, 0xCD, 0x83, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        expected.extend(QUESTION);
        assert_eq!(reply, expected);
    }

    #[test]
    fn the_longest_reply_has_its_place() {
        let nsid = [b'n'; MAX_NSID];
        let all = ReplyOptions {
            nsid: Some(&nsid),
            ..ALL
        };
        assert_eq!(all.len(), MAX_OPTIONS);
    }
}
