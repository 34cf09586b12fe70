//! What became of an update.

use crate::own::NotApplied;
use crate::table::Held;

/// What an update did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The device has this of its own now, on the disk and in every answer.
    Changed(Held),
    /// It had it before.
    Unchanged(Held),
}

impl Outcome {
    /// What the device has now.
    pub fn held(&self) -> &Held {
        match self {
            Self::Changed(held) | Self::Unchanged(held) => held,
        }
    }

    /// Whether it had something else before.
    pub fn is_change(&self) -> bool {
        matches!(self, Self::Changed(_))
    }
}

/// Why an update was not done. Nothing of it is in any answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// The asker's: this registration does not hold the name, or no longer.
    #[error("the name does not belong to this registration")]
    NotHeld,
    /// The asker's: it does not apply to what there is.
    #[error(transparent)]
    NotApplied(#[from] NotApplied),
    /// The asker's: a private address has no meaning to strangers, and none in a public name.
    #[error("the address is private or reserved: nobody out there can reach the device by it")]
    NotPublic,
    /// The asker's: its addresses or challenges have changed too often in the last minutes. To be tried again.
    #[error("too many changes in the last minutes")]
    TooOften,
    /// Ours: the disk has not taken it. Its log line says why.
    #[error("the update could not be stored")]
    Storage,
    /// Ours: more updates wait than the disk can take. To be tried again.
    #[error("too many updates are waiting")]
    Busy,
    /// Ours: no answer from the disk for five seconds. The update may yet come to be.
    #[error("the disk does not answer")]
    Stalled,
    /// Ours: the server is ending, or one is following another. To be tried again.
    #[error("the server takes no updates now: it is stopping, or one follows another")]
    Stopped,
}

impl UpdateError {
    /// Whether the same update may be done later.
    pub fn may_pass(self) -> bool {
        match self {
            Self::NotHeld | Self::NotApplied(_) | Self::NotPublic => false,
            Self::TooOften | Self::Storage | Self::Busy | Self::Stalled | Self::Stopped => true,
        }
    }
}
