//! One question to a secondary, over UDP, from a socket of its own.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::UdpSocket;

/// A socket that hears one server alone, and an id that others do not know.
pub(super) struct Ask {
    pub(super) socket: UdpSocket,
    pub(super) id: [u8; 2],
}

impl Ask {
    /// Towards a server.
    pub(super) async fn of(address: SocketAddr) -> io::Result<Self> {
        let local: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(local).await?;
        socket.connect(address).await?;
        let mut id = [0; 2];
        getrandom::fill(&mut id).map_err(io::Error::other)?;
        Ok(Self { socket, id })
    }
}
