//! The way to the relays: whether they answer, over UDP and over TCP.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::timeout;
use wire::{CloseCode, InstanceId};

use crate::agent::RunError;
use crate::agent::dial::{DialError, Dialler};
use crate::agent::relays::RelayAddress;
use crate::agent::state::{Pairing, State};
use crate::quic::{self, Attempts, Profile, Room};
use crate::resolve::Resolver;
use crate::tls::Roots;

use super::finding::{Finding, Health, finding};

/// How long a relay may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Enough for a handshake.
const PROFILE: Profile = Profile {
    room: Room::Small,
    batches: false,
};

/// A device that is paired.
pub(super) struct Patient {
    pub(super) pairing: Pairing,
    dialler: Arc<Dialler>,
}

pub(super) fn patient(state: &State, resolver: Resolver) -> Result<Patient, RunError> {
    let pairing = state.pairing()?;
    let dialler = Dialler {
        certificate: state.identity()?.certificate()?,
        roots: Roots::from_pem(&pairing.trust_root)?,
        resolver,
        instance: InstanceId(rand::random()), // nobody hears it
        raw_outcomes: mpsc::channel(1).0,     // no tunnel is attached
    };
    Ok(Patient {
        pairing,
        dialler: Arc::new(dialler),
    })
}

impl Patient {
    /// Whether a relay answers, each way.
    pub(super) async fn relay(&self, relay: &str) -> Vec<Finding> {
        let Some(address) = RelayAddress::parse(relay) else {
            return vec![finding(relay, Health::Ill, "this is no host with a port")];
        };
        let over_udp = in_time(self.over_udp(&address)).await;
        let over_tcp = in_time(self.over_tcp(&address)).await;
        let none_answers = over_udp.is_err() && over_tcp.is_err();
        let judged = |way: &str, answered: Result<Duration, DialError>, meanwhile: &str| {
            let subject = format!("{relay} over {way}");
            match answered {
                Ok(time) => {
                    let words = format!("answers, handshake in {} ms", time.as_millis());
                    finding(subject, Health::Well, words)
                }
                Err(error) if none_answers => finding(subject, Health::Ill, error.to_string()),
                Err(error) => finding(subject, Health::Slow, format!("{error}; {meanwhile}")),
            }
        };
        vec![
            judged(
                "UDP",
                over_udp,
                "a firewall may block it: visitors come over TLS meanwhile",
            ),
            judged("TCP", over_tcp, "large transfers stay on QUIC meanwhile"),
        ]
    }

    /// How long a handshake takes.
    async fn over_udp(&self, relay: &RelayAddress) -> Result<Duration, DialError> {
        let begun = Instant::now();
        let attempts = Attempts::default();
        let connected = self.dialler.connect_quic(relay, PROFILE, &attempts).await;
        let (endpoint, connection) = connected?;
        let taken = begun.elapsed();
        quic::close(&connection, CloseCode::Done);
        endpoint.wait_idle().await; // so that the relay hears it
        Ok(taken)
    }

    async fn over_tcp(&self, relay: &RelayAddress) -> Result<Duration, DialError> {
        let begun = Instant::now();
        self.dialler.connect_tls(relay).await?;
        Ok(begun.elapsed())
    }
}

async fn in_time(
    handshake: impl Future<Output = Result<Duration, DialError>>,
) -> Result<Duration, DialError> {
    timeout(PATIENCE, handshake).await.unwrap_or_else(|_| {
        let words = format!("no answer within {} s", PATIENCE.as_secs());
        Err(io::Error::other(words).into())
    })
}
