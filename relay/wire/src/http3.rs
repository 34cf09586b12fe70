//! The frames that an HTTP/3 peer sends, cut so that whoever reads them holds no more than one of them, and that in one piece: a library
//! keeps whatever it is given before it has done with what came earlier, and of every frame but DATA all of it.
//!
//! ```text
//!   request, or control behind its kind   type varint │ length varint │ payload │ type …      (RFC 9114 sections 6 and 7.1)
//!   what is given on                      └─────────── a frame ───────────────┘
//!                                         └───── of DATA ─────┘ and what comes of its payload
//! ```

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// RFC 9114 sections 7.2.1 and 6.2.1.
const DATA: u64 = 0;
const CONTROL: u64 = 0;

/// A frame is longer than any may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame is longer than any")]
pub struct TooLong;

/// Reads along with one stream.
#[derive(Debug)]
pub struct Frames {
    at: At,
    number: Number,
    /// What has come of what is given on in one piece.
    kept: BytesMut,
    longest: u64,
}

/// What comes next.
#[derive(Clone, Copy, Debug)]
enum At {
    /// What a unidirectional stream is for.
    Kind,
    Type,
    Length {
        of_data: bool,
    },
    /// So much of the payload of DATA.
    Data {
        rest: u64,
    },
    /// The same of a frame that is kept until its end.
    Other {
        rest: u64,
    },
    /// No frames.
    Unframed,
}

impl Frames {
    /// Of a request, of whose frames none but DATA may be longer than so many octets.
    pub fn of_request(longest: u64) -> Self {
        Self {
            at: At::Type,
            number: Number::default(),
            kept: BytesMut::new(),
            longest,
        }
    }

    /// The same of a unidirectional stream.
    pub fn of_unidirectional(longest: u64) -> Self {
        Self {
            at: At::Kind,
            ..Self::of_request(longest)
        }
    }

    /// How many octets have come of what is kept until its end.
    pub fn held(&self) -> usize {
        self.kept.len()
    }

    /// Whether the stream may end here, as no frame is under way.
    pub fn may_end(&self) -> bool {
        self.kept.is_empty() && matches!(self.at, At::Kind | At::Type | At::Unframed)
    }

    /// Takes from the front of `octets` what makes the next piece: a frame, what stands before the payload of DATA, or some of that
    /// payload. DATA without any is left out, as it says nothing. Takes all of them and gives nothing if more have to come first.
    ///
    /// # Errors
    /// If a frame will be too long.
    pub fn next(&mut self, octets: &mut Bytes) -> Result<Option<Bytes>, TooLong> {
        while !octets.is_empty() {
            match self.at {
                At::Kind => {
                    if let Some(kind) = self.number(octets) {
                        self.at = match kind == CONTROL {
                            true => At::Type,
                            false => At::Unframed,
                        };
                        return Ok(Some(self.piece()));
                    }
                }
                At::Type => {
                    if let Some(kind) = self.number(octets) {
                        let of_data = kind == DATA;
                        self.at = At::Length { of_data };
                    }
                }
                At::Length { of_data } => {
                    if let Some(length) = self.number(octets)
                        && let Some(piece) = self.begin(of_data, length)?
                    {
                        return Ok(Some(piece));
                    }
                }
                At::Data { rest } => {
                    let (payload, rest) = take(octets, rest);
                    self.at = match rest {
                        0 => At::Type,
                        _ => At::Data { rest },
                    };
                    return Ok(Some(payload));
                }
                At::Other { rest } => {
                    let (payload, rest) = take(octets, rest);
                    self.kept.extend_from_slice(&payload);
                    if rest == 0 {
                        self.at = At::Type;
                        return Ok(Some(self.piece()));
                    }
                    self.at = At::Other { rest };
                }
                At::Unframed => return Ok(Some(std::mem::take(octets))),
            }
        }
        Ok(None)
    }

    /// A frame is to have so much payload.
    fn begin(&mut self, of_data: bool, rest: u64) -> Result<Option<Bytes>, TooLong> {
        if !of_data && rest > self.longest {
            return Err(TooLong);
        }
        self.at = match (of_data, rest) {
            (_, 0) => At::Type,
            (true, rest) => At::Data { rest },
            (false, rest) => At::Other { rest },
        };
        if of_data && rest == 0 {
            self.kept.clear();
        }
        let is_piece = !self.kept.is_empty() && (of_data || rest == 0);
        Ok(is_piece.then(|| self.piece()))
    }

    fn number(&mut self, octets: &mut Bytes) -> Option<u64> {
        while let Some(&octet) = octets.first() {
            octets.advance(1);
            self.kept.put_u8(octet);
            if let Some(number) = self.number.push(octet) {
                return Some(number);
            }
        }
        None
    }

    fn piece(&mut self) -> Bytes {
        self.kept.split().freeze()
    }
}

/// As many from the front as there are of `rest`, and what is left of that.
fn take(octets: &mut Bytes, rest: u64) -> (Bytes, u64) {
    let here = usize::try_from(rest).map_or(octets.len(), |rest| rest.min(octets.len()));
    let taken = octets.split_to(here);
    (taken, rest.saturating_sub(here as u64))
}

