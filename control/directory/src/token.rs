//! Secrets that people and programs carry: shown once, kept as hashes, never printed by accident.

use std::fmt;
use std::sync::LazyLock;

use data_encoding::{BASE32_DNSSEC, Encoding, Specification};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A secret of 160 random bits, shown as 32 lower-case letters and digits.
#[derive(Clone)]
pub struct Token(Zeroizing<String>);

impl Token {
    const BYTES: usize = 20;

    /// A token that nobody has seen before.
    ///
    /// # Errors
    /// If the operating system has no randomness to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        Ok(Self(Zeroizing::new(
            BASE32_DNSSEC.encode(&*random::<{ Self::BYTES }>()?),
        )))
    }

    /// The secret itself, for the one place that shows it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What to keep.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The first half of a token's SHA-256. The tokens have 80 bits of randomness or more, so a fast hash is enough to keep them;
/// and to find another with the same 128 bits is no easier than to guess, while a million of them are kept in memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; Self::LEN]);

impl TokenHash {
    /// Octets.
    pub const LEN: usize = 16;

    /// The hash of `secret` as its holder presents it.
    pub fn of(secret: &str) -> Self {
        let mut octets = [0; Self::LEN];
        octets.copy_from_slice(&Sha256::digest(secret.as_bytes())[..Self::LEN]);
        Self(octets)
    }

    /// Whether `presented` is the secret; takes the same time whatever the answer.
    pub fn matches(&self, presented: &str) -> bool {
        Self::of(presented).0.ct_eq(&self.0).into()
    }

    /// A hash read back from where it was kept.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes to keep.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

/// A single-use code that a person may have to type: `7X3M-9QKD-2FVA-HT6R`, 80 random bits.
#[derive(Clone)]
pub struct PairingCode(Zeroizing<String>);

impl PairingCode {
    const BYTES: usize = 10;
    const GROUP: usize = 4;

    /// A code that nobody has seen before.
    ///
    /// # Errors
    /// If the operating system has no randomness to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        Ok(Self(Zeroizing::new(
            ALPHABET.encode(&*random::<{ Self::BYTES }>()?),
        )))
    }

    /// Reads a code as a person types it: any case, with or without hyphens and spaces, `O` for `0`, `I` or `L` for `1`.
    ///
    /// # Errors
    /// If it is not 16 characters of the code's alphabet.
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        let bytes = Zeroizing::new(
            ALPHABET
                .decode(text.trim().as_bytes())
                .map_err(|_| CodeError)?,
        );
        if bytes.len() != Self::BYTES {
            return Err(CodeError);
        }
        Ok(Self(Zeroizing::new(ALPHABET.encode(&bytes))))
    }

    /// The code in groups of four, for the one place that shows it.
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut grouped = String::with_capacity(self.0.len() + self.0.len() / Self::GROUP);
        for (i, character) in self.0.chars().enumerate() {
            if i > 0 && i % Self::GROUP == 0 {
                grouped.push('-');
            }
            grouped.push(character);
        }
        Zeroizing::new(grouped)
    }

    /// What to keep.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.0)
    }
}

impl fmt::Debug for PairingCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairingCode(…)")
    }
}

/// The text is not a pairing code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pairing code has 16 letters and digits, like 7X3M-9QKD-2FVA-HT6R")]
pub struct CodeError;

/// Crockford's base 32: no I, L, O or U, and the look-alikes read as what they look like.
static ALPHABET: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification
        .symbols
        .push_str("0123456789ABCDEFGHJKMNPQRSTVWXYZ");
    specification
        .translate
        .from
        .push_str("abcdefghjkmnpqrstvwxyzoOiIlL");
    specification
        .translate
        .to
        .push_str("ABCDEFGHJKMNPQRSTVWXYZ001111");
    specification.ignore.push_str("- ");
    #[expect(
        clippy::expect_used,
        reason = "a constant specification; the tests below run it"
    )]
    specification
        .encoding()
        .expect("the alphabet is well formed")
});

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, getrandom::Error> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(&mut *bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_matches_only_its_own_hash_and_prints_nothing() {
        let token = Token::generate().unwrap();
        assert_eq!(token.reveal().len(), 32);
        assert!(token.hash().matches(token.reveal()));
        assert!(!token.hash().matches(&token.reveal()[1..]));
        assert!(!token.hash().matches(""));
        assert_eq!(
            format!("{token:?} {:?}", token.hash()),
            "Token(…) TokenHash(…)"
        );
    }

    #[test]
    fn a_code_reads_as_people_type_it() {
        let code = PairingCode::generate().unwrap();
        let shown = code.reveal();
        assert_eq!(shown.len(), 19);
        for typed in [
            shown.to_string(),
            shown.replace('-', ""),
            shown.to_lowercase(),
            format!(" {} ", *shown),
        ] {
            assert_eq!(
                PairingCode::parse(&typed).unwrap().hash(),
                code.hash(),
                "{typed}"
            );
        }
        let confused = PairingCode::parse("oOiI-lL00-1100-0000").unwrap();
        assert_eq!(*confused.reveal(), "0011-1100-1100-0000");
    }

    #[test]
    fn what_is_no_code_is_refused() {
        for text in [
            "",
            "ABCD",
            "ABCD-EFGH-JKMN-PQRU",
            "ABCD-EFGH-JKMN-PQRST",
            "ABCD_EFGH_JKMN_PQRS",
        ] {
            assert!(PairingCode::parse(text).is_err(), "{text}");
        }
    }
}
