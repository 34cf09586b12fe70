//! The query string, or the path, of a DuckDNS update.
//!
//! | parameter | meaning |
//! |---|---|
//! | `domains` | devices by their labels or full names, separated by commas |
//! | `token` | their key |
//! | `ip` | an IPv4 or an IPv6 address; empty is the visitor's, unless there is an `ipv6` |
//! | `ipv6` | an IPv6 address; empty is none |
//! | `txt` | a challenge to add |
//! | `clear=true` | take the addresses back, or the challenges where there is a `txt`, whatever stands in it |
//! | `verbose=true` | say more |

#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::super::form::{decoded, items, pairs};
use crate::addresses::ChangeSet;
use crate::challenges::ChallengeValue;

/// The most domains in one request.
pub const MAX_DOMAINS: usize = 20;

/// What a request asks for.
#[derive(Debug)]
pub struct DuckRequest {
    /// As they were written; one more than [`MAX_DOMAINS`] at most.
    pub domains: Vec<String>,
    /// What proves who asks.
    pub token: Token,
    /// What is to become of the domains.
    pub wish: Wish,
    /// Whether the reply is to say more than one word.
    pub verbose: bool,
}

/// What is to become of the domains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// This of their addresses.
    Addresses(ChangeSet),
    /// They are to lead to whoever asks.
    VisitorsAddress,
    /// One challenge more.
    AddText(ChallengeValue),
    /// No challenges.
    ClearTexts,
    /// An address was none, a text was empty or too long, or both were asked for at once.
    Unreadable,
}

/// A key as it was shown. Not printable.
#[derive(Default)]
pub struct Token(String);

