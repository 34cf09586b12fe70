//! Agents behind a NAT that forgets them: the relay's packets go on to the worker that holds the connection.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use relay::agent::VisitorAddress;
use relay::server::Transport;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;
use wire::CloseCode;

use crate::byte_path::origin;
use crate::world::{Agent, SOON, World};

/// Enough that workers are not all met by chance from a new address: 2⁻⁸.
const AGENTS: usize = 8;

/// A NAT before one agent, whose sockets get other ports when it is told to.
pub(crate) struct Nat {
    pub(crate) inside: SocketAddr,
    pub(crate) forget: mpsc::Sender<()>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Nat {
    pub(crate) async fn before(relay: SocketAddr) -> Self {
        let inside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (forget, forgets) = mpsc::channel(1);
        Self {
            inside: inside.local_addr().unwrap(),
            forget,
            _tasks: vec![AbortOnDropHandle::new(tokio::spawn(translate(
                inside,
                relay,
                forgets,
                u64::MAX,
            )))],
        }
    }

    /// One that loses each so-many-th datagram, and lets TCP through.
    pub(crate) async fn losing(each: u64, relay: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let inside = UdpSocket::bind(address).await.unwrap();
        let (forget, forgets) = mpsc::channel(1);
        let over_udp = tokio::spawn(translate(inside, relay, forgets, each));
        let over_tcp = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut agent, _) = listener.accept().await.unwrap();
                connections.spawn(async move {
                    let mut relay = TcpStream::connect(relay).await.unwrap();
                    copy_bidirectional(&mut agent, &mut relay).await
                });
            }
        });
        Self {
            inside: address,
            forget,
            _tasks: [over_udp, over_tcp].map(AbortOnDropHandle::new).into(),
        }
    }
}

/// Loses each so-many-th datagram, whichever way it goes.
struct Losses {
    each: u64,
    seen: AtomicU64,
}

impl Losses {
    fn next(&self) -> bool {
        (self.seen.fetch_add(1, Relaxed) + 1).is_multiple_of(self.each)
    }
}

async fn translate(
    inside: UdpSocket,
    relay: SocketAddr,
    mut forgets: mpsc::Receiver<()>,
    lose_each: u64,
) {
    let inside = Arc::new(inside);
    let losses = Arc::new(Losses {
        each: lose_each,
        seen: AtomicU64::new(0),
    });
    let mut mappings = HashMap::new();
    let mut there = vec![0; 65_536];
    loop {
        let (length, from) = tokio::select! {
            received = inside.recv_from(&mut there) => received.unwrap(),
            _ = forgets.recv() => {
                mappings.clear();
                continue;
            }
        };
        let mapping = match mappings.entry(from) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                new.insert(Mapping::new(relay, Arc::clone(&inside), from, &losses).await)
            }
        };
        if !losses.next() {
            mapping.outside.send(&there[..length]).await.unwrap();
        }
    }
}

/// The port that one socket inside has outside.
struct Mapping {
    outside: Arc<UdpSocket>,
    _back: AbortOnDropHandle<()>,
}

impl Mapping {
    async fn new(
        relay: SocketAddr,
        inside: Arc<UdpSocket>,
        agent: SocketAddr,
        losses: &Arc<Losses>,
    ) -> Self {
        let outside = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        outside.connect(relay).await.unwrap();
        let (from, losses) = (Arc::clone(&outside), Arc::clone(losses));
        let back = tokio::spawn(async move {
            let mut back = vec![0; 65_536];
            loop {
                // What ICMP says of a relay that has gone is no reason to stop.
                let Ok(length) = from.recv(&mut back).await else {
                    continue;
                };
                if !losses.next() {
                    inside.send_to(&back[..length], agent).await.unwrap();
                }
            }
        });
        Self {
            outside,
            _back: AbortOnDropHandle::new(back),
        }
    }
}

/// A device behind a NAT of its own, and both ends of what a visitor has opened there.
struct Behind {
    nat: Nat,
    _agent: Agent,
    visitor: TlsStream<TcpStream>,
    stream: TcpStream,
}

impl Behind {
    async fn of(world: &World, name: &str) -> Self {
        let (listener, address) = origin("tcp").await;
        let nat = Nat::before(world.front).await;
        let agent = world
            .agent_by_way_of(nat.inside, name, &address, VisitorAddress::Hidden)
            .await;
        let visitor = world.visit(&format!("{name}.nas.localhost")).await;
        let (stream, _) = listener.accept().await.unwrap();
        Self {
            nat,
            _agent: agent,
            visitor,
            stream,
        }
    }
}

