//! What is recorded of a visitor's connection, and in which words.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use directory::DeviceId;
use wire::record::{Carrier, End, Record, Visitor};

use crate::carrier::Kind;
use crate::splice::{self, Moved};

/// What is known of a visitor while it is here.
#[derive(Debug)]
pub(super) struct Visit {
    address: SocketAddr,
    began: Instant,
    raw: AtomicBool,
}

impl Visit {
    /// That of a visitor whose device has just been found.
    pub(super) fn begin(address: SocketAddr) -> Self {
        Self {
            address,
            began: Instant::now(),
            raw: AtomicBool::new(false),
        }
    }

    /// Where the visitor comes from.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bulk leaves its carrier.
    pub(super) fn uses_raw(&self) {
        self.raw.store(true, Relaxed);
    }

    /// The record of it, when it has just ended.
    pub(super) fn record(&self, device: DeviceId, carrier: Kind, moved: Moved) -> Record {
        let length = self.began.elapsed();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let started = now.unwrap_or_default().saturating_sub(length);
        let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Record {
            started_ms: ms(started),
            length_ms: ms(length),
            device,
            visitor: Visitor::Address(self.address),
            to_device: moved.outwards,
            to_visitor: moved.inwards,
            end: end(moved.end),
            carrier: match carrier {
                Kind::Quic | Kind::Flow => Carrier::Quic,
                Kind::Tls => Carrier::Tls,
            },
            raw: self.raw.load(Relaxed),
        }
    }
}

/// How a visitor's connection ended, seen from here: the near end is the visitor, the far one the device.
pub(super) fn end(end: splice::End) -> End {
    match end {
        splice::End::Done => End::Done,
        splice::End::NearGone => End::VisitorGone,
        splice::End::FarGone => End::DeviceGone,
        splice::End::Idle => End::Idle,
        splice::End::Cut => End::Cut,
        splice::End::Shed => End::Shed,
    }
}
