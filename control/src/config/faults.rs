//! What is wrong with a configuration, and what no single value of it shows.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;

use super::Config;
use crate::apart::membership::Membership;

/// More addresses than a relay has; so many still fit into one DNS answer over UDP.
const MAX_PUBLIC: usize = 16;

/// More networks than proxies before a front are in. Each connection is looked for in all of them.
const MAX_PROXIES: usize = 64;

/// What is wrong with a configuration, all of it. Always the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{}: {cause}", file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// It can be read, and says things that cannot be.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Faults(Vec<Fault>),
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it was said.
    pub place: FaultPlace,
    /// What is wrong, and what would be right.
    pub sentence: String,
}

/// Where a wrong thing was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultPlace {
    /// In a file, on a line, from 1.
    Line(PathBuf, usize),
    /// On the command line, by this option.
    Option(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            FaultPlace::Line(file, line) => write!(f, "{}:{line}: ", file.display())?,
            FaultPlace::Option(option) => write!(f, "{option}: ")?,
        }
        f.write_str(&self.sentence)
    }
}

impl Config {
    /// What no single value shows: addresses that cannot be had here, and values that contradict each other. Each with
    /// the key it is about; a number in a key counts the entries of a list, from 0.
    pub(super) fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let mut fault = |key: &str, sentence: String| faults.push((key.to_owned(), sentence));
        let listeners = self.listeners();
        for (i, &(key, address)) in listeners.iter().enumerate() {
            if let Err(error) = std::net::TcpListener::bind((address.ip(), 0)) {
                let sentence = format!("{} cannot be listened on here: {error}", address.ip());
                fault(key, sentence);
            }
            let mut before = listeners.iter().take(i);
            if let Some((other, _)) = before.find(|(_, other)| overlap(*other, address)) {
                fault(key, format!("{address} is taken by {other} already"));
            }
        }
        if !self.admin.listen.ip().to_canonical().is_loopback() {
            let sentence = "metrics and health are for this host alone: choose an address of loopback, such as 127.0.0.1";
            fault("admin.listen", sentence.to_owned());
        }
        let public = &self.relay.public;
        if public.is_empty() && self.relay.front.ip().is_unspecified() {
            let sentence = "the front listens on every address, so `public` in [relay] must say under which of them it \
                            is reached from outside";
            fault("relay.front", sentence.to_owned());
        }
        if public.len() > MAX_PUBLIC {
            let sentence = format!(
                "{} addresses are too many, {MAX_PUBLIC} can be",
                public.len()
            );
            fault("relay.public", sentence);
        }
        for (i, ip) in public.iter().enumerate() {
            if ip.is_unspecified() || ip.is_multicast() {
                fault(
                    &format!("relay.public.{i}"),
                    format!("nobody can be reached at {ip}"),
                );
            }
        }
        let proxies = self.relay.proxy_from.len();
        if proxies > MAX_PROXIES {
            let sentence = format!("{proxies} networks are too many, {MAX_PROXIES} can be");
            fault("relay.proxy_from", sentence);
        }
        if let Some(ports) = self.relay.ports {
            for (key, address) in &listeners {
                let port = NonZeroU16::new(address.port());
                if port.is_some_and(|port| ports.contains(port)) {
                    let sentence = format!(
                        "{} is one of {ports}, which devices may have",
                        address.port()
                    );
                    fault(key, sentence);
                }
            }
        }
        if let Some(join) = &self.relay.join {
            match Membership::read(join) {
                Ok(joined) if joined.zone != self.zone => {
                    let sentence = format!(
                        "{} is the zone of {}, and {} is the zone here",
                        joined.zone,
                        join.display(),
                        self.zone
                    );
                    fault("relay.join", sentence);
                }
                Ok(_) => {}
                Err(error) => fault("relay.join", error.to_string()),
            }
            if self.certificate_watch.is_some() {
                let sentence = "a relay that joins another server follows no logs: leave [certificate_watch] out";
                fault("certificate_watch.log", sentence.to_owned());
            }
            if self.ddns.is_some() {
                let sentence = "a relay that joins another server answers no DNS: leave [ddns] out";
                fault("ddns.listen", sentence.to_owned());
            }
        }
        let records = self.records.iter().flat_map(|records| records.faults());
        for (key, sentence) in records {
            fault(&format!("records.{key}"), sentence);
        }
        for (key, sentence) in self.acme.iter().flat_map(|acme| acme.faults()) {
            fault(&format!("acme.{key}"), sentence);
        }
        if self.acme.is_some() && self.ddns.is_none() {
            let sentence = "certificate authorities look into the DNS, and without [ddns] nothing can be put there for them";
            fault("acme.ca", sentence.to_owned());
        }
        let watch = self.certificate_watch.iter();
        for (key, sentence) in watch.flat_map(|watch| watch.faults()) {
            fault(&format!("certificate_watch.{key}"), sentence);
        }
        for (key, sentence) in self.relay.limits.faults() {
            fault(&format!("relay.limits.{key}"), sentence);
        }
        if let Some(ddns) = &self.ddns
            && let Err(error) = ddns::zone::check(&self.zone, ddns)
        {
            // Of several records with one name the last is the one too many.
            let named = |record: &ddns::config::Record| error.name() == Some(&record.name);
            let i = ddns.record.iter().rposition(named).unwrap_or(0);
            fault(&format!("ddns.record.{i}"), error.to_string());
        }
        faults
    }

    fn listeners(&self) -> Vec<(&'static str, SocketAddr)> {
        let mut listeners = vec![("relay.front", self.relay.front)];
        listeners.extend(self.relay.http.map(|address| ("relay.http", address)));
        listeners.extend(self.ddns.as_ref().map(|ddns| ("ddns.listen", ddns.listen)));
        let dot = self.ddns.as_ref().and_then(|ddns| ddns.dot);
        listeners.extend(dot.map(|address| ("ddns.dot", address)));
        listeners.push(("admin.listen", self.admin.listen));
        listeners
    }
}

