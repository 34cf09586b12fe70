//! Tunnels over QUIC: what each end is set to. The protocol is a library's, which knows no sockets and no tasks; below stands
//! what moves its packets. Only these files name it.
//!
//! ```text
//!   quic/endpoint.rs     a UDP socket, and the driver of the connections over it
//!   quic/connection.rs   a connection, as its users have it
//!   quic/stream.rs       a stream's two directions
//!   quic/socket.rs       many packets at once, in and out
//!   quic/flow.rs         visitors' datagrams in a tunnel
//!   quic/plain.rs        a UDP socket that they come from and go to
//!   quic/nested.rs       an endpoint that they come from and go to
//!   quic/http3.rs        its connections, as HTTP/3 has them
//!   quic/demux.rs        whose a datagram is
//!   quic/hellos.rs       whom a visitor who comes over QUIC asks for
//!   quic/channel.rs      packets on their way to the process before this one
//!   quic/controller.rs   how much may be under way
//! ```
//!
//! Every number below is a choice against the library's default; `TransportConfig` documents what each default is.

mod canary;
mod channel;
mod connection;
mod controller;
mod demux;
mod driver;
mod endpoint;
mod flow;
mod hellos;
mod http3;
mod nested;
mod plain;
mod socket;
pub(crate) mod socket_buffers;
mod stream;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::{hkdf, hmac};
use directory::PublicKey;
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    ClientConfig, ConnectionError, ConnectionIdGenerator as _, EndpointConfig, IdleTimeout,
    MtuDiscoveryConfig, RandomConnectionIdGenerator, ServerConfig, TransportConfig,
    TransportErrorCode, VarInt,
};
use serde::Deserialize;
use wire::CloseCode;
use wire::connection_id::{Asked, ConnectionIdKey, Generation, Owner};
use wire::flow::{LEAST_ROOM, MAX_NUMBER};
use wire::roaming::RoamingKey;
use zeroize::Zeroizing;

use crate::carrier::raw::SealKey;
use crate::tls::{self, AgentCertificate, CertificateSlot, Roots};
use controller::AdaptiveController;
use nested::Port;
use socket::Socket;

pub(crate) use canary::send_batch;
pub(crate) use channel::{Earlier, channel};
pub(crate) use connection::Connection;
pub(crate) use demux::{Arrival, DatagramCounts, Newcomers, Sender, Visitors};
pub(crate) use endpoint::{Endpoint, Incoming};
pub(crate) use flow::{Batch, Flow, Loss, Losses, Opened, Outlet, TunnelSocket};
pub(crate) use http3::{Http3, Stopped};
pub(crate) use nested::{Entrance, IdStock, Nested};
pub(crate) use plain::{PlainSocket, PortSocket};
pub(crate) use stream::{RecvStream, SendStream};

/// How much a tunnel's streams may have in flight. The library fixes it when a tunnel begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Bulk is to leave for a raw connection after 128 KiB, and what is queued here by then delays it.
    Small,
    /// Bulk stays.
    Large,
}

impl Room {
    /// What one visitor's stream may have in flight, in octets. The larger is 32 ms of 1 Gbit/s; between two processes here it
    /// carries 1.4 times what the smaller does.
    fn of_stream(self) -> u32 {
        match self {
            Self::Small => 256 * 1024,
            Self::Large => 4 * 1024 * 1024,
        }
    }

    /// What one tunnel may have received and not handed on, in octets: so much that a visitor who reads slowly does not stall
    /// the next one. As many such visitors as a device may have, or 64 slow downloads.
    fn of_tunnel(self) -> u32 {
        match self {
            Self::Small => 1 << 30,
            Self::Large => 1 << 28,
        }
    }
}

/// What is fixed when a tunnel begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Profile {
    pub(crate) room: Room,
    /// Whether packets are handed to the kernel in batches (GSO).
    pub(crate) batches: bool,
}

impl Profile {
    fn asked(self) -> Asked {
        Asked {
            room: self.room == Room::Large,
            one_by_one: !self.batches,
        }
    }

    fn of(asked: Asked) -> Self {
        Self {
            room: if asked.room { Room::Large } else { Room::Small },
            batches: !asked.one_by_one,
        }
    }
}

/// Whether packets go to the kernel in batches (GSO).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gso {
    /// Unless they come out damaged, or get lost.
    #[default]
    Auto,
    /// Whatever becomes of them.
    On,
    /// Never.
    Off,
}

impl Gso {
    /// Whether there are to be batches, as far as can be told before any is sent to somebody.
    pub(crate) fn begins_with_batches(self) -> bool {
        match self {
            Self::Auto => canary::batches_are_whole(),
            Self::On => true,
            Self::Off => false,
        }
    }
}

