//! An endpoint whose packets are the datagrams of flows: QUIC that visitors speak with the agent itself, within its tunnel.
//!
//! ```text
//!   in    the tunnel ─► a flow's entrance ─► what has come ─► the endpoint's driver ─► its connections
//!   out   a connection ─► the flow whose address it is at ─► the tunnel
//! ```
//!
//! Each flow has an address of its own, by which the library knows it: one who comes back by another flow has moved, in the library's
//! eyes, whatever its real address is.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::{
    ConnectionError, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, RandomConnectionIdGenerator,
    ServerConfig, Transmit, TransportConfig, VarInt,
};
use quinn_udp::RecvMeta;
use rustc_hash::FxBuildHasher;
use wire::frame::Open;

use super::connection::Connection;
use super::controller;
use super::endpoint::{Endpoint, Incoming};
use super::flow::{Batch, Flow, Loss, Losses, Outlet, TunnelSocket};
use super::socket::{Landing, Socket};
use crate::tls::{self, CertificateSlot};

/// What may have come and not been read, of all flows of a tunnel, in octets: some turns of their driver.
const COME: usize = 1024 * 1024;

/// How many packets go to a flow at once.
const BATCH: usize = 32;

/// What a visitor may send before the origin has taken it: of one request, and of all. As over HTTP/2.
const REQUEST_WINDOW: u32 = 1024 * 1024;
const VISITOR_WINDOW: u32 = 4 * 1024 * 1024;

/// What is kept of all answers until the visitor has acknowledged it: 80 Mbit/s over 100 ms.
const ANSWERS: u64 = 1024 * 1024;

/// Requests of one visitor at a time (RFC 9114 section 6.1 wants no fewer), and what else it may open at a time: the three streams of
/// the protocol, and some that mean nothing.
const REQUESTS: u32 = 100;
const UNIDIRECTIONAL: u32 = 8;

/// Of whom nothing has come for so long, has gone. The relay gives up its flow after a minute too.
const IDLE: Duration = Duration::from_secs(60);

/// Who has sent a first packet and was not looked at yet, and what else has come of all of those, in octets.
const MAX_INCOMING: usize = 256;
const INCOMING_BUFFER: u64 = 16 * 1024;
const INCOMING_BUFFER_TOTAL: u64 = 1024 * 1024;

/// RFC 9114 section 8.1, `H3_NO_ERROR`.
const NO_ERROR: u32 = 0x100;

/// The length of the endpoint's connection ids.
const ID: usize = 16;

/// Where an endpoint's packets come from and go to.
pub(super) enum Port {
    Udp(Socket),
    Flows(Arc<FlowPort>),
}

impl Port {
    /// How many packets it takes at once.
    pub(super) fn batch(&self) -> usize {
        match self {
            Self::Udp(socket) => socket.batch(),
            Self::Flows(_) => BATCH,
        }
    }

    pub(super) fn may_fragment(&self) -> bool {
        match self {
            Self::Udp(socket) => socket.may_fragment(),
            Self::Flows(_) => false,
        }
    }

    pub(super) fn poll_send(
        &self,
        cx: &mut Context<'_>,
        transmit: &Transmit,
        octets: &[u8],
    ) -> Poll<()> {
        match self {
            Self::Udp(socket) => socket.poll_send(cx, transmit, octets),
            Self::Flows(flows) => {
                flows.send(transmit, octets);
                Poll::Ready(())
            }
        }
    }

    pub(super) fn send(&self, transmit: &Transmit, octets: &[u8]) {
        match self {
            Self::Udp(socket) => socket.send(transmit, octets),
            Self::Flows(flows) => flows.send(transmit, octets),
        }
    }

