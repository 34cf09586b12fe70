//! The services of a device: which of its names leads to which origin. The table is replaced as a whole while the agent runs: what comes
//! then goes by the new one, what is under way ends as it began.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use directory::{DeviceName, NameError, Zone, read_label};
use tokio::sync::watch;

use super::origin::{Origin, Scheme};
use super::status::{OriginStatus, ServiceStatus};

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
}

/// Which names of its device a service has: `@` its own, `mynas.nas.example.com`; `photos` the one below it,
/// `photos.mynas.nas.example.com`; `*` all that no other service has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ServiceName(Box<str>);

const OWN: &str = "@";
const REST: &str = "*";

#[derive(Debug)]
struct Table {
    by_name: BTreeMap<ServiceName, Arc<Service>>,
}

impl Table {
    fn at(&self, label: &str) -> Option<&Arc<Service>> {
        let name = if label.is_empty() { OWN } else { label };
        let service = self.by_name.get(name);
        service.or_else(|| self.by_name.get(REST))
    }
}

/// Every name of the device leads there.
impl From<Origin> for Services {
    fn from(origin: Origin) -> Self {
        let name = ServiceName(REST.into());
        let service = Arc::new(Service {
            name: name.clone(),
            origin,
        });
        Self {
            table: watch::Sender::new(Table {
                by_name: [(name, service)].into(),
            }),
        }
    }
}

impl Services {
    /// The service of the name in front of whose device `label` stands.
    fn at(&self, label: &str) -> Option<Arc<Service>> {
        self.table.borrow().at(label).cloned()
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
        services.all(|service| service.origin.scheme() == Scheme::Tls)
    }
}

impl Service {
    fn status(&self) -> ServiceStatus {
        let OriginStatus {
            problem, failures, ..
        } = self.origin.status();
        ServiceStatus {
            name: self.name.to_string(),
            origin: self.origin.address().to_string(),
            problem,
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

/// The device's host names, and the services they lead to.
#[derive(Debug)]
pub(super) struct Hosts {
    zone: Zone,
    device: DeviceName,
    pub(super) services: Services,
    pub(super) refused: Refused,
}

/// What was asked for a name that has no service there.
#[derive(Debug, Default)]
pub(super) struct Refused {
    /// Visitors, when they came.
    unknown_name: AtomicU64,
    /// Requests, on a connection to another name.
    misdirected: AtomicU64,
}

impl Hosts {
    pub(super) fn new(zone: Zone, device: DeviceName, services: Services) -> Self {
        Self {
            zone,
            device,
            services,
            refused: Refused::default(),
        }
    }

    /// The service that `host` leads to. Takes any case, no port.
    pub(super) fn service(&self, host: &str) -> Option<Arc<Service>> {
        self.services.at(&self.zone.below(&self.device, host)?)
    }
}

impl Refused {
    pub(super) fn unknown_name(&self) {
        self.unknown_name.fetch_add(1, Relaxed);
    }

    pub(super) fn misdirected(&self) {
        self.misdirected.fetch_add(1, Relaxed);
    }

    /// How often, by reason, each of them.
    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        let counts = [
            ("unknown_name", &self.unknown_name),
            ("misdirected", &self.misdirected),
        ];
        let counts = counts.map(|(reason, count)| (reason.to_owned(), count.load(Relaxed)));
        counts.into()
    }
}
