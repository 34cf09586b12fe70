//! What log and snapshot ask of a disk: real files here, one that crashes in the tests.

use std::fmt::Debug;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory with a few files, as far as it is needed here. A name that is not there may be a file nobody synced. A clone is the
/// same directory.
pub trait Disk: Clone + Debug + Send + 'static {
    /// A file being written.
    type File: LogFile;

    /// The names of all files.
    ///
    /// # Errors
    /// As the file system says.
    fn names(&self) -> io::Result<Vec<String>>;

    /// The whole of the file `name`; `None` if there is none.
    ///
    /// # Errors
    /// As the file system says.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Makes `name` an empty file, whatever it was before.
    ///
    /// # Errors
    /// As the file system says.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Gives the file `from` the name `to`, in place of what had it. Lasts once [`sync`](Self::sync) has returned.
    ///
    /// # Errors
    /// As the file system says; the old name may or may not have moved.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Takes the file `name` away, if it is there. Lasts once [`sync`](Self::sync) has returned.
    ///
    /// # Errors
    /// As the file system says; it may or may not have gone.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes the names last.
    ///
    /// # Errors
    /// As the file system says; the names may or may not last.
    fn sync(&self) -> io::Result<()>;
}

/// A file that grows at its end.
pub trait LogFile: Debug + Send + 'static {
    /// Adds octets. They last once [`sync`](Self::sync) has returned.
    ///
    /// # Errors
    /// As the file system says; some of the octets may be there.
    fn append(&mut self, octets: &[u8]) -> io::Result<()>;

    /// Makes the octets last.
    ///
    /// # Errors
    /// As the file system says. What was not synced before may then be lost, and a second call may claim otherwise.
    fn sync(&mut self) -> io::Result<()>;
}

/// A directory of the real disk, held by this process alone.
#[derive(Clone, Debug)]
pub struct DirectoryDisk(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    path: PathBuf,
    directory: File,
    /// Locked until it is closed.
    _lock: File,
}

impl DirectoryDisk {
    const LOCK: &str = "ddns.lock";

    /// Takes hold of the directory `path`.
    ///
    /// # Errors
    /// If another process holds it, or it cannot be used.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let directory = File::open(path)?;
        let lock = private(path.join(Self::LOCK))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self(Arc::new(Opened {
                path: path.into(),
                directory,
                _lock: lock,
            }))),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse),
            Err(TryLockError::Error(error)) => Err(OpenError::Io(error)),
        }
    }
}

/// Why a directory cannot be taken hold of.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// By another process.
    #[error("another process is using it")]
    InUse,
    /// The file system says so.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Disk for DirectoryDisk {
    type File = File;

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.0.path)?;
        let names = entries.map(|entry| Ok(entry?.file_name().into_string()));
        // A name that is no text is none of ours.
        names
            .filter_map(|name: io::Result<_>| name.map(Result::ok).transpose())
            .collect()
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match std::fs::read(self.0.path.join(name)) {
            Ok(octets) => Ok(Some(octets)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create(&self, name: &str) -> io::Result<File> {
        let file = private(self.0.path.join(name))?;
        file.set_len(0)?;
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.0.path.join(from), self.0.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match std::fs::remove_file(self.0.path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.0.directory.sync_all()
    }
}

impl LogFile for File {
    fn append(&mut self, octets: &[u8]) -> io::Result<()> {
        self.write_all(octets)
    }

    /// fdatasync also syncs the length, without which the octets could not be read back.
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Addresses of people's homes are in these files: nobody else on the machine reads them.
fn private(path: PathBuf) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}
