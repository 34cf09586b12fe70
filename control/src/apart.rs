//! A relay with a process of its own: it follows what control of another server tells it, and reports who is present. It answers
//! no DNS, has no database and no pages.
//!
//! ```text
//!   join file ─► membership ─► last good ─► certificate ─► relay ─► admin ─► follower
//! ```
//!
//! Read `follower.rs` for what is said between the two; `reading.rs` is what a line may say and when, `guard.rs` what is refused
//! although it is well said, `followed.rs` how it comes into force, `last_good.rs` how it outlasts the process.

mod followed;
mod follower;
mod guard;
mod last_good;
pub(crate) mod membership;
mod metrics;
mod report;

use std::future::pending;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use directory::Place;
use prometheus::Registry;
use relay::agent::{self, Backoff, CertificateError, Certificates, KeyError, Usable};
use relay::program::succession::{Ask, Facts, Inheritance, Named, SuccessionError};
use relay::server::{Parts, Secret};
use relay::workers::{WorkerThreads, Workers};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::about;
use crate::admin::{Admin, Watched};
use crate::config::Config;
use crate::health::{CertificateEnds, Changes, Health, Purpose};
use crate::http::ClientsRefused;
use crate::probe;
use crate::state::{StateDirectory, StateError, StateLock};
use crate::supervise::{PartEnded, Supervisor};
use crate::up::{self, RELAY_SECRET, Reloads, Source, UpError};
use followed::Followed;
use follower::{Follower, is_revoked};
use last_good::LastGood;
use membership::{Membership, MembershipError};
use metrics::Metrics;

/// Between two tries to reach control, at least and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(3));

/// How long the parts may take to end once the relay's visitors are gone.
const GOODBYE: Duration = Duration::from_millis(750);

