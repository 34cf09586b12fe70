//! Which devices are present at this relay now. A device that is present is one whose tunnel can be reached; today that
//! means a connection is open, but readers must not rely on it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use dashmap::DashMap;
use directory::{DeviceId, DeviceName};
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
    /// The device's name when it came.
    pub name: DeviceName,
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
#[derive(Clone)]
pub struct Presence {
    attachment_by_device: Arc<DashMap<DeviceId, Attachment>>,
    changed: watch::Sender<u64>,
    watchers: Arc<RwLock<Vec<Watcher>>>,
}

type Watcher = Box<dyn Fn(&DeviceId, Option<&Attachment>) + Send + Sync>;

impl Presence {
    pub(crate) fn new() -> Self {
        Self {
            attachment_by_device: Arc::default(),
            changed: watch::Sender::new(0),
            watchers: Arc::default(),
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

    /// Calls `watcher` whenever a device has come, in whatever way, or has gone, on the thread that noticed: it must be quick.
    pub fn watch(&self, watcher: impl Fn(&DeviceId, Option<&Attachment>) + Send + Sync + 'static) {
        let watchers = self.watchers.write();
        let mut watchers = watchers.unwrap_or_else(PoisonError::into_inner);
        watchers.push(Box::new(watcher));
    }

    /// Calls `f` for every device that is present, in no order. `f` must be quick and must not ask this presence.
    pub fn for_each(&self, mut f: impl FnMut(&DeviceId, &Attachment)) {
        for entry in self.attachment_by_device.iter() {
            f(entry.key(), entry.value());
        }
    }

    pub(crate) fn attached(&self, device: DeviceId, attachment: Attachment) {
        self.attachment_by_device.insert(device, attachment.clone());
        self.tell(&device, Some(&attachment));
    }

    pub(crate) fn detached(&self, device: &DeviceId) {
        self.attachment_by_device.remove(device);
        self.tell(device, None);
    }

    fn tell(&self, device: &DeviceId, attachment: Option<&Attachment>) {
        self.changed.send_modify(|version| *version += 1);
        let watchers = self.watchers.read();
        let watchers = watchers.unwrap_or_else(PoisonError::into_inner);
        watchers
            .iter()
            .for_each(|watcher| watcher(device, attachment));
    }
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presence")
            .field("devices", &self.attachment_by_device.len())
            .finish_non_exhaustive()
    }
}
