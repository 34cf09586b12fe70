//! The way from a visitor to an origin: nothing at all, Causeway, or a peer, in processes that end with it.
//!
//! ```text
//!   visitor ─► front: relay's process ─► agent's process ─► origin
//! ```

mod datagrams;
mod programs;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use relay::tls::Roots;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use super::ends::End;
use super::tunnel::Tunnel;
use super::{Carrier, Ends, Found, Peer, READY, Watched, WorldError};
use crate::entrance::Entrance;
use crate::part::up::Scarce;
use crate::part::{Part, plain_origin, splice_hop};
use crate::plain::{DEVICE, HELLO, Request, SMALL};
use crate::process::{Child, Program};

pub(crate) use datagrams::DatagramWay;
use programs::Carries;

/// How long a first answer may take before another connection is tried: a tunnel may not be there yet.
const TRY: Duration = Duration::from_secs(1);

const PAUSE: Duration = Duration::from_millis(50);

/// The service that all ways lead to.
#[derive(Debug)]
pub(crate) struct PlainOrigin {
    address: SocketAddr,
    _process: Child,
    _folder: TempDir,
}

impl PlainOrigin {
    /// At the far end, sending with that congestion control.
    pub(crate) async fn start(ends: &Ends, congestion: Option<&str>) -> Result<Self, WorldError> {
        let folder = tempfile::tempdir()?;
        let order = plain_origin::Order {
            listen: ends.far.any_port(),
            congestion: congestion.map(str::to_owned),
        };
        let mut process =
            Child::start(ends.far.namespace, Part::PlainOrigin, &order, folder.path())?;
        let ready = process.until_said(READY, |_: &plain_origin::Ready| true);
        let address = ready.await?.address;
        Ok(Self {
            address,
            _process: process,
            _folder: folder,
        })
    }
}

/// A way that has been gone once.
#[derive(Debug)]
pub(crate) struct Way {
    /// Where visitors arrive.
    pub(crate) entrance: Entrance,
    pub(crate) watched: Watched,
    processes: Processes,
    _folder: TempDir,
}

/// What runs for it; dropped before the folder.
#[derive(Debug)]
enum Processes {
    None,
    Origin { _origin: PlainOrigin },
    Hops { _relay: Child, _agent: Child },
    Tunnel { _tunnel: Box<Tunnel> },
    Programs { relay: Program, agent: Program },
}

/// What was started, where its visitors arrive, and what is to be measured of it.
type Started = (Entrance, Watched, Processes);

impl Way {
    /// Starts the peer's processes, and waits until a visitor gets through to the origin.
    pub(crate) async fn open(
        found: &Found,
        ends: &Ends,
        origin: &PlainOrigin,
    ) -> Result<Self, WorldError> {
        let folder = tempfile::tempdir()?;
        let to = origin.address;
        let (entrance, watched, processes) = match found.peer {
            Peer::Direct => (Entrance::plain(to), Watched::default(), Processes::None),
            Peer::DirectBbr => {
                let origin = PlainOrigin::start(ends, Some("bbr")).await?;
                (
                    Entrance::plain(origin.address),
                    Watched::default(),
                    Processes::Origin { _origin: origin },
                )
            }
            Peer::Splice2 => splice(ends, to, folder.path()).await?,
            Peer::CausewayQuic => causeway(ends, Carrier::Quic, to, folder.path()).await?,
            Peer::CausewayTls => causeway(ends, Carrier::Tls, to, folder.path()).await?,
            Peer::CausewayQuicOnly => causeway(ends, Carrier::QuicOnly, to, folder.path()).await?,
            Peer::CausewayEndsTls => ending_tls(ends, to, folder.path()).await?,
            Peer::RatholeTcp
            | Peer::RatholeNoise
            | Peer::RatholeTls
            | Peer::Bore
            | Peer::Haproxy2
            | Peer::Haproxy2Splice
            | Peer::Nginx2
            | Peer::Qbench
            | Peer::QbenchBatch => {
                programs::start(found, ends, to, Carries::Bytes, folder.path()).await?
            }
        };
        let mut way = Self {
            entrance,
            watched,
            processes,
            _folder: folder,
        };
        way.until_open(found.peer).await?;
        Ok(way)
    }

    async fn until_open(&mut self, peer: Peer) -> Result<(), WorldError> {
        let begun = Instant::now();
        loop {
            let first = timeout(TRY, first_answer(&self.entrance)).await;
            match first.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(()) => return Ok(()),
                Err(cause) if begun.elapsed() > READY => {
                    let peer = peer.name();
                    return Err(WorldError::NoWay { peer, cause });
                }
                Err(_) => sleep(PAUSE).await,
            }
            if let Processes::Programs { relay, agent } = &mut self.processes {
                relay.check()?;
                agent.check()?;
            }
        }
    }
}

async fn first_answer(entrance: &Entrance) -> io::Result<()> {
    let mut line = entrance.enter().await?;
    let request = Request {
        length: SMALL,
        last: true,
        works: false,
    };
    line.send(&[HELLO, &request.encode()].concat()).await?;
    let mut left = SMALL;
    while left > 0 {
        match line.forget(left).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            received => left -= received as u64,
        }
    }
    Ok(())
}

async fn splice(ends: &Ends, origin: SocketAddr, folder: &Path) -> Result<Started, WorldError> {
    let (agent, to) = splice_hop(ends.far, origin, folder).await?;
    let (relay, front) = splice_hop(ends.near, to, folder).await?;
    let watched = Watched {
        relay: Some(relay.id()),
        agent: Some(agent.id()),
    };
    let processes = Processes::Hops {
        _relay: relay,
        _agent: agent,
    };
    Ok((Entrance::plain(front), watched, processes))
}

async fn splice_hop(
    end: End,
    to: SocketAddr,
    folder: &Path,
) -> Result<(Child, SocketAddr), WorldError> {
    let order = splice_hop::Order {
        listen: end.any_port(),
        to,
    };
    let mut hop = Child::start(end.namespace, Part::SpliceHop, &order, folder)?;
    let ready = hop.until_said(READY, |_: &splice_hop::Ready| true).await?;
    Ok((hop, ready.address))
}

/// A tunnel whose agent passes the visitor's TLS on.
async fn causeway(
    ends: &Ends,
    carrier: Carrier,
    origin: SocketAddr,
    folder: &Path,
) -> Result<Started, WorldError> {
    let origin = format!("tls://{origin}");
    let tunnel = Tunnel::start(
        folder,
        carrier,
        DEVICE,
        origin.into(),
        ends,
        Scarce::default(),
    )
    .await?;
    let entrance = Entrance::plain(tunnel.server.ready.front);
    Ok(through(tunnel, entrance))
}

/// A tunnel whose agent ends the visitor's TLS.
async fn ending_tls(ends: &Ends, origin: SocketAddr, folder: &Path) -> Result<Started, WorldError> {
    let origin = format!("tcp://{origin}");
    let tunnel = Tunnel::start(
        folder,
        Carrier::Quic,
        DEVICE,
        origin.into(),
        ends,
        Scarce::default(),
    )
    .await?;
    let host = format!("{DEVICE}.{}", tunnel.server.ready.zone);
    let entrance = Entrance {
        front: tunnel.server.ready.front,
        tls: Some((host, Roots::from_pem(&tunnel.trust_root)?)),
    };
    Ok(through(tunnel, entrance))
}

fn through(tunnel: Tunnel, entrance: Entrance) -> Started {
    let watched = tunnel.watched();
    let processes = Processes::Tunnel {
        _tunnel: Box::new(tunnel),
    };
    (entrance, watched, processes)
}
