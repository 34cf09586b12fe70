//! What stands in a log: a certificate, or what is to become one (RFC 6962 section 3.4).
//!
//! ```text
//!   version 0 · leaf type 0 · when, 8 octets · kind 0: length, 3 octets · certificate                       · extensions
//!                                              kind 1: issuer's key, 32 octets · length, 3 · what is signed · extensions
//! ```

use std::borrow::Cow;

use data_encoding::BASE64;
use serde::Deserialize;

use crate::Nonsense;
use crate::certificate::{Certificate, Unreadable};
use crate::tree::{Hash, leaf_hash};

/// An entry of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its hash, by which it stands in the tree.
    pub hash: Hash,
    /// What it is about. Logs take certificates that not everybody can read.
    pub certificate: Result<Certificate, Unreadable>,
}

#[derive(Deserialize)]
struct Told<'a> {
    #[serde(borrow)]
    entries: Vec<ToldEntry<'a>>,
}

/// The chain in `extra_data` is nobody's concern here.
#[derive(Deserialize)]
struct ToldEntry<'a> {
    #[serde(borrow)]
    leaf_input: Cow<'a, str>,
}

/// An answer to get-entries (RFC 6962 section 4.6), at most so many of them.
///
/// # Errors
/// If it is something else.
pub fn read_entries(json: &[u8], most: usize) -> Result<Vec<Entry>, Nonsense> {
    let told: Told<'_> = serde_json::from_slice(json).map_err(|_| Nonsense::Json)?;
    let entries = told.entries.iter().take(most);
    entries
        .map(|entry| {
            let octets = BASE64.decode(entry.leaf_input.as_bytes());
            Entry::read(&octets.map_err(|_| Nonsense::Entry)?)
        })
        .collect()
}

impl Entry {
    /// A `MerkleTreeLeaf`.
    ///
    /// # Errors
    /// If it is none.
    pub fn read(octets: &[u8]) -> Result<Self, Nonsense> {
        let certificate = contents(octets).ok_or(Nonsense::Entry)?;
        Ok(Self {
            hash: leaf_hash(octets),
            certificate,
        })
    }
}

fn contents(octets: &[u8]) -> Option<Result<Certificate, Unreadable>> {
    let ([0, 0, _when @ .., 0, kind], rest) = octets.split_first_chunk::<12>()? else {
        return None;
    };
    let (certificate, rest) = match kind {
        0 => {
            let (certificate, rest) = long(rest)?;
            (Certificate::read(certificate), rest)
        }
        1 => {
            let (_issuer, rest) = rest.split_at_checked(32)?;
            let (signed, rest) = long(rest)?;
            (Certificate::read_signed(signed), rest)
        }
        _ => return None,
    };
    let (length, extensions) = rest.split_first_chunk::<2>()?;
    let is_whole = usize::from(u16::from_be_bytes(*length)) == extensions.len();
    is_whole.then_some(certificate)
}

/// What a length of 3 octets stands before, and what comes after it.
fn long(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let ([high, middle, low], rest) = octets.split_first_chunk()?;
    let length = u32::from_be_bytes([0, *high, *middle, *low]);
    rest.split_at_checked(usize::try_from(length).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(kind: u8, of_kind: &[u8], contents: &[u8]) -> Vec<u8> {
        let length = u32::try_from(contents.len()).unwrap().to_be_bytes();
        let head = [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, kind];
        [&head[..], of_kind, &length[1..], contents, &[0, 0]].concat()
    }

    #[test]
    fn an_entry_is_whole_or_none() {
        let good = leaf(0, &[], b"no certificate");
        let entry = Entry::read(&good).unwrap();
        assert_eq!(entry.hash, leaf_hash(&good));
        assert!(entry.certificate.is_err());
        assert!(Entry::read(&leaf(1, &[0; 32], b"nor this")).is_ok());
        for end in 0..good.len() {
            assert_eq!(Entry::read(&good[..end]), Err(Nonsense::Entry));
        }
        assert!(Entry::read(&[&good[..], &[0]].concat()).is_err());
        assert!(Entry::read(&leaf(2, &[], b"")).is_err());
    }

    #[test]
    fn no_more_are_read_than_were_asked_for() {
        let one = BASE64.encode(&leaf(0, &[], b""));
        let json = format!(
            r#"{{"entries":[{{"leaf_input":"{one}","extra_data":""}},{{"leaf_input":"{one}"}}]}}"#
        );
        assert_eq!(read_entries(json.as_bytes(), 1).map(|e| e.len()), Ok(1));
        assert_eq!(read_entries(json.as_bytes(), 9).map(|e| e.len()), Ok(2));
        for bad in [
            "",
            "{}",
            r#"{"entries":[{"leaf_input":"?"}]}"#,
            r#"{"entries":[{}]}"#,
        ] {
            assert!(read_entries(bad.as_bytes(), 9).is_err(), "{bad}");
        }
    }
}
