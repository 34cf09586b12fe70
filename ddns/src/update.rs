//! The updates that move a device: authorise → decide → store → table → reply.
//!
//! ```text
//!  Updater::update        who asks holds the name? does anything change? (if not, it ends here)
//!     │ bounded queue
//!  writer thread          takes all that wait, and commits them together:
//!     commit::Committer     append to the log, one sync, then the table, then everybody's reply
//! ```
//!
//! The table never shows what is not on the disk, so "nothing changes" is said at once; unless the disk may hold more
//! than the table shows, after a failure.

mod commit;
pub(crate) mod outcome;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use directory::{DeviceName, Reader, RegistrationId};
use tokio::sync::oneshot;

pub use commit::{Committer, Update};
pub use outcome::{Outcome, UpdateError};
use writer::Request;
pub(crate) use writer::{Queue, Writer};

use crate::addresses::ChangeSet;
use crate::metrics::Metrics;
use crate::table::Table;

/// Longer than any disk that still works takes, shorter than the patience of the clients.
const DEADLINE: Duration = Duration::from_secs(5);

/// Takes updates; cheap to clone.
#[derive(Clone, Debug)]
pub struct Updater {
    directory: Reader,
    table: Arc<Table>,
    metrics: Arc<Metrics>,
    queue: Queue,
}

impl Updater {
    pub(crate) fn new(
        directory: Reader,
        table: Arc<Table>,
        metrics: Arc<Metrics>,
        queue: Queue,
    ) -> Self {
        Self {
            directory,
            table,
            metrics,
            queue,
        }
    }

    /// Changes the own addresses of the device that holds `name` by `registration`. When this returns `Ok` the change
    /// survives a crash, and the next query sees it.
    ///
    /// # Errors
    /// See [`UpdateError`]; each says whose fault it is.
    pub async fn update(
        &self,
        registration: RegistrationId,
        name: &DeviceName,
        change: ChangeSet,
    ) -> Result<Outcome, UpdateError> {
        let result = self.decide(registration, name, change).await;
        self.metrics.update(&result);
        result
    }

    async fn decide(
        &self,
        registration: RegistrationId,
        name: &DeviceName,
        change: ChangeSet,
    ) -> Result<Outcome, UpdateError> {
        let holder = self.directory.device_by_name(name);
        if holder.is_none_or(|device| device.registration != registration) {
            return Err(UpdateError::NotHeld);
        }
        let current = self
            .table
            .addresses(name, registration)
            .ok_or(UpdateError::NotHeld)?;
        if change.apply(current) == current && self.queue.is_sound() {
            return Ok(Outcome::Unchanged(current));
        }
        self.store(Update {
            registration,
            name: name.clone(),
            change,
        })
        .await
    }

    async fn store(&self, update: Update) -> Result<Outcome, UpdateError> {
        let (reply, outcome) = oneshot::channel();
        self.queue.push(Request { update, reply })?;
        tokio::time::timeout(DEADLINE, outcome)
            .await
            .map_err(|_| UpdateError::Stalled)?
            .map_err(|_| UpdateError::Stopped)?
    }
}
