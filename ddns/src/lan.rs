//! Where a device is in its own network: what `lan.<device>` says, so that whoever is there too can reach it by a name that its
//! certificate is for.

use std::net::IpAddr;

use crate::addresses::{Addresses, ChangeSet};

/// The label in front of a device's own, as it is on the wire in lower case.
pub const LAN_LABEL: &[u8] = b"\x03lan";

/// The addresses of a device in its own network. None is one that strangers could be sent to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LanAddresses(Addresses);

impl LanAddresses {
    /// `None` if one of these is no [address of a LAN](is_of_lan).
    pub fn new(addresses: Addresses) -> Option<Self> {
        addresses.iter().all(is_of_lan).then_some(Self(addresses))
    }

    /// The device has set none, or has taken them back: then there is no such name.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// They answer A and AAAA.
    pub fn addresses(self) -> Addresses {
        self.0
    }
}

/// What an update asks for. A family that it does not name stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LanChange(ChangeSet);

impl LanChange {
    /// Also sets the family of `address`.
    ///
    /// # Errors
    /// If it is no [address of a LAN](is_of_lan).
    pub fn set(self, address: IpAddr) -> Result<Self, NotOfLan> {
        if !is_of_lan(address) {
            return Err(NotOfLan);
        }
        self.0.set(address).map(Self).map_err(|_| NotOfLan)
    }

    /// Also takes the IPv4 address back.
    pub fn forget_v4(self) -> Self {
        Self(self.0.forget_v4())
    }

    /// Also takes the IPv6 address back.
    pub fn forget_v6(self) -> Self {
        Self(self.0.forget_v6())
    }

    /// What this change makes of `before`.
    pub fn apply(self, before: LanAddresses) -> LanAddresses {
        LanAddresses(self.0.apply(before.0))
    }
}

/// Whether `address` can be a host's in a network at home, and nobody's out there: RFC 1918, or RFC 4193. One of a single link says
/// nothing without the name of an interface (RFC 4007 section 6), one of this machine leads whoever asks to itself, and an IPv4 address in
/// IPv6 clothes is none that can stand in a AAAA record.
pub fn is_of_lan(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private(),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

/// An address that is none of a private network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the address is none of a private network (RFC 1918, or fc00::/7)")]
pub struct NotOfLan;

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_what_is_private_is_of_a_lan() {
        for private in [
            "10.0.0.1",
            "10.255.255.255",
            "172.16.0.1",
            "172.31.255.254",
            "192.168.0.1",
            "fc00::1",
            "fdff:ffff::1",
        ] {
            assert!(LanChange::default().set(ip(private)).is_ok(), "{private}");
        }
        for other in [
            "0.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.1.1",
            "172.15.255.255",
            "172.32.0.1",
            "192.167.255.255",
            "192.169.0.1",
            "203.0.113.7",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:192.168.0.1",
            "fbff::1",
            "fe00::1",
            "fe80::1",
            "ff02::1",
            "2001:db8::1",
            "64:ff9b::c0a8:1",
        ] {
            let set = LanChange::default().set(ip(other));
            assert_eq!(set, Err(NotOfLan), "{other}");
        }
    }

    #[test]
    fn only_the_family_given_is_touched() {
        let set = |text: &str| LanChange::default().set(ip(text)).unwrap();
        let v4 = set("192.168.1.2").apply(LanAddresses::default());
        let both = set("fd00::2").apply(v4);
        let listed = |lan: LanAddresses| lan.addresses().iter().collect::<Vec<_>>();
        assert_eq!(listed(both), [ip("192.168.1.2"), ip("fd00::2")]);
        assert_eq!(LanChange::default().apply(both), both);
        assert_eq!(LanChange::default().forget_v6().apply(both), v4);
        assert!(LanChange::default().forget_v4().apply(v4).is_empty());
        let other = Addresses {
            v4: Some([203, 0, 113, 7].into()),
            ..both.addresses()
        };
        assert_eq!(LanAddresses::new(other), None);
        assert_eq!(LanAddresses::new(both.addresses()), Some(both));
    }
}
