//! What a device has of its own in the zone, and how that changes.

use crate::addresses::{Addresses, ChangeSet};
use crate::challenges::{ChallengeChange, Challenges, TooManyHosts};

/// What updates have set for one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Where it is.
    pub addresses: Addresses,
    /// What a CA is to find.
    pub challenges: Challenges,
}

/// What an update asks for.
#[derive(Clone, Debug)]
pub enum Change {
    /// The addresses of a family, or both.
    Addresses(ChangeSet),
    /// One challenge, or all at one name.
    Challenge(ChallengeChange),
}

impl Change {
    /// What it makes of `before`.
    ///
    /// # Errors
    /// If it does not apply to that.
    pub fn apply(&self, before: &Own) -> Result<Own, NotApplied> {
        let mut after = before.clone();
        match self {
            Self::Addresses(change) => after.addresses = change.apply(before.addresses),
            Self::Challenge(change) => change.apply(&mut after.challenges)?,
        }
        Ok(after)
    }
}

impl From<ChangeSet> for Change {
    fn from(change: ChangeSet) -> Self {
        Self::Addresses(change)
    }
}

impl From<ChallengeChange> for Change {
    fn from(change: ChallengeChange) -> Self {
        Self::Challenge(change)
    }
}

/// Why a change does not apply to what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotApplied {
    /// The asker's.
    #[error(transparent)]
    TooManyHosts(#[from] TooManyHosts),
}
