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

type Watcher = Box<dyn Fn(&DeviceId) + Send + Sync>;

/// The reading end.
#[derive(Clone)]
pub struct Presence {
    attachment_by_device: Arc<DashMap<DeviceId, Attachment>>,
    changed: watch::Sender<u64>,
    watchers: Arc<RwLock<Vec<Watcher>>>,
}

impl Presence {
    pub(crate) fn new() -> Self {
        Self {
            attachment_by_device: Arc::default(),
            changed: watch::Sender::new(0),
            watchers: Arc::default(),
        }
    }

    /// Every device that is present, in no order. Who comes or goes meanwhile may be among them or not.
    pub fn all(&self) -> Vec<DeviceId> {
        self.attachment_by_device
            .iter()
            .map(|present| *present.key())
            .collect()
    }

    /// Calls `watcher` with each device that has just come, gone, or is attached otherwise: on the worker that has its tunnel, so it
    /// must be quick.
    pub fn watch(&self, watcher: impl Fn(&DeviceId) + Send + Sync + 'static) {
        self.watchers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Box::new(watcher));
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
        self.tell(&device);
    }

    pub(crate) fn detached(&self, device: &DeviceId) {
        self.attachment_by_device.remove(device);
        self.tell(device);
    }

    fn tell(&self, device: &DeviceId) {
        self.changed.send_modify(|version| *version += 1);
        let watchers = self.watchers.read();
        for watcher in watchers.unwrap_or_else(PoisonError::into_inner).iter() {
            watcher(device);
        }
    }
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presence")
            .field("devices", &self.attachment_by_device.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn who_comes_and_who_goes_is_told_once_it_is_so() {
        let presence = Presence::new();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (log, read) = (Arc::clone(&heard), presence.clone());
        presence.watch(move |device| {
            let is_present = read.of(device).is_some();
            log.lock().unwrap().push((*device, is_present));
        });
        let id = |octet| DeviceId::from_bytes([octet; 16]);
        let attachment = Attachment {
            name: DeviceName::parse("mynas").unwrap(),
            since: UNIX_EPOCH,
            transport: Transport::Quic,
            seen_as: ([192, 0, 2, 7], 4711).into(),
            software: "test".to_owned(),
        };
        presence.attached(id(1), attachment.clone());
        presence.attached(id(2), attachment);
        presence.detached(&id(1));
        let told = [(id(1), true), (id(2), true), (id(1), false)];
        assert_eq!(*heard.lock().unwrap(), told);
        assert_eq!(presence.all(), [id(2)]);
    }
}
