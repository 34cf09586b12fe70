//! What is counted of the certificate watch, all prefixed `causeway_control_certificate_watch_`.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::log::Failure;

#[derive(Clone, Debug)]
pub(super) struct Metrics {
    pub(super) logs: IntGauge,
    pub(super) oldest: IntGauge,
    pub(super) entries: IntCounter,
    pub(super) found: IntCounter,
    pub(super) full: IntCounter,
    pub(super) unreadable: IntCounter,
    pub(super) unreadable_of_zone: IntCounter,
    pub(super) failures: IntCounterVec,
    pub(super) strange: IntCounter,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(format!("causeway_control_certificate_watch_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let counter = |name: &str, help: &str| {
            let name = format!("causeway_control_certificate_watch_{name}_total");
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let failures = IntCounterVec::new(
            Opts::new(
                "causeway_control_certificate_watch_failures_total",
                "Rounds in which a log was not followed to its end, by reason.",
            ),
            &["reason"],
        )?;
        registry.register(Box::new(failures.clone()))?;
        for reason in Failure::REASONS {
            failures.with_label_values(&[reason]);
        }
        Ok(Self {
            logs: gauge(
                "logs",
                "Certificate transparency logs that are to be followed.",
            )?,
            oldest: gauge(
                "oldest_timestamp_seconds",
                "When the log that was followed to its end longest ago was so, in seconds since 1970; 0: not since the start.",
            )?,
            entries: counter("entries", "Entries of logs that were looked at.")?,
            found: counter(
                "found",
                "Certificates for names of the zone that had not been seen before, devices' own with them; each once for each key.",
            )?,
            full: counter(
                "full",
                "The same that were not kept, because a name, or all, had as many as are kept.",
            )?,
            unreadable: counter(
                "unreadable",
                "Certificates in logs that cannot be made out.",
            )?,
            unreadable_of_zone: counter(
                "unreadable_of_zone",
                "The same in which the zone's name stands.",
            )?,
            failures,
            strange: counter(
                "strange",
                "Certificates of which a device has said that they are not its own.",
            )?,
        })
    }
}
