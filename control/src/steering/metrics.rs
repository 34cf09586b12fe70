//! What is counted of the steering of names, all prefixed `causeway_control_steering_`.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use relay::reach::NotThere;

/// Where a name leads, in a word.
pub(super) const DEVICE: &str = "device";
pub(super) const RELAY: &str = "relay";
pub(super) const GIVEN: &str = "given";
/// The result of a check that found the device.
pub(super) const FOUND: &str = "found";

/// What is counted of the steering of names.
#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) steered: IntGauge,
    pub(super) checks: IntCounterVec,
    pub(super) changes: IntCounterVec,
    pub(super) adopted: IntCounter,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            steered: IntGauge::new(
                "causeway_control_steering_names",
                "Names that somebody has a wish for, or whose device can be visited without a relay.",
            )?,
            checks: IntCounterVec::new(
                Opts::new(
                    "causeway_control_steering_checks_total",
                    "Devices asked at an address of theirs to prove that they are there, by result.",
                ),
                &["result"],
            )?,
            changes: IntCounterVec::new(
                Opts::new(
                    "causeway_control_steering_changes_total",
                    "Times that a name has come to lead elsewhere, by where.",
                ),
                &["to"],
            )?,
            adopted: IntCounter::new(
                "causeway_control_steering_addresses_found_total",
                "Addresses that names were given because their devices were found there.",
            )?,
        };
        registry.register(Box::new(metrics.steered.clone()))?;
        registry.register(Box::new(metrics.checks.clone()))?;
        registry.register(Box::new(metrics.changes.clone()))?;
        registry.register(Box::new(metrics.adopted.clone()))?;
        for result in NotThere::ALL.map(NotThere::name).into_iter().chain([FOUND]) {
            metrics.checks.with_label_values(&[result]);
        }
        for to in [DEVICE, RELAY, GIVEN] {
            metrics.changes.with_label_values(&[to]);
        }
        Ok(metrics)
    }
}
