//! The frames that an HTTP/2 visitor sends, as far as it takes to see that the head of a request has begun and has not ended: what
//! reads them says nothing before it has all of it.
//!
//! ```text
//!   preface 24 │ length 3 │ type 1 │ flags 1 │ stream 4 │ payload │ length 3 …      (RFC 9113 sections 3.4 and 4.1)
//! ```

/// Octets of the preface, and of what stands before a payload.
const PREFACE: u32 = 24;
const FRAME_HEAD: u32 = 9;

/// Types of frames, and the flag of both for the end of a head (sections 6.2 and 6.10).
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Reads along.
#[derive(Debug)]
pub(super) struct Frames {
    /// Octets of the payload under way that are still to come, or of the preface.
    rest: u32,
    /// What has come of what stands before the next, the last octet lowest, and how much that is.
    frame_head: u128,
    come: u32,
    has_open_head: bool,
    /// A head ends with the payload under way.
    ends_head: bool,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            rest: PREFACE,
            frame_head: 0,
            come: 0,
            has_open_head: false,
            ends_head: false,
        }
    }

    /// Whether a head has begun that has not ended.
    pub(super) fn has_open_head(&self) -> bool {
        self.has_open_head
    }

    /// These come next. Whether a head ends in them.
    pub(super) fn read(&mut self, mut octets: &[u8]) -> bool {
        let mut has_ended = false;
        loop {
            let here = u32::try_from(octets.len()).unwrap_or(u32::MAX);
            let passed = self.rest.min(here);
            self.rest -= passed;
            octets = octets.get(passed as usize..).unwrap_or_default();
            if self.rest == 0 && self.ends_head {
                (self.has_open_head, self.ends_head) = (false, false);
                has_ended = true;
            }
            let Some((octet, others)) = octets.split_first() else {
                return has_ended;
            };
            octets = others;
            self.frame_head = self.frame_head << 8 | u128::from(*octet);
            self.come += 1;
            if self.come == FRAME_HEAD {
                self.begin();
            }
        }
    }

    /// All that stands before a payload has come.
    fn begin(&mut self) {
        let [.., l1, l2, l3, kind, flags, _, _, _, _] = self.frame_head.to_be_bytes();
        (self.frame_head, self.come) = (0, 0);
        self.rest = u32::from_be_bytes([0, l1, l2, l3]);
        if kind == HEADERS || kind == CONTINUATION {
            self.has_open_head = true;
            self.ends_head = flags & END_HEADERS != 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: u8 = 4;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        frame.resize(frame.len() + usize::from(length), 0xff);
        frame
    }

    fn come() -> Frames {
        let mut frames = Frames::new();
        let ended = frames.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        assert!(!ended && !frames.has_open_head());
        frames
    }

    #[test]
    fn a_head_is_open_from_its_first_frame_to_the_end_of_its_last() {
        let mut frames = come();
        assert!(!frames.read(&frame(SETTINGS, END_HEADERS, 30)));
        assert!(!frames.has_open_head());
        assert!(!frames.read(&frame(HEADERS, 0, 20)));
        assert!(frames.has_open_head());
        assert!(!frames.read(&frame(CONTINUATION, 0, 0)));
        assert!(frames.has_open_head());
        assert!(frames.read(&frame(CONTINUATION, END_HEADERS, 0)));
        assert!(!frames.has_open_head());

        let whole = frame(HEADERS, END_HEADERS, 255);
        let (part, rest) = whole.split_at(whole.len() - 1);
        assert!(!frames.read(part));
        assert!(frames.has_open_head());
        assert!(frames.read(&[rest, &frame(HEADERS, 0, 1)].concat()));
        assert!(frames.has_open_head());
    }

    proptest! {
        #[test]
        fn it_does_not_matter_in_what_portions_they_come(
            sent in prop::collection::vec((0..12u8, any::<u8>(), any::<u8>()), 0..20),
            portion in 1..300usize,
        ) {
            let sent: Vec<u8> = sent.into_iter().flat_map(|(kind, flags, length)| frame(kind, flags, length)).collect();
            let (mut at_once, mut in_portions) = (come(), come());
            let ended = at_once.read(&sent);
            let ends = sent.chunks(portion).filter(|portion| in_portions.read(portion)).count();
            prop_assert_eq!(ended, ends > 0);
            prop_assert_eq!(at_once.has_open_head(), in_portions.has_open_head());
        }

        #[test]
        fn whatever_comes_is_read(sent in prop::collection::vec(any::<u8>(), 0..2000)) {
            Frames::new().read(&sent);
        }
    }
}