/// Whether both cannot be listened on. Every listener here takes TCP, so that the port alone decides for one address.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    /// `[::]` takes IPv4 as well.
    fn covers(all: IpAddr, one: IpAddr) -> bool {
        all.is_unspecified() && (all.is_ipv6() || one.is_ipv4())
    }
    let (a_ip, b_ip) = (a.ip().to_canonical(), b.ip().to_canonical());
    let same = a_ip == b_ip || covers(a_ip, b_ip) || covers(b_ip, a_ip);
    same && a.port() == b.port() && a.port() != 0
}

#[cfg(test)]
mod tests {
    use super::super::Overrides;
    use super::super::tests::{GOOD, fault, faults, read, records_key};

    #[test]
    fn proxies_are_networks_or_their_line_says_why_not() {
        let proxies = |list: &str| GOOD.replace("drain", &format!("proxy_from = [{list}]\ndrain"));
        let good = proxies("\"192.0.2.0/24\", \"2001:db8::/32\", \"198.51.100.7\"");
        let config = read(&good, &Overrides::default()).unwrap();
        let read: Vec<_> = config
            .relay
            .proxy_from
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(read, ["192.0.2.0/24", "2001:db8::/32", "198.51.100.7/32"]);
        for (bad, sentence) in [
            ("\"192.0.2.1/24\"", "the network is 192.0.2.0/24"),
            ("\"0.0.0.0/0\"", "each visitor could say who it is"),
            ("\"lb.example\"", "one looks like 192.0.2.0/24"),
            ("7", "expected a string"),
            (&"\"192.0.2.1\",".repeat(65), "65 networks are too many"),
        ] {
            let fault = fault(&proxies(bad));
            assert!(fault.starts_with("causeway.toml:8: "), "{fault}");
            assert!(fault.contains(sentence), "{fault}");
        }
    }

