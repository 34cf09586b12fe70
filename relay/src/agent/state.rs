//! What an agent keeps on its device: its keys, what pairing returned, and its certificate. Nothing else needs the disk.
//!
//! ```text
//!   identity.pem      Ed25519 key, PKCS#8: who the device is
//!   tls.pem           P-256 key, PKCS#8: the key of the certificate that visitors see
//!   pairing.json      id, name, zone, relays and trust root, as the cloud returned them
//!   certificate.json  the chain for tls.pem that the operator's authority has signed, and when to renew it
//!   account.pem       P-256 key, PKCS#8: who the device is to other certificate authorities, if the operator has any asked
//!   acme.json         its accounts with them, what it has ordered, and the chain for tls.pem that it was given
//!   agent.sock        where a running agent says how it is
//! ```
//!
//! Keys are made here, readable only by the owner of the directory, and never sent anywhere.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::files::{self, Readers};

use super::identity::{AccountKey, Identity, KeyError, TlsKey};

const IDENTITY: &str = "identity.pem";
const TLS_KEY: &str = "tls.pem";
const PAIRING: &str = "pairing.json";
const CERTIFICATE: &str = "certificate.json";
const ACCOUNT_KEY: &str = "account.pem";
const ACME: &str = "acme.json";

/// An agent's state directory.
#[derive(Clone, Debug)]
pub struct State {
    directory: PathBuf,
}

/// What pairing returned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pairing {
    /// The device's lasting id.
    pub device_id: String,
    /// Its name under the zone.
    pub name: String,
    /// The operator's zone.
    pub zone: String,
    /// `https://cloud.<zone>`, with its port unless that is 443.
    pub cloud: String,
    /// Where relays are found: `host:port`.
    pub relays: Vec<String>,
    /// The certificates that relays and cloud are checked against, in PEM.
    pub trust_root: String,
}

/// The certificate that visitors see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Leaf first, in PEM.
    pub chain: String,
    /// When to ask for the next one, in seconds since 1970.
    pub renew_at: u64,
    /// When it ends, in seconds since 1970.
    pub not_after: u64,
}

/// How it stands with certificate authorities that speak ACME (RFC 8555), by the addresses of their directories.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AcmeState {
    /// The device's accounts.
    pub(super) accounts: BTreeMap<String, String>,
    /// What has been ordered and has not come yet.
    pub(super) orders: BTreeMap<String, PlacedOrder>,
    /// What was put into the DNS for that.
    pub(super) challenges: Vec<String>,
    /// The last certificate that was given.
    pub(super) certificate: Option<AcmeCertificate>,
}

/// A certificate that is ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PlacedOrder {
    /// Where the authority has it; absent until that is known.
    pub(super) url: Option<String>,
    pub(super) names: Vec<String>,
}

/// A certificate that an authority has given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AcmeCertificate {
    /// Of the authority.
    pub(super) directory: String,
    /// Leaf first, in PEM.
    pub(super) chain: String,
    /// When it came, in seconds since 1970.
    pub(super) issued_at: u64,
    /// When to order the next one.
    pub(super) renew_at: u64,
}

