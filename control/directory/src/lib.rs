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
mod giving;
mod keys;
mod limits;
mod name;
mod ports;
mod table;
mod token;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

pub use device::{Device, DeviceId, Duty, Identity, KeyError, PublicKey, RegistrationId};
pub use giving::{NameFacts, REST, Skeleton, Withheld, may_be_given};
use keys::Keys;
pub use limits::DeviceLimits;
pub use name::{DeviceName, NameError, OperatorName, Place, RelayName, Zone, host_of, read_label};
use ports::Ports;
pub use ports::{PortError, Protocol, PublicPort};
use table::Table;
pub use token::{CodeError, PairingCode, Token, TokenHash};

/// Makes an empty Directory for `zone`: the one end that writes and the end that reads.
pub fn directory(zone: Zone) -> (Writer, Reader) {
    let shared = Arc::new(Shared {
        zone,
        table: Table::new(),
        keys: Keys::new(),
        limits: RwLock::default(),
        ports: RwLock::default(),
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
        device: Device,
        /// What was known under its name before, if anything.
        before: Option<Device>,
    },
    /// The device is gone, and so is every right it had.
    Removed(Device),
    /// The device may have something else at most than before.
    Limited {
        /// Which.
        device: Device,
        /// What.
        limits: DeviceLimits,
    },
    /// The device has other ports than before.
    Ports(Device),
}

impl Change {
    /// Which device it is about: as it is now, or as it was before it was removed.
    pub fn device(&self) -> &Device {
        match self {
            Self::Put { device, .. }
            | Self::Removed(device)
            | Self::Limited { device, .. }
            | Self::Ports(device) => device,
        }
    }
}

/// The reading end: cheap to clone, waits for the writer no longer than it takes to change or to grow one shard.
#[derive(Clone, Debug)]
pub struct Reader(Arc<Shared>);

impl Reader {
    /// The zone whose names these are.
    pub fn zone(&self) -> &Zone {
        &self.0.zone
    }

    /// The device that holds `name` now.
    pub fn device_by_name(&self, name: &DeviceName) -> Option<Device> {
        self.0.table.device(name)
    }

    /// Which registration holds `name` now. The same as of [`Self::device_by_name`], without making the device.
    pub fn registration_by_name(&self, name: &DeviceName) -> Option<RegistrationId> {
        self.0.table.registration(name)
    }

    /// The device for which `key` is valid now.
    pub fn device_by_key(&self, key: &PublicKey) -> Option<Device> {
        let has_key = |device: &Device| device.has_key(key);
        self.0
            .keys
            .find(key, |name| self.0.table.device_by_hash(name, has_key))
    }

    /// What the device of `name` may have at most, where that is not what all may.
    pub fn limits(&self, name: &DeviceName) -> DeviceLimits {
        let limits = self.0.limits.read();
        let limits = limits.unwrap_or_else(PoisonError::into_inner);
        limits.get(name).copied().unwrap_or_default()
    }

    /// The ports of the relays that are the device's of `name`.
    pub fn ports(&self, name: &DeviceName) -> BTreeSet<PublicPort> {
        let ports = self.0.ports.read();
        ports.unwrap_or_else(PoisonError::into_inner).of(name)
    }

    /// Whose a port of the relays is.
    pub fn port_holder(&self, port: PublicPort) -> Option<DeviceName> {
        let ports = self.0.ports.read();
        let ports = ports.unwrap_or_else(PoisonError::into_inner);
        ports.holder(port).cloned()
    }

    /// Every device, by name. For lists that people read; not for the data path.
    pub fn devices(&self) -> Vec<Device> {
        let mut devices = Vec::new();
        self.for_each(|device| devices.push(device));
        devices.sort_by(|a, b| a.name.cmp(&b.name));
        devices
    }

    /// How many devices there are.
    pub fn len(&self) -> usize {
        self.0.table.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `f` for every device, in no order. One that is put or removed meanwhile may be seen or not; no lock is held
    /// while `f` runs.
    pub fn for_each(&self, f: impl FnMut(Device)) {
        self.0.table.for_each(f);
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
        let before = self.0.table.put(&device);
        let name = self.0.table.hash(&device.name);
        for key in before.iter().flat_map(Device::keys) {
            if !device.has_key(key) {
                self.0.keys.remove(key, name);
            }
        }
        for key in device.keys() {
            self.0.keys.insert(key, name);
        }
        self.tell(&Change::Put { device, before });
    }

    /// From now on the device under `name` may have so much at most; `false` if there is none.
    pub fn limit(&mut self, name: &DeviceName, limits: DeviceLimits) -> bool {
        let Some(device) = self.0.table.device(name) else {
            return false;
        };
        self.keep_limits(name, limits);
        self.tell(&Change::Limited { device, limits });
        true
    }

    fn keep_limits(&self, name: &DeviceName, limits: DeviceLimits) {
        let kept = self.0.limits.write();
        let mut kept = kept.unwrap_or_else(PoisonError::into_inner);
        match limits == DeviceLimits::default() {
            true => drop(kept.remove(name)),
            false => drop(kept.insert(name.clone(), limits)),
        }
    }

    /// From now on the device under `name` has these ports of the relays and no others, and nobody else has them; `false` if there is none.
    pub fn set_ports(&mut self, name: &DeviceName, ports: BTreeSet<PublicPort>) -> bool {
        let Some(device) = self.0.table.device(name) else {
            return false;
        };
        // First those who lose them: whoever listens there for one begins to leave before the next may come. Until it has left, the next
        // tries again.
        let others = self.keep_ports(name, ports);
        for other in others.iter().filter_map(|other| self.0.table.device(other)) {
            self.tell(&Change::Ports(other));
        }
        self.tell(&Change::Ports(device));
        true
    }

    fn keep_ports(&self, name: &DeviceName, ports: BTreeSet<PublicPort>) -> BTreeSet<DeviceName> {
        let kept = self.0.ports.write();
        kept.unwrap_or_else(PoisonError::into_inner)
            .set(name, ports)
    }

    /// Removes the device under `name`, its limits and its ports; `None` if there was none.
    pub fn remove(&mut self, name: &DeviceName) -> Option<Device> {
        let device = self.0.table.remove(name)?;
        self.keep_limits(name, DeviceLimits::default());
        self.keep_ports(name, BTreeSet::new());
        for key in device.keys() {
            self.0.keys.remove(key, self.0.table.hash(name));
        }
        let change = Change::Removed(device.clone());
        self.tell(&change);
        Some(device)
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
    table: Table,
    keys: Keys,
    /// Of those who have any of their own, which are few.
    limits: RwLock<HashMap<DeviceName, DeviceLimits>>,
    ports: RwLock<Ports>,
    watchers: RwLock<Vec<Watcher>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory")
            .field("zone", &self.zone)
            .field("devices", &self.table.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use proptest::prelude::*;

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
    fn limits_are_told_and_are_gone_with_their_device() {
        let (mut writer, reader) = empty();
        let name = DeviceName::parse("mynas").unwrap();
        let limits = DeviceLimits {
            visitors: std::num::NonZeroU32::new(7),
            ..DeviceLimits::default()
        };
        assert!(!writer.limit(&name, limits));
        writer.put(device("mynas", 1, Some([7; 32])));
        let heard = Arc::new(Mutex::new(None));
        let log = Arc::clone(&heard);
        reader.watch(move |change| {
            if let Change::Limited { device, limits } = change {
                *log.lock().unwrap() = Some((device.name.clone(), *limits));
            }
        });
        assert!(writer.limit(&name, limits));
        assert_eq!(heard.lock().unwrap().take(), Some((name.clone(), limits)));
        assert_eq!(reader.limits(&name), limits);
        writer.put(device("mynas", 1, Some([8; 32])));
        assert_eq!(reader.limits(&name), limits);
        writer.remove(&name).unwrap();
        assert_eq!(reader.limits(&name), DeviceLimits::default());
        assert!(reader.0.limits.read().unwrap().is_empty());
    }

    #[test]
    fn a_port_has_one_device_and_whoever_loses_it_hears_that() {
        let (mut writer, reader) = empty();
        let [a, b] = ["a", "b"].map(|name| DeviceName::parse(name).unwrap());
        let port: PublicPort = "20022/tcp".parse().unwrap();
        assert!(!writer.set_ports(&a, [port].into()));
        writer.put(device("a", 1, None));
        writer.put(device("b", 2, None));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&heard);
        let here = reader.clone();
        reader.watch(move |change| {
            if let Change::Ports(device) = change {
                let has = here.ports(&device.name).len();
                log.lock().unwrap().push((device.name.to_string(), has));
            }
        });
        assert!(writer.set_ports(&a, [port].into()));
        assert!(writer.set_ports(&b, [port].into()));
        assert_eq!(reader.port_holder(port), Some(b.clone()));
        let told = [("a", 1), ("a", 0), ("b", 1)].map(|(name, has)| (name.to_owned(), has));
        assert_eq!(*heard.lock().unwrap(), told);
        writer.remove(&b).unwrap();
        assert_eq!(reader.port_holder(port), None);
        writer.put(device("b", 3, None));
        assert!(reader.ports(&b).is_empty(), "that was another registration");
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
                Change::Limited { device, .. } => format!("limited {}", device.name),
                Change::Ports(device) => format!("ports of {}", device.name),
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

    #[test]
    fn a_device_is_there_all_the_time_while_it_changes() {
        let (mut writer, reader) = empty();
        writer.put(device("mynas", 1, None));
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..20_000 {
                    writer.put(device("mynas", 1, (round % 2 == 0).then_some([7; 32])));
                }
                done.store(true, Ordering::Release);
            });
            let name = DeviceName::parse("mynas").unwrap();
            while !done.load(Ordering::Acquire) {
                assert!(reader.device_by_name(&name).is_some());
            }
        });
    }

    #[test]
    fn devices_may_be_looked_up_and_changed_while_all_are_visited() {
        let (mut writer, reader) = empty();
        for number in 0..2_000 {
            writer.put(device(&format!("nas-{number}"), number, None));
        }
        let mut seen = 0;
        reader.for_each(|device| {
            assert_eq!(
                reader.registration_by_name(&device.name),
                Some(device.registration)
            );
            writer.remove(&device.name);
            seen += 1;
        });
        assert_eq!(seen, 2_000);
        assert!(reader.devices().is_empty());
    }

    /// Few names and few keys, so that they meet; names of several lengths, and every shape that a record has.
    fn any_device() -> impl Strategy<Value = Device> {
        let name = prop_oneof!["[ab]", "[ab]{8}", "[ab]{2}x{30}", "[a-d]{1,2}"];
        let registration = prop_oneof![1..5u64, u64::from(u32::MAX)..u64::from(u32::MAX) + 2];
        let keys = prop::collection::vec(0..4u8, 0..3);
        let identity = prop::option::of((0..4u8, keys));
        let secret = || prop::option::of("[a-c]");
        (registration, name, identity, secret(), secret()).prop_map(
            |(registration, name, identity, addresses, challenges)| Device {
                registration: RegistrationId(registration),
                name: DeviceName::parse(&name).unwrap(),
                identity: identity.map(|(id, keys)| Identity {
                    id: DeviceId::from_bytes([id; 16]),
                    keys: keys.into_iter().map(key).collect(),
                }),
                ddns_key: addresses.as_deref().map(TokenHash::of),
                challenge_key: challenges.as_deref().map(TokenHash::of),
            },
        )
    }

    fn key(octet: u8) -> PublicKey {
        PublicKey::from_bytes([octet; 32])
    }

    proptest! {
        #[test]
        fn it_says_what_a_plain_map_says(
            steps in prop::collection::vec((any_device(), prop::bool::weighted(0.7)), 0..200)
        ) {
            let (mut writer, reader) = empty();
            let heard = Arc::new(Mutex::new(None));
            let log = Arc::clone(&heard);
            reader.watch(move |change| *log.lock().unwrap() = Some(match change {
                Change::Put { device, before } => (Some(device.clone()), before.clone()),
                Change::Removed(device) => (None, Some(device.clone())),
                Change::Limited { .. } | Change::Ports(_) => panic!("nobody has limits or ports"),
            }));
            let mut model = BTreeMap::new();
            for (device, put) in steps {
                let name = device.name.clone();
                if put {
                    writer.put(device.clone());
                    let before = model.insert(name.clone(), device.clone());
                    prop_assert_eq!(heard.lock().unwrap().take(), Some((Some(device), before)));
                } else {
                    let removed = model.remove(&name);
                    prop_assert_eq!(&writer.remove(&name), &removed);
                    prop_assert_eq!(heard.lock().unwrap().take(), removed.map(|was| (None, Some(was))));
                }
                prop_assert_eq!(reader.device_by_name(&name), model.get(&name).cloned());
                let registration = model.get(&name).map(|device| device.registration);
                prop_assert_eq!(reader.registration_by_name(&name), registration);
                for key in (0..4).map(key) {
                    let mut holders = model.values().filter(|device| device.has_key(&key));
                    match reader.device_by_key(&key) {
                        Some(found) => prop_assert!(holders.any(|holder| *holder == found)),
                        None => prop_assert!(holders.next().is_none()),
                    }
                }
            }
            prop_assert_eq!(reader.devices(), model.into_values().collect::<Vec<_>>());
        }
    }
}
