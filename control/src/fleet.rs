//! The relays that have a process of their own: which there are, which of them follow now, and which devices they hold.
//!
//! ```text
//!   registry.rs   the operator adds and removes relays
//!   join.rs       with what a relay begins
//!   follow.rs     a relay is told what there is, and what changes      history.rs    what has changed
//!   sessions.rs   a relay that follows reports who is there            attached.rs   how that is said
//! ```
//!
//! Nothing here is waited for by a visitor or a query.

pub(crate) mod attached;
mod follow;
mod history;
pub(crate) mod join;
mod registry;
mod sessions;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use directory::{Device, DeviceId, DeviceName, OperatorName, PublicKey, Reader, RelayName};
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use relay::server::{Attachment, Presence};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::authority::{Authority, DeviceCertificate, SigningError};
use crate::store::{Relay, Store, StoreError};
use history::History;
use sessions::Following;
pub(crate) use sessions::ReportError;

/// Who is told where names are to lead. Both are called while a lock is held: they must be quick.
pub(crate) trait Leads: Send + Sync {
    /// These are the relays with a process of their own now.
    fn relays(&self, relays: &[(RelayName, Vec<IpAddr>)]);
    /// The device is held by these relays now; `None` is the server's own.
    fn held(&self, device: &DeviceName, by: &[Option<RelayName>]);
}

type Watcher = Box<dyn Fn(&DeviceId) + Send + Sync>;

/// So many relays a device is told of: it keeps tunnels to two, and more than these are hardly all away at once.
const MAX_TOLD: usize = 8;

/// What the fleet needs from the rest of the program.
pub(crate) struct Surroundings {
    pub(crate) store: Store,
    pub(crate) directory: Reader,
    pub(crate) authority: Arc<Authority>,
    /// Who is at the server's own relay.
    pub(crate) own: Presence,
    /// The port of its front.
    pub(crate) port: u16,
    pub(crate) leads: Option<Box<dyn Leads>>,
}

/// All relays of the zone.
pub(crate) struct Fleet {
    around: Surroundings,
    history: History,
    known: Mutex<Known>,
    /// Rises whenever a device comes or goes, wherever.
    changed: watch::Sender<u64>,
    /// Who hears of which device that is.
    watcher: OnceLock<Watcher>,
    /// The operator adds or removes one at a time.
    registering: Arc<tokio::sync::Mutex<()>>,
    tasks: TaskTracker,
    metrics: Metrics,
}

#[derive(Default)]
struct Known {
    relays: BTreeMap<RelayName, Registered>,
    /// By relays with a process of their own.
    held: HashMap<DeviceId, Vec<Held>>,
}

impl Known {
    fn is_late(&self, relay: &RelayName) -> bool {
        let registered = self.relays.get(relay);
        let following = registered.and_then(|registered| registered.following.as_ref());
        following.is_some_and(|following| following.is_late)
    }
}

struct Registered {
    relay: Relay,
    following: Option<Following>,
}

struct Held {
    by: RelayName,
    attachment: Attachment,
}

struct Metrics {
    registered: IntGauge,
    following: IntGauge,
    late: IntCounter,
    ended: IntCounterVec,
}

impl Metrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            registered: IntGauge::new(
                "causeway_control_relays_registered",
                "Relays with a process of their own that the operator has added.",
            )?,
            following: IntGauge::new(
                "causeway_control_relays_following",
                "Those of them that follow this server now.",
            )?,
            late: IntCounter::new(
                "causeway_control_relays_late_total",
                "Times that a relay was late with its report, and names led elsewhere where they could.",
            )?,
            ended: IntCounterVec::new(
                Opts::new(
                    "causeway_control_relay_sessions_ended_total",
                    "Times that a relay stopped following, by reason.",
                ),
                &["reason"],
            )?,
        };
        registry.register(Box::new(metrics.registered.clone()))?;
        registry.register(Box::new(metrics.following.clone()))?;
        registry.register(Box::new(metrics.late.clone()))?;
        registry.register(Box::new(metrics.ended.clone()))?;
        for reason in sessions::End::ALL {
            metrics.ended.with_label_values(&[reason.name()]);
        }
        Ok(metrics)
    }
}

impl Fleet {
    /// The fleet as the database knows it. From now on names are led by it.
    ///
    /// # Errors
    /// If the database fails, or the metrics are registered twice.
    pub(crate) async fn open(
        around: Surroundings,
        registry: &Registry,
    ) -> Result<Arc<Self>, OpenError> {
        let relays = around.store.relays().await?;
        let relays = relays.into_iter().map(|relay| {
            let following = None;
            (relay.name.clone(), Registered { relay, following })
        });
        let known = Known {
            relays: relays.collect(),
            held: HashMap::new(),
        };
        let fleet = Arc::new(Self {
            around,
            history: History::new(),
            known: Mutex::new(known),
            changed: watch::Sender::new(0),
            watcher: OnceLock::new(),
            registering: Arc::default(),
            tasks: TaskTracker::new(),
            metrics: Metrics::register(registry)?,
        });
        fleet.registered_changed(&fleet.known());
        // Weakly, for the fleet itself holds on to both.
        let of_directory = Arc::downgrade(&fleet);
        fleet.around.directory.watch(move |change| {
            if let Some(fleet) = of_directory.upgrade() {
                fleet.history.note(&change.device().name);
            }
        });
        let of_presence = Arc::downgrade(&fleet);
        fleet.around.own.watch(move |device| {
            if let Some(fleet) = of_presence.upgrade() {
                fleet.own_changed(device);
                fleet.watched(device);
                fleet.changed.send_modify(|version| *version += 1);
            }
        });
        Ok(fleet)
    }

