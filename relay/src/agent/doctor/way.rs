//! The way to the relays: whether they answer, over UDP and over TCP, and what packets may be like on the way.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use wire::CloseCode;

use crate::agent::dial::{DIAL_TIME, DialError, Dialler};
use crate::agent::relays::RelayAddress;
use crate::quic::{self, Attempts, Profile, Room};

use super::batches;
use super::finding::{Finding, Hop};
use super::path_mtu;
use super::trouble::Trouble;

/// Enough for a handshake.
const PROFILE: Profile = Profile {
    room: Room::Small,
    batches: false,
};

/// A relay that has answered.
#[derive(Clone, Copy)]
struct Answered {
    address: SocketAddr,
    /// How long the handshake took.
    time: Duration,
}

/// Looks at the way to `relay`.
pub(super) async fn examine(dialler: &Arc<Dialler>, relay: &str) -> Vec<Finding> {
    let Some(address) = RelayAddress::parse(relay) else {
        let mend = "pair the device anew; if that says the same, the operator has to mend it";
        return vec![Hop::Relay.ill(relay, "this is no host with a port", mend)];
    };
    let resolved = dialler.resolver.resolve(&address.host, address.port);
    if let Err(error) = resolved.await {
        let trouble = Trouble::of_connection(&error);
        let finding = trouble
            .hop()
            .ill(relay, error.to_string(), trouble.mend(address.port));
        return vec![finding];
    }
    let (over_udp, over_tcp) = tokio::join!(
        in_time(over_udp(dialler, &address)),
        in_time(over_tcp(dialler, &address))
    );
    let found = over_udp.as_ref().copied().ok();
    let mut findings = ways(relay, address.port, over_udp, over_tcp);
    if let Some(Answered { address, time }) = found {
        let (mtu, together) =
            tokio::join!(path_mtu::measure(address, time), batches::measure(address));
        // What has no socket has been said already.
        findings.extend(mtu.ok().map(|mtu| mtu.judged(relay)));
        findings.extend(together.ok().map(|batches| batches.judged(relay)));
    }
    findings
}

/// How long a handshake takes over QUIC.
async fn over_udp(dialler: &Arc<Dialler>, relay: &RelayAddress) -> Result<Answered, DialError> {
    let begun = Instant::now();
    let attempts = Attempts::default();
    let connected = dialler.connect_quic(relay, PROFILE, &attempts).await;
    let (endpoint, connection) = connected?;
    let answered = Answered {
        address: connection.remote_address(),
        time: begun.elapsed(),
    };
    quic::close(&connection, CloseCode::Done);
    endpoint.wait_idle().await; // so that the relay hears it
    Ok(answered)
}

async fn over_tcp(dialler: &Arc<Dialler>, relay: &RelayAddress) -> Result<Answered, DialError> {
    let begun = Instant::now();
    let (address, _) = dialler.connect_tls(relay).await?;
    Ok(Answered {
        address,
        time: begun.elapsed(),
    })
}

async fn in_time(
    handshake: impl Future<Output = Result<Answered, DialError>>,
) -> Result<Answered, DialError> {
    timeout(DIAL_TIME, handshake).await.unwrap_or_else(|_| {
        let words = format!("no answer within {} s", DIAL_TIME.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, words).into())
    })
}

/// One finding for each way.
fn ways(
    relay: &str,
    port: u16,
    over_udp: Result<Answered, DialError>,
    over_tcp: Result<Answered, DialError>,
) -> Vec<Finding> {
    let subject = |way: &str| format!("{relay} over {way}");
    let well = |way: &str, answered: Answered| {
        let words = format!("answers, handshake in {} ms", answered.time.as_millis());
        Hop::Way.well(subject(way), words)
    };
    let (udp_error, tcp_error) = match (over_udp, over_tcp) {
        (Ok(udp), Ok(tcp)) => return vec![well("UDP", udp), well("TCP", tcp)],
        (Err(error), Ok(tcp)) => {
            let words = format!("{error}: visitors come over TLS meanwhile, which is slower");
            let mend = format!(
                "let UDP to port {port} out through the firewall of this device, of its router, and of its network"
            );
            let udp = Hop::Way.slow(subject("UDP"), words, mend);
            return vec![udp, well("TCP", tcp)];
        }
        (Ok(udp), Err(error)) => {
            let words = format!("{error}: large transfers stay on QUIC meanwhile, which is slower");
            let mend = match Trouble::of(&error) {
                // It is in the way of everything else that this device does.
                trouble @ (Trouble::Distrust | Trouble::Clock) => trouble.mend(port),
                Trouble::Refused | Trouble::NoWay | Trouble::NoName | Trouble::Other => format!(
                    "let TCP to port {port} out through the firewall of this device, of its router, and of its network"
                ),
            };
            let tcp = Hop::Way.slow(subject("TCP"), words, mend);
            return vec![well("UDP", udp), tcp];
        }
        (Err(udp), Err(tcp)) => (udp, tcp),
    };
    // Over TCP more is to be heard of why.
    let trouble = Trouble::of(&tcp_error);
    let ill = |way, error: DialError| {
        trouble
            .hop()
            .ill(subject(way), error.to_string(), trouble.mend(port))
    };
    vec![ill("UDP", udp_error), ill("TCP", tcp_error)]
}