/// What one tunnel may have sent and not heard of, in octets: 100 ms at 1 Gbit/s.
const SEND_WINDOW: u64 = 16 * 1024 * 1024;

/// How many visitors' streams an agent lets the relay open at once. Each permitted stream costs the agent some sixty
/// octets from the start.
const AGENT_STREAMS: u32 = 4096;

/// The control stream, and one to spare. Each permitted stream costs the relay memory in every tunnel.
const RELAY_STREAMS: u32 = 2;

/// After this long without a packet a tunnel is gone. The agent pings far more often.
const IDLE_TIMEOUT_MS: u32 = 45_000;

/// Before anything was measured. A lost first packet is sent again after three times this long.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// What is probed for at most: what an Ethernet packet has room for behind the headers of IPv4 and UDP. Behind those of IPv6 it
/// is twenty octets less, which the probes find.
const LARGEST_DATAGRAM: u16 = 1472;

/// When a path seems to carry no long packets any more, so long later they are tried again. Often it was a flood at one end that they
/// were lost in, and until then no visitor's QUIC connection fits into the tunnel.
const LONG_PACKETS_AGAIN: Duration = Duration::from_secs(5);

/// First packets that nobody has looked at yet, at most.
const MAX_INCOMING: usize = 4096;

/// Octets of early packets kept for one handshake, and for all.
const INCOMING_BUFFER: u64 = 64 * 1024;
const INCOMING_BUFFER_TOTAL: u64 = 16 * 1024 * 1024;

/// Socket buffers of an agent, in octets.
pub(crate) const AGENT_BUFFER: usize = 2 * 1024 * 1024;

/// Between two stateless resets of one worker, at least. They tell agents that their tunnels are gone with the process before, all of
/// them within seconds, and go only to who has a connection id that this relay has made.
const RESET_INTERVAL: Duration = Duration::from_micros(250);

/// What connection ids, stateless resets and address tokens of a relay are computed from. It outlives the process: an agent
/// whose relay has started anew is told so by the first packet it sends (RFC 9000 section 10.3), and need not wait for an
/// answer that does not come.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; Self::LENGTH]>);

impl Secret {
    /// In octets.
    pub const LENGTH: usize = 32;

    /// The secret that was kept.
    pub fn new(octets: Zeroizing<[u8; Self::LENGTH]>) -> Self {
        Self(octets)
    }

    /// What a relay's own ids are made with.
    pub(crate) fn connection_ids(&self) -> ConnectionIdKey {
        ConnectionIdKey::new(halves(&self.derive("connection ids"))[0])
    }

    /// What those are made with by which visitors come back from elsewhere.
    pub(crate) fn roaming(&self) -> RoamingKey {
        let [mask, tags] = halves(&self.derive("roaming ids"));
        RoamingKey::new(&mask, &tags)
    }

    /// A key for one purpose.
    fn derive(&self, purpose: &str) -> Zeroizing<[u8; Self::LENGTH]> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &*self.0);
        let mut derived = Zeroizing::new([0; Self::LENGTH]);
        derived.copy_from_slice(hmac::sign(&key, purpose.as_bytes()).as_ref());
        derived
    }
}

