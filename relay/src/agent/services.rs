//! The services of a device: which of its names leads to which origin. The table is replaced as a whole while the agent runs: what comes
//! then goes by the new one, what is under way ends as it began.
//!
//! ```text
//!   agent.toml ─► config.rs: is it right? ─► table ─► hosts.rs: a visitor, a request, by name
//!       └ file.rs: again when it changes
//! ```

mod config;
mod file;
mod hosts;

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use directory::{NameError, PublicPort, read_label};
use serde::Deserialize;
use tokio::sync::watch;
use wire::connect::APPS;

use super::health::{Health, HealthCheck};
use super::log_rate::Line;
use super::origin::{Origin, Scheme, VisitorAddress};
use super::origin_failure::OriginFailure;
use super::status::{ConfigurationStatus, OriginStatus, ServiceStatus};
use config::ServiceConfig;
pub use config::{ConfigError, Fault};
pub use file::ServicesFile;
pub(super) use hosts::Hosts;

/// What an agent makes reachable: at least one service. Clones are the same.
#[derive(Clone, Debug)]
pub struct Services {
    table: watch::Sender<Table>,
}

/// A name of the device, and what it leads to.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) name: ServiceName,
    pub(super) origin: Origin,
    reach: Reach,
    /// The port of the relay that leads there too, if any.
    port: Option<PublicPort>,
    /// Absent if nobody asks.
    pub(super) health: Option<Health>,
    /// What the file says of it; absent if it stands in none.
    config: Option<ServiceConfig>,
}

/// Which names of its device a service has: `@` its own, `mynas.nas.example.com`; `photos` the one below it,
/// `photos.mynas.nas.example.com`; `*` all that no other service has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ServiceName(Box<str>);

const OWN: &str = "@";
const REST: &str = "*";

/// Who reaches a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Reach {
    /// Whoever asks for its host name, such as a browser.
    #[default]
    Name,
    /// Apps, beside `causeway-connect`.
    Apps,
    /// Either.
    Both,
    /// Only whoever comes to its public port.
    Port,
}

impl Reach {
    fn is_by_name(self) -> bool {
        matches!(self, Self::Name | Self::Both)
    }

    fn is_for_apps(self) -> bool {
        matches!(self, Self::Apps | Self::Both)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Apps => "apps",
            Self::Both => "both",
            Self::Port => "port",
        }
    }
}

type ByName = BTreeMap<ServiceName, Arc<Service>>;

#[derive(Debug)]
struct Table {
    by_name: ByName,
    /// The file it is from; absent if it is from none.
    file: Option<ConfigurationStatus>,
}

/// What a reload has changed, by name.
#[derive(Debug, Default)]
struct Changes {
    added: Vec<ServiceName>,
    changed: Vec<ServiceName>,
    removed: Vec<ServiceName>,
}

impl Table {
    fn at(&self, label: &str) -> Option<&Arc<Service>> {
        let name = if label.is_empty() { OWN } else { label };
        let service = self.by_name.get(name);
        let service = service.or_else(|| self.by_name.get(REST));
        service.filter(|service| service.reach.is_by_name())
    }
}

/// Every name of the device leads there.
impl From<Origin> for Services {
    fn from(origin: Origin) -> Self {
        let name = ServiceName(REST.into());
        let reach = Reach::default();
        let service = Arc::new(Service::new(name.clone(), origin, reach, None, None, None));
        Self {
            table: watch::Sender::new(Table {
                by_name: [(name, service)].into(),
                file: None,
            }),
        }
    }
}

impl Services {
    /// What `file` describes.
    ///
    /// # Errors
    /// Everything that is wrong with it, with its lines.
    fn read(file: &Path) -> Result<Self, ConfigError> {
        let (by_name, _) = made(file, &BTreeMap::new())?;
        let file = Some(ConfigurationStatus {
            file: file.display().to_string(),
            problem: None,
        });
        Ok(Self {
            table: watch::Sender::new(Table { by_name, file }),
        })
    }

    /// The same from now on. A service that is described as before is the one before. Where anything is wrong nothing changes.
    fn reload(&self, file: &Path) -> Result<Changes, ConfigError> {
        let before = self.table.borrow().by_name.clone();
        let made = made(file, &before);
        let problem = made.as_ref().err().map(ToString::to_string);
        self.table.send_modify(|table| {
            if let Some(file) = &mut table.file {
                file.problem = problem;
            }
            if let Ok((by_name, _)) = &made {
                table.by_name.clone_from(by_name);
            }
        });
        made.map(|(_, changes)| changes)
    }

    /// Hears of each change.
    pub(super) fn changes(&self) -> watch::Receiver<impl Sized + use<>> {
        self.table.subscribe()
    }

    /// All there are now.
    pub(super) fn all(&self) -> Vec<Arc<Service>> {
        self.table.borrow().by_name.values().cloned().collect()
    }

    /// The service of the name in front of whose device `label` stands.
    fn at(&self, label: &str) -> Option<Arc<Service>> {
        self.table.borrow().at(label).cloned()
    }

    /// The service that an app means by `name`; the empty one is the device's own.
    pub(super) fn for_apps(&self, name: &str) -> Option<Arc<Service>> {
        let table = self.table.borrow();
        let name = if name.is_empty() { OWN } else { name };
        let service = table.by_name.get(name)?;
        service.reach.is_for_apps().then(|| Arc::clone(service))
    }

