//! The name server is told where names lead: to whichever relays hold a device.

use std::net::IpAddr;

use directory::{DeviceName, RelayName};

use crate::fleet;

/// The name server, as the fleet sees it.
pub(super) struct Leads(ddns::Relays);

impl Leads {
    pub(super) fn boxed(relays: ddns::Relays) -> Box<dyn fleet::Leads> {
        Box::new(Self(relays))
    }
}

impl fleet::Leads for Leads {
    fn relays(&self, relays: &[(RelayName, Vec<IpAddr>)]) {
        if let Err(error) = self.0.set(relays) {
            tracing::error!(%error, "names do not lead to the relays that were registered");
        }
    }

    fn held(&self, device: &DeviceName, by: &[Option<RelayName>]) {
        // A device that was removed in this moment is nobody's.
        self.0.held(device, by);
    }
}
