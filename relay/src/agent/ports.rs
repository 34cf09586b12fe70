//! What a relay has said of the public ports that lead to services here, and what that means for the owner.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use directory::PublicPort;
use wire::ports::{PortState, PublishedPort};

use super::status::PortStatus;

/// What has been asked of the relay of a tunnel, and what it has said. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct ToldPorts(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    asked: Vec<PublicPort>,
    /// By a relay that is older than public ports: it is asked nothing.
    is_too_old: bool,
    said: Vec<PublishedPort>,
}

impl ToldPorts {
    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These lead to services from now on; whether that is news to a relay that `hears` of it.
    pub(super) fn ask(&self, ports: &[PublicPort], hears: bool) -> bool {
        let mut told = self.lock();
        let is_news = told.asked != ports;
        told.asked = ports.to_vec();
        told.is_too_old = !hears;
        is_news && hears
    }

    /// The relay says so; what is news of it is told the owner.
    pub(super) fn said(&self, relay: &str, mut each: Vec<PublishedPort>) {
        let mut told = self.lock();
        // It may say anything, and the owner reads of what is in his file.
        each.retain(|one| told.asked.contains(&one.port));
        for one in each.iter().filter(|one| !told.said.contains(one)) {
            let PortStatus {
                port,
                problem,
                mend,
                ..
            } = status(one.port, Said::State(one.state));
            match problem {
                None => tracing::info!(port, relay, "the public port is open"),
                Some(problem) => {
                    tracing::warn!(port, relay, mend, "the public port is not open: {problem}");
                }
            }
        }
        told.said = each;
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
    /// A number that this version does not know is kept.
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
            told.said(
                "relay:443",
                vec![PublishedPort {
                    port,
                    state: number,
                }],
            );
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
        told.said("relay", each.into());
        assert_eq!(told.lock().said, [each[1]]);
        assert_eq!(told.status()[0].state, "open");
    }
}
