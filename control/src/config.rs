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

mod acme;
mod certificate_watch;
mod faults;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use directory::Zone;
use relay::toml_place::{line_at_end, position_of};
use serde::{Deserialize, Deserializer};
use toml::de::DeTable;

use crate::state::StateDirectory;

pub use acme::{AcmeAuthority, AcmeConfig};
pub use certificate_watch::{CertificateWatchConfig, LogConfig};
pub use faults::{ConfigError, Fault, FaultPlace};

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
    /// Who is asked for the certificates of devices; absent: they have those of the operator's own authority.
    pub acme: Option<AcmeConfig>,
    /// Which logs are followed for certificates that somebody has got for names of the zone; absent: none.
    pub certificate_watch: Option<CertificateWatchConfig>,
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

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const GOOD: &str = r#"
zone = "nas.example.com"
state = "/var/lib/causeway"

[relay]
front = "127.0.0.1:8443"
http = "127.0.0.1:8080"
drain = "1m"

[ddns]
listen = "127.0.0.1:5300"
"#;

    pub(super) fn read(text: &str, overrides: &Overrides) -> Result<Config, ConfigError> {
        let draft = Draft::of(Path::new("causeway.toml"), text.as_bytes())?;
        draft.check(draft.parse(overrides)?, overrides)
    }

    pub(super) fn faults(text: &str) -> Vec<String> {
        match read(text, &Overrides::default()) {
            Ok(_) => Vec::new(),
            Err(ConfigError::Faults(faults)) => faults.iter().map(ToString::to_string).collect(),
            Err(error) => vec![error.to_string()],
        }
    }

    pub(super) fn fault(text: &str) -> String {
        let faults = faults(text);
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults.into_iter().next().unwrap()
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

    pub(super) fn records_key() -> String {
        let key = relay::records::SecretKey::generate().unwrap();
        key.public().to_string()
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
        let text = text.replace("LOG_KEY", &certificate_watch::tests::test_key());
        // They do not go with [ddns], or name files that have to be there.
        let elsewhere = ["join = ", "ca_file = ", "eab_key_id = ", "eab_key_file = "];
        let (left_out, text): (Vec<&str>, Vec<&str>) = text
            .lines()
            .partition(|line| elsewhere.iter().any(|key| line.starts_with(key)));
        assert_eq!(left_out.len(), elsewhere.len() + 1); // two have a `ca_file`
        let text = text.join("\n");
        let config = read(&text, &Overrides::default()).unwrap();
        assert_eq!(config.relay.public.len(), 2);
        assert!(config.ddns.unwrap().threads.is_some());
        assert!(config.records.unwrap().full_addresses_key.is_some());
        assert_eq!(config.acme.unwrap().ca.len(), 1);
        assert_eq!(config.certificate_watch.unwrap().log.len(), 1);
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
    fn a_file_that_is_no_text_is_told_with_its_line() {
        let error = Draft::of(Path::new("causeway.toml"), b"zone = \"a\"\n# caf\xe9\n").err();
        assert_eq!(
            error.map(|error| error.to_string()).as_deref(),
            Some("causeway.toml:2: this is no text in UTF-8")
        );
    }
}
