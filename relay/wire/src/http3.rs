//! The frames that an HTTP/3 peer sends, as far as it takes to bound what whoever reads them has to hold: of every frame but DATA
//! nothing is said before all of it has come.
//!
//! ```text
//!   request, or control behind its kind   type varint │ length varint │ payload │ type …      (RFC 9114 sections 6 and 7.1)
//! ```

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
    /// Octets of a frame that has not come to its end, DATA apart.
    held: usize,
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
    Payload {
        of_data: bool,
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
            held: 0,
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

    /// How many octets have come of a frame that is held until its end.
    pub fn held(&self) -> usize {
        self.held
    }

    /// These come next.
    ///
    /// # Errors
    /// If a frame will be too long.
    pub fn read(&mut self, mut octets: &[u8]) -> Result<(), TooLong> {
        while let Some((octet, others)) = octets.split_first() {
            match self.at {
                At::Kind => {
                    octets = others;
                    if let Some(kind) = self.number.push(*octet) {
                        self.at = match kind == CONTROL {
                            true => At::Type,
                            false => At::Unframed,
                        };
                    }
                }
                At::Type => {
                    octets = others;
                    self.held = self.held.saturating_add(1);
                    if let Some(kind) = self.number.push(*octet) {
                        let of_data = kind == DATA;
                        self.at = At::Length { of_data };
                    }
                }
                At::Length { of_data } => {
                    octets = others;
                    self.held = self.held.saturating_add(1);
                    if let Some(length) = self.number.push(*octet) {
                        self.begin(of_data, length)?;
                    }
                }
                At::Payload { of_data, rest } => {
                    let here = u64::try_from(octets.len()).unwrap_or(u64::MAX);
                    let passed = usize::try_from(rest.min(here)).unwrap_or(usize::MAX);
                    octets = octets.get(passed..).unwrap_or_default();
                    let rest = rest.saturating_sub(here);
                    self.at = At::Payload { of_data, rest };
                    if !of_data {
                        self.held = self.held.saturating_add(passed);
                    }
                    if rest == 0 {
                        (self.at, self.held) = (At::Type, 0);
                    }
                }
                At::Unframed => return Ok(()),
            }
        }
        Ok(())
    }

    fn begin(&mut self, of_data: bool, rest: u64) -> Result<(), TooLong> {
        if !of_data && rest > self.longest {
            return Err(TooLong);
        }
        if of_data || rest == 0 {
            self.held = 0;
        }
        self.at = match rest {
            0 => At::Type,
            _ => At::Payload { of_data, rest },
        };
        Ok(())
    }
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

    #[test]
    fn a_frame_is_held_until_its_end_and_data_is_not() {
        let mut frames = Frames::of_request(LONGEST);
        frames.read(&frame(HEADERS, 900, 500)).unwrap();
        assert_eq!(frames.held(), 1 + 2 + 500);
        frames.read(&[0; 400]).unwrap();
        assert_eq!(frames.held(), 0);
        frames.read(&frame(DATA, 1 << 40, 5000)).unwrap();
        assert_eq!(frames.held(), 0);
        let mut frames = Frames::of_request(LONGEST);
        frames.read(&frame(DATA, 0, 0)).unwrap();
        frames.read(&frame(77, LONGEST, 1000)).unwrap();
        assert_eq!(frames.read(&frame(77, LONGEST + 1, 0)), Err(TooLong));
    }

    #[test]
    fn only_the_control_stream_of_those_in_one_direction_has_frames() {
        let long = frame(4, LONGEST + 1, 0);
        let mut control = Frames::of_unidirectional(LONGEST);
        assert_eq!(control.read(&[&[0], &long[..]].concat()), Err(TooLong));
        let mut encoder = Frames::of_unidirectional(LONGEST);
        assert_eq!(encoder.read(&[&[2], &long[..]].concat()), Ok(()));
        assert_eq!(encoder.held(), 0);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_in_what_portions_they_come(
            sent in prop::collection::vec((0..9_u64, 0..1200_u64), 0..8),
            portion in 1..300_usize,
        ) {
            let sent: Vec<u8> = sent.into_iter().flat_map(|(kind, length)| frame(kind, length, length as usize)).collect();
            let (mut at_once, mut in_portions) = (Frames::of_request(LONGEST), Frames::of_request(LONGEST));
            let whole = at_once.read(&sent);
            let parts = sent.chunks(portion).try_for_each(|portion| in_portions.read(portion));
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
            let _ = frames.read(&sent);
            prop_assert!(frames.held() <= LONGEST as usize + 16);
        }
    }
}
