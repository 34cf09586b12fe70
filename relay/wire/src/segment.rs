//! What stands on a visitor's stream behind its Open frame: payload, and what the two ends say about its way.
//!
//! ```text
//!   kind 1 │ length 3 │ body
//!
//!   Data    payload
//!   Dial    ticket 16    relay: bring a raw connection for this visitor, and show this
//!   Switch  –            relay: it is here; send what comes next over it
//!   Moved   offset 8     sender: from this octet of the direction on, the payload comes over the raw connection
//!   End     total 8      sender: the direction has ended in order after so many octets, wherever they went
//! ```
//!
//! A direction without an End was cut, whatever became of the connections under it.

use crate::frame::Ticket;

/// Octets in front of each segment's body.
pub const HEADER: usize = 4;

/// The most payload in one segment, in octets.
pub const MAX_DATA: usize = (1 << 24) - 1;

/// The longest body of a segment other than Data. This version's longest is Dial's; a newer one's is skipped.
pub const MAX_BODY: usize = 64;

const DATA: u8 = 0;
const DIAL: u8 = 1;
const SWITCH: u8 = 2;
const MOVED: u8 = 3;
const END: u8 = 4;

/// What the ends of a visitor's stream say to each other beside its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Relay: dial a raw connection, and show this ticket on it.
    Dial(Ticket),
    /// Relay: the raw connection is here; send over it from now on.
    Switch,
    /// The direction goes on over the raw connection from this octet on.
    Moved {
        /// How many octets of payload were sent before, in this direction.
        at: u64,
    },
    /// The direction has ended in order.
    End {
        /// How many octets of payload it had.
        total: u64,
    },
}

/// A notice as octets, its header in front.
#[derive(Clone, Copy, Debug)]
pub struct Encoded {
    octets: [u8; HEADER + 16],
    length: usize,
}

impl AsRef<[u8]> for Encoded {
    fn as_ref(&self) -> &[u8] {
        self.octets.get(..self.length).unwrap_or_default()
    }
}

impl Notice {
    /// The notice as it is sent.
    pub fn encode(&self) -> Encoded {
        match self {
            Self::Dial(ticket) => encode(DIAL, &ticket.0),
            Self::Switch => encode(SWITCH, &[]),
            Self::Moved { at } => encode(MOVED, &at.to_be_bytes()),
            Self::End { total } => encode(END, &total.to_be_bytes()),
        }
    }

    /// `None` for a kind that this version does not know, or a body that its kind cannot have.
    fn decode(kind: u8, body: &[u8]) -> Result<Option<Self>, SegmentError> {
        let malformed = SegmentError::BadBody { kind };
        let number = || body.try_into().map(u64::from_be_bytes);
        Ok(Some(match kind {
            DIAL => Self::Dial(Ticket(body.try_into().map_err(|_| malformed)?)),
            SWITCH if body.is_empty() => Self::Switch,
            SWITCH => return Err(malformed),
            MOVED => Self::Moved {
                at: number().map_err(|_| malformed)?,
            },
            END => Self::End {
                total: number().map_err(|_| malformed)?,
            },
            _ => return Ok(None),
        }))
    }
}

fn encode(kind: u8, body: &[u8]) -> Encoded {
    let mut octets = [0; HEADER + 16];
    let length = u32::try_from(body.len()).unwrap_or_default();
    for (to, from) in octets
        .iter_mut()
        .zip(header(kind, length).iter().chain(body))
    {
        *to = *from;
    }
    Encoded {
        octets,
        length: HEADER.saturating_add(body.len()),
    }
}

/// The header in front of `length` octets of payload. Payload longer than [`MAX_DATA`] takes several segments.
pub fn data_header(length: usize) -> [u8; HEADER] {
    header(
        DATA,
        u32::try_from(length.min(MAX_DATA)).unwrap_or_default(),
    )
}

fn header(kind: u8, length: u32) -> [u8; HEADER] {
    let [_, high, middle, low] = length.to_be_bytes();
    [kind, high, middle, low]
}

