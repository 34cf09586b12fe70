//! The agent's configuration file: one TOML document with a section for each service. `packaging/agent.toml` has every key.
//!
//! ```toml
//! [services."@"]
//! origin = "http://127.0.0.1:80"
//!
//! [services.photos]
//! origin = "http://127.0.0.1:2342"
//! health = "/healthz"
//! ```

mod faults;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use directory::PublicPort;
use serde::{Deserialize, Deserializer};
use toml::de::{DeTable, DeValue};

use super::{APPS, REST, Reach, Service, ServiceName};
use crate::agent::flow::Http3Server;
use crate::agent::health::{HealthCheck, Probe};
use crate::agent::origin::{
    ANSWER_TIME, Origin, OriginAddress, OriginTrust, Scheme, VisitorAddress,
};
use crate::tls::{Roots, TlsError};
use crate::toml_place::{line_at_end, position_of};

pub use faults::{ConfigError, Fault};

/// More than a device has, and how each is fits into one status.
const MAX_SERVICES: usize = 64;

/// What can be written of so many, with a word about each.
const LONGEST: u64 = 256 * 1024;

/// How often a service is asked how it is, where nothing else is said.
const HEALTH_INTERVAL: Duration = Duration::from_secs(10);

/// And how long it may take to say so.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    services: BTreeMap<String, ServiceConfig>,
}

/// A `[services.NAME]` section.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceConfig {
    /// Where the service is.
    #[serde(deserialize_with = "origin")]
    origin: OriginAddress,
    /// Who reaches it beside whoever comes to its public port; absent: whoever asks for its name.
    reach: Option<Reach>,
    /// The port of the relay that leads there too: `"20022/tcp"`; absent: none. The operator gives it to the device.
    #[serde(default, deserialize_with = "public")]
    public: Option<PublicPort>,
    /// How it hears the visitor's address; absent: as [`VisitorAddress`] says.
    visitor_address: Option<VisitorAddress>,
    /// A file of certificates to check an `https://` origin against; absent: those this system trusts.
    origin_ca: Option<PathBuf>,
    /// Whether an `https://` origin's certificate is not checked.
    #[serde(default)]
    origin_insecure: bool,
    /// Who speaks HTTP/3 for it: `"agent"`, or, with a certificate of its own, the service at `"127.0.0.1:443"`; absent: nobody.
    #[serde(default, deserialize_with = "http3")]
    http3: Option<Http3Server>,
    /// How long it may take to begin its answer: `"90s"`.
    #[serde(default, with = "humantime_serde")]
    answer_time: Option<Duration>,
    /// How it is asked whether it is well: by a path, or `"connect"`; absent: it is not.
    #[serde(default, deserialize_with = "probe")]
    health: Option<Probe>,
    /// How often: `"10s"`.
    #[serde(default, with = "humantime_serde")]
    health_interval: Option<Duration>,
    /// How long it may take to say so: `"5s"`.
    #[serde(default, with = "humantime_serde")]
    health_timeout: Option<Duration>,
    /// What stands in the file of certificates.
    #[serde(skip)]
    certificates: Option<String>,
}

/// What `file` says: each service by its name.
///
/// # Errors
/// Everything that is wrong with it, with its lines.
pub(super) fn read(file: &Path) -> Result<BTreeMap<ServiceName, ServiceConfig>, ConfigError> {
    let text = read_text(file).map_err(|cause| ConfigError::Unreadable {
        file: file.to_owned(),
        cause,
    })?;
    parse(file, &text)
}

fn read_text(file: &Path) -> io::Result<String> {
    let about = fs::metadata(file)?;
    if !about.is_file() {
        return Err(io::Error::other("this is no file"));
    }
    if about.len() > LONGEST {
        return Err(io::Error::other(format!(
            "this is longer than a configuration can be, which is {LONGEST} octets"
        )));
    }
    fs::read_to_string(file)
}

