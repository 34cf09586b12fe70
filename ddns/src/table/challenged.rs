//! The challenges of the few devices that have some, as values for who writes and compiled for who answers.

use std::sync::Arc;

use dashmap::DashMap;
use directory::RegistrationId;

use crate::challenges::{ChallengeHost, Challenges};
use crate::protocol::Type;
use crate::rrset::Rrset;

/// Seconds. A CA that has looked too early looks again soon.
const TTL: u32 = 5;

/// By registration, so that nothing of a former holder is found under a name.
#[derive(Debug, Default)]
pub(super) struct Challenged(DashMap<RegistrationId, Compiled>);

#[derive(Debug)]
struct Compiled {
    challenges: Challenges,
    sets: Vec<(ChallengeHost, Arc<Rrset>)>,
}

impl Challenged {
    /// Replaces all challenges of a registration.
    pub(super) fn set(&self, registration: RegistrationId, challenges: &Challenges) {
        if challenges.is_empty() {
            self.0.remove(&registration);
            return;
        }
        let sets = challenges.iter().filter_map(|(host, values)| {
            let strings: Vec<_> = values
                .iter()
                .map(|value| string(value.as_bytes()))
                .collect();
            let set = Rrset::compile(Type::TXT, TTL, &strings)?;
            Some((host.clone(), Arc::new(set)))
        });
        let compiled = Compiled {
            challenges: challenges.clone(),
            sets: sets.collect(),
        };
        self.0.insert(registration, compiled);
    }

    pub(super) fn challenges(&self, registration: RegistrationId) -> Challenges {
        let compiled = self.0.get(&registration);
        compiled.map_or_else(Challenges::default, |compiled| compiled.challenges.clone())
    }

    /// The TXT records at one name.
    pub(super) fn find(&self, registration: RegistrationId, host: &[u8]) -> Option<Arc<Rrset>> {
        let compiled = self.0.get(&registration)?;
        let mut sets = compiled.sets.iter();
        let (_, set) = sets.find(|(there, _)| there.as_wire() == host)?;
        Some(Arc::clone(set))
    }
}

/// A character-string (RFC 1035 section 3.3), which a value is never too long for.
fn string(value: &[u8]) -> Vec<u8> {
    [&[value.len() as u8], value].concat()
}
