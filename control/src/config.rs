//! The configuration file: one TOML document whose sections are the parts' own. `demo.toml` has every key that most
//! operators will want.
//!
//! ```toml
//! zone = "nas.example.com"
//! state = "/var/lib/causeway"
//!
//! [relay]
//! front = "[::]:443"
//! http = "[::]:80"
//! public = ["203.0.113.10", "2001:db8::10"]
//!
//! [ddns]
//! listen = "[::]:53"
//! ```

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use directory::Zone;
use relay::toml_place::{line_at_end, position_of};
use serde::{Deserialize, Deserializer};
use toml::de::DeTable;

use crate::apart::membership::Membership;
use crate::state::StateDirectory;

/// More addresses than a relay has; so many still fit into one DNS answer over UDP.
const MAX_PUBLIC: usize = 16;

/// More networks than proxies before a front are in. Each connection is looked for in all of them.
const MAX_PROXIES: usize = 64;

/// Everything an operator can set.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The zone whose names devices have.
    #[serde(deserialize_with = "zone")]
    pub zone: Zone,
    /// Where the server keeps what must last.
    #[serde(default = "StateDirectory::default_path")]
    pub state: PathBuf,
    /// The relay, with the operator's own hosts at its front.
    pub relay: relay::server::Config,
    /// The DNS server of the zone; absent: another one serves it.
    pub ddns: Option<ddns::Config>,
    /// Who was connected with what, for the operator alone; absent: nothing is recorded.
    pub records: Option<relay::records::Config>,
    /// Metrics and health.
    #[serde(default)]
    pub admin: AdminConfig,
}

/// The `[admin]` section.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// Where metrics and health are answered; on loopback.
    pub listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 9400).into(),
        }
    }
}

/// What the command line says; it stands before what the file says.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--zone`
    pub zone: Option<Zone>,
    /// `--state`
    pub state: Option<PathBuf>,
    /// `--front`
    pub front: Option<SocketAddr>,
    /// `--http`
    pub http: Option<SocketAddr>,
    /// `--dns`
    pub dns: Option<SocketAddr>,
    /// `--dot`
    pub dot: Option<SocketAddr>,
    /// `--admin`
    pub admin: Option<SocketAddr>,
    /// `--no-udp`
    pub no_udp: bool,
}

impl Overrides {
    /// The option that has set `key`.
    fn option(&self, key: &str) -> Option<&'static str> {
        let (given, option) = match key {
            "relay.front" => (self.front.is_some(), "--front"),
            "relay.http" => (self.http.is_some(), "--http"),
            "ddns.listen" => (self.dns.is_some(), "--dns"),
            "ddns.dot" => (self.dot.is_some(), "--dot"),
            "admin.listen" => (self.admin.is_some(), "--admin"),
            _ => return None,
        };
        given.then_some(option)
    }
}

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
    /// The demo's. Where its front listens on every address, it is reached over loopback.
    ///
    /// # Errors
    /// If what the command line says does not go with it.
    pub fn demo(overrides: &Overrides) -> Result<Self, ConfigError> {
        let draft = Draft {
            file: Path::new("demo.toml"),
            text: include_str!("../demo.toml"),
        };
        let mut config = draft.parse(overrides)?;
        let front = config.relay.front.ip();
        if config.relay.public.is_empty() && front.is_unspecified() {
            config.relay.public.push(Ipv4Addr::LOCALHOST.into());
            if front.is_ipv6() {
                config.relay.public.push(Ipv6Addr::LOCALHOST.into());
            }
        }
        draft.check(config, overrides)
    }

    /// Reads `file` and checks it together with what the command line says.
    ///
    /// # Errors
    /// Everything that is wrong with it, with its lines.
    pub fn read(file: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        let octets = fs::read(file).map_err(|cause| ConfigError::Unreadable {
            file: file.to_owned(),
            cause,
        })?;
        let draft = Draft::of(file, &octets)?;
        draft.check(draft.parse(overrides)?, overrides)
    }

    fn apply(&mut self, overrides: &Overrides) {
        if let Some(zone) = &overrides.zone {
            self.zone = zone.clone();
        }
        if let Some(state) = &overrides.state {
            self.state.clone_from(state);
        }
        if let Some(front) = overrides.front {
            self.relay.front = front;
        }
        if overrides.http.is_some() {
            self.relay.http = overrides.http;
        }
        if let Some(dns) = overrides.dns {
            self.ddns.get_or_insert_default().listen = dns;
        }
        if overrides.dot.is_some() {
            self.ddns.get_or_insert_default().dot = overrides.dot;
        }
        if let Some(admin) = overrides.admin {
            self.admin.listen = admin;
        }
        self.relay.udp &= !overrides.no_udp;
    }

    /// What no single value shows: addresses that cannot be had here, and values that contradict each other. Each with
    /// the key it is about; a number in a key counts the entries of a list, from 0.
    fn faults(&self) -> Vec<(String, String)> {
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
            if self.ddns.is_some() {
                let sentence = "a relay that joins another server answers no DNS: leave [ddns] out";
                fault("ddns.listen", sentence.to_owned());
            }
        }
        let records = self.records.iter().flat_map(|records| records.faults());
        for (key, sentence) in records {
            fault(&format!("records.{key}"), sentence);
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

    /// The addresses under which the front is reached from outside.
    pub(crate) fn public_addresses(&self) -> Vec<IpAddr> {
        if self.relay.public.is_empty() {
            vec![self.relay.front.ip().to_canonical()]
        } else {
            self.relay.public.clone()
        }
    }
}

