//! Connection records: one for each visitor's connection that has reached a device, for the operator alone.
//!
//! ```text
//!   server/front.rs ─► Recorder ─► bounded queue ─► writer, one thread ─► sealed batches ─► a file for each day and run
//! ```
//!
//! The server can write and cannot read: batches are sealed to the operator's public key, and [`read`](fn@read) is for whoever has
//! the other half. A visitor never waits for a record: what does not fit into the queue, or onto the disk, is dropped and counted.
//! What the octets are: `wire::record`.

mod config;
mod folder;
mod key;
mod note;
mod read;
mod writer;

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use wire::record::Stream;

pub use config::{Config, Setup};
pub use folder::{count, day_of, moment};
pub use key::{KeyError, PublicKey, SecretKey};
pub use note::Note;
pub use read::{Found, ReadError, read};

pub use writer::StartError;
pub(crate) use writer::{Recorder, Writer, start};

/// What is counted of records, prefixed `causeway_relay_records_`.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Records that are on the disk, by stream.
    written: IntCounterVec,
    /// Records that are not, by stream and reason.
    dropped: IntCounterVec,
}

/// Why a record was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// The writer is slower than the visitors.
    QueueFull,
    /// The disk has no room.
    DiskFull,
    /// The disk, or the folder on it, cannot be written to.
    DiskError,
    /// It could not be sealed.
    Seal,
    /// The relay stops.
    Stopped,
}

impl Reason {
    const ALL: [Self; 5] = [
        Self::QueueFull,
        Self::DiskFull,
        Self::DiskError,
        Self::Seal,
        Self::Stopped,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::DiskFull => "disk_full",
            Self::DiskError => "disk_error",
            Self::Seal => "seal",
            Self::Stopped => "stopped",
        }
    }
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let metrics = Self {
            written: counters(
                "causeway_relay_records_written_total",
                "Connection records that are on the disk.",
                &["stream"],
            )?,
            dropped: counters(
                "causeway_relay_records_dropped_total",
                "Connection records that could not be kept.",
                &["stream", "reason"],
            )?,
        };
        for stream in Stream::ALL {
            metrics.written(stream);
            for reason in Reason::ALL {
                metrics.dropped(stream, reason);
            }
        }
        Ok(metrics)
    }

    fn written(&self, stream: Stream) -> IntCounter {
        self.written.with_label_values(&[stream.name()])
    }

    fn dropped(&self, stream: Stream, reason: Reason) -> IntCounter {
        self.dropped
            .with_label_values(&[stream.name(), reason.name()])
    }
}
