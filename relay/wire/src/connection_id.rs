//! The QUIC connection ids that the relay chooses: they carry who must get the packet, and a mark that they are ours.
//!
//! ```text
//!   worker 1 │ generation 1 │ nonce 6 │ mark 3     mark = the first octets of SipHash-2-4(key, all that stands before)
//! ```
//!
//! Worker and generation say which endpoint of which process holds the connection, so that any socket of the port can hand a
//! packet on without knowing the connection. The nonce alone keeps the id in a Retry apart from those of hundreds of thousands of
//! connections: who comes again with the id of one of them would be taken for it, and hear nothing. The worker stands first, where
//! the kernel looks for it when it chooses between the sockets. The mark keeps other traffic on the same port apart from ours (RFC 9000 section 5.1 leaves the content of an
//! id to whoever chooses it).

use std::fmt;
use std::hash::Hasher;

use siphasher::sip::SipHasher24;

/// The length of every connection id the relay chooses, in octets.
pub const LENGTH: usize = CONTENT + MARK;

/// Worker, generation and nonce; the mark.
const CONTENT: usize = 2 + NONCE;
const MARK: usize = 3;

/// The length of the part that differs, in octets.
pub const NONCE: usize = 6;

/// What an agent asks of a relay by the length of the id that it makes up for it in its first packets (RFC 9000 section 7.2):
/// nothing else is known of an agent by then, and neither can be changed later.
///
/// ```text
///   20 octets   nothing
///   19          room for bulk in the tunnel's streams
///   18          each packet sent by itself
///   17          both
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// More may be in flight on each stream, because bulk stays in the tunnel.
    pub room: bool,
    /// Packets are not handed to the kernel in batches.
    pub one_by_one: bool,
}

impl Asked {
    /// The length of a first id that asks for this, in octets.
    pub fn length(self) -> usize {
        match (self.room, self.one_by_one) {
            (false, false) => 20,
            (true, false) => 19,
            (false, true) => 18,
            (true, true) => 17,
        }
    }

    /// What a first id of this length asks for. One of another program asks for nothing.
    pub fn by(length: usize) -> Self {
        let all =
            [false, true].map(|room| [false, true].map(|one_by_one| Self { room, one_by_one }));
        let mut all = all.into_iter().flatten();
        all.find(|asked| asked.length() == length)
            .unwrap_or_default()
    }
}

/// Which of the processes that follow each other on one port: the first, its successor, and so on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Generation(pub u8);

impl Generation {
    /// That of its successor. Numbers come back, long after their last owner has ended.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// Which endpoint holds a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Of the workers of one process, counted from nought.
    pub worker: u8,
    /// Which process.
    pub generation: Generation,
}

/// Makes connection ids and recognises them.
#[derive(Clone)]
pub struct ConnectionIdKey([u8; 16]);

impl ConnectionIdKey {
    /// `key` is secret; every endpoint of a relay has the same.
    pub fn new(key: [u8; 16]) -> Self {
        Self(key)
    }

    /// The id for a connection of `owner`; `nonce` is random.
    pub fn make(&self, owner: Owner, nonce: [u8; NONCE]) -> [u8; LENGTH] {
        let Generation(generation) = owner.generation;
        let (worker, [a, b, c, d, e, f]) = (owner.worker, nonce);
        let [x, y, z] = self.mark([worker, generation, a, b, c, d, e, f]);
        [worker, generation, a, b, c, d, e, f, x, y, z]
    }

    /// Whose connection `id` belongs to; `None` if this key did not make it.
    pub fn owner(&self, id: &[u8]) -> Option<Owner> {
        let [content @ .., x, y, z] = <[u8; LENGTH]>::try_from(id).ok()?;
        let [worker, generation, ..] = content;
        let generation = Generation(generation);
        (self.mark(content) == [x, y, z]).then_some(Owner { worker, generation })
    }

    fn mark(&self, content: [u8; CONTENT]) -> [u8; MARK] {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(&content);
        let [a, b, c, ..] = hasher.finish().to_be_bytes();
        [a, b, c]
    }
}

impl fmt::Debug for ConnectionIdKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectionIdKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_asked_for_is_understood() {
        let mut lengths = Vec::new();
        for (room, one_by_one) in [(false, false), (true, false), (false, true), (true, true)] {
            let asked = Asked { room, one_by_one };
            assert_eq!(Asked::by(asked.length()), asked);
            lengths.push(asked.length());
        }
        assert_eq!(lengths, [20, 19, 18, 17]);
        assert_eq!(Asked::by(8), Asked::default());
    }

    const OWNER: Owner = Owner {
        worker: 3,
        generation: Generation(5),
    };

    #[test]
    fn an_id_tells_its_owner_to_those_who_have_the_key() {
        let key = ConnectionIdKey::new([1; 16]);
        let id = key.make(OWNER, [9, 8, 7, 6, 5, 4]);
        assert_eq!(key.owner(&id), Some(OWNER));
        assert_eq!(ConnectionIdKey::new([2; 16]).owner(&id), None);
        assert_eq!(id[0], OWNER.worker, "the kernel looks for it there");
    }

    #[test]
    fn a_changed_or_cut_id_is_not_ours() {
        let key = ConnectionIdKey::new([1; 16]);
        let id = key.make(OWNER, [9, 8, 7, 6, 5, 4]);
        for at in 0..LENGTH {
            let mut changed = id;
            changed[at] ^= 1;
            assert_eq!(key.owner(&changed), None, "octet {at}");
            assert_eq!(key.owner(&id[..at]), None);
        }
    }

    #[test]
    fn after_the_last_generation_the_first_comes_again() {
        assert_eq!(Generation::default().next(), Generation(1));
        assert_eq!(Generation(255).next(), Generation::default());
    }

    proptest! {
        #[test]
        fn every_owner_is_told_again(worker: u8, generation: u8, nonce: [u8; NONCE], key: [u8; 16]) {
            let (generation, key) = (Generation(generation), ConnectionIdKey::new(key));
            let owner = Owner { worker, generation };
            prop_assert_eq!(key.owner(&key.make(owner, nonce)), Some(owner));
        }

        #[test]
        fn any_octets_have_an_owner_or_none(id in prop::collection::vec(any::<u8>(), 0..32)) {
            let key = ConnectionIdKey::new([1; 16]);
            if let Some(owner) = key.owner(&id) {
                let nonce = *id[2..].first_chunk().unwrap();
                prop_assert_eq!(&key.make(owner, nonce)[..], &id[..]);
            }
        }
    }
}
