//! What is kept on disk for ACME: the key of certificates, that of accounts, and how it stands with authorities.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::caa::CaaStatus;
use super::status::PassedOver;
use crate::kept::{KeptError, KeptFiles};
use crate::keys::{AccountKey, TlsKey};

const TLS_KEY: &str = "tls.pem";
const ACCOUNT_KEY: &str = "account.pem";
const ACME: &str = "acme.json";

/// How it stands with certificate authorities that speak ACME (RFC 8555), by the addresses of their directories.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AcmeState {
    /// The accounts with them.
    pub(super) accounts: BTreeMap<String, String>,
    /// What has been ordered and has not come yet.
    pub(super) orders: BTreeMap<String, PlacedOrder>,
    /// What was put into the DNS for that.
    pub(super) challenges: Vec<String>,
    /// The last certificate that was given.
    pub(super) certificate: Option<AcmeCertificate>,
    /// What they look for in CAA records.
    #[serde(default)]
    pub(super) identities: BTreeMap<String, String>,
    /// Who alone may have certificates.
    #[serde(default)]
    pub(super) caa: CaaStatus,
}

/// A certificate that is ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PlacedOrder {
    /// Where the authority has it; absent until that is known.
    pub(super) url: Option<String>,
    /// What for.
    pub(super) names: Vec<String>,
}

/// A certificate that an authority has given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcmeCertificate {
    /// Of the authority.
    pub directory: String,
    /// Leaf first, in PEM.
    pub chain: String,
    /// When it came, in seconds since 1970.
    pub issued_at: u64,
    /// When to order the next one.
    pub renew_at: u64,
    /// The one before it had lived for a short time only.
    #[serde(default)]
    pub is_hurried: bool,
    /// Who should have given it.
    #[serde(default)]
    pub passed_over: Option<PassedOver>,
}

/// Where it is kept, for its owner alone.
#[derive(Clone, Debug)]
pub struct Folder(KeptFiles);

impl Folder {
    /// Among other files.
    pub fn of(files: KeptFiles) -> Self {
        Self(files)
    }

    /// The key of certificates, made at the first call.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn tls_key(&self) -> Result<TlsKey, KeptError> {
        let pem = self.0.read_or_make(TLS_KEY, TlsKey::generate_pem)?;
        TlsKey::from_pem(&pem).map_err(|cause| self.0.damaged(TLS_KEY, cause))
    }

    /// The key of accounts, made at the first call.
    pub(super) fn account_key(&self) -> Result<AccountKey, KeptError> {
        let pem = self.0.read_or_make(ACCOUNT_KEY, AccountKey::generate_pem)?;
        AccountKey::from_pem(&pem).map_err(|cause| self.0.damaged(ACCOUNT_KEY, cause))
    }

    /// How it stands with authorities.
    pub(super) fn state(&self) -> Result<AcmeState, KeptError> {
        Ok(self.0.read_json(ACME)?.unwrap_or_default())
    }

    /// Changes that. It is on disk when this returns.
    pub(super) fn change(&self, change: impl FnOnce(&mut AcmeState)) -> Result<(), KeptError> {
        let before = self.state()?;
        let mut after = before.clone();
        change(&mut after);
        match after == before {
            true => Ok(()),
            false => self.0.write_json(ACME, &after),
        }
    }
}
