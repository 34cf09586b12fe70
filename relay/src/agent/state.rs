//! What an agent keeps on its device: its keys, what pairing returned, and its certificate. Nothing else needs the disk.
//!
//! ```text
//!   identity.pem      Ed25519 key, PKCS#8: who the device is
//!   tls.pem           P-256 key, PKCS#8: the key of the certificate that visitors see
//!   pairing.json      id, name, zone, relays and trust root, as the cloud returned them
//!   certificate.json  the chain for tls.pem that the operator's authority has signed, and when to renew it
//!   account.pem       P-256 key, PKCS#8: who the device is to other certificate authorities, if the operator has any asked
//!   acme.json         its accounts with them, what it has ordered, and the chain for tls.pem that it was given
//!   certificates_seen.json      which certificates of others were seen for its name, and the keys it has had
//!   certificates_accepted.json  which of them its owner knows
//!   agent.sock        where a running agent says how it is
//! ```
//!
//! Keys are made here, readable only by the owner of the directory, and never sent anywhere.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::acme;
use crate::files;
use crate::kept::{KeptError, KeptFiles};
use crate::keys::TlsKey;

use super::certificate_watch::SeenFolder;
use super::identity::Identity;

const IDENTITY: &str = "identity.pem";
const PAIRING: &str = "pairing.json";
const CERTIFICATE: &str = "certificate.json";

/// An agent's state directory.
#[derive(Clone, Debug)]
pub struct State {
    files: KeptFiles,
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

/// Why the state directory cannot be used. Always the owner's to mend.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file of it cannot be read or written.
    #[error(transparent)]
    Files(#[from] KeptError),
    /// There is nothing to run with yet.
    #[error("this device is not paired yet; run `causeway-agent pair` first (state directory {})", .0.display())]
    NotPaired(PathBuf),
}

impl State {
    /// Opens `directory`, making it if needed.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, StateError> {
        let files = KeptFiles::open(directory)?;
        Ok(Self { files })
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        self.files.directory()
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
        let pem = self.files.read_or_make(IDENTITY, Identity::generate_pem)?;
        Identity::from_pem(&pem).map_err(|cause| self.files.damaged(IDENTITY, cause).into())
    }

    /// The key of the device's certificate, made at the first call.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn tls_key(&self) -> Result<TlsKey, StateError> {
        Ok(self.acme().tls_key()?)
    }

    /// What pairing returned.
    ///
    /// # Errors
    /// [`StateError::NotPaired`] if it never did.
    pub fn pairing(&self) -> Result<Pairing, StateError> {
        self.files
            .read_json(PAIRING)?
            .ok_or_else(|| StateError::NotPaired(self.directory().to_owned()))
    }

    /// Keeps what pairing returned. It is on disk when this returns.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_pairing(&self, pairing: &Pairing) -> Result<(), StateError> {
        Ok(self.files.write_json(PAIRING, pairing)?)
    }

    /// The certificate, if there is one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn certificate(&self) -> Result<Option<Certificate>, StateError> {
        Ok(self.files.read_json(CERTIFICATE)?)
    }

    /// Keeps the certificate. It is on disk when this returns.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_certificate(&self, certificate: &Certificate) -> Result<(), StateError> {
        Ok(self.files.write_json(CERTIFICATE, certificate)?)
    }

    /// Forgets the certificate, if there is one. It is gone from the disk when this returns.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn forget_certificate(&self) -> Result<(), StateError> {
        Ok(self.files.remove(CERTIFICATE)?)
    }

    /// What certificate authorities that speak ACME have to do with; the key of certificates is there too.
    pub(super) fn acme(&self) -> acme::Folder {
        acme::Folder::of(self.files.clone())
    }

    /// Which certificates were seen for the name of this device.
    ///
    /// # Errors
    /// If it has none yet, or no key.
    pub(super) fn certificates_seen(&self) -> Result<SeenFolder, StateError> {
        let Pairing { name, zone, .. } = self.pairing()?;
        let (files, key) = (self.files.clone(), self.tls_key()?.public_hash());
        Ok(SeenFolder::of(files, format!("{name}.{zone}"), key))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
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
        for name in [IDENTITY, "tls.pem"] {
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
