//! The certificate watch: follows certificate transparency logs for certificates that somebody has got for names of the zone, and keeps for
//! each name what was seen. Whether a certificate is its own is for the device to say: it alone knows its key, and it need not believe that
//! this server would tell.
//!
//! ```text
//!   log        HTTPS ─► what it says, bounded in time and length
//!   follower   head ─► entries ─► do they make the head's root? ─► whose names? ─► store ─► the device, when it asks
//! ```

mod follower;
mod log;
mod metrics;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use directory::{DeviceName, Zone};
use prometheus::Registry;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::CertificateWatchConfig;
use crate::devices::now_ms;
use crate::store::{Store, StoreError};
use follower::Follower;
use metrics::Metrics;

/// Whose a name in a certificate is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// The operator's: the zone itself, and hosts of it that no device can have.
    Operator,
    /// Every device's: `*.` below the zone.
    All,
    /// The device's that has the name, or will have it.
    Device(DeviceName),
}

impl Owner {
    /// Whose `name` is, if it lies in `zone`; in small letters, perhaps with `*.` in front. A name that leads nowhere today is whose it
    /// would be.
    fn of(name: &str, zone: &Zone) -> Option<Self> {
        let below = name.strip_suffix(zone.as_str())?;
        if below.is_empty() {
            return Some(Self::Operator);
        }
        let label = below.strip_suffix('.')?.rsplit('.').next()?;
        Some(match DeviceName::parse(label) {
            _ if label == "*" => Self::All,
            Ok(name) if zone_has(zone, &name) => Self::Device(name),
            Ok(_) | Err(_) => Self::Operator,
        })
    }

    /// As it is kept.
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Operator => "",
            Self::All => "*",
            Self::Device(name) => name.as_str(),
        }
    }
}

/// Whether devices can have `name`: it is none of the operator's own.
fn zone_has(zone: &Zone, name: &DeviceName) -> bool {
    matches!(
        zone.locate(&zone.name_of(name)),
        directory::Place::Device(_)
    )
}

/// A certificate that a log has shown, for names of one owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) owner: Owner,
    /// The owner's names in it.
    pub(crate) names: Vec<String>,
    /// Its own names are not needed any more.
    pub(crate) certificate: transparency::Certificate,
    /// Where it was seen.
    pub(crate) log: String,
    /// As which entry.
    pub(crate) entry: u64,
}

/// How it stands with a log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LogStatus {
    /// Where it is.
    pub log: String,
    /// So many entries it has, each of them its own.
    pub entries: u64,
    /// When it was followed to its end last, in seconds since 1970; absent: never yet since this server started.
    pub followed_at: Option<u64>,
    /// What is wrong with it, in words.
    pub problem: Option<String>,
}

/// A certificate that a log has shown for names of one owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenCertificate {
    /// Later ones have higher numbers.
    pub number: u64,
    /// Whose it is about: a device's name, `*` for all devices, nothing for the operator's own hosts.
    pub owner: String,
    /// SHA-256 of its public key (SubjectPublicKeyInfo), in hexadecimal.
    pub key: String,
    /// The owner's names in it.
    pub names: Vec<String>,
    /// In hexadecimal.
    pub serial: String,
    /// Who has given it, in words of its own.
    pub issuer: String,
    /// In seconds since 1970.
    pub not_before: i64,
    /// The same.
    pub not_after: i64,
    /// Where it was seen.
    pub log: String,
    /// As which entry.
    pub entry: u64,
    /// Whether a device says that it is not its own.
    pub reported: bool,
}

/// What an operator is told of the watch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// The logs.
    pub logs: Vec<LogStatus>,
    /// What devices say is not their own, and what is for the operator's own hosts or for all devices; the newest first.
    pub certificates: Vec<SeenCertificate>,
}

/// What the watch knows. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct CertificateWatch {
    /// Where it is kept what was seen.
    pub(crate) store: Store,
    logs: Arc<Mutex<Vec<LogStatus>>>,
    devices_ask: Option<Duration>,
    metrics: Metrics,
}

impl CertificateWatch {
    /// How it stands with each log, in the order of the configuration.
    pub(crate) fn logs(&self) -> Vec<LogStatus> {
        self.lock().clone()
    }

