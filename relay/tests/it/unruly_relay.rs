//! Relays that end or drain each tunnel as soon as it stands, as often as they can: what that makes an agent do has bounds.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, ConnectionError, Endpoint};
use relay::agent::{Tunnels, VisitorAddress};
use relay::resolve::Resolver;
use relay::server::Transport;
use tokio::io::join;
use tokio::time::{Instant, timeout};
use wire::frame::Frame;
use wire::hello::VERSION;
use wire::{ALPN_TUNNEL, CloseCode, Features};

use crate::by_hand::hear;
use crate::world::{Agent, SOON, World};

/// Older tunnels that an agent keeps beside the newest.
const OLDER: usize = 32;

/// So many tunnels in a row that did not stand for long are followed soon.
const QUICK: usize = 8;

/// Stands where a relay should, spoken by hand.
struct Unruly {
    endpoint: Endpoint,
    _agent: Agent,
    _world: World,
}

struct Tunnel {
    connection: Connection,
    /// Both directions of the control stream, which must not end.
    _control: tokio::io::Join<quinn::RecvStream, quinn::SendStream>,
}

impl Unruly {
    /// Has taken the first tunnel of an agent that knows no other relay, and sent `second` after the welcome.
    async fn start(second: &Frame) -> (Self, Tunnel) {
        let world = World::start(Transport::Quic);
        let mut tls = world.service("relay.nas.localhost");
        tls.alpn_protocols = vec![ALPN_TUNNEL.to_vec()];
        let crypto = QuicServerConfig::try_from(tls).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let resolver = Resolver::Fixed(endpoint.local_addr().unwrap());
        let state = world.device("mynas");
        let (hidden, origin) = (VisitorAddress::Hidden, "tcp://127.0.0.1:9");
        let agent = world.agent_keeping(Tunnels::One, state, resolver, origin, hidden);
        let (agent, first) = tokio::join!(agent, take(&endpoint, second));
        let unruly = Self {
            endpoint,
            _agent: agent,
            _world: world,
        };
        (unruly, first)
    }

    async fn take(&self, second: &Frame) -> Tunnel {
        take(&self.endpoint, second).await
    }
}

async fn take(endpoint: &Endpoint, second: &Frame) -> Tunnel {
    let taken = async {
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        let (send, receive) = connection.accept_bi().await.unwrap();
        let mut control = join(receive, send);
        assert!(matches!(hear(&mut control).await, Frame::Hello(_)));
        let welcome = Frame::Welcome {
            version: VERSION,
            features: Features::default(),
            seen_as: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
        };
        for frame in [&welcome, second] {
            let octets = frame.encode().unwrap();
            control.writer_mut().write_all(&octets).await.unwrap();
        }
        Tunnel {
            connection,
            _control: control,
        }
    };
    timeout(SOON, taken).await.expect("no tunnel in time")
}

#[tokio::test]
async fn of_the_tunnels_that_a_relay_drains_and_never_ends_the_oldest_is_closed() {
    let drain = Frame::Drain {
        reconnect_after: Duration::ZERO,
    };
    let (unruly, first) = Unruly::start(&drain).await;
    let mut tunnels = vec![first];
    while tunnels.len() <= OLDER {
        tunnels.push(unruly.take(&drain).await);
    }
    let is_open = |tunnel: &Tunnel| tunnel.connection.close_reason().is_none();
    assert!(tunnels.iter().all(is_open));
    tunnels.push(unruly.take(&drain).await);
    let closed = timeout(SOON, tunnels[0].connection.closed()).await;
    let closed = closed.expect("the oldest is kept");
    let done = u64::from(CloseCode::Done.number());
    assert!(
        matches!(&closed, ConnectionError::ApplicationClosed(close) if close.error_code.into_inner() == done),
        "{closed}"
    );
    assert!(tunnels[1..].iter().all(is_open));
}

#[tokio::test]
async fn a_relay_that_closes_each_tunnel_at_once_is_dialled_ever_more_seldom() {
    let close = Frame::Close {
        code: Ok(CloseCode::Draining),
    };
    let (unruly, first) = Unruly::start(&close).await;
    let mut tunnels = vec![first];
    // The agent itself may have had another in place of the first, which is no redial.
    while tunnels.len() <= QUICK + 1 {
        tunnels.push(unruly.take(&close).await);
    }
    // A quarter of a second at least, then half of one, then one.
    let waits = Duration::from_millis(250 + 500 + 1000);
    let since = Instant::now();
    for _ in 0..3 {
        tunnels.push(unruly.take(&close).await);
    }
    assert!(since.elapsed() >= waits, "{:?}", since.elapsed());
}
