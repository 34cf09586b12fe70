//! Octets → what each registration has: a snapshot, and the logs that go on from it.

#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use directory::RegistrationId;

use crate::store::record::{Record, read_frame, read_record};
use crate::table::Held;

/// What a log begins with.
pub(super) const LOG_MAGIC: [u8; 8] = *b"cwddnsL\n";
/// What a snapshot begins with.
pub(super) const SNAPSHOT_MAGIC: [u8; 8] = *b"cwddnsS\n";
/// The first octet of a snapshot's last frame, which is no record's.
pub(super) const END: u8 = 0;

/// What each registration has, by its last record.
pub type HeldByRegistration = HashMap<RegistrationId, Held, BuildHasherDefault<InTurn>>;

/// Hashes numbers that are given in turn, and that nobody chooses, so that neighbours are beside each other in memory: devices are read in
/// that order, and of a million the most of a start was waiting for memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct InTurn(u64);

impl Hasher for InTurn {
    fn write_u64(&mut self, number: u64) {
        // A table looks at the lowest bits for the place, and first at the seven highest to tell those who are near each other.
        self.0 = number ^ number.rotate_right(7);
    }

    fn write(&mut self, octets: &[u8]) {
        for octet in octets {
            self.write_u64(self.0.rotate_left(8) ^ u64::from(*octet));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Octets of a record with both addresses, as most are.
const USUAL: usize = 40;

/// What was read of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRead {
    /// How many records.
    pub records: u64,
    /// Octets up to the end of the last good record.
    pub good: usize,
    /// How it ends.
    pub ending: Ending,
}

/// How a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With a whole record.
    Whole,
    /// With octets that are no record: a crash came before their sync, so nobody was told of them.
    Torn,
    /// With a good record of a form that is not known here, or not even as a log begins: another program or version wrote it.
    Foreign,
}

/// Reads a log, in whose light what is known changes; stops at the first octets that are no record.
pub fn read_log(octets: &[u8], known: &mut HeldByRegistration) -> LogRead {
    let mut read = LogRead {
        records: 0,
        good: 0,
        ending: Ending::Whole,
    };
    let Some(mut rest) = octets.strip_prefix(&LOG_MAGIC) else {
        read.ending = beginning(octets);
        return read;
    };
    read.good = LOG_MAGIC.len();
    while !rest.is_empty() {
        let Some((body, behind)) = read_frame(rest) else {
            read.ending = Ending::Torn;
            return read;
        };
        let Some(Record { registration, held }) = read_record(body) else {
            read.ending = Ending::Foreign;
            return read;
        };
        known.insert(registration, held);
        read.records = read.records.saturating_add(1);
        read.good = octets.len().saturating_sub(behind.len());
        rest = behind;
    }
    read
}

/// A log that was just being made when a crash came is short, or zeros stand where its beginning was not written.
fn beginning(octets: &[u8]) -> Ending {
    let begun = octets.get(..LOG_MAGIC.len()).unwrap_or(octets);
    let is_ours = begun
        .iter()
        .zip(LOG_MAGIC)
        .all(|(&octet, ours)| octet == ours || octet == 0);
    match is_ours {
        true => Ending::Torn,
        false => Ending::Foreign,
    }
}

/// What a snapshot says: which log goes on from it, and what each registration had. `None` if it is damaged, or another version
/// wrote it: it was synced before it got its name, so no crash leaves half of one.
pub fn read_snapshot(octets: &[u8]) -> Option<(u64, HeldByRegistration)> {
    let rest = octets.strip_prefix(&SNAPSHOT_MAGIC)?;
    let (first_log, mut rest) = rest.split_first_chunk()?;
    // To grow on the way takes half as much memory again.
    let records = octets.len() / USUAL;
    let mut known = HeldByRegistration::with_capacity_and_hasher(records, Default::default());
    loop {
        let (body, behind) = read_frame(rest)?;
        if body == [END] {
            let whole = behind.is_empty();
            return whole.then_some((u64::from_be_bytes(*first_log), known));
        }
        let Record { registration, held } = read_record(body)?;
        known.insert(registration, held);
        rest = behind;
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use proptest::prelude::*;

    use super::super::record::tests::record;
    use super::super::record::write_frame;
    use super::*;

    fn log(records: &[Record]) -> Vec<u8> {
        let mut octets = LOG_MAGIC.to_vec();
        for record in records {
            record.write(&mut octets);
        }
        octets
    }

    fn snapshot(first_log: u64, records: &[Record]) -> Vec<u8> {
        let mut octets = SNAPSHOT_MAGIC.to_vec();
        octets.extend(first_log.to_be_bytes());
        for record in records {
            record.write(&mut octets);
        }
        write_frame(&[END], &mut octets);
        octets
    }

    fn read(octets: &[u8]) -> (LogRead, HeldByRegistration) {
        let mut known = HeldByRegistration::default();
        (read_log(octets, &mut known), known)
    }

    fn held(records: impl IntoIterator<Item = Record>) -> HeldByRegistration {
        let records = records.into_iter();
        records
            .map(|record| (record.registration, record.held))
            .collect()
    }

    #[test]
    fn the_last_record_of_a_registration_counts() {
        let octets = log(&[
            record(1, Some(1), None),
            record(2, Some(2), Some(2)),
            record(1, None, Some(3)),
            record(2, None, None),
        ]);
        let (read, known) = read(&octets);
        assert_eq!(read.ending, Ending::Whole);
        assert_eq!((read.records, read.good), (4, octets.len()));
        assert_eq!(
            known,
            held([record(1, None, Some(3)), record(2, None, None)])
        );
    }

    #[test]
    fn a_tail_cut_anywhere_is_torn_and_loses_only_itself() {
        let whole = log(&[record(1, Some(1), None)]);
        let octets = log(&[record(1, Some(1), None), record(2, Some(2), Some(2))]);
        for end in whole.len() + 1..octets.len() {
            let (read, _) = read(&octets[..end]);
            assert_eq!(read.ending, Ending::Torn, "{end}");
            assert_eq!(read.good, whole.len());
        }
        let zeros = [&whole[..], &[0; 4096]].concat();
        assert_eq!(read(&zeros).0.ending, Ending::Torn);
    }

    #[test]
    fn a_log_that_was_just_being_made_is_torn_and_another_file_is_foreign() {
        for begun in [&b""[..], b"cwdd", b"cwddnsL", &[0; 8], b"cwd\0\0\0\0\0\0\0"] {
            assert_eq!(read(begun).0.ending, Ending::Torn);
        }
        for other in [&b"hello"[..], b"cwddns1\n", b"cwddnsS\n"] {
            assert_eq!(read(other).0.ending, Ending::Foreign);
        }
        let mut unknown = log(&[record(1, Some(1), None)]);
        write_frame(&[9, 9], &mut unknown);
        assert_eq!(read(&unknown).0.ending, Ending::Foreign);
    }

    #[test]
    fn a_snapshot_is_whole_or_it_is_none() {
        let records = [record(1, Some(2), None), record(2, None, None)];
        let octets = snapshot(7, &records);
        assert_eq!(read_snapshot(&octets), Some((7, held(records))));
        for end in 0..octets.len() {
            assert_eq!(read_snapshot(&octets[..end]), None, "{end}");
        }
        assert_eq!(read_snapshot(&[&octets[..], &[0]].concat()), None);
    }

    proptest! {
        #[test]
        fn no_octets_break_it(octets in prop::collection::vec(any::<u8>(), 0..200)) {
            read(&octets);
            read(&[&LOG_MAGIC[..], &octets].concat());
            read_snapshot(&[&SNAPSHOT_MAGIC[..], &octets].concat());
        }

        #[test]
        fn what_is_written_is_read(
            records in prop::collection::vec((0..5_u64, any::<Option<u8>>(), any::<Option<u8>>()), 0..20),
            flip in any::<Option<(usize, u8)>>(),
        ) {
            let records: Vec<_> = records.into_iter().map(|(r, v4, v6)| record(r, v4, v6)).collect();
            let mut octets = log(&records);
            let records_at = LOG_MAGIC.len();
            match flip {
                Some((at, bits)) if bits != 0 && octets.len() > records_at => {
                    let at = records_at + at % (octets.len() - records_at);
                    octets[at] ^= bits;
                    let (read, _) = read(&octets);
                    prop_assert_eq!(read.ending, Ending::Torn);
                    prop_assert!(read.good <= at);
                }
                _ => prop_assert_eq!(read(&octets).1, held(records)),
            }
        }
    }
}
