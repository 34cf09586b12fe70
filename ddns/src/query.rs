//! Bytes → [`Query`], or the refusal to send, or silence.
//!
//! [`parse`] is one column of checks: if this is wrong, answer that and stop. It neither allocates nor fails in any
//! other way, whatever the bytes.

#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod edns;
mod reader;

use self::reader::Reader;
use crate::cookie::Cookie;
use crate::protocol::{
    CLASS_IN, Ede, HEADER_LEN, MAX_NAME, PLAIN_UDP_LIMIT, QUERY, Rcode, Refusal, Type, UDP_LIMIT,
    UPDATE,
};

pub use self::edns::{Edns, Options};

/// What a message turned out to be.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it never leaves the stack, and a box would cost an allocation a query"
)]
pub enum Parsed<'m> {
    /// A question to be answered.
    Query(Query<'m>),
    /// No question but for our cookie (RFC 7873 section 5.4).
    CookieOnly(Head<'m>, Cookie),
    /// To be refused with this code.
    Refuse(Head<'m>, Refusal),
    /// A query or an update that has a TSIG record at its end (RFC 8945).
    Signed,
    /// Not to be answered at all.
    Silence(Silence),
}

/// Why a message gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Too short to hold the id that an answer repeats.
    Short,
    /// It is an answer itself; answering it could go on for ever.
    Response,
}

/// A question in the internet's class.
#[derive(Debug)]
pub struct Query<'m> {
    /// What every reply repeats.
    pub head: Head<'m>,
    /// The name asked for.
    pub name: Name,
    /// The type asked for.
    pub qtype: Type,
}

/// The part of a query that its reply repeats, whatever the answer.
#[derive(Clone, Copy, Debug)]
pub struct Head<'m> {
    /// The client's id.
    pub id: [u8; 2],
    /// The operation: 0 for a query.
    pub opcode: u8,
    /// RD, which is copied although nothing here recurses (RFC 1035 section 4.1.1).
    pub recursion_desired: bool,
    /// The question as it came, the case of its letters included; empty if it could not be read.
    pub question: &'m [u8],
    /// The client's EDNS, if it speaks it.
    pub edns: Option<Edns>,
}

impl Head<'_> {
    /// The client's cookie, if it has one.
    pub fn cookie(&self) -> Option<Cookie> {
        self.edns?.options.cookie
    }

    /// Whether the client wants what proves the answer (RFC 4035 section 3.1).
    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// The most octets this client takes in one datagram.
    pub fn udp_limit(&self) -> usize {
        match self.edns {
            None => PLAIN_UDP_LIMIT,
            // RFC 6891 section 6.2.3: "Values lower than 512 MUST be treated as equal to 512."
            Some(edns) => usize::from(edns.payload).clamp(PLAIN_UDP_LIMIT, UDP_LIMIT),
        }
    }
}

/// A name in wire form and lower case, with its closing zero.
#[derive(Clone)]
pub struct Name {
    octets: [u8; MAX_NAME],
    len: u8,
}

