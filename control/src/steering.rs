//! Where names lead: to a device itself while it is found at an address of its own, else to its relay.
//!
//! ```text
//!  plan.rs     what is known of one device → what to ask, and where its name leads
//!  metrics.rs  what is counted
//!  this        what happens ──► plans ──► questions (relay::reach) ──► plans ──► the name server
//! ```
//!
//! A device that has not told a port at which visitors come to it is nobody's business here, unless its owner wants its name to lead to the
//! relay: its name leads where its addresses say.

mod metrics;
mod plan;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ddns::addresses::{Addresses, ChangeSet, is_public};
use ddns::steering::Lead;
use ddns::update::{AddressChange, Door, Updater};
use directory::{DeviceName, PublicKey, Reader, RegistrationId};
use prometheus::Registry;
use relay::reach::{self, NotThere};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use self::metrics::{DEVICE, FOUND, GIVEN, Metrics, RELAY};
pub use self::plan::Mode;
pub(crate) use self::plan::Wish;
use self::plan::{Change, Check, Known, Plan};
use crate::fleet::Fleet;
use crate::store::{Store, StoreError};

/// Changes of addresses that wait to be looked at. One that finds no room is seen when its device is asked next.
const CHANGES: usize = 4096;
/// Devices that are asked at a time.
const ASKED: usize = 512;
/// Tunnels that come and go within so long are looked at together.
const TOGETHER: Duration = Duration::from_millis(100);

/// Steers names. Clones do the same.
#[derive(Clone, Debug)]
pub(crate) struct Steering(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    directory: Reader,
    fleet: Arc<Fleet>,
    names: ddns::steering::Steering,
    updater: Updater,
    /// Private addresses are asked too.
    private_addresses: bool,
    plans: Mutex<Plans>,
    nudge: Notify,
    /// Wishes are kept one at a time.
    wishing: tokio::sync::Mutex<()>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Plans {
    by_registration: HashMap<RegistrationId, Steered>,
    /// Who is to be asked when.
    queue: BTreeSet<(Instant, RegistrationId)>,
}

#[derive(Debug)]
struct Steered {
    name: DeviceName,
    plan: Plan,
    queued: Option<Instant>,
    /// Where the name leads, and the addresses that it had then.
    applied: Option<(Lead, Addresses)>,
}

/// How a device's name is steered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SteeringState {
    /// What its owner wants.
    pub mode: Mode,
    /// The port at which visitors come to the device itself, if it has told one.
    pub port: Option<u16>,
    /// Where the name leads: `device`, `relay`, or `given`, where its addresses say.
    pub leads: String,
    /// Why, in words.
    pub why: String,
}

/// What the name server has for whoever steers.
pub(crate) struct Names {
    pub(crate) steering: ddns::steering::Steering,
    pub(crate) updater: Updater,
    pub(crate) private_addresses: bool,
}

/// Why names are not steered.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Metrics registered twice.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

/// A way for changes of addresses, from the name server to here.
pub(crate) fn changes() -> (mpsc::Sender<AddressChange>, mpsc::Receiver<AddressChange>) {
    mpsc::channel(CHANGES)
}

/// What a task has brought.
enum Ended {
    Checked(RegistrationId, Check, Result<(), NotThere>),
    /// With the addresses that the name has now, if it has got the one that was found.
    Adopted(RegistrationId, Check, Option<Addresses>),
}

impl Steering {
    /// By the wishes that the database has.
    ///
    /// # Errors
    /// If it fails, or metrics are registered twice.
    pub(crate) async fn open(
        store: Store,
        directory: Reader,
        fleet: Arc<Fleet>,
        names: Names,
        registry: &Registry,
    ) -> Result<Self, OpenError> {
        let wishes = store.steering().await?;
        let steering = Self(Arc::new(Inner {
            store,
            directory,
            fleet,
            names: names.steering,
            updater: names.updater.at(Door::Steering),
            private_addresses: names.private_addresses,
            plans: Mutex::default(),
            nudge: Notify::new(),
            wishing: tokio::sync::Mutex::default(),
            metrics: Metrics::register(registry)?,
        }));
        for (name, registration, wish) in wishes {
            steering.wish_in_force(&name, registration, wish);
        }
        Ok(steering)
    }