    /// The service that a public port leads to.
    fn at_port(&self, port: PublicPort) -> Option<Arc<Service>> {
        let table = self.table.borrow();
        let mut services = table.by_name.values();
        services.find(|service| service.port == Some(port)).cloned()
    }

    /// The public ports that lead to one of them.
    pub(super) fn ports(&self) -> Vec<PublicPort> {
        let table = self.table.borrow();
        let services = table.by_name.values();
        services.filter_map(|service| service.port).collect()
    }

    /// Whether there are any for apps.
    fn take_apps(&self) -> bool {
        let table = self.table.borrow();
        let mut services = table.by_name.values();
        services.any(|service| service.reach.is_for_apps())
    }

    /// Whether the agent speaks HTTP/3 for any.
    pub(super) fn have_http3_here(&self) -> bool {
        let table = self.table.borrow();
        let mut services = table.by_name.values();
        services.any(|service| service.origin.has_http3_here())
    }

    /// Whether it is one of those that there are now.
    pub(super) fn holds(&self, service: &Arc<Service>) -> bool {
        let table = self.table.borrow();
        let now = table.by_name.get(&service.name);
        now.is_some_and(|now| Arc::ptr_eq(now, service))
    }

    /// How each is.
    pub(super) fn status(&self) -> Vec<ServiceStatus> {
        let table = self.table.borrow();
        table.by_name.values().map(|one| one.status()).collect()
    }

    /// The file they are from, and what is wrong with it.
    pub(super) fn configuration(&self) -> Option<ConfigurationStatus> {
        self.table.borrow().file.clone()
    }

    /// How the one at the device's own name is, or else the first.
    pub(super) fn origin(&self) -> OriginStatus {
        let table = self.table.borrow();
        let service = table.at("").or_else(|| table.by_name.values().next());
        let status = service.map(|service| service.origin.status());
        status.unwrap_or_default() // there is one
    }

    /// Whether no octet has to be seen here, of whatever visitor.
    pub(super) fn only_pass(&self) -> bool {
        let table = self.table.borrow();
        let mut services = table.by_name.values();
        services.all(|service| {
            matches!(service.origin.scheme(), Scheme::Tls | Scheme::Udp)
                && !service.reach.is_for_apps()
        })
    }
}

/// The services that `file` describes, and what that changes. Those that it describes as before are taken from there.
fn made(file: &Path, before: &ByName) -> Result<(ByName, Changes), ConfigError> {
    let mut changes = Changes::default();
    let mut by_name = BTreeMap::new();
    for (name, config) in config::read(file)? {
        let known = before.get(&name);
        let service = match known {
            Some(known) if known.config.as_ref() == Some(&config) => Arc::clone(known),
            _ => {
                let changed = known.map_or(&mut changes.added, |_| &mut changes.changed);
                changed.push(name.clone());
                let made = config.service(name.clone());
                Arc::new(made.map_err(|cause| ConfigError::Unusable {
                    file: file.to_owned(),
                    service: name.to_string(),
                    cause,
                })?)
            }
        };
        by_name.insert(name, service);
    }
    let gone = before.keys().filter(|name| !by_name.contains_key(*name));
    changes.removed = gone.cloned().collect();
    Ok((by_name, changes))
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changes = [
            ("added", &self.added),
            ("changed", &self.changed),
            ("removed", &self.removed),
        ];
        let told = changes.into_iter().filter(|(_, names)| !names.is_empty());
        let told = told.map(|(what, names)| {
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            format!("{what}: {}", names.join(", "))
        });
        match told.collect::<Vec<_>>() {
            none if none.is_empty() => f.write_str("none"),
            told => f.write_str(&told.join("; ")),
        }
    }
}

impl Service {
    fn new(
        name: ServiceName,
        origin: Origin,
        reach: Reach,
        port: Option<PublicPort>,
        check: Option<HealthCheck>,
        config: Option<ServiceConfig>,
    ) -> Self {
        Self {
            name,
            origin,
            reach,
            port,
            health: check.map(Health::new),
            config,
        }
    }

    /// If its visitors had better come later: when.
    pub(super) fn ill_for(&self) -> Option<Duration> {
        let health = self.health.as_ref().filter(|health| health.is_ill())?;
        Some(health.check.interval)
    }

    /// A visitor's connection to it was not to be had.
    pub(super) fn unreachable(&self, error: &io::Error) {
        let failure = OriginFailure::of_connection(error);
        if let Some(Line { left_out }) = self.origin.failures().line(failure) {
            let origin = self.origin.authority();
            tracing::warn!(%error, %origin, left_out, "the origin cannot be reached");
        }
    }

    fn status(&self) -> ServiceStatus {
        let OriginStatus {
            problem, failures, ..
        } = self.origin.status();
        let (health, found) = self.health.as_ref().map(Health::state).unzip();
        ServiceStatus {
            name: self.name.to_string(),
            origin: self.origin.address().to_string(),
            proxy_header: self.origin.visitor_address() == VisitorAddress::ProxyV2,
            http3: self.origin.http3().map(ToString::to_string),
            reach: self.reach.name().to_owned(),
            public: self.port.map(|port| port.to_string()),
            health: health.map(|health| health.name().to_owned()),
            problem: found.flatten().or(problem),
            failures,
        }
    }
}

impl FromStr for ServiceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text {
            OWN | REST => Ok(Self(text.into())),
            label => Ok(Self(read_label(label)?.into())),
        }
    }
}

/// No label of a host name is `@` or `*`.
impl Borrow<str> for ServiceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
