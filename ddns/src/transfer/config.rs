//! The secondaries: `[[ddns.secondary]]`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::protocol::{MAX_LABEL, MAX_NAME};
use crate::secret_file::{self, SecretFileError};
use crate::tsig::{Algorithm, Secret};

/// Of a key file, no more is read.
const MAX_FILE: u64 = 1024;

/// A secondary server of the zone.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secondary {
    /// Where it is told of new versions.
    pub address: SocketAddr,
    /// A file with the key by which it asks for them, which everybody may not read: `hmac-sha256:name:secret in base64`, as dig and
    /// kdig take it.
    pub key_file: PathBuf,
    /// It signs the zone itself, and gets it without signatures. Default no.
    #[serde(default)]
    pub signs: bool,
    /// It follows the catalog `_catalog.<zone>` (RFC 9432), and is told of it at the start. Default no.
    #[serde(default)]
    pub catalog: bool,
}

/// The key of a secondary.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    /// Its name on the wire, in lower case.
    pub(crate) name: Box<[u8]>,
    pub(crate) algorithm: Algorithm,
    pub(crate) secret: Secret,
}

/// Why there is no key. The operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It is not read.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// It is no key.
    #[error(
        "{} does not hold a key: it should be `hmac-sha256:name:secret`, the secret at least 16 octets in base64 \
         (`openssl rand -base64 32` makes one)", .0.display()
    )]
    Form(PathBuf),
    /// Two would be taken for each other.
    #[error("two secondaries have a key of the same name, {0}: give each its own")]
    Twice(String),
}

impl Key {
    /// Reads one from a file that the world may not read.
    pub(super) fn from_file(path: &Path) -> Result<Self, KeyFileError> {
        let text = secret_file::read(path, MAX_FILE)?;
        let key = str::from_utf8(&text).ok().and_then(Self::parse);
        key.ok_or_else(|| KeyFileError::Form(path.into()))
    }

    fn parse(text: &str) -> Option<Self> {
        const LEAST: usize = 16;
        let (algorithm, rest) = text.split_once(':')?;
        let (name, secret) = rest.split_once(':')?;
        let secret = Zeroizing::new(BASE64.decode(secret.as_bytes()).ok()?);
        let algorithm = wire(algorithm)?;
        (secret.len() >= LEAST).then_some(())?;
        Some(Self {
            name: wire(name)?,
            algorithm: Algorithm::by_name(&algorithm)?,
            secret: Secret::new(secret),
        })
    }
}

/// A name on the wire, in lower case.
fn wire(name: &str) -> Option<Box<[u8]>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut wire = Vec::new();
    for label in name.split('.') {
        let is_label = (1..=MAX_LABEL).contains(&label.len());
        let is_plain = label
            .bytes()
            .all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'));
        if !is_label || !is_plain {
            return None;
        }
        wire.push(label.len() as u8);
        wire.extend(label.to_ascii_lowercase().bytes());
    }
    wire.push(0);
    (wire.len() <= MAX_NAME).then(|| wire.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_as_dig_takes_it() {
        let key = Key::parse("hmac-sha512:NS2-key.:AAECAwQFBgcICQoLDA0ODw==").unwrap();
        assert_eq!(&*key.name, b"\x07ns2-key\0");
        assert_eq!(key.algorithm, Algorithm::Sha512);
        for none in [
            "",
            "ns2-key:AAECAwQFBgcICQoLDA0ODw==",
            "hmac-md5:ns2:AAECAwQFBgcICQoLDA0ODw==",
            "hmac-sha256::AAECAwQFBgcICQoLDA0ODw==",
            "hmac-sha256:ns2:AAECAw==",
            "hmac-sha256:ns2:!",
            "hmac-sha256:n s:AAECAwQFBgcICQoLDA0ODw==",
        ] {
            assert!(Key::parse(none).is_none(), "{none}");
        }
    }
}
