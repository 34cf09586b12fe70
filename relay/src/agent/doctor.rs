//! Looks for what keeps visitors from a device, or makes it slow, from the device to its service, and says how to mend it. It
//! attaches nowhere, so that a running agent of the same device is not disturbed, and asks that agent what only it knows.
//!
//! ```text
//!   device     its agent, clock, processor, and what its kernel gives
//!   network    who translates its address
//!   way        the relays over UDP and over TCP; how long packets may be, and whether batches of them arrive
//!   cloud      whether it answers
//!   name       where it leads, here and in its zone; whether this network lets it lead home
//!   service    whether it answers, and how soon; whether its public port is open is up to the relay
//! ```
//!
//! Everything is looked at at the same time, each thing with a deadline of its own, and all of it with one.

mod batches;
mod cloud;
mod device;
mod finding;
mod lan;
mod name;
mod network;
mod path_mtu;
mod port;
mod running;
mod service;
mod trouble;
mod way;

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use wire::InstanceId;

use crate::resolve::Resolver;
use crate::tls::Roots;

use super::RunError;
use super::cloud::Cloud;
use super::dial::Dialler;
use super::flow::Flows;
use super::ports::PortsLog;
use super::relays::RelayAddress;
use super::state::{Pairing, State};
use super::status::{self, Status};

pub use finding::{Finding, Health, Hop, worst};
pub use running::complaints;

/// How long one hop may take, all of it. With what comes before it stays below fifteen seconds.
const HOP_TIME: Duration = Duration::from_secs(12);

/// To so many relays the way is looked at: an agent has tunnels to two, the first of the list that take it.
const RELAYS: usize = 4;

/// Looks at everything, and gives what was found from the device to its service. `progress` hears how many things of how many have
/// been looked at.
pub async fn examine(
    state: &State,
    resolver: Resolver,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Vec<Finding> {
    let asked = status::ask(state).await;
    let process = status::process(state).await;
    let mut findings = Vec::new();
    match patient(state, resolver) {
        Ok(patient) => {
            let name = format!("{}.{}", patient.pairing.name, patient.pairing.zone);
            findings.push(Hop::Device.well("pairing", name));
            findings.push(device::agent(asked.as_ref().err()));
            findings.extend(device::examine(process));
            let beyond = Box::pin(patient.examine(asked.as_ref().ok(), progress));
            findings.extend(beyond.await);
        }
        Err(error) => {
            let mend =
                "`causeway-agent pair` with a code from the operator (`causeway device add NAME`)";
            findings.push(Hop::Device.ill("pairing", error.to_string(), mend));
            findings.extend(device::examine(process));
        }
    }
    findings.sort_by_key(|finding| finding.hop);
    findings
}

/// A device that is paired.
struct Patient {
    pairing: Pairing,
    dialler: Arc<Dialler>,
    cloud: Cloud,
    roots: Roots,
    resolver: Resolver,
}

fn patient(state: &State, resolver: Resolver) -> Result<Patient, RunError> {
    let pairing = state.pairing()?;
    let roots = Roots::from_pem(&pairing.trust_root)?;
    let dialler = Dialler {
        certificate: state.identity()?.certificate()?,
        roots: roots.clone(),
        resolver,
        instance: InstanceId(rand::random()), // nobody hears it
        raw_outcomes: mpsc::channel(1).0,     // no tunnel is attached
        losses: Arc::new(Flows::new(false)),
        ports_log: PortsLog::default(),
    };
    Ok(Patient {
        cloud: Cloud::new(&pairing.cloud, roots.clone(), resolver)?,
        dialler: Arc::new(dialler),
        pairing,
        roots,
        resolver,
    })
}

impl Patient {
    /// Looks at all that is beyond the device itself, and its clock.
    async fn examine(
        &self,
        status: Option<&Status>,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Vec<Finding> {
        let Pairing {
            name, zone, relays, ..
        } = &self.pairing;
        let addresses: Vec<_> = relays
            .iter()
            .filter_map(|relay| RelayAddress::parse(relay))
            .collect();
        let seen_as = status.iter().flat_map(|status| &status.tunnels);
        let seen_as: Vec<IpAddr> = seen_as.map(|tunnel| tunnel.seen_as.ip()).collect();
        let network = async {
            match addresses.first() {
                Some(relay) => network::examine(self.resolver, relay, &seen_as).await,
                None => Vec::new(),
            }
        };
        let hops = Hops {
            done: AtomicUsize::new(0),
            count: 5,
            progress,
        };
        progress(0, hops.count);
        let ways = async {
            let mut looked = JoinSet::new(); // dropped with this future, and every look with it
            for (number, relay) in relays.iter().take(RELAYS).enumerate() {
                let (dialler, relay) = (Arc::clone(&self.dialler), relay.clone());
                looked.spawn(async move { (number, way::examine(&dialler, &relay).await) });
            }
            let mut found = looked.join_all().await;
            found.sort_by_key(|(number, _)| *number);
            found.into_iter().flat_map(|(_, found)| found).collect()
        };
        let (network, ways, cloud, name, service) = tokio::join!(
            hops.look(Hop::Network, "network", network),
            hops.look(Hop::Way, "relays", ways),
            hops.look(
                Hop::Relay,
                "cloud",
                cloud::examine(&self.cloud, self.resolver, &self.roots)
            ),
            hops.look(
                Hop::Name,
                "name",
                name::examine(self.resolver, name, zone, &addresses, status)
            ),
            hops.look(Hop::Service, "service", service::examine(status)),
        );
        let lasting = status.map(running::only_in_time).unwrap_or_default();
        let ports = status.map(port::examine).unwrap_or_default();
        [network, ways, lasting, cloud, ports, name, service].concat()
    }
}

/// The hops that are looked at.
struct Hops<'a> {
    done: AtomicUsize,
    count: usize,
    progress: &'a (dyn Fn(usize, usize) + Sync),
}

impl Hops<'_> {
    async fn look(
        &self,
        hop: Hop,
        subject: &str,
        looked: impl Future<Output = Vec<Finding>>,
    ) -> Vec<Finding> {
        let found = timeout(HOP_TIME, looked).await.unwrap_or_else(|_| {
            let words = format!(
                "not all of it could be looked at within {} s",
                HOP_TIME.as_secs()
            );
            vec![hop.unknown(subject, words, "mend what else is amiss, and look again")]
        });
        let done = 1 + self.done.fetch_add(1, Relaxed);
        (self.progress)(done, self.count);
        found
    }
}