    #[test]
    fn ports_for_devices_are_a_range_in_which_nothing_else_is() {
        let ports = |range: &str| GOOD.replace("drain", &format!("ports = \"{range}\"\ndrain"));
        let config = read(&ports("20000-20999"), &Overrides::default()).unwrap();
        assert_eq!(config.relay.ports.unwrap().to_string(), "20000-20999");
        assert!(
            read(GOOD, &Overrides::default())
                .unwrap()
                .relay
                .ports
                .is_none()
        );
        for (bad, sentence) in [
            ("20999-20000", "8: \"20999-20000\" is no range of ports"),
            ("80-90", "begins at 1024 at least"),
            ("8443-8500", "6: relay.front: 8443 is one of 8443-8500"),
        ] {
            let fault = fault(&ports(bad));
            assert!(fault.contains(sentence), "{fault}");
        }
    }

    #[test]
    fn limits_are_read_and_what_cannot_be_is_told_with_its_line() {
        let limited = |limits: &str| format!("{GOOD}\n[relay.limits]\n{limits}\n");
        let good = limited("visitors_per_device = 50\nbytes_per_second_per_device = \"10MB\"");
        let config = read(&good, &Overrides::default()).unwrap();
        assert_eq!(config.relay.limits.visitors_per_device, Some(50));
        assert_eq!(
            config.relay.limits.bytes_per_second_per_device,
            Some(10_000_000)
        );
        for (bad, sentence) in [
            (
                "unnamed = 3",
                "14: relay.limits.unnamed: 3 cannot be; from 16 to",
            ),
            (
                "bytes_per_second_per_device = \"1kB\"",
                "14: relay.limits.bytes_per_second_per_device: 1kB cannot be; from 16kB to",
            ),
            (
                "bytes_per_second_per_device = \"10\"",
                "its unit, such as 10MB",
            ),
            ("visitor = 1", "unknown field `visitor`"),
        ] {
            let fault = fault(&limited(bad));
            assert!(fault.contains(sentence), "{fault}");
        }
    }

    #[test]
    fn a_records_section_without_a_good_key_is_none() {
        let with = |rest: &str| format!("{GOOD}[records]\n{rest}\n");
        let key = records_key();
        let good = format!("key = \"{key}\"");
        assert_eq!(faults(&with(&good)), Vec::<String>::new());
        for (rest, line, said) in [
            (String::new(), 12, "missing field `key`"),
            (
                "key = \"PUBLIC_KEY\"".to_owned(),
                13,
                "this is no public key for records",
            ),
            (
                format!("key = \"{}\"", &key[..key.len() - 1]),
                13,
                "not as it was made",
            ),
            (
                format!("{good}\nkeep = \"1h\""),
                14,
                "records.keep: records are kept for whole days",
            ),
            (
                format!("{good}\nfolder = \"records\""),
                14,
                "records.folder: records does not begin at the root",
            ),
            (
                format!("{good}\nfull_addresses_key = \"{key}\""),
                14,
                "records.full_addresses_key: whole addresses must be sealed to a key of their own",
            ),
        ] {
            let fault = fault(&with(&rest));
            let at = format!("causeway.toml:{line}: ");
            assert!(fault.starts_with(&at) && fault.contains(said), "{fault}");
        }
    }

    #[test]
    fn a_relay_apart_is_of_the_zone_that_it_joins_and_answers_no_dns() {
        let folder = tempfile::tempdir().unwrap();
        let join = crate::apart::membership::tests::join_file(folder.path(), "nas.example.com");
        let with = |text: &str| {
            let key = format!("join = \"{}\"\ndrain", join.display());
            text.replace("drain", &key)
        };
        let good = with(GOOD.split("[ddns]").next().unwrap());
        assert_eq!(faults(&good), Vec::<String>::new());
        for (text, line, said) in [
            (
                with(GOOD),
                12,
                "ddns.listen: a relay that joins another server answers no DNS",
            ),
            (
                good.replace("nas.example.com", "nas.example.org"),
                8,
                "relay.join: nas.example.com is the zone of",
            ),
            (good.replace("eu1.join", "eu2.join"), 8, "relay.join: "),
        ] {
            let fault = fault(&text);
            let at = format!("causeway.toml:{line}: ");
            assert!(fault.starts_with(&at) && fault.contains(said), "{fault}");
        }
        let fault = fault(&good.replace("nas.example.com", "nas.example.org"));
        assert!(
            fault.ends_with("and nas.example.org is the zone here"),
            "{fault}"
        );
    }

