//! Whether the services are well: each that is to be asked is, again and again, for as long as it is there.

use std::future::pending;
use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::http::uri::PathAndQuery;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::origin::Origin;
use super::origin_asked;
use super::origin_failure::OriginFailure;
use super::services::{Hosts, Service};

/// So many bad answers in a row make a service ill: one may be chance. One that is good makes it well again.
const BAD_IN_A_ROW: u32 = 2;

/// After the first bad answer the next is not waited for longer than this.
const SUSPENSE: Duration = Duration::from_secs(1);

/// How a service is asked whether it is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HealthCheck {
    pub(super) probe: Probe,
    /// How long nobody asks after an answer, give or take a fifth.
    pub(super) interval: Duration,
    /// How long it may take to answer.
    pub(super) timeout: Duration,
}

/// What it is asked for. Written `/healthz` or `connect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// This path. It is well if its answer is one of success, or leads elsewhere.
    Get(Box<str>),
    /// A connection, its TLS included if that is ours to make.
    Connect,
}

impl FromStr for Probe {
    type Err = ProbeError;

    fn from_str(text: &str) -> Result<Self, ProbeError> {
        match text {
            "connect" => Ok(Self::Connect),
            path if path.starts_with('/') && path.parse::<PathAndQuery>().is_ok() => {
                Ok(Self::Get(path.into()))
            }
            _ => Err(ProbeError(text.to_owned())),
        }
    }
}

/// The text is no probe.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no way to ask: a path such as \"/healthz\", or \"connect\"")]
pub(super) struct ProbeError(String);

/// How a service that is asked is.
#[derive(Debug)]
pub(super) struct Health {
    pub(super) check: HealthCheck,
    is_ill: AtomicBool,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    /// Whether there was any answer.
    is_known: bool,
    bad_in_a_row: u32,
    /// What was wrong with the last of them.
    problem: Option<String>,
}

/// What to tell of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HealthState {
    Unknown,
    Well,
    Ill,
}

impl HealthState {
    /// For machines.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Well => "well",
            Self::Ill => "ill",
        }
    }
}

impl Health {
    pub(super) fn new(check: HealthCheck) -> Self {
        Self {
            check,
            is_ill: AtomicBool::new(false),
            found: Mutex::default(),
        }
    }

    /// Whether its visitors had better come later. Until that is known it is well.
    pub(super) fn is_ill(&self) -> bool {
        self.is_ill.load(Relaxed)
    }

    /// How it is, and what was wrong when it was asked last.
    pub(super) fn state(&self) -> (HealthState, Option<String>) {
        let found = self.found();
        let state = match (found.is_known, self.is_ill()) {
            (false, _) => HealthState::Unknown,
            (true, false) => HealthState::Well,
            (true, true) => HealthState::Ill,
        };
        (state, found.problem.clone())
    }

    /// What has come of asking. Whether its state is another now.
    fn answered(&self, answer: Result<(), String>) -> bool {
        let mut found = self.found();
        let was_known = std::mem::replace(&mut found.is_known, true);
        found.bad_in_a_row = match answer {
            Ok(()) => 0,
            Err(_) => found.bad_in_a_row.saturating_add(1),
        };
        found.problem = answer.err();
        let is_ill = found.bad_in_a_row >= BAD_IN_A_ROW;
        let was_ill = self.is_ill.swap(is_ill, Relaxed);
        !was_known || was_ill != is_ill
    }