/// A configuration as it is written.
#[derive(Clone, Copy)]
struct Draft<'a> {
    file: &'a Path,
    text: &'a str,
}

impl<'a> Draft<'a> {
    fn of(file: &'a Path, octets: &'a [u8]) -> Result<Self, ConfigError> {
        let text = str::from_utf8(octets).map_err(|error| {
            let good = octets.get(..error.valid_up_to()).unwrap_or_default();
            ConfigError::Faults(vec![Fault {
                place: FaultPlace::Line(file.to_owned(), line_at_end(good)),
                sentence: "this is no text in UTF-8".to_owned(),
            }])
        })?;
        Ok(Self { file, text })
    }

    /// Its values, before anything is said about how they go together.
    fn parse(self, overrides: &Overrides) -> Result<Config, ConfigError> {
        let mut config: Config = toml::from_str(self.text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            ConfigError::Faults(vec![Fault {
                place: self.line(start),
                sentence: error.message().replace('\n', " "),
            }])
        })?;
        config.apply(overrides);
        Ok(config)
    }

    fn check(self, config: Config, overrides: &Overrides) -> Result<Config, ConfigError> {
        let document = DeTable::parse(self.text)
            .map(toml::Spanned::into_inner)
            .unwrap_or_default();
        let fault = |(key, sentence): (String, String)| match overrides.option(&key) {
            Some(option) => Fault {
                place: FaultPlace::Option(option),
                sentence,
            },
            None => Fault {
                place: self.line(position_of(&document, &key.split('.').collect::<Vec<_>>())),
                sentence: format!("{key}: {sentence}"),
            },
        };
        let faults: Vec<Fault> = config.faults().into_iter().map(fault).collect();
        if faults.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Faults(faults))
        }
    }

    fn line(self, position: usize) -> FaultPlace {
        let before = self.text.as_bytes().get(..position).unwrap_or_default();
        FaultPlace::Line(self.file.to_owned(), line_at_end(before))
    }
}