fn parse(file: &Path, text: &str) -> Result<BTreeMap<ServiceName, ServiceConfig>, ConfigError> {
    let tree = DeTable::parse(text).map(toml::Spanned::into_inner);
    let fault = |position: usize, key: String, sentence: String| Fault {
        file: file.to_owned(),
        line: line_at_end(text.as_bytes().get(..position).unwrap_or_default()),
        key,
        sentence,
    };
    let document: Document = toml::from_str(text).map_err(|error| {
        let position = error.span().map_or(0, |span| span.start);
        let key = tree.as_ref().ok().and_then(|tree| key_at(tree, position));
        let sentence = error.message().replace('\n', " ");
        ConfigError::Faults(vec![fault(position, key.unwrap_or_default(), sentence)])
    })?;
    let tree = tree.unwrap_or_default();
    let mut faults = Vec::new();
    let mut services = BTreeMap::new();
    let mut found = |service: &str, key: &str, sentence: String| {
        let path = [&["services", service][..], &[key]].concat();
        let path: Vec<_> = path.into_iter().filter(|part| !part.is_empty()).collect();
        faults.push(fault(position_of(&tree, &path), dotted(&path), sentence));
    };
    let count = document.services.len();
    if count == 0 {
        let sentence = "there is no service: write [services.\"@\"] for the device's own name, and in it origin = \"http://127.0.0.1:80\"";
        found("", "", sentence.to_owned());
    }
    if count > MAX_SERVICES {
        let sentence = format!("{count} services are too many, {MAX_SERVICES} can be");
        found("", "", sentence);
    }
    let mut ports = BTreeSet::new();
    for (written, mut service) in document.services {
        service.read_certificates();
        if let Some(port) = service.public
            && !ports.insert(port)
        {
            found(
                &written,
                "public",
                format!("{port} leads to another service already"),
            );
        }
        for (key, sentence) in service.faults() {
            found(&written, key, sentence);
        }
        match written.parse::<ServiceName>() {
            Ok(name) if &*name.0 == APPS => {
                let sentence = "at connect… the agent answers apps: give the service another name";
                found(&written, "", sentence.to_owned());
            }
            Ok(name) if &*name.0 == REST && service.reach().is_for_apps() => {
                let sentence =
                    "apps ask for a service by its name, and this one has none: \"name\"";
                found(&written, "reach", sentence.to_owned());
            }
            Ok(name) if services.contains_key(&name) => {
                found(&written, "", format!("there is another service {name}"));
            }
            Ok(name) => drop(services.insert(name, service)),
            Err(error) => found(&written, "", error.to_string()),
        }
    }
    match faults.is_empty() {
        true => Ok(services),
        false => Err(ConfigError::Faults(faults)),
    }
}

impl ServiceConfig {
    /// What becomes of it is told with the [faults](Self::faults).
    fn read_certificates(&mut self) {
        let text = self.origin_ca.as_ref().map(|file| read_text(file));
        self.certificates = text.and_then(Result::ok);
    }

    /// Who reaches it beside whoever comes to its public port.
    fn reach(&self) -> Reach {
        self.reach.unwrap_or(match self.origin.scheme {
            Scheme::Udp => Reach::Port,
            Scheme::Http | Scheme::Https | Scheme::H2c | Scheme::H2 | Scheme::Tcp | Scheme::Tls => {
                Reach::Name
            }
        })
    }

    /// The service that it describes.
    pub(super) fn service(self, name: ServiceName) -> Result<Service, TlsError> {
        let trust = match (&self.certificates, self.origin_insecure) {
            (_, true) => OriginTrust::Anything,
            (Some(text), false) => OriginTrust::Roots(Roots::from_pem(text)?),
            (None, false) if self.origin.scheme.has_tls_of_ours() => OriginTrust::of_system(),
            (None, false) => OriginTrust::Roots(Roots::none()),
        };
        let visitor_address = self.visitor_address.unwrap_or_default();
        let origin = Origin::new(self.origin.clone(), visitor_address, &trust)?;
        let check = self.health.clone().map(|probe| HealthCheck {
            probe,
            interval: self.health_interval.unwrap_or(HEALTH_INTERVAL),
            timeout: self.health_timeout.unwrap_or(HEALTH_TIMEOUT),
        });
        let origin = origin.answering_within(self.answer_time.unwrap_or(ANSWER_TIME));
        let origin = origin.with_http3(self.http3.clone());
        let (reach, port) = (self.reach(), self.public);
        Ok(Service::new(name, origin, reach, port, check, Some(self)))
    }
}

fn origin<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OriginAddress, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

fn public<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PublicPort>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

fn http3<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Http3Server>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

fn probe<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Probe>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

