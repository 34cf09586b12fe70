//! One key of the zone: ECDSA on P-256 with SHA-256, algorithm 13 (RFC 6605).

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    ParsedPublicKey, UnparsedPublicKey,
};
use data_encoding::BASE64;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use crate::dnssec::rrsig::{ALGORITHM, SIGNATURE_LEN};

/// The only value of the protocol field (RFC 4034 section 2.1.2).
const PROTOCOL: u8 = 3;
/// SHA-256, the digest that a parent must take (RFC 8624 section 3.3).
const DIGEST_TYPE: u8 = 2;
/// Octets of a public key: both coordinates of the point (RFC 6605 section 4).
const PUBLIC_LEN: usize = 64;
/// What stands before them elsewhere: the point is not compressed (SEC 1 section 2.3.3).
const UNCOMPRESSED: u8 = 4;

/// What a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The set of keys, and nothing else: the parent's DS record is of this key.
    Ksk,
    /// All the rest of the zone.
    Zsk,
}

impl Role {
    /// The flags of its DNSKEY record: a key of the zone, and for a KSK that it is the way in (RFC 4034 section 2.1.1).
    fn flags(self) -> u16 {
        match self {
            Self::Ksk => 257,
            Self::Zsk => 256,
        }
    }
}

/// As people write it.
impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ksk => "KSK",
            Self::Zsk => "ZSK",
        })
    }
}

/// A key, or the public half of one whose private half is kept elsewhere. What is private cannot be printed.
pub struct Key {
    role: Role,
    tag: u16,
    public: [u8; PUBLIC_LEN],
    verifier: ParsedPublicKey,
    pair: Option<EcdsaKeyPair>,
}

/// The text of a private key (PKCS#8 in PEM) on its way to a file. It cannot be printed, and leaves nothing in memory.
pub struct PrivateText(Zeroizing<String>);

/// Why there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The file's.
    #[error(
        "it holds no private key in PEM (`-----BEGIN PRIVATE KEY-----`, PKCS#8), or half of one"
    )]
    NoPem,
    /// The file's.
    #[error("its key is none of P-256, which algorithm 13 takes")]
    NotP256,
    /// The file's.
    #[error("it holds no DNSKEY record of a {0} with algorithm 13 (`{flags} 3 13 …`)", flags = .0.flags())]
    NoDnskey(Role),
    /// The system's.
    #[error("no key can be made")]
    NotMade,
}

/// Why there is no signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The private half is elsewhere.
    #[error("the private half of key {0} is not here")]
    Offline(u16),
    /// The library's.
    #[error("the cryptographic library does not sign")]
    Failed,
}

