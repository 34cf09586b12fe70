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
mod door;
pub(crate) mod outcome;
mod pace;
mod proofs;
mod writer;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use directory::{DeviceName, Reader, RegistrationId};
use tokio::sync::{mpsc, oneshot};

pub use commit::{Committer, Update, write_snapshot};
pub use door::Door;
pub use outcome::{Outcome, UpdateError};
pub(crate) use pace::Pace;
use pace::Subject;
pub use proofs::{NotProved, ProofHost};
use writer::Request;
pub(crate) use writer::{Queue, Writer};

use crate::addresses::is_public;
use crate::metrics::Metrics;
use crate::own::{Change, Own};
use crate::table::{Held, Table};
use crate::transfer::Rotation;

/// Longer than any disk that still works takes, shorter than the patience of the clients.
const DEADLINE: Duration = Duration::from_secs(5);

/// Takes updates; cheap to clone.
#[derive(Clone, Debug)]
pub struct Updater {
    directory: Reader,
    table: Arc<Table>,
    metrics: Arc<Metrics>,
    queue: Queue,
    limits: Arc<Limits>,
    /// The secondaries that serve the zone too, if there are any.
    rotation: Option<Rotation>,
    door: Door,
    proofs: proofs::Proofs,
    /// Where the update comes from, if that is known.
    from: Option<IpAddr>,
    /// Whoever wants to hear of changes.
    changes: Option<mpsc::Sender<AddressChange>>,
}

/// A device has other addresses than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressChange {
    /// Which device.
    pub device: DeviceName,
    /// Where it was said from, if that is known: whoever said it was heard there.
    pub from: Option<IpAddr>,
}

/// What an update may not do although it is the device's own.
#[derive(Debug)]
pub(crate) struct Limits {
    /// Private addresses are taken; for a zone that only its own network asks for.
    pub(crate) private_addresses: bool,
    pub(crate) pace: Pace,
}

impl Updater {
    pub(crate) fn new(
        directory: Reader,
        table: Arc<Table>,
        metrics: Arc<Metrics>,
        queue: Queue,
        limits: Limits,
    ) -> Self {
        Self {
            directory,
            table,
            metrics,
            queue,
            limits: Arc::new(limits),
            rotation: None,
            door: Door::Api,
            proofs: proofs::Proofs::default(),
            from: None,
            changes: None,
        }
    }

    /// The same where what authorities are to find has to be served by secondaries before they are acknowledged.
    pub(crate) fn with_rotation(self, rotation: Option<Rotation>) -> Self {
        Self { rotation, ..self }
    }

    /// The same, and whoever receives what is sent to `changes` hears when a device gets other addresses; but not while it is full.
    pub(crate) fn with_changes(self, changes: Option<mpsc::Sender<AddressChange>>) -> Self {
        Self { changes, ..self }
    }

    /// The same for updates that come from there.
    pub fn coming_from(&self, from: Option<IpAddr>) -> Self {
        Self {
            from,
            ..self.clone()
        }
    }

    /// The same for another door than the API's.
    pub fn at(&self, door: Door) -> Self {
        Self {
            door,
            ..self.clone()
        }
    }

    /// What the device that holds `name` by `registration` has of its own now; `None` if it does not hold it.
    pub fn held(&self, registration: RegistrationId, name: &DeviceName) -> Option<Held> {
        self.table.held(name, registration)
    }

    /// The zone's serial. An update that is done is in every answer from then on, and this serial or a later one is with it.
    pub fn serial(&self) -> u32 {
        self.table.soa().serial
    }

    /// Whether the disk takes updates, as far as is known. Whoever has given them up to a successor is none the worse for it.
    pub fn is_ready(&self) -> bool {
        self.queue.is_sound()
    }

    /// Counts and logs a refusal that came before [`update`](Self::update). Says why, and not who or where: users, keys and hosts are
    /// strangers' texts.
    pub(crate) fn refused(&self, reason: &str) {
        self.metrics.update_refused(self.door, reason);
        tracing::info!(
            door = self.door.label(),
            reason,
            "a DDNS update was refused"
        );
    }

    /// Whether a change would change anything.
    ///
    /// # Errors
    /// Those of [`update`](Self::update) that do not depend on the moment.
    pub(crate) fn would_change(
        &self,
        registration: RegistrationId,
        name: &DeviceName,
        change: &Change,
    ) -> Result<bool, UpdateError> {
        let (current, next) = self.next(registration, name, change)?;
        if !self.limits.private_addresses && !change.moves_in_public() {
            return Err(UpdateError::NotPublic);
        }
        self.limits.check_addresses(&current.own, &next)?;
        Ok(next != current.own)
    }

    /// Changes what the device that holds `name` by `registration` has of its own. When this returns `Ok` the change
    /// survives a crash, and the next query sees it; what authorities are to find is seen by the next query to every secondary in
    /// rotation too.
    ///
    /// # Errors
    /// See [`UpdateError`]; each says whose fault it is.
    pub async fn update(
        &self,
        registration: RegistrationId,
        name: &DeviceName,
        change: impl Into<Change>,
    ) -> Result<Outcome, UpdateError> {
        self.begin(registration, name, change).outcome().await
    }

