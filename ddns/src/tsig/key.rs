//! Keys: whose they are, and what their secrets are.
//!
//! A key is named like what it may write: `mynas.nas.example.com` the addresses of that device, and
//! `_acme-challenge.mynas.nas.example.com` its challenges. Its secret is kept nowhere. It is made, whenever it is needed, of the
//! hash of the token that the same device has for the same duty, and of one master secret. So a new token is a new secret, and a
//! database that gets lost signs nothing.

use std::fmt;

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use directory::{DeviceName, Duty, TokenHash, Zone};
use zeroize::Zeroizing;

use crate::challenges::{CHALLENGE_LABEL, challenge_host};

/// What all secrets are made of, beside the tokens' hashes. Not printable.
#[derive(Clone)]
pub struct Master(Zeroizing<[u8; Self::LEN]>);

impl Master {
    /// Octets.
    pub const LEN: usize = 32;

    /// Takes octets that nobody else knows and that are the same after every start.
    pub fn new(octets: Zeroizing<[u8; Self::LEN]>) -> Self {
        Self(octets)
    }

    /// The secret that belongs to a token.
    pub fn secret(&self, token: &TokenHash) -> Secret {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &*self.0);
        let mut digest = hmac::Context::with_key(&key);
        digest.update(b"causeway tsig v1");
        digest.update(token.as_bytes());
        Secret(Zeroizing::new(digest.sign().as_ref().to_vec()))
    }
}

impl fmt::Debug for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Master(…)")
    }
}

/// The secret of one key. Not printable.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Of these octets.
    pub(crate) fn new(octets: Zeroizing<Vec<u8>>) -> Self {
        Self(octets)
    }

    /// As clients want it, for the one place that shows it.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64.encode(&self.0))
    }

    pub(super) fn octets(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The name of a device's key.
pub fn name_of(device: &DeviceName, duty: Duty, zone: &Zone) -> String {
    let host = zone.name_of(device);
    match duty {
        Duty::Addresses => host,
        Duty::Challenges => format!("{}.{host}", CHALLENGE_LABEL.escape_ascii()),
    }
}

/// Whose key it is that has these labels in front of the zone's name (on the wire, in lower case), and what for.
pub(crate) fn holder(labels: &[u8]) -> Option<(DeviceName, Duty)> {
    match challenge_host(labels) {
        Some(label) => Some((device(label)?, Duty::Challenges)),
        None => Some((device(labels)?, Duty::Addresses)),
    }
}

/// The device of one label.
fn device(labels: &[u8]) -> Option<DeviceName> {
    let (&length, label) = labels.split_first()?;
    let is_one = usize::from(length) == label.len();
    let text = str::from_utf8(label).ok().filter(|_| is_one)?;
    DeviceName::parse(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(octet: u8) -> Master {
        Master::new(Zeroizing::new([octet; 32]))
    }

    #[test]
    fn a_secret_is_made_of_master_and_token_and_prints_nothing() {
        let (one, other) = (TokenHash::of("one"), TokenHash::of("other"));
        let secret = master(1).secret(&one);
        assert_eq!(secret.reveal(), master(1).secret(&one).reveal());
        assert_ne!(secret.reveal(), master(1).secret(&other).reveal());
        assert_ne!(secret.reveal(), master(2).secret(&one).reveal());
        // HMAC-SHA-256 as another program computes it, so that no release changes the secrets of the one before.
        assert_eq!(
            *secret.reveal(),
            "hZ/8Eh4c5HPy40agRxHf5eILwPuqWie612X406rnOa0="
        );
        assert_eq!(format!("{:?} {secret:?}", master(1)), "Master(…) Secret(…)");
    }

    #[test]
    fn a_key_is_named_like_what_it_may_write() {
        let zone = Zone::parse("nas.test").unwrap();
        let mynas = DeviceName::parse("mynas").unwrap();
        for (duty, name, labels) in [
            (Duty::Addresses, "mynas.nas.test", &b"\x05mynas"[..]),
            (
                Duty::Challenges,
                "_acme-challenge.mynas.nas.test",
                b"\x0f_acme-challenge\x05mynas",
            ),
        ] {
            assert_eq!(name_of(&mynas, duty, &zone), name);
            assert_eq!(holder(labels), Some((mynas.clone(), duty)));
        }
        for nobodys in [
            &b""[..],
            b"\x0f_acme-challenge",
            b"\x01x\x05mynas",
            b"\x0f_acme-challenge\x01x\x05mynas",
            b"\x02\xFF\xFF",
            b"\x05cloud",
        ] {
            assert_eq!(holder(nobodys), None);
        }
    }
}
