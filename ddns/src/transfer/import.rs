//! A master file (RFC 1035 section 5) → the addresses of devices. A file that this or another server has written brings devices back to
//! where they were; what follows from the configuration, or from where tunnels are, is passed over.
//!
//! ```text
//!  ZoneFile::read   the text → the devices that have addresses of their own in it
//!  Import::take     a part of them → updates, as if each device had asked for its own
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use directory::{DeviceName, Place, Reader, Zone};
use domain::base::Rtype;
use domain::base::iana::Class;
use domain::rdata::ZoneRecordData;
use domain::zonefile::inplace::{Entry, Zonefile};
use serde::{Deserialize, Serialize};

use crate::addresses::ChangeSet;
use crate::lan::is_of_lan;
use crate::own::Change;
use crate::update::{UpdateError, Updater};

/// So many addresses of a device are told, if a file has more: one more than a device can have, so that they are refused.
const MAX_ADDRESSES: usize = 3;

/// Devices of one [`Import::take`], at most.
pub const MAX_DEVICES: usize = 1000;

/// What a file says of a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneFile {
    /// Whose SOA is there.
    pub zone: Zone,
    /// The devices that have addresses of their own.
    pub devices: Vec<DeviceInFile>,
    /// How many devices lead to the file's relays, and so need nothing.
    pub led_to_relays: usize,
    /// Names below a device that have other addresses than it, which no name can have here.
    pub differing: Vec<String>,
    /// How many records are passed over, by their types.
    pub passed_over: BTreeMap<String, usize>,
}

/// A device that has addresses of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInFile {
    /// Its name.
    pub name: String,
    /// Of both families, as they stand there.
    pub addresses: Vec<IpAddr>,
}

/// Why nothing is taken of a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZoneFileError {
    /// A line is none of a master file.
    #[error("this is no master file of a zone: {0}")]
    Syntax(String),
    /// Another file belongs to it.
    #[error("$INCLUDE {0} is not followed: put that file's lines in its place")]
    Include(String),
    /// Nothing says which zone it is.
    #[error("there is no SOA record, which says of which zone the file is")]
    NoZone,
    /// Something says twice which zone it is.
    #[error("there are two SOA records, of {0} and of {1}: a file is of one zone")]
    TwoZones(String, String),
    /// The zone can be nobody's.
    #[error("the SOA record is of `{0}`, which can be no zone of devices")]
    BadZone(String),
}

impl ZoneFile {
    /// Reads a file whole.
    ///
    /// # Errors
    /// If a line cannot be read, or it is not clear of which zone it is.
    pub fn read(text: &[u8]) -> Result<Self, ZoneFileError> {
        let Records {
            apex,
            mut addresses,
            mut passed_over,
        } = Records::read(text)?;
        let apex = apex.ok_or(ZoneFileError::NoZone)?;
        let zone = Zone::parse(&apex).map_err(|_| ZoneFileError::BadZone(apex))?;
        // Where the relays of this file were, devices are not.
        let mut of_relays = BTreeSet::new();
        for (name, there) in &addresses {
            if let Place::Operator(_) | Place::Relay(_) = zone.locate(name) {
                of_relays.extend(there.iter().copied());
            }
        }
        let mut devices = BTreeMap::new();
        addresses.retain(|name, there| match device_itself(&zone, name) {
            Some(device) => {
                devices.insert(device, std::mem::take(there));
                false
            }
            None => true,
        });
        let mut differing = Vec::new();
        for (name, there) in addresses {
            let device = match zone.locate(name.strip_prefix("*.").unwrap_or(&name)) {
                Place::Device(device) => devices.get(&device),
                Place::Apex
                | Place::Operator(_)
                | Place::Relay(_)
                | Place::Nobody
                | Place::Outside => None,
            };
            match device {
                Some(of_device) if *of_device == there => {}
                Some(_) if !is_at_home(&zone, &name, &there) => differing.push(name),
                // A device says itself where it is at home.
                Some(_) | None => {
                    for address in there {
                        *passed_over.entry(rtype(address)).or_default() += 1;
                    }
                }
            }
        }
        let in_file = devices.len();
        devices.retain(|_, addresses| !addresses.is_subset(&of_relays));
        let led_to_relays = in_file - devices.len();
        let devices = devices.into_iter().map(|(name, addresses)| DeviceInFile {
            name: name.to_string(),
            addresses: addresses.into_iter().take(MAX_ADDRESSES).collect(),
        });
        Ok(Self {
            zone,
            devices: devices.collect(),
            led_to_relays,
            differing,
            passed_over,
        })
    }
}

/// The device whose own name this is.
fn device_itself(zone: &Zone, name: &str) -> Option<DeviceName> {
    match zone.locate(name) {
        Place::Device(device) if zone.name_of(&device) == name && !device.is_reserved() => {
            Some(device)
        }
        Place::Device(_)
        | Place::Apex
        | Place::Operator(_)
        | Place::Relay(_)
        | Place::Nobody
        | Place::Outside => None,
    }
}

