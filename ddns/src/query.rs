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

use crate::protocol::{
    CLASS_IN, HEADER_LEN, MAX_LABEL, MAX_NAME, PLAIN_UDP_LIMIT, Rcode, Type, UDP_LIMIT,
};

/// What a message turned out to be.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it never leaves the stack, and a box would cost an allocation a query"
)]
pub enum Parsed<'m> {
    /// A question to be answered.
    Query(Query<'m>),
    /// To be refused with this code.
    Refuse(Head<'m>, Rcode),
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
    /// The most octets this client takes in one datagram.
    pub fn udp_limit(&self) -> usize {
        match self.edns {
            None => PLAIN_UDP_LIMIT,
            // RFC 6891 section 6.2.3: "Values lower than 512 MUST be treated as equal to 512."
            Some(edns) => usize::from(edns.payload).clamp(PLAIN_UDP_LIMIT, UDP_LIMIT),
        }
    }
}

/// What the client's OPT record says (RFC 6891 section 6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// Octets that the client takes over UDP.
    pub payload: u16,
    /// The version it speaks; only 0 exists.
    pub version: u8,
    /// DO (RFC 3225).
    pub dnssec_ok: bool,
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
    let mut head = Head {
        id: [id_high, id_low],
        opcode: (flags & OPCODE) >> 3,
        recursion_desired: flags & RD != 0,
        question: &[],
        edns: None,
    };
    if flags & QR != 0 {
        return Parsed::Silence(Silence::Response);
    }
    // RFC 1035 section 4.1.1, opcode. The rest of such a message has a form of its own and is not looked at.
    if head.opcode != 0 {
        return Parsed::Refuse(head, Rcode::NotImp);
    }
    // RFC 9619 section 4: "A DNS message with OPCODE = 0 and QDCOUNT > 1 MUST be treated as an incorrectly formatted
    // message." Nothing to ask is no query either.
    if u16::from_be_bytes([qd_high, qd_low]) != 1 {
        return Parsed::Refuse(head, Rcode::FormErr);
    }
    let Some((question, rest)) = read_question(body) else {
        return Parsed::Refuse(head, Rcode::FormErr);
    };
    head.question = question.octets;
    // RFC 1035 section 4.1: the answer belongs to the answerer. Only IXFR brings a record of its own, in the
    // authority section (RFC 1995 section 3).
    let answers = u16::from_be_bytes([an_high, an_low]);
    let authorities = u16::from_be_bytes([ns_high, ns_low]);
    if answers != 0 || (authorities != 0 && question.qtype != Type::IXFR) {
        return Parsed::Refuse(head, Rcode::FormErr);
    }
    let additionals = u16::from_be_bytes([ar_high, ar_low]);
    let Some(edns) = read_records(rest, authorities, additionals) else {
        return Parsed::Refuse(head, Rcode::FormErr);
    };
    head.edns = edns;
    // RFC 6891 section 6.1.3: "If a responder does not implement the VERSION level of the request, then it MUST
    // respond with RCODE=BADVERS."
    if edns.is_some_and(|edns| edns.version != 0) {
        return Parsed::Refuse(head, Rcode::BadVers);
    }
    if question.qclass != CLASS_IN {
        return Parsed::Refuse(head, Rcode::Refused);
    }
    // RFC 5936 section 2.2.1: REFUSED where policy gives nobody the zone.
    if matches!(question.qtype, Type::AXFR | Type::IXFR) {
        return Parsed::Refuse(head, Rcode::Refused);
    }
    Parsed::Query(Query {
        head,
        name: question.name,
        qtype: question.qtype,
    })
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

/// Walks the records behind the question and reads the OPT record among the additional ones. `None` is FORMERR.
fn read_records(rest: &[u8], authorities: u16, additionals: u16) -> Option<Option<Edns>> {
    let mut reader = Reader(rest);
    for _ in 0..authorities {
        reader.record()?;
    }
    let mut edns = None;
    for _ in 0..additionals {
        let record = reader.record()?;
        if record.rtype == Type::OPT {
            // RFC 6891 section 6.1.1: "If a query message with more than one OPT RR is received, a FORMERR (RCODE=1)
            // MUST be returned."
            if edns.is_some() {
                return None;
            }
            edns = Some(record.edns()?);
        }
    }
    // Octets that belong to nothing: whoever wrote this meant something else than we read.
    reader.0.is_empty().then_some(edns)
}

struct Record<'m> {
    at_root: bool,
    rtype: Type,
    class: u16,
    ttl: [u8; 4],
    data: &'m [u8],
}

