//! Keeps `lan.` in front of the device's name on its addresses in its own network, if its owner wants that: who is at home too reaches it
//! by a name that its certificate is for, without the relay.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hyper::Method;
use serde::Serialize;
use tokio::time::sleep;

use super::announce::own_addresses;
use super::cloud::Cloud;
use super::dns::{DnsReceipt, LOOK, PATH, RETRY};
use super::identity::Identity;
use super::situation::Situation;
use super::status::DnsStatus;
use crate::backoff::Backoff;

/// Whether the agent sets the addresses of `lan.` in front of the device's name. What it has set stays until it sets others, or takes them
/// back with [`Lan::Remove`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lan {
    /// It leaves them alone.
    #[default]
    Off,
    /// It does, and follows them.
    Report,
    /// It takes them back.
    Remove,
}

/// The addresses of this host in a private network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct AtHome {
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
}

#[derive(Serialize)]
struct LanChange {
    lan: AtHome,
}

/// Tells the zone where this host is at home, now and after each change; or once that it is nowhere. Never returns.
pub(super) async fn report(lan: Lan, cloud: &Cloud, identity: &Identity, situation: &Situation) {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut told = None;
    loop {
        let now = match lan {
            Lan::Off => return std::future::pending().await,
            Lan::Report => AtHome::of(own_addresses()),
            Lan::Remove => AtHome::default(),
        };
        if told == Some(now) {
            sleep(LOOK).await;
            continue;
        }
        let change = LanChange { lan: now };
        let body = serde_json::to_vec(&change).unwrap_or_default(); // two addresses
        let answer = cloud
            .call::<DnsReceipt>(Method::PATCH, PATH, "application/json", body, identity)
            .await;
        match answer {
            Ok(DnsReceipt { version }) => {
                tracing::info!(version, ipv4 = ?now.ipv4, ipv6 = ?now.ipv6, "lan. in front of the name is where this device is at home");
                situation.lan(now.status(Some(version), None));
                told = Some(now);
                backoff.reset();
            }
            Err(error) => {
                tracing::info!(%error, "lan. in front of the name could not be set");
                situation.lan(now.status(None, Some(error.to_string())));
                match error.may_pass() {
                    true => sleep(backoff.next_wait()).await,
                    false => sleep(RETRY.1).await, // somebody has to mend it
                }
            }
        }
    }
}

impl AtHome {
    fn of(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut at_home = Self::default();
        for address in addresses {
            match address {
                IpAddr::V4(v4) if v4.is_private() => at_home.ipv4 = Some(v4),
                IpAddr::V6(v6) if v6.is_unique_local() => at_home.ipv6 = Some(v6),
                IpAddr::V4(_) | IpAddr::V6(_) => {}
            }
        }
        at_home
    }

    fn status(self, version: Option<u32>, problem: Option<String>) -> DnsStatus {
        let v4 = self.ipv4.map(IpAddr::V4);
        DnsStatus {
            addresses: v4.into_iter().chain(self.ipv6.map(IpAddr::V6)).collect(),
            version,
            problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_a_private_network_are_told() {
        let of = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|address| address.parse().unwrap());
            let lan = AtHome::of(addresses.collect::<Vec<IpAddr>>());
            serde_json::to_string(&LanChange { lan }).unwrap()
        };
        assert_eq!(
            of(&["192.168.1.8", "fd00::8"]),
            r#"{"lan":{"ipv4":"192.168.1.8","ipv6":"fd00::8"}}"#
        );
        let nobody = of(&[
            "203.0.113.7",
            "169.254.1.1",
            "100.64.0.1",
            "2001:db8::7",
            "fe80::1",
        ]);
        assert_eq!(nobody, r#"{"lan":{"ipv4":null,"ipv6":null}}"#);
    }
}
