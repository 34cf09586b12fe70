//! The query string of a dyn2 update.
//!
//! | parameter | meaning |
//! |---|---|
//! | `hostname` | full names, separated by commas; empty or `YES` is the device whose key it is |
//! | `host_id` | the same, where there is no `hostname` |
//! | `myip`, `ip` | an IPv4 address, an IPv6 address, or one of each with a comma between; empty is the visitor's |
//! | `myipv4`, `myipv6`, `ipv6` | an address of that family; empty takes the family back |
//! | `offline=YES` | take the own addresses back |
//!
//! In the place of an address, `preserve` leaves the family as it is, and `2001:db8:1::/48` moves the IPv6 address into another
//! network and keeps its other bits (deSEC's rule, and what `<ip6lanprefix>` of a FRITZ!Box is for). A family that is not named stays
//! as it is. Without any of it, the visitor's own address counts. `system`, `wildcard`, `mx` and `backmx` of the old days are passed
//! over.

#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use std::net::{IpAddr, Ipv6Addr};

use super::super::form::{items, pairs};
use crate::addresses::{ChangeSet, Prefix};

/// The most hosts in one request, as dyn2 had it.
pub const MAX_HOSTS: usize = 20;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateRequest {
    /// As they were written; one more than [`MAX_HOSTS`] at most. None is the device itself.
    pub hosts: Vec<String>,
    /// What is to become of them.
    pub wish: Wish,
}

/// What is to become of the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// This.
    Change(ChangeSet),
    /// They are to lead to whoever asks; and this, which sets nothing.
    VisitorsAddress(ChangeSet),
    /// An address was no address, of the wrong family, contradicted another, or is one where nobody can be reached.
    Unreadable,
}

impl UpdateRequest {
    /// Reads a query string, without its question mark.
    pub fn parse(query: &str) -> Self {
        let (mut hosts, mut host_ids) = (Vec::new(), Vec::new());
        let mut said = Said::default();
        let mut offline = false;
        for (key, value) in pairs(query) {
            match key.as_str() {
                "hostname" => hosts.extend(hosts_in(&value)),
                "host_id" => host_ids.extend(hosts_in(&value)),
                "myip" | "ip" => said.any_family(&value),
                "myipv4" => said.v4(&value),
                "myipv6" | "ipv6" => said.v6(&value),
                "offline" => offline |= value.trim().eq_ignore_ascii_case("yes"),
                _ => {}
            }
        }
        if hosts.is_empty() {
            hosts = host_ids;
        }
        hosts.truncate(MAX_HOSTS.saturating_add(1));
        let wish = match offline {
            true => Wish::Change(ChangeSet::forget_all()),
            false => said.wish(),
        };
        Self { hosts, wish }
    }
}

fn hosts_in(list: &str) -> impl Iterator<Item = String> {
    items(list)
        .filter(|host| !host.eq_ignore_ascii_case("yes"))
        .map(str::to_owned)
}

/// What was said of the addresses so far.
#[derive(Default)]
struct Said {
    v4: Option<Meaning>,
    v6: Option<Meaning>,
    /// `myip` or `ip` stood there, empty.
    visitors: bool,
    unreadable: bool,
}

/// What was said of one family.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Forget,
    Preserve,
    Address(IpAddr),
    Prefix(Prefix),
}

impl Said {
    fn any_family(&mut self, value: &str) {
        self.visitors |= items(value).next().is_none();
        for item in items(value) {
            match Meaning::read(item) {
                Some(word @ Meaning::Address(IpAddr::V6(_)) | word @ Meaning::Prefix(_)) => {
                    self.add_v6(word);
                }
                Some(word) => self.add_v4(word),
                None => self.unreadable = true,
            }
        }
    }

    fn v4(&mut self, value: &str) {
        let mut words = items(value).map(Meaning::read).peekable();
        if words.peek().is_none() {
            self.add_v4(Meaning::Forget);
        }
        for word in words {
            match word {
                Some(word @ (Meaning::Preserve | Meaning::Address(IpAddr::V4(_)))) => {
                    self.add_v4(word)
                }
                _ => self.unreadable = true,
            }
        }
    }

    fn v6(&mut self, value: &str) {
        let mut words = items(value).map(Meaning::read).peekable();
        if words.peek().is_none() {
            self.add_v6(Meaning::Forget);
        }
        for word in words {
            match word {
                Some(Meaning::Address(IpAddr::V4(_))) | None => self.unreadable = true,
                Some(word) => self.add_v6(word),
            }
        }
    }

    fn add_v4(&mut self, word: Meaning) {
        self.unreadable |= contradicts(&mut self.v4, word);
    }

    fn add_v6(&mut self, word: Meaning) {
        self.unreadable |= contradicts(&mut self.v6, word);
    }

    fn wish(&self) -> Wish {
        if self.unreadable {
            return Wish::Unreadable;
        }
        let words = [
            (self.v4, ChangeSet::forget_v4 as fn(ChangeSet) -> ChangeSet),
            (self.v6, ChangeSet::forget_v6),
        ];
        let mut change = ChangeSet::default();
        for (word, forget) in words {
            change = match word {
                None | Some(Meaning::Preserve) => change,
                Some(Meaning::Forget) => forget(change),
                Some(Meaning::Prefix(prefix)) => change.move_into(prefix),
                Some(Meaning::Address(address)) => match change.set(address) {
                    Ok(change) => change,
                    Err(_) => return Wish::Unreadable,
                },
            };
        }
        let is_silent = [self.v4, self.v6]
            .into_iter()
            .flatten()
            .all(|word| word == Meaning::Forget);
        let nothing_said = self.v4.is_none() && self.v6.is_none();
        match is_silent && (self.visitors || nothing_said) {
            true => Wish::VisitorsAddress(change),
            false => Wish::Change(change),
        }
    }
}

