//! The certificate authorities of the operator's choice.

use std::fmt;

use hyper::Uri;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use super::http::is_https_address;
use crate::tls::{Roots, TlsError};

/// More than any operator has.
const MOST: usize = 16;

/// Who is asked for certificates, and as whom.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Authorities {
    /// How they reach the operator: a mailto address.
    #[serde(default)]
    pub contact: Option<String>,
    /// The first that gives one is enough.
    #[serde(rename = "authorities")]
    pub list: Vec<Authority>,
}

/// One that speaks ACME (RFC 8555).
#[derive(Clone, Debug, Deserialize)]
pub struct Authority {
    /// The address of its directory.
    pub directory: String,
    /// What it is checked against beside what this system trusts, in PEM.
    #[serde(default)]
    pub ca: Option<String>,
    /// The account of the operator's that a device's belongs to.
    #[serde(default)]
    pub binding: Option<Binding>,
    /// Which of its kinds of certificates is ordered (draft-ietf-acme-profiles).
    #[serde(default)]
    pub profile: Option<String>,
    /// What it looks for in CAA records, if it does not say so itself.
    #[serde(default)]
    pub caa_identity: Option<String>,
}

/// External account binding (RFC 8555 section 7.3.4).
#[derive(Clone, Deserialize)]
pub struct Binding {
    /// Of the operator's account.
    pub key_id: String,
    /// In base64url.
    #[serde(deserialize_with = "secret")]
    pub key: Zeroizing<String>,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(deserializer).map(Zeroizing::new)
}

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Binding({:?}, …)", self.key_id)
    }
}

impl Authorities {
    /// Whether they can be asked, whoever has told of them.
    pub fn are_sound(&self) -> bool {
        let mut directories = self.list.iter().map(|authority| &*authority.directory);
        self.list.len() <= MOST && directories.all(is_https_address)
    }
}

impl Authority {
    /// Its host, as people know it.
    pub(super) fn name(&self) -> String {
        name_of(&self.directory)
    }

    pub(super) fn roots(&self) -> Result<Roots, TlsError> {
        Roots::of_system_and(self.ca.as_deref())
    }
}

/// The host of a directory.
pub(super) fn name_of(directory: &str) -> String {
    let uri: Option<Uri> = directory.parse().ok();
    let authority = uri.as_ref().and_then(Uri::authority);
    authority.map_or_else(
        || directory.to_owned(),
        |authority| authority.host().to_owned(),
    )
}
