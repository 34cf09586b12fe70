//! What became of an update.

use crate::addresses::Addresses;

/// What an update did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The device has these own addresses now, on the disk and in every answer.
    Changed(Addresses),
    /// It had them before.
    Unchanged(Addresses),
}

/// Why an update was not done. Nothing of it is in any answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// The asker's: this registration does not hold the name, or no longer.
    #[error("the name does not belong to this registration")]
    NotHeld,
    /// Ours: the disk has not taken it. Its log line says why.
    #[error("the update could not be stored")]
    Storage,
    /// Ours: more updates wait than the disk can take. To be tried again.
    #[error("too many updates are waiting")]
    Busy,
    /// Ours: no answer from the disk for five seconds. The update may yet come to be.
    #[error("the disk does not answer")]
    Stalled,
    /// Ours: the server is ending.
    #[error("the server is stopping")]
    Stopped,
}
