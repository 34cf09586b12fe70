//! Tells the cloud under which addresses the device itself can perhaps be reached, whenever they change.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use hyper::Method;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::cloud::Cloud;
use super::identity::Identity;
use crate::backoff::Backoff;

/// How often it is looked at whether the addresses have changed.
const LOOK: Duration = Duration::from_secs(30);

/// Between two tries to tell the cloud, at least and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// Addresses out in the world, of documentation networks: a route to them says which of ours would be used.
const FAR_AWAY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

#[derive(Serialize)]
struct AddressReport {
    addresses: BTreeSet<IpAddr>,
}

#[derive(Deserialize)]
struct ReportAnswer {}

/// Reports the addresses now and after each change. Never returns.
pub(super) async fn announce(cloud: &Cloud, identity: &Identity) {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut told = None;
    loop {
        let addresses = own_addresses();
        if told.as_ref() == Some(&addresses) {
            sleep(LOOK).await;
            continue;
        }
        let report = AddressReport {
            addresses: addresses.clone(),
        };
        let body = serde_json::to_vec(&report).unwrap_or_default(); // a list of addresses
        let path = "/api/device/addresses";
        match cloud
            .call::<ReportAnswer>(Method::PUT, path, "application/json", body, identity)
            .await
        {
            Ok(_) => {
                told = Some(addresses);
                backoff.reset();
            }
            Err(error) => {
                tracing::debug!(%error, "the cloud could not be told this device's addresses");
                sleep(backoff.next_wait()).await;
            }
        }
    }
}

/// The addresses this host would use towards the world: one of each family at most. Nothing is sent to find out.
pub(super) fn own_addresses() -> BTreeSet<IpAddr> {
    let address_towards = |far: IpAddr| {
        let any: IpAddr = match far {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
        socket.connect(SocketAddr::new(far, 9)).ok()?; // chooses a route; UDP says nothing yet
        socket.local_addr().ok().map(|address| address.ip())
    };
    FAR_AWAY.into_iter().filter_map(address_towards).collect()
}
