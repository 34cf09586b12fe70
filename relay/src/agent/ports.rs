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
    said: Vec<PublishedPort>,
}

impl ToldPorts {
    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These lead to services from now on; whether that is news.
    pub(super) fn ask(&self, ports: &[PublicPort]) -> bool {
        let mut told = self.lock();
        let is_news = told.asked != ports;
        told.asked = ports.to_vec();
        is_news
    }

    /// The relay says so; what is news of it is told the owner.
    pub(super) fn said(&self, relay: &str, each: Vec<PublishedPort>) {
        let mut told = self.lock();
        for one in each.iter().filter(|one| !told.said.contains(one)) {
            let PortStatus {
                port,
                problem,
                mend,
                ..
            } = status(one.port, Some(one.state));
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
            status(*port, said.map(|said| said.state))
        });
        each.collect()
    }
}

fn status(port: PublicPort, state: Option<Result<PortState, u32>>) -> PortStatus {
    let (problem, mend) = match state {
        Some(Ok(PortState::Open)) => (None, None),
        Some(Ok(state)) => {
            let (problem, mend) = in_words(port, state);
            (Some(problem.to_owned()), Some(mend))
        }
        Some(Err(_)) => {
            let mend = "install a newer agent".to_owned();
            let problem = "the relay says why in a word that this agent is too old for";
            (Some(problem.to_owned()), Some(mend))
        }
        None => {
            let mend = "if it stays so, ask your operator for a newer relay".to_owned();
            let problem = "the relay has not said anything of it";
            (Some(problem.to_owned()), Some(mend))
        }
    };
    let state = state.and_then(Result::ok).map(PortState::name);
    PortStatus {
        port: port.to_string(),
        state: state.unwrap_or("unknown").to_owned(),
        problem,
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
