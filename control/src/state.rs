//! The state directory of a server: database, authority, log of addresses, and the socket of the running process.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use ddns::tsig::Master;
use relay::files::{self, Readers};
use zeroize::Zeroizing;

const LOCK: &str = "lock";
const TSIG_SECRET: &str = "tsig.secret";

/// A state directory.
#[derive(Clone, Debug)]
pub struct StateDirectory(PathBuf);

/// Why a state directory cannot be used. Always the operator's to mend.
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
    /// Others may enter it, and that cannot be changed or had better not be.
    #[error(
        "the state directory {} is open to others: make it yours alone (chmod 700), or choose another with --state",
        .0.display()
    )]
    Open(PathBuf),
    /// What should be a secret is something else.
    #[error("{}: this is no secret of ours; remove it, and another is made", .0.display())]
    Secret(PathBuf),
    /// The process before works on another one.
    #[error(
        "the state directory is {} now, and the process before works on another: that takes a restart",
        .0.display()
    )]
    Moved(PathBuf),
    /// Another process works on it.
    #[error("another causeway uses the state directory {}", .0.display())]
    InUse(PathBuf),
}

/// The right to work on a state directory, until it is dropped, and whatever it was [shared](Self::share) with.
#[derive(Debug)]
pub struct StateLock(File);

impl StateLock {
    /// The right to `state` of the process before this one, which has handed it over.
    ///
    /// # Errors
    /// If it is the right to another directory.
    pub fn handed_over(descriptor: OwnedFd, state: &StateDirectory) -> Result<Self, StateError> {
        let (file, path) = (File::from(descriptor), state.file(LOCK));
        let is_same = || -> io::Result<bool> {
            let (held, there) = (file.metadata()?, fs::metadata(&path)?);
            Ok((held.dev(), held.ino()) == (there.dev(), there.ino()))
        };
        match is_same() {
            Ok(true) => Ok(Self(file)),
            Ok(false) => Err(StateError::Moved(state.0.clone())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(StateError::Moved(state.0.clone()))
            }
            Err(cause) => Err(StateError::Io { path, cause }),
        }
    }

    /// The same right, for the process after this one.
    ///
    /// # Errors
    /// If the system has no descriptor to give.
    pub fn share(&self) -> io::Result<OwnedFd> {
        Ok(self.0.try_clone()?.into())
    }
}

