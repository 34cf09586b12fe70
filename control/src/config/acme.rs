//! The `[acme]` section: who is asked for the certificates of devices, and of the operator's own hosts.

use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::Uri;
use data_encoding::BASE64URL_NOPAD;
use ddns::caa::is_issuer;
use relay::tls::Roots;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::orders::Limit;

/// More authorities than anybody has; agents take no more.
const MOST: usize = 16;

/// Longer than the name of any profile.
const LONGEST_PROFILE: usize = 64;

/// No authority has such a limit, and each order is remembered for as long as it counts.
const MOST_ORDERS: u32 = 1_000_000;

/// The same.
const ORDERS_WITHIN: RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(366 * 24 * 60 * 60);

/// Certificate authorities that speak ACME (RFC 8555).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcmeConfig {
    /// How they reach the operator: a mailto address.
    pub contact: Option<String>,
    /// The operator's own hosts, `cloud.` and the name server, show a certificate of one of them too.
    #[serde(default)]
    pub operator: bool,
    /// The first that gives a certificate is enough.
    #[serde(default)]
    pub ca: Vec<AcmeAuthority>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcmeAuthority {
    /// The address of its directory.
    pub directory: String,
    /// Certificates, in PEM, that the directory is checked against too.
    pub ca_file: Option<PathBuf>,
    /// The operator's account with it, where it wants one (RFC 8555 section 7.3.4).
    pub eab_key_id: Option<String>,
    /// The key of that, in base64url.
    pub eab_key_file: Option<PathBuf>,
    /// What it looks for in CAA records (RFC 8659 section 4.2), if its directory does not say so.
    pub caa_identity: Option<String>,
    /// Which of its kinds of certificates is ordered, by the name that stands in its directory. Default: whichever it gives.
    pub profile: Option<String>,
    /// How many certificates it gives within `orders_within`, to all devices and the operator together; without it as many as are ordered.
    pub orders: Option<NonZeroU32>,
    /// A week without it.
    #[serde(default = "week", with = "humantime_serde")]
    pub orders_within: Duration,
}

fn week() -> Duration {
    Duration::from_secs(7 * 24 * 60 * 60)
}

impl AcmeConfig {
    /// What is wrong with it, with the key it is about.
    pub(super) fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let mut fault = |key: String, sentence: String| faults.push((key, sentence));
        if let Some(contact) = &self.contact
            && !is_mailto(contact)
        {
            let sentence =
                "this is no address of mail; one looks like mailto:hostmaster@example.com";
            fault("contact".to_owned(), sentence.to_owned());
        }
        if !(1..=MOST).contains(&self.ca.len()) {
            let sentence =
                format!("1 to {MOST} authorities can be asked, each in a section [[acme.ca]]");
            fault("ca".to_owned(), sentence);
        }
        for (i, authority) in self.ca.iter().enumerate() {
            for (key, sentence) in authority.faults() {
                fault(format!("ca.{i}.{key}"), sentence);
            }
            let mut before = self.ca.iter().take(i);
            if before.any(|before| before.directory == authority.directory) {
                let sentence = "this authority is asked already";
                fault(format!("ca.{i}.directory"), sentence.to_owned());
            }
        }
        faults
    }
}

impl AcmeAuthority {
    fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if !is_https(&self.directory) {
            let sentence = "this is no HTTPS address; one looks like https://acme-v02.api.letsencrypt.org/directory";
            faults.push(("directory", sentence.to_owned()));
        }
        if let Some(identity) = &self.caa_identity
            && !is_issuer(identity)
        {
            let sentence = "this is no name of an authority; one looks like letsencrypt.org";
            faults.push(("caa_identity", sentence.to_owned()));
        }
        if let Err(error) = self.ca() {
            faults.push(("ca_file", error.to_string()));
        }
        let is_name = |profile: &String| {
            (1..=LONGEST_PROFILE).contains(&profile.len())
                && profile.bytes().all(|octet| octet.is_ascii_graphic())
        };
        if !self.profile.as_ref().is_none_or(is_name) {
            let sentence = "this is no name of a profile; one looks like shortlived, and stands in the authority's directory";
            faults.push(("profile", sentence.to_owned()));
        }
        match (&self.eab_key_id, &self.eab_key_file) {
            (None, None) => {}
            (Some(_), Some(_)) => {
                if let Err(error) = self.eab_key() {
                    faults.push(("eab_key_file", error.to_string()));
                }
            }
            (Some(_), None) => {
                faults.push(("eab_key_id", "`eab_key_file` belongs to it".to_owned()))
            }
            (None, Some(_)) => {
                faults.push(("eab_key_file", "`eab_key_id` belongs to it".to_owned()))
            }
        }
        if !ORDERS_WITHIN.contains(&self.orders_within) {
            let sentence = "authorities count orders over a minute at least, and a year at most";
            faults.push(("orders_within", sentence.to_owned()));
        }
        if self.orders.is_some_and(|orders| orders.get() > MOST_ORDERS) {
            let sentence = format!("{MOST_ORDERS} orders are as good as no limit; leave it out");
            faults.push(("orders", sentence));
        }
        faults
    }

    /// How much may be ordered, if not as much as anybody wants.
    pub(crate) fn limit(&self) -> Option<Limit> {
        let orders = usize::try_from(self.orders?.get()).ok()?;
        let within = self.orders_within;
        Some(Limit { orders, within })
    }

    /// The certificates in `ca_file`.
    pub(crate) fn ca(&self) -> io::Result<Option<String>> {
        let Some(file) = &self.ca_file else {
            return Ok(None);
        };
        let pem = fs::read_to_string(file).map_err(|error| named(file, error))?;
        Roots::from_pem(&pem).map_err(|error| named(file, error))?;
        Ok(Some(pem))
    }

    /// The key in `eab_key_file`.
    pub(crate) fn eab_key(&self) -> io::Result<Option<Zeroizing<String>>> {
        let Some(file) = &self.eab_key_file else {
            return Ok(None);
        };
        let text = fs::read_to_string(file).map(Zeroizing::new);
        let text = text.map_err(|error| named(file, error))?;
        let key = text.trim().trim_end_matches('=');
        let octets = BASE64URL_NOPAD.decode(key.as_bytes()).map(Zeroizing::new);
        if !octets.is_ok_and(|octets| !octets.is_empty()) {
            return Err(named(file, "this is no key in base64url"));
        }
        Ok(Some(key.to_owned().into()))
    }
}

