//! What a relay has said of the public ports that lead to services here, and what that means for the owner.

use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use directory::PublicPort;
use tokio::time::{Instant, sleep_until};
use wire::ports::{PortState, PublishedPort};

use super::log_rate::LogRate;
use super::status::PortStatus;

/// How often each port has been in the log, on behalf of whichever tunnel of a keeper. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct PortsLog(Arc<Mutex<Vec<(PublicPort, LogRate)>>>); // no more than the owner's file has had

/// What has been asked of the relay of a tunnel, and what it has said. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct ToldPorts {
    told: Arc<Mutex<Told>>,
    log: PortsLog,
}

#[derive(Debug, Default)]
struct Told {
    asked: Vec<PublicPort>,
    /// By a relay that is older than public ports: it is asked nothing.
    is_too_old: bool,
    /// Of each port that was asked for, once.
    said: Vec<SaidOfPort>,
}

#[derive(Debug)]
struct SaidOfPort {
    port: PublicPort,
    /// A number that this version does not know is kept.
    state: Result<PortState, u32>,
    /// What the log says of it.
    logged: Option<Result<PortState, u32>>,
}

impl PortsLog {
    /// Does that with the rate at which lines about `port` are written.
    fn with<T>(&self, port: PublicPort, act: impl FnOnce(&LogRate) -> T) -> T {
        let mut each = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, rate)) = each.iter().find(|(of, _)| *of == port) {
            return act(rate);
        }
        let rate = LogRate::default();
        let done = act(&rate);
        each.push((port, rate));
        done
    }
}