/// Why a relay apart did not start.
#[derive(Debug, thiserror::Error)]
pub enum ApartError {
    /// What it has in common with a whole server.
    #[error(transparent)]
    Up(#[from] UpError),
    /// The file with which it joins.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The certificate on its disk.
    #[error(transparent)]
    Certificate(#[from] agent::StateError),
    /// The key for it.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Control does not know it.
    #[error(transparent)]
    Revoked(#[from] Revoked),
    /// It was not made to be a relay apart.
    #[error("`join` in [relay] is missing")]
    NoJoin,
}

/// Control does not know this relay any more, and said so. A process that is started again hears it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "control does not know this relay any more: its devices and its certificate have been removed from the disk"
)]
pub struct Revoked;

/// Why a running relay apart ends by itself.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// Control wants it to.
    #[error(transparent)]
    Revoked(#[from] Revoked),
    /// A bug.
    #[error(transparent)]
    Part(#[from] PartEnded),
}

/// A running relay apart.
#[derive(Debug)]
pub struct Running {
    config: Config,
    reloads: Reloads,
    membership: Arc<Membership>,
    state: StateDirectory,
    relay: relay::server::Handle,
    admin: Admin,
    followed: Arc<Mutex<Followed>>,
    revoked: oneshot::Receiver<Revoked>,
    is_revoked: bool,
    /// A successor has the front, which cannot be taken back.
    has_given: bool,
    /// Cancelled first: readiness ends.
    leaving: CancellationToken,
    /// Cancelled when no more visitors come: control hears nothing any more.
    stop: CancellationToken,
    /// Cancelled when the relay's visitors are gone.
    end: CancellationToken,
    parts: Supervisor,
    workers: WorkerThreads,
    lock: StateLock,
}

/// Starts the relay of `config`, on the sockets of its `inheritance` and others, and returns when it answers. Without a certificate on
/// its disk that is still good it waits for control, and says so in the log.
///
/// # Errors
/// If a part cannot start or does not answer, or control does not know the relay.
pub async fn start(config: Config, mut inheritance: Inheritance) -> Result<Running, ApartError> {
    let of_manager = up::take_from_manager(&mut inheritance, &config.relay)?;
    let join = config.relay.join.as_ref().ok_or(ApartError::NoJoin)?;
    let membership = Arc::new(Membership::read(join)?);
    let state = StateDirectory::open(&config.state).map_err(UpError::from)?;
    let (lock, older) = up::take_state(&mut inheritance, &state, &config).await?;
    let last_good = LastGood::in_state(&state);
    let disk = agent::State::open(state.path())?;
    membership.settle(&state, || forget(&disk, &last_good))?;

    let registry = Registry::new();
    about::register(&registry).map_err(UpError::from)?;
    let reloads = Reloads::register(&registry).map_err(UpError::from)?;
    let metrics = Metrics::register(&registry).map_err(UpError::from)?;
    let (writer, directory) = directory::directory(config.zone.clone());
    let mut followed = Followed::new(writer, directory.clone(), last_good, metrics.clone());
    followed.recall();

    let certificates = Certificates {
        names: vec![config.zone.relay_name(&membership.name)],
        path: "/api/relay/certificate",
        cloud: membership.cloud.clone(),
        key: disk.tls_key()?,
        state: disk,
    };
    let certificate = match certificates.kept()? {
        Some(kept) => kept,
        None => match obtain(&certificates, &membership).await {
            Ok(made) => made,
            Err(revoked) => {
                followed.forget();
                return Err(revoked.into());
            }
        },
    };
    let mut ends = CertificateEnds::register(&registry).map_err(UpError::from)?;
    ends.watch(Purpose::Relay, seconds(certificate.not_after));

    let workers = up::start_workers(&config, older.as_ref())?;
    let (bound, admin_bound) = up::take_front(&mut inheritance, &config, of_manager).await?;
    let secret = state.secret(RELAY_SECRET).map_err(UpError::from)?;
    let parts = Parts {
        directory,
        host: Place::Relay(membership.name.clone()),
        relay_certificate: certificate.slot.clone(),
        cloud: None,
        workers: workers.workers(),
        secret: Secret::new(secret),
        records: up::records_of(&config, &state),
        bound,
    };
    let relay = relay::server::start(config.relay.clone(), parts, &registry);
    let relay = relay.map_err(UpError::from)?;

    let (stop, end) = (CancellationToken::new(), CancellationToken::new());
    let leaving = CancellationToken::new();
    let mut parts = Supervisor::default();
    let health = Health::register(
        &registry,
        relay.listeners(),
        relay.upkeep(),
        (ends.clone(), None),
        leaving.clone(),
        Changes::FromControl(metrics.connected.clone()),
        None,
    );
    let refused = ClientsRefused::register(&registry).map_err(UpError::from)?;
    let watched = Watched {
        registry,
        health: health.map_err(UpError::from)?,
    };
    let admin = up::start_admin(&config, admin_bound, watched, &refused, &end, &mut parts)?;

    let followed = Arc::new(Mutex::new(followed));
    let (tell_revoked, revoked) = oneshot::channel();
    let follower = Follower::new(
        Arc::clone(&membership),
        Arc::clone(&followed),
        relay.presence(),
        metrics,
        &state,
    );
    let stopped = stop.clone();
    parts.run("what follows control", async move {
        tokio::select! {
            () = stopped.cancelled() => {}
            revoked = follower.follow() => drop(tell_revoked.send(revoked)),
        }
        stopped.cancelled().await;
    });
    let (member, ended) = (Arc::clone(&membership), end.clone());
    parts.run("the renewal of the relay's certificate", async move {
        let renewed = |not_after| ends.renewed(Purpose::Relay, seconds(not_after));
        tokio::select! {
            () = ended.cancelled() => {}
            () = certificates.keep_fresh(&member.identity, &certificate.slot, renewed) => {}
        }
    });
    probe::http(admin.address, "/readyz")
        .await
        .map_err(|cause| UpError::Silent {
            part: "admin",
            cause,
        })?;
    inheritance.serving(None);
    Ok(Running {
        config,
        reloads,
        membership,
        state,
        relay,
        admin,
        followed,
        revoked,
        is_revoked: false,
        has_given: false,
        leaving,
        stop,
        end,
        parts,
        workers,
        lock,
    })
}

/// Removes what control has given.
fn forget(disk: &agent::State, last_good: &LastGood) -> Result<(), StateError> {
    last_good.remove();
    disk.forget_certificate().map_err(|error| StateError::Io {
        path: PathBuf::from("certificate.json"),
        cause: std::io::Error::other(error),
    })
}

/// The first certificate, however long it takes.
async fn obtain(certificates: &Certificates, membership: &Membership) -> Result<Usable, Revoked> {
    let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
    let mut told = false;
    loop {
        match certificates.renew(&membership.identity).await {
            Ok(made) => return Ok(made),
            Err(CertificateError::Call(error)) if is_revoked(&error) => return Err(Revoked),
            Err(error) if !told => {
                told = true;
                tracing::warn!(%error, "this relay has no certificate yet, and takes no one in before control has made one; trying on");
            }
            Err(error) => tracing::debug!(%error, "no certificate yet"),
        }
        sleep(backoff.next_wait()).await;
    }
}

fn seconds(since_1970: u64) -> i64 {
    i64::try_from(since_1970).unwrap_or(i64::MAX)
}

/// What is where in a running relay apart.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Addresses {
    /// The zone.
    pub zone: String,
    /// What the operator calls the relay.
    pub relay: String,
    /// Where visitors and agents arrive: TCP, and UDP unless it is off.
    pub front: SocketAddr,
    /// Where plain HTTP is redirected.
    pub http: Option<SocketAddr>,
    /// Where metrics and health are answered.
    pub admin: SocketAddr,
    /// The state directory.
    pub state: PathBuf,
}

impl Running {
    /// What is where: the addresses really bound.
    pub fn addresses(&self) -> Addresses {
        Addresses {
            zone: self.config.zone.to_string(),
            relay: self.membership.name.to_string(),
            front: self.relay.front(),
            http: self.relay.http(),
            admin: self.admin.address,
            state: self.state.path().to_owned(),
        }
    }

