//! Signed messages (RFC 8945): who has written this, is it as it was written, and is it from now?
//!
//! ```text
//!  record.rs    a message ──► what was signed, and the signature
//!  verify.rs    is it this key's, and from now?
//!  sign.rs      a reply ──► a signed reply
//!  key.rs       the name of a key ──► whose it is, and its secret
//!  replay.rs    what has come before
//! ```
//!
//! The `domain` library's TSIG would bring a second crypto provider into the program; what is needed of it is small.

pub mod key;
pub mod record;
pub mod replay;
mod sign;
mod verify;

use aws_lc_rs::hmac;

use crate::protocol::CLASS_ANY;

pub use key::{Master, Secret};
pub use record::{Malformed, Signature, Signed, split};
pub(crate) use sign::sign_request;
pub use sign::{Signer, tell};
pub use verify::Fault;

/// How far the clocks of client and server may be apart, in seconds (RFC 8945 section 10 recommends 300). A client may ask for
/// less, not for more: what was signed longer ago need not be remembered.
pub const FUDGE: u16 = 300;

/// What messages are signed with. The same secret serves for all: they are keyed hashes of different functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC-SHA-256, which the RFC recommends.
    Sha256,
    /// HMAC-SHA-384.
    Sha384,
    /// HMAC-SHA-512.
    Sha512,
}

impl Algorithm {
    const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// By its name on the wire, in lower case. Others are unknown here. RFC 8945 section 6 has servers know SHA-1 and MD5 too, while it
    /// advises against their use; a client that is set to one is told BADKEY. The names with a shorter length are optional.
    pub fn by_name(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    /// Its name on the wire.
    pub fn name(self) -> &'static [u8] {
        match self {
            Self::Sha256 => b"\x0Bhmac-sha256\0",
            Self::Sha384 => b"\x0Bhmac-sha384\0",
            Self::Sha512 => b"\x0Bhmac-sha512\0",
        }
    }

    /// Octets of a whole MAC.
    pub fn mac_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    fn key(self, secret: &Secret) -> hmac::Key {
        let algorithm = match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha384 => hmac::HMAC_SHA384,
            Self::Sha512 => hmac::HMAC_SHA512,
        };
        hmac::Key::new(algorithm, secret.octets())
    }
}

/// The part of a TSIG record that is signed beside the message (RFC 8945 section 4.3.3).
struct Variables<'v> {
    key: &'v [u8],
    algorithm: &'v [u8],
    time_signed: u64,
    fudge: u16,
    error: u16,
    other: &'v [u8],
}

impl Variables<'_> {
    fn put_into(&self, digest: &mut hmac::Context) {
        const TTL: u32 = 0;
        digest.update(self.key);
        digest.update(&CLASS_ANY.to_be_bytes());
        digest.update(&TTL.to_be_bytes());
        digest.update(self.algorithm);
        digest.update(&u48(self.time_signed));
        digest.update(&self.fudge.to_be_bytes());
        digest.update(&self.error.to_be_bytes());
        digest.update(&len(self.other));
        digest.update(self.other);
    }
}

/// The lower 48 bits, in which a time is given (RFC 8945 section 4.2).
fn u48(number: u64) -> [u8; 6] {
    let [_, _, octets @ ..] = number.to_be_bytes();
    octets
}

/// The length of something that has come in a message, or goes into one.
fn len(octets: &[u8]) -> [u8; 2] {
    u16::try_from(octets.len())
        .unwrap_or(u16::MAX)
        .to_be_bytes()
}
