//! The network that the device is in: how many routers translate its address (NAT). Through the relay a device is reached behind any
//! number of them; straight from outside only where there is none, or where one is told to let visitors through.
//!
//! ```text
//!   the device ── its router ── another router, or the provider's ── the relay
//!    own address   is asked      answer where a packet ends            has seen an address
//!                  (NAT-PMP)     that may go so far
//! ```

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::timeout;
use wire::probe::nat_pmp;

use crate::agent::dns::{is_providers, is_public_v4};
use crate::agent::relays::RelayAddress;
use crate::resolve::Resolver;
use crate::sys;

use super::finding::{Finding, Hop};

const SUBJECT: &str = "address translation";

/// What works whatever the network is like, and what does not.
const MEANING: &str = "visitors come through the relay all the same; what does not work is to reach the device without it (port forwarding, `--dns report`)";

/// So many routers are looked for. Behind these a provider's network begins, whatever it is like.
const ROUTERS: u32 = 5;

/// How long a router may take to say that a packet has come too far.
const ROUTER_TIME: Duration = Duration::from_millis(1500);

/// RFC 6886 section 3.1 has a question repeated after 250 ms, then after twice as long each time.
const ASKED_AGAIN: [Duration; 3] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(1000),
];

/// What is to be seen of the way out, over IPv4.
#[derive(Debug)]
struct WayOut {
    /// The device's own address.
    own: Ipv4Addr,
    /// That under which the relay sees its agent, if one is attached over IPv4.
    seen_as: Option<Ipv4Addr>,
    /// That which its router has outside, if it says so.
    outside: Option<Ipv4Addr>,
    /// Who answers on the way, the nearest first.
    routers: Vec<Ipv4Addr>,
}

/// Looks at the way out towards `relay`, whose agent is `seen_as` such addresses.
pub(super) async fn examine(
    resolver: Resolver,
    relay: &RelayAddress,
    seen_as: &[IpAddr],
) -> Vec<Finding> {
    // Why it is not found is said of the way to it.
    let Ok(addresses) = resolver.resolve(&relay.host, relay.port).await else {
        return Vec::new();
    };
    let v4 = addresses.iter().find_map(|address| match address {
        SocketAddr::V4(address) => Some(*address),
        SocketAddr::V6(_) => None,
    });
    let over_v6 = addresses
        .iter()
        .any(|address| address.is_ipv6() && own_address(*address).is_some());
    let (relay, own) = match v4.map(|relay| (relay, own_address(relay.into()))) {
        Some((relay, Some(IpAddr::V4(own)))) => (relay, own),
        Some(_) | None if over_v6 => {
            let words = "the relay is reached over IPv6, where nobody translates";
            return vec![Hop::Network.well(SUBJECT, words)];
        }
        Some(_) | None => {
            let words = "this device has no way out";
            let mend =
                "see that it has a cable or Wi-Fi, an address and a default route (`ip route`)";
            return vec![Hop::Network.ill(SUBJECT, words, mend)];
        }
    };
    if own.is_loopback() || relay.ip().is_loopback() {
        return vec![Hop::Network.well(SUBJECT, "the relay is on this device")];
    }
    if !is_public(relay.ip()) {
        let words = "the relay is in a private network; of what lies beyond nothing is to be seen from here";
        return vec![Hop::Network.well(SUBJECT, words)];
    }
    let (outside, routers) = tokio::join!(outside_address(), routers_towards(relay));
    let way_out = WayOut {
        own,
        seen_as: seen_as
            .iter()
            .find_map(|seen_as| match seen_as.to_canonical() {
                IpAddr::V4(seen_as) => Some(seen_as),
                IpAddr::V6(_) => None,
            }),
        outside,
        routers,
    };
    vec![way_out.judged()]
}

