//! Who is who: the names under the operator's zone, the devices that own them, and the secrets they show.
//!
//! Control writes these facts, relay and ddns read them from memory. Names and tokens are security decisions, so
//! there is one normaliser ([`Zone::locate`]) and one comparison ([`TokenHash::matches`]) for every part.
//!
//! ```text
//!   name ──► Device { registration, identity: { id, keys }, ddns_key, challenge_key }
//!   key  ──► the same Device
//! ```
//!
//! This crate knows no socket, no clock and no runtime.

#![forbid(unsafe_code)]

mod device;
mod name;
mod token;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use dashmap::DashMap;

pub use device::{Device, DeviceId, Duty, Identity, KeyError, PublicKey, RegistrationId};
pub use name::{DeviceName, NameError, OperatorName, Place, Zone, host_of};
pub use token::{CodeError, PairingCode, Token, TokenHash};

/// Makes an empty Directory for `zone`: the one end that writes and the end that reads.
pub fn directory(zone: Zone) -> (Writer, Reader) {
    let shared = Arc::new(Shared {
        zone,
        device_by_name: DashMap::new(),
        name_by_key: DashMap::new(),
        watchers: RwLock::new(Vec::new()),
    });
    (Writer(Arc::clone(&shared)), Reader(shared))
}

/// What has just become true of one device.
#[derive(Clone, Debug)]
pub enum Change {
    /// The device was added, or something about it is different now.
    Put {
        /// As it is now.
        device: Arc<Device>,
        /// What was known under its name before, if anything.
        before: Option<Arc<Device>>,
    },
    /// The device is gone, and so is every right it had.
    Removed(Arc<Device>),
}

/// The reading end: cheap to clone, never blocks on the writer for longer than one map slot.
#[derive(Clone, Debug)]
pub struct Reader(Arc<Shared>);

impl Reader {
    /// The zone whose names these are.
    pub fn zone(&self) -> &Zone {
        &self.0.zone
    }

    /// The device that holds `name` now.
    pub fn device_by_name(&self, name: &DeviceName) -> Option<Arc<Device>> {
        self.0
            .device_by_name
            .get(name)
            .map(|device| Arc::clone(&device))
    }

    /// The device for which `key` is valid now.
    pub fn device_by_key(&self, key: &PublicKey) -> Option<Arc<Device>> {
        let name = self.0.name_by_key.get(key).map(|name| name.clone())?;
        self.device_by_name(&name)
            .filter(|device| device.has_key(key))
    }

    /// Every device, by name. For lists that people read; not for the data path.
    pub fn devices(&self) -> Vec<Arc<Device>> {
        let mut devices: Vec<_> = self
            .0
            .device_by_name
            .iter()
            .map(|entry| Arc::clone(&entry))
            .collect();
        devices.sort_by(|a, b| a.name.cmp(&b.name));
        devices
    }

    /// Calls `watcher` after each change, on the writer's thread and before the writer's call returns: once a change
    /// is acknowledged it is in force everywhere. A watcher must therefore be quick and must not write.
    pub fn watch(&self, watcher: impl Fn(&Change) + Send + Sync + 'static) {
        self.0
            .watchers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Box::new(watcher));
    }
}

/// The writing end. There is one, so two changes never race.
#[derive(Debug)]
pub struct Writer(Arc<Shared>);

impl Writer {
    /// Adds `device`, or replaces what was known under its name.
    pub fn put(&mut self, device: Device) {
        let device = Arc::new(device);
        let before = self
            .0
            .device_by_name
            .insert(device.name.clone(), Arc::clone(&device));
        if let Some(before) = &before {
            self.forget_keys(before.keys().iter().filter(|key| !device.has_key(key)));
        }
        for key in device.keys() {
            self.0.name_by_key.insert(*key, device.name.clone());
        }
        self.tell(&Change::Put { device, before });
    }

    /// Removes the device under `name`; `None` if there was none.
    pub fn remove(&mut self, name: &DeviceName) -> Option<Arc<Device>> {
        let (_, device) = self.0.device_by_name.remove(name)?;
        self.forget_keys(device.keys().iter());
        self.tell(&Change::Removed(Arc::clone(&device)));
        Some(device)
    }

    fn forget_keys<'a>(&self, keys: impl Iterator<Item = &'a PublicKey>) {
        for key in keys {
            self.0.name_by_key.remove(key);
        }
    }

    fn tell(&self, change: &Change) {
        for watcher in self
            .0
            .watchers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            watcher(change);
        }
    }
}

type Watcher = Box<dyn Fn(&Change) + Send + Sync>;

struct Shared {
    zone: Zone,
    device_by_name: DashMap<DeviceName, Arc<Device>>,
    name_by_key: DashMap<PublicKey, DeviceName>,
    watchers: RwLock<Vec<Watcher>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory")
            .field("zone", &self.zone)
            .field("devices", &self.device_by_name.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn device(name: &str, registration: u64, key: Option<[u8; 32]>) -> Device {
        Device {
            registration: RegistrationId(registration),
            name: DeviceName::parse(name).unwrap(),
            identity: key.map(|key| Identity::first(PublicKey::from_bytes(key))),
            ddns_key: None,
            challenge_key: None,
        }
    }

    fn empty() -> (Writer, Reader) {
        directory(Zone::parse("nas.localhost").unwrap())
    }

    #[test]
    fn a_device_is_found_by_its_name_and_by_its_key() {
        let (mut writer, reader) = empty();
        writer.put(device("mynas", 1, Some([7; 32])));

        let name = DeviceName::parse("MyNAS").unwrap();
        assert_eq!(
            reader.device_by_name(&name).unwrap().registration,
            RegistrationId(1)
        );
        let key = PublicKey::from_bytes([7; 32]);
        assert_eq!(reader.device_by_key(&key).unwrap().name, name);
    }

    #[test]
    fn a_replaced_key_stops_working_at_once() {
        let (mut writer, reader) = empty();
        writer.put(device("mynas", 1, Some([7; 32])));
        writer.put(device("mynas", 1, Some([8; 32])));

        assert!(
            reader
                .device_by_key(&PublicKey::from_bytes([7; 32]))
                .is_none()
        );
        assert!(
            reader
                .device_by_key(&PublicKey::from_bytes([8; 32]))
                .is_some()
        );
    }

    #[test]
    fn a_removed_device_leaves_nothing_behind() {
        let (mut writer, reader) = empty();
        writer.put(device("mynas", 1, Some([7; 32])));

        assert!(
            writer
                .remove(&DeviceName::parse("mynas").unwrap())
                .is_some()
        );
        assert!(
            writer
                .remove(&DeviceName::parse("mynas").unwrap())
                .is_none()
        );
        assert!(
            reader
                .device_by_key(&PublicKey::from_bytes([7; 32]))
                .is_none()
        );
        assert!(reader.devices().is_empty());
    }

    #[test]
    fn watchers_hear_each_change_before_the_write_returns() {
        let (mut writer, reader) = empty();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&heard);
        reader.watch(move |change| {
            let line = match change {
                Change::Put { device, .. } => format!("put {}", device.name),
                Change::Removed(device) => format!("removed {}", device.name),
            };
            log.lock().unwrap().push(line);
        });

        writer.put(device("b", 1, None));
        writer.put(device("a", 2, None));
        writer.remove(&DeviceName::parse("b").unwrap());

        assert_eq!(*heard.lock().unwrap(), ["put b", "put a", "removed b"]);
        assert_eq!(
            reader
                .devices()
                .iter()
                .map(|d| d.name.as_str())
                .collect::<Vec<_>>(),
            ["a"]
        );
    }
}
