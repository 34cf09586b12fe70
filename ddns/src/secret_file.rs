//! Files with a secret in them, which everybody may not read.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// The operator's, or the system's.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The operator's.
    #[error("{} can be read by everybody: take that right away with `chmod o-rwx`", .0.display())]
    Open(PathBuf),
}

/// What the file has, `most` octets of it, without white space around.
///
/// # Errors
/// If it cannot be read, or the world may.
pub(crate) fn read(path: &Path, most: u64) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let failed = |source| SecretFileError::Read {
        path: path.into(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(SecretFileError::Open(path.into()));
    }
    let mut text = Zeroizing::new(Vec::new());
    file.take(most).read_to_end(&mut text).map_err(failed)?;
    Ok(Zeroizing::new(text.trim_ascii().to_vec()))
}