fn zone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zone, D::Error> {
    let text = String::deserialize(deserializer)?;
    Zone::parse(&text).map_err(serde::de::Error::custom)
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
    use super::*;

    const GOOD: &str = r#"
zone = "nas.example.com"
state = "/var/lib/causeway"

[relay]
front = "127.0.0.1:8443"
http = "127.0.0.1:8080"
drain = "1m"

[ddns]
listen = "127.0.0.1:5300"
"#;

    fn read(text: &str, overrides: &Overrides) -> Result<Config, ConfigError> {
        let draft = Draft::of(Path::new("causeway.toml"), text.as_bytes())?;
        draft.check(draft.parse(overrides)?, overrides)
    }

    fn faults(text: &str) -> Vec<String> {
        match read(text, &Overrides::default()) {
            Ok(_) => Vec::new(),
            Err(ConfigError::Faults(faults)) => faults.iter().map(ToString::to_string).collect(),
            Err(error) => vec![error.to_string()],
        }
    }

    fn fault(text: &str) -> String {
        let faults = faults(text);
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults.into_iter().next().unwrap()
    }

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
    fn a_good_file_is_read() {
        let config = read(GOOD, &Overrides::default()).unwrap();
        assert_eq!(config.zone.as_str(), "nas.example.com");
        assert_eq!(config.relay.drain.as_secs(), 60);
        assert_eq!(config.admin.listen.port(), 9400);
        assert_eq!(
            config.public_addresses(),
            ["127.0.0.1".parse::<IpAddr>().unwrap()]
        );
    }

    fn records_key() -> String {
        let key = relay::records::SecretKey::generate().unwrap();
        key.public().to_string()
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
    fn the_demo_is_a_good_configuration() {
        let demo = Config::demo(&Overrides::default()).unwrap();
        assert_eq!(demo.zone.as_str(), "nas.localhost");
    }

    #[test]
    fn every_key_that_the_demo_mentions_can_be_set() {
        let text: String = include_str!("../demo.toml")
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(key) if key.contains(" = ") || key.starts_with('[') => format!("{key}\n"),
                Some(_) | None => format!("{line}\n"),
            })
            .collect();
        let text = text.replace("PUBLIC_KEY", &records_key());
        let text = text.replace("OTHER_KEY", &records_key());
        let (joined, text): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.starts_with("join = "));
        assert_eq!(joined.len(), 1); // it does not go with [ddns]
        let text = text.join("\n");
        let config = read(&text, &Overrides::default()).unwrap();
        assert_eq!(config.relay.public.len(), 2);
        assert!(config.ddns.unwrap().threads.is_some());
        assert!(config.records.unwrap().full_addresses_key.is_some());
    }

    #[test]
    fn a_demo_on_every_address_is_reached_over_loopback() {
        for (front, public) in [
            ("0.0.0.0:8443", &["127.0.0.1"][..]),
            ("[::]:8443", &["127.0.0.1", "::1"]),
        ] {
            let overrides = Overrides {
                front: Some(front.parse().unwrap()),
                ..Overrides::default()
            };
            let found = Config::demo(&overrides).unwrap().public_addresses();
            let public: Vec<IpAddr> = public.iter().map(|ip| ip.parse().unwrap()).collect();
            assert_eq!(found, public, "{front}");
        }
    }

    #[test]
    fn an_option_stands_before_the_file_in_what_is_checked_too() {
        let front = |address: &str| Overrides {
            front: Some(address.parse().unwrap()),
            ..Overrides::default()
        };
        let elsewhere = GOOD.replace("127.0.0.1:8443", "192.0.2.1:8443");
        let config = read(&elsewhere, &front("127.0.0.1:8443")).unwrap();
        assert_eq!(config.relay.front.to_string(), "127.0.0.1:8443");
        let error = read(GOOD, &front("192.0.2.1:8443")).unwrap_err();
        let said = error.to_string();
        assert!(
            said.starts_with("--front: 192.0.2.1 cannot be listened on here"),
            "{said}"
        );
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
    fn unknown_keys_are_named_with_their_line() {
        let fault = fault(&GOOD.replace("http =", "htttp ="));
        assert!(
            fault.starts_with("causeway.toml:7: unknown field `htttp`"),
            "{fault}"
        );
        let fault = self::fault(&format!("{GOOD}\n[realy]\n"));
        assert!(
            fault.starts_with("causeway.toml:13: unknown field `realy`"),
            "{fault}"
        );
    }

    #[test]
    fn bad_values_are_named_with_their_line() {
        for (good, bad, line) in [
            ("nas.example.com", "nas_example", 2),
            ("127.0.0.1:8443", "127.0.0.1", 6),
            ("127.0.0.1:8443", "300.0.0.1:8443", 6),
            ("1m", "1 fortnight", 8),
        ] {
            let fault = fault(&GOOD.replace(good, bad));
            assert!(
                fault.starts_with(&format!("causeway.toml:{line}: ")),
                "{fault}"
            );
        }
        let fault = self::fault("zone =");
        assert!(fault.starts_with("causeway.toml:1: "), "{fault}");
        assert!(self::fault("").contains("missing field `zone`"));
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
    fn a_file_that_is_no_text_is_told_with_its_line() {
        let error = Draft::of(Path::new("causeway.toml"), b"zone = \"a\"\n# caf\xe9\n").err();
        assert_eq!(
            error.map(|error| error.to_string()).as_deref(),
            Some("causeway.toml:2: this is no text in UTF-8")
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
