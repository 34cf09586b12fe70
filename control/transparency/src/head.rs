//! How far a log says it is, and whether it is the log that says so.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
};
use data_encoding::BASE64;
use serde::Deserialize;
use x509_parser::oid_registry::{OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::Nonsense;
use crate::tree::{Hash, read_hash};

/// SHA-256, ECDSA and RSA, as TLS numbers them (RFC 5246 section 7.4.1.4.1).
const SHA256: u8 = 4;
const ECDSA: u8 = 3;
const RSA: u8 = 1;

/// The key with which a log signs.
#[derive(Clone, Debug)]
pub struct LogKey {
    key: ParsedPublicKey,
    /// As TLS numbers what it signs with.
    algorithm: u8,
}

/// A text is no key of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no key of a log: one is P-256 or RSA, in base64, as lists of logs have it")]
pub struct LogKeyError;

impl LogKey {
    /// A key as lists of logs have it: a SubjectPublicKeyInfo (RFC 5280 section 4.1) in base64.
    ///
    /// # Errors
    /// If it is none, or of another kind.
    pub fn parse(base64: &str) -> Result<Self, LogKeyError> {
        let der = BASE64.decode(base64.as_bytes()).map_err(|_| LogKeyError)?;
        let read = SubjectPublicKeyInfo::from_der(&der);
        let (_, info) = read.map_err(|_| LogKeyError)?;
        let kind = &info.algorithm.algorithm;
        let (algorithm, verifies): (u8, &'static dyn VerificationAlgorithm) =
            if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY {
                (ECDSA, &ECDSA_P256_SHA256_ASN1)
            } else if *kind == OID_PKCS1_RSAENCRYPTION {
                (RSA, &RSA_PKCS1_2048_8192_SHA256)
            } else {
                return Err(LogKeyError);
            };
        let key = ParsedPublicKey::new(verifies, &der).map_err(|_| LogKeyError)?;
        Ok(Self { key, algorithm })
    }

    fn has_signed(&self, message: &[u8], signed: &[u8]) -> bool {
        let [SHA256, algorithm, high, low, signature @ ..] = signed else {
            return false;
        };
        *algorithm == self.algorithm
            && usize::from(u16::from_be_bytes([*high, *low])) == signature.len()
            && self.key.verify_sig(message, signature).is_ok()
    }
}

/// A signed tree head: how many entries a log has, and the root over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// How many.
    pub size: u64,
    /// When, in milliseconds since 1970, by the log's clock.
    pub at: u64,
    /// The root.
    pub root: Hash,
}

#[derive(Deserialize)]
struct Told {
    tree_size: u64,
    timestamp: u64,
    sha256_root_hash: String,
    tree_head_signature: String,
}

impl Head {
    /// An answer to get-sth (RFC 6962 section 4.3) of the log that has `key`.
    ///
    /// # Errors
    /// If it is something else, or somebody else's.
    pub fn read(json: &[u8], key: &LogKey) -> Result<Self, Nonsense> {
        let told: Told = serde_json::from_slice(json).map_err(|_| Nonsense::Json)?;
        let head = Self {
            size: told.tree_size,
            at: told.timestamp,
            root: read_hash(&told.sha256_root_hash)?,
        };
        let signed = BASE64.decode(told.tree_head_signature.as_bytes());
        let signed = signed.map_err(|_| Nonsense::Signature)?;
        match key.has_signed(&head.signed(), &signed) {
            true => Ok(head),
            false => Err(Nonsense::Signature),
        }
    }

    /// What a log signs (RFC 6962 section 3.5): version 1, a tree head, and what is in it.
    pub fn signed(&self) -> Vec<u8> {
        let mut octets = vec![0, 1];
        octets.extend(self.at.to_be_bytes());
        octets.extend(self.size.to_be_bytes());
        octets.extend(self.root);
        octets
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData as _};

    use super::*;

    fn told(head: &Head, pair: &KeyPair, algorithm: u8) -> String {
        let der = pair.serialize_der();
        let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der).unwrap();
        let signature = signer.sign(&SystemRandom::new(), &head.signed()).unwrap();
        let signature = signature.as_ref();
        let mut signed = vec![SHA256, algorithm, 0, signature.len() as u8];
        signed.extend(signature);
        format!(
            r#"{{"tree_size":{},"timestamp":{},"sha256_root_hash":"{}","tree_head_signature":"{}"}}"#,
            head.size,
            head.at,
            BASE64.encode(&head.root),
            BASE64.encode(&signed)
        )
    }

    #[test]
    fn a_head_is_of_the_log_that_has_the_key_as_it_was_signed() {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let key = LogKey::parse(&BASE64.encode(&pair.subject_public_key_info())).unwrap();
        let head = Head {
            size: 5,
            at: 1_700_000_000_000,
            root: [9; 32],
        };
        let json = told(&head, &pair, ECDSA);
        assert_eq!(Head::read(json.as_bytes(), &key), Ok(head));
        let other = json.replace("\"tree_size\":5", "\"tree_size\":6");
        assert_eq!(Head::read(other.as_bytes(), &key), Err(Nonsense::Signature));
        let as_rsa = told(&head, &pair, RSA);
        assert_eq!(
            Head::read(as_rsa.as_bytes(), &key),
            Err(Nonsense::Signature)
        );
        let stranger = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let of_stranger = told(&head, &stranger, ECDSA);
        let read = Head::read(of_stranger.as_bytes(), &key);
        assert_eq!(read, Err(Nonsense::Signature));
        for bad in ["", "{}", "[]", "null"] {
            assert_eq!(Head::read(bad.as_bytes(), &key), Err(Nonsense::Json));
        }
    }

    #[test]
    fn only_keys_that_a_log_may_have_are_taken() {
        let other = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let other = BASE64.encode(&other.subject_public_key_info());
        for bad in ["", "?", "AAAA", &other] {
            assert!(LogKey::parse(bad).is_err(), "{bad}");
        }
    }
}