/// Whether that is what stands at `lan` of a device.
fn is_at_home(zone: &Zone, name: &str, there: &BTreeSet<IpAddr>) -> bool {
    let device = name.strip_prefix("lan.");
    let device = device.and_then(|name| device_itself(zone, name));
    device.is_some() && there.iter().copied().all(is_of_lan)
}

fn rtype(address: IpAddr) -> String {
    match address {
        IpAddr::V4(_) => Rtype::A.to_string(),
        IpAddr::V6(_) => Rtype::AAAA.to_string(),
    }
}

/// A file's records, as far as they matter.
#[derive(Default)]
struct Records {
    /// Whose SOA is there.
    apex: Option<String>,
    /// By the name that has them, in lower case and without a dot behind it.
    addresses: BTreeMap<String, BTreeSet<IpAddr>>,
    passed_over: BTreeMap<String, usize>,
}

impl Records {
    fn read(text: &[u8]) -> Result<Self, ZoneFileError> {
        let mut file = Zonefile::with_capacity(text.len() + 1);
        file.extend_from_slice(text);
        file.extend_from_slice(b"\n"); // the last line may have no end
        file.set_default_class(Class::IN);
        let mut records = Self::default();
        let next = |file: &mut Zonefile| {
            let entry = file.next_entry();
            entry.map_err(|error| ZoneFileError::Syntax(error.to_string()))
        };
        while let Some(entry) = next(&mut file)? {
            let record = match entry {
                Entry::Record(record) => record,
                Entry::Include { path, .. } => {
                    return Err(ZoneFileError::Include(path.to_string()));
                }
            };
            let name = record.owner().to_string().to_ascii_lowercase();
            let address = if let ZoneRecordData::A(a) = record.data() {
                IpAddr::V4(a.addr())
            } else if let ZoneRecordData::Aaaa(aaaa) = record.data() {
                IpAddr::V6(aaaa.addr())
            } else {
                if record.rtype() == Rtype::SOA {
                    records.is_of(&name)?;
                }
                let rtype = record.rtype().to_string();
                *records.passed_over.entry(rtype).or_default() += 1;
                continue;
            };
            records.addresses.entry(name).or_default().insert(address);
        }
        Ok(records)
    }

    /// A transfer printed by dig has its SOA twice.
    fn is_of(&mut self, apex: &str) -> Result<(), ZoneFileError> {
        match &self.apex {
            Some(before) if before != apex => {
                Err(ZoneFileError::TwoZones(before.clone(), apex.to_owned()))
            }
            Some(_) | None => {
                self.apex = Some(apex.to_owned());
                Ok(())
            }
        }
    }
}

/// Takes what files say of devices. A clone takes the same.
#[derive(Clone, Debug)]
pub struct Import {
    directory: Reader,
    updater: Updater,
}

/// What was done for a part of a file, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Devices that have other addresses than before.
    pub set: usize,
    /// Devices that had these before.
    pub same: usize,
    /// Names that are no device's here.
    pub unknown: Vec<String>,
    /// Devices whose addresses are not taken, and why.
    pub refused: Vec<(String, String)>,
}

impl Import {
    /// `updater` is the one for the operator's door.
    pub(crate) fn new(directory: Reader, updater: Updater) -> Self {
        Self { directory, updater }
    }

    /// The zone whose devices these are.
    pub fn zone(&self) -> &Zone {
        self.directory.zone()
    }

    /// Gives devices their addresses, [`MAX_DEVICES`] at most and all at once; a family that a device has none of in the file stays as
    /// it is. With `is_trial` nothing is changed, and what is said is what would be. It can be done again: who has its address already
    /// is left alone.
    pub async fn take(&self, devices: &[DeviceInFile], is_trial: bool) -> Taken {
        let mut taken = Taken::default();
        let mut begun = Vec::new();
        for device in devices.iter().take(MAX_DEVICES) {
            let name = DeviceName::parse(&device.name).ok();
            let known = name.and_then(|name| {
                let registration = self.directory.registration_by_name(&name)?;
                Some((name, registration))
            });
            let Some((name, registration)) = known else {
                taken.unknown.push(device.name.clone());
                continue;
            };
            let change = match change(&device.addresses) {
                Ok(change) => change,
                Err(why) => {
                    taken.refused.push((device.name.clone(), why.to_owned()));
                    continue;
                }
            };
            if is_trial {
                let changes = self.updater.would_change(registration, &name, &change);
                taken.count(device, changes);
            } else {
                begun.push((device, self.updater.begin(registration, &name, change)));
            }
        }
        for (device, begun) in begun {
            let outcome = begun.outcome().await;
            taken.count(device, outcome.map(|outcome| outcome.is_change()));
        }
        taken
    }
}

