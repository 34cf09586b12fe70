//! Whether what an authority has issued is what was asked for. It is shown to nobody before.

use std::borrow::Cow;
use std::time::{Duration, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use instant_acme::CertificateIdentifier;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::X509Certificate;

use crate::keys::TlsKey;
use crate::tls::{self, CertificateSlot};

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

/// Two clocks that agree are off by so much at most, in seconds: the cloud takes what is signed five minutes ago or ahead.
const AGREED: u64 = 5 * 60;

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
    /// At this time.
    #[error("its certificate has ended already, {}", day(*.0))]
    Ended(u64),
    /// It has ended by this device's clock, and not by a better one.
    #[error("its certificate has ended already by this device's clock, which is wrong")]
    Clock,
    /// At this time: visitors would not take it.
    #[error("its certificate begins only later, {}", day(*.0))]
    Later(u64),
    /// Visitors would not find who has signed it.
    #[error("its certificate is signed by none of those that it sends along")]
    Chain,
}

/// Looks at what has only come now, by this device's clock and a better one. What is kept is not looked at as closely: a clock that is
/// wrong is to take nothing away.
pub(super) fn look_at_new(
    chain: &str,
    key: &TlsKey,
    names: &[String],
    (now, better): (u64, u64),
) -> Result<Issued, Wrong> {
    let issued = match look_at(chain, key, names, now) {
        Err(Wrong::Ended(end)) if better < end => Err(Wrong::Clock),
        looked_at => looked_at,
    }?;
    if issued.not_after <= better {
        return Err(Wrong::Ended(issued.not_after));
    }
    if better.saturating_add(AGREED) < issued.not_before {
        return Err(Wrong::Later(issued.not_before));
    }
    match tls::holds_together(chain, better.max(issued.not_before)) {
        true => Ok(issued),
        false => Err(Wrong::Chain),
    }
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
        return Err(Wrong::Ended(not_after));
    }
    Ok(Issued {
        slot,
        not_before,
        not_after,
        id: identifier(&leaf),
    })
}

/// As people write it; what is later than the year 9999 cannot stand in a certificate.
fn day(seconds: u64) -> impl std::fmt::Display {
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds.min(253_402_300_799)));
    humantime::format_rfc3339_seconds(time.unwrap_or(UNIX_EPOCH))
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
    use data_encoding::BASE64;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

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
        params.signed_by(key, &authority().0).unwrap().pem()
    }

    /// And its own certificate.
    fn authority() -> (Issuer<'static, KeyPair>, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        (Issuer::new(params, key), pem)
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
        assert_eq!(wrong(&good, NOW + 60), Wrong::Ended(NOW + 60));
        for garbage in [
            "",
            "nonsense",
            &good[..good.len() / 2],
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            assert_eq!(wrong(garbage, NOW), Wrong::Garbage, "{garbage}");
        }
    }

    #[test]
    fn what_is_new_is_good_by_the_better_clock_and_whoever_is_wrong_is_named() {
        let pem = TlsKey::generate_pem().unwrap();
        let (key, pair) = (
            TlsKey::from_pem(&pem).unwrap(),
            KeyPair::from_pem(&pem).unwrap(),
        );
        const DAY: u64 = 24 * 60 * 60;
        let (begin, end) = (NOW, NOW + 90 * DAY);
        let chain = issued(names(), &pair, (begin, end));
        let taken = |now, better| look_at_new(&chain, &key, &names(), (now, better)).map(drop);
        for (now, better, outcome) in [
            (NOW, NOW, Ok(())),
            (NOW - AGREED, NOW - AGREED, Ok(())),
            // This device's clock is wrong, and the cloud's is not.
            (NOW - DAY, NOW, Ok(())),
            (end - 1, NOW, Ok(())),
            (end, NOW, Err(Wrong::Clock)),
            // The authority lies.
            (NOW - DAY, NOW - DAY, Err(Wrong::Later(begin))),
            (NOW, NOW - DAY, Err(Wrong::Later(begin))),
            (end, end, Err(Wrong::Ended(end))),
            (NOW, end, Err(Wrong::Ended(end))),
        ] {
            assert_eq!(taken(now, better), outcome, "{now} {better}");
        }
        let kept = look_at(&chain, &key, &names(), 0);
        assert!(kept.is_ok(), "a slow clock takes nothing away");
        let said = [
            Wrong::Ended(end).to_string(),
            Wrong::Later(u64::MAX).to_string(),
        ];
        assert!(said[0].ends_with("2027-04-15T08:00:00Z"), "{said:?}");
        assert!(said[1].ends_with("9999-12-31T23:59:59Z"), "{said:?}");
    }

    #[test]
    fn a_chain_holds_together() {
        let pem = TlsKey::generate_pem().unwrap();
        let (key, pair) = (
            TlsKey::from_pem(&pem).unwrap(),
            KeyPair::from_pem(&pem).unwrap(),
        );
        let (signer, its_own) = authority();
        let mut params = CertificateParams::new(names()).unwrap();
        params.not_before = (UNIX_EPOCH + Duration::from_secs(NOW)).into();
        params.not_after = (UNIX_EPOCH + Duration::from_secs(NOW + 60)).into();
        let leaf = params.signed_by(&pair, &signer).unwrap().pem();
        let (_, other) = authority();
        let taken = |following: &[&str]| {
            let chain = leaf.clone() + &following.concat();
            look_at_new(&chain, &key, &names(), (NOW, NOW)).map(drop)
        };
        assert_eq!(taken(&[]), Ok(()), "visitors may know who has signed it");
        assert_eq!(taken(&[&its_own]), Ok(()));
        assert_eq!(taken(&[&its_own, &other]), Ok(()), "nobody is confused");
        assert_eq!(taken(&[&other]), Err(Wrong::Chain));
        assert_eq!(taken(&[&leaf]), Err(Wrong::Chain));
        let many = vec![&*its_own; 20];
        assert_eq!(taken(&many), Err(Wrong::Chain), "nobody sends so many");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(taken(&[broken]).is_err());

        // Whichever octet is another.
        let (_, good) = parse_x509_pem(leaf.as_bytes()).unwrap();
        for i in 0..good.contents.len() {
            let mut octets = good.contents.clone();
            octets[i] ^= 1 << (i % 8);
            let octets = BASE64.encode(&octets);
            let bad = format!("-----BEGIN CERTIFICATE-----\n{octets}\n-----END CERTIFICATE-----\n");
            let chain = bad + &its_own;
            let taken = look_at_new(&chain, &key, &names(), (NOW, NOW));
            assert!(taken.is_err(), "{i}");
        }
    }
}
