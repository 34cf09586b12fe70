//! The certificate watch: asks the cloud which certificates logs have shown for the device's name, and alarms its owner of those that are
//! not its own. The device judges by its own key: for that the cloud need not be trusted, only to tell what it has seen.

mod folder;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::sleep;

pub(crate) use folder::SeenFolder;

use super::cloud::{CallError, Cloud};
use super::identity::Identity;
use super::situation::Situation;
use super::state::{State, StateError};
use crate::backoff::Backoff;
use crate::kept::KeptError;

/// How often a cloud that follows no logs is asked whether it does now.
const ASK: Duration = Duration::from_secs(45 * 60);

/// How often another is asked at most and at least, whatever it says.
const TIMES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 60 * 60));

/// Between two tries that fail, at least and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(15 * 60));

/// So many certificates come at once; after fewer there are no more.
const PAGE: usize = 64;

/// So many pages are asked for in a row. What there is beyond is heard the next time.
const PAGES: usize = 16;

/// So many certificates are told of at once, so that whoever asks gets an answer.
const MOST_TOLD: usize = 32;

/// More logs than anybody follows.
const MOST_LOGS: usize = 16;

/// A certificate that a log has shown for the device's name, as the cloud tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenCertificate {
    /// Later ones have higher numbers.
    pub number: u64,
    /// SHA-256 of its public key, in hexadecimal: whose it is.
    pub key: String,
    /// Those of its names that are the device's.
    pub names: Vec<String>,
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// Who has given it, in words of its own.
    pub issuer: String,
    /// When it begins, in seconds since 1970.
    pub not_before: i64,
    /// When it ends, the same.
    pub not_after: i64,
    /// The log.
    pub log: String,
    /// As which entry it stands there.
    pub entry: u64,
}

impl SeenCertificate {
    /// It without what is too long to be true; `None` if its key is none.
    fn bounded(mut self) -> Option<Self> {
        let is_key =
            self.key.len() == 64 && self.key.bytes().all(|octet| octet.is_ascii_hexdigit());
        self.key.make_ascii_lowercase();
        self.names.truncate(8);
        let texts = self.names.iter_mut();
        for text in texts.chain([&mut self.serial, &mut self.issuer, &mut self.log]) {
            *text = text.chars().take(253).collect();
        }
        is_key.then_some(self)
    }
}

/// How it stands with a log that the cloud follows, as it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatus {
    /// Where the log is.
    pub log: String,
    /// How many entries it has.
    pub entries: u64,
    /// When it was followed to its end last, in seconds since 1970; absent: not since the cloud started.
    pub followed_at: Option<u64>,
    /// What is wrong with it, in words.
    pub problem: Option<String>,
}

impl LogStatus {
    /// It without what is too long to be true.
    fn bounded(mut self) -> Self {
        for text in self.problem.iter_mut().chain([&mut self.log]) {
            *text = text.chars().take(500).collect();
        }
        self
    }
}

/// How it stands with the certificates that were seen for the device's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenStatus {
    /// The logs that the cloud follows; empty if it follows none.
    pub logs: Vec<LogStatus>,
    /// When the cloud told last what it has seen, in seconds since 1970; absent: not since the agent started.
    pub asked_at: Option<u64>,
    /// Why it did not when it was asked last, in words.
    pub problem: Option<String>,
    /// How many certificates are neither the device's own nor accepted by its owner.
    pub strange: usize,
    /// Those, 32 at most.
    pub certificates: Vec<SeenCertificate>,
}

/// What the cloud has said last, and where it is kept what it has said before.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    folder: SeenFolder,
    logs: Vec<LogStatus>,
    asked_at: Option<u64>,
    problem: Option<String>,
}

impl Heard {
    /// Judged anew, for an owner may have accepted something meanwhile.
    pub(super) fn status(&self) -> SeenStatus {
        let (strange, unread) = match self.folder.strange(now()) {
            Ok(strange) => (strange, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        SeenStatus {
            logs: self.logs.clone(),
            asked_at: self.asked_at,
            problem: unread.or_else(|| self.problem.clone()),
            strange: strange.len(),
            certificates: strange.into_iter().take(MOST_TOLD).collect(),
        }
    }
}

#[derive(Deserialize)]
struct SeenAnswer {
    certificates: Vec<SeenCertificate>,
    logs: Vec<LogStatus>,
    ask_again_seconds: Option<u64>,
}

/// What it takes to watch.
pub(super) struct CertificateWatch<'a> {
    pub(super) cloud: &'a Cloud,
    pub(super) identity: &'a Identity,
    pub(super) folder: SeenFolder,
    pub(super) situation: &'a Situation,
}

/// Why it is not known what was seen.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Kept(#[from] KeptError),
}