#[tokio::test]
async fn tunnels_and_their_visitors_survive_another_address() {
    let world = World::start(Transport::Quic);
    let mut behind = Vec::new();
    for number in 0..AGENTS {
        behind.push(Behind::of(&world, &format!("nas{number}")).await);
    }
    for round in 0..3_u8 {
        for Behind {
            nat,
            visitor,
            stream,
            ..
        } in &mut behind
        {
            nat.forget.send(()).await.unwrap();
            let mut octet = [0];
            // The agent speaks first: the relay cannot know where it is now.
            stream.write_all(&[round]).await.unwrap();
            let heard = timeout(SOON, visitor.read_exact(&mut octet));
            heard.await.unwrap().unwrap();
            assert_eq!(octet, [round]);
            visitor.write_all(&[round]).await.unwrap();
            let heard = timeout(SOON, stream.read_exact(&mut octet));
            heard.await.unwrap().unwrap();
            assert_eq!(octet, [round]);
        }
    }
    world
        .metric_is(
            "causeway_relay_tunnels_attached_total{transport=\"quic\"}",
            AGENTS as u64,
        )
        .await;
    let misdirected = "causeway_relay_datagrams_dropped_total{reason=\"misdirected\"}";
    assert_eq!(world.metric(misdirected), 0);
}

/// How often the agent gets another address while one transfer passes.
const ADDRESSES: usize = 100;

#[tokio::test]
async fn a_transfer_passes_over_a_hundred_addresses() {
    let world = World::without_raw();
    let Behind {
        nat,
        mut visitor,
        mut stream,
        _agent,
    } = Behind::of(&world, "mynas").await;
    // Each piece is more than what lies between the two ends, so that the address changes in the middle of one.
    let piece: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
    let sent = piece.clone();
    let sending = tokio::spawn(async move {
        for _ in 0..ADDRESSES {
            stream.write_all(&sent).await.unwrap();
        }
        stream
    });
    let mut heard = vec![0; piece.len()];
    for _ in 0..ADDRESSES {
        let (begin, end) = heard.split_at_mut(piece.len() / 2);
        timeout(SOON, visitor.read_exact(begin))
            .await
            .unwrap()
            .unwrap();
        nat.forget.send(()).await.unwrap();
        timeout(SOON, visitor.read_exact(end))
            .await
            .unwrap()
            .unwrap();
        assert!(heard == piece);
    }
    // The same tunnel, and the same stream the other way.
    let mut stream = sending.await.unwrap();
    visitor.write_all(b"x").await.unwrap();
    let mut octet = [0];
    timeout(SOON, stream.read_exact(&mut octet))
        .await
        .unwrap()
        .unwrap();
    // The agent may have chosen another beside it, which is its right on such a path.
    for code in CloseCode::ALL {
        let closed = format!(
            "causeway_relay_tunnels_closed_total{{code=\"{}\"}}",
            code.name()
        );
        assert_eq!(world.metric(&closed), 0, "{closed}");
    }
}

#[tokio::test]
async fn who_waits_for_room_is_found_at_another_address() {
    /// So long nothing more is taken: all is full.
    const FULL: Duration = Duration::from_millis(300);
    /// Between two pings of the agent, at least, there are two seconds.
    const FOUND: Duration = Duration::from_millis(1900);
    let world = World::without_raw();
    let Behind {
        nat,
        mut visitor,
        mut stream,
        _agent,
    } = Behind::of(&world, "mynas").await;
    let (mut sent, mut heard) = (0, 0);
    let (piece, mut room) = (vec![7; 16_384], vec![0; 65_536]);
    for _ in 0..8 {
        while let Ok(written) = timeout(FULL, stream.write(&piece)).await {
            sent += written.unwrap();
        }
        nat.forget.send(()).await.unwrap();
        let changed = Instant::now();
        sent += piece.len(); // behind all that is on the way
        let read = async {
            while heard < sent {
                let length = visitor.read(&mut room).await.unwrap();
                assert!(length > 0, "it was cut");
                heard += length;
            }
        };
        let passed = timeout(SOON, async { tokio::join!(stream.write_all(&piece), read) });
        let (written, ()) = passed.await.unwrap();
        written.unwrap();
        assert!(changed.elapsed() < FOUND, "{:?}", changed.elapsed());
    }
}