impl Name {
    /// The octets, closing zero included.
    pub fn as_wire(&self) -> &[u8] {
        self.octets.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Takes a well-formed wire name. Lower-casing the whole of it is safe: no length octet is a letter (all are
    /// below 64, and `A` is 65).
    fn lowered(wire: &[u8]) -> Option<Self> {
        let mut octets = [0; MAX_NAME];
        let place = octets.get_mut(..wire.len())?;
        place.copy_from_slice(wire);
        place.make_ascii_lowercase();
        Some(Self {
            octets,
            len: u8::try_from(wire.len()).ok()?,
        })
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Name({})", self.as_wire().escape_ascii())
    }
}

/// Reads one message.
pub fn parse(message: &[u8]) -> Parsed<'_> {
    let Some((header, body)) = message.split_first_chunk::<HEADER_LEN>() else {
        return Parsed::Silence(Silence::Short);
    };
    let [
        id_high,
        id_low,
        flags,
        _,
        qd_high,
        qd_low,
        an_high,
        an_low,
        ns_high,
        ns_low,
        ar_high,
        ar_low,
    ] = *header;
    let head = Head {
        id: [id_high, id_low],
        opcode: (flags & OPCODE) >> 3,
        recursion_desired: flags & RD != 0,
        question: &[],
        edns: None,
    };
    if flags & QR != 0 {
        return Parsed::Silence(Silence::Response);
    }
    let counts = Counts {
        questions: u16::from_be_bytes([qd_high, qd_low]),
        answers: u16::from_be_bytes([an_high, an_low]),
        authorities: u16::from_be_bytes([ns_high, ns_low]),
        additionals: u16::from_be_bytes([ar_high, ar_low]),
    };
    match head.opcode {
        QUERY => {}
        UPDATE => return parse_update(head, body, &counts),
        // RFC 1035 section 4.1.1, opcode. The rest of such a message has a form of its own and is not looked at.
        _ => return Parsed::Refuse(head, Rcode::NotImp.into()),
    }
    // RFC 9619 section 4: "A DNS message with OPCODE = 0 and QDCOUNT > 1 MUST be treated as an incorrectly formatted
    // message."
    match counts.questions {
        0 => parse_no_question(head, body, &counts),
        1 => parse_question(head, body, &counts),
        _ => Parsed::Refuse(head, Rcode::FormErr.into()),
    }
}

/// How many records each section has.
struct Counts {
    questions: u16,
    answers: u16,
    authorities: u16,
    additionals: u16,
}

/// RFC 7873 section 5.4: without a question, a query is one only if it has a cookie.
fn parse_no_question<'m>(mut head: Head<'m>, body: &'m [u8], counts: &Counts) -> Parsed<'m> {
    if counts.answers != 0 || counts.authorities != 0 {
        return Parsed::Refuse(head, Rcode::FormErr.into());
    }
    let Some(records) = read_records(body, 0, counts.additionals) else {
        return Parsed::Refuse(head, Rcode::FormErr.into());
    };
    if records.is_signed {
        return Parsed::Signed;
    }
    head.edns = records.edns;
    match head.edns {
        Some(edns) if edns.version != 0 => Parsed::Refuse(head, Rcode::BadVers.into()),
        Some(edns) => edns.options.cookie.map_or_else(
            || Parsed::Refuse(head, Rcode::FormErr.into()),
            |cookie| Parsed::CookieOnly(head, cookie),
        ),
        None => Parsed::Refuse(head, Rcode::FormErr.into()),
    }
}

fn parse_question<'m>(mut head: Head<'m>, body: &'m [u8], counts: &Counts) -> Parsed<'m> {
    let Some((question, rest)) = read_question(body) else {
        return Parsed::Refuse(head, Rcode::FormErr.into());
    };
    head.question = question.octets;
    // RFC 1035 section 4.1: the answer belongs to the answerer. Only IXFR brings a record of its own, in the
    // authority section (RFC 1995 section 3).
    let has_authorities = counts.authorities != 0 && question.qtype != Type::IXFR;
    if counts.answers != 0 || has_authorities {
        return Parsed::Refuse(head, Rcode::FormErr.into());
    }
    let Some(records) = read_records(rest, counts.authorities.into(), counts.additionals) else {
        return Parsed::Refuse(head, Rcode::FormErr.into());
    };
    if records.is_signed {
        return Parsed::Signed;
    }
    head.edns = records.edns;
    // RFC 6891 section 6.1.3: "If a responder does not implement the VERSION level of the request, then it MUST
    // respond with RCODE=BADVERS."
    if head.edns.is_some_and(|edns| edns.version != 0) {
        return Parsed::Refuse(head, Rcode::BadVers.into());
    }
    if question.qclass != CLASS_IN {
        return Parsed::Refuse(head, Refusal::because(Rcode::Refused, Ede::NotSupported));
    }
    // RFC 9824 section 3.5
    if question.qtype == Type::NXNAME {
        let refusal = Refusal::because(Rcode::FormErr, Ede::InvalidQueryType);
        return Parsed::Refuse(head, refusal);
    }
    // RFC 5936 section 2.2.1: REFUSED where policy gives nobody the zone.
    if matches!(question.qtype, Type::AXFR | Type::IXFR) {
        return Parsed::Refuse(head, Refusal::because(Rcode::Refused, Ede::Prohibited));
    }
    Parsed::Query(Query {
        head,
        name: question.name,
        qtype: question.qtype,
    })
}

/// An update that nobody has signed is nobody's (RFC 2136 section 3.3).
fn parse_update<'m>(mut head: Head<'m>, body: &'m [u8], counts: &Counts) -> Parsed<'m> {
    let question = read_question(body).filter(|_| counts.questions == 1);
    let Some((zone, rest)) = question else {
        return Parsed::Refuse(head, Rcode::FormErr.into());
    };
    head.question = zone.octets;
    let before = u32::from(counts.answers).saturating_add(counts.authorities.into());
    let Some(records) = read_records(rest, before, counts.additionals) else {
        return Parsed::Refuse(head, Rcode::FormErr.into());
    };
    if records.is_signed {
        return Parsed::Signed;
    }
    head.edns = records.edns;
    Parsed::Refuse(head, Refusal::because(Rcode::Refused, Ede::Prohibited))
}

const QR: u8 = 0x80;
const OPCODE: u8 = 0x78;
const RD: u8 = 0x01;

struct Question<'m> {
    octets: &'m [u8],
    name: Name,
    qtype: Type,
    qclass: u16,
}

