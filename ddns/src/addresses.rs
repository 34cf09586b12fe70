//! Where a device says it is, and how it says that this has changed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The own addresses of a device: those that an update has set. Without any, its name leads to the relays that
/// hold it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Addresses {
    /// Answers A.
    pub v4: Option<Ipv4Addr>,
    /// Answers AAAA.
    pub v6: Option<Ipv6Addr>,
}

impl Addresses {
    /// No update has set any, or the last one has taken them back.
    pub fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// Every address there is, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v4 = self.v4.map(IpAddr::V4);
        let v6 = self.v6.map(IpAddr::V6);
        v4.into_iter().chain(v6)
    }
}

/// What an update asks for. A family that it does not name stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangeSet {
    v4: Family<Ipv4Addr>,
    v6: Family<Ipv6Addr>,
    /// What becomes of the IPv6 address that the device has then, if it has one.
    prefix: Option<Prefix>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Family<A> {
    #[default]
    Keep,
    Set(A),
    Forget,
}

impl ChangeSet {
    /// Takes both families back: the name leads to the relay again.
    pub fn forget_all() -> Self {
        Self::default().forget_v4().forget_v6()
    }

    /// Also takes the IPv4 address back.
    pub fn forget_v4(self) -> Self {
        Self {
            v4: Family::Forget,
            ..self
        }
    }

    /// Also takes the IPv6 address back.
    pub fn forget_v6(self) -> Self {
        Self {
            v6: Family::Forget,
            prefix: None,
            ..self
        }
    }

    /// Also moves the device's IPv6 address into `prefix`. A device without one still has none then.
    pub fn move_into(self, prefix: Prefix) -> Self {
        Self {
            v6: Family::Keep,
            prefix: Some(prefix),
            ..self
        }
    }

    /// Also sets the family of `address`. An IPv4 address in IPv6 clothes (`::ffff:192.0.2.1`) is an IPv4 address.
    ///
    /// # Errors
    /// If nobody can ever be reached at `address`.
    pub fn set(self, address: IpAddr) -> Result<Self, Unreachable> {
        Ok(match reachable(address)? {
            IpAddr::V4(v4) => Self {
                v4: Family::Set(v4),
                ..self
            },
            IpAddr::V6(v6) => Self {
                v6: Family::Set(v6),
                prefix: None,
                ..self
            },
        })
    }

    /// What this change makes of `before`.
    pub fn apply(&self, before: Addresses) -> Addresses {
        let v6 = self.v6.apply(before.v6);
        Addresses {
            v4: self.v4.apply(before.v4),
            v6: match self.prefix {
                Some(prefix) => v6.map(|address| prefix.with_interface_of(address)),
                None => v6,
            },
        }
    }

    /// Whether it names the family of `address`, whatever it makes of it.
    pub fn touches(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(_) => self.v4 != Family::Keep,
            IpAddr::V6(_) => self.v6 != Family::Keep || self.prefix.is_some(),
        }
    }

    /// The network into which it moves the IPv6 address.
    pub fn prefix(&self) -> Option<Prefix> {
        self.prefix
    }

    /// The addresses that are set here, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.apply(Addresses::default()).iter()
    }
}

impl<A> Family<A> {
    fn apply(self, before: Option<A>) -> Option<A> {
        match self {
            Self::Keep => before,
            Self::Set(address) => Some(address),
            Self::Forget => None,
        }
    }
}

/// The network of a home: what changes of all its addresses when its provider gives it another (RFC 4291 section 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    network: Ipv6Addr,
    length: u32,
}

impl Prefix {
    /// With fewer bits of the network, those of the interface would have a say in whether an address is public.
    const LEAST: u32 = 16;

    /// The first `length` bits of `address`. `None` if these are not 16 to 127, or nobody can be reached in that network.
    pub fn new(address: Ipv6Addr, length: u32) -> Option<Self> {
        let [first, ..] = address.segments();
        let is_possible = first != 0 && !address.is_multicast();
        if !is_possible || !(Self::LEAST..Ipv6Addr::BITS).contains(&length) {
            return None;
        }
        let network = Ipv6Addr::from_bits(address.to_bits() & Self::mask(length));
        Some(Self { network, length })
    }

    /// Its first address.
    pub fn network(self) -> Ipv6Addr {
        self.network
    }

    /// The address in it whose other bits are those of `address`.
    fn with_interface_of(self, address: Ipv6Addr) -> Ipv6Addr {
        let interface = address.to_bits() & !Self::mask(self.length);
        Ipv6Addr::from_bits(self.network.to_bits() | interface)
    }

    fn mask(length: u32) -> u128 {
        !u128::MAX.checked_shr(length).unwrap_or(0)
    }
}

