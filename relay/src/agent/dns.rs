//! Keeps the device's name on the device's own public addresses, if its owner wants that: visitors then come without the relay.
//!
//! A family is touched only if this host has a public address of it, or has had one since the agent started: whoever else keeps the
//! other family up to date is left alone.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use hyper::Method;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::announce::own_addresses;
use super::cloud::Cloud;
use super::identity::Identity;
use super::situation::Situation;
use super::status::DnsStatus;
use crate::backoff::Backoff;

/// How often it is looked at whether the addresses have changed: until that is seen, the name leads astray.
pub(super) const LOOK: Duration = Duration::from_secs(5);

/// Between two tries to tell the cloud, at least and at most.
pub(super) const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// Where the cloud hears what a device has of its own in the zone, and says it.
pub(super) const PATH: &str = "/api/device/dns";

/// Whether the agent sets the addresses of the device's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dns {
    /// It does not: the name leads to the relay, or where the owner's own update client says.
    #[default]
    Off,
    /// It does. For a device that can be reached from outside without the relay: a name that leads straight to a home into which
    /// nobody gets is worse than one that leads to the relay.
    Report,
}

/// The addresses at which strangers can be meant to reach this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Public {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

#[derive(Serialize)]
struct DnsChange {
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv4: Option<Option<Ipv4Addr>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv6: Option<Option<Ipv6Addr>>,
}

/// As much as is read of it.
#[derive(Deserialize)]
pub(super) struct DnsReceipt {
    pub(super) version: u32,
}

/// Tells the zone this host's public addresses now and after each change. Never returns.
pub(super) async fn report(cloud: &Cloud, identity: &Identity, situation: &Situation) {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut told = Public::default();
    let mut settled: Option<Settled> = None;
    loop {
        let now = Public::of_this_host();
        if settled.is_some_and(|settled| settled.is_so_still(now)) {
            sleep(LOOK).await;
            continue;
        }
        let Some(change) = now.change_from(told) else {
            let problem = "this device has no public address".to_owned();
            situation.dns(now.status(None, Some(problem)));
            settled = Some(Settled::for_good(now));
            continue;
        };
        let body = serde_json::to_vec(&change).unwrap_or_default(); // two addresses
        let answer = cloud
            .call::<DnsReceipt>(Method::PATCH, PATH, "application/json", body, identity)
            .await;
        match answer {
            Ok(DnsReceipt { version }) => {
                match now == Public::default() {
                    true => tracing::info!(version, "the name leads to the relay again"),
                    false => {
                        tracing::info!(version, "the name leads to this device's own addresses")
                    }
                }
                situation.dns(now.status(Some(version), None));
                told = now;
                settled = Some(Settled::for_good(now));
                backoff.reset();
            }
            Err(error) => {
                tracing::info!(%error, "the name could not be led to this device");
                situation.dns(now.status(None, Some(error.to_string())));
                if error.may_pass() {
                    sleep(backoff.next_wait()).await;
                } else {
                    settled = Some(Settled::for_a_while(now)); // somebody has to mend it
                }
            }
        }
    }
}

/// What has been said, and need not be said again.
#[derive(Clone, Copy)]
struct Settled {
    addresses: Public,
    until: Option<Instant>,
}

impl Settled {
    fn for_good(addresses: Public) -> Self {
        let until = None;
        Self { addresses, until }
    }

    fn for_a_while(addresses: Public) -> Self {
        let until = Some(Instant::now() + RETRY.1);
        Self { addresses, until }
    }

    fn is_so_still(self, now: Public) -> bool {
        self.addresses == now && self.until.is_none_or(|until| Instant::now() < until)
    }
}

impl Public {
    fn of_this_host() -> Self {
        let mut public = Self::default();
        for address in own_addresses() {
            match address {
                IpAddr::V4(v4) if is_public_v4(v4) => public.v4 = Some(v4),
                IpAddr::V6(v6) if is_public_v6(v6) => {
                    // An absent file is a host without IPv6.
                    let interfaces = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
                    public.v6 = Some(lasting(v6, &interfaces));
                }
                IpAddr::V4(_) | IpAddr::V6(_) => {}
            }
        }
        public
    }

    fn iter(self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.map(IpAddr::V4);
        v4.into_iter().chain(self.v6.map(IpAddr::V6))
    }

    fn status(self, version: Option<u32>, problem: Option<String>) -> DnsStatus {
        DnsStatus {
            addresses: self.iter().collect(),
            version,
            problem,
        }
    }

    /// What to tell of it after `told`; `None` if nothing.
    fn change_from(self, told: Self) -> Option<DnsChange> {
        let change = DnsChange {
            ipv4: (self.v4.is_some() || told.v4.is_some()).then_some(self.v4),
            ipv6: (self.v6.is_some() || told.v6.is_some()).then_some(self.v6),
        };
        (change.ipv4.is_some() || change.ipv6.is_some()).then_some(change)
    }
}