impl Meaning {
    fn read(item: &str) -> Option<Self> {
        if item.eq_ignore_ascii_case("preserve") {
            return Some(Self::Preserve);
        }
        let Some((address, length)) = item.split_once('/') else {
            let address: IpAddr = item.parse().ok()?;
            return Some(Self::Address(address.to_canonical()));
        };
        let address: Ipv6Addr = address.parse().ok()?;
        let is_number = length.bytes().all(|octet| octet.is_ascii_digit());
        let length = length.parse().ok().filter(|_| is_number)?;
        match length {
            Ipv6Addr::BITS => Some(Self::Address(IpAddr::V6(address).to_canonical())),
            length => Prefix::new(address, length).map(Self::Prefix),
        }
    }
}

/// Notes what else was said of a family, and says whether that contradicts what was said before. Nothing between commas is no
/// contradiction: some clients send an empty parameter for a family that they name elsewhere.
fn contradicts(before: &mut Option<Meaning>, word: Meaning) -> bool {
    match *before {
        None | Some(Meaning::Forget) => *before = Some(word),
        Some(there) => return word != Meaning::Forget && word != there,
    }
    false
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
        for query in ["", "hostname=a.nas.test", "myip=", "myip=,", "myip", "ip="] {
            let visitors = Wish::VisitorsAddress(ChangeSet::default());
            assert_eq!(wish(query), visitors, "{query}");
        }
        let without_v6 = ChangeSet::default().forget_v6();
        assert_eq!(wish("myip=&myipv6="), Wish::VisitorsAddress(without_v6));
        assert_eq!(wish("myip=&myipv6=2001:db8::1"), change(&["2001:db8::1"]));
        assert_eq!(wish("myip=&myipv4=preserve"), change(&[]));
    }

    #[test]
    fn a_family_is_taken_back_by_an_empty_value_and_left_by_preserve() {
        let (v4, v6) = (ChangeSet::forget_v4, ChangeSet::forget_v6);
        let nothing = ChangeSet::default();
        let address = nothing.set("192.0.2.1".parse().unwrap()).unwrap();
        for (query, change) in [
            ("myipv4=", v4(nothing)),
            ("myipv6", v6(nothing)),
            ("ipv6=,", v6(nothing)),
            ("myipv4=&myipv6=", ChangeSet::forget_all()),
            ("myip=192.0.2.1&myipv6=", v6(address)),
            ("myip=192.0.2.1&myipv4=&ip=", address),
            ("myipv4=192.0.2.1&myipv6=preserve", address),
            ("myipv6=preserve&myipv6=&ip=192.0.2.1", address),
            ("myip=preserve", nothing),
            ("myipv4=Preserve&myipv6=PRESERVE", nothing),
        ] {
            assert_eq!(wish(query), Wish::Change(change), "{query}");
        }
    }

    #[test]
    fn a_prefix_moves_a_family() {
        let network: Ipv6Addr = "2001:db8:1::".parse().unwrap();
        let prefix = Prefix::new(network, 48).unwrap();
        let moved = ChangeSet::default().move_into(prefix);
        for query in [
            "myipv6=2001:db8:1::/48",
            "ipv6=2001:db8:1:2:3::4/48",
            "myip=2001:db8:1::/48",
            "myipv6=2001%3Adb8%3A1%3A%3A%2F48&myipv6=2001:db8:1::/48",
        ] {
            assert_eq!(wish(query), Wish::Change(moved), "{query}");
        }
        let both = moved.set("192.0.2.1".parse().unwrap()).unwrap();
        let query = "myip=192.0.2.1&myipv6=2001:db8:1::/48";
        assert_eq!(wish(query), Wish::Change(both));
        assert_eq!(wish("myipv6=2001:db8::1/128"), change(&["2001:db8::1"]));
    }

    #[test]
    fn hosts_have_two_names_and_yes_is_none() {
        let hosts = |query| UpdateRequest::parse(query).hosts;
        assert_eq!(hosts("host_id=a.nas.test"), ["a.nas.test"]);
        assert_eq!(hosts("host_id=b&hostname=a.nas.test"), ["a.nas.test"]);
        assert_eq!(hosts("hostname=YES&host_id=b.nas.test"), ["b.nas.test"]);
        for query in ["", "hostname=", "hostname=YES", "hostname=yes,&host_id="] {
            assert!(hosts(query).is_empty(), "{query}");
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
            "myipv6=2001:db8::/",
            "myipv6=2001:db8::/+48",
            "myipv6=2001:db8::/129",
            "myipv6=2001:db8::/0",
            "myipv6=::/64",
            "myipv6=2001:db8::1,2001:db8::/48",
            "myipv6=2001:db8::1,preserve",
            "myipv4=2001:db8::/48",
        ] {
            assert_eq!(wish(query), Wish::Unreadable, "{query}");
        }
    }

    #[test]
    fn many_hosts_are_not_kept() {
        let query = format!("hostname={}", "a.nas.test,".repeat(1000));
        assert_eq!(UpdateRequest::parse(&query).hosts.len(), MAX_HOSTS + 1);
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(query in "\\PC{0,200}") {
            UpdateRequest::parse(&query);
        }
    }
}
