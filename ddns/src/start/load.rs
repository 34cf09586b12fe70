//! The start of the table: the log says what addresses there were, the Directory whose they still are.

use std::path::PathBuf;
use std::sync::Arc;

use directory::Reader;

use super::StartError;
use crate::follow::Follower;
use crate::metrics::Metrics;
use crate::store::{DirectoryDisk, Log};
use crate::table::Table;
use crate::update::{Committer, Queue};

pub(super) struct Loading {
    pub(super) state: PathBuf,
    pub(super) directory: Reader,
    pub(super) table: Arc<Table>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) queue: Queue,
}

impl Loading {
    /// Fills the table and begins to follow the Directory. What is no longer anybody's leaves the disk.
    pub(super) fn load(self) -> Result<(Committer<DirectoryDisk>, Arc<Follower>), StartError> {
        let disk = DirectoryDisk::open(&self.state).map_err(|source| StartError::State {
            path: self.state.clone(),
            source,
        })?;
        let (log, recovered) = Log::open(disk).map_err(|source| StartError::Log {
            path: self.state.clone(),
            source,
        })?;
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
        let ready = match forgotten {
            0 => committer.resume(),
            _ => committer.begin_anew(),
        };
        self.metrics.log(committer.log());
        self.metrics.names(&self.table);
        match ready {
            Ok(()) => Ok((committer, follower)),
            Err(source) if is_new => Err(StartError::NewLog {
                path: self.state,
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
