//! The query string of an update.
//!
//! | parameter | meaning |
//! |---|---|
//! | `hostname` | full names, separated by commas |
//! | `myip` | an IPv4 address, an IPv6 address, or one of each with a comma between |
//! | `myipv4`, `myipv6` | an address of that family |
//! | `offline=YES` | take the own addresses back |
//!
//! Without any address, the visitor's own counts. An empty value is none: some clients send one for a family that they
//! do not have. `system`, `wildcard`, `mx` and `backmx` of the old days are passed over.

#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::addresses::{Addresses, ChangeSet};

/// The most hosts in one request, as dyn2 had it.
pub const MAX_HOSTS: usize = 20;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateRequest {
    /// As they were written; one more than [`MAX_HOSTS`] at most.
    pub hosts: Vec<String>,
    /// What is to become of them.
    pub wish: Wish,
}

/// What is to become of the hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// This.
    Change(ChangeSet),
    /// They are to lead to whoever asks.
    VisitorsAddress,
    /// An address was no address, of the wrong family, contradicted another, or is one where nobody can be reached.
    Unreadable,
}

impl UpdateRequest {
    /// Reads a query string, without its question mark.
    pub fn parse(query: &str) -> Self {
        let mut hosts = Vec::new();
        let mut given = Given::default();
        let mut offline = false;
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value);
            match decoded(key).as_str() {
                "hostname" => hosts.extend(items(&value).map(str::to_owned)),
                "myip" => items(&value).for_each(|text| given.add(text.parse().ok())),
                "myipv4" => items(&value)
                    .for_each(|text| given.add(text.parse::<Ipv4Addr>().ok().map(IpAddr::V4))),
                "myipv6" => items(&value)
                    .for_each(|text| given.add(text.parse::<Ipv6Addr>().ok().map(IpAddr::V6))),
                "offline" => offline |= value.trim().eq_ignore_ascii_case("yes"),
                _ => {}
            }
        }
        hosts.truncate(MAX_HOSTS.saturating_add(1));
        let wish = if offline {
            Wish::Change(ChangeSet::forget_all())
        } else {
            given.wish()
        };
        Self { hosts, wish }
    }
}

/// The addresses given so far.
#[derive(Default)]
struct Given {
    addresses: Addresses,
    unreadable: bool,
}

impl Given {
    fn add(&mut self, address: Option<IpAddr>) {
        let contradicted = match address.map(|address| address.to_canonical()) {
            Some(IpAddr::V4(v4)) => self.addresses.v4.replace(v4).is_some_and(|v| v != v4),
            Some(IpAddr::V6(v6)) => self.addresses.v6.replace(v6).is_some_and(|v| v != v6),
            None => true,
        };
        self.unreadable |= contradicted;
    }

    fn wish(&self) -> Wish {
        if self.unreadable {
            return Wish::Unreadable;
        }
        if self.addresses.is_empty() {
            return Wish::VisitorsAddress;
        }
        let v4 = self.addresses.v4.map(IpAddr::V4);
        let v6 = self.addresses.v6.map(IpAddr::V6);
        v4.into_iter()
            .chain(v6)
            .try_fold(ChangeSet::default(), ChangeSet::set)
            .map_or(Wish::Unreadable, Wish::Change)
    }
}

fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

/// Undoes percent-encoding and `+`; what is not well encoded stays as it is.
fn decoded(text: &str) -> String {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let (octet, after) = match (first, behind) {
            (b'+', _) => (b' ', behind),
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (first, behind),
            },
            _ => (first, behind),
        };
        octets.push(octet);
        rest = after;
    }
    String::from_utf8_lossy(&octets).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wish(query: &str) -> Wish {
        UpdateRequest::parse(query).wish
    }

    fn change(addresses: &[&str]) -> Wish {
        let change = addresses
            .iter()
            .map(|text| text.parse().unwrap())
            .try_fold(ChangeSet::default(), ChangeSet::set);
        Wish::Change(change.unwrap())
    }

    #[test]
    fn a_usual_request_is_read() {
        let request = UpdateRequest::parse(
            "system=dyndns&hostname=a.nas.test,b.nas.test&myip=192.0.2.1&wildcard=ON&mx=&backmx=YES",
        );
        assert_eq!(request.hosts, ["a.nas.test", "b.nas.test"]);
        assert_eq!(request.wish, change(&["192.0.2.1"]));
    }

    #[test]
    fn addresses_come_in_many_ways() {
        let both = change(&["192.0.2.1", "2001:db8::1"]);
        for query in [
            "myip=192.0.2.1,2001:db8::1",
            "myip=2001:db8::1,192.0.2.1",
            "myip=2001%3Adb8%3A%3A1%2C192.0.2.1",
            "myip=192.0.2.1&myipv6=2001:db8::1",
            "myipv4=192.0.2.1&myipv6=2001:db8::1",
            "myip=192.0.2.1&myipv4=192.0.2.1&myipv6=2001:DB8::1",
            "myip=+192.0.2.1+,,2001:db8::1",
        ] {
            assert_eq!(wish(query), both, "{query}");
        }
        assert_eq!(wish("myipv6=2001:db8::1"), change(&["2001:db8::1"]));
        assert_eq!(wish("myip=::ffff:192.0.2.1"), change(&["192.0.2.1"]));
    }

    #[test]
    fn without_an_address_the_visitors_counts() {
        for query in ["", "hostname=a.nas.test", "myip=", "myip=,&myipv6=", "myip"] {
            assert_eq!(wish(query), Wish::VisitorsAddress, "{query}");
        }
    }

    #[test]
    fn offline_takes_all_back() {
        let offline = Wish::Change(ChangeSet::forget_all());
        assert_eq!(wish("offline=YES"), offline);
        assert_eq!(wish("offline=yes&myip=192.0.2.1"), offline);
        assert_eq!(wish("offline=NO&myip=192.0.2.1"), change(&["192.0.2.1"]));
    }

    #[test]
    fn what_is_no_address_is_not_guessed_at() {
        for query in [
            "myip=here",
            "myip=192.0.2.256",
            "myip=192.0.2.1/24",
            "myip=192.0.2.1,192.0.2.2",
            "myip=192.0.2.1&myipv4=192.0.2.2",
            "myipv4=2001:db8::1",
            "myipv6=192.0.2.1",
            "myip=fe80::1%25eth0",
            "myip=0.0.0.0",
            "myip=255.255.255.255",
            "myip=224.0.0.1",
            "myipv6=::",
            "myipv6=ff02::1",
            "myip=192.0.2.1,::",
        ] {
            assert_eq!(wish(query), Wish::Unreadable, "{query}");
        }
    }

    #[test]
    fn many_hosts_are_not_kept() {
        let query = format!("hostname={}", "a.nas.test,".repeat(1000));
        assert_eq!(UpdateRequest::parse(&query).hosts.len(), MAX_HOSTS + 1);
    }

    #[test]
    fn bad_encoding_stays_as_it_is() {
        assert_eq!(decoded("a%2"), "a%2");
        assert_eq!(decoded("%zz%41%e9+"), "%zzA\u{FFFD} ");
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(query in "\\PC{0,200}") {
            UpdateRequest::parse(&query);
        }
    }
}