    /// The logs, and what they have shown that is in question.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) async fn watched(&self) -> Result<Watched, StoreError> {
        let certificates = self.store.certificates_in_question(now_ms()).await?;
        Ok(Watched {
            logs: self.logs(),
            certificates,
        })
    }

    /// How often devices are to ask; `None` if there is nothing to ask for.
    pub(crate) fn devices_ask(&self) -> Option<Duration> {
        self.devices_ask
    }

    /// A device has said of so many certificates for the first time that they are not its own.
    pub(crate) fn reported(&self, count: u64) {
        self.metrics.strange.inc_by(count);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<LogStatus>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, number: usize, tell: impl FnOnce(&mut LogStatus)) {
        let mut logs = self.lock();
        if let Some(log) = logs.get_mut(number) {
            tell(log);
        }
        let times = logs.iter().map(|log| log.followed_at.unwrap_or(0));
        let oldest = times.min().unwrap_or(0);
        self.metrics.oldest.set(oldest.cast_signed());
    }
}

/// The logs that are to be followed.
#[derive(Debug)]
pub(crate) struct Followers {
    followers: Vec<Follower>,
    store: Store,
}

/// What is to be watched, by the configuration; nothing if that names no log.
///
/// # Errors
/// If a log cannot be asked for lack of what to check it against, or metrics are registered twice.
pub(crate) fn open(
    config: Option<&CertificateWatchConfig>,
    zone: &Zone,
    store: &Store,
    registry: &Registry,
) -> Result<(CertificateWatch, Followers), OpenError> {
    let logs = config.iter().flat_map(|config| &config.log);
    let status = logs.clone().map(|log| LogStatus {
        log: log.base().to_owned(),
        ..LogStatus::default()
    });
    let watch = CertificateWatch {
        store: store.clone(),
        logs: Arc::new(Mutex::new(status.collect())),
        devices_ask: config.map(|config| config.devices_ask),
        metrics: Metrics::register(registry)?,
    };
    let every = config.map_or(Duration::MAX, |config| config.every);
    let followers = logs
        .enumerate()
        .map(|(number, log)| Follower::new(log, number, every, zone.clone(), watch.clone()));
    let followers = Followers {
        followers: followers.collect::<io::Result<_>>()?,
        store: store.clone(),
    };
    let count = followers.followers.len();
    watch
        .metrics
        .logs
        .set(i64::try_from(count).unwrap_or(i64::MAX));
    Ok((watch, followers))
}

/// Why nothing is watched.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// What a log is checked against, or its key.
    #[error("[certificate_watch]: {0}")]
    Log(#[from] io::Error),
    /// Metrics registered twice.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

impl Followers {
    /// Whether there is nothing to follow.
    pub(crate) fn is_empty(&self) -> bool {
        self.followers.is_empty()
    }

    /// Follows them from when this process is `alone` until it is not any more, which is `over`; and ends at `end`.
    pub(crate) async fn follow(
        self,
        alone: Option<CancellationToken>,
        over: CancellationToken,
        end: CancellationToken,
    ) {
        let followed = async {
            if let Some(alone) = alone {
                alone.cancelled().await;
            }
            if let Err(error) = self.forget_others().await {
                tracing::warn!(%error, "logs that are not followed any more cannot be forgotten");
            }
            let mut each = JoinSet::new(); // dropped with this future
            for follower in self.followers {
                each.spawn(follower.follow());
            }
            // None ends but by a bug.
            each.join_next().await;
        };
        tokio::select! {
            biased;
            () = over.cancelled() => end.cancelled().await,
            () = followed => {}
        }
    }

    /// One that is followed again later begins anew.
    async fn forget_others(&self) -> Result<(), StoreError> {
        let followed = self
            .followers
            .iter()
            .map(|follower| follower.log().to_owned());
        self.store
            .keep_logs_only(&followed.collect::<Vec<_>>())
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_whose_it_is_or_would_be() {
        let zone = Zone::parse("nas.example.com").unwrap();
        let mynas = || Some(Owner::Device(DeviceName::parse("mynas").unwrap()));
        for (name, owner) in [
            ("mynas.nas.example.com", mynas()),
            ("*.mynas.nas.example.com", mynas()),
            ("www.mynas.nas.example.com", mynas()),
            ("a.b_c.mynas.nas.example.com", mynas()),
            ("*.nas.example.com", Some(Owner::All)),
            ("www.*.nas.example.com", Some(Owner::All)),
            ("nas.example.com", Some(Owner::Operator)),
            ("cloud.nas.example.com", Some(Owner::Operator)),
            ("eu1.relay.nas.example.com", Some(Owner::Operator)),
            ("no_device.nas.example.com", Some(Owner::Operator)),
            ("example.com", None),
            ("*.example.com", None),
            ("mynas.nas.example.com.evil.test", None),
            ("notnas.example.com", None),
            ("mynas.notnas.example.com", None),
            ("", None),
        ] {
            assert_eq!(Owner::of(name, &zone), owner, "{name}");
        }
    }
}
