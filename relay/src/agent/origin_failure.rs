//! Why a device's service gave no answer: what the visitor hears of it, and what is told to the owner.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use hyper::StatusCode;
use tokio::time::Instant;

use super::log_rate::{Line, LogRate};

/// Why there is no answer, or not all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OriginFailure {
    /// Nobody listens there.
    Refused,
    /// No connection stood in time.
    Unreachable,
    /// A connection or its TLS failed otherwise.
    NotConnected,
    /// It took the request, and did not begin to answer in time.
    NoAnswer,
    /// It broke off before the end of its answer.
    BrokeOff,
    /// It was not asked, because its health check fails.
    Ill,
}

impl OriginFailure {
    const ALL: [Self; 6] = [
        Self::Refused,
        Self::Unreachable,
        Self::NotConnected,
        Self::NoAnswer,
        Self::BrokeOff,
        Self::Ill,
    ];

    /// Why there is no connection.
    pub(super) fn of_connection(error: &io::Error) -> Self {
        use io::ErrorKind::{
            ConnectionRefused, HostUnreachable, NetworkDown, NetworkUnreachable, TimedOut,
        };
        let out_of_reach = [TimedOut, HostUnreachable, NetworkUnreachable, NetworkDown];
        let kind = error.kind();
        if kind == ConnectionRefused {
            Self::Refused
        } else if out_of_reach.contains(&kind) {
            Self::Unreachable
        } else {
            Self::NotConnected
        }
    }

    /// For machines.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::NotConnected => "not_connected",
            Self::NoAnswer => "no_answer",
            Self::BrokeOff => "broke_off",
            Self::Ill => "ill",
        }
    }

    /// What a visitor hears (RFC 9110 sections 15.6.3 to 15.6.5): whether to wait makes sense.
    pub(super) fn answer(self) -> (StatusCode, &'static str) {
        let away = "The device is reached, but its service does not answer. It may be starting or switched off.";
        match self {
            Self::Refused | Self::NotConnected => (StatusCode::BAD_GATEWAY, away),
            Self::Unreachable => (StatusCode::GATEWAY_TIMEOUT, away),
            Self::NoAnswer => (
                StatusCode::GATEWAY_TIMEOUT,
                "The device's service took the request, and did not answer in time.",
            ),
            Self::BrokeOff => (
                StatusCode::BAD_GATEWAY,
                "The device's service broke off before it answered.",
            ),
            Self::Ill => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The device is reached, but its service says that it is not well. It may be starting.",
            ),
        }
    }

    /// The one of which the owner is told so.
    pub(super) fn of_words(words: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|failure| failure.words() == words)
    }

    /// What the owner can do.
    pub(super) fn mend(self) -> &'static str {
        match self {
            Self::Refused => {
                "start the service, or name the address at which it listens as its origin (`ss -ltn` lists them)"
            }
            Self::Unreachable => {
                "see whether the service hangs, and whether a firewall stands before it"
            }
            Self::NotConnected => {
                "see whether it speaks TLS where its origin says `https://`; if its certificate is its own, name that with \
                 `--origin-ca FILE` (`origin_ca` in the configuration), or use `--origin-insecure`"
            }
            Self::NoAnswer => "see what the service waits for, in its log; restart it",
            Self::BrokeOff => "see why the service breaks off, in its log",
            Self::Ill => {
                "see what the service says at the path that `health` names in the configuration, and in its log"
            }
        }
    }

    /// What the owner is told.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Refused => "nobody listens there",
            Self::Unreachable => "it took no connection in time",
            Self::NotConnected => "the connection to it fails",
            Self::NoAnswer => "it took a request, and did not answer in time",
            Self::BrokeOff => "it broke off before the end of an answer",
            Self::Ill => "its health check fails",
        }
    }
}

/// How often an origin has failed, and how it was when it was asked last.
#[derive(Debug, Default)]
pub(super) struct OriginFailures {
    counts: [AtomicU64; OriginFailure::ALL.len()],
    /// Position in `ALL` from 1; 0 if it has answered.
    last: AtomicU8,
    /// Any visitor can make it fail, as often as he likes.
    log: [LogRate; OriginFailure::ALL.len()],
}

impl OriginFailures {
    pub(super) fn failed(&self, failure: OriginFailure) {
        let all = OriginFailure::ALL.iter().zip(&self.counts).zip(1..);
        for ((_, count), number) in all.filter(|((one, _), _)| **one == failure) {
            count.fetch_add(1, Relaxed);
            self.last.store(number, Relaxed);
        }
    }

    /// The right to say in the log that it has failed so.
    pub(super) fn line(&self, failure: OriginFailure) -> Option<Line> {
        let mut log = OriginFailure::ALL.iter().zip(&self.log);
        let (_, rate) = log.find(|(one, _)| **one == failure)?;
        rate.line(Instant::now())
    }

    pub(super) fn answered(&self) {
        // Mostly it has before, and nobody else's cache is to hear of it.
        if self.last.load(Relaxed) != 0 {
            self.last.store(0, Relaxed);
        }
    }

    /// What is wrong, in words.
    pub(super) fn problem(&self) -> Option<&'static str> {
        let number = usize::from(self.last.load(Relaxed));
        let last = OriginFailure::ALL.get(number.checked_sub(1)?)?;
        Some(last.words())
    }

    /// By reason, each of them.
    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        let counts = OriginFailure::ALL.iter().zip(&self.counts);
        counts
            .map(|(failure, count)| (failure.name().to_owned(), count.load(Relaxed)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_until_there_is_an_answer_and_counted_for_ever() {
        let failures = OriginFailures::default();
        assert_eq!(failures.problem(), None);
        for failure in OriginFailure::ALL {
            failures.failed(failure);
            assert_eq!(failures.problem(), Some(failure.words()));
            assert_eq!(OriginFailure::of_words(failure.words()), Some(failure));
        }
        failures.answered();
        assert_eq!(failures.problem(), None);
        assert_eq!(failures.counts().len(), OriginFailure::ALL.len());
        assert!(failures.counts().values().all(|count| *count == 1));
    }

    #[test]
    fn who_does_not_answer_in_time_is_told_apart_from_who_refuses() {
        let status = |kind: io::ErrorKind| {
            let failure = OriginFailure::of_connection(&kind.into());
            failure.answer().0.as_u16()
        };
        assert_eq!(status(io::ErrorKind::ConnectionRefused), 502);
        assert_eq!(status(io::ErrorKind::TimedOut), 504);
        assert_eq!(OriginFailure::NoAnswer.answer().0.as_u16(), 504);
        assert_eq!(OriginFailure::BrokeOff.answer().0.as_u16(), 502);
        assert_eq!(OriginFailure::Ill.answer().0.as_u16(), 503);
    }
}