    pub(super) fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        landing: &mut Landing,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Udp(socket) => socket.poll_recv(cx, landing),
            Self::Flows(flows) => flows.poll_recv(cx, landing).map(Ok),
        }
    }

    /// Another descriptor of its socket.
    pub(super) fn duplicate(&self) -> io::Result<UdpSocket> {
        match self {
            Self::Udp(socket) => socket.duplicate(),
            Self::Flows(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Another process reads it.
    pub(super) fn only_write(&mut self) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.only_write(),
            Self::Flows(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    #[cfg(test)]
    pub(super) fn sees_packets(&self) -> bool {
        match self {
            Self::Udp(socket) => socket.sees_packets(),
            Self::Flows(_) => false,
        }
    }
}

/// The flows of one tunnel that lead to an endpoint.
pub(super) struct FlowPort {
    come: Mutex<Come>,
    by_address: Mutex<HashMap<SocketAddr, Visitor, FxBuildHasher>>,
    next: AtomicU64,
    losses: Arc<dyn Losses>,
}

#[derive(Default)]
struct Come {
    /// The oldest first.
    messages: VecDeque<Message>,
    octets: usize,
    driver: Option<Waker>,
}

struct Message {
    from: SocketAddr,
    octets: Box<[u8]>,
    /// Of each datagram in it.
    size: usize,
}

struct Visitor {
    open: Arc<Open>,
    /// Its way back, as soon as there is one.
    flow: Option<Flow>,
}

impl FlowPort {
    fn come(&self) -> MutexGuard<'_, Come> {
        self.come.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn by_address(&self) -> MutexGuard<'_, HashMap<SocketAddr, Visitor, FxBuildHasher>> {
        self.by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, from: SocketAddr, batch: Batch<'_>) {
        let mut come = self.come();
        if come.octets + batch.octets.len() > COME {
            drop(come);
            return self.losses.lost(Loss::QueueFull, batch.count());
        }
        come.octets += batch.octets.len();
        come.messages.push_back(Message {
            from,
            octets: batch.octets.into(),
            size: batch.size,
        });
        if let Some(driver) = come.driver.take() {
            driver.wake();
        }
    }

    fn poll_recv(&self, cx: &Context<'_>, landing: &mut Landing) -> Poll<()> {
        landing.clear();
        let mut come = self.come();
        if come.messages.is_empty() {
            come.messages = VecDeque::new();
            come.driver = Some(cx.waker().clone());
            return Poll::Pending;
        }
        while let Some((room, meta)) = landing.free()
            && let Some(message) = come.messages.pop_front()
        {
            let length = message.octets.len();
            come.octets -= length;
            // What a tunnel brings at once is no longer than what a socket does.
            if let Some(room) = room.get_mut(..length) {
                room.copy_from_slice(&message.octets);
                *meta = RecvMeta {
                    addr: message.from,
                    len: length,
                    stride: message.size,
                    ..RecvMeta::default()
                };
                landing.landed();
            }
        }
        Poll::Ready(())
    }

    fn send(&self, transmit: &Transmit, octets: &[u8]) {
        let octets = octets.get(..transmit.size).unwrap_or(octets);
        let batch = match transmit.segment_size {
            Some(size) => Batch { octets, size },
            None => Batch::of_one(octets),
        };
        let flow = self
            .by_address()
            .get(&transmit.destination)
            .and_then(|to| to.flow.clone());
        match flow {
            Some(flow) => flow.send(batch),
            None => self.losses.lost(Loss::NoFlow, batch.count()),
        }
    }
}

/// The endpoint.
pub(crate) struct Nested {
    endpoint: Endpoint,
    port: Arc<FlowPort>,
}

impl Nested {
    /// Opens one with that certificate, driven by the runtime that calls. `losses` hears of datagrams that it cannot take.
    pub(crate) fn open(certificate: CertificateSlot, losses: Arc<dyn Losses>) -> io::Result<Self> {
        let crypto = tls::visitor_quic(certificate).map_err(io::Error::other)?;
        let crypto = QuicServerConfig::try_from(crypto).map_err(io::Error::other)?;
        let mut server = ServerConfig::with_crypto(Arc::new(crypto));
        server
            .transport_config(Arc::new(transport()))
            .max_incoming(MAX_INCOMING)
            .incoming_buffer_size(INCOMING_BUFFER)
            .incoming_buffer_size_total(INCOMING_BUFFER_TOTAL);
        let mut config = EndpointConfig::default();
        config
            // The relay tells protocols apart by the first octet (RFC 9443).
            .grease_quic_bit(false)
            .cid_generator(|| Box::new(RandomConnectionIdGenerator::new(ID)));
        let port = Arc::new(FlowPort {
            come: Mutex::default(),
            by_address: Mutex::default(),
            next: AtomicU64::new(0),
            losses: Arc::clone(&losses),
        });
        let flows = Port::Flows(Arc::clone(&port));
        let endpoint = Endpoint::open(flows, config, Some(server), None, losses);
        Ok(Self { endpoint, port })
    }

    /// A visitor's flow begins: what comes by it goes in here.
    pub(crate) fn enter(&self, open: Arc<Open>) -> Entrance {
        // RFC 6666: addresses that lead nowhere.
        let number = self.port.next.fetch_add(1, Relaxed);
        let ip = u128::from(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0)) | u128::from(number);
        let address = SocketAddr::from((Ipv6Addr::from(ip), 1));
        let visitor = Visitor { open, flow: None };
        self.port.by_address().insert(address, visitor);
        Entrance {
            port: Arc::clone(&self.port),
            address,
            is_used: AtomicBool::new(false),
        }
    }

    /// The next who wants to connect; `None` once nobody may any more.
    pub(crate) async fn accept(&self) -> Option<Incoming> {
        self.endpoint.accept().await
    }

    /// Ends the handshake of one.
    pub(crate) async fn establish(
        &self,
        incoming: Incoming,
    ) -> Result<Connection, ConnectionError> {
        let connection = incoming.accept(None)?;
        connection.established().await?;
        Ok(connection)
    }

    /// Ends its connections, and takes no more.
    pub(crate) fn close(&self) {
        self.endpoint.close(VarInt::from_u32(NO_ERROR), b"");
    }

    /// Whose a connection is, by the flow that it uses now.
    pub(crate) fn visitor(&self, connection: &Connection) -> Option<Arc<Open>> {
        let visitors = self.port.by_address();
        let visitor = visitors.get(&connection.remote_address())?;
        Some(Arc::clone(&visitor.open))
    }
}

/// Where one flow's datagrams go in.
pub(crate) struct Entrance {
    port: Arc<FlowPort>,
    address: SocketAddr,
    /// Something has come since it was looked at last.
    is_used: AtomicBool,
}

impl Entrance {
    /// What is said to its visitor goes by this flow.
    pub(crate) fn leads_back_by(&self, flow: Flow) {
        if let Some(visitor) = self.port.by_address().get_mut(&self.address) {
            visitor.flow = Some(flow);
        }
    }

    /// What has come outside the flow.
    pub(crate) fn put(&self, datagram: &[u8]) {
        self.is_used.store(true, Relaxed);
        self.port.take(self.address, Batch::of_one(datagram));
    }

    /// Whether anything has come since this was asked last.
    pub(crate) fn was_used(&self) -> bool {
        self.is_used.swap(false, Relaxed)
    }
}

impl Outlet for Entrance {
    fn take(&self, batch: Batch<'_>, _: TunnelSocket<'_>) {
        self.is_used.store(true, Relaxed);
        self.port.take(self.address, batch);
    }
}

/// The flow may hold what holds this: whoever opened it ends that.
impl Drop for Entrance {
    fn drop(&mut self) {
        let visitor = self.port.by_address().remove(&self.address);
        drop(visitor);
    }
}

fn transport() -> TransportConfig {
    let idle = u32::try_from(IDLE.as_millis()).unwrap_or(u32::MAX);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(REQUESTS.into())
        .max_concurrent_uni_streams(UNIDIRECTIONAL.into())
        .stream_receive_window(REQUEST_WINDOW.into())
        .receive_window(VISITOR_WINDOW.into())
        .send_window(ANSWERS)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle))))
        // What does not fit into the tunnel's packets gets lost, as on any path.
        .mtu_discovery_config(Some(MtuDiscoveryConfig::default()))
        .congestion_controller_factory(Arc::new(controller::Adaptive))
        .datagram_receive_buffer_size(None);
    transport
}