/// The key that, or whose value, stands at `position`, in full.
fn key_at(table: &DeTable<'_>, position: usize) -> Option<String> {
    fn search<'a>(table: &'a DeTable<'_>, position: usize, path: &mut Vec<&'a str>) -> bool {
        let holds = |span: Range<usize>| span.contains(&position);
        table.iter().any(|(key, value)| {
            path.push(key.get_ref());
            let is_there = if let DeValue::Table(inner) = value.get_ref() {
                search(inner, position, path)
            } else {
                holds(key.span()) || holds(value.span())
            };
            if !is_there {
                path.pop();
            }
            is_there
        })
    }
    let mut path = Vec::new();
    search(table, position, &mut path).then(|| dotted(&path))
}

/// A path as TOML writes it.
fn dotted(path: &[&str]) -> String {
    let parts = path.iter().map(|part| {
        let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        match !part.is_empty() && part.chars().all(is_bare) {
            true => (*part).to_owned(),
            false => format!("{part:?}"),
        }
    });
    parts.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn said(text: &str) -> String {
        match parse(Path::new("agent.toml"), text) {
            Ok(services) => format!("{} services", services.len()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn services_are_read_by_name() {
        let text = r#"
            [services."@"]
            origin = "http://127.0.0.1:80"
            [services.Photos]
            origin = "https://127.0.0.1:2343"
            visitor_address = "proxy-v2"
            origin_insecure = true
            answer_time = "5m"
            health = "/healthz"
            health_interval = "30s"
            health_timeout = "2s"
            [services."*"]
            origin = "tcp://127.0.0.1:22"
            visitor_address = "hidden"
            health = "connect"
        "#;
        let services = parse(Path::new("agent.toml"), text).unwrap();
        let names: Vec<_> = services.keys().map(ToString::to_string).collect();
        assert_eq!(names, ["*", "@", "photos"]);
        let photos = &services["photos"];
        assert_eq!(photos.visitor_address, Some(VisitorAddress::ProxyV2));
        assert_eq!(photos.answer_time, Some(Duration::from_secs(300)));
        assert_eq!(photos.health, Some(Probe::Get("/healthz".into())));
        assert_eq!(services["*"].health, Some(Probe::Connect));
    }

    #[test]
    fn what_apps_bring_is_not_believed() {
        let service = |more: &str| {
            said(&format!(
                "[services.web]\norigin = \"http://127.0.0.1:80\"\n{more}"
            ))
        };
        assert_eq!(service("reach = \"name\""), "1 services");
        for reach in ["apps", "both"] {
            let reach = format!("reach = \"{reach}\"\n");
            assert!(service(&reach).contains("Host and X-Forwarded-For too"));
            let forwarded = reach.clone() + "visitor_address = \"forwarded\"";
            assert!(service(&forwarded).contains(":4: services.web.visitor_address: "));
            assert_eq!(
                service(&(reach + "visitor_address = \"hidden\"")),
                "1 services"
            );
        }
        let apps = "reach = \"apps\"\nvisitor_address = \"hidden\"\n";
        for key in ["http3 = \"127.0.0.1:443\"", "answer_time = \"5m\""] {
            assert!(service(&(apps.to_owned() + key)).contains("only whoever comes by name"));
        }
    }

    #[test]
    fn what_the_package_brings_is_right_with_every_key_in_it() {
        let brought = include_str!("../../../packaging/agent.toml");
        assert_eq!(said(brought), "1 services");
        let keys = brought.replace("http://127.0.0.1:80\"\n", "https://a\"\n");
        let is_key = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        let keys = keys.lines().map(|line| match line.strip_prefix("# ") {
            Some(key) if key.split_once(" = ").is_some_and(|(key, _)| is_key(key)) => key,
            _ => line,
        });
        // The file that it names is somebody else's, and a public port does not go with how this service hears addresses.
        let fits = |line: &&str| !line.starts_with("origin_ca") && !line.starts_with("public");
        let keys: Vec<_> = keys.filter(fits).collect();
        let services = parse(Path::new("agent.toml"), &keys.join("\n")).unwrap();
        let written = &services["*"];
        assert_eq!(written.visitor_address, Some(VisitorAddress::default()));
        assert_eq!(written.answer_time, Some(ANSWER_TIME));
        assert_eq!(written.health_interval, Some(HEALTH_INTERVAL));
        assert_eq!(written.health_timeout, Some(HEALTH_TIMEOUT));
        assert_eq!(written.health, Some(Probe::Get("/healthz".into())));
    }
}