    /// Begins an update without waiting for the disk. Those that are begun one after the other are made in that order; but one that
    /// does not apply to what is there now, before those under way, is refused.
    pub(crate) fn begin(
        &self,
        registration: RegistrationId,
        name: &DeviceName,
        change: impl Into<Change>,
    ) -> Begun {
        let change = change.into();
        let rotation = self.rotation.as_ref();
        let changes = self.changes.as_ref();
        Begun {
            told: changes.filter(|_| change.is_of_addresses()).map(|changes| {
                let (device, from) = (name.clone(), self.from);
                (changes.clone(), AddressChange { device, from })
            }),
            metrics: Arc::clone(&self.metrics),
            door: self.door,
            rotation: rotation.filter(|_| change.is_for_authorities()).cloned(),
            progress: self.decide(registration, name, change),
        }
    }

    fn decide(&self, registration: RegistrationId, name: &DeviceName, change: Change) -> Progress {
        match self.decide_by_table(registration, name, &change) {
            Ok(Some(outcome)) => Progress::Decided(Ok(outcome)),
            Ok(None) => self.store(Update {
                registration,
                name: name.clone(),
                change,
            }),
            Err(error) => Progress::Decided(Err(error)),
        }
    }

    /// What can be said by what is in the table now; `None` if the change is to be stored.
    fn decide_by_table(
        &self,
        registration: RegistrationId,
        name: &DeviceName,
        change: &Change,
    ) -> Result<Option<Outcome>, UpdateError> {
        // Before the table is looked at: one that is under way may be this device's, and the promise that nothing changes would be
        // broken by it; or by one that another server takes.
        let is_settled = self.queue.is_empty() && self.queue.is_sound() && self.queue.is_open();
        let (current, next) = self.next(registration, name, change)?;
        if next == current.own && is_settled {
            return Ok(Some(Outcome::Unchanged(current)));
        }
        if !self.limits.private_addresses && !change.moves_in_public() {
            return Err(UpdateError::NotPublic);
        }
        self.limits.check(registration, &current.own, &next)?;
        Ok(None)
    }

    /// What the device has, and what it will have.
    fn next(
        &self,
        registration: RegistrationId,
        name: &DeviceName,
        change: &Change,
    ) -> Result<(Held, Own), UpdateError> {
        if self.directory.registration_by_name(name) != Some(registration) {
            return Err(UpdateError::NotHeld);
        }
        let current = self.table.held(name, registration);
        let current = current.ok_or(UpdateError::NotHeld)?;
        let next = change.apply(&current.own)?;
        Ok((current, next))
    }

    fn store(&self, update: Update) -> Progress {
        let (reply, outcome) = oneshot::channel();
        match self.queue.push(Request { update, reply }) {
            Ok(()) => Progress::Waits(outcome),
            Err(error) => Progress::Decided(Err(error)),
        }
    }
}

/// An update that has been begun. It is made whether anybody waits for it or not.
#[derive(Debug)]
pub(crate) struct Begun {
    metrics: Arc<Metrics>,
    door: Door,
    /// Of a change that secondaries are to serve before it is acknowledged.
    rotation: Option<Rotation>,
    /// Of a change of addresses: what is told to whom.
    told: Option<(mpsc::Sender<AddressChange>, AddressChange)>,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    Decided(Result<Outcome, UpdateError>),
    Waits(oneshot::Receiver<Result<Outcome, UpdateError>>),
}

impl Begun {
    /// Waits for what becomes of it.
    pub(crate) async fn outcome(self) -> Result<Outcome, UpdateError> {
        let result = match self.progress {
            Progress::Decided(result) => result,
            Progress::Waits(outcome) => match tokio::time::timeout(DEADLINE, outcome).await {
                Ok(told) => told.unwrap_or(Err(UpdateError::Stopped)),
                Err(_) => Err(UpdateError::Stalled),
            },
        };
        self.metrics.update(self.door, &result);
        log(self.door, &result);
        // Even where nothing has changed: it is said from somewhere else, perhaps.
        if let (Ok(_), Some((changes, change))) = (&result, self.told) {
            let _ = changes.try_send(change); // whoever is behind with them looks again in time
        }
        if let (Ok(_), Some(rotation)) = (&result, &self.rotation) {
            rotation.wait().await;
        }
        result
    }
}

fn log(door: Door, result: &Result<Outcome, UpdateError>) {
    let door = door.label();
    match result {
        Ok(_) => {}
        Err(error @ (UpdateError::Storage | UpdateError::Busy | UpdateError::Stalled)) => {
            tracing::warn!(door, %error, "a DDNS update was not done");
        }
        Err(error) => tracing::info!(door, %error, "a DDNS update was refused"),
    }
}

impl Limits {
    fn check(
        &self,
        registration: RegistrationId,
        before: &Own,
        after: &Own,
    ) -> Result<(), UpdateError> {
        self.check_addresses(before, after)?;
        let subjects = [
            (
                Subject::Addresses,
                before.addresses != after.addresses || before.lan != after.lan,
            ),
            (
                Subject::Challenges,
                before.challenges != after.challenges || before.issuers != after.issuers,
            ),
        ];
        let now = Instant::now();
        for (subject, _) in subjects.into_iter().filter(|(_, changes)| *changes) {
            if !self.pace.take(registration, subject, now) {
                return Err(UpdateError::TooOften);
            }
        }
        Ok(())
    }

    fn check_addresses(&self, before: &Own, after: &Own) -> Result<(), UpdateError> {
        let is_new = |address: &_| !before.addresses.iter().any(|there| there == *address);
        let mut new = after.addresses.iter().filter(is_new);
        match self.private_addresses || new.all(is_public) {
            true => Ok(()),
            false => Err(UpdateError::NotPublic),
        }
    }
}
