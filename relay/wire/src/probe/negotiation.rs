//! A QUIC packet of a version that nobody has, of any length, and the answer to it: each server names the versions that it has, and
//! keeps nothing of who asked (RFC 9000 section 6).
//!
//! ```text
//!   question   0xc0 │ version 4 │ 8 │ destination id 8 │ 8 │ source id 8 │ zeros, to its length
//!   answer     1xxxxxxx │ 0 4 │ 8 │ source id 8 │ …
//! ```

use crate::cursor::Cursor;

/// RFC 9000 section 15: of a form that is never given out.
const VERSION: [u8; 4] = [0x6a, 0x7a, 0x8a, 0x9a];

/// What tells questions apart, in octets.
pub const ID_LENGTH: usize = 8;

/// RFC 9000 section 6.1: a shorter one gets no answer.
pub const SHORTEST: usize = 1200;

/// A question of `length` octets; of fewer than [`SHORTEST`] it is that long. What `to` says decides no more than which worker of the
/// server answers.
pub fn question(to: [u8; ID_LENGTH], id: [u8; ID_LENGTH], length: usize) -> Vec<u8> {
    let mut question = vec![0xc0];
    question.extend_from_slice(&VERSION);
    for id in [to, id] {
        question.push(ID_LENGTH as u8);
        question.extend_from_slice(&id);
    }
    question.resize(length.max(SHORTEST), 0);
    question
}

/// The id of the question that `datagram` answers; `None` if it is no answer.
pub fn answer(datagram: &[u8]) -> Option<[u8; ID_LENGTH]> {
    let mut rest = Cursor(datagram);
    let (form, version, length) = (rest.u8()?, rest.u32()?, rest.u8()?);
    let is_answer = form >= 0x80 && version == 0 && usize::from(length) == ID_LENGTH;
    let id = rest.number()?;
    is_answer.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_as_long_as_it_is_to_be_and_an_answer_says_which_it_was() {
        for (asked, length) in [(0, 1200), (1200, 1200), (1472, 1472)] {
            assert_eq!(question([1; 8], [2; 8], asked).len(), length);
        }
        let mut octets = vec![0xd5, 0, 0, 0, 0, 8];
        octets.extend_from_slice(&[2; 8]);
        octets.push(8);
        octets.extend_from_slice(&[1; 8]);
        octets.extend_from_slice(&[0, 0, 0, 1]);
        assert_eq!(answer(&octets), Some([2; 8]));
        octets[4] = 1;
        assert_eq!(answer(&octets), None, "that is version 1");
        assert_eq!(answer(&question([1; 8], [2; 8], 0)), None);
        assert_eq!(answer(&[0x80, 0, 0, 0, 0, 8, 2]), None);
    }
}
