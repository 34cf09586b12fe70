//! Follows control: one connection after the other, on each what is known and what changes, and beside it the reports of who is
//! present. Nothing on the data path waits for any of it.
//!
//! ```text
//!   connect ─► welcome ─► lines: reading.rs ─► judge: guard.rs ─► in force: followed.rs ─► disk: last_good.rs
//!                    └──► reports: report.rs
//! ```

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use following::{Follow, MAX_LINE, Reading, Refusal, SILENCE, Step, Token16};
use relay::agent::{Backoff, CallError};
use relay::http_client::Answer;
use relay::server::Presence;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::followed::{self, Followed};
use super::membership::Membership;
use super::metrics::{Loss, Metrics};
use super::report::Reporter;
use super::{AGAIN, Revoked, guard};
use crate::state::StateDirectory;

/// The file with which the operator has the next snapshot taken, whatever its size.
const ACCEPT: &str = "accept-snapshot";

/// The word of a refusal that means that control does not know this relay any more.
const UNKNOWN_RELAY: (u16, &str) = (403, "unknown_relay");

/// Whether control does not know this relay any more. Everything else may pass.
pub(super) fn is_revoked(error: &CallError) -> bool {
    matches!(error, CallError::Refused { status, code, .. } if (*status, code.as_str()) == UNKNOWN_RELAY)
}

