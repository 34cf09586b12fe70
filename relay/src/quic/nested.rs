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
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::{
    ConnectionError, ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout,
    MtuDiscoveryConfig, ServerConfig, Transmit, TransportConfig, VarInt,
};
use quinn_udp::RecvMeta;
use rustc_hash::FxBuildHasher;
use tokio::sync::Notify;
use tokio::time::timeout;
use wire::frame::Open;
use wire::roaming::{self, RoamingId};

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

    /// What a connection has said just now, to look at what it [says next](Self::said) if that is of interest.
    pub(super) fn looks_for_proof(&self, connection: &quinn_proto::Connection) -> Option<Said> {
        match self {
            Self::Flows(flows) if flows.unproved.load(Relaxed) > 0 => Some(Said::by(connection)),
            Self::Udp(_) | Self::Flows(_) => None,
        }
    }

    /// It has said that to `address` since.
    pub(super) fn said(
        &self,
        address: &SocketAddr,
        before: Said,
        connection: &quinn_proto::Connection,
    ) {
        let now = Said::by(connection);
        if let Self::Flows(flows) = self
            && now.acknowledged > before.acknowledged
            && now.challenges == before.challenges
        {
            flows.is_proved(address);
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

/// How often a connection has acknowledged what it has heard, and asked whether it is heard. Nothing is acknowledged where it
/// would have to ask and does not: only that tells that it knows, and not what comes back, which anybody can say who has the keys.
#[derive(Clone, Copy)]
pub(super) struct Said {
    acknowledged: u64,
    challenges: u64,
}

impl Said {
    fn by(connection: &quinn_proto::Connection) -> Self {
        let sent = connection.stats().frame_tx;
        Self {
            acknowledged: sent.acks,
            challenges: sent.path_challenge,
        }
    }
}

/// The flows of one tunnel that lead to an endpoint.
pub(super) struct FlowPort {
    come: Mutex<Come>,
    by_address: Mutex<HashMap<SocketAddr, Visitor, FxBuildHasher>>,
    next: AtomicU64,
    /// So many are not known to hear.
    unproved: AtomicUsize,
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
    /// Hears that it is known to hear, if that is not known yet.
    proof: Option<Arc<Notify>>,
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

    /// A connection has said something there without asking whether it is heard, as it does in each packet until it knows (RFC 9000
    /// section 8.2).
    fn is_proved(&self, address: &SocketAddr) {
        let mut visitors = self.by_address();
        let proof = visitors
            .get_mut(address)
            .and_then(|visitor| visitor.proof.take());
        if let Some(proof) = proof {
            self.unproved.fetch_sub(1, Relaxed);
            proof.notify_one();
        }
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

/// So few ids are left that more are asked for, and so many are kept at most: a visitor takes eight or so at once.
const FEW_IDS: usize = 128;
const MOST_IDS: usize = 512;

/// How long the first visitors wait for them.
const IDS_TIME: Duration = Duration::from_secs(1);

/// The connection ids that the relay has given ([`wire::roaming`]). Clones are the same. Where there are none, an endpoint makes up its
/// own: all is well with them as long as their visitor stays where it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct IdStock(Arc<Stock>);

#[derive(Debug, Default)]
struct Stock {
    kept: Mutex<KeptIds>,
    run_low: Notify,
    come: Notify,
}

#[derive(Debug, Default)]
struct KeptIds {
    ids: Vec<RoamingId>,
    /// For more, which have not come.
    asked: bool,
    /// None came in time, as none do from an older relay: nobody waits for them any more.
    given_up: bool,
}

impl KeptIds {
    fn is_not_waited_for(&self) -> bool {
        self.given_up || !self.ids.is_empty()
    }
}

impl IdStock {
    fn lock(&self) -> MutexGuard<'_, KeptIds> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when the relay is to be asked for more.
    pub(crate) async fn wants_more(&self) {
        loop {
            self.0.run_low.notified().await;
            let mut kept = self.lock();
            if kept.ids.len() < FEW_IDS && !std::mem::replace(&mut kept.asked, true) {
                return;
            }
        }
    }

    /// Ends when there are some, or is not waited for any longer.
    pub(crate) async fn are_there(&self) {
        self.look();
        let come = async {
            loop {
                let come = self.0.come.notified();
                if self.lock().is_not_waited_for() {
                    return;
                }
                come.await;
            }
        };
        if timeout(IDS_TIME, come).await.is_err() {
            self.lock().given_up = true;
        }
    }

    /// These have come.
    pub(crate) fn add(&self, ids: &[RoamingId]) {
        let mut kept = self.lock();
        let room = MOST_IDS.saturating_sub(kept.ids.len());
        kept.ids.extend(ids.iter().take(room));
        kept.asked = ids.is_empty();
        drop(kept);
        self.0.come.notify_waiters();
        self.look();
    }

    /// Has more asked for if there are few.
    pub(crate) fn look(&self) {
        if self.lock().ids.len() < FEW_IDS {
            self.0.run_low.notify_one();
        }
    }
}

impl ConnectionIdGenerator for IdStock {
    fn generate_cid(&mut self) -> ConnectionId {
        let id = self.lock().ids.pop();
        self.look();
        ConnectionId::new(&id.unwrap_or_else(rand::random))
    }

    fn cid_len(&self) -> usize {
        roaming::LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The endpoint.
pub(crate) struct Nested {
    endpoint: Endpoint,
    port: Arc<FlowPort>,
}

impl Nested {
    /// Opens one with that certificate, driven by the runtime that calls. `losses` hears of datagrams that it cannot take.
    /// Its connections have `ids`.
    pub(crate) fn open(
        certificate: CertificateSlot,
        ids: IdStock,
        losses: Arc<dyn Losses>,
    ) -> io::Result<Self> {
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
            .cid_generator(move || Box::new(ids.clone()));
        let port = Arc::new(FlowPort {
            come: Mutex::default(),
            by_address: Mutex::default(),
            next: AtomicU64::new(0),
            unproved: AtomicUsize::new(0),
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
        let proof = Arc::<Notify>::default();
        // At a handshake the relay sees that for itself.
        let comes_back = open.name.is_empty();
        if comes_back {
            self.port.unproved.fetch_add(1, Relaxed);
        }
        let visitor = Visitor {
            open,
            proof: comes_back.then(|| Arc::clone(&proof)),
            flow: None,
        };
        self.port.by_address().insert(address, visitor);
        Entrance {
            port: Arc::clone(&self.port),
            address,
            proof,
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

    /// Waits until every connection has ended, and its visitor has heard so or never will.
    pub(crate) async fn wait_idle(&self) {
        self.endpoint.wait_idle().await;
    }

    /// Whose a connection is, by the flow that it uses now.
    pub(crate) fn visitor(&self, connection: &Connection) -> Option<Arc<Open>> {
        let visitors = self.port.by_address();
        let visitor = visitors.get(&connection.remote_address())?;
        Some(Arc::clone(&visitor.open))
    }

    /// The same, if it is known to hear what is said to it there: before that it is not known whether it has moved, or somebody else sends
    /// what it has said.
    pub(crate) fn proved_visitor(&self, connection: &Connection) -> Option<Arc<Open>> {
        let visitors = self.port.by_address();
        let visitor = visitors.get(&connection.remote_address())?;
        visitor.proof.is_none().then(|| Arc::clone(&visitor.open))
    }
}

/// Where one flow's datagrams go in.
pub(crate) struct Entrance {
    port: Arc<FlowPort>,
    address: SocketAddr,
    proof: Arc<Notify>,
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

    /// Ends when a visitor who has come back is known to hear what is said to it here.
    pub(crate) async fn is_proved(&self) {
        self.proof.notified().await;
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
        if visitor.is_some_and(|visitor| visitor.proof.is_some()) {
            self.port.unproved.fetch_sub(1, Relaxed);
        }
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
