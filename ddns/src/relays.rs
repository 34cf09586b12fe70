//! The relays that have processes of their own: where they are, and which of them hold a device.
//!
//! ```text
//!  relays.rs    what control tells: Relays
//!  presence.rs  by which relays one device is held, in two octets: Presence
//!  known.rs     the relays and their records, compiled: Known
//! ```
//!
//! Nothing of this lasts: after a start, nobody is held, until control says so again.

mod known;
mod presence;

use std::net::IpAddr;
use std::sync::Arc;

use directory::{DeviceName, RelayName};

pub use self::known::RelayAddresses;
pub(crate) use self::known::{Known, compile};
pub(crate) use self::presence::Presence;
use crate::metrics::Metrics;
use crate::table::Table;

/// Relays with a process of their own, beside the server's: what an octet has numbers for.
pub const MAX_RELAYS: usize = u8::MAX as usize;
/// Addresses of one relay, of both families together.
pub const MAX_ADDRESSES: usize = 4;

/// Tells the server which relays there are, and which devices they hold.
#[derive(Clone, Debug)]
pub struct Relays {
    table: Arc<Table>,
    metrics: Arc<Metrics>,
}

impl Relays {
    pub(crate) fn new(table: Arc<Table>, metrics: Arc<Metrics>) -> Self {
        Self { table, metrics }
    }

    /// From now on these are the relays with a process of their own, with their public addresses: [`MAX_RELAYS`] at most, with
    /// [`MAX_ADDRESSES`] each. Those left out are gone: nobody is led there any more. When it returns, queries see it.
    ///
    /// # Errors
    /// The first relay that cannot be led to, and why; all is then as it was.
    pub fn set(&self, relays: &[(RelayName, Vec<IpAddr>)]) -> Result<(), RelaysError> {
        if self.table.set_relays(relays)? {
            self.table.changed(crate::unix_seconds());
        }
        self.metrics.relays(&self.table);
        Ok(())
    }

    /// `device` is held by these relays now, of which the first two count; the server's own relay is `None`. Held by none, it
    /// leads to that one too. Returns false if there is no such device, or if a relay is not known; who is known still counts.
    pub fn held(&self, device: &DeviceName, by: &[Option<RelayName>]) -> bool {
        // The zone's serial stays: where devices are held can change more often than once a second, and a serial that has
        // overtaken the clock would fall back at the next start.
        let is_known = self.table.hold(device, by);
        self.metrics.relays(&self.table);
        is_known
    }
}