impl Key {
    /// Makes one.
    ///
    /// # Errors
    /// If the system does not work.
    pub fn generate(role: Role) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        Self::of_pair(role, pair.map_err(|_| KeyError::NotMade)?)
    }

    /// From PKCS#8 in PEM.
    ///
    /// # Errors
    /// If it is something else.
    pub fn from_private_text(role: Role, text: &[u8]) -> Result<Self, KeyError> {
        let mut der = PrivatePkcs8KeyDer::from_pem_slice(text).map_err(|_| KeyError::NoPem)?;
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der());
        der.zeroize();
        Self::of_pair(role, pair.map_err(|_| KeyError::NotP256)?)
    }

    /// From the text of a DNSKEY record, with or without what stands before its data, such as `257 3 13 GojIhhXUN/…`. Lines that begin
    /// with `;` are passed over.
    ///
    /// # Errors
    /// If it is something else, or a key of another role.
    pub fn from_public_text(role: Role, text: &str) -> Result<Self, KeyError> {
        let key = Self::from_dnskey_text(text).map_err(|error| match error {
            KeyError::NotP256 => KeyError::NotP256,
            KeyError::NoDnskey(_) | KeyError::NoPem | KeyError::NotMade => KeyError::NoDnskey(role),
        })?;
        match key.role == role {
            true => Ok(key),
            false => Err(KeyError::NoDnskey(role)),
        }
    }

    /// The same for a key of either role.
    ///
    /// # Errors
    /// If it is something else.
    pub fn from_dnskey_text(text: &str) -> Result<Self, KeyError> {
        let none = KeyError::NoDnskey(Role::Ksk);
        let lines = text
            .lines()
            .filter(|line| !line.trim_start().starts_with(';'));
        let words: Vec<_> = lines.flat_map(str::split_ascii_whitespace).collect();
        let head = words.iter().position(|word| *word == "DNSKEY");
        let data = words.get(head.map_or(0, |head| head + 1)..).ok_or(none)?;
        let [flags, protocol, algorithm, public @ ..] = data else {
            return Err(none);
        };
        let role = [Role::Ksk, Role::Zsk]
            .into_iter()
            .find(|role| *flags == role.flags().to_string())
            .ok_or(none)?;
        if *protocol != PROTOCOL.to_string() || *algorithm != ALGORITHM.to_string() {
            return Err(none);
        }
        let public = BASE64.decode(public.concat().as_bytes());
        let public = public.map_err(|_| none)?.try_into().map_err(|_| none)?;
        Self::of_public(role, public, None)
    }

    fn of_pair(role: Role, pair: EcdsaKeyPair) -> Result<Self, KeyError> {
        let [UNCOMPRESSED, public @ ..] = pair.public_key().as_ref() else {
            return Err(KeyError::NotP256);
        };
        let public = public.try_into().map_err(|_| KeyError::NotP256)?;
        Self::of_public(role, public, Some(pair))
    }

    fn of_public(
        role: Role,
        public: [u8; PUBLIC_LEN],
        pair: Option<EcdsaKeyPair>,
    ) -> Result<Self, KeyError> {
        let point = [&[UNCOMPRESSED][..], &public].concat();
        let verifier = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).parse();
        let verifier = verifier.map_err(|_| KeyError::NotP256)?;
        Ok(Self {
            role,
            tag: tag_of(&dnskey_data(role, &public)),
            public,
            verifier,
            pair,
        })
    }

    /// What it signs.
    pub fn role(&self) -> Role {
        self.role
    }

    /// What signatures call it by (RFC 4034 appendix B).
    pub fn tag(&self) -> u16 {
        self.tag
    }

    /// Whether its private half is elsewhere.
    pub fn is_offline(&self) -> bool {
        self.pair.is_none()
    }

    /// The data of its DNSKEY record (RFC 4034 section 2.1), which is that of its CDNSKEY record too.
    pub fn dnskey_data(&self) -> Vec<u8> {
        dnskey_data(self.role, &self.public)
    }

    /// The data of its DS record (RFC 4034 section 5.1), which is that of its CDS record too. `apex` is the zone's name on the wire, in
    /// lower case.
    pub fn ds_data(&self, apex: &[u8]) -> Vec<u8> {
        let digested = [apex, &self.dnskey_data()].concat();
        let digest = digest::digest(&digest::SHA256, &digested);
        let [t0, t1] = self.tag.to_be_bytes();
        [&[t0, t1, ALGORITHM, DIGEST_TYPE], digest.as_ref()].concat()
    }

    /// The data of its DNSKEY record as a zone file has it.
    pub fn dnskey_text(&self) -> String {
        let (flags, public) = (self.role.flags(), BASE64.encode(&self.public));
        format!("{flags} {PROTOCOL} {ALGORITHM} {public}")
    }

    /// The data of its DS record as a zone file has it.
    pub fn ds_text(&self, apex: &[u8]) -> String {
        let data = self.ds_data(apex);
        let digest = data.get(4..).unwrap_or_default();
        let digest = data_encoding::HEXUPPER.encode(digest);
        format!("{} {ALGORITHM} {DIGEST_TYPE} {digest}", self.tag)
    }

    /// Its private half in PEM; `None` if that is elsewhere.
    ///
    /// # Errors
    /// If the library cannot write it.
    pub fn private_text(&self) -> Result<Option<PrivateText>, KeyError> {
        const LINE: usize = 64;
        let Some(pair) = &self.pair else {
            return Ok(None);
        };
        let der = pair.to_pkcs8v1().map_err(|_| KeyError::NotMade)?;
        let digits = Zeroizing::new(BASE64.encode(der.as_ref()));
        // As long as it will get, so that no part of it is left behind in a smaller buffer.
        let mut text = Zeroizing::new(String::with_capacity(2 * digits.len() + 2 * LINE));
        text.push_str("-----BEGIN PRIVATE KEY-----\n");
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && at % LINE == 0 {
                text.push('\n');
            }
            text.push(digit);
        }
        text.push_str("\n-----END PRIVATE KEY-----\n");
        Ok(Some(PrivateText(text)))
    }

    /// Signs: r, then s.
    ///
    /// # Errors
    /// If the private half is elsewhere, or the library does not work.
    pub fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_LEN], SignError> {
        let pair = self.pair.as_ref().ok_or(SignError::Offline(self.tag))?;
        let signature = pair.sign(&SystemRandom::new(), message);
        let signature = signature.map_err(|_| SignError::Failed)?;
        signature.as_ref().try_into().map_err(|_| SignError::Failed)
    }

    /// Whether it has signed this message so.
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        self.verifier.verify_sig(message, signature).is_ok()
    }
}

