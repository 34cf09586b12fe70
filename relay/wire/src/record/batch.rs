//! Sealed batches of records, one behind the other in a file. Each stands alone: whoever has the key opens any of them.
//!
//! ```text
//!    0   magic 8 │ version 1 │ stream 1 │ flags 1      flags: 1 = the last of its run
//!   11   day 4 │ run 8 │ sequence 8                    day: since 1970-01-01, UTC
//!   31   key 8 │ length 4                              key: which one it is sealed to; length: of what is sealed
//!   43   encapsulated 32                               HPKE's (RFC 9180 section 4.1)
//!   75   sealed                                        [`Contents`](super::Contents), bound to octets 0 to 42
//! ```
//!
//! A run is one life of the process that wrote, and numbers its batches from 0 in each stream, whatever day they belong to:
//! what was cut out, repeated or moved shows in the numbers. A run that ends in order says so in its last batch. A reader that meets
//! damage looks for the next magic.

use super::Stream;

/// What every batch begins with. No text has it, and a copy that changes line ends breaks it.
pub const MAGIC: [u8; 8] = *b"\x89CWR\r\n\x1a\n";

/// The version that is written, and the only one that is read.
pub const VERSION: u8 = 1;

/// What stands before the encapsulated key, and is bound to what is sealed.
pub const BOUND: usize = 43;

/// What stands before the sealed octets.
pub const HEADER: usize = 75;

/// More is never sealed at once: what a reader has to hold, and what a damaged length can cost it.
pub const MAX_SEALED: usize = 64 * 1024;

const LAST: u8 = 1;

/// What a batch says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which stream it is part of.
    pub stream: Stream,
    /// No other of its run and stream comes behind it.
    pub is_last: bool,
    /// The day on which it was sealed, counted from 1970-01-01.
    pub day: u32,
    /// Which process sealed it.
    pub run: Run,
    /// The how many-th of its run and stream it is, from 0.
    pub sequence: u64,
    /// The key it is sealed to.
    pub key: KeyId,
    /// How many octets are sealed.
    pub length: u32,
}

/// One life of a process that writes records: when it began (six octets, milliseconds since 1970) and two that are random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run(pub [u8; 8]);

impl Run {
    /// One that began at this moment, in milliseconds since 1970.
    pub fn at(ms: u64, random: [u8; 2]) -> Self {
        let [a, b, c, d, e, f] = super::time(ms);
        let [g, h] = random;
        Self([a, b, c, d, e, f, g, h])
    }
}

/// Which public key a batch is sealed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 8]);

impl Header {
    /// The octets to which what is sealed is bound.
    pub fn write(&self) -> [u8; BOUND] {
        let mut octets = [0; BOUND];
        let parts: [&[u8]; 7] = [
            &MAGIC,
            &[
                VERSION,
                self.stream.to_octet(),
                if self.is_last { LAST } else { 0 },
            ],
            &self.day.to_be_bytes(),
            &self.run.0,
            &self.sequence.to_be_bytes(),
            &self.key.0,
            &self.length.to_be_bytes(),
        ];
        for (octet, written) in octets.iter_mut().zip(parts.into_iter().flatten()) {
            *octet = *written;
        }
        octets
    }
}

/// What octets begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look<'a> {
    /// A batch, if it can be opened.
    Batch(Batch<'a>),
    /// A batch of another version, or of none. Another may begin behind so many octets.
    OtherVersion {
        /// Which.
        version: u8,
        /// How many octets hold no beginning of another; at least one.
        skip: usize,
    },
    /// No batch. One may begin behind so many octets.
    Nothing {
        /// How many; at least one.
        skip: usize,
    },
    /// A batch may begin here, and goes on behind these octets.
    NeedMore,
}

/// A whole batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    /// What it says of itself. Not to be believed before it has been opened.
    pub header: Header,
    /// What the sealed octets are bound to.
    pub bound: &'a [u8; BOUND],
    /// HPKE's encapsulated key.
    pub encapsulated: &'a [u8; HEADER - BOUND],
    /// What only the key opens.
    pub sealed: &'a [u8],
}

impl Batch<'_> {
    /// How many octets it takes.
    pub fn length(&self) -> usize {
        self.sealed.len().saturating_add(HEADER)
    }
}