/// That which packets to `far` are sent from. Nothing is sent to find out.
fn own_address(far: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match far {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind((any, 0)).ok()?;
    socket.connect(far).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// What this device's router says that its address is outside.
async fn outside_address() -> Option<Ipv4Addr> {
    let routes = fs::read_to_string("/proc/net/route").ok()?;
    let router = default_router(&routes)?;
    asked_at((router, nat_pmp::PORT).into()).await.ok()?
}

async fn asked_at(router: SocketAddr) -> io::Result<Option<Ipv4Addr>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(router).await?; // nobody else is heard
    let mut received = [0; 64];
    for wait in ASKED_AGAIN {
        socket.send(&nat_pmp::QUESTION).await?;
        if let Ok(heard) = timeout(wait, socket.recv(&mut received)).await {
            // An error is what ICMP says: nobody listens there, as with most routers.
            return Ok(received.get(..heard?).and_then(nat_pmp::answer));
        }
    }
    Ok(None)
}

/// The router that everything goes to which is for nobody here. `routes` is `/proc/net/route` (interface, destination, router,
/// flags, …; the addresses in hexadecimal, as they lie in memory).
fn default_router(routes: &str) -> Option<Ipv4Addr> {
    routes.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (destination, router) = (words.next()?, words.next()?);
        let router = u32::from_str_radix(router, 16).ok()?;
        let router = Ipv4Addr::from(router.to_ne_bytes());
        (destination == "00000000" && !router.is_unspecified()).then_some(router)
    })
}

/// Who says that a packet to `relay` has come too far, the nearest first.
async fn routers_towards(relay: SocketAddrV4) -> Vec<Ipv4Addr> {
    let mut tries = JoinSet::new(); // dropped with this future, and every try with it
    for far in 1..=ROUTERS {
        tries.spawn(async move { (far, timeout(ROUTER_TIME, router_at(relay, far)).await) });
    }
    let mut tried = tries.join_all().await;
    tried.sort_by_key(|(far, _)| *far);
    let routers = tried
        .into_iter()
        .filter_map(|(_, router)| router.ok()?.ok());
    routers.collect()
}

