//! What is counted of orders, all prefixed `causeway_control_acme_`.

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

use super::Turn;

const NOW: &str = "now";
const LATER: &str = "later";

#[derive(Debug)]
pub(super) struct Metrics {
    turns: IntCounterVec,
    waiting: IntGauge,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            turns: IntCounterVec::new(
                Opts::new(
                    "causeway_control_acme_turns_total",
                    "Devices that asked whether they may order a certificate of an authority, by what they were told.",
                ),
                &["turn"],
            )?,
            waiting: IntGauge::new(
                "causeway_control_acme_waiting",
                "Devices that wait for their turn to order a certificate.",
            )?,
        };
        registry.register(Box::new(metrics.turns.clone()))?;
        registry.register(Box::new(metrics.waiting.clone()))?;
        for turn in [NOW, LATER] {
            metrics.turns.with_label_values(&[turn]);
        }
        Ok(metrics)
    }

    pub(super) fn turn(&self, turn: Turn) {
        let told = match turn {
            Turn::Now => NOW,
            Turn::Later { .. } => LATER,
        };
        self.turns.with_label_values(&[told]).inc();
    }

    /// So many wait for one authority, and not as many as before.
    pub(super) fn waiting(&self, before: usize, after: usize) {
        let change = i64::try_from(after).unwrap_or(0) - i64::try_from(before).unwrap_or(0);
        self.waiting.add(change);
    }
}
