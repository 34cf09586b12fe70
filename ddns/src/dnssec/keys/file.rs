//! A key's file, and what can be wrong with the files of keys.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::key::{Key, KeyError, Role};
use super::roll::RollError;

/// Of a key's file, no more is read.
const MAX_KEY_FILE: u64 = 4096;
/// Why the keys cannot be had, or a change cannot be kept. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The operator's.
    #[error(
        "{path} can be entered by others: take that right away with `chmod 700 {path}`, and roll the keys in it if somebody may have \
         read them", path = .0.display()
    )]
    OpenFolder(PathBuf),
    /// The operator's.
    #[error(
        "{path} can be read by others: take that right away with `chmod 600 {path}`, and roll this key if somebody may have read it",
        path = .0.display()
    )]
    OpenFile(PathBuf),
    /// The operator's.
    #[error(
        "{} holds other files and no keys.json, which says what the keys are for: put it back from a copy; or, only if no parent has a \
         DS record of this zone, move the folder away, and new keys are made",
        .0.display()
    )]
    NoIndex(PathBuf),
    /// The operator's.
    #[error("{} is not as it was written: {what}; put it back from a copy", path.display())]
    Index {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The operator's.
    #[error("{} is missing; if keys.json beside it names it, put it back from a copy", .0.display())]
    Missing(PathBuf),
    /// The operator's.
    #[error("{}: {what}; if it was another once, put that back from a copy", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: KeyError,
    },
    /// The operator's.
    #[error("{} holds another key: its tag is {found}; put the right one back from a copy", path.display())]
    OtherKey {
        /// Which file.
        path: PathBuf,
        /// The tag of the key in it.
        found: u16,
    },
    /// The system's: there were no keys, and none can be made.
    #[error(transparent)]
    NotMade(#[from] RollError),
}

/// The key in a file that only its owner can read.
///
/// # Errors
/// If others can read it, or it holds something else.
pub fn private_key(role: Role, path: &Path) -> Result<Key, FolderError> {
    let (text, mode) = key_file(path)?;
    if mode & 0o077 != 0 {
        return Err(FolderError::OpenFile(path.into()));
    }
    Key::from_private_text(role, &text).map_err(|what| FolderError::Key {
        path: path.into(),
        what,
    })
}

/// The public half of a key, in a file with a DNSKEY record.
///
/// # Errors
/// If it holds something else.
pub fn public_key(role: Role, path: &Path) -> Result<Key, FolderError> {
    let (text, _) = key_file(path)?;
    let text = String::from_utf8_lossy(&text);
    Key::from_public_text(role, &text).map_err(|what| FolderError::Key {
        path: path.into(),
        what,
    })
}

fn key_file(path: &Path) -> Result<(Zeroizing<Vec<u8>>, u32), FolderError> {
    read(path, MAX_KEY_FILE).map_err(|source| {
        let path = path.into();
        match source.kind() == io::ErrorKind::NotFound {
            true => FolderError::Missing(path),
            false => FolderError::Io { path, source },
        }
    })
}

/// A file, up to a size, and its mode.
pub(super) fn read(path: &Path, most: u64) -> io::Result<(Zeroizing<Vec<u8>>, u32)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > most {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "this is no file of ours",
        ));
    }
    // As large as it will get, so that no part of a secret is left behind in a smaller buffer.
    let size = usize::try_from(most).unwrap_or(usize::MAX);
    let mut octets = Zeroizing::new(Vec::with_capacity(size));
    file.take(most).read_to_end(&mut octets)?;
    Ok((octets, metadata.permissions().mode()))
}
