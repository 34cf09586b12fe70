//! The device's name: where this network's name server leads it, and where the zone's own does. It should lead to a relay, or to the
//! device itself.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::timeout;
use wire::probe::dns::{self, Kind};

use crate::agent::announce::own_addresses;
use crate::agent::relays::RelayAddress;
use crate::agent::status::Status;
use crate::resolve::Resolver;

use super::finding::{Finding, Hop};
use super::lan::AtHome;

/// Where name servers listen.
const PORT: u16 = 53;

/// How long a name server may take to answer, the first time and the second.
const WAITS: [Duration; 2] = [Duration::from_millis(800), Duration::from_millis(1600)];

/// So many of the zone's name server's addresses are tried.
const SERVER_ADDRESSES: usize = 2;

/// What is known of where the name leads.
#[derive(Debug)]
struct Leads {
    /// The whole name.
    name: String,
    /// Where this system says; `Err` with why it says nothing.
    here: Result<BTreeSet<IpAddr>, String>,
    /// Where the zone's own name server says, if it was heard.
    zone: Option<BTreeSet<IpAddr>>,
    /// The relays' addresses.
    relays: BTreeSet<IpAddr>,
    /// The addresses at which this device is known from outside.
    outside: BTreeSet<IpAddr>,
    /// Those that it has in its own network.
    inside: BTreeSet<IpAddr>,
}

/// Looks where `name` in `zone` leads, whose relays these are.
pub(super) async fn examine(
    resolver: Resolver,
    name: &str,
    zone: &str,
    relays: &[RelayAddress],
    status: Option<&Status>,
) -> Vec<Finding> {
    let name = format!("{name}.{zone}");
    let of_relays = async {
        let mut found = JoinSet::new(); // dropped with this future, and every look with it
        for RelayAddress { host, port } in relays.iter().cloned() {
            found.spawn(async move { resolver.resolve(&host, port).await });
        }
        let found = found.join_all().await.into_iter().flatten().flatten();
        found.map(|address| address.ip()).collect()
    };
    let at_home = AtHome::ask(resolver, &name, zone);
    let (here, zone, relays, at_home) = tokio::join!(
        resolver.resolve(&name, 443),
        said_by_zone(resolver, &name, zone),
        of_relays,
        at_home
    );
    // Where the name itself is not found, that is what is said.
    let at_home = here
        .as_ref()
        .ok()
        .and_then(|_| at_home.judged(zone.as_ref(), status));
    let here = here.map(|addresses| addresses.iter().map(SocketAddr::ip).collect());
    let (mut outside, mut inside) = (BTreeSet::new(), own_addresses());
    if let Some(status) = status {
        let seen_as = status.tunnels.iter().map(|tunnel| tunnel.seen_as.ip());
        outside.extend(seen_as.map(|address| address.to_canonical()));
        inside.extend(status.dns.iter().flat_map(|dns| &dns.addresses));
    }
    let leads = Leads {
        name,
        here: here.map_err(|error: io::Error| error.to_string()),
        zone,
        relays,
        outside,
        inside,
    };
    [leads.judged()].into_iter().chain(at_home).collect()
}

/// What the zone's own name server says. It is `ns1` in the zone, wherever that is delegated to it.
pub(super) async fn said_by_zone(
    resolver: Resolver,
    name: &str,
    zone: &str,
) -> Option<BTreeSet<IpAddr>> {
    let servers = resolver.resolve(&format!("ns1.{zone}"), PORT).await.ok()?;
    for server in servers.into_iter().take(SERVER_ADDRESSES) {
        let (v4, v6) = tokio::join!(
            asked(server, name, Kind::A),
            asked(server, name, Kind::Aaaa)
        );
        if let (Some(v4), Some(v6)) = (v4, v6) {
            return Some(v4.into_iter().chain(v6).collect());
        }
    }
    None
}

/// `None` if there is no answer from one who knows.
async fn asked(server: SocketAddr, name: &str, kind: Kind) -> Option<Vec<IpAddr>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(server).await.ok()?; // nobody else is heard
    let id = rand::random();
    let question = dns::question(id, name, kind)?;
    let mut received = [0; dns::LONGEST];
    for wait in WAITS {
        socket.send(&question).await.ok()?;
        // An error is what ICMP says: nobody listens there.
        let Ok(heard) = timeout(wait, socket.recv(&mut received)).await else {
            continue;
        };
        let answer = dns::answer(id, received.get(..heard.ok()?)?);
        return answer
            .filter(|answer| answer.is_authoritative)
            .map(|answer| answer.addresses);
    }
    None
}

impl Leads {
    fn judged(&self) -> Finding {
        let subject = &self.name;
        if let Some(zone) = &self.zone
            && let Some(finding) = self.zone_amiss(zone)
        {
            return finding;
        }
        let here = match &self.here {
            Ok(here) => here,
            Err(error) if self.zone.is_some() => {
                return Hop::Name.slow(
                    subject,
                    format!("the zone has it, and this network's name server does not find it: {error}"),
                    "if others find it, this network's name server holds back what leads to a private address, or blocks the zone: \
                     make an exception there (\"rebind protection\"); if nobody does, the operator has not had the zone delegated",
                );
            }
            Err(error) => {
                return Hop::Name.ill(
                    subject,
                    format!("it is not found: {error}; nor does the zone's own name server answer"),
                    "see that this device has a name server that answers (/etc/resolv.conf); if others do not find it either, the \
                     operator has to mend the zone",
                );
            }
        };
        let astray = self.astray(here);
        if astray.is_empty() {
            let where_to = match here.is_subset(&self.relays) {
                true => "leads to the relay",
                false => "leads to this device",
            };
            return Hop::Name.well(subject, where_to);
        }
        let astray = listed(&astray);
        match &self.zone {
            Some(zone) => Hop::Name.slow(
                subject,
                format!(
                    "this network's name server says {astray}, which is neither the relay nor this device; the zone says {}",
                    listed(zone)
                ),
                "wait for a minute or two, if it has changed just now; otherwise empty that name server's cache, and look for the name \
                 in /etc/hosts, in the router and in whatever filters names there",
            ),
            None => Hop::Name.ill(
                subject,
                format!("it leads to {astray}, which is neither the relay nor this device (the zone's own name server does not answer)"),
                MEND_ZONE,
            ),
        }
    }

