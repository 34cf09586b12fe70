//! A public port, as whoever has come there knows it.

use std::sync::OnceLock;
use std::time::Instant;

use directory::{DeviceId, PublicPort};
use tokio_util::sync::CancellationToken;

use crate::server::hand_over::MOVE_TIME;

/// A port, and whose it is.
#[derive(Debug)]
pub(crate) struct PortDoor {
    pub(crate) port: PublicPort,
    pub(crate) device: DeviceId,
    /// Cancelled when those who have come there have to leave: the device has lost the port. A datagram finds nobody any more where
    /// the relay does not listen, so then its visitors leave too.
    pub(crate) lost: CancellationToken,
    /// Since when the next process has the listener too.
    handed_over: OnceLock<Instant>,
}

impl PortDoor {
    pub(super) fn new(port: PublicPort, device: DeviceId) -> Self {
        Self {
            port,
            device,
            lost: CancellationToken::new(),
            handed_over: OnceLock::new(),
        }
    }

    /// The next process has the listener too from now on, if it has not had it before.
    pub(super) fn is_handed_over(&self) {
        self.handed_over.get_or_init(Instant::now);
    }

    /// Whether the next process takes in who is in the listener's queue when this one closes it: it keeps what no device has asked for
    /// no less than for this time.
    pub(crate) fn is_attended_to_elsewhere(&self) -> bool {
        let since = self.handed_over.get();
        since.is_some_and(|since| since.elapsed() < MOVE_TIME)
    }
}