/// Not private (RFC 1918), a provider's (RFC 6598), or of one link or machine.
pub(super) fn is_public_v4(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    !(address.is_private()
        || is_providers(address)
        || address.is_link_local()
        || address.is_loopback()
        || first == 0
        || first >= 224)
}

/// Of a provider's own network, where it translates the addresses of many homes (RFC 6598).
pub(super) fn is_providers(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    first == 100 && second & 0xC0 == 64
}

/// Global unicast as far as it has been given out (RFC 4291 section 2.4).
pub(super) fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, ..] = address.segments();
    first & 0xE000 == 0x2000
}

/// The address to publish for a host that speaks from `address`: that may be a temporary one, which changes every day (RFC 8981), and
/// then it is another of the same network that stays. `interfaces` is `/proc/net/if_inet6` (address, interface, length of the
/// prefix, scope, flags, name; all in hexadecimal).
fn lasting(address: Ipv6Addr, interfaces: &str) -> Ipv6Addr {
    /// `IFA_F_TEMPORARY`, `IFA_F_DADFAILED`, `IFA_F_DEPRECATED` and `IFA_F_TENTATIVE` of the kernel.
    const PASSING: u8 = 0x01 | 0x08 | 0x20 | 0x40;
    let read = |line: &str| {
        let mut words = line.split_whitespace();
        let address = u128::from_str_radix(words.next()?, 16).ok()?;
        let flags = u8::from_str_radix(words.nth(3)?, 16).ok()?;
        Some((Ipv6Addr::from_bits(address), flags & PASSING == 0))
    };
    let network = |address: Ipv6Addr| address.to_bits() >> 64;
    let is_lasting =
        |&(other, lasts): &(Ipv6Addr, bool)| lasts && network(other) == network(address);
    let known: Vec<_> = interfaces.lines().filter_map(read).collect();
    if known.contains(&(address, true)) {
        return address;
    }
    let other = known.into_iter().find(is_lasting);
    other.map_or(address, |(other, _)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(change: Option<DnsChange>) -> Option<String> {
        change.map(|change| serde_json::to_string(&change).unwrap())
    }

    #[test]
    fn a_family_that_was_never_here_is_not_touched() {
        let (v4, v6) = (
            Ipv4Addr::new(203, 0, 113, 7),
            "2001:db8::7".parse().unwrap(),
        );
        let (nothing, v4_only) = (
            Public::default(),
            Public {
                v4: Some(v4),
                v6: None,
            },
        );
        let v6_only = Public {
            v4: None,
            v6: Some(v6),
        };
        let both = Public {
            v4: Some(v4),
            v6: Some(v6),
        };
        for (now, told, expected) in [
            (nothing, nothing, None),
            (v4_only, nothing, Some(r#"{"ipv4":"203.0.113.7"}"#)),
            (v6_only, nothing, Some(r#"{"ipv6":"2001:db8::7"}"#)),
            (v6_only, both, Some(r#"{"ipv4":null,"ipv6":"2001:db8::7"}"#)),
            (nothing, v4_only, Some(r#"{"ipv4":null}"#)),
        ] {
            assert_eq!(body(now.change_from(told)).as_deref(), expected);
        }
    }

    #[test]
    fn only_public_addresses_count() {
        for private in [
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.0.1",
            "172.16.0.1",
            "192.168.0.1",
            "0.0.0.0",
            "224.0.0.1",
        ] {
            assert!(!is_public_v4(private.parse().unwrap()), "{private}");
        }
        for private in ["::1", "fe80::1", "fd00::1", "ff02::1"] {
            assert!(!is_public_v6(private.parse().unwrap()), "{private}");
        }
        assert!(is_public_v4(Ipv4Addr::new(203, 0, 113, 7)));
        assert!(is_public_v6("2001:db8::7".parse().unwrap()));
    }

    #[test]
    fn an_address_for_a_day_is_not_published_where_another_stays() {
        let interfaces = "\
20010db8000000010000000000000001 02 40 00 01     eth0
20010db8000000010000000000000002 02 40 00 20     eth0
20010db8000000010000000000000003 02 40 00 80     eth0
20010db8000000020000000000000004 02 40 00 80     eth0
fe800000000000000000000000000005 02 40 20 80     eth0
";
        let lasting = |text: &str| lasting(text.parse().unwrap(), interfaces).to_string();
        assert_eq!(lasting("2001:db8:0:1::1"), "2001:db8:0:1::3");
        assert_eq!(lasting("2001:db8:0:1::3"), "2001:db8:0:1::3");
        assert_eq!(lasting("2001:db8:0:2::4"), "2001:db8:0:2::4");
        assert_eq!(lasting("2001:db8:0:9::9"), "2001:db8:0:9::9");
    }
}
