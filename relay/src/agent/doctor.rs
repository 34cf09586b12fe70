//! Looks for what keeps an agent from its relay, or makes it slow, and says how to mend it. It attaches nowhere, so that a
//! running agent of the same device is not disturbed.

use std::fmt;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::timeout;

use crate::quic;
use crate::resolve::Resolver;
use crate::tls::{self, AgentCertificate, Prefixed, Roots};

use super::state::{Pairing, State};
use super::tunnel::RelayAddress;

/// How long a relay may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

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
    match patient(state) {
        Ok(patient) => {
            findings.push(finding(
                "pairing",
                Health::Well,
                format!("{}.{}", patient.pairing.name, patient.pairing.zone),
            ));
            for relay in &patient.pairing.relays {
                findings.extend(patient.relay(relay, resolver).await);
            }
        }
        Err(words) => findings.push(finding("pairing", Health::Ill, words)),
    }
    findings.push(congestion_control());
    findings.push(udp_buffers());
    findings
}

/// A device that is paired.
struct Patient {
    pairing: Pairing,
    roots: Roots,
    certificate: AgentCertificate,
}

fn patient(state: &State) -> Result<Patient, String> {
    let pairing = state.pairing().map_err(|error| error.to_string())?;
    let roots = Roots::from_pem(&pairing.trust_root).map_err(|error| error.to_string())?;
    let identity = state.identity().map_err(|error| error.to_string())?;
    let certificate = identity.certificate().map_err(|error| error.to_string())?;
    Ok(Patient {
        pairing,
        roots,
        certificate,
    })
}

impl Patient {
    async fn relay(&self, relay: &str, resolver: Resolver) -> Vec<Finding> {
        let Some(address) = RelayAddress::parse(relay) else {
            return vec![finding(relay, Health::Ill, "this is no host with a port")];
        };
        let over_quic = in_time(self.over_quic(&address, resolver)).await;
        let over_tls = in_time(self.over_tls(&address, resolver)).await;
        let quic = format!("{relay} over UDP");
        let tls = format!("{relay} over TCP");
        match (over_quic, over_tls) {
            (Ok(quic_time), Ok(tls_time)) => vec![
                finding(quic, Health::Well, answered(quic_time)),
                finding(tls, Health::Well, answered(tls_time)),
            ],
            (Err(error), Ok(tls_time)) => vec![
                finding(
                    quic,
                    Health::Slow,
                    format!("{error}; a firewall may block UDP: visitors come over TLS meanwhile"),
                ),
                finding(tls, Health::Well, answered(tls_time)),
            ],
            (Ok(quic_time), Err(error)) => vec![
                finding(quic, Health::Well, answered(quic_time)),
                finding(
                    tls,
                    Health::Slow,
                    format!("{error}; large transfers stay on QUIC meanwhile"),
                ),
            ],
            (Err(quic_error), Err(tls_error)) => vec![
                finding(quic, Health::Ill, quic_error.to_string()),
                finding(tls, Health::Ill, tls_error.to_string()),
            ],
        }
    }

    async fn over_quic(&self, relay: &RelayAddress, resolver: Resolver) -> io::Result<()> {
        let addresses = resolver.resolve(&relay.host, relay.port).await?;
        let mut failed = io::Error::from(io::ErrorKind::NotFound);
        for address in addresses {
            let endpoint = quic::agent_endpoint(address, &self.roots, &self.certificate)
                .map_err(io::Error::other)?;
            let connecting = endpoint.connect(address, &relay.host);
            match connecting.map_err(io::Error::other)?.await {
                Ok(connection) => {
                    quic::close(&connection, wire::CloseCode::Done);
                    endpoint.wait_idle().await;
                    return Ok(());
                }
                Err(error) => failed = error.into(),
            }
        }
        Err(failed)
    }

    async fn over_tls(&self, relay: &RelayAddress, resolver: Resolver) -> io::Result<()> {
        let stream = resolver.connect(&relay.host, relay.port).await?;
        let connector =
            tls::tunnel_connector(&self.roots, &self.certificate).map_err(io::Error::other)?;
        let name = tls::server_name(&relay.host)?;
        let stream = Prefixed::new(Bytes::new(), stream);
        connector.connect(name, stream).await.map(drop)
    }
}

async fn in_time(attempt: impl Future<Output = io::Result<()>>) -> io::Result<Duration> {
    let begun = Instant::now();
    match timeout(PATIENCE, attempt).await {
        Ok(done) => done.map(|()| begun.elapsed()),
        Err(_) => Err(io::Error::other(format!(
            "no answer within {} s",
            PATIENCE.as_secs()
        ))),
    }
}

fn answered(time: Duration) -> String {
    format!("answers, handshake in {} ms", time.as_millis())
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
