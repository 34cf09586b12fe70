//! A NAT before one agent, on loopback, whose UDP sockets get other ports outside when it is told to. TCP passes as it is.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// The largest datagram, in octets.
const LARGEST: usize = 1 << 16;

/// The NAT. It is gone when this is dropped.
#[derive(Debug)]
pub(super) struct Nat {
    /// Where the agent finds the relay.
    pub(super) inside: SocketAddr,
    forget: mpsc::Sender<()>,
    _tasks: [AbortOnDropHandle<io::Result<()>>; 2],
}

impl Nat {
    pub(super) async fn before(relay: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let inside = listener.local_addr()?;
        let socket = UdpSocket::bind(inside).await?;
        let (forget, forgets) = mpsc::channel(1);
        let tasks = [
            tokio::spawn(translate(Arc::new(socket), relay, forgets)),
            tokio::spawn(pass(listener, relay)),
        ];
        Ok(Self {
            inside,
            forget,
            _tasks: tasks.map(AbortOnDropHandle::new),
        })
    }

    /// Whoever is inside has another port from now on.
    pub(super) async fn forget(&self) {
        let _ = self.forget.send(()).await; // a NAT that has failed shows in what passes
    }
}

async fn translate(
    inside: Arc<UdpSocket>,
    relay: SocketAddr,
    mut forgets: mpsc::Receiver<()>,
) -> io::Result<()> {
    let mut mappings = HashMap::new();
    let mut there = vec![0; LARGEST];
    loop {
        let (length, from) = tokio::select! {
            Some(()) = forgets.recv() => {
                mappings.clear();
                continue;
            }
            received = inside.recv_from(&mut there) => received?,
        };
        let mapping = match mappings.entry(from) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Mapping::new(relay, Arc::clone(&inside), from).await?),
        };
        let _ = mapping.outside.send(&there[..length]).await; // lost, as any may be
    }
}

/// The port that one socket inside has outside.
struct Mapping {
    outside: Arc<UdpSocket>,
    _back: AbortOnDropHandle<()>,
}

impl Mapping {
    async fn new(relay: SocketAddr, inside: Arc<UdpSocket>, agent: SocketAddr) -> io::Result<Self> {
        let outside = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?);
        outside.connect(relay).await?;
        let from = Arc::clone(&outside);
        let back = tokio::spawn(async move {
            let mut back = vec![0; LARGEST];
            loop {
                // What ICMP says of a relay that has gone is no reason to stop.
                if let Ok(length) = from.recv(&mut back).await {
                    let _ = inside.send_to(&back[..length], agent).await;
                }
            }
        });
        Ok(Self {
            outside,
            _back: AbortOnDropHandle::new(back),
        })
    }
}

async fn pass(listener: TcpListener, relay: SocketAddr) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (mut agent, _) = listener.accept().await?;
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            let mut relay = TcpStream::connect(relay).await?;
            copy_bidirectional(&mut agent, &mut relay).await
        });
    }
}
