//! What a relay apart counts about whom it follows.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use following::Refusal;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Its metrics.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    /// Whether control is heard.
    pub(super) connected: IntGauge,
    version: IntGauge,
    devices: IntGauge,
    refused: IntCounterVec,
    lost: IntCounterVec,
    /// Snapshots that were taken.
    pub(super) snapshots: IntCounter,
    /// Times that the disk did not take what is known.
    pub(super) keep_failures: IntCounter,
    heard: Arc<Mutex<Instant>>,
}

/// Why control is not followed for the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// It could not be reached.
    Unreachable,
    /// It said no.
    Denied,
    /// It said nothing for too long.
    Silent,
    /// It ended the connection, or that broke.
    Ended,
    /// It did not take a report.
    Report,
}

impl Loss {
    const ALL: [Self; 5] = [
        Self::Unreachable,
        Self::Denied,
        Self::Silent,
        Self::Ended,
        Self::Report,
    ];

    fn reason(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Denied => "denied",
            Self::Silent => "silent",
            Self::Ended => "ended",
            Self::Report => "report",
        }
    }
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let by_reason = |name, help| IntCounterVec::new(Opts::new(name, help), &["reason"]);
        let metrics = Self {
            connected: IntGauge::new(
                "causeway_follow_connected",
                "Whether this relay hears what control knows; 0: what was known last is in force.",
            )?,
            version: IntGauge::new(
                "causeway_follow_version",
                "Up to which change of control's this relay knows.",
            )?,
            devices: IntGauge::new("causeway_follow_devices", "Devices that this relay knows.")?,
            refused: by_reason(
                "causeway_follow_refused_total",
                "What control has said and this relay has not taken, by reason; each ended a connection to control.",
            )?,
            lost: by_reason(
                "causeway_follow_lost_total",
                "Ends of the connection to control, and tries for one that failed, by reason.",
            )?,
            snapshots: IntCounter::new(
                "causeway_follow_snapshots_total",
                "Snapshots of all devices that this relay has taken from control.",
            )?,
            keep_failures: IntCounter::new(
                "causeway_follow_keep_failures_total",
                "Times that what is known could not be kept on disk.",
            )?,
            heard: Arc::new(Mutex::new(Instant::now())),
        };
        for refusal in Refusal::ALL {
            metrics
                .refused
                .with_label_values(&[refusal.reason()])
                .reset(); // exported from the beginning
        }
        for loss in Loss::ALL {
            metrics.lost.with_label_values(&[loss.reason()]).reset();
        }
        registry.register(Box::new(metrics.connected.clone()))?;
        registry.register(Box::new(metrics.version.clone()))?;
        registry.register(Box::new(metrics.devices.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.lost.clone()))?;
        registry.register(Box::new(metrics.snapshots.clone()))?;
        registry.register(Box::new(metrics.keep_failures.clone()))?;
        registry.register(Box::new(Age {
            seconds: Gauge::new(
                "causeway_follow_last_word_age_seconds",
                "How long ago control said something last, or, before it ever did, this process began.",
            )?,
            heard: Arc::clone(&metrics.heard),
        }))?;
        Ok(metrics)
    }

    /// Control has just said something.
    pub(super) fn heard(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// So much is known now.
    pub(super) fn now(&self, version: u64, devices: usize) {
        self.version.set(i64::try_from(version).unwrap_or(i64::MAX));
        self.devices.set(i64::try_from(devices).unwrap_or(i64::MAX));
    }

    pub(super) fn refused(&self, refusal: Refusal) {
        self.refused.with_label_values(&[refusal.reason()]).inc();
    }

    pub(super) fn lost(&self, loss: Loss) {
        self.lost.with_label_values(&[loss.reason()]).inc();
    }
}

/// How long ago control said something, computed when somebody looks.
struct Age {
    seconds: Gauge,
    heard: Arc<Mutex<Instant>>,
}

impl Collector for Age {
    fn desc(&self) -> Vec<&Desc> {
        self.seconds.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        self.seconds.set(heard.elapsed().as_secs_f64());
        self.seconds.collect()
    }
}