impl PrivateText {
    /// The text itself, for the one place that writes it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for PrivateText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateText(_)")
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let half = if self.is_offline() {
            ", public half"
        } else {
            ""
        };
        write!(f, "{} {}{half}", self.role, self.tag)
    }
}

/// Two keys are the same if their public halves and roles are.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        (self.role, self.public) == (other.role, other.public)
    }
}

impl Eq for Key {}

fn dnskey_data(role: Role, public: &[u8; PUBLIC_LEN]) -> Vec<u8> {
    let [f0, f1] = role.flags().to_be_bytes();
    [&[f0, f1, PROTOCOL, ALGORITHM], &public[..]].concat()
}

/// The sum of the data's octets, taken as 16-bit numbers, with what is carried added once (RFC 4034 appendix B).
fn tag_of(dnskey: &[u8]) -> u16 {
    let sum = dnskey.chunks(2).fold(0_u32, |sum, pair| {
        let high = pair.first().copied().unwrap_or_default();
        let low = pair.get(1).copied().unwrap_or_default();
        sum.wrapping_add(u32::from(u16::from_be_bytes([high, low])))
    });
    (sum.wrapping_add(sum >> 16) & 0xFFFF) as u16
}

#[cfg(test)]
mod tests {
    use data_encoding::{BASE64, HEXLOWER};

    use super::*;

    /// The key of RFC 6605 section 6.1.
    const PUBLIC: &str = "257 3 13 GojIhhXUN/u4v54ZQqGSnyhWJwaubCvTmeexv7bR6edb\
                          krSqQpF64cYbcB7wNcP+e+MAnLr+Wi9xMWyQLc8NAA==";
    const PRIVATE: &str = "GU6SnQ/Ou+xC5RumuIUIuJZteXT2z0O/ok1s38Et6mQ=";
    const SIGNATURE: &str = "qx6wLYqmh+l9oCKTN6qIc+bw6ya+KJ8oMz0YP107epXA\
                             yGmt+3SNruPFKG7tZoLBLlUzGGus7ZwmwWep666VCw==";
    const APEX: &[u8] = b"\x07example\x03net\0";

