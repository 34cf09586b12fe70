//! Where names lead: to a device itself while it is found at an address of its own, else to its relay.
//!
//! ```text
//!  plan.rs     what is known of one device → what to ask, and where its name leads
//!  steered.rs  which names these are, and when each is to be asked
//!  metrics.rs  what is counted
//!  this        what happens ──► plans ──► questions (relay::reach) ──► plans ──► the name server
//! ```
//!
//! A device that has not told a port at which visitors come to it is nobody's business here, unless its owner wants its name to lead to the
//! relay: its name leads where its addresses say.

mod metrics;
mod plan;
mod steered;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ddns::addresses::Addresses;
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

use self::metrics::{FOUND, Metrics};
pub use self::plan::Mode;
pub(crate) use self::plan::Wish;
use self::plan::{Change, Check, Known, Plan};
use self::steered::{Steered, SteeredNames, word};
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
pub(crate) struct Steering(Arc<SteeredNames>);

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
        let steering = Self(Arc::new(SteeredNames {
            store,
            directory,
            fleet,
            names: names.steering,
            updater: names.updater.at(Door::Steering),
            private_addresses: names.private_addresses,
            plans: Mutex::default(),
            stirred: Mutex::default(),
            nudge: Notify::new(),
            wishing: tokio::sync::Mutex::default(),
            metrics: Metrics::register(registry)?,
        }));
        let stirring = Arc::downgrade(&steering.0);
        steering.0.fleet.watch(move |device| {
            if let Some(inner) = stirring.upgrade() {
                inner.stir(device);
            }
        });
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
        let mut look = None;
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
                () = self.0.nudge.notified() => {
                    look = look.or(Some(Instant::now() + TOGETHER));
                }
                () = at(wake) => {}
            }
            let now = Instant::now();
            if look.is_some_and(|look| look <= now) {
                look = None;
                self.look_at_stirred();
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
            Some(steered) => SteeringState::of(&steered.plan),
            None => SteeringState::of(&Plan::default()),
        }
    }

    fn wish_of(&self, registration: RegistrationId) -> Wish {
        let plans = self.0.plans();
        let steered = plans.by_registration.get(&registration);
        steered.map_or_else(Wish::default, |steered| steered.plan.known().wish)
    }

    fn wish_in_force(&self, name: &DeviceName, registration: RegistrationId, wish: Wish) {
        let mut plans = self.0.plans();
        if wish == Wish::default() {
            if self.0.forget(&mut plans, registration) {
                self.0.names.lead(name, registration, Lead::Given);
            }
        } else {
            let steered = plans.by_registration.entry(registration);
            let steered = steered.or_insert_with(|| Steered::new(name.clone()));
            let device = self.0.directory.device_by_name(name);
            steered.device = device.and_then(|device| Some(device.identity?.id));
            if let Some(device) = steered.device {
                let by_device = &mut self.0.stirred().registration_by_device;
                by_device.insert(device, registration);
            }
            let with_wish = |known| Known { wish, ..known };
            self.0.look(&mut plans, registration, with_wish);
        }
        self.0.count(&plans);
        drop(plans);
        self.0.nudge.notify_one();
    }

    /// A device has other addresses, or the same from elsewhere.
    fn said(&self, change: &AddressChange) {
        let Some(registration) = self.0.directory.registration_by_name(&change.device) else {
            return;
        };
        let from = change.from.map(|from| from.to_canonical());
        let from = from.filter(|from| self.0.may_be_asked(from));
        self.0
            .look(&mut self.0.plans(), registration, |known| Known {
                said_from: from.or(known.said_from),
                ..known
            });
    }

    /// Tunnels have come or gone.
    fn look_at_stirred(&self) {
        let waiting = std::mem::take(&mut self.0.stirred().waiting);
        let mut plans = self.0.plans();
        for registration in waiting {
            self.0.look(&mut plans, registration, |known| known);
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
                self.0.forget(&mut plans, registration);
                self.0.count(&plans);
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

impl SteeringState {
    fn of(plan: &Plan) -> Self {
        let Wish { mode, port } = plan.known().wish;
        Self {
            mode,
            port: port.map(Into::into),
            leads: word(plan.lead()).to_owned(),
            why: plan.why(),
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

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}