impl CertificateWatch<'_> {
    /// Asks again and again, and alarms. Never returns.
    pub(super) async fn keep(&self) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let (mut told, mut reported) = (BTreeSet::new(), None);
        let mut heard = Heard {
            folder: self.folder.clone(),
            logs: Vec::new(),
            asked_at: None,
            problem: None,
        };
        loop {
            let asked = match self.ask(&mut heard).await {
                Ok(wait) => self.alarm(&mut told, &mut reported).await.map(|()| wait),
                Err(error) => Err(error),
            };
            let wait = match asked {
                Ok(wait) => {
                    backoff.reset();
                    (heard.asked_at, heard.problem) = (Some(now().cast_unsigned()), None);
                    wait.mul_f64(rand::random_range(0.67..1.33))
                }
                // It has never heard of logs.
                Err(WatchError::Call(CallError::Refused { status: 404, .. })) => ASK,
                Err(error) => {
                    tracing::info!(%error, "it is not known which certificates were seen for this device's name");
                    heard.problem = Some(error.to_string());
                    backoff.next_wait()
                }
            };
            if heard.asked_at.is_some() || heard.problem.is_some() {
                self.situation.seen(heard.clone());
            }
            sleep(wait).await;
        }
    }

    /// Hears what is new, and says when to ask again.
    async fn ask(&self, heard: &mut Heard) -> Result<Duration, WatchError> {
        let mut wait = ASK;
        for _ in 0..PAGES {
            let after = self.folder.heard_until()?;
            let path = format!("/api/device/certificates/seen?after={after}");
            let (json, nothing) = ("application/json", Vec::new());
            let called = self
                .cloud
                .call(Method::GET, &path, json, nothing, self.identity);
            let answer: SeenAnswer = called.await?;
            let logs = answer.logs.into_iter().take(MOST_LOGS);
            heard.logs = logs.map(LogStatus::bounded).collect();
            if let Some(seconds) = answer.ask_again_seconds {
                wait = Duration::from_secs(seconds).clamp(TIMES.0, TIMES.1);
            }
            let is_last = answer.certificates.len() < PAGE;
            let bounded = answer.certificates.into_iter().take(PAGE);
            let new: Vec<_> = bounded.filter_map(SeenCertificate::bounded).collect();
            self.folder.hear(new, now())?;
            if is_last {
                break;
            }
        }
        Ok(wait)
    }

    /// Says of each strange certificate once that it is there, and tells the operator which there are.
    async fn alarm(
        &self,
        told: &mut BTreeSet<String>,
        reported: &mut Option<BTreeSet<String>>,
    ) -> Result<(), WatchError> {
        let strange = self.folder.strange(now())?;
        for certificate in &strange {
            if told.len() < folder::MOST && told.insert(certificate.key.clone()) {
                let SeenCertificate {
                    key,
                    names,
                    issuer,
                    serial,
                    log,
                    entry,
                    ..
                } = certificate;
                tracing::warn!(
                    key,
                    ?names,
                    ?issuer,
                    serial,
                    log,
                    entry,
                    "somebody else has a certificate for this device's name"
                );
            }
        }
        let keys: BTreeSet<String> = strange.into_iter().map(|strange| strange.key).collect();
        // Before the first report of this process it may be that an earlier one has to be taken back.
        let is_news = match reported {
            Some(reported) => *reported != keys,
            None => !keys.is_empty() || self.folder.heard_until()? > 0,
        };
        if is_news {
            let body = json!({ "keys": keys }).to_string().into_bytes();
            let (path, json) = ("/api/device/certificates/strange", "application/json");
            let told = self
                .cloud
                .tell(Method::PUT, path, json, body, self.identity);
            told.await?;
            *reported = Some(keys);
        }
        Ok(())
    }
}

/// Which certificates were seen for the name of this device that are not its own, with whether its owner has accepted them.
///
/// # Errors
/// If the device has no name yet, or what is kept cannot be read.
pub fn certificates_not_own(state: &State) -> Result<Vec<(SeenCertificate, bool)>, StateError> {
    Ok(state.certificates_seen()?.not_own(now())?)
}

/// The key by which the device knows its own certificates, as [`SeenCertificate::key`] has it.
///
/// # Errors
/// As of [`certificates_not_own`].
pub fn own_key(state: &State) -> Result<String, StateError> {
    Ok(state.certificates_seen()?.own_key().to_owned())
}

/// Certificates with this key are the owner's from now on. It is on disk when this returns.
///
/// # Errors
/// As of [`certificates_not_own`].
pub fn accept_certificate(state: &State, key: &str) -> Result<(), StateError> {
    Ok(state.certificates_seen()?.accept(key)?)
}

/// In seconds since 1970.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.unwrap_or_default().as_secs()).unwrap_or(i64::MAX)
}
