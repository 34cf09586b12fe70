//! Every name there is, compiled. Queries read it while updates change it in place, one name at a time.
//!
//! ```text
//!  below the apex:  ""                    ──► the zone's own records ([`Contents`])
//!                   "www", "cloud", …     ──► the same
//!                   "mynas"               ──► a device
//!                   "photos.mynas", …     ──► the same device: its wildcard has no other records
//! ```
//!
//! A device and a record of the operator's never meet: no record is accepted where a device can be.
//!
//! ```text
//!  devices.rs  every device, by its label
//!  slots.rs    where each has its place
//!  slot.rs     the place, read while it is written
//! ```

mod devices;
mod slot;
mod slots;

use std::sync::atomic::{AtomicU32, Ordering};

use directory::{DeviceName, RegistrationId};

use self::devices::Devices;
use self::slot::Device;
use crate::addresses::Addresses;
use crate::protocol::Type;
use crate::rrset::{AddressRecord, Records, Soa};
use crate::zone::{Contents, Node};

/// The names and their records.
#[derive(Debug)]
pub struct Table {
    contents: Contents,
    devices: Devices,
    serial: AtomicU32,
}

/// What the table has for a name and a type.
#[derive(Clone, Copy, Debug)]
pub enum Found<'t> {
    /// These.
    Records(Records<'t>),
    /// The zone's SOA.
    Soa,
    /// The name, without such a record.
    NoData,
    /// No such name.
    NoName,
}

// Reading, for answers.
impl Table {
    /// The part of the wire name `name` (lower case, closing zero included) that stands before the zone's name, empty
    /// for the zone itself; `None` outside the zone.
    pub fn below_apex<'n>(&self, name: &'n [u8]) -> Option<&'n [u8]> {
        let mut rest = name;
        while rest.len() > self.contents.apex.len() {
            let (&length, behind) = rest.split_first()?;
            rest = behind.get(usize::from(length)..)?;
        }
        if *rest != *self.contents.apex {
            return None;
        }
        name.strip_suffix(rest)
    }

    /// Looks up the name whose octets before the zone's name are `below`.
    pub fn find(&self, below: &[u8], qtype: Type) -> Found<'_> {
        if let Some(device) = self.devices.get(last_label(below)) {
            return self.find_at_device(device.addresses, qtype);
        }
        let Some(node) = self.contents.node_by_name.get(below) else {
            return Found::NoName;
        };
        if qtype == Type::SOA && below.is_empty() {
            return Found::Soa;
        }
        find_at_node(node, qtype)
    }

    /// The zone's SOA record as it is now.
    pub fn soa(&self) -> Soa<'_> {
        Soa {
            template: &self.contents.soa,
            serial: self.serial.load(Ordering::Relaxed),
            apex_len: self.contents.apex.len(),
        }
    }

    /// One own address is enough to lead past the relay: a family that the device does not have is then NODATA.
    fn find_at_device(&self, own: Addresses, qtype: Type) -> Found<'_> {
        if own.is_empty() {
            return find_at_node(&self.contents.relay, qtype);
        }
        AddressRecord::compile(own, qtype, self.contents.ttl).map_or(Found::NoData, |address| {
            Found::Records(Records::Address(address))
        })
    }
}

// Writing, and reading for those who write.
impl Table {
    /// A table without devices. `serial` is the SOA's until the first change.
    pub fn new(contents: Contents, serial: u32) -> Self {
        Self {
            contents,
            devices: Devices::new(),
            serial: AtomicU32::new(serial),
        }
    }

    /// Puts a device there, in place of whatever held its name.
    pub fn put(&self, name: &DeviceName, registration: RegistrationId, addresses: Addresses) {
        self.devices.change(label(name), |_| {
            Some(Device {
                registration,
                addresses,
            })
        });
    }

    /// Takes the name away. Says whether it was there.
    pub fn remove(&self, name: &DeviceName) -> bool {
        self.devices.change(label(name), |_| None).is_some()
    }

    /// Replaces the own addresses of a device, if this registration still holds the name. Says whether it does.
    pub fn set_addresses(
        &self,
        name: &DeviceName,
        registration: RegistrationId,
        addresses: Addresses,
    ) -> bool {
        let before = self.devices.change(label(name), |before| {
            let mut device = before?;
            if device.registration == registration {
                device.addresses = addresses;
            }
            Some(device)
        });
        before.is_some_and(|before| before.registration == registration)
    }

    /// The own addresses of a device; `None` if this registration does not hold the name.
    pub fn addresses(&self, name: &DeviceName, registration: RegistrationId) -> Option<Addresses> {
        let device = self.devices.get(label(name))?;
        (device.registration == registration).then_some(device.addresses)
    }

    /// Who holds the name.
    pub fn registration(&self, name: &DeviceName) -> Option<RegistrationId> {
        Some(self.devices.get(label(name))?.registration)
    }

    /// Every device that has own addresses, in no order.
    pub fn with_addresses(&self) -> impl Iterator<Item = (RegistrationId, Addresses)> {
        self.devices
            .iter()
            .filter(|device| !device.addresses.is_empty())
            .map(|device| (device.registration, device.addresses))
    }

    /// How many devices there are.
    pub fn devices(&self) -> usize {
        self.devices.len()
    }