    /// A table for whoever has started it.
    pub fn overview(&self) -> String {
        format!(
            "The relay {} of {}, whose control is at {}.\n\n  front         {}\n  metrics       http://{}/metrics\n  state         {}\n\n",
            self.membership.name,
            self.config.zone,
            self.membership.cloud.address(),
            self.relay.front(),
            self.admin.address,
            self.state.path().display()
        )
    }

    /// The threads that carry bytes.
    pub fn workers(&self) -> Workers {
        self.workers.workers()
    }

    /// Reads the configuration again and puts in force the limits, the proxies, `leave` and `drain`. Whatever else has changed is named in the log; where
    /// anything is wrong nothing changes.
    pub fn reload(&mut self, source: &Source) {
        let outcome = source.read_again().map(|next| {
            let for_the_next_start = self.config.changed_for_the_next_start(&next);
            self.relay.set_limits(&next.relay.limits);
            self.relay.set_proxies(&next.relay.proxy_from);
            self.relay.set_end(next.relay.leave, next.relay.drain);
            self.config.relay.limits = next.relay.limits;
            self.config.relay.proxy_from = next.relay.proxy_from;
            self.config.relay.leave = next.relay.leave;
            self.config.relay.drain = next.relay.drain;
            for_the_next_start
        });
        self.reloads.tell(outcome);
    }

    /// Waits until control wants this relay gone, or a part has ended that nobody has told to. It should be shut down then.
    pub async fn failed(&mut self) -> Ended {
        if self.has_given {
            return pending().await; // some are to end, and all will before long
        }
        tokio::select! {
            Ok(revoked) = &mut self.revoked, if !self.is_revoked => {
                self.is_revoked = true;
                revoked.into()
            }
            ended = self.parts.next_end() => ended.into(),
        }
    }

    /// What the successor gets that asks for this. From the front on it follows control, and this process no more.
    ///
    /// # Errors
    /// If it cannot be had.
    pub async fn give(&mut self, ask: Ask) -> Result<(Named, Facts), SuccessionError> {
        let given = match ask {
            Ask::State => {
                let followed = Arc::clone(&self.followed);
                let kept = spawn_blocking(move || followed::lock(&followed).keep());
                let _ = kept.await; // a panic has been reported
                up::give_lock(&self.lock)?
            }
            Ask::Front => {
                self.has_given = true;
                self.leaving.cancel();
                self.stop.cancel();
                up::give_front(&self.relay, self.admin.hand_over()?)?
            }
            Ask::Names | Ask::Serving => Named::new(),
        };
        let facts = up::facts(&self.relay, &self.workers(), self.admin.address);
        Ok((given, facts))
    }

    /// The last that a successor has been given and that cannot be taken back.
    pub fn has_given(&self) -> Option<Ask> {
        self.has_given.then_some(Ask::Front)
    }

    /// Serves whom it has until they have gone, but no longer than `leave` and `drain` say. The successor has everything else.
    pub async fn leave_to_successor(self) {
        self.end.cancel();
        self.relay.shutdown().await;
        let _ = timeout(GOODBYE, self.parts.all_ended()).await;
    }

    /// Stops in order: readiness first, then visitors as the relay's `leave` and `drain` say, then the rest. Meanwhile control hears
    /// which agents have gone, and names move.
    pub async fn shutdown(self) {
        self.leaving.cancel();
        if !self.is_revoked {
            self.relay.leave().await;
        }
        self.stop.cancel();
        self.relay.shutdown().await;
        self.end.cancel();
        let _ = timeout(GOODBYE, self.parts.all_ended()).await;
        let mut followed = followed::lock(&self.followed);
        match self.is_revoked {
            true => followed.forget(),
            false => followed.keep(),
        }
        drop(followed);
        if self.is_revoked
            && let Err(error) =
                agent::State::open(self.state.path()).and_then(|disk| disk.forget_certificate())
        {
            tracing::error!(%error, "the certificate cannot be removed");
        }
    }
}

impl From<StateError> for ApartError {
    fn from(error: StateError) -> Self {
        Self::Up(error.into())
    }
}