impl ToldPorts {
    pub(super) fn new(log: PortsLog) -> Self {
        Self {
            told: Arc::default(),
            log,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These lead to services from now on; whether that is news to a relay that `hears` of it.
    pub(super) fn ask(&self, ports: &[PublicPort], hears: bool) -> bool {
        let mut told = self.lock();
        let is_news = told.asked != ports;
        told.asked = ports.to_vec();
        told.is_too_old = !hears;
        is_news && hears
    }

    /// The relay says so.
    pub(super) fn said(&self, each: &[PublishedPort]) {
        let mut told = self.lock();
        let before = std::mem::take(&mut told.said);
        // It may say anything, and the owner reads of what is in his file.
        let said = told.asked.iter().filter_map(|port| {
            let said = each.iter().rfind(|said| said.port == *port)?;
            let before = before.iter().find(|before| before.port == *port);
            Some(SaidOfPort {
                port: *port,
                state: said.state,
                logged: before.and_then(|before| before.logged),
            })
        });
        let said = said.collect();
        told.said = said;
    }

    /// Tells the owner in the log what is news of what it has said: at once, or, if that has been too often, when it may be again, and as
    /// it is then. Never returns; another begins where this one was.
    pub(super) async fn log(&self, relay: &str) {
        loop {
            let (news, again_at) = self.news(Instant::now());
            for PortStatus {
                port,
                problem,
                mend,
                ..
            } in news
            {
                match problem {
                    None => tracing::info!(port, relay, "the public port is open"),
                    Some(problem) => {
                        tracing::warn!(port, relay, mend, "the public port is not open: {problem}");
                    }
                }
            }
            match again_at {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        }
    }

    /// What is to be in the log now, and when there will be more, if nothing changes.
    fn news(&self, now: Instant) -> (Vec<PortStatus>, Option<Instant>) {
        let mut again_at: Option<Instant> = None;
        let mut told = self.lock();
        let unlogged = told.said.iter_mut();
        let unlogged = unlogged.filter(|said| said.logged != Some(said.state));
        let news = unlogged.filter_map(|said| {
            let written = self.log.with(said.port, |rate| match rate.line(now) {
                Some(_) => Ok(()),
                None => Err(rate.may_again_at(now)),
            });
            if let Err(at) = written {
                again_at = Some(again_at.map_or(at, |other| other.min(at)));
                return None;
            }
            said.logged = Some(said.state);
            Some(status(said.port, Said::State(said.state)))
        });
        (news.collect(), again_at)
    }

    /// How it stands with each.
    pub(super) fn status(&self) -> Vec<PortStatus> {
        let told = self.lock();
        let each = told.asked.iter().map(|port| {
            let said = told.said.iter().find(|said| said.port == *port);
            let said = match said {
                Some(said) => Said::State(said.state),
                None if told.is_too_old => Said::TooOld,
                None => Said::Nothing,
            };
            status(*port, said)
        });
        each.collect()
    }
}

/// What a relay has said of a port.
enum Said {
    State(Result<PortState, u32>),
    Nothing,
    /// It cannot say anything of ports.
    TooOld,
}

fn status(port: PublicPort, said: Said) -> PortStatus {
    let newer_relay = "ask your operator for a newer relay";
    let (state, problem) = match said {
        Said::State(Ok(PortState::Open)) => (PortState::Open.name(), None),
        Said::State(Ok(state)) => (state.name(), Some(in_words(port, state))),
        Said::State(Err(_)) => {
            let problem = "the relay says why in a word that this agent is too old for";
            let mend = "install a newer agent".to_owned();
            ("unknown", Some((problem, mend)))
        }
        Said::Nothing => {
            let problem = "the relay has not said anything of it";
            let mend = format!("if it stays so, {newer_relay}");
            ("unknown", Some((problem, mend)))
        }
        Said::TooOld => {
            let problem = "this relay is older than public ports";
            ("too_old", Some((problem, newer_relay.to_owned())))
        }
    };
    let (problem, mend) = problem.unzip();
    PortStatus {
        port: port.to_string(),
        state: state.to_owned(),
        problem: problem.map(str::to_owned),
        mend,
    }
}

/// Why a port is not open, and what to do.
fn in_words(port: PublicPort, state: PortState) -> (&'static str, String) {
    let give = format!("ask your operator for it: causeway port add DEVICE {port}");
    match state {
        PortState::Open => ("it is open", "nothing".to_owned()),
        PortState::NotOffered => (
            "this relay offers no public ports",
            "ask your operator, whose configuration has none: `ports` in [relay]".to_owned(),
        ),
        PortState::OutOfRange => (
            "this relay offers other ports only",
            "ask your operator which there are: `ports` in [relay] of his configuration".to_owned(),
        ),
        PortState::NotGiven => ("this device has not been given it", give),
        PortState::Taken => (
            "another device has it",
            "ask your operator for another one, and write that into the file".to_owned(),
        ),
        PortState::Unavailable => (
            "the relay cannot listen there; mostly another program of its machine does",
            "tell your operator, whose log says why; or ask for another one".to_owned(),
        ),
        PortState::NoDatagrams => (
            "datagrams do not cross this tunnel, which runs over TLS",
            "let UDP out to the relay; `causeway-agent doctor` says where it is blocked".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_that_is_not_open_has_words_and_a_mend() {
        let port: PublicPort = "20022/tcp".parse().unwrap();
        let told = ToldPorts::default();
        let state = || told.status().remove(0);
        assert!(!told.ask(&[port], false), "an older relay hears nothing");
        assert_eq!(state().state, "too_old");
        assert!(state().mend.unwrap().contains("a newer relay"));
        let told = ToldPorts::default();
        let state = || told.status().remove(0);
        assert!(told.ask(&[port], true) && !told.ask(&[port], true));
        assert_eq!(state().state, "unknown");
        let numbers = PortState::ALL.map(Ok).into_iter().chain([Err(99)]);
        for number in numbers {
            told.said(&[PublishedPort {
                port,
                state: number,
            }]);
            let is_open = number == Ok(PortState::Open);
            let PortStatus { problem, mend, .. } = state();
            assert_eq!((problem.is_none(), mend.is_none()), (is_open, is_open));
        }
    }

    #[test]
    fn what_a_relay_says_of_ports_that_nobody_asked_for_is_nothing() {
        let told = ToldPorts::default();
        let [asked, other]: [PublicPort; 2] =
            ["20022/tcp", "20023/tcp"].map(|port| port.parse().unwrap());
        assert!(told.ask(&[asked], true));
        let each = [other, asked].map(|port| PublishedPort {
            port,
            state: Ok(PortState::Open),
        });
        told.said(&each);
        let news = told.news(Instant::now()).0;
        let ports: Vec<_> = news.into_iter().map(|news| news.port).collect();
        assert_eq!(ports, [asked.to_string()]);
        assert_eq!(told.status()[0].state, "open");
    }

    #[test]
    fn a_relay_that_says_something_else_all_the_time_does_not_fill_the_log() {
        let port: PublicPort = "20022/tcp".parse().unwrap();
        let (log, start) = (PortsLog::default(), Instant::now());
        let states = [PortState::Open, PortState::Taken].map(Ok);
        let said = |told: &ToldPorts, state| {
            told.said(&[PublishedPort { port, state }]);
            let (news, again_at) = told.news(start);
            (news.len(), again_at)
        };
        let mut lines = 0;
        let mut last = None;
        // Neither over one tunnel nor by one that it ends again and again.
        for _ in 0..100 {
            let told = ToldPorts::new(log.clone());
            told.ask(&[port], true);
            for state in states {
                lines += said(&told, state).0;
                let is_open = state == states[0];
                assert_eq!(told.status()[0].problem.is_none(), is_open);
            }
            last = Some(told);
        }
        let told = last.unwrap();
        for _ in 0..100 {
            lines += states
                .map(|state| said(&told, state).0)
                .iter()
                .sum::<usize>();
        }
        assert!((1..=10).contains(&lines), "{lines} lines");
        // As it is then, once; and what is as it was in the log already is no news.
        let (none, again_at) = told.news(start);
        assert!(none.is_empty());
        let (news, no_more) = told.news(again_at.unwrap());
        assert_eq!(news[0].state, PortState::Taken.name());
        assert_eq!((news.len(), no_more), (1, None));
        assert_eq!(said(&told, states[0]).0, 0);
        assert_eq!(said(&told, states[1]), (0, None));
    }
}
