//! The proxies before the front, whose PROXY headers are believed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Deserializer};

/// Addresses that begin alike, such as `192.0.2.0/24`; or one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The first of them.
    first: IpAddr,
    /// How many bits they have in common.
    bits: u8,
}

/// Why a text is no [`Network`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoNetwork {
    /// It is something else.
    #[error("{0:?} is no network; one looks like 192.0.2.0/24 or 2001:db8::/32, or is an address")]
    Malformed(String),
    /// Its address is not its first.
    #[error("{written} is an address in a network: the network is {meant}")]
    NotItsFirst {
        /// What was written.
        written: String,
        /// What may be meant.
        meant: Network,
    },
    /// It has everybody in it.
    #[error("{0} is everybody: then each visitor could say who it is")]
    Everybody(String),
    /// It is of IPv4, as IPv6 writes that.
    #[error("{0} is of IPv4: write it so")]
    Mapped(String),
}

impl Network {
    /// Whether an address is one of these, whichever way it is written.
    pub fn includes(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.first.is_ipv4() && first_of(ip, self.bits) == self.first
    }
}

/// The first address that has so many bits in common with this one.
fn first_of(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let malformed = || NoNetwork::Malformed(text.to_owned());
        let (ip, bits) = match text.split_once('/') {
            Some((ip, bits)) => (ip, Some(bits)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| malformed())?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) if bits.bytes().all(|octet| octet.is_ascii_digit()) => {
                bits.parse().map_err(|_| malformed())?
            }
            Some(_) => return Err(malformed()),
        };
        if bits > most {
            return Err(malformed());
        }
        if ip.to_canonical() != ip {
            return Err(NoNetwork::Mapped(text.to_owned()));
        }
        if bits == 0 {
            return Err(NoNetwork::Everybody(text.to_owned()));
        }
        let first = first_of(ip, bits);
        let network = Self { first, bits };
        if first != ip {
            return Err(NoNetwork::NotItsFirst {
                written: text.to_owned(),
                meant: network,
            });
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Those that are believed now; clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Proxies(Arc<RwLock<Vec<Network>>>);

impl Proxies {
    pub(super) fn new(networks: &[Network]) -> Self {
        Self(Arc::new(RwLock::new(networks.to_vec())))
    }

    /// Believes these from now on. Whoever has come already stays who it is.
    pub(super) fn set(&self, networks: &[Network]) {
        let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *now = networks.to_vec();
    }

    pub(super) fn include(&self, ip: IpAddr) -> bool {
        let networks = self.0.read().unwrap_or_else(PoisonError::into_inner);
        networks.iter().any(|network| network.includes(ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_has_its_addresses_in_it_and_no_others() {
        for (written, inside, outside) in [
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("192.0.2.0/24", "::ffff:192.0.2.1", "::ffff:192.0.3.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("128.0.0.0/1", "255.255.255.255", "127.255.255.255"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("2001:db8::7/128", "2001:db8::7", "2001:db8::6"),
            ("8000::/1", "ffff::", "7fff::"),
            ("::/96", "::1", "0.0.0.1"),
        ] {
            let network = network(written);
            assert!(network.includes(inside.parse().unwrap()), "{written}");
            assert!(!network.includes(outside.parse().unwrap()), "{written}");
        }
        assert_eq!(network("192.0.2.7").to_string(), "192.0.2.7/32");
    }

    #[test]
    fn what_is_no_network_is_told_with_what_would_be_one() {
        for (written, sentence) in [
            ("", "one looks like 192.0.2.0/24"),
            ("192.0.2.0/33", "one looks like"),
            ("2001:db8::/129", "one looks like"),
            ("192.0.2.0/", "one looks like"),
            ("192.0.2.0/+8", "one looks like"),
            ("192.0.2.0/24/8", "one looks like"),
            ("192.0.2", "one looks like"),
            ("proxy.example", "one looks like"),
            ("192.0.2.1/24", "the network is 192.0.2.0/24"),
            ("2001:db8::1/32", "the network is 2001:db8::/32"),
            ("0.0.0.0/0", "everybody"),
            ("::/0", "everybody"),
            ("::ffff:192.0.2.0/120", "write it so"),
        ] {
            let error = written.parse::<Network>().unwrap_err().to_string();
            assert!(error.contains(sentence), "{written}: {error}");
        }
    }

    #[test]
    fn who_is_believed_changes_for_all_at_once() {
        let proxies = Proxies::new(&[]);
        let elsewhere = proxies.clone();
        let ip = "192.0.2.7".parse().unwrap();
        assert!(!elsewhere.include(ip));
        proxies.set(&[network("198.51.100.0/24"), network("192.0.2.0/24")]);
        assert!(elsewhere.include(ip));
        proxies.set(&[]);
        assert!(!elsewhere.include(ip));
    }
}
