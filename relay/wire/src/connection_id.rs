//! The QUIC connection ids that the relay chooses: they carry who must get the packet, and a mark that they are ours.
//!
//! ```text
//!   owner 1 │ nonce 4 │ mark 3          mark = the first octets of SipHash-2-4(key, owner ‖ nonce)
//! ```
//!
//! The owner says which endpoint of which generation of the relay holds the connection, so that any socket of the port
//! can hand a packet on without knowing the connection. The mark keeps other traffic on the same port apart from ours
//! (RFC 9000 section 5.1 leaves the content of an id to whoever chooses it).

use std::fmt;
use std::hash::Hasher;

use siphasher::sip::SipHasher24;

/// The length of every connection id the relay chooses, in octets.
pub const LENGTH: usize = 8;

/// The length of the id that an agent makes up for the relay in its first packets (RFC 9000 section 7.2), in octets. Nothing
/// else is known of an agent by then, and how much a stream may have in flight cannot be changed later: so it asks by this.
pub const FIRST: usize = 20;

/// The same of an agent whose tunnel has to carry bulk itself, and wants more room for it.
pub const FIRST_WITH_ROOM: usize = 19;

/// Which endpoint holds a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(pub u8);

/// Makes connection ids and recognises them.
#[derive(Clone)]
pub struct ConnectionIdKey([u8; 16]);

impl ConnectionIdKey {
    /// `key` is secret; every endpoint of a relay has the same.
    pub fn new(key: [u8; 16]) -> Self {
        Self(key)
    }

    /// The id for a connection of `owner`; `nonce` is random.
    pub fn make(&self, owner: Owner, nonce: [u8; 4]) -> [u8; LENGTH] {
        let (Owner(owner), [a, b, c, d]) = (owner, nonce);
        let [x, y, z] = self.mark([owner, a, b, c, d]);
        [owner, a, b, c, d, x, y, z]
    }

    /// Whose connection `id` belongs to; `None` if this key did not make it.
    pub fn owner(&self, id: &[u8]) -> Option<Owner> {
        let [owner, a, b, c, d, mark @ ..] = <[u8; LENGTH]>::try_from(id).ok()?;
        (self.mark([owner, a, b, c, d]) == mark).then_some(Owner(owner))
    }

    fn mark(&self, content: [u8; 5]) -> [u8; 3] {
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
    use super::*;

    #[test]
    fn an_id_tells_its_owner_to_those_who_have_the_key() {
        let key = ConnectionIdKey::new([1; 16]);
        let id = key.make(Owner(3), [9, 8, 7, 6]);
        assert_eq!(key.owner(&id), Some(Owner(3)));
        assert_eq!(ConnectionIdKey::new([2; 16]).owner(&id), None);
    }

    #[test]
    fn a_changed_or_cut_id_is_not_ours() {
        let key = ConnectionIdKey::new([1; 16]);
        let id = key.make(Owner(3), [9, 8, 7, 6]);
        for at in 0..LENGTH {
            let mut changed = id;
            changed[at] ^= 1;
            assert_eq!(key.owner(&changed), None, "octet {at}");
            assert_eq!(key.owner(&id[..at]), None);
        }
    }
}
