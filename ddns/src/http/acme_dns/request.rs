//! The bodies of acme-dns's requests.

#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use serde::Deserialize;

use crate::challenges::ChallengeValue;

/// What a CA looks for: the base64url of a SHA-256 (RFC 8555 section 8.4).
const VALUE_LENGTH: usize = 43;

/// What is wrong with a body, in acme-dns's words where it has one. The asker's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No JSON, or not of this shape.
    Malformed,
    /// Not 43 characters of base64url.
    BadText,
    /// It asks that only some networks may use the account, which nobody would see to here.
    AllowFrom,
}

impl Refusal {
    /// The word for the client and for the counter.
    pub fn word(self) -> &'static str {
        match self {
            Self::Malformed => "malformed_json_payload",
            Self::BadText => "bad_txt",
            Self::AllowFrom => "allowfrom_is_not_offered",
        }
    }
}

#[derive(Deserialize)]
struct Registration {
    allowfrom: Option<Vec<String>>,
}

/// Reads the body of a registration, which may be empty.
///
/// # Errors
/// If it is something else, or asks for what is not offered.
pub fn check_registration(body: &[u8]) -> Result<(), Refusal> {
    if body.trim_ascii().is_empty() {
        return Ok(());
    }
    let read: Registration = serde_json::from_slice(body).map_err(|_| Refusal::Malformed)?;
    match read.allowfrom.is_none_or(|networks| networks.is_empty()) {
        true => Ok(()),
        false => Err(Refusal::AllowFrom),
    }
}

/// One challenge to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextUpdate {
    /// As the registration has given it.
    pub subdomain: String,
    /// As it was written.
    pub txt: String,
    /// The same.
    pub value: ChallengeValue,
}

impl TextUpdate {
    /// Reads the body of an update.
    ///
    /// # Errors
    /// If it is something else.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Written {
            subdomain: String,
            txt: String,
        }
        let Written { subdomain, txt } =
            serde_json::from_slice(body).map_err(|_| Refusal::Malformed)?;
        let is_base64url =
            |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_');
        if txt.len() != VALUE_LENGTH || !txt.bytes().all(is_base64url) {
            return Err(Refusal::BadText);
        }
        let value = ChallengeValue::new(txt.as_bytes()).ok_or(Refusal::BadText)?;
        Ok(Self {
            subdomain,
            txt,
            value,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_has_a_subdomain_and_a_digest() {
        let txt = "LPsIwTo7o8BoG0-vjCyGQGBWSVIPxI-i_X336eUOQZo";
        let body = format!(r#"{{"subdomain":"mynas","txt":"{txt}","more":1}}"#);
        let read = TextUpdate::parse(body.as_bytes()).unwrap();
        assert_eq!((read.subdomain.as_str(), read.txt.as_str()), ("mynas", txt));
        assert_eq!(read.value.as_bytes(), txt.as_bytes());
        for bad in [&txt[1..], &format!("{txt}a"), "", &txt.replace('-', "+")] {
            let body = body.replace(txt, bad);
            let refusal = TextUpdate::parse(body.as_bytes());
            assert_eq!(refusal, Err(Refusal::BadText), "{bad}");
        }
    }

    #[test]
    fn what_is_no_json_of_this_shape_is_malformed() {
        for body in [
            "",
            "{}",
            "[]",
            "{\"subdomain\":1,\"txt\":\"\"}",
            "\u{feff}{}",
            "a=b",
        ] {
            let refusal = TextUpdate::parse(body.as_bytes());
            assert_eq!(refusal, Err(Refusal::Malformed), "{body}");
        }
        let deep = "[".repeat(8000);
        assert_eq!(TextUpdate::parse(deep.as_bytes()), Err(Refusal::Malformed));
    }

    #[test]
    fn a_registration_asks_for_nothing_that_is_not_offered() {
        for body in [
            "",
            " \n",
            "{}",
            r#"{"allowfrom":[]}"#,
            r#"{"allowfrom":null}"#,
        ] {
            assert_eq!(check_registration(body.as_bytes()), Ok(()), "{body}");
        }
        let networks = br#"{"allowfrom":["192.0.2.0/24"]}"#;
        assert_eq!(check_registration(networks), Err(Refusal::AllowFrom));
        for body in ["null", "[]", "x", r#"{"allowfrom":"192.0.2.0/24"}"#] {
            let refusal = check_registration(body.as_bytes());
            assert_eq!(refusal, Err(Refusal::Malformed), "{body}");
        }
    }
}