/// Says what `octets` begin with.
pub fn look(octets: &[u8]) -> Look<'_> {
    let Some((magic, rest)) = octets.split_first_chunk() else {
        return if MAGIC.starts_with(octets) {
            Look::NeedMore
        } else {
            Look::Nothing { skip: skip(octets) }
        };
    };
    if *magic != MAGIC {
        return Look::Nothing { skip: skip(octets) };
    }
    let Some(version) = rest.first() else {
        return Look::NeedMore;
    };
    if *version != VERSION {
        return Look::OtherVersion {
            version: *version,
            skip: skip(octets),
        };
    }
    let Some((bound, rest)) = octets.split_first_chunk() else {
        return Look::NeedMore;
    };
    let Some(header) = read(bound) else {
        return Look::Nothing { skip: skip(octets) };
    };
    let Some((encapsulated, rest)) = rest.split_first_chunk() else {
        return Look::NeedMore;
    };
    let length = usize::try_from(header.length).unwrap_or(usize::MAX);
    match rest.get(..length) {
        Some(sealed) => Look::Batch(Batch {
            header,
            bound,
            encapsulated,
            sealed,
        }),
        None => Look::NeedMore,
    }
}

/// How many octets, from the first on, hold no beginning of a batch but for the first: at least one, unless there is none.
pub fn skip(octets: &[u8]) -> usize {
    let mut at = 1;
    while let Some(rest) = octets.get(at..) {
        let known = rest.len().min(MAGIC.len());
        if rest.get(..known) == MAGIC.get(..known) {
            break; // at the end of the octets, where nothing is known of the rest, too
        }
        at = at.saturating_add(1);
    }
    at.min(octets.len())
}

/// A header whose magic and version are known already.
fn read(octets: &[u8; BOUND]) -> Option<Header> {
    let mut octets = super::Octets(octets);
    octets.take::<9>()?;
    let [stream, flags] = octets.take()?;
    let header = Header {
        stream: Stream::from_octet(stream)?,
        is_last: flags == LAST,
        day: u32::from_be_bytes(octets.take()?),
        run: Run(octets.take()?),
        sequence: u64::from_be_bytes(octets.take()?),
        key: KeyId(octets.take()?),
        length: u32::from_be_bytes(octets.take()?),
    };
    let fits = usize::try_from(header.length).is_ok_and(|length| length <= MAX_SEALED);
    (fits && flags & !LAST == 0).then_some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(sequence: u64, length: u32) -> Header {
        Header {
            stream: Stream::Full,
            is_last: sequence == 9,
            day: 20_784,
            run: Run::at(1_795_000_000_123, [1, 2]),
            sequence,
            key: KeyId([5; 8]),
            length,
        }
    }

    fn batch(sequence: u64) -> Vec<u8> {
        let mut octets = header(sequence, 20).write().to_vec();
        octets.extend([6; HEADER - BOUND]);
        octets.extend([7; 20]);
        octets
    }

    #[test]
    fn a_batch_is_read_as_it_was_written_and_never_before_it_is_whole() {
        let octets = [batch(9), batch(3)].concat();
        for length in 0..HEADER + 20 {
            assert_eq!(look(&octets[..length]), Look::NeedMore, "{length}");
        }
        for length in HEADER + 20..octets.len() {
            let Look::Batch(found) = look(&octets[..length]) else {
                panic!("{length}");
            };
            assert_eq!(found.header, header(9, 20));
            assert_eq!(found.sealed, [7; 20]);
            assert_eq!(found.length(), HEADER + 20);
        }
    }

    #[test]
    fn what_is_no_batch_is_passed_over_to_the_next_that_may_be_one() {
        let whole = batch(1);
        for junk in 1..40 {
            let octets = [&vec![MAGIC[0]; junk][..], &whole].concat();
            let mut at = 0;
            while let Look::Nothing { skip } = look(&octets[at..]) {
                at += skip;
            }
            assert_eq!(at, junk);
        }
        // Nor is a beginning missed that is itself at the end.
        for known in 1..MAGIC.len() {
            let octets = [b"junk", &MAGIC[..known]].concat();
            assert_eq!(look(&octets), Look::Nothing { skip: 4 }, "{known}");
        }
    }

    #[test]
    fn other_versions_streams_flags_and_lengths_are_not_taken_for_ours() {
        let octets = batch(0);
        let changed = |at: usize, to: u8| {
            let mut octets = octets.clone();
            octets[at] = to;
            octets
        };
        let all = octets.len();
        assert_eq!(
            look(&changed(8, 2)),
            Look::OtherVersion {
                version: 2,
                skip: all
            }
        );
        for (at, to) in [(0, 0), (9, 2), (10, 2), (40, 1)] {
            assert_eq!(look(&changed(at, to)), Look::Nothing { skip: all }, "{at}");
        }
    }
}
