//! The challenges of the operator's own hosts (RFC 8555 section 8.4), for the certificates of this very server. They are in memory alone:
//! whoever orders a certificate puts them there again after a restart.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use directory::{OperatorName, Zone};

use super::Updater;
use crate::challenges::{ChallengeValue, MAX_VALUES};
use crate::unix_seconds;
use crate::zone::{NAME_SERVER, octets};

/// By the octets of a host that stand before the zone's name.
type ValuesByHost = BTreeMap<Box<[u8]>, Vec<ChallengeValue>>;

/// What there is. A clone is the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Proofs(Arc<Mutex<ValuesByHost>>);

/// A host of the operator's that can have challenges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofHost(Box<[u8]>);

impl ProofHost {
    /// `cloud.<zone>`, or the zone's name server. No other has any: devices have theirs by another way, and what agents know of
    /// `relay.<zone>` is the operator's own authority.
    pub fn locate(name: &str, zone: &Zone) -> Option<Self> {
        let mut hosts = [OperatorName::Cloud.label(), NAME_SERVER].into_iter();
        let label = hosts.find(|label| name == format!("{label}.{zone}"))?;
        Some(Self(octets(&[label])))
    }
}

/// Why a challenge is not there. The asker's, or that of the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotProved {
    /// Another process answers as well, or will soon.
    #[error("this server is about to be followed by another, or follows one")]
    NotAlone,
    /// Some are left behind.
    #[error("there are {MAX_VALUES} challenges of one host already")]
    TooMany,
}

impl Updater {
    /// Adds challenges of the operator's own hosts. When this returns the next query sees them, one to every secondary in rotation too.
    ///
    /// # Errors
    /// If there are too many, or this server is not the only one that answers.
    pub async fn prove(&self, added: &[(ProofHost, ChallengeValue)]) -> Result<(), NotProved> {
        if !self.queue.is_open() {
            return Err(NotProved::NotAlone);
        }
        self.change_proofs(|values_by_host| {
            for (host, value) in added {
                let values = values_by_host.entry(host.0.clone()).or_default();
                if values.contains(value) {
                    continue;
                }
                if values.len() == MAX_VALUES {
                    return Err(NotProved::TooMany);
                }
                values.push(value.clone());
            }
            Ok(())
        })?;
        if let Some(rotation) = &self.rotation {
            rotation.wait().await;
        }
        Ok(())
    }

    /// Takes these values away, wherever they stand.
    pub fn withdraw_proofs(&self, values: &[ChallengeValue]) {
        let removed = self.change_proofs(|values_by_host| {
            for there in values_by_host.values_mut() {
                there.retain(|value| !values.contains(value));
            }
            values_by_host.retain(|_, there| !there.is_empty());
            Ok(())
        });
        debug_assert!(removed.is_ok(), "nothing is added");
    }

    fn change_proofs(
        &self,
        change: impl FnOnce(&mut ValuesByHost) -> Result<(), NotProved>,
    ) -> Result<(), NotProved> {
        let mut proofs = self.proofs.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut after = proofs.clone();
        change(&mut after)?;
        if after != *proofs {
            self.table.prove(&after);
            self.table.changed(unix_seconds());
            *proofs = after;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_with_a_certificate_of_their_own_have_challenges() {
        let zone = Zone::parse("nas.test").unwrap();
        let is_one = |name: &str| ProofHost::locate(name, &zone).is_some();
        assert!(is_one("cloud.nas.test") && is_one("ns1.nas.test"));
        for other in [
            "nas.test",
            "relay.nas.test",
            "mynas.nas.test",
            "x.cloud.nas.test",
            "cloud.other.test",
            "*.cloud.nas.test",
            "",
        ] {
            assert!(!is_one(other), "{other}");
        }
    }
}