    /// How `device` is attached, wherever; `None` if it is nowhere.
    pub(crate) fn of(&self, device: &DeviceId) -> Option<Attachment> {
        self.around.own.of(device).or_else(|| {
            let known = self.known();
            let held = known.held.get(device)?.first()?;
            Some(held.attachment.clone())
        })
    }

    /// Where the tunnels of `device` come from, as its relays see it; nowhere if it has none.
    pub(crate) fn seen_at(&self, device: &DeviceId) -> Vec<IpAddr> {
        let own = self.around.own.of(device);
        let known = self.known();
        let held = known.held.get(device).into_iter().flatten();
        let own = own.iter();
        let attachments = own.chain(held.map(|held| &held.attachment));
        let mut seen: Vec<_> = attachments
            .map(|attachment| attachment.seen_as.ip().to_canonical())
            .collect();
        seen.sort();
        seen.dedup();
        seen
    }

    /// A number that changes whenever any device comes or goes. Changes in quick succession may be seen as one.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// From now on `watcher` is called with each device that has just come or gone, wherever, while a lock is held: it must be quick, and
    /// ask nothing of the fleet. There is one watcher.
    pub(crate) fn watch(&self, watcher: impl Fn(&DeviceId) + Send + Sync + 'static) {
        let is_first = self.watcher.set(Box::new(watcher)).is_ok();
        debug_assert!(is_first, "there is one watcher");
    }

    fn watched(&self, device: &DeviceId) {
        if let Some(watcher) = self.watcher.get() {
            watcher(device);
        }
    }

    /// Where `device` is to bring its tunnels, as `host:port`, the best first, [`MAX_TOLD`] at most: an order of its own for each
    /// device, so that all relays have about as many.
    pub(crate) fn relays_for(&self, device: &Device) -> Vec<String> {
        let zone = self.around.directory.zone();
        let mut relays = vec![self.own_relay()];
        let known = self.known();
        relays.extend(known.relays.values().map(|Registered { relay, .. }| {
            format!("{}:{}", zone.relay_name(&relay.name), relay.port)
        }));
        drop(known);
        relays.sort_by_cached_key(|relay| {
            let digest = Sha256::new()
                .chain_update(device.registration.0.to_be_bytes())
                .chain_update(relay);
            <[u8; 32]>::from(digest.finalize())
        });
        relays.truncate(MAX_TOLD);
        relays
    }

    /// The server's own relay, as `host:port`.
    pub(crate) fn own_relay(&self) -> String {
        let zone = self.around.directory.zone();
        let host = zone.operator_name(OperatorName::Relay);
        format!("{host}:{}", self.around.port)
    }

    /// Which relay has `key`.
    pub(crate) fn relay_by_key(&self, key: &PublicKey) -> Option<RelayName> {
        let known = self.known();
        let mut relays = known.relays.values();
        let found = relays.find(|registered| registered.relay.key == *key)?;
        Some(found.relay.name.clone())
    }

    /// Signs a certificate for the host of a relay.
    ///
    /// # Errors
    /// If the request is not one for that host.
    pub(crate) fn sign(
        &self,
        relay: &RelayName,
        request: &str,
    ) -> Result<DeviceCertificate, SigningError> {
        self.around.authority.sign_for_relay(relay, request)
    }

    /// A device has come to the server's own relay or has gone. Where no other holds it, its name leads here anyway.
    fn own_changed(&self, device: &DeviceId) {
        let known = self.known();
        if let Some(held) = known.held.get(device).and_then(|held| held.first()) {
            self.lead(&known, device, &held.attachment.name);
        }
    }

    /// Waits until every change that was begun has been made, and nobody is told anything any more.
    pub(crate) async fn close(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Says where the name of a device leads now: to all who hold it but those who are late, or to these, where there is nobody else.
    fn lead(&self, known: &Known, device: &DeviceId, name: &DeviceName) {
        let Some(leads) = &self.around.leads else {
            return;
        };
        let own = self.around.own.of(device).map(|_| None);
        let mut holders = Vec::from_iter(own);
        let others = known.held.get(device).into_iter().flatten();
        let (late, punctual): (Vec<_>, Vec<_>) = others
            .map(|held| &held.by)
            .partition(|relay| known.is_late(relay));
        holders.extend(punctual.into_iter().cloned().map(Some));
        if holders.is_empty() {
            holders.extend(late.into_iter().cloned().map(Some));
        }
        leads.held(name, &holders);
    }

    fn registered_changed(&self, known: &Known) {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.registered.set(count(known.relays.len()));
        if let Some(leads) = &self.around.leads {
            let relays = known.relays.values();
            let relays = relays.map(|one| (one.relay.name.clone(), one.relay.addresses.clone()));
            leads.relays(&relays.collect::<Vec<_>>());
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("relays", &self.known().relays.len())
            .finish_non_exhaustive()
    }
}

/// Why the fleet is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Metrics registered twice.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}
