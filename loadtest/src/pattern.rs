//! A body whose every octet is known by where it stands, so that whoever gets it can say whether it is whole.

use std::io;

use bytes::{BufMut as _, Bytes, BytesMut};

/// Odd, so that of 2^64 words no two are alike: what is lost, doubled or moved shows.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The word with that number.
fn word(number: u64) -> [u8; 8] {
    number.wrapping_mul(STEP).to_le_bytes()
}

/// A body from `at`, which stands at the beginning of a word, up to `end`, in portions of `portion` octets, a multiple of eight.
pub(crate) fn portions(mut at: u64, end: u64, portion: usize) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let left = end.checked_sub(at).filter(|left| *left > 0)?;
        let mut octets = BytesMut::with_capacity(portion);
        for number in at / 8..(at + portion as u64) / 8 {
            octets.put_slice(&word(number));
        }
        octets.truncate(usize::try_from(left).unwrap_or(portion));
        at += octets.len() as u64;
        Some(octets.freeze())
    })
}

/// What has come of a body.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub(crate) length: u64,
}

impl Checked {
    /// Takes what comes next.
    ///
    /// # Errors
    /// If it is not what was sent.
    pub(crate) fn take(&mut self, octets: &[u8]) -> io::Result<()> {
        let within = (self.length % 8) as usize;
        let (head, rest) = octets.split_at(octets.len().min((8 - within) % 8));
        let number = self.length / 8;
        let mut is_right = head == &word(number)[within..within + head.len()];
        let mut number = self.length.div_ceil(8);
        let mut words = rest.chunks_exact(8);
        for octets in words.by_ref() {
            is_right &= octets == word(number);
            number += 1;
        }
        let tail = words.remainder();
        is_right &= tail == &word(number)[..tail.len()];
        if !is_right {
            let (from, count) = (self.length, octets.len());
            let words = format!("of {count} octets from {from} on not all are as they were sent");
            return Err(io::Error::new(io::ErrorKind::InvalidData, words));
        }
        self.length += octets.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: u64 = 1003;

    fn body() -> Vec<u8> {
        portions(0, LENGTH, 64).flatten().collect()
    }

    #[test]
    fn a_whole_body_is_right_however_it_is_cut() {
        for size in [1, 3, 7, 8, 9, 64, 500, 2000] {
            let mut checked = Checked::default();
            for piece in body().chunks(size) {
                checked.take(piece).unwrap();
            }
            assert_eq!(checked.length, LENGTH, "in pieces of {size}");
        }
    }

    #[test]
    fn an_octet_that_is_another_is_noticed_wherever_it_is() {
        for size in [1, 7, 64] {
            for at in 0..LENGTH as usize {
                let mut body = body();
                body[at] ^= 1;
                let mut checked = Checked::default();
                let wrong = body.chunks(size).any(|piece| checked.take(piece).is_err());
                assert!(wrong, "at {at} in pieces of {size}");
            }
        }
    }

    #[test]
    fn what_is_lost_or_moved_is_noticed() {
        let body = body();
        let mut checked = Checked::default();
        checked.take(&body[..64]).unwrap();
        assert!(checked.take(&body[72..]).is_err());
    }
}