impl Taken {
    /// Adds what was done for another part.
    pub fn add(&mut self, other: Self) {
        self.set += other.set;
        self.same += other.same;
        self.unknown.extend(other.unknown);
        self.refused.extend(other.refused);
    }

    fn count(&mut self, device: &DeviceInFile, changes: Result<bool, UpdateError>) {
        match changes {
            Ok(true) => self.set += 1,
            Ok(false) => self.same += 1,
            Err(error) => {
                let why = (device.name.clone(), error.to_string());
                self.refused.push(why);
            }
        }
    }
}

fn change(addresses: &[IpAddr]) -> Result<Change, &'static str> {
    let is_v4 = |address: &&IpAddr| address.is_ipv4();
    let v4 = addresses.iter().filter(is_v4).count();
    if v4 > 1 || addresses.len() - v4 > 1 {
        return Err("it has several addresses of one family, and a device has one");
    }
    let mut changes = ChangeSet::default();
    for address in addresses {
        let set = changes.set(*address);
        changes = set.map_err(|_| "nobody can be reached at its address")?;
    }
    Ok(changes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(file: &ZoneFile) -> Vec<String> {
        let shown = file.devices.iter().map(|device| {
            let addresses: Vec<_> = device.addresses.iter().map(IpAddr::to_string).collect();
            format!("{} {}", device.name, addresses.join(" "))
        });
        shown.collect()
    }

    #[test]
    fn devices_with_addresses_of_their_own_are_read_and_the_rest_is_counted() {
        let text = "$ORIGIN nas.test.\n$TTL 60\n\
            @ IN SOA ns1 hostmaster 1 2 3 4 5\n\
            @ NS ns1\nns1 A 192.0.2.53\nwww A 192.0.2.80\n\
            relay A 192.0.2.250\neu1.relay AAAA 2001:db8::e1\n\
            Home A 192.0.2.7\n*.home A 192.0.2.7\nphotos.home A 192.0.2.7\n\
            _acme-challenge.home TXT \"proof\"\n\
            lan.home A 192.168.1.7\nlan.both A 203.0.113.9\nx.lan.home A 192.168.1.7\n\
            both 5 IN AAAA 2001:db8::9\nboth.nas.test. A 192.0.2.9\nother.both A 192.0.2.10\n\
            away A 192.0.2.250\n*.away A 192.0.2.250\nfar AAAA 2001:db8::e1\n\
            two A 192.0.2.1\ntwo A 192.0.2.2\nelsewhere.example. A 192.0.2.3";
        let file = ZoneFile::read(text.as_bytes()).unwrap();
        assert_eq!(file.zone.to_string(), "nas.test");
        assert_eq!(
            devices(&file),
            [
                "both 192.0.2.9 2001:db8::9",
                "home 192.0.2.7",
                "two 192.0.2.1 192.0.2.2"
            ]
        );
        assert_eq!(file.led_to_relays, 2);
        let differing = [
            "lan.both.nas.test",
            "other.both.nas.test",
            "x.lan.home.nas.test",
        ];
        assert_eq!(file.differing, differing);
        let others: Vec<_> = file.passed_over.iter().collect();
        let others: Vec<_> = others
            .iter()
            .map(|(rtype, n)| format!("{rtype} {n}"))
            .collect();
        assert_eq!(others, ["A 5", "AAAA 1", "NS 1", "SOA 1", "TXT 1"]);
        assert!(change(&file.devices[2].addresses).is_err());
    }

    #[test]
    fn what_is_no_file_of_one_zone_is_refused_in_words() {
        let soa = "nas.test. 60 IN SOA a. b. 1 2 3 4 5\n";
        for (text, words) in [
            ("", "no SOA record"),
            ("nas.test. 60 IN A 192.0.2.1\n", "no SOA record"),
            (
                &format!("{soa}home.nas.test. 60 IN A 192.0.2.300\n"),
                "no master file",
            ),
            (&format!("{soa}home A 192.0.2.3\n"), "no master file"),
            (&format!("{soa}$INCLUDE more.zone\n"), "$INCLUDE more.zone"),
            (
                &format!("{soa}other.test. 60 IN SOA a. b. 1 2 3 4 5\n"),
                "two SOA records",
            ),
            (". 60 IN SOA a. b. 1 2 3 4 5\n", "can be no zone"),
            ("\u{0}\u{1}(\"", "no master file"),
        ] {
            let refused = ZoneFile::read(text.as_bytes()).unwrap_err().to_string();
            assert!(refused.contains(words), "{text}: {refused}");
        }
        let twice = ZoneFile::read(format!("{soa}{soa}").as_bytes());
        assert!(twice.is_ok());
    }
}
