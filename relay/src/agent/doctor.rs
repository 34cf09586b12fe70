//! Looks for what keeps an agent from its relay, or makes it slow, and says how to mend it. It attaches nowhere, so that a
//! running agent of the same device is not disturbed.

mod device;
mod finding;
mod way;

use crate::resolve::Resolver;

use super::state::State;

use finding::finding;
pub use finding::{Finding, Health};

/// Looks at everything, the most important first.
pub async fn examine(state: &State, resolver: Resolver) -> Vec<Finding> {
    let mut findings = Vec::new();
    match way::patient(state, resolver) {
        Ok(patient) => {
            findings.push(finding(
                "pairing",
                Health::Well,
                format!("{}.{}", patient.pairing.name, patient.pairing.zone),
            ));
            for relay in &patient.pairing.relays {
                findings.extend(patient.relay(relay).await);
            }
        }
        Err(error) => findings.push(finding("pairing", Health::Ill, error.to_string())),
    }
    findings.extend(device::examine());
    findings
}