impl Token {
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl DuckRequest {
    /// Reads a query string, without its question mark.
    pub fn parse(query: &str) -> Self {
        let mut domains = Vec::new();
        let mut token = Token::default();
        let mut said = Said::default();
        let mut verbose = false;
        for (key, value) in pairs(query) {
            match key.as_str() {
                "domains" => domains.extend(items(&value).map(str::to_owned)),
                "token" => token = Token(value.trim().to_owned()),
                "ip" => said.ip = Some(value),
                "ipv6" => said.ipv6 = Some(value),
                "txt" => said.txt = Some(value),
                "clear" => said.clear = is_true(&value),
                "verbose" => verbose = is_true(&value),
                _ => {}
            }
        }
        domains.truncate(MAX_DOMAINS.saturating_add(1));
        Self {
            domains,
            token,
            wish: said.wish(),
            verbose,
        }
    }

    /// Reads a path: `/update/DOMAINS/TOKEN` or `/update/DOMAINS/TOKEN/ADDRESS`.
    pub fn parse_path(path: &str) -> Self {
        let parts = path.strip_prefix("/update/").unwrap_or_default();
        let mut parts = parts.split('/').map(decoded);
        let domains = parts.next().unwrap_or_default();
        let mut domains: Vec<_> = items(&domains).map(str::to_owned).collect();
        domains.truncate(MAX_DOMAINS.saturating_add(1));
        let token = Token(parts.next().unwrap_or_default());
        let said = Said {
            ip: parts.next(),
            ..Said::default()
        };
        let is_longer = parts.any(|part| !part.is_empty());
        Self {
            domains,
            token,
            wish: match is_longer {
                true => Wish::Unreadable,
                false => said.wish(),
            },
            verbose: false,
        }
    }
}

/// What was said of addresses and challenges.
#[derive(Default)]
struct Said {
    ip: Option<String>,
    ipv6: Option<String>,
    txt: Option<String>,
    clear: bool,
}

impl Said {
    fn wish(&self) -> Wish {
        let given = |value: &Option<String>| {
            let text = value.as_deref().unwrap_or_default().trim();
            (!text.is_empty()).then(|| text.to_owned())
        };
        let (ip, ipv6) = (given(&self.ip), given(&self.ipv6));
        if let Some(text) = &self.txt {
            let has_addresses = ip.is_some() || ipv6.is_some();
            return match (has_addresses, self.clear) {
                (true, _) => Wish::Unreadable,
                (false, true) => Wish::ClearTexts,
                (false, false) => {
                    ChallengeValue::new(text.as_bytes()).map_or(Wish::Unreadable, Wish::AddText)
                }
            };
        }
        if self.clear {
            return Wish::Addresses(ChangeSet::forget_all());
        }
        if ip.is_none() && ipv6.is_none() {
            return Wish::VisitorsAddress;
        }
        change(ip.as_deref(), ipv6.as_deref()).map_or(Wish::Unreadable, Wish::Addresses)
    }
}

/// `None` if one of them is no address, of the wrong family, or says something else of a family than the other.
fn change(ip: Option<&str>, ipv6: Option<&str>) -> Option<ChangeSet> {
    let mut change = ChangeSet::default();
    if let Some(ip) = ip {
        change = change.set(ip.parse().ok()?).ok()?;
    }
    if let Some(ipv6) = ipv6 {
        let ipv6 = IpAddr::V6(ipv6.parse::<Ipv6Addr>().ok()?);
        let before = change.addresses().find(IpAddr::is_ipv6);
        if ipv6.to_canonical().is_ipv4() || before.is_some_and(|before| before != ipv6) {
            return None;
        }
        change = change.set(ipv6).ok()?;
    }
    Some(change)
}

fn is_true(value: &str) -> bool {
    value.trim().eq_ignore_ascii_case("true")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wish(query: &str) -> Wish {
        DuckRequest::parse(query).wish
    }

    fn addresses(addresses: &[&str]) -> Wish {
        let change = addresses
            .iter()
            .map(|text| text.parse().unwrap())
            .try_fold(ChangeSet::default(), ChangeSet::set);
        Wish::Addresses(change.unwrap())
    }

    #[test]
    fn a_usual_request_is_read() {
        let request = DuckRequest::parse("domains=a,b.nas.test&token=t&ip=192.0.2.1&verbose=true");
        assert_eq!(request.domains, ["a", "b.nas.test"]);
        assert_eq!(request.token.reveal(), "t");
        assert_eq!(request.wish, addresses(&["192.0.2.1"]));
        assert!(request.verbose);
        assert!(!format!("{request:?}").contains("\"t\""));
    }

    #[test]
    fn addresses_are_of_one_family_or_of_both() {
        for (query, expected) in [
            (
                "ip=192.0.2.1&ipv6=2001:db8::1",
                &["192.0.2.1", "2001:db8::1"][..],
            ),
            ("ip=2001:db8::1", &["2001:db8::1"]),
            ("ip=&ipv6=2001:db8::1", &["2001:db8::1"]),
            ("ip=192.0.2.1&ipv6=", &["192.0.2.1"]),
            ("ip=2001:db8::1&ipv6=2001:db8::1", &["2001:db8::1"]),
        ] {
            assert_eq!(wish(query), addresses(expected), "{query}");
        }
        for query in ["", "ip=", "ip=&ipv6=", "domains=a&token=t"] {
            assert_eq!(wish(query), Wish::VisitorsAddress, "{query}");
        }
        assert_eq!(
            wish("clear=true&ip=192.0.2.1"),
            Wish::Addresses(ChangeSet::forget_all())
        );
    }

    #[test]
    fn a_text_is_a_challenge() {
        let value = ChallengeValue::new(b"a value").unwrap();
        assert_eq!(wish("txt=a+value&ip="), Wish::AddText(value));
        assert_eq!(wish("txt=&clear=true"), Wish::ClearTexts);
        assert_eq!(wish("txt=x&clear=TRUE"), Wish::ClearTexts);
    }

    #[test]
    fn what_makes_no_sense_is_not_guessed_at() {
        let long = format!("txt={}", "a".repeat(256));
        for query in [
            "ip=home",
            "ip=0.0.0.0",
            "ip=192.0.2.1,192.0.2.2",
            "ipv6=192.0.2.1",
            "ipv6=::ffff:192.0.2.1",
            "ip=2001:db8::1&ipv6=2001:db8::2",
            "txt=",
            "txt=a&ip=192.0.2.1",
            "txt=a&clear=true&ipv6=2001:db8::1",
            &long,
        ] {
            assert_eq!(wish(query), Wish::Unreadable, "{query}");
        }
    }

    #[test]
    fn a_path_says_the_same() {
        let request = DuckRequest::parse_path("/update/a,b/t/192.0.2.1");
        assert_eq!(request.domains, ["a", "b"]);
        assert_eq!(request.token.reveal(), "t");
        assert_eq!(request.wish, addresses(&["192.0.2.1"]));
        let wish = |path| DuckRequest::parse_path(path).wish;
        assert_eq!(wish("/update/a/t"), Wish::VisitorsAddress);
        assert_eq!(wish("/update/a/t/"), Wish::VisitorsAddress);
        assert_eq!(
            wish("/update/a/t/2001%3Adb8::1"),
            addresses(&["2001:db8::1"])
        );
        assert_eq!(wish("/update/a/t/home"), Wish::Unreadable);
        assert_eq!(wish("/update/a/t/192.0.2.1/more"), Wish::Unreadable);
        assert!(DuckRequest::parse_path("/update/").domains.is_empty());
    }

    #[test]
    fn many_domains_are_not_kept() {
        let many = "a,".repeat(1000);
        let asked = DuckRequest::parse(&format!("domains={many}"));
        assert_eq!(asked.domains.len(), MAX_DOMAINS + 1);
        let asked = DuckRequest::parse_path(&format!("/update/{many}/t"));
        assert_eq!(asked.domains.len(), MAX_DOMAINS + 1);
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in "\\PC{0,200}") {
            DuckRequest::parse(&text);
            DuckRequest::parse_path(&text);
        }
    }
}
