//! The way from a visitor to an origin: nothing at all, Causeway, or a peer, in processes that end with it.
//!
//! ```text
//!   visitor ─► front: relay's process ─► agent's process ─► origin
//! ```

mod programs;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::ends::End;
use super::tunnel::Tunnel;
use super::{Carrier, Ends, Found, Peer, READY, Watched, WorldError};
use crate::part::{Part, plain_origin, splice_hop};
use crate::plain::{DEVICE, HELLO, Request, SMALL};
use crate::process::{Child, Program};

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
    pub(crate) front: SocketAddr,
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
type Started = (SocketAddr, Watched, Processes);

impl Way {
    /// Starts the peer's processes, and waits until a visitor gets through to the origin.
    pub(crate) async fn open(
        found: &Found,
        ends: &Ends,
        origin: &PlainOrigin,
    ) -> Result<Self, WorldError> {
        let folder = tempfile::tempdir()?;
        let to = origin.address;
        let (front, watched, processes) = match found.peer {
            Peer::Direct => (to, Watched::default(), Processes::None),
            Peer::DirectBbr => {
                let origin = PlainOrigin::start(ends, Some("bbr")).await?;
                let to = origin.address;
                (
                    to,
                    Watched::default(),
                    Processes::Origin { _origin: origin },
                )
            }
            Peer::Splice2 => splice(ends, to, folder.path()).await?,
            Peer::CausewayQuic => causeway(ends, Carrier::Quic, to, folder.path()).await?,
            Peer::CausewayTls => causeway(ends, Carrier::Tls, to, folder.path()).await?,
            Peer::RatholeTcp
            | Peer::RatholeNoise
            | Peer::Bore
            | Peer::Haproxy2
            | Peer::Haproxy2Splice
            | Peer::Nginx2 => programs::start(found, ends, to, folder.path()).await?,
        };
        let mut way = Self {
            front,
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
            let first = timeout(TRY, first_answer(self.front)).await;
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

async fn first_answer(front: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(front).await?;
    let request = Request {
        length: SMALL,
        last: true,
        works: false,
    };
    stream.write_all(HELLO).await?;
    stream.write_all(&request.encode()).await?;
    stream.read_exact(&mut [0; SMALL as usize]).await?;
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
    Ok((front, watched, processes))
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

async fn causeway(
    ends: &Ends,
    carrier: Carrier,
    origin: SocketAddr,
    folder: &Path,
) -> Result<Started, WorldError> {
    let origin = format!("tls://{origin}");
    let tunnel = Tunnel::start(folder, carrier, DEVICE, origin, ends).await?;
    let (front, watched) = (tunnel.server.ready.front, tunnel.watched());
    let processes = Processes::Tunnel {
        _tunnel: Box::new(tunnel),
    };
    Ok((front, watched, processes))
}