    /// How long to wait until it is asked again.
    fn pause(&self) -> Duration {
        let is_in_suspense = (1..BAD_IN_A_ROW).contains(&self.found().bad_in_a_row);
        match is_in_suspense {
            true => self.check.interval.min(SUSPENSE),
            false => self.check.interval.mul_f64(rand::random_range(0.8..1.2)),
        }
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks each service that is to be asked, for as long as it is there. Never returns.
pub(super) async fn look_after(hosts: &Hosts) {
    let mut changes = hosts.services.changes();
    let mut asked: Vec<(Arc<Service>, AbortOnDropHandle<()>)> = Vec::new();
    loop {
        changes.mark_unchanged();
        asked.retain(|(service, _)| hosts.services.holds(service));
        for service in hosts.services.all() {
            let is_asked = asked.iter().any(|(other, _)| Arc::ptr_eq(other, &service));
            if !is_asked && service.health.is_some() {
                let host = hosts.host_of(&service.name);
                let task = tokio::spawn(ask_again_and_again(Arc::clone(&service), host));
                asked.push((service, AbortOnDropHandle::new(task)));
            }
        }
        if changes.changed().await.is_err() {
            return pending().await;
        }
    }
}

async fn ask_again_and_again(service: Arc<Service>, host: String) {
    let Some(health) = &service.health else {
        return;
    };
    loop {
        let answer = ask(&service.origin, &health.check, &host).await;
        let problem = answer.as_ref().err().cloned();
        if health.answered(answer) {
            let failures = service.origin.failures();
            let (service, origin) = (&service.name, service.origin.address());
            if problem.is_none() {
                failures.answered();
            }
            match problem {
                None => tracing::info!(%service, %origin, "the service is well"),
                Some(problem) => {
                    tracing::warn!(%service, %origin, problem, "the service is not well")
                }
            }
        }
        sleep(health.pause()).await;
    }
}

/// Asks once. What is wrong is told in words.
async fn ask(origin: &Origin, check: &HealthCheck, host: &str) -> Result<(), String> {
    let asked = async {
        let stream = origin.connect_to_look().await.map_err(in_words)?;
        let Probe::Get(path) = &check.probe else {
            return Ok(());
        };
        let answer = origin_asked::get(stream, origin.scheme(), host, path).await;
        match answer.map_err(|error| error.to_string())? {
            status if status.is_success() || status.is_redirection() => Ok(()),
            status => Err(format!("it answers its health check with {status}")),
        }
    };
    let time = humantime::format_duration(check.timeout);
    let late = |_| Err(format!("it does not answer its health check within {time}"));
    timeout(check.timeout, asked).await.unwrap_or_else(late)
}

fn in_words(error: io::Error) -> String {
    let failure = OriginFailure::of_connection(&error);
    match failure == OriginFailure::NotConnected {
        true => error.to_string(), // there are many kinds
        false => failure.words().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        Health::new(HealthCheck {
            probe: Probe::Connect,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
        })
    }

    #[test]
    fn one_bad_answer_is_no_illness_and_one_good_answer_its_end() {
        let health = health();
        let bad = || Err("it is away".to_owned());
        assert_eq!(health.state(), (HealthState::Unknown, None));
        assert!(health.answered(Ok(())), "it is known now");
        assert!(!health.answered(bad()));
        assert!(!health.is_ill());
        assert!(!health.answered(Ok(())));
        assert!(!health.answered(bad()));
        assert!(health.answered(bad()));
        assert!(health.is_ill());
        let problem = Some("it is away".to_owned());
        assert_eq!(health.state(), (HealthState::Ill, problem));
        assert!(!health.answered(bad()));
        assert!(health.answered(Ok(())));
        assert_eq!(health.state(), (HealthState::Well, None));
    }

    #[test]
    fn after_a_first_bad_answer_it_is_asked_soon() {
        let health = health();
        let about = health.check.interval.mul_f64(0.8)..health.check.interval.mul_f64(1.2);
        assert!(about.contains(&health.pause()));
        health.answered(Err(String::new()));
        assert_eq!(health.pause(), SUSPENSE);
        health.answered(Err(String::new()));
        assert!(about.contains(&health.pause()));
    }

    #[test]
    fn what_is_no_path_is_no_probe() {
        assert_eq!("/a?b".parse::<Probe>().unwrap(), Probe::Get("/a?b".into()));
        for bad in ["", "healthz", "http://a/", "/a b", "Connect"] {
            assert!(bad.parse::<Probe>().is_err(), "{bad}");
        }
    }
}
