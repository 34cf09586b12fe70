//! `lan.` in front of the device's name: whether this network's name server tells where it leads. Many routers hold back answers with
//! private addresses ("rebind protection"), and then nobody at home comes to the device by that name.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::agent::status::Status;
use crate::resolve::Resolver;

use super::finding::{Finding, Hop};
use super::name::{listed, said_by_zone};

/// What was heard of it.
#[derive(Debug)]
pub(super) struct AtHome {
    name: String,
    /// Where this system says that it leads; nothing where it finds no such name.
    here: BTreeSet<IpAddr>,
    /// What the zone's own name server says, if it was heard.
    zone: Option<BTreeSet<IpAddr>>,
}

impl AtHome {
    /// Asks this system and the zone, of whose device `name` is.
    pub(super) async fn ask(resolver: Resolver, name: &str, zone: &str) -> Self {
        let name = format!("lan.{name}");
        let (here, zone) = tokio::join!(
            resolver.resolve(&name, 443),
            said_by_zone(resolver, &name, zone)
        );
        let here = here.unwrap_or_default();
        Self {
            here: here.iter().map(SocketAddr::ip).collect(),
            zone,
            name,
        }
    }

    /// `None` if the device says nowhere that it is at home. `of_device` is where the zone leads its own name.
    pub(super) fn judged(
        self,
        of_device: Option<&BTreeSet<IpAddr>>,
        status: Option<&Status>,
    ) -> Option<Finding> {
        let told = status.and_then(|status| status.lan.as_ref());
        let told = told.filter(|told| told.version.is_some());
        let told: BTreeSet<_> = told
            .iter()
            .flat_map(|told| &told.addresses)
            .copied()
            .collect();
        self.judged_by(of_device, told)
    }

    fn judged_by(
        self,
        of_device: Option<&BTreeSet<IpAddr>>,
        told: BTreeSet<IpAddr>,
    ) -> Option<Finding> {
        // What the agent has told is in the zone, and without an agent the zone knows.
        let in_zone = self.zone.clone().filter(|zone| zone.iter().all(is_of_lan));
        let in_zone = in_zone.filter(|zone| of_device != Some(zone) || !told.is_empty());
        let there = in_zone.unwrap_or(told);
        if there.is_empty() {
            return None;
        }
        let missing: BTreeSet<_> = there.difference(&self.here).copied().collect();
        let subject = self.name;
        if missing.is_empty() {
            let words = format!("leads to {}, at home", listed(&there));
            return Some(Hop::Name.well(subject, words));
        }
        let other: BTreeSet<_> = self.here.difference(&there).copied().collect();
        if !other.is_empty() {
            let words = format!(
                "this network's name server says {}, and the zone {}",
                listed(&other),
                listed(&there)
            );
            let mend = "wait for a minute or two, if it has changed just now; otherwise empty that name server's cache";
            return Some(Hop::Name.slow(subject, words, mend));
        }
        let words = format!(
            "the zone says {}, and this network's name server holds that back: nobody at home comes to the device by this name",
            listed(&missing)
        );
        let mend = format!(
            "exempt {subject} from the router's rebind protection (dnsmasq: `rebind-domain-ok={subject}`), and no more than that name; \
             others use the device's own name, which leads here by the relay"
        );
        Some(Hop::Name.slow(subject, words, mend))
    }
}

fn is_of_lan(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private(),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Health;
    use super::*;

    fn set(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// What is found where this system, the zone, and the agent say so.
    fn judged(here: &[&str], zone: Option<&[&str]>, told: &[&str]) -> Option<Finding> {
        let at_home = AtHome {
            name: "lan.mynas.example.com".to_owned(),
            here: set(here),
            zone: zone.map(set),
        };
        at_home.judged_by(Some(&set(&["203.0.113.7"])), set(told))
    }

    const HOME: &[&str] = &["192.168.1.2"];

    #[test]
    fn a_router_that_holds_back_what_leads_home_is_named() {
        for (here, zone, told) in [
            (&[][..], Some(HOME), HOME),
            (&[], Some(HOME), &[]),
            (&[], None, HOME),
            (HOME, Some(&["192.168.1.2", "fd00::2"]), &[]),
        ] {
            let found = judged(here, zone, told).unwrap();
            assert_eq!(found.health, Health::Slow, "{found:?}");
            assert!(found.words.contains("holds that back"), "{found:?}");
            let mend = found.mend.unwrap();
            assert!(mend.contains("exempt lan.mynas.example.com "), "{mend}");
        }
    }

    #[test]
    fn nothing_is_said_of_a_device_that_does_not_say_where_it_is_at_home() {
        assert_eq!(judged(&[], None, &[]), None);
        // The wildcard answers, or nobody does.
        assert_eq!(judged(&["203.0.113.7"], Some(&["203.0.113.7"]), &[]), None);
        assert_eq!(judged(&[], Some(&[]), &[]), None);
        let private = AtHome {
            name: "lan.mynas.example.com".to_owned(),
            here: set(&[]),
            zone: Some(set(HOME)),
        };
        assert_eq!(private.judged_by(Some(&set(HOME)), set(&[])), None);
    }

    #[test]
    fn a_name_that_leads_home_is_well_and_an_old_answer_is_no_filter() {
        let well = judged(HOME, Some(HOME), HOME).unwrap();
        assert_eq!(well.health, Health::Well, "{well:?}");
        let old = judged(&["192.168.1.9"], Some(HOME), HOME).unwrap();
        assert_eq!(old.health, Health::Slow, "{old:?}");
        assert!(!old.words.contains("holds"), "{old:?}");
    }
}
