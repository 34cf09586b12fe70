//! The certificate authorities of the operator's choice, as the cloud tells paired devices.

use std::fmt;

use hyper::{Method, Uri};
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use super::error::AcmeError;
use super::http::is_https_address;
use crate::agent::cloud::{CallError, Cloud};
use crate::agent::identity::Identity;
use crate::tls::{Roots, TlsError};

/// More than any operator has.
const MOST: usize = 16;

/// Who is asked for certificates, and as whom.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Authorities {
    /// How they reach the operator: a mailto address.
    #[serde(default)]
    pub(super) contact: Option<String>,
    /// The first that gives one is enough.
    #[serde(rename = "authorities")]
    pub(super) list: Vec<Authority>,
}

/// One that speaks ACME (RFC 8555).
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Authority {
    /// The address of its directory.
    pub(super) directory: String,
    /// What it is checked against beside what this system trusts, in PEM.
    #[serde(default)]
    ca: Option<String>,
    /// The account of the operator's that a device's belongs to.
    #[serde(default)]
    pub(super) binding: Option<Binding>,
}

/// External account binding (RFC 8555 section 7.3.4).
#[derive(Clone, Deserialize)]
pub(super) struct Binding {
    pub(super) key_id: String,
    /// In base64url.
    #[serde(deserialize_with = "secret")]
    pub(super) key: Zeroizing<String>,
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
    /// Asks the cloud. One that has never heard of them has none.
    pub(super) async fn ask(cloud: &Cloud, identity: &Identity) -> Result<Self, AcmeError> {
        let (path, json) = ("/api/device/acme", "application/json");
        let asked = cloud.call(Method::GET, path, json, Vec::new(), identity);
        let found: Self = match asked.await {
            Ok(found) => found,
            Err(CallError::Refused { status: 404, .. }) => return Ok(Self::default()),
            Err(error) => return Err(AcmeError::Cloud(error)),
        };
        let directories = || found.list.iter().map(|authority| &*authority.directory);
        match found.list.len() <= MOST && directories().all(is_https_address) {
            true => Ok(found),
            false => Err(AcmeError::Nonsense),
        }
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
