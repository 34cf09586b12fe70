//! Ports of the relays that are one device's each.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use crate::name::DeviceName;

/// A port of the relays: `20022/tcp` or `20053/udp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicPort {
    /// What is spoken there.
    pub protocol: Protocol,
    /// Its number.
    pub number: NonZeroU16,
}

/// What is spoken at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Protocol {
    /// Each.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// As behind a port's number.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// The text is no port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no public port; one looks like 20022/tcp or 20053/udp")]
pub struct PortError(String);

impl FromStr for PublicPort {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let parsed = || {
            let (number, protocol) = text.split_once('/')?;
            let is_written = number.bytes().all(|octet| octet.is_ascii_digit());
            let number = number.parse().ok().filter(|_| is_written)?;
            let mut protocols = Protocol::ALL.into_iter();
            let protocol = protocols.find(|known| known.name() == protocol)?;
            Some(Self { protocol, number })
        };
        parsed().ok_or_else(|| PortError(text.to_owned()))
    }
}

impl fmt::Display for PublicPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol.name())
    }
}

/// Which device has which ports. Few have any.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    holder: HashMap<PublicPort, DeviceName>,
    of_device: HashMap<DeviceName, BTreeSet<PublicPort>>,
}

impl Ports {
    pub(crate) fn holder(&self, port: PublicPort) -> Option<&DeviceName> {
        self.holder.get(&port)
    }

    pub(crate) fn of(&self, name: &DeviceName) -> BTreeSet<PublicPort> {
        self.of_device.get(name).cloned().unwrap_or_default()
    }

    /// From now on the device has these and no others. Gives back those who had any of them.
    pub(crate) fn set(
        &mut self,
        name: &DeviceName,
        ports: BTreeSet<PublicPort>,
    ) -> BTreeSet<DeviceName> {
        for port in self.of_device.remove(name).unwrap_or_default() {
            self.holder.remove(&port);
        }
        let mut others = BTreeSet::new();
        for port in &ports {
            let Some(other) = self.holder.insert(*port, name.clone()) else {
                continue;
            };
            if let Some(of_other) = self.of_device.get_mut(&other) {
                of_other.remove(port);
                if of_other.is_empty() {
                    self.of_device.remove(&other);
                }
            }
            others.insert(other);
        }
        if !ports.is_empty() {
            self.of_device.insert(name.clone(), ports);
        }
        others
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn port(text: &str) -> PublicPort {
        text.parse().unwrap()
    }

    #[test]
    fn a_port_has_a_number_and_a_protocol() {
        for good in ["1/tcp", "20022/tcp", "20053/udp", "65535/udp"] {
            assert_eq!(port(good).to_string(), good);
        }
        for bad in [
            "",
            "20022",
            "0/tcp",
            "65536/tcp",
            "-1/tcp",
            "+7/tcp",
            "7/TCP",
            "7/sctp",
            " 7/tcp",
            "7/tcp/udp",
        ] {
            assert!(bad.parse::<PublicPort>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_port_has_one_holder_whatever_is_set(sets in prop::collection::vec((0..3_u8, prop::collection::btree_set(1..6_u16, 0..4)), 0..12)) {
            let mut ports = Ports::default();
            let name = |which: u8| DeviceName::parse(&format!("nas{which}")).unwrap();
            let mut expected = HashMap::new();
            for (which, numbers) in sets {
                expected.retain(|_, holder| *holder != which);
                expected.extend(numbers.iter().map(|number| (*number, which)));
                let numbers = numbers.iter().map(|number| port(&format!("{number}/udp")));
                ports.set(&name(which), numbers.collect());
            }
            for number in 1..6 {
                let port = port(&format!("{number}/udp"));
                let holder = expected.get(&number).map(|which| name(*which));
                prop_assert_eq!(ports.holder(port), holder.as_ref());
                for which in 0..3 {
                    let has = ports.of(&name(which)).contains(&port);
                    prop_assert_eq!(has, holder.as_ref() == Some(&name(which)));
                }
            }
            prop_assert!(ports.of_device.values().all(|of_device| !of_device.is_empty()));
        }
    }
}
