//! Questions without an end, and how each is to be answered.

use std::sync::Arc;

use crate::question::{
    A, HEADER_LEN, MAX_QUESTION, NAME_ERROR, NO_ERROR, OPT, question, signed_question,
};

/// One question after the other, without an end.
#[derive(Clone, Debug)]
pub(super) enum Questions {
    /// Those of a list in turn, all to be answered alike.
    Listed {
        questions: Arc<[Box<[u8]>]>,
        expected: Expected,
        next: usize,
    },
    /// At random.
    Drawn(Drawn),
}

/// How a question is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// With records.
    Found,
    /// With records and their signatures.
    FoundSigned,
    /// There is no such name.
    Denied,
    /// The same with its proof, which is all that compact denial (RFC 9824) says of it; or over TCP.
    DeniedSigned,
}

impl Expected {
    /// Whether an answer that begins like this is right.
    pub(super) fn is_met_by(self, header: &[u8; HEADER_LEN]) -> bool {
        let rcode = header[3] & 0x0f;
        let is_truncated = header[2] & 0x02 != 0;
        let answers = u16::from_be_bytes([header[6], header[7]]);
        let authorities = u16::from_be_bytes([header[8], header[9]]);
        match self {
            Self::Found => rcode == NO_ERROR && answers > 0,
            Self::FoundSigned => rcode == NO_ERROR && answers > 1,
            Self::Denied => rcode == NAME_ERROR && answers == 0,
            // SOA and NSEC or NSEC3, each with its signature.
            Self::DeniedSigned => answers == 0 && (is_truncated || authorities >= 4),
        }
    }
}

/// What is asked of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Addresses, A or AAAA.
    Addresses,
    /// The same with the DO bit.
    AddressesDo,
    /// A with the DO bit, which is to be answered with signatures.
    Signed,
}

/// Questions for the addresses of a zone's numbered names, each as likely as any other.
#[derive(Clone, Debug)]
pub(super) struct Drawn {
    /// The question for the first name.
    first: Box<[u8]>,
    names: u64,
    /// So many of ten are for names that do not exist.
    misses: u64,
    asked: Asked,
    /// The state of xorshift64.
    random: u64,
}

impl Questions {
    /// Those of one thread of many, which are not those of another one.
    pub(super) fn of_thread(&self, thread: usize, threads: usize) -> Self {
        let mut questions = self.clone();
        match &mut questions {
            Self::Listed {
                questions, next, ..
            } => *next = thread * questions.len() / threads,
            Self::Drawn(drawn) => drawn.random ^= rand::random::<u64>() | 1,
        }
        questions
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Listed { questions, .. } => questions.is_empty(),
            Self::Drawn(drawn) => drawn.names == 0,
        }
    }

    /// Writes the next one to the beginning of `out`. Its length, and how it is to be answered.
    pub(super) fn next(&mut self, out: &mut [u8; MAX_QUESTION]) -> (usize, Expected) {
        match self {
            Self::Listed {
                questions,
                expected,
                next,
            } => {
                *next = (*next + 1) % questions.len();
                let question = &questions[*next];
                out[..question.len()].copy_from_slice(question);
                (question.len(), *expected)
            }
            Self::Drawn(drawn) => drawn.next(out),
        }
    }
}

impl Drawn {
    /// Digits in a name.
    const DIGITS: usize = 7;
    /// Where they stand: behind a header, a length and a letter.
    const AT: usize = 14;

    /// For the names `h0000000.zone` and so on; so many of ten questions are for others. `None` if they can be no names.
    pub(super) fn new(zone: &str, names: u32, misses: u64, asked: Asked) -> Option<Self> {
        let first = format!("h{:0>1$}.{zone}", 0, Self::DIGITS);
        let first = match asked {
            Asked::Addresses => question(&first),
            Asked::AddressesDo | Asked::Signed => signed_question(&first, A),
        };
        Some(Self {
            first: first?,
            names: names.into(),
            misses,
            asked,
            random: 0x9e37_79b9_7f4a_7c15,
        })
    }

