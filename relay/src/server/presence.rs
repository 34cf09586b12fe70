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

/// A device that is present.
struct Present {
    attachment: Attachment,
    /// Its tunnel is at the process before this one, to which its visitors are handed.
    is_before: bool,
}

type Watcher = Box<dyn Fn(&DeviceId) + Send + Sync>;

/// The reading end.
#[derive(Clone)]
pub struct Presence {
    present_by_device: Arc<DashMap<DeviceId, Present>>,
    changed: watch::Sender<u64>,
    watchers: Arc<RwLock<Vec<Watcher>>>,
}

impl Presence {
    pub(crate) fn new() -> Self {
        Self {
            present_by_device: Arc::default(),
            changed: watch::Sender::new(0),
            watchers: Arc::default(),
        }
    }

    /// Every device that is present, in no order. Who comes or goes meanwhile may be among them or not.
    pub fn all(&self) -> Vec<DeviceId> {
        self.present_by_device
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
        self.present_by_device
            .get(device)
            .map(|present| present.attachment.clone())
    }

    /// A number that changes whenever any device comes or goes. Changes in quick succession may be seen as one.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn attached(&self, device: DeviceId, attachment: Attachment) {
        self.put(device, attachment, false);
    }

    /// Its tunnel is at the process before this one. It stays present until it has been here and gone, or until
    /// [`forget_before`](Self::forget_before).
    pub(crate) fn attached_before(&self, device: DeviceId, attachment: Attachment) {
        self.put(device, attachment, true);
    }

    fn put(&self, device: DeviceId, attachment: Attachment, is_before: bool) {
        let present = Present {
            attachment,
            is_before,
        };
        self.present_by_device.insert(device, present);
        self.tell(&device);
    }

    pub(crate) fn detached(&self, device: &DeviceId) {
        self.present_by_device.remove(device);
        self.tell(device);
    }

    /// The process before this one holds nobody any more.
    pub(crate) fn forget_before(&self) {
        let before = self.present_by_device.iter();
        let before: Vec<_> = before
            .filter(|present| present.is_before)
            .map(|present| *present.key())
            .collect();
        for device in before {
            let gone = self
                .present_by_device
                .remove_if(&device, |_, present| present.is_before);
            if gone.is_some() {
                self.tell(&device);
            }
        }
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
            .field("devices", &self.present_by_device.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::UNIX_EPOCH;

    use super::*;

    fn attachment() -> Attachment {
        Attachment {
            name: DeviceName::parse("mynas").unwrap(),
            since: UNIX_EPOCH,
            transport: Transport::Quic,
            seen_as: ([192, 0, 2, 7], 4711).into(),
            software: "test".to_owned(),
        }
    }

    #[test]
    fn who_is_with_the_process_before_is_present_until_it_holds_nobody() {
        let presence = Presence::new();
        let id = |octet| DeviceId::from_bytes([octet; 16]);
        for octet in 1..4 {
            presence.attached_before(id(octet), attachment());
        }
        presence.attached(id(1), attachment());
        presence.attached(id(2), attachment());
        presence.detached(&id(2));
        assert!(presence.of(&id(2)).is_none());
        assert!(presence.of(&id(3)).is_some());
        let gone = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&gone);
        presence.watch(move |device| log.lock().unwrap().push(*device));
        presence.forget_before();
        assert_eq!(*gone.lock().unwrap(), [id(3)]);
        assert_eq!(presence.all(), [id(1)]);
    }

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
        presence.attached(id(1), attachment());
        presence.attached(id(2), attachment());
        presence.detached(&id(1));
        let told = [(id(1), true), (id(2), true), (id(1), false)];
        assert_eq!(*heard.lock().unwrap(), told);
        assert_eq!(presence.all(), [id(2)]);
    }
}
