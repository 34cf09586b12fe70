//! What the server itself counts, as its admin listener tells it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::admin::{Metrics, MetricsError};

/// The counters whose sum is how many the relay has turned away: none counts what another counts.
const TURNED_AWAY: [&str; 3] = [
    "causeway_relay_visitors_refused_total",
    "causeway_relay_tunnels_refused_total",
    "causeway_relay_raw_turned_away_total",
];

/// How often it has asked who comes over QUIC to show that its address is its own.
const RETRIES: &str = "causeway_relay_quic_retries_total";

/// How often the kernel could not hand over a connection.
const ACCEPT_ERRORS: &str = "causeway_relay_accept_errors_total";

/// What stands on them at one moment.
#[derive(Clone, Debug)]
pub(super) struct Counters {
    metrics: Metrics,
    /// How long it took to hear them.
    pub(super) took: Duration,
}

impl Counters {
    /// Asks the server whose admin listener this is.
    pub(super) async fn ask(admin: SocketAddr) -> Result<Self, MetricsError> {
        let begun = Instant::now();
        Ok(Self {
            metrics: Metrics::ask(admin).await?,
            took: begun.elapsed(),
        })
    }

    pub(super) fn turned_away(&self) -> f64 {
        TURNED_AWAY.iter().map(|name| self.metrics.sum(name)).sum()
    }

    pub(super) fn retries(&self) -> f64 {
        self.metrics.sum(RETRIES)
    }

    pub(super) fn accept_errors(&self) -> f64 {
        self.metrics.sum(ACCEPT_ERRORS)
    }

    /// Why it has turned away more than `before`, and how many: `too_slow 7, handshake 3`.
    pub(super) fn reasons_since(&self, before: &Self) -> String {
        let mut reasons = Vec::new();
        for name in TURNED_AWAY {
            for (series, count) in self.metrics.of(name) {
                let more = count - before.metrics.sum(series);
                let reason = series.split('"').nth(1).unwrap_or_default();
                if more > 0.0 {
                    reasons.push(format!("{reason} {more}"));
                }
            }
        }
        reasons.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(text: &str) -> Counters {
        Counters {
            metrics: text.to_owned().into(),
            took: Duration::ZERO,
        }
    }

    #[test]
    fn a_counter_is_summed_over_its_labels_and_grows_by_them() {
        let [refused, _, raw] = TURNED_AWAY;
        let told = |slow: u32, full: u32| {
            let lines =
                format!("{refused}{{reason=\"too_slow\"}} {slow}\n{refused}{{reason=\"full\"}} 2");
            counters(&format!(
                "# HELP\n{lines}\n{raw}{{reason=\"full\"}} {full}\n{RETRIES} 7\n"
            ))
        };
        let (before, after) = (told(1, 0), told(4, 5));
        assert_eq!(before.turned_away(), 3.0);
        assert_eq!(after.turned_away(), 11.0);
        assert_eq!(after.retries(), 7.0);
        assert_eq!(after.accept_errors(), 0.0);
        assert_eq!(after.reasons_since(&before), "too_slow 3, full 5");
    }
}