/// Why octets are not segments. Always the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// A notice is longer than any.
    #[error("a segment of kind {kind} and {length} octets is longer than any")]
    TooLong {
        /// Its first octet.
        kind: u8,
        /// What it says its body has.
        length: usize,
    },
    /// The body is not one of its kind.
    #[error("a segment of kind {kind} makes no sense")]
    BadBody {
        /// Its first octet.
        kind: u8,
    },
}

/// What the next octets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// So many octets of payload follow, at least one.
    Data(usize),
    /// A notice has been taken.
    Notice(Notice),
    /// All octets have been taken, and more are needed to say.
    NeedMore,
}

/// Reads one direction of a stream, in portions of any size. It holds a few octets and no payload.
#[derive(Debug)]
pub struct Reader {
    held: [u8; HEADER + MAX_BODY],
    length: usize,
    /// Payload that belongs to the last header.
    data: usize,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            held: [0; HEADER + MAX_BODY],
            length: 0,
            data: 0,
        }
    }
}

impl Reader {
    /// Takes from the front of `octets`. Gives how many have been taken, and what then comes: after
    /// [`Piece::Data`] the caller takes that many octets itself before it calls again.
    ///
    /// # Errors
    /// If the octets cannot become segments; the stream is then of no more use.
    pub fn read(&mut self, octets: &[u8]) -> Result<(usize, Piece), SegmentError> {
        let mut taken = 0_usize;
        loop {
            let rest = octets.get(taken..).unwrap_or_default();
            if self.data > 0 {
                let length = self.data.min(rest.len());
                self.data = self.data.saturating_sub(length);
                let piece = match length {
                    0 => Piece::NeedMore,
                    length => Piece::Data(length),
                };
                return Ok((taken, piece));
            }
            let Some(wanted) = self.wanted()? else {
                self.data = self.body_length();
                self.length = 0;
                continue;
            };
            let missing = wanted.saturating_sub(self.length);
            let (free, came) = (
                self.held.get_mut(self.length..),
                rest.get(..missing.min(rest.len())),
            );
            let came = came.unwrap_or_default();
            for (to, from) in free.into_iter().flatten().zip(came) {
                *to = *from;
            }
            taken = taken.saturating_add(came.len());
            self.length = self.length.saturating_add(came.len());
            if came.len() < missing {
                return Ok((taken, Piece::NeedMore));
            }
            if self.is_whole_notice() {
                let body = self.held.get(HEADER..self.length).unwrap_or_default();
                let notice = Notice::decode(self.kind(), body)?;
                self.length = 0;
                if let Some(notice) = notice {
                    return Ok((taken, Piece::Notice(notice)));
                }
            }
        }
    }

    /// Whether the stream may end here: between two segments.
    pub fn is_at_boundary(&self) -> bool {
        self.length == 0 && self.data == 0
    }

    /// How many octets the held segment must have before it can be looked at again; `None` for a whole header of Data.
    fn wanted(&self) -> Result<Option<usize>, SegmentError> {
        if self.length < HEADER {
            return Ok(Some(HEADER));
        }
        let (kind, length) = (self.kind(), self.body_length());
        match kind {
            DATA => Ok(None),
            _ if length > MAX_BODY => Err(SegmentError::TooLong { kind, length }),
            _ => Ok(Some(HEADER.saturating_add(length))),
        }
    }

    fn is_whole_notice(&self) -> bool {
        self.length >= HEADER
            && self.kind() != DATA
            && self.length == HEADER.saturating_add(self.body_length())
    }

    fn kind(&self) -> u8 {
        let [kind, ..] = self.held;
        kind
    }