/// `address` without its IPv6 clothes, if it has any.
///
/// # Errors
/// If nobody can ever be reached there.
pub fn reachable(address: IpAddr) -> Result<IpAddr, Unreachable> {
    let address = address.to_canonical();
    let is_broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    match address.is_unspecified() || address.is_multicast() || is_broadcast {
        true => Err(Unreachable),
        false => Ok(address),
    }
}

/// Whether strangers can be meant to reach `address`: it is not private, shared by a provider's customers, of one link or one
/// machine, reserved, or nobody's (RFC 6890; RFC 1918, 6598, 3927, 4193, 4291).
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            let is_shared = first == 100 && second & 0xC0 == 64;
            let is_reserved = first == 0 || first >= 240;
            !(v4.is_private()
                || is_shared
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || is_reserved)
        }
        IpAddr::V6(v6) => {
            !(v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_unique_local()
                || v6.is_unicast_link_local()
                || v6.is_multicast())
        }
    }
}

/// Unspecified, multicast or broadcast: nobody can be reached there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody can be reached at an unspecified, multicast or broadcast address")]
pub struct Unreachable;

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_the_family_given_is_touched() {
        let both = ChangeSet::default()
            .set(ip("192.0.2.1"))
            .and_then(|change| change.set(ip("2001:db8::1")))
            .unwrap()
            .apply(Addresses::default());
        let v4_only = ChangeSet::default().set(ip("192.0.2.9")).unwrap();
        assert_eq!(
            v4_only.apply(both),
            Addresses {
                v4: Some(Ipv4Addr::new(192, 0, 2, 9)),
                ..both
            }
        );
        assert_eq!(ChangeSet::default().apply(both), both);
        assert!(ChangeSet::forget_all().apply(both).is_empty());
    }

    #[test]
    fn a_prefix_moves_the_address_there_is_and_makes_none() {
        let v6 = |text: &str| text.parse::<Ipv6Addr>().unwrap();
        let home = |text: &str, length| {
            ChangeSet::default().move_into(Prefix::new(v6(text), length).unwrap())
        };
        let before = Addresses {
            v4: Some(Ipv4Addr::new(192, 0, 2, 1)),
            v6: Some(v6("2001:db8:1:2:a::7")),
        };
        for (network, length, after) in [
            ("2001:db8:9:8::", 64, "2001:db8:9:8:a::7"),
            ("2001:db8:9:8::ffff", 64, "2001:db8:9:8:a::7"),
            ("2001:db8:9:ff00::", 56, "2001:db8:9:ff02:a::7"),
            ("2001:db8:9::", 48, "2001:db8:9:2:a::7"),
        ] {
            let moved = home(network, length).apply(before);
            assert_eq!(moved.v6, Some(v6(after)), "{network}/{length}");
            assert_eq!(moved.v4, before.v4);
        }
        let nowhere = home("2001:db8:9::", 48).apply(Addresses::default());
        assert!(nowhere.is_empty());
        // The last word on a family counts.
        let set = home("2001:db8:9::", 48).set(ip("2001:db8::1")).unwrap();
        assert_eq!(set.apply(before).v6, Some(v6("2001:db8::1")));
        assert_eq!(set.forget_v6().apply(before).v6, None);
        for (network, length) in [
            ("2001:db8::", 15),
            ("2001:db8::", 128),
            ("::", 64),
            ("::ffff:192.0.2.1", 96),
            ("ff02::", 64),
        ] {
            assert_eq!(Prefix::new(v6(network), length), None, "{network}/{length}");
        }
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_is_an_ipv4_address() {
        let change = ChangeSet::default().set(ip("::ffff:192.0.2.1")).unwrap();
        assert_eq!(change.addresses().collect::<Vec<_>>(), [ip("192.0.2.1")]);
    }

    #[test]
    fn what_is_private_reserved_or_of_one_link_is_not_public() {
        for private in [
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.1.1",
            "172.16.0.1",
            "172.31.0.1",
            "192.168.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!is_public(ip(private)), "{private}");
        }
        for public in [
            "100.63.0.1",
            "100.128.0.1",
            "172.32.0.1",
            "203.0.113.7",
            "2001:db8::1",
            "::ffff:203.0.113.7",
        ] {
            assert!(is_public(ip(public)), "{public}");
        }
    }

    #[test]
    fn where_nobody_can_be_reached_is_refused() {
        for bad in [
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "::",
            "ff02::1",
            "::ffff:0.0.0.0",
        ] {
            assert_eq!(ChangeSet::default().set(ip(bad)), Err(Unreachable), "{bad}");
        }
        for good in ["10.0.0.1", "127.0.0.1", "2001:db8::1", "fe80::1", "::1"] {
            assert!(ChangeSet::default().set(ip(good)).is_ok(), "{good}");
        }
    }
}