/// Why the state directory cannot be used. Always the owner's to mend.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system refused.
    #[error("{}: {cause}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// A file has been changed by something else.
    #[error("{} is damaged: {cause}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// There is nothing to run with yet.
    #[error("this device is not paired yet; run `causeway-agent pair` first (state directory {})", .0.display())]
    NotPaired(PathBuf),
    /// A new key could not be made.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl State {
    /// Opens `directory`, making it if needed.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, StateError> {
        let directory = directory.into();
        files::make_private_directory(&directory).map_err(|cause| StateError::Io {
            path: directory.clone(),
            cause,
        })?;
        Ok(Self { directory })
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory that is used when none is named.
    pub fn default_directory() -> PathBuf {
        files::default_state_directory("causeway-agent")
    }

    /// The device's identity key, made at the first call.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn identity(&self) -> Result<Identity, StateError> {
        let pem = self.read_or_make(IDENTITY, Identity::generate_pem)?;
        Identity::from_pem(&pem).map_err(|cause| self.damaged(IDENTITY, cause))
    }

    /// The key of the device's certificate, made at the first call.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn tls_key(&self) -> Result<TlsKey, StateError> {
        let pem = self.read_or_make(TLS_KEY, TlsKey::generate_pem)?;
        TlsKey::from_pem(&pem).map_err(|cause| self.damaged(TLS_KEY, cause))
    }

    /// What pairing returned.
    ///
    /// # Errors
    /// [`StateError::NotPaired`] if it never did.
    pub fn pairing(&self) -> Result<Pairing, StateError> {
        self.read_json(PAIRING)?
            .ok_or_else(|| StateError::NotPaired(self.directory.clone()))
    }

    /// Keeps what pairing returned. It is on disk when this returns.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_pairing(&self, pairing: &Pairing) -> Result<(), StateError> {
        self.write_json(PAIRING, pairing)
    }

    /// The certificate, if there is one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn certificate(&self) -> Result<Option<Certificate>, StateError> {
        self.read_json(CERTIFICATE)
    }

    /// Keeps the certificate. It is on disk when this returns.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_certificate(&self, certificate: &Certificate) -> Result<(), StateError> {
        self.write_json(CERTIFICATE, certificate)
    }

    /// Forgets the certificate, if there is one. It is gone from the disk when this returns.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn forget_certificate(&self) -> Result<(), StateError> {
        let path = self.directory.join(CERTIFICATE);
        let removed = match fs::remove_file(&path) {
            Ok(()) => File::open(&self.directory).and_then(|directory| directory.sync_all()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        removed.map_err(|cause| StateError::Io { path, cause })
    }

    /// The key of the device's accounts with certificate authorities, made at the first call.
    pub(super) fn account_key(&self) -> Result<AccountKey, StateError> {
        let pem = self.read_or_make(ACCOUNT_KEY, AccountKey::generate_pem)?;
        AccountKey::from_pem(&pem).map_err(|cause| self.damaged(ACCOUNT_KEY, cause))
    }

    /// How it stands with certificate authorities.
    pub(super) fn acme(&self) -> Result<AcmeState, StateError> {
        Ok(self.read_json(ACME)?.unwrap_or_default())
    }

    /// Changes that. It is on disk when this returns.
    pub(super) fn change_acme(
        &self,
        change: impl FnOnce(&mut AcmeState),
    ) -> Result<(), StateError> {
        let before = self.acme()?;
        let mut after = before.clone();
        change(&mut after);
        match after == before {
            true => Ok(()),
            false => self.write_json(ACME, &after),
        }
    }

    fn read(&self, name: &str) -> Result<Option<String>, StateError> {
        match fs::read_to_string(self.directory.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(StateError::Io {
                path: self.directory.join(name),
                cause,
            }),
        }
    }

    fn read_or_make(
        &self,
        name: &str,
        make: impl Fn() -> Result<zeroize::Zeroizing<String>, KeyError>,
    ) -> Result<zeroize::Zeroizing<String>, StateError> {
        if let Some(text) = self.read(name)? {
            return Ok(text.into());
        }
        let text = make()?;
        self.write(name, text.as_bytes())?;
        Ok(text)
    }

    fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let Some(text) = self.read(name)? else {
            return Ok(None);
        };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|cause| self.damaged(name, cause))
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), StateError> {
        let text =
            serde_json::to_string_pretty(value).map_err(|cause| self.damaged(name, cause))?;
        self.write(name, text.as_bytes())
    }

    fn write(&self, name: &str, octets: &[u8]) -> Result<(), StateError> {
        let path = self.directory.join(name);
        files::replace(&path, octets, Readers::Owner)
            .map_err(|cause| StateError::Io { path, cause })
    }

    fn damaged(&self, name: &str, cause: impl ToString) -> StateError {
        StateError::Damaged {
            path: self.directory.join(name),
            cause: cause.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_are_made_once_and_only_their_owner_can_read_them() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path().join("agent")).unwrap();
        let key = state.identity().unwrap().public_key();
        state.tls_key().unwrap();
        assert_eq!(
            State::open(directory.path().join("agent"))
                .unwrap()
                .identity()
                .unwrap()
                .public_key(),
            key
        );
        for name in [IDENTITY, TLS_KEY] {
            let mode = fs::metadata(directory.path().join("agent").join(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn an_unpaired_agent_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let error = state.pairing().unwrap_err().to_string();
        assert!(error.contains("causeway-agent pair"), "{error}");
    }

    #[test]
    fn a_damaged_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(PAIRING), "{").unwrap();
        let error = State::open(directory.path())
            .unwrap()
            .pairing()
            .unwrap_err()
            .to_string();
        assert!(error.contains("pairing.json is damaged"), "{error}");
    }
}
