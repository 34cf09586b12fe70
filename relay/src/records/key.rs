//! The two halves of a key for records, as people carry them about.
//!
//! ```text
//!   causeway-records-key-1-    BASE32(key 32 ‖ check 4)     into the configuration of the server
//!   causeway-records-secret-1- BASE32(key 32 ‖ check 4)     into a file that is never there
//! ```
//!
//! The check is the beginning of SHA-256 over prefix and key: a mistyped key would seal records that nobody can read.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::{agreement, digest};
use data_encoding::BASE32_DNSSEC;
use serde::{Deserialize, Deserializer};
use wire::record::batch::{BOUND, Batch, KeyId};
use zeroize::Zeroizing;

use crate::tls::hpke::{self, KEY, SealError};

const PUBLIC: &str = "causeway-records-key-1-";
const SECRET: &str = "causeway-records-secret-1-";

/// What is sealed for records opens as nothing else (RFC 9180 section 5.1, `info`).
const PURPOSE: &[u8] = b"causeway connection records 1";

const CHECK: usize = 4;

/// The half that seals.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; KEY]);

/// The half that opens. It is not shown unless it is asked for.
pub struct SecretKey {
    secret: Zeroizing<[u8; KEY]>,
    public: PublicKey,
}

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is something else.
    #[error(
        "this is no public key for records; `causeway records key FILE` makes one, and prints it"
    )]
    NotPublic,
    /// It should not be where it is.
    #[error(
        "this is the secret half of a key, which does not belong here: whoever reads it reads the records; the public half begins with \
         {PUBLIC}"
    )]
    SecretGiven,
    /// It is something else.
    #[error("this holds no secret key for records, which begins with {SECRET}")]
    NotSecret,
    /// It was one.
    #[error("this key is not as it was made: a letter is wrong or missing")]
    Mistyped,
    /// Nothing can be sealed to it.
    #[error("nothing can be sealed to this key; `causeway records key FILE` makes another")]
    Unusable,
}

impl PublicKey {
    /// Which key this is, as batches say it.
    pub fn id(&self) -> KeyId {
        let mut id = [0; 8];
        let digest = digest::digest(&digest::SHA256, &[PUBLIC.as_bytes(), &self.0].concat());
        for (octet, digested) in id.iter_mut().zip(digest.as_ref().iter().skip(CHECK)) {
            *octet = *digested;
        }
        KeyId(id)
    }

    /// Seals `plain`, bound to a batch's header. Gives the encapsulated key and what is sealed.
    pub(super) fn seal(
        &self,
        bound: &[u8; BOUND],
        plain: &[u8],
    ) -> Result<([u8; KEY], Vec<u8>), SealError> {
        hpke::seal(&self.0, PURPOSE, bound, plain)
    }
}

impl SecretKey {
    /// A fresh one; `None` if the system has no randomness to give.
    pub fn generate() -> Option<Self> {
        let (public, secret) = hpke::generate().ok()?;
        let public = PublicKey(public);
        Some(Self { secret, public })
    }

    /// Reads the line that holds a key in the text of a file.
    ///
    /// # Errors
    /// If there is none, or it is not as it was made.
    pub fn read(text: &str) -> Result<Self, KeyError> {
        let line = text.lines().find(|line| line.starts_with(SECRET));
        let secret = Zeroizing::new(decode(SECRET, line.ok_or(KeyError::NotSecret)?)?);
        let computed = agreement::PrivateKey::from_private_key(&agreement::X25519, &*secret)
            .ok()
            .and_then(|secret| secret.compute_public_key().ok());
        let public = computed.and_then(|public| <[u8; KEY]>::try_from(public.as_ref()).ok());
        let public = PublicKey(public.ok_or(KeyError::Unusable)?);
        Ok(Self { secret, public })
    }

    /// The other half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// What is to stand in its file.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(encode(SECRET, &self.secret))
    }

    /// What a batch holds; `None` if it is damaged, or sealed to another key.
    pub(super) fn open(&self, batch: &Batch<'_>) -> Option<Vec<u8>> {
        let Batch {
            bound,
            encapsulated,
            sealed,
            ..
        } = batch;
        hpke::open(&self.secret, PURPOSE, encapsulated, *bound, sealed)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(PUBLIC, &self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.starts_with(SECRET) {
            return Err(KeyError::SecretGiven);
        }
        if !text.starts_with(PUBLIC) {
            return Err(KeyError::NotPublic);
        }
        let key = Self(decode(PUBLIC, text)?);
        // A key that is a point of low order seals nothing: better known now than at the first record.
        let tried = key.seal(&[0; BOUND], &[]);
        tried.map(|_| key).map_err(|_| KeyError::Unusable)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn encode(prefix: &str, key: &[u8; KEY]) -> String {
    let octets = Zeroizing::new([key.as_slice(), &check(prefix, key)].concat());
    format!("{prefix}{}", BASE32_DNSSEC.encode(&octets))
}

fn decode(prefix: &str, text: &str) -> Result<[u8; KEY], KeyError> {
    let text = text.trim().strip_prefix(prefix).ok_or(KeyError::Mistyped)?;
    let octets = BASE32_DNSSEC.decode(text.as_bytes()).map(Zeroizing::new);
    let octets = octets.map_err(|_| KeyError::Mistyped)?;
    match octets.split_first_chunk() {
        Some((key, rest)) if rest == check(prefix, key) => Ok(*key),
        Some(_) | None => Err(KeyError::Mistyped),
    }
}

fn check(prefix: &str, key: &[u8; KEY]) -> [u8; CHECK] {
    let text = Zeroizing::new([prefix.as_bytes(), key].concat());
    let digest = digest::digest(&digest::SHA256, &text);
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back_from_its_text_and_no_slip_of_the_pen_does() {
        let secret = SecretKey::generate().unwrap();
        let file = format!("# a comment\n{}\n", &*secret.reveal());
        let read = SecretKey::read(&file).unwrap();
        assert_eq!(read.public(), secret.public());
        let text = secret.public().to_string();
        assert_eq!(text.parse::<PublicKey>(), Ok(secret.public()));
        for at in PUBLIC.len()..text.len() {
            let mut slip = text.clone();
            let other = if &text[at..=at] == "0" { "1" } else { "0" };
            slip.replace_range(at..=at, other);
            assert_eq!(slip.parse::<PublicKey>(), Err(KeyError::Mistyped), "{slip}");
        }
        assert_eq!(
            text[..text.len() - 1].parse::<PublicKey>(),
            Err(KeyError::Mistyped)
        );
    }

    #[test]
    fn the_wrong_half_and_anything_else_are_told_apart() {
        let secret = SecretKey::generate().unwrap();
        let given = secret.reveal().parse::<PublicKey>();
        assert_eq!(given, Err(KeyError::SecretGiven));
        assert_eq!("".parse::<PublicKey>(), Err(KeyError::NotPublic));
        let read = SecretKey::read(&secret.public().to_string());
        assert_eq!(read.err(), Some(KeyError::NotSecret));
        let nothing = encode(PUBLIC, &[0; KEY]).parse::<PublicKey>();
        assert_eq!(nothing, Err(KeyError::Unusable));
        assert!(!format!("{secret:?}").contains(&secret.reveal()[SECRET.len()..]));
    }
}
