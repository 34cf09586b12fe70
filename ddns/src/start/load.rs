//! The start of the table: the log says what addresses there were, the Directory whose they still are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use directory::Reader;
use tokio::task::JoinHandle;

use super::StartError;
use crate::follow::Follower;
use crate::metrics::Metrics;
use crate::store::{DirectoryDisk, Log, Recovered};
use crate::table::Table;
use crate::update::{Committer, Queue};

/// The updates on disk, while they are being read. That needs nothing else of the server, so it can begin while others begin too.
#[derive(Debug)]
pub struct Storage {
    path: PathBuf,
    reading: JoinHandle<Result<(Log<DirectoryDisk>, Recovered), StartError>>,
}

impl Storage {
    /// Takes hold of an existing directory, in which the updates are kept (`ddns.*`), and begins to read them. Call it within a
    /// tokio runtime.
    pub fn read(path: PathBuf) -> Self {
        let reading = tokio::task::spawn_blocking({
            let path = path.clone();
            move || {
                let disk = DirectoryDisk::open(&path).map_err(|source| StartError::State {
                    path: path.clone(),
                    source,
                })?;
                Log::open(disk).map_err(|source| StartError::Log { path, source })
            }
        });
        Self { path, reading }
    }

    /// That directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

pub(super) struct Loading {
    pub(super) storage: Storage,
    pub(super) directory: Reader,
    pub(super) table: Arc<Table>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) queue: Queue,
}

impl Loading {
    pub(super) async fn load(
        self,
    ) -> Result<(Committer<DirectoryDisk>, Arc<Follower>), StartError> {
        let Storage { path, reading } = self.storage;
        let (log, recovered) = reading.await.map_err(|_| StartError::Bug)??;
        let filling = Filling {
            path,
            log,
            recovered,
            directory: self.directory,
            table: self.table,
            metrics: self.metrics,
            queue: self.queue,
        };
        tokio::task::spawn_blocking(|| filling.fill())
            .await
            .map_err(|_| StartError::Bug)?
    }
}

struct Filling {
    path: PathBuf,
    log: Log<DirectoryDisk>,
    recovered: Recovered,
    directory: Reader,
    table: Arc<Table>,
    metrics: Arc<Metrics>,
    queue: Queue,
}

impl Filling {
    /// Fills the table and begins to follow the Directory. What is no longer anybody's leaves the disk.
    fn fill(self) -> Result<(Committer<DirectoryDisk>, Arc<Follower>), StartError> {
        let Self { log, recovered, .. } = self;
        let is_new = recovered.is_new;
        let follower = Follower::new(
            self.directory,
            Arc::clone(&self.table),
            Arc::clone(&self.metrics),
            self.queue,
            recovered.held_by_registration,
        );
        let forgotten = follower.start();
        if forgotten > 0 {
            tracing::info!(
                registrations = forgotten,
                "addresses of devices that are gone are forgotten"
            );
        }
        let mut committer = Committer::new(log, Arc::clone(&self.table));
        // Otherwise the thread that writes does it first of all, and answers do not wait for it.
        let ready = match is_new || forgotten > 0 {
            true => committer.begin_anew(),
            false => Ok(()),
        };
        self.metrics.log(committer.log());
        self.metrics.names(&self.table);
        match ready {
            Ok(()) => Ok((committer, follower)),
            Err(source) if is_new => Err(StartError::NewLog {
                path: self.path,
                source,
            }),
            // A full disk must not take the answers down; updates are refused until it has room.
            Err(error) => {
                tracing::error!(%error, "the log of updates cannot be written; updates are refused for now");
                Ok((committer, follower))
            }
        }
    }
}
