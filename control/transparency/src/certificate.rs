//! What a certificate says that whoever has a name wants to know.

use std::collections::BTreeSet;
use std::fmt;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use x509_parser::certificate::{TbsCertificate, X509Certificate};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

/// No more of an issuer's name is kept, in characters; it is whatever the issuer likes.
const LONGEST_ISSUER: usize = 200;

/// No longer serial number is kept, in octets; RFC 5280 section 4.1.2.2 allows 20.
const LONGEST_SERIAL: usize = 32;

/// The SHA-256 of a public key, as certificates have it: who has a certificate's key is whose it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub [u8; 32]);

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a certificate, or what is to become one, says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// For which hosts it is good: in small letters, without a dot at the end, some with `*.` in front.
    pub names: BTreeSet<String>,
    /// In hexadecimal.
    pub serial: String,
    /// Who has given it, in words of its own.
    pub issuer: String,
    /// When it begins, in seconds since 1970.
    pub not_before: i64,
    /// When it ends, the same.
    pub not_after: i64,
    /// Whose it is.
    pub key: KeyHash,
}

/// A certificate that this reader cannot make out; another may.
#[derive(Clone, PartialEq, Eq)]
pub struct Unreadable(Box<[u8]>);

impl Unreadable {
    /// Whether `name` stands in it somewhere, whatever that means.
    pub fn mentions(&self, name: &str) -> bool {
        let name = name.as_bytes();
        let mut windows = self.0.windows(name.len().max(1));
        windows.any(|window| window.eq_ignore_ascii_case(name))
    }
}

impl fmt::Debug for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unreadable({} octets)", self.0.len())
    }
}

impl Certificate {
    /// One in DER.
    ///
    /// # Errors
    /// If it cannot be made out.
    pub fn read(der: &[u8]) -> Result<Self, Unreadable> {
        let read = X509Certificate::from_der(der).ok();
        let read = read.and_then(|(_, certificate)| Self::of(&certificate.tbs_certificate));
        read.ok_or_else(|| Unreadable(der.into()))
    }

    /// What is signed of one.
    ///
    /// # Errors
    /// If it cannot be made out.
    pub(crate) fn read_signed(der: &[u8]) -> Result<Self, Unreadable> {
        let read = TbsCertificate::from_der(der).ok();
        let read = read.and_then(|(_, signed)| Self::of(&signed));
        read.ok_or_else(|| Unreadable(der.into()))
    }

    /// `None` if it is not clear for which names it is.
    fn of(signed: &TbsCertificate<'_>) -> Option<Self> {
        let mut names = BTreeSet::new();
        if let Some(alternative) = signed.subject_alternative_name().ok()? {
            for name in &alternative.value.general_names {
                match name {
                    GeneralName::DNSName(name) => names.extend(normal(name)),
                    GeneralName::Invalid(..) => return None,
                    // Nobody is visited by these.
                    GeneralName::OtherName(..)
                    | GeneralName::RFC822Name(_)
                    | GeneralName::X400Address(_)
                    | GeneralName::DirectoryName(_)
                    | GeneralName::EDIPartyName(_)
                    | GeneralName::URI(_)
                    | GeneralName::IPAddress(_)
                    | GeneralName::RegisteredID(_) => {}
                }
            }
        }
        // Old clients look there.
        for common in signed.subject().iter_common_name() {
            names.extend(common.as_str().ok().and_then(normal));
        }
        let serial = signed.raw_serial();
        let serial = serial.get(..LONGEST_SERIAL).unwrap_or(serial);
        let issuer = signed.issuer().to_string();
        Some(Self {
            names,
            serial: HEXLOWER.encode(serial),
            issuer: issuer.chars().take(LONGEST_ISSUER).collect(),
            not_before: signed.validity().not_before.timestamp(),
            not_after: signed.validity().not_after.timestamp(),
            key: KeyHash(Sha256::digest(signed.public_key().raw).into()),
        })
    }
}

/// A host's name as it is compared; `None` if it is no host's.
fn normal(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let is_of_host = |letter: u8| letter.is_ascii_alphanumeric() || b"-_.*".contains(&letter);
    let is_host = (1..=253).contains(&name.len()) && name.bytes().all(is_of_host);
    is_host.then_some(name)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData as _};

    use super::*;

    #[test]
    fn what_it_is_for_and_whose_it_is_are_read() {
        let pair = KeyPair::generate().unwrap();
        let names = [
            "MyNas.example.com".to_owned(),
            "*.mynas.example.com".to_owned(),
        ];
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "old.example.com.");
        let made = params.self_signed(&pair).unwrap();
        let read = Certificate::read(made.der()).unwrap();
        let names: Vec<_> = read.names.iter().map(String::as_str).collect();
        let expected = [
            "*.mynas.example.com",
            "mynas.example.com",
            "old.example.com",
        ];
        assert_eq!(names, expected);
        let key = Sha256::digest(pair.subject_public_key_info());
        assert_eq!(read.key.to_string(), HEXLOWER.encode(&key));
        assert!(read.not_before < read.not_after);

        // Two octets of it are cut off: nobody knows what it is, but for what stands in it.
        let cut = &made.der()[..made.der().len() - 2];
        let unreadable = Certificate::read(cut).unwrap_err();
        assert!(unreadable.mentions("mynas.example.com"));
        assert!(!unreadable.mentions("other.example.com"));
    }

    #[test]
    fn names_that_no_host_has_are_none() {
        for bad in [
            "",
            ".",
            "a b",
            "me@example.com",
            "b\u{fc}cher.example",
            &"a".repeat(254),
        ] {
            assert_eq!(normal(bad), None, "{bad}");
        }
        assert_eq!(normal("A.Example.").as_deref(), Some("a.example"));
    }
}