    fn body_length(&self) -> usize {
        let [_, high, middle, low, ..] = self.held;
        usize::try_from(u32::from_be_bytes([0, high, middle, low])).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    enum Said {
        Data(Vec<u8>),
        Notice(Notice),
    }

    fn encoded(all: &[Said]) -> Vec<u8> {
        let mut octets = Vec::new();
        for said in all {
            match said {
                Said::Data(payload) => {
                    octets.extend(data_header(payload.len()));
                    octets.extend(payload);
                }
                Said::Notice(notice) => octets.extend(notice.encode().as_ref()),
            }
        }
        octets
    }

    /// Reads in portions of the sizes given, over and over; joins payload that stands together.
    fn read(octets: &[u8], sizes: &[usize]) -> Result<Vec<Said>, SegmentError> {
        let mut reader = Reader::default();
        let mut heard = Vec::new();
        let mut sizes = sizes.iter().cycle();
        let mut rest = octets;
        while !rest.is_empty() {
            let size = (*sizes.next().unwrap()).clamp(1, rest.len());
            let (mut portion, after) = rest.split_at(size);
            rest = after;
            loop {
                let (taken, piece) = reader.read(portion)?;
                portion = &portion[taken..];
                match piece {
                    Piece::Data(length) => {
                        let (payload, after) = portion.split_at(length);
                        portion = after;
                        match heard.last_mut() {
                            Some(Said::Data(before)) => before.extend(payload),
                            _ => heard.push(Said::Data(payload.to_vec())),
                        }
                    }
                    Piece::Notice(notice) => heard.push(Said::Notice(notice)),
                    Piece::NeedMore => break,
                }
            }
            assert!(portion.is_empty());
        }
        assert!(reader.is_at_boundary());
        Ok(heard)
    }

    fn said() -> impl Strategy<Value = Said> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 1..300).prop_map(Said::Data),
            any::<[u8; 16]>().prop_map(|ticket| Said::Notice(Notice::Dial(Ticket(ticket)))),
            Just(Said::Notice(Notice::Switch)),
            any::<u64>().prop_map(|at| Said::Notice(Notice::Moved { at })),
            any::<u64>().prop_map(|total| Said::Notice(Notice::End { total })),
        ]
    }

    proptest! {
        #[test]
        fn what_was_said_is_heard_in_any_portions(
            all in prop::collection::vec(said(), 0..20),
            sizes in prop::collection::vec(1_usize..100, 1..10),
        ) {
            let mut joined: Vec<Said> = Vec::new();
            for said in &all {
                match (joined.last_mut(), said) {
                    (Some(Said::Data(before)), Said::Data(more)) => before.extend(more),
                    (_, said) => joined.push(said.clone()),
                }
            }
            prop_assert_eq!(read(&encoded(&all), &sizes).unwrap(), joined);
        }

        #[test]
        fn nothing_panics(octets in prop::collection::vec(any::<u8>(), 0..600), size in 1_usize..40) {
            let mut reader = Reader::default();
            for mut portion in octets.chunks(size) {
                while let Ok((taken, piece)) = reader.read(portion) {
                    portion = &portion[taken..];
                    match piece {
                        Piece::Data(length) => portion = &portion[length..],
                        Piece::Notice(_) => {}
                        Piece::NeedMore => break,
                    }
                }
            }
        }
    }

    #[test]
    fn a_kind_of_a_newer_version_is_skipped() {
        let mut octets = vec![200, 0, 0, 3, 1, 2, 3];
        octets.extend(Notice::Switch.encode().as_ref());
        assert_eq!(read(&octets, &[1]), Ok(vec![Said::Notice(Notice::Switch)]));
    }

    #[test]
    fn nonsense_is_refused() {
        let refused = |octets: &[u8]| Reader::default().read(octets).unwrap_err();
        assert_eq!(
            refused(&[SWITCH, 0, 0, 1, 9]),
            SegmentError::BadBody { kind: SWITCH }
        );
        assert_eq!(
            refused(&[MOVED, 0, 0, 1, 9]),
            SegmentError::BadBody { kind: MOVED }
        );
        let length = MAX_BODY + 1;
        assert_eq!(
            refused(&[END, 0, 0, 65]),
            SegmentError::TooLong { kind: END, length }
        );
    }

    #[test]
    fn empty_payload_is_nothing() {
        assert_eq!(read(&data_header(0), &[4]), Ok(vec![]));
    }
}