    fn of_the_rfc() -> Key {
        let public = Key::from_public_text(Role::Ksk, PUBLIC).unwrap();
        let point = [&[UNCOMPRESSED], &public.public[..]].concat();
        let private = BASE64.decode(PRIVATE.as_bytes()).unwrap();
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &private,
            &point,
        );
        Key::of_pair(Role::Ksk, pair.unwrap()).unwrap()
    }

    #[test]
    fn the_key_of_rfc_6605_has_its_tag_and_its_ds() {
        let key = of_the_rfc();
        assert_eq!(key.tag(), 55648);
        let digest = "b4c8c1fe2e7477127b27115656ad6256f424625bf5c1e2770ce6d6e37df61d17";
        let ds = [
            &[0xD9, 0x60, 13, 2],
            &HEXLOWER.decode(digest.as_bytes()).unwrap()[..],
        ]
        .concat();
        assert_eq!(key.ds_data(APEX), ds);
        assert_eq!(
            key.ds_text(APEX),
            format!("55648 13 2 {}", digest.to_uppercase())
        );
        assert_eq!(key.dnskey_text(), PUBLIC);
    }

    /// Signatures of ECDSA are never the same twice, so the RFC's own can only be checked.
    #[test]
    fn the_signature_of_rfc_6605_is_good_and_ours_is_too() {
        let key = of_the_rfc();
        // RFC 4034 section 3.1.8.1: type, algorithm, labels, TTL, expiration, inception, tag, signer; then the record.
        let mut message = vec![0, 1, 13, 3, 0, 0, 0x0E, 0x10];
        message.extend(1_284_026_679_u32.to_be_bytes()); // 20100909100439
        message.extend(1_281_607_479_u32.to_be_bytes()); // 20100812100439
        message.extend(55648_u16.to_be_bytes());
        message.extend(APEX);
        message.extend([3, b'w', b'w', b'w'].iter().chain(APEX));
        message.extend([0, 1, 0, 1, 0, 0, 0x0E, 0x10, 0, 4, 192, 0, 2, 1]);
        let signature = BASE64.decode(SIGNATURE.as_bytes()).unwrap();
        assert!(key.has_signed(&message, &signature));
        let ours = key.sign(&message).unwrap();
        assert!(key.has_signed(&message, &ours));
        message.push(0);
        assert!(!key.has_signed(&message, &signature) && !key.has_signed(&message, &ours));
    }

    /// RFC 4034 section 5.4: the tag of its key is 60485.
    #[test]
    fn the_tag_is_that_of_rfc_4034() {
        let public = "AQOeiiR0GOMYkDshWoSKz9XzfwJr1AYtsmx3TGkJaNXVbfi/2pHm822aJ5iI9BMzNXxeYCmZ\
                      DRD99WYwYqUSdjMmmAphXdvxegXd/M5+X7OrzKBaMbCVdFLUUh6DhweJBjEVv5f2wwjM9Xzc\
                      nOf+EPbtG9DMBmADjFDc2w/rljwvFw==";
        let data = [
            &[1, 0, 3, 5],
            &BASE64.decode(public.as_bytes()).unwrap()[..],
        ]
        .concat();
        assert_eq!(tag_of(&data), 60485);
        assert_eq!(tag_of(&[1, 0, 3, 13, 1]), 0x0100 + 0x030D + 0x0100); // an odd octet counts as the higher
    }

    #[test]
    fn a_key_is_the_same_after_it_was_written_and_is_never_printed() {
        let key = Key::generate(Role::Zsk).unwrap();
        let text = key.private_text().unwrap().unwrap();
        assert!(text.reveal().lines().all(|line| line.len() <= 64));
        let read = Key::from_private_text(Role::Zsk, text.reveal().as_bytes()).unwrap();
        assert_eq!(read, key);
        assert!(!read.is_offline());
        assert_eq!(format!("{text:?}"), "PrivateText(_)");
        assert_eq!(format!("{key:?}"), format!("ZSK {}", key.tag()));
        assert_ne!(Key::generate(Role::Zsk).unwrap(), key);
        let public = Key::from_dnskey_text(&key.dnskey_text()).unwrap();
        assert_eq!(public, key);
        assert!(public.is_offline());
    }

    #[test]
    fn a_public_half_verifies_and_does_not_sign() {
        let key = Key::generate(Role::Ksk).unwrap();
        let record = format!(
            "; of another machine\nexample.net. 3600 IN DNSKEY {}\n",
            key.dnskey_text()
        );
        let public = Key::from_public_text(Role::Ksk, &record).unwrap();
        assert!(public.has_signed(b"message", &key.sign(b"message").unwrap()));
        assert_eq!(public.sign(b"message"), Err(SignError::Offline(key.tag())));
        assert!(public.private_text().unwrap().is_none());
    }

    #[test]
    fn what_is_no_key_of_ours_is_refused() {
        let key = Key::generate(Role::Ksk).unwrap();
        let text = key.private_text().unwrap().unwrap();
        let half = &text.reveal()[..text.reveal().len() / 2];
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        for (text, error) in [
            ("", KeyError::NoPem),
            (half, KeyError::NoPem),
            (
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                KeyError::NotP256,
            ),
            (&p384.serialize_pem(), KeyError::NotP256),
        ] {
            assert_eq!(
                Key::from_private_text(Role::Ksk, text.as_bytes()).unwrap_err(),
                error
            );
        }
        let public = key.dnskey_text();
        for text in [
            "",
            "257 3 13",
            &public.replace("257", "256"),
            &public.replace(" 13 ", " 8 "),
            &public[..public.len() - 4],
            "DNSKEY",
        ] {
            let error = Key::from_public_text(Role::Ksk, text).unwrap_err();
            assert_eq!(error, KeyError::NoDnskey(Role::Ksk), "{text}");
        }
        let nowhere = format!("257 3 13 {}", BASE64.encode(&[1; 64])); // on no curve
        let error = Key::from_public_text(Role::Ksk, &nowhere).unwrap_err();
        assert_eq!(error, KeyError::NotP256);
    }
}
