//! The configuration file again, while the agent runs: all of it comes into force, or, where anything is wrong, nothing.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use super::{ConfigError, Services};

/// How often it is looked whether the file has changed.
const LOOK: Duration = Duration::from_secs(1);

/// A configuration file, and the services that it describes.
#[derive(Debug)]
pub struct ServicesFile {
    path: PathBuf,
    services: Services,
    /// How the file was when it was read.
    read: Option<Stamp>,
    /// How it was when it was looked at last.
    seen: Option<Stamp>,
}

/// What of a file changes with its contents. There is none of one that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    /// One that replaces another has one of its own.
    inode: u64,
}

impl ServicesFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Everything that is wrong with it, with its lines.
    pub fn open(path: PathBuf) -> Result<Self, ConfigError> {
        let stamp = Stamp::of(&path);
        Ok(Self {
            services: Services::read(&path)?,
            path,
            read: stamp,
            seen: stamp,
        })
    }

    /// The services that it describes, whatever it will say.
    pub fn services(&self) -> Services {
        self.services.clone()
    }

    /// Waits until the file is another than was read, and has stayed so for a moment: whoever writes it may not have finished.
    pub async fn changed(&mut self) {
        loop {
            sleep(LOOK).await;
            let now = Stamp::of(&self.path);
            let has_stayed = std::mem::replace(&mut self.seen, now) == now;
            if has_stayed && now != self.read {
                return;
            }
        }
    }

    /// Reads it again. What is wrong with it is told in the log and the status.
    pub fn reload(&mut self) {
        self.read = Stamp::of(&self.path); // before it is read: who changes it then has it read once more
        match self.services.reload(&self.path) {
            Ok(changes) => tracing::info!(%changes, "the configuration has been read again"),
            Err(error) => {
                tracing::warn!(%error, "the configuration is wrong, and the one before stays in force");
            }
        }
    }
}

impl Stamp {
    fn of(file: &Path) -> Option<Self> {
        let about = fs::metadata(file).ok()?;
        Some(Self {
            modified: about.modified().ok(),
            length: about.len(),
            inode: about.ino(),
        })
    }
}
