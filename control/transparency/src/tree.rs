//! The Merkle tree of a log (RFC 6962 section 2.1), as much of it as a follower needs.

use data_encoding::BASE64;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::Nonsense;

/// A hash of a tree.
pub type Hash = [u8; 32];

/// No tree is higher.
const HIGHEST: usize = 64;

/// The hash of an entry.
pub(crate) fn leaf_hash(entry: &[u8]) -> Hash {
    let hash = Sha256::new().chain_update([0]).chain_update(entry);
    hash.finalize().into()
}

fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let hash = Sha256::new().chain_update([1]);
    let hash = hash.chain_update(left).chain_update(right);
    hash.finalize().into()
}

/// The first entries of a tree, all of them, as the roots of the full subtrees that they make: for 6 entries one over 4 and one over 2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// The largest first: one for each bit that is set in `size`.
    subtrees: Vec<Hash>,
}

impl Frontier {
    /// What comes before the entry `index`, by the path that proves that entry to be the last of a tree: every hash on it is on the left.
    /// `None` if the path has another length. Whether it is true shows when the entry is appended.
    pub fn before(index: u64, path: &[Hash]) -> Option<Self> {
        let subtrees: Vec<Hash> = path.iter().rev().copied().collect();
        Self::of(index, subtrees)
    }

    /// As [`write`](Self::write) has written it.
    pub fn read(size: u64, octets: &[u8]) -> Option<Self> {
        let (subtrees, rest) = octets.as_chunks::<32>();
        if !rest.is_empty() {
            return None;
        }
        Self::of(size, subtrees.to_vec())
    }

    fn of(size: u64, subtrees: Vec<Hash>) -> Option<Self> {
        let is_whole = u32::try_from(subtrees.len()) == Ok(size.count_ones());
        is_whole.then_some(Self { size, subtrees })
    }

    /// Its hashes.
    pub fn write(&self) -> Vec<u8> {
        self.subtrees.concat()
    }

    /// Of how many entries.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// One more entry, by its hash.
    pub fn append(&mut self, leaf: Hash) {
        let (mut hash, mut size) = (leaf, self.size);
        while size & 1 == 1
            && let Some(left) = self.subtrees.pop()
        {
            hash = node_hash(&left, &hash);
            size >>= 1;
        }
        self.subtrees.push(hash);
        self.size = self.size.saturating_add(1);
    }

    /// The root over all.
    pub fn root(&self) -> Hash {
        let mut subtrees = self.subtrees.iter().rev();
        let Some(last) = subtrees.next() else {
            return Sha256::digest([]).into();
        };
        subtrees.fold(*last, |right, left| node_hash(left, &right))
    }
}

#[derive(Deserialize)]
struct Proof {
    leaf_index: u64,
    audit_path: Vec<String>,
}

/// An answer to get-proof-by-hash (RFC 6962 section 4.5): which entry it is about, and the path, from the entry upwards.
///
/// # Errors
/// If it is something else.
pub fn read_proof(json: &[u8]) -> Result<(u64, Vec<Hash>), Nonsense> {
    let proof: Proof = serde_json::from_slice(json).map_err(|_| Nonsense::Json)?;
    if proof.audit_path.len() > HIGHEST {
        return Err(Nonsense::Json);
    }
    let path: Result<_, _> = proof
        .audit_path
        .iter()
        .map(|hash| read_hash(hash))
        .collect();
    Ok((proof.leaf_index, path?))
}

pub(crate) fn read_hash(base64: &str) -> Result<Hash, Nonsense> {
    let octets = BASE64.decode(base64.as_bytes());
    let octets = octets.map_err(|_| Nonsense::Hash)?;
    octets.try_into().map_err(|_| Nonsense::Hash)
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    /// RFC 6962 section 2.1, word for word.
    fn root_of(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Sha256::digest([]).into(),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node_hash(&root_of(left), &root_of(right))
            }
        }
    }

    /// RFC 6962 section 2.1.1, the same.
    fn path_of(index: usize, leaves: &[Hash]) -> Vec<Hash> {
        if leaves.len() <= 1 {
            return Vec::new();
        }
        let k = leaves.len().next_power_of_two() / 2;
        let (left, right) = leaves.split_at(k);
        let (mut path, other) = match index < k {
            true => (path_of(index, left), right),
            false => (path_of(index - k, right), left),
        };
        path.push(root_of(other));
        path
    }

    #[test]
    fn the_root_of_a_frontier_is_that_of_the_tree_wherever_it_began() {
        let leaves: Vec<Hash> = (0..100_u8).map(|number| leaf_hash(&[number])).collect();
        let mut whole = Frontier::default();
        for (index, leaf) in leaves.iter().enumerate() {
            assert_eq!(whole.root(), root_of(&leaves[..index]));
            let so_far = &leaves[..=index];
            let begun = Frontier::before(index as u64, &path_of(index, so_far)).unwrap();
            assert_eq!(begun, whole);
            whole.append(*leaf);
            assert_eq!(whole.root(), root_of(so_far));
            assert_eq!(whole.size(), index as u64 + 1);
            let again = Frontier::read(whole.size(), &whole.write());
            assert_eq!(again.as_ref(), Some(&whole));
        }
        assert_eq!(Frontier::before(2, &[[0; 32]; 2]), None);
        assert_eq!(Frontier::read(1, &[0; 33]), None);
        assert_eq!(Frontier::read(3, &[0; 32]), None);
    }

    #[test]
    fn the_known_roots_come_out() {
        // Of the reference implementation's tests.
        let inputs = ["", "00", "10", "2021", "3031", "40414243"];
        let mut frontier = Frontier::default();
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(HEXLOWER.encode(&frontier.root()), empty);
        for input in inputs {
            frontier.append(leaf_hash(&HEXLOWER.decode(input.as_bytes()).unwrap()));
        }
        let six = "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef";
        assert_eq!(HEXLOWER.encode(&frontier.root()), six);
    }

    #[test]
    fn a_proof_that_is_none_is_refused() {
        let good = format!(
            r#"{{"leaf_index":1,"audit_path":["{}"]}}"#,
            BASE64.encode(&[7; 32])
        );
        assert_eq!(read_proof(good.as_bytes()), Ok((1, vec![[7; 32]])));
        for bad in [
            "",
            "{}",
            r#"{"leaf_index":-1,"audit_path":[]}"#,
            r#"{"leaf_index":1,"audit_path":["AA=="]}"#,
            r#"{"leaf_index":1,"audit_path":["?"]}"#,
        ] {
            assert!(read_proof(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
