//! Which devices are present at this relay now. A device that is present is one whose tunnel can be reached; today that
//! means a connection is open, but readers must not rely on it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use dashmap::DashMap;
use directory::DeviceId;
use tokio::sync::watch;

/// What a tunnel runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// QUIC on the front's UDP port.
    Quic,
    /// TLS on the front's TCP port.
    Tls,
}

impl Transport {
    /// The word for logs, pages and metric labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tls => "tls",
        }
    }
}

/// How a present device is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Since when, without a gap.
    pub since: SystemTime,
    /// What the tunnel runs over.
    pub transport: Transport,
    /// The agent's address as the relay sees it.
    pub seen_as: SocketAddr,
    /// Program and version, as the agent says.
    pub software: String,
}

/// The reading end.
#[derive(Clone, Debug)]
pub struct Presence {
    attachment_by_device: Arc<DashMap<DeviceId, Attachment>>,
    changed: watch::Sender<u64>,
}

impl Presence {
    pub(crate) fn new() -> Self {
        Self {
            attachment_by_device: Arc::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// How `device` is attached; `None` if it is not present.
    pub fn of(&self, device: &DeviceId) -> Option<Attachment> {
        self.attachment_by_device
            .get(device)
            .map(|attachment| attachment.clone())
    }

    /// A number that changes whenever any device comes or goes. Changes in quick succession may be seen as one.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn attached(&self, device: DeviceId, attachment: Attachment) {
        self.attachment_by_device.insert(device, attachment);
        self.changed.send_modify(|version| *version += 1);
    }

    pub(crate) fn detached(&self, device: &DeviceId) {
        self.attachment_by_device.remove(device);
        self.changed.send_modify(|version| *version += 1);
    }
}