/// Follows control.
#[derive(Debug)]
pub(super) struct Follower {
    membership: Arc<Membership>,
    followed: Arc<Mutex<Followed>>,
    reporter: Reporter,
    metrics: Metrics,
    accept: PathBuf,
}

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error(transparent)]
    Revoked(#[from] Revoked),
    #[error("control says what cannot be taken: {0}")]
    Refused(#[from] Refusal),
    #[error("{1}")]
    Call(Loss, CallError),
    #[error("control has said nothing for {} s", SILENCE.as_secs())]
    Silent,
    #[error("the connection to control has ended: {0}")]
    Ended(io::Error),
    #[error("a part of this process is broken: {0}")]
    Bug(#[from] JoinError),
}

impl Over {
    fn call(loss: Loss, error: CallError) -> Self {
        match is_revoked(&error) {
            true => Self::Revoked(Revoked),
            false => Self::Call(loss, error),
        }
    }
}

impl Follower {
    pub(super) fn new(
        membership: Arc<Membership>,
        followed: Arc<Mutex<Followed>>,
        presence: Presence,
        metrics: Metrics,
        state: &StateDirectory,
    ) -> Self {
        Self {
            membership,
            followed,
            reporter: Reporter::new(presence),
            metrics,
            accept: state.file(ACCEPT),
        }
    }

    /// Follows until control does not know this relay any more.
    pub(super) async fn follow(&self) -> Revoked {
        let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
        let mut was_connected = true; // the first failure is told of
        loop {
            let begun = Instant::now();
            let over = match self.connection().await {
                Err(over) => over,
                Ok(never) => match never {},
            };
            let is_connected = self.metrics.connected.get() == 1;
            self.metrics.connected.set(0);
            // Who knows when control is heard again, and whether this process lives to see it.
            let _ = self.keep(Followed::keep).await; // a panic has been reported
            match &over {
                Over::Revoked(revoked) => return *revoked,
                Over::Refused(refusal) => {
                    self.metrics.refused(*refusal);
                    let advice = match refusal.can_be_accepted() {
                        true => format!(
                            "; if it is right all the same, make an empty file {}",
                            self.accept.display()
                        ),
                        false => String::new(),
                    };
                    tracing::error!("{over}; what was known before stays in force{advice}");
                }
                Over::Call(loss, _) => self.lost(*loss, &over, is_connected || was_connected),
                Over::Silent => self.lost(Loss::Silent, &over, true),
                Over::Ended(_) | Over::Bug(_) => {
                    self.lost(Loss::Ended, &over, is_connected || was_connected);
                }
            }
            was_connected = is_connected;
            if begun.elapsed() > SILENCE && !matches!(over, Over::Refused(_)) {
                backoff.reset();
            }
            sleep(backoff.next_wait()).await;
        }
    }

    /// Writes what is known to the disk, where others need not wait for it.
    async fn keep(&self, keep: fn(&mut Followed)) -> Result<(), JoinError> {
        let followed = Arc::clone(&self.followed);
        spawn_blocking(move || keep(&mut followed::lock(&followed))).await
    }

    fn lost(&self, loss: Loss, over: &Over, is_news: bool) {
        self.metrics.lost(loss);
        match is_news {
            true => tracing::warn!("{over}; what is known stays in force, trying on"),
            false => tracing::debug!("{over}"),
        }
    }

    /// One connection, until it is over.
    async fn connection(&self) -> Result<std::convert::Infallible, Over> {
        let accepted = self.accept.exists();
        let (known, most) = {
            let followed = followed::lock(&self.followed);
            let most = guard::most_devices(followed.devices(), accepted);
            // Who would have a snapshot taken is to get one.
            (followed.known().filter(|_| !accepted), most)
        };
        let body = serde_json::to_vec(&Follow { known }).unwrap_or_default(); // numbers and texts
        let member = &self.membership;
        let path = "/api/relay/follow";
        let answer = member
            .cloud
            .follow(path, "application/json", body, &member.identity)
            .await;
        let answer = answer.map_err(|error| {
            let loss = match &error {
                CallError::Refused { .. } => Loss::Denied,
                CallError::BadAddress(_)
                | CallError::Unreachable { .. }
                | CallError::BadAnswer { .. }
                | CallError::Key(_) => Loss::Unreachable,
            };
            Over::call(loss, error)
        })?;
        let mut steps = Steps {
            answer,
            reading: Reading::of_control(known, most),
            metrics: &self.metrics,
        };
        let Step::Welcome(session) = steps.next().await? else {
            return Err(Refusal::Order.into());
        };
        self.metrics.connected.set(1);
        let told = async {
            loop {
                let step = steps.next().await?;
                self.take(step, accepted).await?;
            }
        };
        tokio::select! {
            over = told => over,
            over = self.report(session) => Err(over),
        }
    }

    /// Reports until one is not taken.
    async fn report(&self, session: Token16) -> Over {
        let error = self.reporter.report(&self.membership, session).await;
        Over::call(Loss::Report, error)
    }

    /// Brings into force what a line asks for. What may take its time is done where others need not wait for it.
    async fn take(&self, step: Step, accepted: bool) -> Result<(), Over> {
        match step {
            Step::Nothing | Step::Welcome(_) => {}
            Step::Snapshot(snapshot) => {
                let followed = Arc::clone(&self.followed);
                let names = snapshot.names.len();
                let taken =
                    spawn_blocking(move || followed::lock(&followed).replace(&snapshot, accepted));
                taken.await??;
                tracing::info!(devices = names, "a snapshot of control is in force");
                if accepted && let Err(error) = fs::remove_file(&self.accept) {
                    tracing::error!(%error, file = %self.accept.display(), "the file that accepts any snapshot cannot be removed");
                }
            }
            Step::Put(facts, known) => {
                followed::lock(&self.followed).put(*facts, known);
            }
            Step::Removed(name, known) => {
                followed::lock(&self.followed).remove(&name, known, Instant::now())?;
            }
            Step::UpTo(known) => {
                followed::lock(&self.followed).now(known);
                self.keep(Followed::keep_if_due).await?;
            }
        }
        Ok(())
    }
}

/// What the lines of one connection ask for, one after the other.
struct Steps<'a> {
    answer: Answer,
    reading: Reading,
    metrics: &'a Metrics,
}

impl Steps<'_> {
    async fn next(&mut self) -> Result<Step, Over> {
        let line = match timeout(SILENCE, self.answer.line(MAX_LINE)).await {
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None)) => return Err(Over::Ended(io::ErrorKind::UnexpectedEof.into())),
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(Refusal::Malformed.into());
            }
            Ok(Err(error)) => return Err(Over::Ended(error)),
            Err(_) => return Err(Over::Silent),
        };
        self.metrics.heard();
        Ok(self.reading.take(&line)?)
    }
}
