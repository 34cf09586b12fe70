//! Files of a state directory that only its owner can read: keys, made once, and JSON, replaced as a whole.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::files::{self, Readers};
use crate::keys::KeyError;

/// A directory with such files.
#[derive(Clone, Debug)]
pub struct KeptFiles {
    directory: PathBuf,
}

/// Why one cannot be used. Always the owner's to mend.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
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
    /// A new key could not be made.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl KeptFiles {
    /// Opens `directory`, making it if needed.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, KeptError> {
        let directory = directory.into();
        files::make_private_directory(&directory).map_err(|cause| KeptError::Io {
            path: directory.clone(),
            cause,
        })?;
        Ok(Self { directory })
    }

    /// Where they are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn read(&self, name: &str) -> Result<Option<String>, KeptError> {
        match fs::read_to_string(self.directory.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(KeptError::Io {
                path: self.directory.join(name),
                cause,
            }),
        }
    }

    pub(crate) fn read_or_make(
        &self,
        name: &str,
        make: impl Fn() -> Result<Zeroizing<String>, KeyError>,
    ) -> Result<Zeroizing<String>, KeptError> {
        if let Some(text) = self.read(name)? {
            return Ok(text.into());
        }
        let text = make()?;
        self.write(name, text.as_bytes())?;
        Ok(text)
    }

    pub(crate) fn read_json<T: DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<Option<T>, KeptError> {
        let Some(text) = self.read(name)? else {
            return Ok(None);
        };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|cause| self.damaged(name, cause))
    }

    pub(crate) fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), KeptError> {
        let text =
            serde_json::to_string_pretty(value).map_err(|cause| self.damaged(name, cause))?;
        self.write(name, text.as_bytes())
    }

    pub(crate) fn write(&self, name: &str, octets: &[u8]) -> Result<(), KeptError> {
        let path = self.directory.join(name);
        files::replace(&path, octets, Readers::Owner).map_err(|cause| KeptError::Io { path, cause })
    }

    pub(crate) fn damaged(&self, name: &str, cause: impl ToString) -> KeptError {
        KeptError::Damaged {
            path: self.directory.join(name),
            cause: cause.to_string(),
        }
    }

    /// It is gone from the disk when this returns.
    pub(crate) fn remove(&self, name: &str) -> Result<(), KeptError> {
        let path = self.directory.join(name);
        let removed = match fs::remove_file(&path) {
            Ok(()) => File::open(&self.directory).and_then(|directory| directory.sync_all()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        removed.map_err(|cause| KeptError::Io { path, cause })
    }
}
