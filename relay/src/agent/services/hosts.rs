//! The device's host names, and the services they lead to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use directory::{DeviceName, PublicPort, Zone};

use super::{APPS, OWN, REST, Service, ServiceName, Services};

/// The label in front of the device's name at which it is at home.
const LAN: &str = "lan";

/// From a host name to its service.
#[derive(Debug)]
pub(in crate::agent) struct Hosts {
    zone: Zone,
    device: DeviceName,
    pub(in crate::agent) services: Services,
    pub(in crate::agent) refused: Refused,
}

/// What was asked for a name that has no service there, and sent away.
#[derive(Debug, Default)]
pub(in crate::agent) struct Refused {
    /// Visitors, when they came.
    unknown_name: AtomicU64,
    /// The same, for another service than the relay has said.
    other_name: AtomicU64,
    /// Requests, on a connection to another name.
    misdirected: AtomicU64,
    /// Apps, for a service that is not there, or not for them.
    unknown_service: AtomicU64,
    /// Visitors, at a public port to which no service is.
    unknown_port: AtomicU64,
}

impl Hosts {
    pub(in crate::agent) fn new(zone: Zone, device: DeviceName, services: Services) -> Self {
        Self {
            zone,
            device,
            services,
            refused: Refused::default(),
        }
    }

    /// A host that leads to the service of that name.
    pub(in crate::agent) fn host_of(&self, service: &ServiceName) -> String {
        let device = self.zone.name_of(&self.device);
        match &*service.0 {
            OWN | REST => device,
            label => format!("{label}.{device}"),
        }
    }

    /// The service that `host` leads to. Takes any case, no port.
    pub(in crate::agent) fn service(&self, host: &str) -> Option<Arc<Service>> {
        self.services.at(&self.zone.below(&self.device, host)?)
    }

    /// Whether `host` is where the device is at home. Takes any case, no port.
    pub(in crate::agent) fn is_lan(&self, host: &str) -> bool {
        let label = self.zone.below(&self.device, host);
        label.is_some_and(|label| label == LAN)
    }

    /// The service that a public port leads to.
    pub(in crate::agent) fn at_port(&self, port: PublicPort) -> Option<Arc<Service>> {
        let service = self.services.at_port(port);
        if service.is_none() {
            self.refused.unknown_port.fetch_add(1, Relaxed);
        }
        service
    }

    /// Whether apps come to `host`, to ask for a service by its name. Takes any case, no port.
    pub(in crate::agent) fn is_for_apps(&self, host: &str) -> bool {
        let label = self.zone.below(&self.device, host);
        label.is_some_and(|label| label == APPS) && self.services.take_apps()
    }
}

impl Refused {
    pub(in crate::agent) fn unknown_name(&self) {
        self.unknown_name.fetch_add(1, Relaxed);
    }

    pub(in crate::agent) fn other_name(&self) {
        self.other_name.fetch_add(1, Relaxed);
    }

    pub(in crate::agent) fn misdirected(&self) {
        self.misdirected.fetch_add(1, Relaxed);
    }

    pub(in crate::agent) fn unknown_service(&self) {
        self.unknown_service.fetch_add(1, Relaxed);
    }

    /// How often, by reason, each of them.
    pub(in crate::agent) fn counts(&self) -> BTreeMap<String, u64> {
        let counts = [
            ("unknown_name", &self.unknown_name),
            ("other_name", &self.other_name),
            ("misdirected", &self.misdirected),
            ("unknown_service", &self.unknown_service),
            ("unknown_port", &self.unknown_port),
        ];
        let counts = counts.map(|(reason, count)| (reason.to_owned(), count.load(Relaxed)));
        counts.into()
    }
}
