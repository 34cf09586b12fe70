//! The secret that cookies are made by: from a file that servers share, or of this run alone.

use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER_PERMISSIVE;

use crate::secret_file::{self, SecretFileError};

/// Octets of the key of SipHash-2-4.
const LEN: usize = 16;
/// Of a file, no more is read: the digits, and some white space around them.
const MAX_FILE: u64 = 64;

/// One secret. It cannot be printed.
pub struct Secret([u8; LEN]);

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The operator's, or the system's.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The operator's.
    #[error("{} does not hold a secret: it should be {} hexadecimal digits", .0.display(), 2 * LEN)]
    Form(PathBuf),
    /// The system's.
    #[error("no random octets: {0}")]
    Random(getrandom::Error),
}

impl Secret {
    /// Reads one from a file that the world may not read.
    ///
    /// # Errors
    /// See [`SecretError`].
    pub(crate) fn from_file(path: &Path) -> Result<Self, SecretError> {
        let text = secret_file::read(path, MAX_FILE)?;
        Self::parse(&text).ok_or_else(|| SecretError::Form(path.into()))
    }

    /// Makes one that nobody else has.
    ///
    /// # Errors
    /// If the system has no random octets.
    pub fn random() -> Result<Self, SecretError> {
        let mut octets = [0; LEN];
        getrandom::fill(&mut octets).map_err(SecretError::Random)?;
        Ok(Self(octets))
    }

    /// From hexadecimal digits.
    pub(crate) fn parse(digits: &[u8]) -> Option<Self> {
        let octets = HEXLOWER_PERMISSIVE.decode(digits).ok()?;
        Some(Self(octets.try_into().ok()?))
    }

    pub(crate) fn reveal(&self) -> &[u8; LEN] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(_)")
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_secret_is_read_from_a_private_file_and_not_printed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cookie");
        let read = |text: &str, mode| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            Secret::from_file(&path)
        };
        let digits = "000102030405060708090A0B0C0D0E0F";
        let secret = read(&format!("{digits}\r\n"), 0o640).unwrap();
        assert_eq!(secret.reveal()[15], 15);
        assert_eq!(format!("{secret:?}"), "Secret(_)");
        for mode in [0o644, 0o602, 0o601] {
            assert!(matches!(
                read(digits, mode),
                Err(SecretError::File(SecretFileError::Open(_)))
            ));
        }
        let longer = format!("{digits}  \n\n00");
        for text in ["", "00", &digits[1..], &longer, &digits.replace('A', "G")] {
            let error = read(text, 0o600).unwrap_err();
            assert!(
                error.to_string().contains("32 hexadecimal digits"),
                "{text}"
            );
        }
        let missing = Secret::from_file(&folder.path().join("none")).unwrap_err();
        assert!(missing.to_string().contains("none cannot be read"));
    }

    #[test]
    fn random_secrets_differ() {
        let (one, other) = (Secret::random().unwrap(), Secret::random().unwrap());
        assert_ne!(one.reveal(), other.reveal());
    }
}
