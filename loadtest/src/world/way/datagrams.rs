//! The way of datagrams: to a public port of our relay, or to what a peer has instead.

use std::fs;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use directory::PublicPort;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::programs::{self, Carries};
use super::{Processes, Started};
use crate::datagrams::{KNOCK, prepared};
use crate::entrance::Entrance;
use crate::part::up::Scarce;
use crate::part::{Part, datagram_origin};
use crate::plain::DEVICE;
use crate::process::{Child, ChildError};
use crate::world::tunnel::{Service, Tunnel};
use crate::world::{Carrier, Ends, Found, Peer, READY, Watched, WorldError, port};

/// After so many answers whoever asks is one who converses.
const CONVERSES: usize = 4;

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(50);

/// A way that has been gone, and the service at its end.
#[derive(Debug)]
pub(crate) struct DatagramWay {
    /// The visitor's.
    pub(crate) socket: UdpSocket,
    /// Where its datagrams arrive.
    pub(crate) entrance: SocketAddr,
    pub(crate) watched: Watched,
    processes: Processes,
    origin: Child,
    _folder: TempDir,
}

impl DatagramWay {
    /// Starts the peer's processes and the service, and waits until a visitor hears of it.
    pub(crate) async fn open(found: &Found, ends: &Ends) -> Result<Self, WorldError> {
        let folder = tempfile::tempdir()?;
        let order = datagram_origin::Order {
            listen: ends.far.any_port(),
        };
        let (namespace, path) = (ends.far.namespace, folder.path());
        let mut origin = Child::start(namespace, Part::DatagramOrigin, &order, path)?;
        let ready = origin.until_said(READY, |_: &datagram_origin::Status| true);
        let to = ready.await?.address;
        let (entrance, watched, processes) = match found.peer {
            Peer::Direct => (Entrance::plain(to), Watched::default(), Processes::None),
            Peer::CausewayQuic => causeway(ends, to, path).await?,
            Peer::DirectBbr
            | Peer::Splice2
            | Peer::CausewayTls
            | Peer::CausewayQuicOnly
            | Peer::CausewayEndsTls
            | Peer::RatholeTcp
            | Peer::RatholeNoise
            | Peer::RatholeTls
            | Peer::Bore
            | Peer::Haproxy2
            | Peer::Haproxy2Splice
            | Peer::Nginx2
            | Peer::Qbench
            | Peer::QbenchBatch => {
                programs::start(found, ends, to, Carries::Datagrams, path).await?
            }
        };
        let socket = UdpSocket::bind(ends.near.any_port())?;
        prepared(&socket)?;
        let mut way = Self {
            socket,
            entrance: entrance.front,
            watched,
            processes,
            origin,
            _folder: folder,
        };
        way.until_it_converses(found.peer).await?;
        Ok(way)
    }

    /// How many have come to the service.
    pub(crate) fn came(&self) -> Result<u64, ChildError> {
        let said: Option<datagram_origin::Status> = self.origin.said()?;
        Ok(said.map_or(0, |said| said.came))
    }

    async fn until_it_converses(&mut self, peer: Peer) -> Result<(), WorldError> {
        let begun = Instant::now();
        let mut heard = 0;
        while heard < CONVERSES {
            if begun.elapsed() > READY {
                let (peer, cause) = (peer.name(), io::ErrorKind::TimedOut.into());
                return Err(WorldError::NoWay { peer, cause });
            }
            if let Processes::Programs { relay, agent } = &mut self.processes {
                relay.check()?;
                agent.check()?;
            }
            // Until it is open there, the kernel may say that nobody is.
            let _ = self.socket.send_to(KNOCK, self.entrance);
            sleep(PAUSE).await;
            while self.socket.recv(&mut [0; 16]).is_ok() {
                heard += 1;
            }
        }
        Ok(())
    }
}

/// A tunnel, and a public port of the relay that leads to the service behind it.
async fn causeway(ends: &Ends, origin: SocketAddr, folder: &Path) -> Result<Started, WorldError> {
    let number = port::free(ends.near.address).map_err(WorldError::NoPort)?;
    let public: PublicPort = format!("{number}/udp").parse().map_err(io::Error::other)?;
    let file = folder.join("agent.toml");
    let described =
        format!("[services.datagrams]\norigin = \"udp://{origin}\"\npublic = \"{public}\"\n");
    fs::write(&file, described)?;
    let service = Service {
        origin: format!("tcp://{origin}"), // the file says otherwise
        http3: None,
        file: Some(file),
        public: Some(public),
    };
    let carrier = Carrier::Quic;
    let tunnel = Tunnel::start(folder, carrier, DEVICE, service, ends, Scarce::default()).await?;
    let entrance = Entrance::plain((ends.near.address, number).into());
    Ok(super::through(tunnel, entrance))
}
