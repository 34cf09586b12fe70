//! The names that are steered: what is known of each, when it is to be asked, and where it leads.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ddns::addresses::{Addresses, ChangeSet, is_public};
use ddns::steering::Lead;
use ddns::update::Updater;
use directory::{DeviceId, DeviceName, Reader, RegistrationId};
use tokio::sync::Notify;

use super::metrics::{DEVICE, GIVEN, Metrics, RELAY};
use super::plan::{Known, Plan};
use crate::fleet::Fleet;
use crate::store::Store;

#[derive(Debug)]
pub(super) struct SteeredNames {
    pub(super) store: Store,
    pub(super) directory: Reader,
    pub(super) fleet: Arc<Fleet>,
    pub(super) names: ddns::steering::Steering,
    pub(super) updater: Updater,
    /// Private addresses are asked too.
    pub(super) private_addresses: bool,
    pub(super) plans: Mutex<Plans>,
    /// Asked for by whoever holds the fleet's lock, so nothing is asked of others while it is held.
    pub(super) stirred: Mutex<Stirred>,
    pub(super) nudge: Notify,
    /// Wishes are kept one at a time.
    pub(super) wishing: tokio::sync::Mutex<()>,
    pub(super) metrics: Metrics,
}

#[derive(Debug, Default)]
pub(super) struct Plans {
    pub(super) by_registration: HashMap<RegistrationId, Steered>,
    /// Who is to be asked when.
    pub(super) queue: BTreeSet<(Instant, RegistrationId)>,
}

#[derive(Debug)]
pub(super) struct Steered {
    pub(super) name: DeviceName,
    /// Once it has paired.
    pub(super) device: Option<DeviceId>,
    pub(super) plan: Plan,
    pub(super) queued: Option<Instant>,
    /// Where the name leads, and the addresses that it had then.
    pub(super) applied: Option<(Lead, Addresses)>,
}

impl Steered {
    /// Nothing is known of it.
    pub(super) fn new(name: DeviceName) -> Self {
        Self {
            name,
            device: None,
            plan: Plan::default(),
            queued: None,
            applied: None,
        }
    }
}

/// The devices whose tunnels have come or gone, until they are looked at.
#[derive(Debug, Default)]
pub(super) struct Stirred {
    /// Those that are steered; nobody looks at others.
    pub(super) registration_by_device: HashMap<DeviceId, RegistrationId>,
    pub(super) waiting: HashSet<RegistrationId>,
}

impl SteeredNames {
    pub(super) fn plans(&self) -> MutexGuard<'_, Plans> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stirred(&self) -> MutexGuard<'_, Stirred> {
        self.stirred.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A tunnel of this device has come or gone.
    pub(super) fn stir(&self, device: &DeviceId) {
        let mut stirred = self.stirred();
        if let Some(registration) = stirred.registration_by_device.get(device).copied() {
            stirred.waiting.insert(registration);
            self.nudge.notify_one();
        }
    }

    /// Says whether it was there.
    pub(super) fn forget(&self, plans: &mut Plans, registration: RegistrationId) -> bool {
        let steered = plans.by_registration.remove(&registration);
        if let Some(queued) = steered.as_ref().and_then(|steered| steered.queued) {
            plans.queue.remove(&(queued, registration));
        }
        if let Some(device) = steered.as_ref().and_then(|steered| steered.device) {
            self.stirred().registration_by_device.remove(&device);
        }
        steered.is_some()
    }

    pub(super) fn count(&self, plans: &Plans) {
        let count = i64::try_from(plans.by_registration.len());
        self.metrics.steered.set(count.unwrap_or(i64::MAX));
    }

    /// Looks anew at what is known of a device, if it is steered.
    pub(super) fn look(
        &self,
        plans: &mut Plans,
        registration: RegistrationId,
        with: impl FnOnce(Known) -> Known,
    ) {
        let Some(steered) = plans.by_registration.get_mut(&registration) else {
            return;
        };
        if self.directory.registration_by_name(&steered.name) != Some(registration) {
            self.forget(plans, registration); // the name is given up
            return self.count(plans);
        }
        let before = steered.plan.known();
        let known = with(Known {
            wish: before.wish,
            said_from: before.said_from,
            ..self.known(&steered.name, registration)
        });
        if known != *before {
            steered.plan.learn(known, Instant::now());
            self.follow(plans, registration);
        }
    }

    pub(super) fn may_be_asked(&self, address: &IpAddr) -> bool {
        self.private_addresses || is_public(*address)
    }

    /// What is known of a device, but for what is wished and from where it was said.
    pub(super) fn known(&self, name: &DeviceName, registration: RegistrationId) -> Known {
        let held = self.updater.held(registration, name);
        let device = self.directory.device_by_name(name);
        let identity = device.and_then(|device| device.identity);
        let tunnels = identity.map_or_else(Vec::new, |identity| self.fleet.seen_at(&identity.id));
        let may_be_asked = |address: &_| self.may_be_asked(address);
        Known {
            own: held.map_or_else(Addresses::default, |held| held.own.addresses),
            tunnels: tunnels.into_iter().filter(may_be_asked).collect(),
            ..Known::default()
        }
    }

    /// Has the queue and the name server follow a plan.
    pub(super) fn follow(&self, plans: &mut Plans, registration: RegistrationId) {
        let Plans {
            by_registration,
            queue,
        } = plans;
        let Some(steered) = by_registration.get_mut(&registration) else {
            return;
        };
        let due = steered.plan.due();
        if steered.queued != due {
            if let Some(queued) = steered.queued {
                queue.remove(&(queued, registration));
            }
            queue.extend(due.map(|due| (due, registration)));
            steered.queued = due;
        }
        let lead = steered.plan.lead();
        let applied = Some((lead, steered.plan.known().own));
        if steered.applied != applied {
            self.names.lead(&steered.name, registration, lead);
            let before = steered.applied.map_or(Lead::Given, |(lead, _)| lead);
            if before != lead {
                let to = word(lead);
                tracing::info!(device = %steered.name, to, why = steered.plan.why(), "a name leads elsewhere");
                self.metrics.changes.with_label_values(&[to]).inc();
            }
            steered.applied = applied;
        }
    }

    /// Gives the name the address at which its device was found; gives back what it has then.
    pub(super) async fn adopt(
        &self,
        name: &DeviceName,
        registration: RegistrationId,
        address: IpAddr,
    ) -> Option<Addresses> {
        let change = ChangeSet::default().set(address).ok()?;
        match self.updater.update(registration, name, change).await {
            Ok(outcome) => Some(outcome.held().own.addresses),
            Err(error) => {
                tracing::info!(device = %name, %error, "a name was not given the address of its device");
                None
            }
        }
    }
}

pub(super) fn word(lead: Lead) -> &'static str {
    match lead {
        Lead::Given => GIVEN,
        Lead::Steered(direct) if direct.v4 || direct.v6 => DEVICE,
        Lead::Steered(_) => RELAY,
    }
}