    fn next(&mut self, out: &mut [u8; MAX_QUESTION]) -> (usize, Expected) {
        let length = self.first.len();
        out[..length].copy_from_slice(&self.first);
        let random = self.random();
        // Different bits for each decision.
        let mut number = ((random >> 32) * self.names) >> 32;
        for digit in out[Self::AT..Self::AT + Self::DIGITS].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        let is_signed = self.asked == Asked::Signed;
        if random & 1 == 1 && !is_signed {
            out[length - OPT.len() - 3] = 28; // AAAA
        }
        if ((random >> 1 & 0xffff) * 10) >> 16 < self.misses {
            out[Self::AT - 1] = b'x';
            let expected = match is_signed {
                true => Expected::DeniedSigned,
                false => Expected::Denied,
            };
            return (length, expected);
        }
        let expected = match is_signed {
            true => Expected::FoundSigned,
            false => Expected::Found,
        };
        (length, expected)
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn listed_questions_come_in_turn() {
        let list = ["a", "b"].map(|host| question(host).unwrap());
        let mut questions = Questions::Listed {
            questions: Arc::new(list.clone()),
            expected: Expected::Denied,
            next: 0,
        };
        let mut out = [0; MAX_QUESTION];
        for expected in [&list[1], &list[0], &list[1]] {
            let (length, how) = questions.next(&mut out);
            assert_eq!((&out[..length], how), (&**expected, Expected::Denied));
        }
    }

    #[test]
    fn drawn_questions_are_for_every_name_both_families_and_as_many_others_as_wanted() {
        let mut drawn = Drawn::new("a.test", 12, 1, Asked::AddressesDo).unwrap();
        let mut out = [0; MAX_QUESTION];
        let (mut seen, mut misses) = (HashSet::new(), 0);
        for _ in 0..10_000 {
            let (length, expected) = drawn.next(&mut out);
            assert_eq!(length, out[..].len().min(12 + 8 + 1 + 8 + 4 + OPT.len()));
            let name = str::from_utf8(&out[13..21]).unwrap();
            let number: usize = name[1..].parse().unwrap();
            assert!(number < 12);
            assert_eq!(
                name.starts_with('x'),
                expected == Expected::Denied,
                "{name}"
            );
            assert_eq!(out[length - 4], 0x80, "the DO flag");
            misses += usize::from(expected == Expected::Denied);
            seen.insert((name.to_owned(), out[length - OPT.len() - 3]));
        }
        assert!((800..1200).contains(&misses), "{misses}");
        assert_eq!(seen.len(), 2 * 2 * 12);
        assert!(seen.contains(&("h0000011".to_owned(), 28)));
    }

    #[test]
    fn what_is_to_be_signed_is_asked_for_a_alone() {
        let mut drawn = Drawn::new("a.test", 1000, 5, Asked::Signed).unwrap();
        let mut out = [0; MAX_QUESTION];
        for _ in 0..100 {
            let (length, expected) = drawn.next(&mut out);
            let signed = [Expected::FoundSigned, Expected::DeniedSigned];
            assert!(signed.contains(&expected));
            assert_eq!(out[length - OPT.len() - 3], 1, "A");
            assert_eq!(out[length - 4], 0x80, "the DO flag");
        }
    }

    #[test]
    fn an_answer_is_right_if_it_says_what_was_expected() {
        let header = |flags: u8, rcode: u8, answers: u8, authorities: u8| {
            [0, 0, flags, rcode, 0, 1, 0, answers, 0, authorities, 0, 1]
        };
        let found = header(0x84, NO_ERROR, 1, 0);
        let found_signed = header(0x84, NO_ERROR, 2, 0);
        let denied = header(0x84, NAME_ERROR, 0, 1);
        let compact = header(0x84, NO_ERROR, 0, 4);
        let hashed = header(0x84, NAME_ERROR, 0, 8);
        let truncated = header(0x86, NO_ERROR, 0, 0);
        let cases = [
            (Expected::Found, &[found, found_signed][..]),
            (Expected::FoundSigned, &[found_signed]),
            (Expected::Denied, &[denied, hashed]),
            (Expected::DeniedSigned, &[compact, hashed, truncated]),
        ];
        for (expected, right) in cases {
            for answer in [found, found_signed, denied, compact, hashed, truncated] {
                let is_right = right.contains(&answer);
                assert_eq!(
                    expected.is_met_by(&answer),
                    is_right,
                    "{expected:?} {answer:?}"
                );
            }
        }
    }
}