fn halves(key: &[u8; Secret::LENGTH]) -> [[u8; 16]; 2] {
    let (halves, _) = key.as_chunks();
    [halves[0], halves[1]]
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What the endpoints of one relay have in common.
pub(crate) struct RelaySide {
    server: ServerConfig,
    /// Whether agents may have batches.
    batches: bool,
    ids: ConnectionIdKey,
    resets: Arc<hmac::Key>,
    counts: DatagramCounts,
    losses: Arc<dyn Losses>,
}

impl RelaySide {
    /// Whether datagrams are handed to the kernel in batches.
    pub(crate) fn batches(&self) -> bool {
        self.batches
    }

    /// `counts` hears of datagrams that are not for this process, `losses` of those in its tunnels.
    pub(crate) fn new(
        certificate: CertificateSlot,
        secret: &Secret,
        gso: Gso,
        counts: DatagramCounts,
        losses: Arc<dyn Losses>,
    ) -> io::Result<Self> {
        let crypto = tls::relay_quic(certificate).map_err(io::Error::other)?;
        let crypto = QuicServerConfig::try_from(crypto).map_err(io::Error::other)?;
        let tokens = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]);
        let tokens = tokens.extract(&*secret.derive("address tokens"));
        let mut server = ServerConfig::new(Arc::new(crypto), Arc::new(tokens));
        server
            .transport_config(Arc::new(transport(
                RELAY_STREAMS,
                Profile::of(Asked::default()),
            )))
            .max_incoming(MAX_INCOMING)
            .incoming_buffer_size(INCOMING_BUFFER)
            .incoming_buffer_size_total(INCOMING_BUFFER_TOTAL);
        let batches = gso.begins_with_batches();
        if !batches && gso == Gso::Auto {
            tracing::warn!("this kernel damages batches of packets (GSO): each is sent by itself");
        }
        let resets = secret.derive("stateless resets");
        Ok(Self {
            server,
            batches,
            ids: secret.connection_ids(),
            resets: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &*resets)),
            counts,
            losses,
        })
    }

    /// Begins a handshake, as the agent asks for it by the length of the id it made up.
    pub(crate) async fn accept(&self, incoming: Incoming) -> Result<Connection, ConnectionError> {
        let asked = Asked::by(incoming.first_id.len());
        let profile = Profile {
            batches: self.batches && !asked.one_by_one,
            ..Profile::of(asked)
        };
        let config = (profile != Profile::of(Asked::default())).then(|| {
            let mut server = self.server.clone();
            server.transport_config(Arc::new(transport(RELAY_STREAMS, profile)));
            Arc::new(server)
        });
        let connection = incoming.accept(config)?;
        connection.established().await?;
        Ok(connection)
    }

    /// Opens the endpoint of one worker on its own UDP socket, behind a demultiplexer. Of several, `worker` says which: the
    /// kernel hands each the packets whose connection ids it has made. Packets of connections that processes of an
    /// `earlier` generation hold are handed on to them. The `visitors` take whoever asks for another name than the relay's own.
    pub(crate) fn endpoint(
        &self,
        socket: std::net::UdpSocket,
        worker: usize,
        generation: Generation,
        earlier: Vec<Earlier>,
        visitors: Option<Arc<dyn Visitors>>,
    ) -> io::Result<Endpoint> {
        let worker = u8::try_from(worker).map_err(io::Error::other)?;
        let owner = Owner { worker, generation };
        let mut endpoint = EndpointConfig::default();
        let key = self.ids.clone();
        endpoint
            .reset_key(self.resets.clone())
            .min_reset_interval(RESET_INTERVAL)
            // The demultiplexer tells protocols apart by the first octet, so ours must keep the fixed bit (RFC 9287).
            .grease_quic_bit(false)
            .cid_generator(move || Box::new(demux::ConnectionIds::new(key.clone(), owner)));
        let demultiplexer = demux::Demultiplexer::new(
            self.ids.clone(),
            owner,
            earlier,
            visitors,
            self.counts.clone(),
        );
        Ok(Endpoint::open(
            Port::Udp(Socket::new(socket, self.batches)?),
            endpoint,
            Some(self.server.clone()),
            Some(demultiplexer),
            Arc::clone(&self.losses),
        ))
    }
}

/// Connections that are being made, and whether their other ends have said anything at all. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attempts(Arc<Mutex<Vec<Connection>>>);

impl Attempts {
    fn add(&self, connection: &Connection) {
        let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.push(connection.clone());
    }

    /// Whether anything has come back, be it a Retry: then UDP is open.
    pub(crate) fn are_answered(&self) -> bool {
        let attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.iter().any(|connection| heard(connection) > 0)
    }
}

/// Whether a connection was not made because the other end would not have it just now (RFC 9000 section 20.1,
/// `CONNECTION_REFUSED`).
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(ConnectionError::ConnectionClosed(close))
        if close.error_code == TransportErrorCode::CONNECTION_REFUSED)
}

/// A connection of such a profile to the relay `host` at `remote`, and the endpoint that it is on alone. Nothing has been said.
/// It is among the `attempts` from its first packet on. `losses` hears of datagrams that get lost at this end.
///
/// # Errors
/// If there is no socket for it, or the relay does not answer, or is not the one that `roots` vouch for.
pub(crate) async fn dial(
    remote: SocketAddr,
    host: &str,
    roots: &Roots,
    identity: &AgentCertificate,
    profile: Profile,
    attempts: &Attempts,
    losses: Arc<dyn Losses>,
) -> io::Result<(Endpoint, Connection)> {
    let any: SocketAddr = if remote.is_ipv4() {
        ([0; 4], 0).into()
    } else {
        ([0; 16], 0).into()
    };
    let crypto = tls::tunnel_client(roots, identity).map_err(io::Error::other)?;
    let crypto = QuicClientConfig::try_from(crypto).map_err(io::Error::other)?;
    let mut client = ClientConfig::new(Arc::new(crypto));
    let first_id = profile.asked().length();
    client
        .transport_config(Arc::new(transport(AGENT_STREAMS, profile)))
        .initial_dst_cid_provider(Arc::new(move || {
            RandomConnectionIdGenerator::new(first_id).generate_cid()
        }));
    let mut config = EndpointConfig::default();
    // What comes to this socket is the one connection's. The relay then keeps fewer ids for it.
    config.cid_generator(|| Box::new(RandomConnectionIdGenerator::new(0)));
    let socket = std::net::UdpSocket::bind(any)?;
    socket_buffers::ask(&socket, AGENT_BUFFER)?;
    let socket = Socket::new(socket, profile.batches)?;
    let endpoint = Endpoint::open(Port::Udp(socket), config, None, None, losses);
    let connection = endpoint.connect(client, remote, host);
    let connection = connection.map_err(io::Error::other)?;
    attempts.add(&connection);
    connection.established().await?;
    Ok((endpoint, connection))
}