/// A number that comes octet by octet (RFC 9000 section 16).
#[derive(Debug, Default)]
struct Number {
    value: u64,
    /// Octets still to come; none has come if it is 0.
    left: u8,
}

impl Number {
    fn push(&mut self, octet: u8) -> Option<u64> {
        if self.left == 0 {
            self.value = u64::from(octet & 0x3f);
            self.left = match octet >> 6 {
                0 => 0,
                1 => 1,
                2 => 3,
                _ => 7,
            };
        } else {
            self.value = self.value << 8 | u64::from(octet);
            self.left = self.left.saturating_sub(1);
        }
        (self.left == 0).then_some(self.value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flow::put_number;

    const LONGEST: u64 = 1000;
    const HEADERS: u64 = 1;

    fn frame(kind: u64, length: u64, payload: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        put_number(kind, &mut frame);
        put_number(length, &mut frame);
        frame.resize(frame.len() + payload, 0xff);
        frame
    }

    /// Everything that is given on of octets that come in such portions.
    fn given(frames: &mut Frames, octets: &[u8], portion: usize) -> Result<Vec<Bytes>, TooLong> {
        let mut given = Vec::new();
        for portion in octets.chunks(portion) {
            let mut portion = Bytes::copy_from_slice(portion);
            while let Some(piece) = frames.next(&mut portion)? {
                given.push(piece);
            }
        }
        Ok(given)
    }

    fn all(frames: &mut Frames, octets: &[u8]) -> Result<Vec<Bytes>, TooLong> {
        given(frames, octets, usize::MAX)
    }

    #[test]
    fn a_frame_is_held_until_its_end_and_data_is_not() {
        let mut frames = Frames::of_request(LONGEST);
        let headers = frame(HEADERS, 900, 900);
        let (first, second) = headers.split_at(503);
        assert_eq!(all(&mut frames, first), Ok(vec![]));
        assert_eq!((frames.held(), frames.may_end()), (503, false));
        assert_eq!(all(&mut frames, second), Ok(vec![headers.clone().into()]));
        assert_eq!((frames.held(), frames.may_end()), (0, true));
        let data = frame(DATA, 1 << 40, 5000);
        let (before, payload) = data.split_at(9);
        let pieces = vec![Bytes::copy_from_slice(before), payload.to_vec().into()];
        assert_eq!(all(&mut frames, &data), Ok(pieces));
        assert_eq!((frames.held(), frames.may_end()), (0, false));
        let mut frames = Frames::of_request(LONGEST);
        assert!(all(&mut frames, &frame(77, LONGEST, 1000)).is_ok());
        assert_eq!(all(&mut frames, &frame(77, LONGEST + 1, 0)), Err(TooLong));
    }

    #[test]
    fn data_that_is_empty_is_left_out_and_other_frames_are_not() {
        let mut frames = Frames::of_request(LONGEST);
        let octets = [frame(DATA, 0, 0), frame(HEADERS, 0, 0), frame(DATA, 0, 0)].concat();
        assert_eq!(
            all(&mut frames, &octets),
            Ok(vec![frame(HEADERS, 0, 0).into()])
        );
        assert!(frames.may_end());
        assert_eq!(all(&mut frames, &[0]), Ok(vec![]));
        assert!(!frames.may_end());
    }

    #[test]
    fn only_the_control_stream_of_those_in_one_direction_has_frames() {
        let long = frame(4, LONGEST + 1, 0);
        let mut control = Frames::of_unidirectional(LONGEST);
        assert_eq!(all(&mut control, &[&[0], &long[..]].concat()), Err(TooLong));
        let mut encoder = Frames::of_unidirectional(LONGEST);
        let pieces = vec![Bytes::from_static(&[2]), long.clone().into()];
        assert_eq!(all(&mut encoder, &[&[2], &long[..]].concat()), Ok(pieces));
        assert!(encoder.may_end());
    }

    proptest! {
        #[test]
        fn it_does_not_matter_in_what_portions_they_come(
            sent in prop::collection::vec((0..9_u64, 0..1200_u64), 0..8),
            portion in 1..300_usize,
        ) {
            let sent: Vec<u8> = sent.into_iter().flat_map(|(kind, length)| frame(kind, length, length as usize)).collect();
            let (mut at_once, mut in_portions) = (Frames::of_request(LONGEST), Frames::of_request(LONGEST));
            let whole = all(&mut at_once, &sent).map(|pieces| pieces.concat());
            let parts = given(&mut in_portions, &sent, portion).map(|pieces| pieces.concat());
            prop_assert_eq!(whole, parts);
            prop_assert_eq!(at_once.held(), in_portions.held());
        }

        #[test]
        fn whatever_comes_is_read_and_no_more_is_held_than_may_be(
            sent in prop::collection::vec(any::<u8>(), 0..2000),
            is_request: bool,
        ) {
            let mut frames = match is_request {
                true => Frames::of_request(LONGEST),
                false => Frames::of_unidirectional(LONGEST),
            };
            let _ = all(&mut frames, &sent);
            prop_assert!(frames.held() <= LONGEST as usize + 16);
        }
    }
}