    /// What is wrong in the zone itself, so that everybody is led astray.
    fn zone_amiss(&self, zone: &BTreeSet<IpAddr>) -> Option<Finding> {
        let subject = &self.name;
        if zone.is_empty() {
            let words = "the zone has no address for it: nobody finds the device";
            let mend = "ask the operator whether the device is still registered, and whether its relay runs; pair it anew if it is not";
            return Some(Hop::Name.ill(subject, words, mend));
        }
        let astray = self.astray(zone);
        if astray.is_empty() {
            return None;
        }
        let words = format!(
            "the zone leads it to {}, which is neither the relay nor this device",
            listed(&astray)
        );
        // Of a family in which nothing is known of this device's own addresses, it may be right.
        let is_known = |address: &IpAddr| {
            let known = self.outside.iter().chain(&self.inside);
            known
                .filter(|known| known.is_ipv4() == address.is_ipv4())
                .any(is_global)
        };
        Some(match astray.iter().any(is_known) {
            true => Hop::Name.ill(subject, words, MEND_ZONE),
            false => Hop::Name.unknown(
                subject,
                format!("{words} as far as is known here"),
                "compare it with the address that your router has outside; if it is another, have the update client corrected that sets \
                 it, or take it back",
            ),
        })
    }

    fn astray(&self, addresses: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let right = [&self.relays, &self.outside, &self.inside];
        let is_right = |address: &&IpAddr| right.iter().any(|right| right.contains(*address));
        addresses
            .iter()
            .filter(|address| !is_right(address))
            .copied()
            .collect()
    }
}

const MEND_ZONE: &str = "an update client of this device says so, on the router perhaps, or an old one: have it corrected, or take the address back with an \
     update whose `myipv4=` and `myipv6=` are empty; then the name leads to the relay again";

fn is_global(address: &IpAddr) -> bool {
    use crate::agent::dns::{is_public_v4, is_public_v6};
    match address {
        IpAddr::V4(address) => is_public_v4(*address),
        IpAddr::V6(address) => is_public_v6(*address),
    }
}

pub(super) fn listed(addresses: &BTreeSet<IpAddr>) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::finding::Health;
    use super::*;

    const RELAY: &str = "198.51.100.1";
    const HOME: &str = "203.0.113.7";
    const ELSEWHERE: &str = "192.0.2.9";

    fn set(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn judged(here: Result<&[&str], &str>, zone: Option<&[&str]>) -> Finding {
        let leads = Leads {
            name: "mynas.example.com".to_owned(),
            here: here.map(set).map_err(str::to_owned),
            zone: zone.map(set),
            relays: set(&[RELAY]),
            outside: set(&[HOME]),
            inside: set(&["192.168.1.2"]),
        };
        leads.judged()
    }

    #[test]
    fn a_name_that_leads_to_a_relay_or_home_is_well() {
        for right in [&[RELAY][..], &[HOME], &["192.168.1.2"], &[RELAY, HOME]] {
            assert_eq!(judged(Ok(right), Some(&[RELAY])).health, Health::Well);
        }
        assert_eq!(judged(Ok(&[RELAY]), None).health, Health::Well);
    }

    #[test]
    fn who_leads_it_astray_is_told() {
        let zone = judged(Ok(&[ELSEWHERE]), Some(&[ELSEWHERE]));
        assert_eq!(zone.health, Health::Ill);
        assert!(
            zone.words.starts_with("the zone leads it to 192.0.2.9"),
            "{zone:?}"
        );
        let here = judged(Ok(&[ELSEWHERE]), Some(&[RELAY]));
        assert_eq!(here.health, Health::Slow);
        assert!(
            here.words.contains("the zone says 198.51.100.1"),
            "{here:?}"
        );
        assert_eq!(judged(Ok(&[ELSEWHERE]), None).health, Health::Ill);
        assert_eq!(judged(Err("no"), Some(&[RELAY])).health, Health::Slow);
        assert_eq!(judged(Err("no"), None).health, Health::Ill);
        assert_eq!(judged(Ok(&[RELAY]), Some(&[])).health, Health::Ill);
    }

    #[test]
    fn an_address_of_a_family_in_which_this_device_knows_none_of_its_own_may_be_right() {
        let leads = judged(Ok(&[RELAY]), Some(&["2001:db8::9"]));
        assert_eq!(leads.health, Health::Unknown, "{leads:?}");
    }

    #[tokio::test]
    async fn a_name_server_is_asked_twice() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = server.local_addr().unwrap();
        let asked = tokio::spawn(asked(address, "mynas.example.com", Kind::A));
        let mut question = [0; dns::LONGEST];
        server.recv_from(&mut question).await.unwrap(); // as if it were lost
        let (length, from) = server.recv_from(&mut question).await.unwrap();
        let mut answer = question[..length].to_vec();
        answer[2] = 0x84;
        server.send_to(&answer, from).await.unwrap();
        assert_eq!(asked.await.unwrap(), Some(Vec::new()));
    }
}