    #[test]
    fn addresses_that_cannot_be_had_here_are_named() {
        let fault = fault(&GOOD.replace("127.0.0.1:8080", "192.0.2.1:8080"));
        assert!(
            fault.starts_with("causeway.toml:7: relay.http: 192.0.2.1 cannot be listened on here"),
            "{fault}"
        );
        let fault = self::fault(&GOOD.replace("127.0.0.1:8080", "127.0.0.1:8443"));
        assert!(
            fault
                .starts_with("causeway.toml:7: relay.http: 127.0.0.1:8443 is taken by relay.front"),
            "{fault}"
        );
        let fault = self::fault(&format!("{GOOD}dot = \"127.0.0.1:5300\"\n"));
        assert_eq!(
            fault,
            "causeway.toml:12: ddns.dot: 127.0.0.1:5300 is taken by ddns.listen already"
        );
    }

    #[test]
    fn addresses_that_overlap_are_named() {
        let on = |address: &str| {
            GOOD.replace(
                "[ddns]",
                &format!("[admin]\nlisten = \"{address}\"\n[ddns]"),
            )
        };
        let public = GOOD.replace("drain", "public = [\"203.0.113.10\"]\ndrain");
        for (front, http, taken) in [
            ("0.0.0.0:8443", "127.0.0.1:8443", true),
            ("127.0.0.1:8443", "0.0.0.0:8443", true),
            ("[::]:8443", "127.0.0.1:8443", true),
            ("[::]:8443", "[::1]:8443", true),
            ("0.0.0.0:8443", "[::1]:8443", false),
            ("127.0.0.2:8443", "127.0.0.1:8443", false),
            ("[::]:8443", "127.0.0.1:8080", false),
            ("[::]:0", "127.0.0.1:0", false),
        ] {
            let text = public.replace("127.0.0.1:8443", front);
            let faults = faults(&text.replace("127.0.0.1:8080", http));
            let said = faults
                .first()
                .is_some_and(|fault| fault.contains("is taken by relay.front"));
            assert_eq!(said, taken, "{front} {http}: {faults:?}");
        }
        let fault = fault(&on("0.0.0.0:9400"));
        assert!(fault.contains("for this host alone"), "{fault}");
        assert_eq!(faults(&on("127.0.0.9:9400")), Vec::<String>::new());
    }

    #[test]
    fn public_addresses_where_nobody_is_reached_are_named() {
        let with = |list: &str| GOOD.replace("drain", &format!("public = [{list}]\ndrain"));
        for bad in ["0.0.0.0", "::", "224.0.0.1", "ff02::1"] {
            let fault = fault(&with(&format!("\n  \"203.0.113.10\",\n  \"{bad}\"\n")));
            let expected =
                format!("causeway.toml:10: relay.public.1: nobody can be reached at {bad}");
            assert_eq!(fault, expected);
        }
        let many: Vec<_> = (0..17).map(|i| format!("\"203.0.113.{i}\"")).collect();
        let fault = fault(&with(&many.join(", ")));
        assert!(
            fault.starts_with("causeway.toml:8: relay.public: 17 addresses"),
            "{fault}"
        );
    }

    #[test]
    fn the_wrong_one_of_several_records_is_named() {
        let record = |name: &str| {
            format!("[[ddns.record]]\nname = \"{name}\"\ntype = \"A\"\nvalue = \"192.0.2.1\"\n")
        };
        let text = [GOOD, &record("www"), &record("demo"), &record("mail")].concat();
        let fault = fault(&text);
        assert!(
            fault.starts_with("causeway.toml:16: ddns.record.1: "),
            "{fault}"
        );
    }

    #[test]
    fn a_front_on_every_address_must_say_where_it_is_reached() {
        let everywhere = GOOD.replace("127.0.0.1:8443", "0.0.0.0:8443");
        assert!(fault(&everywhere).starts_with("causeway.toml:6: relay.front: "));
        let public = everywhere.replace("drain", "public = [\"203.0.113.10\"]\ndrain");
        assert_eq!(faults(&public), Vec::<String>::new());
    }
}
