//! Whether what an authority has issued is what was asked for. It is shown to nobody before.

use std::borrow::Cow;

use data_encoding::BASE64URL_NOPAD;
use instant_acme::CertificateIdentifier;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::X509Certificate;

use crate::keys::TlsKey;
use crate::tls::CertificateSlot;

/// A certificate that can be shown.
#[derive(Debug)]
pub struct Issued {
    /// With its key.
    pub slot: CertificateSlot,
    /// Since when it is good, in seconds since 1970.
    pub not_before: u64,
    /// When it ends.
    pub not_after: u64,
    /// How its authority knows it (RFC 9773 section 4.1), if that can be told.
    pub id: Option<CertificateIdentifier<'static>>,
}

/// What is wrong with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It cannot be read.
    #[error("what it gave is no certificate")]
    Garbage,
    /// Nobody could show it.
    #[error("its certificate is for another key than this device's")]
    Key,
    /// It is of no use for all that it is for.
    #[error("its certificate lacks a name of this device")]
    Names,
    /// Or the clock is wrong.
    #[error("its certificate has ended already, by this device's clock")]
    Ended,
}

/// Looks at `chain`, in PEM, leaf first, at the time `now`.
pub(super) fn look_at(
    chain: &str,
    key: &TlsKey,
    names: &[String],
    now: u64,
) -> Result<Issued, Wrong> {
    let (_, pem) = parse_x509_pem(chain.as_bytes()).map_err(|_| Wrong::Garbage)?;
    let leaf = pem.parse_x509().map_err(|_| Wrong::Garbage)?;
    let slot = CertificateSlot::from_pem(chain, key.pem()).map_err(|_| Wrong::Key)?;
    let alternatives = leaf.subject_alternative_name().ok().flatten();
    let alternatives = alternatives.map(|found| found.value.general_names.as_slice());
    let is_named = |name: &String| {
        let mut found = alternatives.unwrap_or_default().iter();
        found.any(|found| matches!(found, GeneralName::DNSName(found) if found.eq_ignore_ascii_case(name)))
    };
    if !names.iter().all(is_named) {
        return Err(Wrong::Names);
    }
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    let validity = leaf.validity();
    let (not_before, not_after) = (seconds(validity.not_before), seconds(validity.not_after));
    if not_after <= now || not_after <= not_before {
        return Err(Wrong::Ended);
    }
    Ok(Issued {
        slot,
        not_before,
        not_after,
        id: identifier(&leaf),
    })
}

fn identifier(leaf: &X509Certificate<'_>) -> Option<CertificateIdentifier<'static>> {
    let mut extensions = leaf.iter_extensions();
    let key = extensions.find_map(|extension| {
        if let ParsedExtension::AuthorityKeyIdentifier(found) = extension.parsed_extension() {
            return found.key_identifier.as_ref();
        }
        None
    })?;
    let encoded = |octets: &[u8]| Cow::Owned(BASE64URL_NOPAD.encode(octets));
    Some(CertificateIdentifier {
        authority_key_identifier: encoded(key.0),
        serial: encoded(leaf.raw_serial()),
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn names() -> Vec<String> {
        ["mynas.nas.test", "*.mynas.nas.test"]
            .map(str::to_owned)
            .into()
    }

    /// From an authority that issues what it is told.
    fn issued(names: Vec<String>, key: &KeyPair, life: (u64, u64)) -> String {
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = (UNIX_EPOCH + Duration::from_secs(life.0)).into();
        params.not_after = (UNIX_EPOCH + Duration::from_secs(life.1)).into();
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(vec![0x80, 1].into());
        let authority = KeyPair::generate().unwrap();
        let issuer = CertificateParams::new(Vec::new()).unwrap();
        let issuer = rcgen::Issuer::new(issuer, authority);
        params.signed_by(key, &issuer).unwrap().pem()
    }

    #[test]
    fn only_what_was_asked_for_is_taken() {
        let pem = TlsKey::generate_pem().unwrap();
        let (key, pair) = (
            TlsKey::from_pem(&pem).unwrap(),
            KeyPair::from_pem(&pem).unwrap(),
        );
        let life = (NOW - 60, NOW + 60);
        let good = issued(names(), &pair, life);
        let found = look_at(&good, &key, &names(), NOW).unwrap();
        assert_eq!((found.not_before, found.not_after), life);
        let id = found.id.unwrap();
        assert_eq!(id.serial, "AIAB", "with the octet that keeps it positive");
        assert!(!id.authority_key_identifier.is_empty());

        let wrong = |chain: &str, now| look_at(chain, &key, &names(), now).map(|_| ()).unwrap_err();
        let stranger = KeyPair::generate().unwrap();
        assert_eq!(wrong(&issued(names(), &stranger, life), NOW), Wrong::Key);
        assert_eq!(
            wrong(&issued(names()[..1].into(), &pair, life), NOW),
            Wrong::Names
        );
        let other = vec!["mynas.nas.test".to_owned(), "*.other.nas.test".to_owned()];
        assert_eq!(wrong(&issued(other, &pair, life), NOW), Wrong::Names);
        assert_eq!(wrong(&issued(Vec::new(), &pair, life), NOW), Wrong::Names);
        assert_eq!(wrong(&good, NOW + 60), Wrong::Ended);
        for garbage in [
            "",
            "nonsense",
            &good[..good.len() / 2],
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            assert_eq!(wrong(garbage, NOW), Wrong::Garbage, "{garbage}");
        }
    }
}