    /// Steers until `stop`.
    pub(crate) async fn run(
        self,
        mut changes: mpsc::Receiver<AddressChange>,
        stop: CancellationToken,
    ) {
        let mut attached = self.0.fleet.changes();
        let mut look = Some(Instant::now());
        let mut asking = JoinSet::new();
        loop {
            let due = self.0.plans().queue.first().map(|(due, _)| *due);
            let due = due.filter(|_| asking.len() < ASKED);
            let wake = [due, look].into_iter().flatten().min();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(ended) = asking.join_next(), if !asking.is_empty() => {
                    if let Ok(ended) = ended {
                        self.ended(ended, &mut asking);
                    }
                }
                Some(change) = changes.recv() => self.said(&change),
                Ok(()) = attached.changed() => {
                    look = look.or(Some(Instant::now() + TOGETHER));
                }
                () = self.0.nudge.notified() => {}
                () = at(wake) => {}
            }
            let now = Instant::now();
            if look.is_some_and(|look| look <= now) {
                look = None;
                self.look_at_all(now);
            }
            self.ask(&mut asking, now);
        }
    }

    /// What is wished for a device's name from now on: the parts that are given.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) async fn wish(
        &self,
        name: &DeviceName,
        registration: RegistrationId,
        change: impl FnOnce(Wish) -> Wish,
    ) -> Result<(), StoreError> {
        let _one_wishes = self.0.wishing.lock().await;
        let before = self.wish_of(registration);
        let wish = change(before);
        if wish != before && self.0.store.set_steering(name, registration, wish).await? {
            self.wish_in_force(name, registration, wish);
        }
        Ok(())
    }

    /// How the name of a device is steered.
    pub(crate) fn state(&self, registration: RegistrationId) -> SteeringState {
        let plans = self.0.plans();
        match plans.by_registration.get(&registration) {
            Some(Steered { plan, .. }) => SteeringState {
                mode: plan.known().wish.mode,
                port: plan.known().wish.port.map(Into::into),
                leads: word(plan.lead()).to_owned(),
                why: plan.why(),
            },
            None => {
                let plan = Plan::new(Known::default(), Instant::now());
                SteeringState {
                    mode: Mode::default(),
                    port: None,
                    leads: word(Lead::Given).to_owned(),
                    why: plan.why(),
                }
            }
        }
    }

    fn wish_of(&self, registration: RegistrationId) -> Wish {
        let plans = self.0.plans();
        let steered = plans.by_registration.get(&registration);
        steered.map_or_else(Wish::default, |steered| steered.plan.known().wish)
    }

    fn wish_in_force(&self, name: &DeviceName, registration: RegistrationId, wish: Wish) {
        let now = Instant::now();
        let mut plans = self.0.plans();
        if wish == Wish::default() {
            if plans.forget(registration) {
                self.0.names.lead(name, registration, Lead::Given);
            }
        } else {
            let said_from = plans.by_registration.get(&registration);
            let said_from = said_from.and_then(|steered| steered.plan.known().said_from);
            let known = Known {
                wish,
                said_from,
                ..self.0.known(name, registration)
            };
            match plans.by_registration.get_mut(&registration) {
                Some(steered) => steered.plan.learn(known, now),
                None => {
                    let steered = Steered {
                        name: name.clone(),
                        plan: Plan::new(known, now),
                        queued: None,
                        applied: None,
                    };
                    plans.by_registration.insert(registration, steered);
                }
            }
            self.0.follow(&mut plans, registration);
        }
        let count = i64::try_from(plans.by_registration.len());
        self.0.metrics.steered.set(count.unwrap_or(i64::MAX));
        drop(plans);
        self.0.nudge.notify_one();
    }

    /// A device has other addresses, or the same from elsewhere.
    fn said(&self, change: &AddressChange) {
        let Some(registration) = self.0.directory.registration_by_name(&change.device) else {
            return;
        };
        let mut plans = self.0.plans();
        if let Some(steered) = plans.by_registration.get_mut(&registration) {
            let before = steered.plan.known();
            let from = change.from.map(|from| from.to_canonical());
            let known = Known {
                wish: before.wish,
                said_from: from
                    .filter(|from| self.0.may_be_asked(from))
                    .or(before.said_from),
                ..self.0.known(&change.device, registration)
            };
            steered.plan.learn(known, Instant::now());
            self.0.follow(&mut plans, registration);
        }
    }

    /// Tunnels have come or gone.
    fn look_at_all(&self, now: Instant) {
        let mut plans = self.0.plans();
        let registrations: Vec<_> = plans.by_registration.keys().copied().collect();
        for registration in registrations {
            let Some(steered) = plans.by_registration.get_mut(&registration) else {
                continue;
            };
            if self.0.directory.registration_by_name(&steered.name) != Some(registration) {
                plans.forget(registration); // the name is given up
                continue;
            }
            let before = steered.plan.known();
            let known = Known {
                wish: before.wish,
                said_from: before.said_from,
                ..self.0.known(&steered.name, registration)
            };
            if known != *before {
                steered.plan.learn(known, now);
                self.0.follow(&mut plans, registration);
            }
        }
    }

    /// Asks those whose time has come, as far as there is room.
    fn ask(&self, asking: &mut JoinSet<Ended>, now: Instant) {
        let mut plans = self.0.plans();
        while asking.len() < ASKED
            && let Some((due, registration)) = plans.queue.first().copied()
            && due <= now
        {
            plans.queue.pop_first();
            let Some(steered) = plans.by_registration.get_mut(&registration) else {
                continue;
            };
            steered.queued = None;
            let device = self.0.directory.device_by_name(&steered.name);
            let Some(device) = device.filter(|device| device.registration == registration) else {
                plans.forget(registration);
                continue;
            };
            let host = self.0.directory.zone().name_of(&steered.name);
            for check in steered.plan.checks(now) {
                let (host, keys) = (host.clone(), device.keys().to_vec());
                asking.spawn(async move {
                    let found = found(&check, &host, &keys).await;
                    Ended::Checked(registration, check, found)
                });
            }
            self.0.follow(&mut plans, registration);
        }
    }

    fn ended(&self, ended: Ended, asking: &mut JoinSet<Ended>) {
        let now = Instant::now();
        let mut plans = self.0.plans();
        match ended {
            Ended::Checked(registration, check, found) => {
                let result = found.err().map_or(FOUND, NotThere::name);
                self.0.metrics.checks.with_label_values(&[result]).inc();
                let Some(steered) = plans.by_registration.get_mut(&registration) else {
                    return;
                };
                match steered
                    .plan
                    .checked(&check, found, now, spread(registration))
                {
                    Change::Nothing | Change::Lead => {}
                    Change::Adopt(address) => {
                        let (inner, name) = (Arc::clone(&self.0), steered.name.clone());
                        asking.spawn(async move {
                            let own = inner.adopt(&name, registration, address).await;
                            Ended::Adopted(registration, check, own)
                        });
                    }
                }
                self.0.follow(&mut plans, registration);
            }
            Ended::Adopted(registration, check, own) => {
                if let (Some(steered), Some(own)) =
                    (plans.by_registration.get_mut(&registration), own)
                {
                    steered.plan.adopted(&check, own, now);
                    self.0.metrics.adopted.inc();
                    self.0.follow(&mut plans, registration);
                }
            }
        }
    }
}

