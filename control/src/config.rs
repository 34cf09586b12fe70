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
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use directory::Zone;
use serde::{Deserialize, Deserializer};
use toml::de::{DeTable, DeValue};

use crate::state::StateDirectory;

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
    /// Metrics and health.
    #[serde(default)]
    pub admin: AdminConfig,
}

/// The `[admin]` section.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// Where metrics and health are answered; keep it on loopback.
    pub listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 9400).into(),
        }
    }
}

/// What is wrong with a configuration file, all of it. Always the operator's to mend.
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
    /// In which file.
    pub file: PathBuf,
    /// On which line, from 1.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub sentence: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}: {}",
            self.file.display(),
            self.line,
            self.sentence
        )
    }
}

impl Config {
    /// The demo's.
    #[expect(
        clippy::expect_used,
        reason = "a constant text; the tests below read it"
    )]
    pub fn demo() -> Self {
        Self::parse(Path::new("demo.toml"), include_str!("../demo.toml"))
            .expect("the demo's configuration is good")
    }

    /// Reads and checks `file`.
    ///
    /// # Errors
    /// Everything that is wrong with it, with its lines.
    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(file).map_err(|cause| ConfigError::Unreadable {
            file: file.to_owned(),
            cause,
        })?;
        Self::parse(file, &text)
    }

    fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            ConfigError::Faults(vec![Fault {
                file: file.to_owned(),
                line: line_of(text, start),
                sentence: error.message().replace('\n', " "),
            }])
        })?;
        let document = DeTable::parse(text)
            .map(toml::Spanned::into_inner)
            .unwrap_or_default();
        let faults: Vec<Fault> = config
            .faults()
            .into_iter()
            .map(|(key, sentence)| Fault {
                file: file.to_owned(),
                line: line_of(text, position_of(&document, key)),
                sentence: format!("{key}: {sentence}"),
            })
            .collect();
        if faults.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Faults(faults))
        }
    }

    /// What no single value shows: addresses that cannot be had here, and values that contradict each other.
    fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        let listeners = self.listeners();
        for (i, (key, address)) in listeners.iter().enumerate() {
            if let Err(error) = std::net::TcpListener::bind((address.ip(), 0)) {
                faults.push((
                    *key,
                    format!("{} cannot be listened on here: {error}", address.ip()),
                ));
            }
            let before = listeners
                .iter()
                .take(i)
                .find(|(_, other)| other == address && address.port() != 0);
            if let Some((other, _)) = before {
                faults.push((*key, format!("{address} is taken by {other} already")));
            }
        }
        if self.relay.public.is_empty() && self.relay.front.ip().is_unspecified() {
            let sentence = "the front listens on every address, so `public` in [relay] must say under which of them it \
                            is reached from outside";
            faults.push(("relay.front", sentence.to_owned()));
        }
        if let Some(ddns) = &self.ddns
            && let Err(error) = ddns::zone::check(&self.zone, ddns)
        {
            faults.push(("ddns.record", error.to_string()));
        }
        faults
    }

    fn listeners(&self) -> Vec<(&'static str, SocketAddr)> {
        let mut listeners = vec![("relay.front", self.relay.front)];
        listeners.extend(self.relay.http.map(|address| ("relay.http", address)));
        listeners.extend(self.ddns.as_ref().map(|ddns| ("ddns.listen", ddns.listen)));
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

fn zone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zone, D::Error> {
    let text = String::deserialize(deserializer)?;
    Zone::parse(&text).map_err(serde::de::Error::custom)
}

fn line_of(text: &str, position: usize) -> usize {
    text.bytes()
        .take(position)
        .filter(|octet| *octet == b'\n')
        .count()
        + 1
}

/// Where the value of a dotted key begins; where its section begins, if the value is a default; else the beginning.
fn position_of(document: &DeTable<'_>, key: &str) -> usize {
    let (mut table, mut position) = (document, 0);
    for part in key.split('.') {
        let Some(value) = table.get(part) else {
            break;
        };
        position = value.span().start;
        let DeValue::Table(inner) = value.get_ref() else {
            break;
        };
        table = inner;
    }
    position
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

    fn faults(text: &str) -> Vec<String> {
        match Config::parse(Path::new("causeway.toml"), text) {
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
    fn a_good_file_is_read() {
        let config = Config::parse(Path::new("causeway.toml"), GOOD).unwrap();
        assert_eq!(config.zone.as_str(), "nas.example.com");
        assert_eq!(config.relay.drain.as_secs(), 60);
        assert_eq!(config.admin.listen.port(), 9400);
        assert_eq!(
            config.public_addresses(),
            ["127.0.0.1".parse::<IpAddr>().unwrap()]
        );
    }

    #[test]
    fn the_demo_is_a_good_configuration() {
        assert_eq!(Config::demo().zone.as_str(), "nas.localhost");
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
    }

    #[test]
    fn a_front_on_every_address_must_say_where_it_is_reached() {
        let everywhere = GOOD.replace("127.0.0.1:8443", "0.0.0.0:8443");
        assert!(fault(&everywhere).starts_with("causeway.toml:6: relay.front: "));
        let public = everywhere.replace("drain", "public = [\"203.0.113.10\"]\ndrain");
        assert_eq!(faults(&public), Vec::<String>::new());
    }
}