/// The Ed25519 key that the agent at the other end has proved.
pub(crate) fn agent_key(connection: &Connection) -> Option<PublicKey> {
    tls::key_of_chain(&*connection.peer_identity()?)
}

/// The key for the seals of raw connections, which both ends of a tunnel draw from its session.
pub(crate) fn seal_key(connection: &Connection) -> Option<SealKey> {
    let mut exported = Zeroizing::new([0; SealKey::LENGTH]);
    connection
        .export_keying_material(&mut *exported, wire::raw::EXPORTER_LABEL, &[])
        .ok()?;
    Some(SealKey::new(exported))
}

/// Closes the connection with a code from the table.
pub(crate) fn close(connection: &Connection, code: CloseCode) {
    connection.close(VarInt::from_u32(code.number()), code.name().as_bytes());
}

/// Closes all connections over the endpoint in the same way.
pub(crate) fn close_all(endpoint: &Endpoint, code: CloseCode) {
    endpoint.close(VarInt::from_u32(code.number()), code.name().as_bytes());
}

/// Closes it with a code of the protocol that is spoken on it.
pub(crate) fn reject(connection: &Connection, code: u32) {
    connection.close(VarInt::from_u32(code), b"");
}

/// Whether the packets of a tunnel have room for what a QUIC connection needs to begin.
pub(crate) fn has_room_for_quic(tunnel: &Connection) -> bool {
    tunnel.longest_datagram() >= LEAST_ROOM + MAX_NUMBER
}

/// The code with which the other end closed; `Err` with the reason in words if it did not close.
pub(crate) fn close_code(connection: &Connection) -> Result<CloseCode, String> {
    match connection.close_reason() {
        Some(ConnectionError::ApplicationClosed(close)) => {
            CloseCode::from_number(close.error_code.into_inner())
                .ok_or_else(|| format!("closed with code {}", close.error_code))
        }
        Some(other) => Err(other.to_string()),
        None => Err("the tunnel is open".to_owned()),
    }
}

/// How many datagrams have come from the other end: grows as long as it lives.
pub(crate) fn heard(connection: &Connection) -> u64 {
    connection.stats().udp_rx.datagrams
}

/// What has become of a tunnel's packets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packets {
    /// Since the tunnel began.
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    pub(crate) round_trip: Duration,
}

/// Looks at them as they are now.
pub(crate) fn packets(connection: &Connection) -> Packets {
    let stats = connection.stats().path;
    Packets {
        sent: stats.sent_packets,
        lost: stats.lost_packets,
        round_trip: stats.rtt,
    }
}

/// What a tunnel's path is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    /// Packets, since the tunnel began.
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    pub(crate) round_trip: Duration,
    /// The name of the congestion control.
    pub(crate) congestion: &'static str,
}

/// Looks at the path as it is now.
pub(crate) fn path(connection: &Connection) -> Path {
    let Packets {
        sent,
        lost,
        round_trip,
    } = packets(connection);
    let controller = connection.congestion_state().into_any();
    Path {
        sent,
        lost,
        round_trip,
        congestion: controller
            .downcast_ref::<AdaptiveController>()
            .map_or("unknown", AdaptiveController::name),
    }
}

fn transport(streams: u32, profile: Profile) -> TransportConfig {
    let room = profile.room;
    let mut mtu_discovery = MtuDiscoveryConfig::default();
    mtu_discovery
        .upper_bound(LARGEST_DATAGRAM)
        .black_hole_cooldown(LONG_PACKETS_AGAIN);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(streams.into())
        .max_concurrent_uni_streams(0_u8.into())
        .stream_receive_window(room.of_stream().into())
        .receive_window(room.of_tunnel().into())
        .send_window(SEND_WINDOW)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .initial_rtt(INITIAL_RTT)
        .mtu_discovery_config(Some(mtu_discovery))
        .enable_segmentation_offload(profile.batches)
        .congestion_controller_factory(Arc::new(controller::Adaptive))
        .datagram_receive_buffer_size(Some(flow::COME))
        .datagram_send_buffer_size(flow::GIVEN);
    transport
}