impl Plans {
    /// Says whether it was there.
    fn forget(&mut self, registration: RegistrationId) -> bool {
        let steered = self.by_registration.remove(&registration);
        if let Some(queued) = steered.as_ref().and_then(|steered| steered.queued) {
            self.queue.remove(&(queued, registration));
        }
        steered.is_some()
    }
}

impl Inner {
    fn plans(&self) -> MutexGuard<'_, Plans> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_be_asked(&self, address: &IpAddr) -> bool {
        self.private_addresses || is_public(*address)
    }

    /// What is known of a device, but for what is wished and from where it was said.
    fn known(&self, name: &DeviceName, registration: RegistrationId) -> Known {
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
    fn follow(&self, plans: &mut Plans, registration: RegistrationId) {
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
    async fn adopt(
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

/// Asks by each of the device's keys until one is proved. Mostly there is one.
async fn found(check: &Check, host: &str, keys: &[PublicKey]) -> Result<(), NotThere> {
    let address = SocketAddr::new(check.address, check.port.get());
    let mut found = Err(NotThere::Unproved);
    for key in keys {
        found = reach::prove(address, host, *key, check.patience).await;
        if found != Err(NotThere::Unproved) {
            break;
        }
    }
    found
}

/// What a device waits beyond the others: up to ten seconds.
fn spread(registration: RegistrationId) -> Duration {
    const MOST_MS: u64 = 10_000;
    let hash = registration.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    Duration::from_millis(hash % MOST_MS)
}

fn word(lead: Lead) -> &'static str {
    match lead {
        Lead::Given => GIVEN,
        Lead::Steered(direct) if direct.v4 || direct.v6 => DEVICE,
        Lead::Steered(_) => RELAY,
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}
