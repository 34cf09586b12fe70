//! Questions without an end, and how each is to be answered.

use std::sync::Arc;

use crate::question::{DO, MAX_QUESTION, NAME_ERROR, NO_ERROR, OPT, question};

/// One question after the other, without an end.
#[derive(Clone, Debug)]
pub(super) enum Questions {
    /// Those of a list in turn, all to be answered alike.
    Listed {
        questions: Arc<[Box<[u8]>]>,
        rcode: u8,
        next: usize,
    },
    /// At random.
    Drawn(Drawn),
}

/// Questions for the addresses of a zone's numbered names, A or AAAA, each as likely as any other.
#[derive(Clone, Debug)]
pub(super) struct Drawn {
    /// The question for the first name.
    first: Box<[u8]>,
    names: u64,
    /// So many of ten are for names that do not exist.
    misses: u64,
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
    pub(super) fn next(&mut self, out: &mut [u8; MAX_QUESTION]) -> (usize, u8) {
        match self {
            Self::Listed {
                questions,
                rcode,
                next,
            } => {
                *next = (*next + 1) % questions.len();
                let question = &questions[*next];
                out[..question.len()].copy_from_slice(question);
                (question.len(), *rcode)
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
    pub(super) fn new(zone: &str, names: u32, misses: u64, dnssec: bool) -> Option<Self> {
        let mut first = question(&format!("h{:0>1$}.{zone}", 0, Self::DIGITS))?;
        if dnssec {
            let opt = first.len() - OPT.len();
            first[opt + DO.0] |= DO.1;
        }
        Some(Self {
            first,
            names: names.into(),
            misses,
            random: 0x9e37_79b9_7f4a_7c15,
        })
    }

    fn next(&mut self, out: &mut [u8; MAX_QUESTION]) -> (usize, u8) {
        let length = self.first.len();
        out[..length].copy_from_slice(&self.first);
        let random = self.random();
        // Different bits for each decision.
        let mut number = ((random >> 32) * self.names) >> 32;
        for digit in out[Self::AT..Self::AT + Self::DIGITS].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        if random & 1 == 1 {
            out[length - OPT.len() - 3] = 28; // AAAA
        }
        if ((random >> 1 & 0xffff) * 10) >> 16 < self.misses {
            out[Self::AT - 1] = b'x';
            return (length, NAME_ERROR);
        }
        (length, NO_ERROR)
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
            rcode: NAME_ERROR,
            next: 0,
        };
        let mut out = [0; MAX_QUESTION];
        for expected in [&list[1], &list[0], &list[1]] {
            let (length, rcode) = questions.next(&mut out);
            assert_eq!((&out[..length], rcode), (&**expected, NAME_ERROR));
        }
    }

    #[test]
    fn drawn_questions_are_for_every_name_both_families_and_as_many_others_as_wanted() {
        let mut drawn = Drawn::new("a.test", 12, 1, true).unwrap();
        let mut out = [0; MAX_QUESTION];
        let (mut seen, mut misses) = (HashSet::new(), 0);
        for _ in 0..10_000 {
            let (length, rcode) = drawn.next(&mut out);
            assert_eq!(length, out[..].len().min(12 + 8 + 1 + 8 + 4 + OPT.len()));
            let name = str::from_utf8(&out[13..21]).unwrap();
            let number: usize = name[1..].parse().unwrap();
            assert!(number < 12);
            assert_eq!(name.starts_with('x'), rcode == NAME_ERROR, "{name}");
            assert_eq!(out[length - 4], 0x80, "the DO flag");
            misses += usize::from(rcode == NAME_ERROR);
            seen.insert((name.to_owned(), out[length - OPT.len() - 3]));
        }
        assert!((800..1200).contains(&misses), "{misses}");
        assert_eq!(seen.len(), 2 * 2 * 12);
        assert!(seen.contains(&("h0000011".to_owned(), 28)));
    }
}