impl StateDirectory {
    /// Opens `directory`, making it if needed, readable by its owner only.
    ///
    /// # Errors
    /// If it cannot be made, or is open to others.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, StateError> {
        let directory = directory.into();
        let failed = |cause| StateError::Io {
            path: directory.clone(),
            cause,
        };
        files::make_private_directory(&directory).map_err(failed)?;
        // Absolute, so that what is printed can be used from anywhere.
        let absolute = std::path::absolute(&directory).map_err(failed)?;
        let mode = fs::metadata(&absolute)
            .map_err(failed)?
            .permissions()
            .mode();
        // One that everybody may write to is a place like /tmp, which others need as it is.
        let is_common = mode & 0o002 != 0;
        let is_private = mode & 0o077 == 0
            || !is_common && fs::set_permissions(&absolute, Permissions::from_mode(0o700)).is_ok();
        if is_private {
            Ok(Self(absolute))
        } else {
            Err(StateError::Open(absolute))
        }
    }

    /// The directory that is used when none is named.
    pub fn default_path() -> PathBuf {
        files::default_state_directory("causeway")
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Takes the directory for this process.
    ///
    /// # Errors
    /// [`StateError::InUse`] if another process has it.
    pub fn lock(&self) -> Result<StateLock, StateError> {
        let path = self.file(LOCK);
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let file = opened.map_err(|cause| StateError::Io {
            path: path.clone(),
            cause,
        })?;
        match file.try_lock() {
            Ok(()) => Ok(StateLock(file)),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse(self.0.clone())),
            Err(TryLockError::Error(cause)) => Err(StateError::Io { path, cause }),
        }
    }

    /// The text of a file in it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(&self, name: &str) -> Result<String, StateError> {
        let path = self.file(name);
        fs::read_to_string(&path).map_err(|cause| StateError::Io { path, cause })
    }

    /// A secret of so many octets that is made when it is first asked for, and stays.
    ///
    /// # Errors
    /// If its file cannot be read or written, or holds something else.
    pub fn secret<const LENGTH: usize>(
        &self,
        name: &str,
    ) -> Result<Zeroizing<[u8; LENGTH]>, StateError> {
        let path = self.file(name);
        let mut secret = Zeroizing::new([0; LENGTH]);
        match fs::read_to_string(&path).map(Zeroizing::new) {
            Ok(text) => {
                let read = HEXLOWER.decode(text.trim().as_bytes()).map(Zeroizing::new);
                match read {
                    Ok(read) if read.len() == LENGTH => secret.copy_from_slice(&read),
                    Ok(_) | Err(_) => return Err(StateError::Secret(path)),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                getrandom::fill(&mut *secret).map_err(|error| StateError::Io {
                    path,
                    cause: error.into(),
                })?;
                let text = Zeroizing::new(HEXLOWER.encode(&*secret));
                self.write(name, text.as_bytes(), Readers::Owner)?;
            }
            Err(cause) => return Err(StateError::Io { path, cause }),
        }
        Ok(secret)
    }

    /// What the secrets of signed updates are made of: these are gone when it is, and no database is enough to forge one.
    ///
    /// # Errors
    /// As of [`secret`](Self::secret).
    pub fn tsig_master(&self) -> Result<Master, StateError> {
        self.secret(TSIG_SECRET).map(Master::new)
    }

    /// Replaces a file as a whole, durably.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, name: &str, octets: &[u8], readers: Readers) -> Result<(), StateError> {
        let path = self.file(name);
        files::replace(&path, octets, readers).map_err(|cause| StateError::Io { path, cause })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_was_there_is_closed_to_others_unless_it_is_everybodys() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("state");
        fs::create_dir(&directory).unwrap();
        let set = |mode| fs::set_permissions(&directory, Permissions::from_mode(mode)).unwrap();
        let mode = || fs::metadata(&directory).unwrap().permissions().mode() & 0o7777;
        set(0o755);
        StateDirectory::open(&directory).unwrap();
        assert_eq!(mode(), 0o700);
        set(0o1777);
        let refused = StateDirectory::open(&directory).unwrap_err();
        assert!(refused.to_string().contains("open to others"), "{refused}");
        assert_eq!(mode(), 0o1777);
    }

    #[test]
    fn a_secret_is_made_once_and_nothing_else_is_taken_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path()).unwrap();
        let secret = state.secret::<32>("relay.secret").unwrap();
        assert_ne!(*secret, [0; 32]);
        assert_eq!(state.secret("relay.secret").unwrap(), secret);
        let mode = fs::metadata(state.file("relay.secret"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        for other in ["", "no secret", "abcd"] {
            fs::write(state.file("relay.secret"), other).unwrap();
            let refused = state.secret::<32>("relay.secret").unwrap_err();
            assert!(refused.to_string().contains("relay.secret"), "{refused}");
        }
    }

    #[test]
    fn one_process_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path()).unwrap();
        let lock = state.lock().unwrap();
        assert!(matches!(state.lock(), Err(StateError::InUse(_))));
        let shared = StateLock::handed_over(lock.share().unwrap(), &state).unwrap();
        let elsewhere = StateDirectory::open(directory.path().join("elsewhere")).unwrap();
        for _ in 0..2 {
            let moved = StateLock::handed_over(lock.share().unwrap(), &elsewhere);
            assert!(matches!(moved, Err(StateError::Moved(_))));
            drop(elsewhere.lock().unwrap()); // there is a file now
        }
        drop(lock);
        assert!(matches!(state.lock(), Err(StateError::InUse(_))));
        drop(shared);
        assert!(state.lock().is_ok());
    }
}