/// The router that is so far away.
async fn router_at(relay: SocketAddrV4, far: u32) -> io::Result<Ipv4Addr> {
    /// A QUIC packet of nobody's connection, which a relay drops.
    const NOTHING: [u8; 32] = [0x40; 32];
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    sys::keep_icmp(&socket)?;
    sockopt::set_ip_ttl(&socket, far)?;
    socket.connect(relay).await?;
    socket.send(&NOTHING).await?;
    loop {
        socket.ready(Interest::ERROR).await?;
        let kept = socket.try_io(Interest::ERROR, || sys::who_gave_up(&socket));
        match kept {
            Ok(Some(router)) => return Ok(router),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

impl WayOut {
    fn judged(&self) -> Finding {
        let own = self.own;
        if is_public_v4(own) && self.seen_as.is_none_or(|seen_as| seen_as == own) {
            return Hop::Network.well(SUBJECT, format!("none: {own} is the device's own address"));
        }
        let is_seen = |outside: &Ipv4Addr| self.seen_as.is_none_or(|seen_as| seen_as == *outside);
        if self
            .outside
            .filter(is_public)
            .is_some_and(|outside| is_seen(&outside))
        {
            return one_router();
        }
        let providers = self.outside.iter().chain([&own]).chain(&self.routers);
        if let Some(address) = providers.copied().find(|address| is_providers(*address)) {
            return Hop::Network.slow(
                SUBJECT,
                format!("the provider translates addresses for many homes at once ({address} is one of its own): {MEANING}"),
                "nothing, if the relay is enough; otherwise ask the provider for a public address, or use IPv6",
            );
        }
        if let Some(outside) = self.outside.filter(|outside| !is_public(outside)) {
            return two_routers(format!(
                "the router has a private address outside too ({outside}), so another stands behind it"
            ));
        }
        if let (Some(outside), Some(seen_as)) = (self.outside, self.seen_as) {
            return two_routers(format!(
                "the router says {outside} of itself outside, and the relay sees {seen_as}: somebody translates between them"
            ));
        }
        let mut private = self.routers.iter().take_while(|router| router.is_private());
        if let (Some(first), Some(second)) = (private.next(), private.next()) {
            return two_routers(format!(
                "behind the router ({first}) there is another with a private address ({second}), which most likely translates too"
            ));
        }
        one_router()
    }
}

fn is_public(address: &Ipv4Addr) -> bool {
    is_public_v4(*address)
}

fn one_router() -> Finding {
    Hop::Network.well(
        SUBJECT,
        "one router translates, as in most homes: visitors come through the relay",
    )
}

fn two_routers(seen: String) -> Finding {
    Hop::Network.slow(
        SUBJECT,
        format!("addresses are translated twice (double NAT): {seen}; {MEANING}"),
        "nothing, if the relay is enough; otherwise set one of the two routers to pass everything on (bridge or modem mode), or \
         forward ports on both",
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Health;
    use super::*;

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn way_out(own: &str, seen_as: &str, outside: Option<&str>, routers: &[&str]) -> Finding {
        let way_out = WayOut {
            own: ip(own),
            seen_as: Some(ip(seen_as)),
            outside: outside.map(ip),
            routers: routers.iter().copied().map(ip).collect(),
        };
        way_out.judged()
    }

    #[test]
    fn what_the_router_says_outside_decides() {
        let home = "192.168.1.2";
        let one = way_out(
            home,
            "203.0.113.7",
            Some("203.0.113.7"),
            &["192.168.1.1", "10.0.0.1"],
        );
        assert_eq!(one.health, Health::Well, "{one:?}");
        for (outside, said) in [
            ("10.0.0.2", "double NAT"),
            ("203.0.113.99", "double NAT"),
            ("100.64.3.4", "many homes"),
        ] {
            let found = way_out(home, "203.0.113.7", Some(outside), &["192.168.1.1"]);
            assert_eq!(found.health, Health::Slow, "{found:?}");
            assert!(found.words.contains(said), "{found:?}");
        }
    }

    #[test]
    fn where_it_says_nothing_the_routers_on_the_way_do() {
        let found = |routers: &[&str]| way_out("192.168.1.2", "203.0.113.7", None, routers);
        assert_eq!(found(&[]).health, Health::Well);
        assert_eq!(found(&["192.168.1.1", "203.0.113.1"]).health, Health::Well);
        let twice = found(&["192.168.1.1", "10.0.0.1", "203.0.113.1"]);
        assert!(twice.words.contains("double NAT"), "{twice:?}");
        let carrier = found(&["192.168.1.1", "100.64.0.1"]);
        assert!(carrier.words.contains("many homes"), "{carrier:?}");
        // The provider's own network may have private addresses behind a public one.
        let inner = found(&["192.168.1.1", "203.0.113.1", "10.9.9.9"]);
        assert_eq!(inner.health, Health::Well, "{inner:?}");
    }

    #[test]
    fn a_device_with_a_public_address_has_nobody_translate() {
        let found = way_out("203.0.113.7", "203.0.113.7", None, &[]);
        assert_eq!(found.health, Health::Well);
        assert!(found.words.starts_with("none"), "{found:?}");
    }

    #[test]
    fn the_default_router_is_read_as_the_kernel_writes_it() {
        let router = u32::from_ne_bytes([192, 168, 1, 1]);
        let routes = format!(
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
             eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n\
             eth0\t00000000\t{router:08X}\t0003\t0\t0\t0\t00000000\n"
        );
        assert_eq!(default_router(&routes), Some(ip("192.168.1.1")));
        assert_eq!(default_router("Iface\tDestination\n"), None);
        assert_eq!(default_router(""), None);
    }

    #[tokio::test]
    async fn a_router_is_asked_until_it_answers() {
        let router = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = router.local_addr().unwrap();
        let asked = tokio::spawn(asked_at(address));
        let mut question = [0; 16];
        router.recv_from(&mut question).await.unwrap(); // as if it were lost
        let (length, from) = router.recv_from(&mut question).await.unwrap();
        assert_eq!(question[..length], nat_pmp::QUESTION);
        let answer = [0, 128, 0, 0, 0, 0, 0, 9, 10, 0, 0, 2];
        router.send_to(&answer, from).await.unwrap();
        assert_eq!(asked.await.unwrap().unwrap(), Some(ip("10.0.0.2")));
    }
}
