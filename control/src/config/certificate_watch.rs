//! The `[certificate_watch]` section: which logs are followed for certificates that somebody has got for names of the zone.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use axum::http::Uri;
use relay::tls::Roots;
use serde::Deserialize;
use transparency::LogKey;

/// More logs than certificate authorities use at a time.
const MOST: usize = 16;

/// How often one may ask another.
const TIMES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 60 * 60));

/// Certificate transparency logs (RFC 6962) that are followed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateWatchConfig {
    /// How often each log is asked what is new.
    #[serde(default = "every", with = "humantime_serde")]
    pub every: Duration,
    /// How often devices are to ask what was seen for their names.
    #[serde(default = "devices_ask", with = "humantime_serde")]
    pub devices_ask: Duration,
    /// The logs.
    #[serde(default)]
    pub log: Vec<LogConfig>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// Where it is.
    pub url: String,
    /// What it signs with, in base64, as lists of logs have it.
    pub key: String,
    /// The certificates, in PEM, that it is checked against; absent: those that this system trusts.
    pub ca_file: Option<PathBuf>,
}

fn every() -> Duration {
    Duration::from_secs(60)
}

fn devices_ask() -> Duration {
    Duration::from_secs(15 * 60)
}

impl CertificateWatchConfig {
    /// What is wrong with it, with the key it is about.
    pub(super) fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        for (key, time) in [("every", self.every), ("devices_ask", self.devices_ask)] {
            if !(TIMES.0..=TIMES.1).contains(&time) {
                faults.push((key.to_owned(), "between 1s and 1d makes sense".to_owned()));
            }
        }
        if !(1..=MOST).contains(&self.log.len()) {
            let sentence = format!(
                "1 to {MOST} logs can be followed, each in a section [[certificate_watch.log]]"
            );
            faults.push(("log".to_owned(), sentence));
        }
        for (i, log) in self.log.iter().enumerate() {
            let mut fault = |key: &str, sentence: String| {
                faults.push((format!("log.{i}.{key}"), sentence));
            };
            if log.place().is_none() {
                let sentence =
                    "this is no HTTPS address; one looks like https://ct.example.com/2027h1/";
                fault("url", sentence.to_owned());
            }
            let mut before = self.log.iter().take(i);
            if before.any(|before| before.base() == log.base()) {
                fault("url", "this log is followed already".to_owned());
            }
            if let Err(error) = LogKey::parse(&log.key) {
                fault("key", error.to_string());
            }
            if let Err(error) = log.named_roots() {
                fault("ca_file", error.to_string());
            }
        }
        faults
    }
}

impl LogConfig {
    /// Its address without the end.
    pub(crate) fn base(&self) -> &str {
        self.url.trim_end_matches('/')
    }

    /// Its host and port.
    pub(crate) fn place(&self) -> Option<(String, u16)> {
        let uri: Uri = self.url.parse().ok()?;
        let authority = uri.authority()?;
        let is_plain = uri.query().is_none() && !authority.as_str().contains('@');
        (uri.scheme_str() == Some("https") && is_plain).then(|| {
            let port = authority.port_u16().unwrap_or(443);
            (authority.host().to_owned(), port)
        })
    }

    /// What it is checked against.
    ///
    /// # Errors
    /// If its file cannot be read, or this system trusts nothing.
    pub(crate) fn roots(&self) -> io::Result<Roots> {
        match self.named_roots()? {
            Some(roots) => Ok(roots),
            None => Roots::of_system().map_err(io::Error::other),
        }
    }

    fn named_roots(&self) -> io::Result<Option<Roots>> {
        let Some(file) = &self.ca_file else {
            return Ok(None);
        };
        let named =
            |what: &dyn std::fmt::Display| io::Error::other(format!("{}: {what}", file.display()));
        let pem = fs::read_to_string(file).map_err(|error| named(&error))?;
        let roots = Roots::from_pem(&pem).map_err(|error| named(&error))?;
        Ok(Some(roots))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Overrides;
    use super::super::tests::{GOOD, faults, read};

    /// What a log could sign with.
    pub(in crate::config) fn test_key() -> String {
        let pair = rcgen::KeyPair::generate().unwrap(); // P-256
        let public = rcgen::PublicKeyData::subject_public_key_info(&pair);
        data_encoding::BASE64.encode(&public)
    }

    fn with(section: &str) -> String {
        format!("{GOOD}\n{section}")
    }

    fn log(url: &str, key: &str) -> String {
        format!("[[certificate_watch.log]]\nurl = \"{url}\"\nkey = \"{key}\"\n")
    }

    #[test]
    fn logs_are_followed_where_they_are() {
        let key = test_key();
        let text = with(&format!(
            "[certificate_watch]\nevery = \"30s\"\n{}",
            log("https://ct.example:8443/2027h1/", &key)
        ));
        let config = read(&text, &Overrides::default()).unwrap();
        let watch = config.certificate_watch.unwrap();
        assert_eq!(watch.every.as_secs(), 30);
        assert_eq!(watch.devices_ask.as_secs(), 900);
        assert_eq!(watch.log[0].base(), "https://ct.example:8443/2027h1");
        let place = watch.log[0].place();
        assert_eq!(place, Some(("ct.example".to_owned(), 8443)));
    }

    #[test]
    fn what_cannot_be_followed_is_named_with_its_line() {
        let key = test_key();
        let good = log("https://ct.example/", &key);
        for (section, line, sentence) in [
            ("[certificate_watch]\n".to_owned(), 13, "1 to 16 logs"),
            (
                format!("[certificate_watch]\nevery = \"0s\"\n{good}"),
                14,
                "between 1s and 1d",
            ),
            (log("http://ct.example/", &key), 14, "no HTTPS address"),
            (
                format!("{good}{}", log("https://ct.example", &key)),
                17,
                "followed already",
            ),
            (log("https://ct.example/", "AAAA"), 15, "no key of a log"),
            (
                format!("{good}ca_file = \"/dev/null\""),
                16,
                "no usable certificate",
            ),
        ] {
            let found = faults(&with(&section));
            let is_said = |fault: &String| {
                fault.starts_with(&format!("causeway.toml:{line}: ")) && fault.contains(sentence)
            };
            assert!(found.iter().any(is_said), "{section}: {found:?}");
        }
    }
}
