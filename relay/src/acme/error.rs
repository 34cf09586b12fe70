//! Why an authority gave no certificate, in words, and what can be done about it.

use std::io;
use std::time::Duration;

use instant_acme::{Error, Problem};

use super::issued::Wrong;
use crate::kept::KeptError;
use crate::tls::{self, TlsError};

/// As much of what an authority says is told, in letters.
const MAX_SAID: usize = 300;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each says itself what it is
pub enum AcmeError {
    /// Before an authority was asked: what has gone wrong, and what can be done about it.
    #[error("{what}")]
    Unable { what: String, mend: &'static str },
    /// Others come first.
    #[error("it gives only so many certificates, and {}", in_turn(*.ahead))]
    NotYet { ahead: usize, wait: Duration },
    #[error(transparent)]
    State(#[from] KeptError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("it cannot be reached: {0}")]
    Unreachable(io::Error),
    #[error("it does not answer in time")]
    Silent,
    #[error("what it answers is too long")]
    TooLong,
    #[error("it leads to an address that is not one of HTTPS")]
    NoHttps,
    #[error("it has no profile {profile:?}; {}", there_are(.offered))]
    NoProfile {
        profile: String,
        offered: Vec<String>,
    },
    #[error("it refuses: {}", said(.0))]
    Api(Problem),
    #[error("it answers with the HTTP status {0}")]
    Status(u16),
    #[error("what it answers makes no sense")]
    Nonsense,
    #[error("it takes none of its own nonces")]
    Nonces,
    #[error("it does not want to look into the DNS")]
    NoDnsChallenge,
    #[error("it has rejected the order{}", .0.as_ref().map(|reason| format!(": {}", one_line(reason))).unwrap_or_default())]
    Invalid(Option<String>),
    #[error("it was not done with the order in time")]
    TooSlow,
    #[error("the operator's key for it cannot be read")]
    Binding,
    #[error("a key of this device cannot be used")]
    Key,
    #[error(transparent)]
    Wrong(#[from] Wrong),
}

impl From<Error> for AcmeError {
    #[expect(clippy::wildcard_enum_match_arm)] // the library may add some
    fn from(error: Error) -> Self {
        match error {
            Error::Api(problem) => Self::Api(problem),
            Error::Crypto | Error::KeyRejected => Self::Key,
            Error::Other(cause) => match cause.downcast() {
                Ok(cause) => *cause,
                Err(_) => Self::Nonsense,
            },
            _ => Self::Nonsense,
        }
    }
}

impl From<io::Error> for AcmeError {
    fn from(error: io::Error) -> Self {
        Self::Unreachable(error)
    }
}

impl From<Problem> for AcmeError {
    fn from(problem: Problem) -> Self {
        Self::Api(problem)
    }
}

impl From<serde_json::Error> for AcmeError {
    fn from(_: serde_json::Error) -> Self {
        Self::Nonsense
    }
}

impl AcmeError {
    pub(super) fn is_bad_nonce(&self) -> bool {
        matches!(self, Self::Api(problem) if is_problem(problem, "badNonce"))
    }

    /// Whether nothing can come of the order any more.
    pub(super) fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Invalid(_) | Self::NoDnsChallenge | Self::Wrong(_)
        )
    }

    /// Whether the authority does not know whom it deals with, as one that has lost its memory.
    pub(super) fn is_stranger(&self) -> bool {
        matches!(self, Self::Api(problem) if is_problem(problem, "accountDoesNotExist"))
    }

    /// Whether an order without the certificate that it replaces (RFC 9773 section 5) may come to more.
    pub(super) fn is_of_replaced(&self) -> bool {
        let kinds = ["alreadyReplaced", "malformed"];
        let is_one = |problem: &Problem| kinds.into_iter().any(|kind| is_problem(problem, kind));
        matches!(self, Self::Nonsense) || matches!(self, Self::Api(problem) if is_one(problem))
    }

    /// How long to wait until it is asked again, if that is known.
    pub(super) fn wait(&self) -> Option<Duration> {
        if let Self::NotYet { wait, .. } = self {
            return Some(*wait);
        }
        None
    }

    /// What can be done about it.
    pub(super) fn mend(&self) -> &'static str {
        match self {
            Self::Unable { mend, .. } => mend,
            Self::NotYet { .. } => "nothing: it is ordered as soon as it may be",
            Self::State(_) => "make room on this device's disk, and its state directory writable",
            Self::Tls(_) => {
                "the operator has to look at `ca_file` in [acme]; a device without root certificates needs them (ca-certificates)"
            }
            Self::Unreachable(error) if tls::is_distrust(error) => {
                "the operator has to name its root with `ca_file` in [acme], if that is not one that all systems have; else somebody stands between"
            }
            Self::Unreachable(_) => {
                "see that this device reaches it over HTTPS; it is tried again by itself"
            }
            Self::Api(problem) if is_problem(problem, "rateLimited") => {
                "nothing: it is tried again when the authority lets it"
            }
            Self::Api(problem) if is_problem(problem, "externalAccountRequired") => {
                "the operator has to set `eab_key_id` and `eab_key_file` in [acme]"
            }
            Self::Api(_) | Self::Binding => {
                "the operator has to look at [acme], and at the account with the authority"
            }
            Self::Invalid(_) | Self::NoDnsChallenge => {
                "the operator has to see that the zone is delegated to its name server, and that no CAA record is against it"
            }
            Self::NoProfile { .. } => {
                "the operator has to set `profile` in [[acme.ca]] to one that it has, or leave it out"
            }
            Self::Wrong(Wrong::Clock) => "set this device's clock",
            Self::Wrong(Wrong::Ended(_) | Wrong::Later(_)) => {
                "nothing, if it passes; else the operator has to see that the server's clock is right, or choose another authority"
            }
            Self::Silent
            | Self::TooLong
            | Self::NoHttps
            | Self::Status(_)
            | Self::Nonsense
            | Self::Nonces
            | Self::TooSlow
            | Self::Wrong(Wrong::Garbage | Wrong::Key | Wrong::Names | Wrong::Chain) => {
                "nothing, if it passes; else the operator has to choose another authority"
            }
            Self::Key => {
                "remove account.pem and acme.json from this device's state directory, and start the agent again"
            }
        }
    }
}

fn in_turn(ahead: usize) -> String {
    match ahead {
        0 => "this one is next".to_owned(),
        1 => "one other comes before this one".to_owned(),
        _ => format!("{ahead} others come before this one"),
    }
}

/// Whether it is of this kind (RFC 8555 section 6.7).
pub(super) fn is_problem(problem: &Problem, kind: &str) -> bool {
    let found = problem.r#type.as_deref();
    found.and_then(|found| found.strip_prefix("urn:ietf:params:acme:error:")) == Some(kind)
}

fn there_are(profiles: &[String]) -> String {
    match profiles {
        [] => "it has none".to_owned(),
        profiles => format!("it has {}", one_line(&profiles.join(", "))),
    }
}

/// In its own words, or in the kind's.
fn said(problem: &Problem) -> String {
    let said = problem.detail.as_deref().or(problem.r#type.as_deref());
    one_line(said.unwrap_or("it does not say why"))
}

/// What others say, in a sentence of ours: it has no lines of its own, which could be taken for ours, and it comes to an end.
fn one_line(text: &str) -> String {
    let mut rest = text.chars();
    let said = rest.by_ref().take(MAX_SAID);
    let said = said.map(|letter| if letter.is_control() { ' ' } else { letter });
    let said: String = said.collect();
    match rest.next() {
        Some(_) => said + "…",
        None => said,
    }
}