impl Record<'_> {
    /// Reads an OPT record:
    ///
    /// ```text
    ///  name   type   class     TTL                                    data
    ///  0      41     payload   high rcode | version | DO, 15 zeros    (code, length, octets)*
    /// ```
    fn edns(&self) -> Option<Edns> {
        let [_, version, flags, _] = self.ttl;
        // RFC 6891 section 6.1.2: "MUST be 0 (root domain)".
        if !self.at_root {
            return None;
        }
        // What the data of another version looks like is not ours to say; version 0 holds options, none of which is
        // understood here and none echoed (RFC 6891 section 6.1.2).
        if version == 0 {
            let mut options = Reader(self.data);
            while !options.0.is_empty() {
                options.u16()?;
                let length = options.u16()?;
                options.take(usize::from(length))?;
            }
        }
        Some(Edns {
            payload: self.class,
            version,
            dnssec_ok: flags & DO != 0,
        })
    }
}

const DO: u8 = 0x80;

/// What is left to read; every step forward is checked.
struct Reader<'m>(&'m [u8]);

impl<'m> Reader<'m> {
    fn take(&mut self, len: usize) -> Option<&'m [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Passes a name that is written out in full. A pointer in the first name of a message could only lead into the
    /// header or in a circle, so the question has none. The length of the whole is [`Name::lowered`]'s to refuse.
    fn skip_plain_name(&mut self) -> Option<()> {
        loop {
            match usize::from(self.array::<1>().map(u8::from_be_bytes)?) {
                0 => return Some(()),
                len if len <= MAX_LABEL => self.take(len)?,
                _ => return None,
            };
        }
    }

    /// Passes the name before a record, which may end in a pointer (RFC 1035 section 4.1.4); it is not followed.
    /// Says whether it is the root.
    fn skip_owner(&mut self) -> Option<bool> {
        let mut at_root = true;
        loop {
            match usize::from(self.array::<1>().map(u8::from_be_bytes)?) {
                0 => return Some(at_root),
                len if len <= MAX_LABEL => self.take(len)?,
                pointer if pointer >= 0xC0 => {
                    self.take(1)?;
                    return Some(false);
                }
                _ => return None,
            };
            at_root = false;
        }
    }

    fn record(&mut self) -> Option<Record<'m>> {
        let at_root = self.skip_owner()?;
        let rtype = Type(self.u16()?);
        let class = self.u16()?;
        let ttl = self.array()?;
        let length = self.u16()?;
        let data = self.take(usize::from(length))?;
        Some(Record {
            at_root,
            rtype,
            class,
            ttl,
            data,
        })
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            refused @ (Parsed::Refuse(..) | Parsed::Silence(_)) => panic!("{refused:?}"),
        }
    }

    fn refusal(message: &[u8]) -> (Rcode, bool) {
        match parse(message) {
            Parsed::Refuse(head, rcode) => (rcode, !head.question.is_empty()),
            taken @ (Parsed::Query(_) | Parsed::Silence(_)) => panic!("{taken:?}"),
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
            let message = message(0, ONE_ADDITIONAL, &opt(payload, 0, DO, &[]));
            let head = query(&message).head;
            assert_eq!(head.udp_limit(), limit);
            assert!(head.edns.unwrap().dnssec_ok);
        }
    }

    #[test]
    fn options_are_passed_over_if_they_are_whole() {
        let whole = opt(1232, 0, 0, &[0, 100, 0, 2, 1, 2, 0, 10, 0, 0]);
        query(&message(0, ONE_ADDITIONAL, &whole));
        for torn in [&[0][..], &[0, 100, 0], &[0, 100, 0, 3, 1, 2]] {
            let message = message(0, ONE_ADDITIONAL, &opt(1232, 0, 0, torn));
            assert_eq!(refusal(&message), (Rcode::FormErr, true));
        }
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
        for opcode in 1..16 {
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
        let mut additional = b"\xC0\x0C\0\xFA\0\xFF\0\0\0\0\0\x03abc".to_vec();
        additional.extend(opt(1232, 0, 0, &[]));
        let message = message(0, [0, 0, 0, 0, 0, 2], &additional);
        assert!(query(&message).head.edns.is_some());
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
            let mut bytes = message(0, ONE_ADDITIONAL, &opt(1232, 0, DO, &[0, 3, 0, 0]));
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