/// Reads the question and returns what follows it.
fn read_question(body: &[u8]) -> Option<(Question<'_>, &[u8])> {
    let mut reader = Reader(body);
    reader.skip_plain_name()?;
    let wire = body.get(..body.len().checked_sub(reader.0.len())?)?;
    let name = Name::lowered(wire)?;
    let qtype = Type(reader.u16()?);
    let qclass = reader.u16()?;
    let octets = body.get(..body.len().checked_sub(reader.0.len())?)?;
    let question = Question {
        octets,
        name,
        qtype,
        qclass,
    };
    Some((question, reader.0))
}

/// What the additional records say of the message.
struct Additional {
    edns: Option<Edns>,
    /// The last one is a TSIG record.
    is_signed: bool,
}

/// Walks the records behind the question: those `before` the additional ones, and these. `None` is FORMERR.
fn read_records(rest: &[u8], before: u32, additionals: u16) -> Option<Additional> {
    let mut reader = Reader(rest);
    for _ in 0..before {
        reader.record()?;
    }
    let (mut edns, mut is_signed) = (None, false);
    for _ in 0..additionals {
        // RFC 8945 section 5.1: a TSIG record is the only one, and the last of all.
        if is_signed {
            return None;
        }
        let record = reader.record()?;
        is_signed = record.rtype == Type::TSIG;
        if record.rtype == Type::OPT {
            // RFC 6891 section 6.1.1: "If a query message with more than one OPT RR is received, a FORMERR (RCODE=1)
            // MUST be returned."
            if edns.is_some() {
                return None;
            }
            edns = Some(Edns::read(&record)?);
        }
    }
    // Octets that belong to nothing: whoever wrote this meant something else than we read.
    reader
        .0
        .is_empty()
        .then_some(Additional { edns, is_signed })
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cookie::Shown;

    const NO_RECORDS: [u8; 6] = [0; 6];

    /// A message for `MyNas.nas.test A` with these flags, section counts behind QDCOUNT, and octets behind the
    /// question.
    fn message(flags: u8, counts: [u8; 6], rest: &[u8]) -> Vec<u8> {
        let mut message = vec![0xAB, 0xCD, flags, 0, 0, 1];
        message.extend(counts);
        message.extend(b"\x05MyNas\x03nas\x04test\0\0\x01\0\x01");
        message.extend(rest);
        message
    }

    fn opt(payload: u16, version: u8, flags: u8, data: &[u8]) -> Vec<u8> {
        let mut record = vec![0, 0, 41];
        record.extend(payload.to_be_bytes());
        record.extend([0, version, flags, 0]);
        record.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        record.extend(data);
        record
    }

    const ONE_ADDITIONAL: [u8; 6] = [0, 0, 0, 0, 0, 1];

    fn query(message: &[u8]) -> Query<'_> {
        match parse(message) {
            Parsed::Query(query) => query,
            refused @ (Parsed::CookieOnly(..)
            | Parsed::Refuse(..)
            | Parsed::Signed
            | Parsed::Silence(_)) => {
                panic!("{refused:?}")
            }
        }
    }

    fn refusal(message: &[u8]) -> (Rcode, bool) {
        match parse(message) {
            Parsed::Refuse(head, refusal) => (refusal.rcode, !head.question.is_empty()),
            taken @ (Parsed::Query(_)
            | Parsed::CookieOnly(..)
            | Parsed::Signed
            | Parsed::Silence(_)) => {
                panic!("{taken:?}")
            }
        }
    }

    #[test]
    fn a_plain_question_is_read_and_its_case_kept_for_the_echo() {
        let message = message(RD, NO_RECORDS, &[]);
        let query = query(&message);
        assert_eq!(query.name.as_wire(), b"\x05mynas\x03nas\x04test\0");
        assert_eq!(query.qtype, Type::A);
        assert_eq!(query.head.id, [0xAB, 0xCD]);
        assert!(query.head.recursion_desired);
        assert_eq!(query.head.question, &message[12..]);
        assert_eq!(query.head.udp_limit(), 512);
    }

    #[test]
    fn edns_sets_the_limit_between_512_and_1232() {
        for (payload, limit) in [
            (0, 512),
            (511, 512),
            (700, 700),
            (1232, 1232),
            (65535, 1232),
        ] {
            let message = message(0, ONE_ADDITIONAL, &opt(payload, 0, 0x80, &[]));
            let head = query(&message).head;
            assert_eq!(head.udp_limit(), limit);
            assert!(head.edns.unwrap().dnssec_ok);
        }
    }

    #[test]
    fn options_are_passed_over_if_they_are_whole() {
        let whole = opt(1232, 0, 0, &[0, 100, 0, 2, 1, 2, 0, 9, 0, 0]);
        query(&message(0, ONE_ADDITIONAL, &whole));
        for torn in [&[0][..], &[0, 100, 0], &[0, 100, 0, 3, 1, 2]] {
            let message = message(0, ONE_ADDITIONAL, &opt(1232, 0, 0, torn));
            assert_eq!(refusal(&message), (Rcode::FormErr, true));
        }
    }

    #[test]
    fn options_that_mean_something_are_read_and_the_first_cookie_counts() {
        let cookie = |octet: u8| [&[0, 10, 0, 8][..], &[octet; 8]].concat();
        let data = [
            &[0, 3, 0, 1, 9][..],
            &cookie(1),
            &cookie(2),
            &[0, 10, 0, 1, 0], // not even whole
            &[0, 19, 0, 0],
        ]
        .concat();
        let message = message(0, ONE_ADDITIONAL, &opt(1232, 0, 0, &data));
        let options = query(&message).head.edns.unwrap().options;
        assert!(options.nsid && options.zone_version);
        let cookie = options.cookie.unwrap();
        assert_eq!((cookie.client, cookie.server), ([1; 8], Shown::Nothing));
    }

    #[test]
    fn a_cookie_of_an_impossible_length_is_a_format_error() {
        for length in 0..=50_u8 {
            let mut data = vec![0, 10, 0, length];
            data.resize(4 + usize::from(length), 0);
            let message = message(0, ONE_ADDITIONAL, &opt(1232, 0, 0, &data));
            if matches!(length, 8 | 16..=40) {
                assert!(query(&message).head.cookie().is_some(), "{length}");
            } else {
                assert_eq!(refusal(&message), (Rcode::FormErr, true), "{length}");
            }
        }
    }

    #[test]
    fn only_a_cookie_makes_a_query_without_a_question() {
        let ask = |version, data: &[u8]| {
            let mut message = vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
            message.extend(opt(1232, version, 0, data));
            message
        };
        let cookie = [&[0, 10, 0, 8][..], &[7; 8]].concat();
        let message = ask(0, &cookie);
        let Parsed::CookieOnly(head, shown) = parse(&message) else {
            panic!("not taken");
        };
        assert_eq!((head.question, shown.client), (&[][..], [7; 8]));
        assert_eq!(refusal(&ask(0, &[0, 3, 0, 0])), (Rcode::FormErr, false));
        assert_eq!(refusal(&ask(1, &cookie)), (Rcode::BadVers, false));
        let mut with_answer = ask(0, &cookie);
        with_answer[7] = 1;
        assert_eq!(refusal(&with_answer), (Rcode::FormErr, false));
    }

    #[test]
    fn answers_and_stumps_get_silence() {
        for len in 0..HEADER_LEN {
            assert!(matches!(
                parse(&[0; HEADER_LEN][..len]),
                Parsed::Silence(Silence::Short)
            ));
        }
        assert!(matches!(
            parse(&message(QR, NO_RECORDS, &[])),
            Parsed::Silence(Silence::Response)
        ));
    }

    #[test]
    fn other_operations_are_not_implemented_whatever_follows() {
        for opcode in (1..16).filter(|opcode| *opcode != UPDATE) {
            let message = [0, 0, opcode << 3, 0, 9, 9, 9, 9, 9, 9, 9, 9];
            assert_eq!(refusal(&message), (Rcode::NotImp, false));
        }
    }

    #[test]
    fn malformed_messages_are_format_errors() {
        let two_questions = [0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0];
        assert_eq!(refusal(&two_questions), (Rcode::FormErr, false));
        let no_question = [0; 12];
        assert_eq!(refusal(&no_question), (Rcode::FormErr, false));
        let cut = &message(0, NO_RECORDS, &[])[..20];
        assert_eq!(refusal(cut), (Rcode::FormErr, false));

        let with_answer = message(0, [0, 1, 0, 0, 0, 0], &opt(1232, 0, 0, &[]));
        assert_eq!(refusal(&with_answer), (Rcode::FormErr, true));
        let with_authority = message(0, [0, 0, 0, 1, 0, 0], &opt(1232, 0, 0, &[]));
        assert_eq!(refusal(&with_authority), (Rcode::FormErr, true));
        let trailing = message(0, NO_RECORDS, &[0]);
        assert_eq!(refusal(&trailing), (Rcode::FormErr, true));
        let missing = message(0, ONE_ADDITIONAL, &[]);
        assert_eq!(refusal(&missing), (Rcode::FormErr, true));
        let two = [opt(1232, 0, 0, &[]), opt(1232, 0, 0, &[])].concat();
        let two_opts = message(0, [0, 0, 0, 0, 0, 2], &two);
        assert_eq!(refusal(&two_opts), (Rcode::FormErr, true));
        let mut owned_opt = b"\x01a".to_vec();
        owned_opt.extend(opt(1232, 0, 0, &[]));
        let owned_opt = message(0, ONE_ADDITIONAL, &owned_opt);
        assert_eq!(refusal(&owned_opt), (Rcode::FormErr, true));
    }

    #[test]
    fn names_are_held_to_their_limits() {
        let ask = |name: &[u8]| {
            let mut message = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            message.extend(name);
            message.extend([0, 1, 0, 1]);
            message
        };
        let label = |len: u8| [vec![len], vec![b'a'; usize::from(len)]].concat();
        let longest = [label(63), label(63), label(63), label(61), vec![0]].concat();
        assert_eq!(longest.len(), MAX_NAME);
        query(&ask(&longest));
        let too_long = [label(63), label(63), label(63), label(62), vec![0]].concat();
        for bad in [
            &too_long[..],
            b"\xC0\x0C",
            b"\x01a\xC0\x0C",
            b"\x40a\0",
            b"\x80a\0",
        ] {
            assert_eq!(refusal(&ask(bad)), (Rcode::FormErr, false), "{bad:x?}");
        }
    }

    #[test]
    fn versions_classes_and_transfers_are_refused_by_their_own_codes() {
        let version_one = message(0, ONE_ADDITIONAL, &opt(1232, 1, 0, &[1]));
        assert_eq!(refusal(&version_one), (Rcode::BadVers, true));
        for (field, value) in [(1, 3), (1, 255), (3, 252), (3, 251)] {
            let mut message = message(0, NO_RECORDS, &[]);
            let at = message.len() - field;
            message[at] = value;
            assert_eq!(refusal(&message), (Rcode::Refused, true));
        }
    }

    #[test]
    fn records_that_mean_nothing_here_are_passed_over() {
        let mut additional = b"\xC0\x0C\0\xF9\0\xFF\0\0\0\0\0\x03abc".to_vec();
        additional.extend(opt(1232, 0, 0, &[]));
        let message = message(0, [0, 0, 0, 0, 0, 2], &additional);
        assert!(query(&message).head.edns.is_some());
    }

    const TSIG: &[u8] = b"\xC0\x0C\0\xFA\0\xFF\0\0\0\0\0\x03abc";

    #[test]
    fn a_signature_at_the_end_makes_a_message_signed() {
        let opt = opt(1232, 1, 0, &[]);
        for (flags, signed) in [(0, true), (UPDATE << 3, true), (2 << 3, false)] {
            let alone = message(flags, ONE_ADDITIONAL, TSIG);
            let last = message(flags, [0, 0, 0, 0, 0, 2], &[&opt, TSIG].concat());
            for message in [alone, last] {
                assert_eq!(matches!(parse(&message), Parsed::Signed), signed);
            }
        }
        for flags in [0, UPDATE << 3] {
            for records in [[TSIG, &opt[..]].concat(), TSIG.repeat(2)] {
                let elsewhere = message(flags, [0, 0, 0, 0, 0, 2], &records);
                assert_eq!(refusal(&elsewhere), (Rcode::FormErr, true));
            }
        }
    }

    #[test]
    fn an_update_without_a_signature_is_refused_if_it_can_be_read() {
        let update = |counts, records: &[u8]| refusal(&message(UPDATE << 3, counts, records));
        let record = b"\xC0\x0C\0\x01\0\x01\0\0\0\0\0\x04abcd";
        let all = [&record.repeat(2)[..], &opt(1232, 0, 0, &[])].concat();
        assert_eq!(update([0, 1, 0, 1, 0, 1], &all), (Rcode::Refused, true));
        assert_eq!(update([0, 1, 0, 2, 0, 1], &all), (Rcode::FormErr, true));
        let most = [255; 6];
        assert_eq!(update(most, &all), (Rcode::FormErr, true));
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            parse(&bytes);
        }

        #[test]
        fn nearly_good_bytes_do_not_either(
            flips in prop::collection::vec((0..60_usize, any::<u8>()), 0..6),
            cut in 0..60_usize,
        ) {
            let mut bytes = message(0, ONE_ADDITIONAL, &opt(1232, 0, 0x80, &[0, 3, 0, 0]));
            for (at, value) in flips {
                if let Some(octet) = bytes.get_mut(at) {
                    *octet = value;
                }
            }
            parse(&bytes);
            parse(&bytes[..cut.min(bytes.len())]);
        }
    }
}
