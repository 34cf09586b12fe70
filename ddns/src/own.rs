//! What a device has of its own in the zone, and how that changes.

use crate::addresses::{Addresses, ChangeSet, is_public};
use crate::caa::Issuers;
use crate::challenges::{ChallengeChange, Challenges, TooManyHosts};
use crate::dynamic::change::{DynamicChange, Unmet};
use crate::lan::{LanAddresses, LanChange};

/// What updates have set for one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Where it is.
    pub addresses: Addresses,
    /// What a CA is to find.
    pub challenges: Challenges,
    /// Where it is in its own network.
    pub lan: LanAddresses,
    /// Who alone may issue certificates for it.
    pub issuers: Issuers,
}

impl Own {
    /// Whether there are names below the device's for it, beside its wildcard.
    pub(crate) fn has_subnames(&self) -> bool {
        !self.challenges.is_empty() || !self.lan.is_empty()
    }
}

/// What an update asks for.
#[derive(Clone, Debug)]
pub enum Change {
    /// The addresses of a family, or both.
    Addresses(ChangeSet),
    /// One challenge, or all at one name.
    Challenge(ChallengeChange),
    /// Addresses in its own network.
    Lan(LanChange),
    /// Who alone may issue certificates for it, from now on.
    Issuers(Issuers),
    /// Each of these, in order; all or none.
    All(Vec<Self>),
    /// All that an UPDATE asks for, if what it demands is so (RFC 2136).
    Dynamic(Box<DynamicChange>),
}

impl Change {
    /// What it makes of `before`.
    ///
    /// # Errors
    /// If it does not apply to that.
    pub fn apply(&self, before: &Own) -> Result<Own, NotApplied> {
        let mut after = before.clone();
        self.make(&mut after)?;
        Ok(after)
    }

    fn make(&self, own: &mut Own) -> Result<(), NotApplied> {
        match self {
            Self::Addresses(change) => own.addresses = change.apply(own.addresses),
            Self::Challenge(change) => change.apply(&mut own.challenges)?,
            Self::Lan(change) => own.lan = change.apply(own.lan),
            Self::Issuers(issuers) => own.issuers = issuers.clone(),
            Self::All(changes) => changes.iter().try_for_each(|change| change.make(own))?,
            Self::Dynamic(change) => *own = change.apply(own)?,
        }
        Ok(())
    }

    /// Whether a CA is to find something after it.
    pub(crate) fn is_for_authorities(&self) -> bool {
        match self {
            Self::Addresses(_) | Self::Lan(_) => false,
            // None is something to find too, for one who was not among those before.
            Self::Issuers(_) => true,
            Self::Challenge(change) => matches!(change, ChallengeChange::Add(..)),
            Self::All(changes) => changes.iter().any(Self::is_for_authorities),
            Self::Dynamic(change) => change.sets_challenges(),
        }
    }

    /// Whether it says something about addresses that its name leads to, perhaps.
    pub(crate) fn is_of_addresses(&self) -> bool {
        match self {
            Self::Addresses(_) | Self::Dynamic(_) => true,
            Self::Challenge(_) | Self::Lan(_) | Self::Issuers(_) => false,
            Self::All(changes) => changes.iter().any(Self::is_of_addresses),
        }
    }

    /// Whether strangers can reach the networks that it moves addresses into, whichever addresses these will be.
    pub(crate) fn moves_in_public(&self) -> bool {
        match self {
            Self::Addresses(change) => change
                .prefix()
                .is_none_or(|prefix| is_public(prefix.network().into())),
            Self::Challenge(_) | Self::Lan(_) | Self::Issuers(_) | Self::Dynamic(_) => true,
            Self::All(changes) => changes.iter().all(Self::moves_in_public),
        }
    }
}

impl From<ChangeSet> for Change {
    fn from(change: ChangeSet) -> Self {
        Self::Addresses(change)
    }
}

impl From<DynamicChange> for Change {
    fn from(change: DynamicChange) -> Self {
        Self::Dynamic(Box::new(change))
    }
}

impl From<LanChange> for Change {
    fn from(change: LanChange) -> Self {
        Self::Lan(change)
    }
}

impl From<Issuers> for Change {
    fn from(issuers: Issuers) -> Self {
        Self::Issuers(issuers)
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
    /// The asker's: what it demands is not so.
    #[error(transparent)]
    Unmet(#[from] Unmet),
}

#[cfg(test)]
mod tests {
    use crate::challenges::{ChallengeHost, ChallengeValue, MAX_HOSTS};

    use super::*;

    #[test]
    fn several_changes_are_made_in_order_and_all_or_none() {
        let set = |text: &str| {
            let change = ChangeSet::default().set(text.parse().unwrap());
            Change::from(change.unwrap())
        };
        let add = |host: &str| {
            let host = ChallengeHost::parse(host).unwrap();
            Change::from(ChallengeChange::Add(
                host,
                ChallengeValue::new(b"v").unwrap(),
            ))
        };
        let before = Own::default();
        let all = Change::All(vec![set("192.0.2.1"), add("photos"), set("192.0.2.2")]);
        let after = all.apply(&before).unwrap();
        assert_eq!(after.addresses.v4, Some([192, 0, 2, 2].into()));
        assert_eq!(after.challenges.iter().len(), 1);

        let hosts = (0..=MAX_HOSTS).map(|number| add(&number.to_string()));
        let too_many = [set("192.0.2.1")].into_iter().chain(hosts).collect();
        assert!(Change::All(too_many).apply(&before).is_err());
    }
}