    /// How many of them have own addresses.
    pub fn devices_with_addresses(&self) -> usize {
        self.devices.with_addresses()
    }

    /// Tells that the zone has changed: its serial becomes `second`, or the next one if it is there or further already.
    pub fn changed(&self, second: u32) {
        let next = |serial: u32| {
            // RFC 1982 section 3.2: half of all numbers are ahead.
            let is_ahead = (1..=u32::MAX / 2).contains(&second.wrapping_sub(serial));
            if is_ahead {
                second
            } else {
                serial.wrapping_add(1)
            }
        };
        self.serial
            .update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

fn find_at_node(node: &Node, qtype: Type) -> Found<'_> {
    node.find(qtype)
        .map_or(Found::NoData, |set| Found::Records(Records::Fixed(set)))
}

fn label(name: &DeviceName) -> &[u8] {
    name.as_str().as_bytes()
}

/// The last label of `below`: the one right under the zone. Empty for the zone itself.
fn last_label(below: &[u8]) -> &[u8] {
    let mut rest = below;
    loop {
        let Some((label, behind)) = rest
            .split_first()
            .and_then(|(&length, behind)| behind.split_at_checked(length.into()))
        else {
            return &[];
        };
        if behind.is_empty() {
            return label;
        }
        rest = behind;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::Ipv4Addr;

    use directory::Zone;

    use super::*;
    use crate::config::Config;
    use crate::zone::octets;

    /// `nas.test` with a relay at 192.0.2.250 and 2001:db8::250, a device `home` at 192.0.2.7 and one `away` without
    /// own addresses.
    pub(crate) fn with_devices() -> Table {
        let zone = Zone::parse("nas.test").unwrap();
        let relay = [
            "192.0.2.250".parse().unwrap(),
            "2001:db8::250".parse().unwrap(),
        ];
        let contents = Contents::new(&zone, &Config::default(), &relay, &[]).unwrap();
        let table = Table::new(contents, 1);
        table.put(&name("home"), RegistrationId(1), v4(7));
        table.put(&name("away"), RegistrationId(2), Addresses::default());
        table
    }

    /// A name on the wire, lower case.
    pub(crate) fn wire(name: &str) -> Vec<u8> {
        let labels: Vec<_> = name.split('.').filter(|label| !label.is_empty()).collect();
        [&octets(&labels), &[0][..]].concat()
    }

    fn name(text: &str) -> DeviceName {
        DeviceName::parse(text).unwrap()
    }

    fn v4(last: u8) -> Addresses {
        Addresses {
            v4: Some(Ipv4Addr::new(192, 0, 2, last)),
            v6: None,
        }
    }

    #[test]
    fn a_name_is_in_the_zone_only_at_a_label_boundary() {
        let table = with_devices();
        assert_eq!(table.below_apex(&wire("nas.test")), Some(&b""[..]));
        assert_eq!(
            table.below_apex(&wire("a.b.nas.test")),
            Some(&b"\x01a\x01b"[..])
        );
        for outside in ["", "test", "xnas.test", "nas.test.x", "nas"] {
            assert_eq!(table.below_apex(&wire(outside)), None, "{outside}");
        }
        // One label that holds the octets of the zone's name is not below it.
        assert_eq!(table.below_apex(b"\x0Ax\x03nas\x04test\0"), None);
    }

    #[test]
    fn only_the_registration_that_holds_the_name_moves_it() {
        let table = with_devices();
        assert!(table.set_addresses(&name("home"), RegistrationId(1), v4(8)));
        assert!(!table.set_addresses(&name("home"), RegistrationId(9), v4(9)));
        assert!(!table.set_addresses(&name("nobody"), RegistrationId(1), v4(9)));
        assert_eq!(
            table.addresses(&name("home"), RegistrationId(1)),
            Some(v4(8))
        );
        assert_eq!(table.addresses(&name("home"), RegistrationId(9)), None);
    }

    #[test]
    fn a_name_given_to_another_registration_keeps_nothing() {
        let table = with_devices();
        table.put(&name("home"), RegistrationId(5), Addresses::default());
        assert_eq!(
            table.addresses(&name("home"), RegistrationId(5)),
            Some(Addresses::default())
        );
        assert_eq!(table.devices_with_addresses(), 0);
    }

    #[test]
    fn the_counts_follow() {
        let table = with_devices();
        assert_eq!((table.devices(), table.devices_with_addresses()), (2, 1));
        assert_eq!(
            table.with_addresses().collect::<Vec<_>>(),
            [(RegistrationId(1), v4(7))]
        );
        table.set_addresses(&name("away"), RegistrationId(2), v4(2));
        assert_eq!(table.devices_with_addresses(), 2);
        assert!(table.remove(&name("home")));
        assert!(!table.remove(&name("home")));
        assert_eq!((table.devices(), table.devices_with_addresses()), (1, 1));
    }

    #[test]
    fn every_change_moves_the_serial_on() {
        let table = with_devices();
        for (second, serial) in [(100, 100), (100, 101), (50, 102), (200, 200)] {
            table.changed(second);
            assert_eq!(table.soa().serial, serial);
        }
        // Past the largest number comes the smallest.
        for (second, serial) in [(1 << 31, 1 << 31), (u32::MAX, u32::MAX), (0, 0), (0, 1)] {
            table.changed(second);
            assert_eq!(table.soa().serial, serial);
        }
    }
}