fn named(file: &Path, what: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {what}", file.display()))
}

fn is_mailto(contact: &str) -> bool {
    let address = contact.strip_prefix("mailto:");
    let parts = address.and_then(|address| address.split_once('@'));
    parts.is_some_and(|(user, host)| {
        let is_said =
            |part: &str| !part.is_empty() && part.bytes().all(|octet| octet.is_ascii_graphic());
        is_said(user) && is_said(host) && !host.contains('@')
    })
}

fn is_https(directory: &str) -> bool {
    directory.parse::<Uri>().is_ok_and(|uri| {
        let authority = uri.authority().map(|authority| authority.as_str());
        uri.scheme_str() == Some("https") && authority.is_some_and(|name| !name.contains('@'))
    })
}

#[cfg(test)]
mod tests {
    use super::super::Overrides;
    use super::super::tests::{GOOD, faults, read};

    const LETS_ENCRYPT: &str =
        "[[acme.ca]]\ndirectory = \"https://acme-v02.api.letsencrypt.org/directory\"\n";

    fn with(section: &str) -> String {
        format!("{GOOD}\n{section}")
    }

    #[test]
    fn authorities_are_asked_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("eab");
        std::fs::write(&key, "c2VjcmV0\n").unwrap();
        let text = with(&format!(
            "[acme]\ncontact = \"mailto:hostmaster@example.com\"\n{LETS_ENCRYPT}[[acme.ca]]\n\
             directory = \"https://ca.example:14000/dir\"\neab_key_id = \"kid-1\"\neab_key_file = {:?}\n\
             profile = \"shortlived\"\n",
            key.display().to_string()
        ));
        let acme = read(&text, &Overrides::default()).unwrap().acme.unwrap();
        assert_eq!(acme.ca[1].directory, "https://ca.example:14000/dir");
        assert_eq!(acme.ca[1].eab_key().unwrap().unwrap().as_str(), "c2VjcmV0");
        assert_eq!(acme.ca[1].profile.as_deref(), Some("shortlived"));
    }

    #[test]
    fn what_cannot_be_asked_is_named_with_its_line() {
        let no_key = std::env::temp_dir().join("there/is/no/such");
        let no_key = no_key.display();
        for (section, line, sentence) in [
            ("[acme]\n", 13, "1 to 16 authorities"),
            (
                &format!("[acme]\ncontact = \"me\"\n{LETS_ENCRYPT}"),
                14,
                "no address of mail",
            ),
            (
                &format!("[acme]\n{LETS_ENCRYPT}{LETS_ENCRYPT}"),
                17,
                "asked already",
            ),
            (
                "[[acme.ca]]\ndirectory = \"http://ca.example/dir\"",
                14,
                "no HTTPS address",
            ),
            (
                &format!("{LETS_ENCRYPT}eab_key_id = \"kid-1\""),
                15,
                "`eab_key_file` belongs",
            ),
            (
                &format!("{LETS_ENCRYPT}profile = \"short lived\""),
                15,
                "no name of a profile",
            ),
            (
                &format!("{LETS_ENCRYPT}caa_identity = \"ca.test; accounturi=x\""),
                15,
                "no name of an authority",
            ),
            (
                &format!("{LETS_ENCRYPT}ca_file = \"{no_key}\""),
                15,
                "No such file",
            ),
            (
                &format!("{LETS_ENCRYPT}ca_file = \"/dev/null\""),
                15,
                "no usable certificate",
            ),
            (
                &format!("{LETS_ENCRYPT}eab_key_id = \"kid-1\"\neab_key_file = \"/dev/null\""),
                16,
                "no key in base64url",
            ),
        ] {
            let found = faults(&with(section));
            let is_said = |fault: &String| {
                fault.starts_with(&format!("causeway.toml:{line}: ")) && fault.contains(sentence)
            };
            assert!(found.iter().any(is_said), "{section}: {found:?}");
        }
        let without_dns = with(LETS_ENCRYPT).replace("[ddns]\nlisten = \"127.0.0.1:5300\"\n", "");
        let found = faults(&without_dns);
        assert!(found[0].contains("without [ddns]"), "{found:?}");
    }
}