/// Why relays cannot be led to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelaysError {
    /// More than [`MAX_RELAYS`].
    #[error("there can be {MAX_RELAYS} relays with a process of their own, and these are {0}")]
    TooMany(usize),
    /// Twice the same name.
    #[error("the relay `{0}` is there twice")]
    Twice(RelayName),
    /// No address at all.
    #[error("the relay `{0}` has no public address: give it one at least")]
    NoAddress(RelayName),
    /// More than [`MAX_ADDRESSES`].
    #[error("the relay `{0}` has more than {MAX_ADDRESSES} public addresses: give it fewer")]
    TooManyAddresses(RelayName),
    /// Unspecified, multicast or broadcast.
    #[error("nobody can be reached at {1}, the address of the relay `{0}`")]
    BadAddress(RelayName, IpAddr),
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::atomic::{AtomicBool, Ordering};

    use directory::{RegistrationId, Zone};
    use proptest::prelude::*;

    use super::*;
    use crate::config::Config;
    use crate::protocol::Type;
    use crate::table::{Found, Held};
    use crate::zone::{Contents, octets};

    /// The server's own relay is at 192.0.2.250 and 2001:db8::250.
    fn table() -> Table {
        let relay = ["192.0.2.250", "2001:db8::fa"].map(|text| text.parse().unwrap());
        let zone = Zone::parse("nas.test").unwrap();
        let config: Config = toml::from_str(
            r#"record = [
                { name = "fixed.relay", type = "A", value = "192.0.2.99" },
                { name = "noted.relay", type = "TXT", value = "hello" },
            ]"#,
        )
        .unwrap();
        Table::new(Contents::new(&zone, &config, &relay, &[]).unwrap(), 1)
    }

    fn relay(name: &str) -> RelayName {
        RelayName::parse(name).unwrap()
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn device(name: &str) -> DeviceName {
        DeviceName::parse(name).unwrap()
    }

    /// The last octets of the addresses at a name, in order; `None` without that name.
    fn found(table: &Table, labels: &[&str], qtype: Type) -> Option<Vec<u8>> {
        match table.find(&octets(labels), qtype) {
            Found::Records(records) => {
                let section = records.octets();
                let all = section.to_vec();
                assert_eq!(section.len(), all.len());
                let records: Vec<_> = all
                    .chunks(all.len() / usize::from(section.count()))
                    .collect();
                Some(
                    records
                        .iter()
                        .map(|record| record[record.len() - 1])
                        .collect(),
                )
            }
            Found::NoData => Some(Vec::new()),
            Found::NoName => None,
            Found::Soa => panic!("nobody asks for it"),
        }
    }

    #[test]
    fn a_relay_has_a_name_while_it_is_known() {
        let table = table();
        let a = |labels: &[&str]| found(&table, labels, Type::A);
        assert_eq!(a(&["eu1", "relay"]), None);
        let given = [
            (
                relay("eu1"),
                ips(&["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"]),
            ),
            (relay("fixed"), ips(&["192.0.2.3"])),
            (relay("noted"), ips(&["192.0.2.4"])),
        ];
        assert_eq!(table.set_relays(&given), Ok(true));
        assert_eq!(table.set_relays(&given), Ok(false));
        assert_eq!(a(&["eu1", "relay"]), Some(vec![1, 2]));
        for qtype in [Type::AAAA, Type::TXT] {
            assert_eq!(found(&table, &["eu1", "relay"], qtype), Some(vec![]));
        }
        for nobody in [
            &["x", "eu1", "relay"][..],
            &["eu2", "relay"],
            &["eu1"],
            &["eu1", "cloud"],
        ] {
            assert_eq!(a(nobody), None, "{nobody:?}");
        }
        assert_eq!(a(&["relay"]), Some(vec![250]));
        // The operator's own records stand, and an address of theirs alone.
        assert_eq!(a(&["fixed", "relay"]), Some(vec![99]));
        assert_eq!(a(&["noted", "relay"]), Some(vec![4]));
        assert_eq!(
            found(&table, &["noted", "relay"], Type::TXT),
            Some(vec![b'o'])
        );
        table.set_relays(&[]).unwrap();
        assert_eq!(a(&["eu1", "relay"]), None);
        assert_eq!(a(&["noted", "relay"]), Some(vec![]));
    }

    #[test]
    fn what_cannot_be_led_to_is_refused_and_changes_nothing() {
        let table = table();
        let good = [(relay("eu1"), ips(&["192.0.2.1"]))];
        table.set_relays(&good).unwrap();
        let five = [
            "192.0.2.1",
            "192.0.2.2",
            "192.0.2.3",
            "192.0.2.4",
            "2001:db8::1",
        ];
        let one = |addresses: &[&str]| vec![(relay("eu2"), ips(addresses))];
        let many = |count: usize| -> Vec<_> {
            (0..count)
                .map(|number| (relay(&format!("r{number}")), ips(&["192.0.2.9"])))
                .collect()
        };
        let nowhere = "224.0.0.1";
        for (given, error) in [
            (one(&[]), RelaysError::NoAddress(relay("eu2"))),
            (one(&five), RelaysError::TooManyAddresses(relay("eu2"))),
            (
                one(&["192.0.2.1", nowhere]),
                RelaysError::BadAddress(relay("eu2"), nowhere.parse().unwrap()),
            ),
            (
                [good.to_vec(), good.to_vec()].concat(),
                RelaysError::Twice(relay("eu1")),
            ),
            (many(MAX_RELAYS + 1), RelaysError::TooMany(MAX_RELAYS + 1)),
        ] {
            assert_eq!(table.set_relays(&given), Err(error));
            assert_eq!(found(&table, &["eu1", "relay"], Type::A), Some(vec![1]));
            assert_eq!(table.relays(), 1);
        }
        // All that are allowed have a number, also in the place of as many others.
        for _ in 0..2 {
            table.set_relays(&many(MAX_RELAYS)).unwrap();
            assert_eq!(table.relays(), MAX_RELAYS);
            for (name, _) in many(MAX_RELAYS) {
                assert_eq!(
                    found(&table, &[name.as_str(), "relay"], Type::A),
                    Some(vec![9])
                );
            }
            table.set_relays(&good).unwrap();
        }
    }

    #[test]
    fn two_relays_behind_one_address_are_led_to_once() {
        let table = table();
        table.put(&device("nas"), RegistrationId(1), None);
        let given = [
            (relay("eu1"), ips(&["192.0.2.1", "2001:db8::1"])),
            (relay("eu2"), ips(&["192.0.2.1", "2001:db8::2"])),
        ];
        table.set_relays(&given).unwrap();
        assert!(table.hold(&device("nas"), &[Some(relay("eu1")), Some(relay("eu2"))]));
        assert_eq!(found(&table, &["nas"], Type::A), Some(vec![1]));
        assert_eq!(found(&table, &["nas"], Type::AAAA), Some(vec![1, 2]));
    }

    #[test]
    fn the_version_of_a_device_says_nothing_of_its_relays() {
        let table = table();
        table
            .set_relays(&[(relay("eu1"), ips(&["192.0.2.1"]))])
            .unwrap();
        table.put(&device("nas"), RegistrationId(1), Some(&Held::default()));
        let recorded = || table.recorded().collect::<Vec<_>>();
        let (before, next) = (recorded(), table.next_version(&device("nas")));
        assert!(table.hold(&device("nas"), &[Some(relay("eu1"))]));
        assert_eq!(
            (recorded(), table.next_version(&device("nas"))),
            (before, next)
        );
    }

    /// The relay's number goes to another at once, while somebody asks for the device that it held.
    #[test]
    fn nobody_is_led_to_the_relay_that_got_the_number() {
        const TURNS: u32 = 2000;
        let table = table();
        let nas = device("nas");
        table.put(&nas, RegistrationId(1), None);
        let eu1 = [(relay("eu1"), ips(&["192.0.2.1"]))];
        let eu2 = [(relay("eu2"), ips(&["192.0.2.2"]))];
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let address = found(&table, &["nas"], Type::A).unwrap();
                        assert!([[1], [250]].contains(&[address[0]]), "{address:?}");
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..TURNS {
                    table.set_relays(&eu1).unwrap();
                    assert!(table.hold(&nas, &[Some(relay("eu1"))]));
                    table.set_relays(&eu2).unwrap();
                    assert_eq!(table.devices_elsewhere(), 0);
                }
                done.store(true, Ordering::Relaxed);
            });
        });
    }

    /// What can happen to relays and devices, by their numbers; a relay's is also the last octet of its addresses.
    #[derive(Clone, Debug)]
    enum Step {
        Relays(BTreeSet<u8>),
        Held(u8, Vec<Option<u8>>),
        Put(u8, u64),
        Own(u8, Option<u8>),
        Remove(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (relay, device) = (1..6_u8, 0..4_u8);
        let by = prop::collection::vec(prop::option::of(relay.clone()), 0..4);
        prop_oneof![
            prop::collection::btree_set(relay, 0..5).prop_map(Step::Relays),
            (device.clone(), by).prop_map(|(device, by)| Step::Held(device, by)),
            (device.clone(), 0..3_u64).prop_map(|(device, of)| Step::Put(device, of)),
            (device.clone(), prop::option::of(100..103_u8))
                .prop_map(|(device, own)| Step::Own(device, own)),
            device.prop_map(Step::Remove),
        ]
    }

    #[derive(Clone, Debug, Default)]
    struct Model {
        relays: BTreeSet<u8>,
        devices: BTreeMap<u8, ModelDevice>,
    }

    #[derive(Clone, Debug, Default)]
    struct ModelDevice {
        registration: u64,
        own: Option<u8>,
        by: Vec<Option<u8>>,
    }

    impl Model {
        fn knows(&self, relay: Option<u8>) -> bool {
            relay.is_none_or(|relay| self.relays.contains(&relay))
        }

        /// The last octets of a device's addresses. Only relays of odd numbers have IPv6, and a device has none.
        fn addresses(&self, device: u8, qtype: Type) -> Option<BTreeSet<u8>> {
            let ModelDevice { own, by, .. } = self.devices.get(&device)?;
            let is_v4 = qtype == Type::A;
            if let Some(own) = own {
                return Some(is_v4.then_some(*own).into_iter().collect());
            }
            let by = if by.is_empty() { &vec![None] } else { by };
            let relays = by.iter().map(|relay| relay.unwrap_or(250));
            Some(
                relays
                    .filter(|relay| is_v4 || *relay == 250 || relay % 2 == 1)
                    .collect(),
            )
        }
    }

    fn name_of(number: u8) -> RelayName {
        relay(&format!("r{number}"))
    }

    fn addresses_of(number: u8) -> Vec<IpAddr> {
        let v4 = format!("192.0.2.{number}");
        let v6 = format!("2001:db8::{number:x}");
        match number % 2 {
            1 => ips(&[&v4, &v6]),
            _ => ips(&[&v4]),
        }
    }

    proptest! {
        #[test]
        fn it_answers_as_a_map_would(steps in prop::collection::vec(step(), 0..100)) {
            let table = table();
            let mut model = Model::default();
            for step in steps {
                match step.clone() {
                    Step::Relays(numbers) => {
                        let given: Vec<_> =
                            numbers.iter().map(|&number| (name_of(number), addresses_of(number))).collect();
                        table.set_relays(&given).unwrap();
                        model.relays = numbers;
                        let known = model.clone();
                        for device in model.devices.values_mut() {
                            device.by.retain(|relay| known.knows(*relay));
                        }
                    }
                    Step::Held(number, by) => {
                        let names: Vec<_> = by.iter().map(|relay| relay.map(name_of)).collect();
                        let all_known = by.iter().all(|relay| model.knows(*relay));
                        let mut kept: Vec<Option<u8>> = Vec::new();
                        for relay in by {
                            if model.knows(relay) && !kept.contains(&relay) && kept.len() < 2 {
                                kept.push(relay);
                            }
                        }
                        let there = model.devices.get_mut(&number).map(|device| device.by = kept);
                        let is_known = table.hold(&device(&format!("d{number}")), &names);
                        prop_assert_eq!(is_known, there.is_some() && all_known);
                    }
                    Step::Put(number, registration) => {
                        table.put(&device(&format!("d{number}")), RegistrationId(registration), None);
                        let there = model.devices.entry(number).or_default();
                        let by = match there.registration == registration {
                            true => std::mem::take(&mut there.by),
                            false => Vec::new(),
                        };
                        *there = ModelDevice { registration, own: None, by };
                    }
                    Step::Own(number, own) => {
                        if let Some(there) = model.devices.get_mut(&number) {
                            there.own = own;
                            let mut held = Held::default();
                            held.own.addresses.v4 = own.map(|last| [192, 0, 2, last].into());
                            let name = device(&format!("d{number}"));
                            table.set(&name, RegistrationId(there.registration), &held);
                        }
                    }
                    Step::Remove(number) => {
                        model.devices.remove(&number);
                        table.remove(&device(&format!("d{number}")));
                    }
                }
                for number in 0..4 {
                    for qtype in [Type::A, Type::AAAA] {
                        for labels in [vec![format!("d{number}")], vec!["x".into(), format!("d{number}")]] {
                            let labels: Vec<_> = labels.iter().map(String::as_str).collect();
                            let octets = found(&table, &labels, qtype);
                            let count = octets.as_ref().map(Vec::len);
                            let octets: Option<BTreeSet<_>> = octets.map(|octets| octets.into_iter().collect());
                            prop_assert_eq!(&octets, &model.addresses(number, qtype), "{:?}", &step);
                            prop_assert_eq!(count, octets.map(|octets| octets.len()));
                        }
                    }
                }
                let elsewhere = model.devices.values().filter(|device| device.by.iter().any(Option::is_some));
                prop_assert_eq!(table.devices_elsewhere(), elsewhere.count());
                prop_assert_eq!(table.relays(), model.relays.len());
            }
        }
    }
}
