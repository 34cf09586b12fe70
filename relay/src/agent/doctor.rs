//! Looks for what keeps an agent from its relay, or makes it slow, and says how to mend it. It attaches nowhere, so that a
//! running agent of the same device is not disturbed.

use std::fmt;
use std::fs;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;
use tokio::time::timeout;
use wire::{CloseCode, InstanceId};

use crate::quic::{self, Attempts, Gso, Profile, Room};
use crate::resolve::Resolver;
use crate::tls::Roots;

use super::RunError;
use super::dial::{DialError, Dialler};
use super::relays::RelayAddress;
use super::state::{Pairing, State};

/// How long a relay may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Enough for a handshake.
const PROFILE: Profile = Profile {
    room: Room::Small,
    batches: false,
};

/// What a UDP socket should be allowed to keep, in octets.
const BUFFER: u64 = quic::AGENT_BUFFER as u64;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub subject: String,
    /// How it is.
    pub health: Health,
    /// What was seen, and what to do if it is not well.
    pub words: String,
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// As it should be.
    Well,
    /// It works, and could be faster.
    Slow,
    /// The device cannot be reached, or only by another way.
    Ill,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Well => "ok",
            Self::Slow => "slow",
            Self::Ill => "bad",
        })
    }
}

fn finding(subject: impl Into<String>, health: Health, words: impl Into<String>) -> Finding {
    Finding {
        subject: subject.into(),
        health,
        words: words.into(),
    }
}

/// Looks at everything, the most important first.
pub async fn examine(state: &State, resolver: Resolver) -> Vec<Finding> {
    let mut findings = Vec::new();
    match patient(state, resolver) {
        Ok(patient) => {
            findings.push(finding(
                "pairing",
                Health::Well,
                format!("{}.{}", patient.pairing.name, patient.pairing.zone),
            ));
            for relay in &patient.pairing.relays {
                findings.extend(patient.relay(relay).await);
            }
        }
        Err(error) => findings.push(finding("pairing", Health::Ill, error.to_string())),
    }
    findings.push(congestion_control());
    findings.push(udp_buffers());
    findings.push(batches());
    findings
}

/// A device that is paired.
struct Patient {
    pairing: Pairing,
    dialler: Arc<Dialler>,
}

fn patient(state: &State, resolver: Resolver) -> Result<Patient, RunError> {
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
    async fn relay(&self, relay: &str) -> Vec<Finding> {
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

/// On long paths with a little loss it decides everything, see `congestion.rs`.
fn congestion_control() -> Finding {
    const SUBJECT: &str = "congestion control";
    const ALLOWED: &str = "net.ipv4.tcp_allowed_congestion_control";
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP));
    let chosen = socket.and_then(|socket| socket.set_tcp_congestion(b"bbr"));
    match chosen {
        Ok(()) => finding(SUBJECT, Health::Well, "BBR may be used"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => finding(
            SUBJECT,
            Health::Slow,
            format!("BBR is not permitted to this user: add bbr to {ALLOWED}"),
        ),
        Err(_) => finding(
            SUBJECT,
            Health::Slow,
            format!("the kernel has no BBR: load tcp_bbr, and add bbr to {ALLOWED}"),
        ),
    }
}

fn batches() -> Finding {
    const SUBJECT: &str = "packets in batches";
    match Gso::Auto.begins_with_batches() {
        true => finding(
            SUBJECT,
            Health::Well,
            "come out of the kernel as they went in",
        ),
        false => finding(
            SUBJECT,
            Health::Slow,
            "this kernel damages them (UDP GSO), so each packet is sent by itself: try another kernel",
        ),
    }
}

fn udp_buffers() -> Finding {
    const SUBJECT: &str = "UDP buffers";
    let limits = ["net.core.rmem_max", "net.core.wmem_max"].map(|limit| {
        let file = format!("/proc/sys/{}", limit.replace('.', "/"));
        let text = fs::read_to_string(file).unwrap_or_default();
        (limit, text.trim().parse::<u64>().ok())
    });
    let small: Vec<_> = limits
        .iter()
        .filter(|(_, octets)| octets.is_some_and(|octets| octets < BUFFER))
        .map(|(limit, _)| *limit)
        .collect();
    if small.is_empty() {
        return finding(SUBJECT, Health::Well, "as large as they should be");
    }
    let words = format!("raise {} to {BUFFER}", small.join(" and "));
    finding(SUBJECT, Health::Slow, words)
}
