//! The body of lego's `httpreq`, in its two modes.
//!
//! ```text
//!   {"fqdn": "_acme-challenge.photos.mynas.nas.example.com.", "value": "LPsIwTo7o8BoG0-vjCyGQGBWSVIPxI-i_X336eUOQZo"}
//!   {"domain": "photos.mynas.nas.example.com", "token": "…", "keyAuth": "…"}
//! ```

#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::challenges::ChallengeValue;

/// A challenge, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChallengeRequest {
    /// The full name of the record, as it was written.
    pub name: String,
    /// What a CA is to find there.
    pub value: ChallengeValue,
}

impl ChallengeRequest {
    /// Reads a body; `None` if it is of neither mode.
    pub fn parse(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Record {
                fqdn: String,
                value: String,
            },
            Raw {
                domain: String,
                #[serde(rename = "keyAuth")]
                key_authorization: String,
            },
        }
        match serde_json::from_slice(body).ok()? {
            Written::Record { fqdn, value } => Some(Self {
                name: fqdn,
                value: ChallengeValue::new(value.as_bytes())?,
            }),
            // RFC 8555 section 8.4; a wildcard is proved by its parent's name (section 7.1.3).
            Written::Raw {
                domain,
                key_authorization,
            } => {
                let host = domain.strip_prefix("*.").unwrap_or(&domain);
                let digest = Sha256::digest(key_authorization.as_bytes());
                let value = BASE64URL_NOPAD.encode(&digest);
                Some(Self {
                    name: format!("_acme-challenge.{host}"),
                    value: ChallengeValue::new(value.as_bytes())?,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Option<(String, String)> {
        let read = ChallengeRequest::parse(body.as_bytes())?;
        let value = String::from_utf8(read.value.as_bytes().to_vec()).unwrap();
        Some((read.name, value))
    }

    #[test]
    fn both_modes_say_the_same() {
        let read = parse(r#"{"fqdn":"_acme-challenge.a.test.","value":"v"}"#);
        assert_eq!(read, Some(("_acme-challenge.a.test.".into(), "v".into())));
        for domain in ["a.test", "*.a.test"] {
            let raw = format!(r#"{{"domain":"{domain}","token":"t","keyAuth":"abc"}}"#);
            // SHA-256 of "abc" begins ba7816bf (FIPS 180-4).
            let value = "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0";
            let expected = ("_acme-challenge.a.test".into(), value.into());
            assert_eq!(parse(&raw), Some(expected));
        }
    }

    #[test]
    fn anything_else_is_nothing() {
        let long = format!(r#"{{"fqdn":"a","value":"{}"}}"#, "v".repeat(256));
        for body in [
            "",
            "{}",
            "[]",
            r#"{"fqdn":"a"}"#,
            r#"{"fqdn":"a","value":""}"#,
            r#"{"fqdn":"a","value":1}"#,
            r#"{"domain":"a","token":"t"}"#,
            &long,
        ] {
            assert_eq!(parse(body), None, "{body}");
        }
    }
}
