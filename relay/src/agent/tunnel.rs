//! One tunnel, from the dial to its end. QUIC is tried first, TLS after a head start, and whichever is attached first is
//! taken. The functions stand in the order in which a tunnel lives.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncWriteExt as _, join};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::frame::Ticket;
use wire::hello::VERSION;
use wire::{CloseCode, Features, Frame, Hello, InstanceId};

use crate::carrier::{Carrier, raw};
use crate::control_stream::{ControlError, ControlStream};
use crate::liveness::SignsOfLife;
use crate::quic::{self, Connection, Endpoint, Profile};
use crate::resolve::{self, Resolver};
use crate::server::Transport;
use crate::sys;
use crate::tls::{self, AgentCertificate, Prefixed, Roots, TlsError, TlsStream};
use crate::workers::Worker;

use super::SOFTWARE;
use super::choice::Wanted;
use super::pulse::{Beat, Pulse};
use super::status::{LimitsStatus, ToldLimits};
use super::visitor::Visitors;

/// How long one way of reaching a relay may take, hello and welcome included.
const DIAL_TIME: Duration = Duration::from_secs(4);

/// How long QUIC is tried alone. With UDP blocked a tunnel over TLS then stands well within five seconds.
const QUIC_HEAD_START: Duration = Duration::from_millis(1500);

/// The same after a tunnel has fallen silent, when UDP is the likely culprit.
const QUIC_HEAD_START_AFTER_SILENCE: Duration = Duration::from_millis(300);

/// The same after a dial that came to nothing: with UDP blocked, what counts is how soon TLS is tried again.
const QUIC_HEAD_START_AGAIN: Duration = Duration::from_millis(700);

/// Between two tries over TLS while QUIC has not answered.
const TLS_AGAIN: Duration = Duration::from_millis(500);

/// How long the relay may take to acknowledge that a tunnel is closed.
const CLOSE_TIME: Duration = Duration::from_millis(500);

/// A relay's address as pairing returned it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RelayAddress {
    pub(super) host: String,
    pub(super) port: u16,
}

impl RelayAddress {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        Some(Self {
            host: host.to_owned(),
            port: port.parse().ok()?,
        })
    }
}

impl fmt::Display for RelayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// The relay was reached and closed with a code.
    #[error("the relay closed the tunnel: {0}")]
    Closed(CloseCode),
    /// The relay was not reached, or did not behave like one.
    #[error("{0}")]
    Failed(#[from] io::Error),
    /// The device's own keys or roots do not work.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The tunnel's TLS session gives out no keys.
    #[error("the tunnel's TLS session gives out no key for raw connections")]
    NoKey,
}

/// Dials tunnels for one run of an agent.
#[derive(Debug)]
pub(super) struct Dialler {
    pub(super) certificate: AgentCertificate,
    pub(super) roots: Roots,
    pub(super) resolver: Resolver,
    pub(super) instance: InstanceId,
    /// Hears whether raw connections reach the relay.
    pub(super) raw_outcomes: mpsc::Sender<bool>,
}

/// What came before a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// Nothing that tells anything about the way.
    Nothing,
    /// A tunnel that fell silent.
    Silence,
    /// A dial that came to nothing.
    Failure,
}

/// An attached tunnel.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) relay: RelayAddress,
    pub(super) greeting: Greeting,
    /// What the relay says that its device may have at most.
    pub(super) limits: ToldLimits,
    /// Brings raw connections for its visitors' bulk.
    raw: raw::Dialler,
    /// What is heard over its carriers, and over raw connections beside them.
    signs: Arc<SignsOfLife>,
    way: Way,
    control: ControlStream,
}

/// What the relay has said when a tunnel was attached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Greeting {
    /// The agent's address as the relay sees it.
    pub(super) seen_as: SocketAddr,
    /// Whether it takes raw connections.
    pub(super) raw_offered: bool,
    /// How long it took to say so.
    round_trip: Duration,
}

#[derive(Debug)]
enum Way {
    Quic {
        connection: Connection,
        endpoint: Endpoint,
        profile: Profile,
    },
    Tls(CarrierDialler),
}

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// This agent stops.
    Stopped,
    /// The relay closed it.
    Closed(CloseCode),
    /// The relay does not answer any more.
    Silent,
    /// The connection broke.
    Broken,
}

impl Dialler {
    /// A tunnel to `relay`, by whatever way is open.
    pub(super) async fn dial(
        self: &Arc<Self>,
        relay: &RelayAddress,
        before: Before,
        wanted: Wanted,
    ) -> Result<Tunnel, DialError> {
        if wanted.transport == Transport::Tls
            && let tunnel @ (Ok(_) | Err(DialError::Closed(_))) = self.dial_tls(relay).await
        {
            return tunnel;
        }
        let head_start = match before {
            Before::Nothing => QUIC_HEAD_START,
            Before::Silence => QUIC_HEAD_START_AFTER_SILENCE,
            Before::Failure => QUIC_HEAD_START_AGAIN,
        };
        let mut over_quic = pin!(self.dial_quic(relay, wanted.profile));
        tokio::select! {
            tunnel = &mut over_quic => match tunnel {
                // A relay that says no over QUIC would say the same over TLS.
                Ok(_) | Err(DialError::Closed(_)) => return tunnel,
                Err(_) => return self.dial_tls(relay).await,
            },
            () = sleep(head_start) => {}
        }
        let over_tls = async {
            loop {
                match self.dial_tls(relay).await {
                    tunnel @ (Ok(_) | Err(DialError::Closed(_))) => return tunnel,
                    Err(_) => sleep(TLS_AGAIN).await,
                }
            }
        };
        tokio::select! {
            tunnel = over_quic => tunnel,
            tunnel = over_tls => tunnel,
        }
    }

    /// A tunnel over QUIC.
    pub(super) async fn dial_quic(
        self: &Arc<Self>,
        relay: &RelayAddress,
        profile: Profile,
    ) -> Result<Tunnel, DialError> {
        in_time(async {
            let (endpoint, connection) = self.connect_quic(relay, profile).await?;
            let (send, recv) = connection.open_bi().await.map_err(io::Error::from)?;
            let mut control = ControlStream::new(join(recv, send));
            let greeted = self.greet(&mut control).await;
            let greeting = greeted.map_err(|error| match quic::close_code(&connection) {
                Ok(code) => DialError::Closed(code),
                Err(_) => error,
            })?;
            let signs = Arc::default();
            let raw = raw::Dialler {
                front: connection.remote_address(),
                signs: Arc::clone(&signs),
                outcomes: self.raw_outcomes.clone(),
                key: quic::seal_key(&connection).ok_or(DialError::NoKey)?,
            };
            Ok(Tunnel {
                relay: relay.clone(),
                greeting,
                limits: ToldLimits::default(),
                raw,
                signs,
                way: Way::Quic {
                    connection,
                    endpoint,
                    profile,
                },
                control,
            })
        })
        .await
    }

    /// A tunnel over TLS, on the front's TCP port.
    pub(super) async fn dial_tls(
        self: &Arc<Self>,
        relay: &RelayAddress,
    ) -> Result<Tunnel, DialError> {
        in_time(async {
            let (address, stream) = self.connect_tls(relay).await?;
            let signs = Arc::default();
            let raw = raw::Dialler {
                front: address,
                signs: Arc::clone(&signs),
                outcomes: self.raw_outcomes.clone(),
                key: tls::seal_key(&stream).ok_or(DialError::NoKey)?,
            };
            let mut control = ControlStream::new(stream);
            let greeting = self.greet(&mut control).await?;
            let connector = tls::carrier_client(&self.roots)?;
            let carriers = CarrierDialler {
                connector,
                host: relay.host.clone(),
                address,
                signs: Arc::clone(&signs),
            };
            Ok(Tunnel {
                relay: relay.clone(),
                greeting,
                limits: ToldLimits::default(),
                raw,
                signs,
                way: Way::Tls(carriers),
                control,
            })
        })
        .await
    }

    /// A QUIC connection with `relay`, on which nothing has been said.
    pub(super) async fn connect_quic(
        self: &Arc<Self>,
        relay: &RelayAddress,
        profile: Profile,
    ) -> io::Result<(Endpoint, Connection)> {
        let addresses = self.resolver.resolve(&relay.host, relay.port).await?;
        let (dialler, host) = (Arc::clone(self), relay.host.clone());
        resolve::first_of(addresses, move |address| {
            let (dialler, host) = (Arc::clone(&dialler), host.clone());
            async move {
                let (roots, certificate) = (&dialler.roots, &dialler.certificate);
                quic::dial(address, &host, roots, certificate, profile).await
            }
        })
        .await
    }

    /// How long a round trip to `relay` takes over TCP. Nothing is said.
    pub(super) async fn tcp_round_trip(&self, relay: &RelayAddress) -> Result<Duration, DialError> {
        let (_, stream) = timeout(DIAL_TIME, self.connect_tls(relay))
            .await
            .map_err(io::Error::from)??;
        let measured = sys::tcp_round_trip(stream.get_ref().0.tcp());
        measured.ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported).into())
    }

    /// TLS with `relay` and where that was reached; nothing has been said.
    pub(super) async fn connect_tls(
        &self,
        relay: &RelayAddress,
    ) -> Result<(SocketAddr, TlsStream), DialError> {
        let stream = self.resolver.connect(&relay.host, relay.port).await?;
        let address = stream.peer_addr()?;
        let connector = tls::tunnel_connector(&self.roots, &self.certificate)?;
        let name = tls::server_name(&relay.host)?;
        let stream = Prefixed::new(Bytes::new(), stream);
        Ok((address, connector.connect(name, stream).await?.into()))
    }

    /// Says hello.
    async fn greet(&self, control: &mut ControlStream) -> Result<Greeting, DialError> {
        let hello = Hello {
            version: VERSION,
            features: Features::TLS_CARRIER.and(Features::RAW_CARRIER),
            instance: self.instance,
            software: SOFTWARE.to_owned(),
        };
        let asked = Instant::now();
        control
            .send(&Frame::Hello(hello))
            .await
            .map_err(io::Error::other)?;
        match control.next().await.map_err(io::Error::other)? {
            Frame::Welcome {
                seen_as, features, ..
            } => Ok(Greeting {
                seen_as,
                raw_offered: features.has(Features::RAW_CARRIER),
                round_trip: asked.elapsed(),
            }),
            Frame::Close { code } => Err(DialError::Closed(code.unwrap_or(CloseCode::Done))),
            Frame::Hello(_)
            | Frame::Ping { .. }
            | Frame::Pong { .. }
            | Frame::Dial { .. }
            | Frame::Limits { .. }
            | Frame::Drain { .. }
            | Frame::Open(_)
            | Frame::Carry { .. } => Err(DialError::Closed(CloseCode::Protocol)),
        }
    }
}

async fn in_time<T>(dial: impl Future<Output = Result<T, DialError>>) -> Result<T, DialError> {
    timeout(DIAL_TIME, dial)
        .await
        .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
}

impl Tunnel {
    pub(super) fn transport(&self) -> Transport {
        match self.way {
            Way::Quic { .. } => Transport::Quic,
            Way::Tls(_) => Transport::Tls,
        }
    }

    /// Over QUIC, its connection and how that was made.
    pub(super) fn connection(&self) -> Option<(&Connection, Profile)> {
        match &self.way {
            Way::Quic {
                connection,
                profile,
                ..
            } => Some((connection, *profile)),
            Way::Tls(_) => None,
        }
    }

    /// Takes visitors until the tunnel ends. `drain` hears it when the relay asks this agent to come back elsewhere;
    /// visitors who are here may finish meanwhile.
    pub(super) async fn attend(
        mut self,
        visitors: Arc<Visitors>,
        home: Worker,
        drain: oneshot::Sender<Duration>,
        stop: CancellationToken,
    ) -> Ended {
        let carriers = TaskTracker::new();
        let ended = self.serve(&visitors, &home, &carriers, drain, stop).await;
        match &self.way {
            Way::Quic {
                connection,
                endpoint,
                ..
            } => {
                quic::close(connection, CloseCode::Done);
                // The relay should hear it before this process ends.
                let _ = timeout(CLOSE_TIME, endpoint.wait_idle()).await;
            }
            Way::Tls(_) => {
                let _ = self
                    .control
                    .send(&Frame::Close {
                        code: Ok(CloseCode::Done),
                    })
                    .await;
                self.control.finish().await;
            }
        }
        ended
    }

    async fn serve(
        &mut self,
        visitors: &Arc<Visitors>,
        home: &Worker,
        carriers: &TaskTracker,
        drain: oneshot::Sender<Duration>,
        stop: CancellationToken,
    ) -> Ended {
        let mut drain = Some(drain);
        let mut pulse = Pulse::new(self.greeting.round_trip);
        loop {
            let alarm = pulse.alarm();
            tokio::select! {
                biased; // the end first, then what the relay says, then its visitors, then our own pings
                () = stop.cancelled() => return Ended::Stopped,
                frame = self.control.next() => {
                    self.signs.heard(1);
                    match frame {
                        Ok(Frame::Pong { .. }) => pulse.pong(Instant::now()),
                        Ok(Frame::Ping { sequence }) => {
                            if self.control.send(&Frame::Pong { sequence }).await.is_err() {
                                return self.ended();
                            }
                        }
                        Ok(Frame::Dial { ticket }) => self.dial_carrier(ticket, visitors, home, carriers),
                        Ok(Frame::Limits { bytes_per_second, visitors }) => {
                            self.limits.told(LimitsStatus { bytes_per_second, visitors });
                        }
                        Ok(Frame::Drain { reconnect_after }) => {
                            if let Some(drain) = drain.take() {
                                // Nobody listens any more if this tunnel has been replaced already.
                                let _ = drain.send(reconnect_after);
                            }
                        }
                        Ok(Frame::Close { code }) => return Ended::Closed(code.unwrap_or(CloseCode::Done)),
                        Ok(Frame::Hello(_) | Frame::Welcome { .. } | Frame::Open(_) | Frame::Carry { .. })
                        | Err(ControlError::Frame(_)) => return Ended::Closed(CloseCode::Protocol),
                        Err(ControlError::Ended | ControlError::Io(_)) => return self.ended(),
                    }
                }
                carrier = self.way.carrier() => match carrier {
                    Some(carrier) => visitors.receive(carrier, self.raw.clone(), home),
                    None => return self.ended(),
                },
                () = sleep_until(alarm) => {
                    match pulse.due(Instant::now(), self.heard(), self.way.round_trip()) {
                        Beat::Silent => return Ended::Silent,
                        Beat::Rest => {}
                        Beat::Ping { sequence } => {
                            if self.control.send(&Frame::Ping { sequence }).await.is_err() {
                                return self.ended();
                            }
                        }
                    }
                }
            }
        }
    }

    /// Grows with every sign of life of the relay.
    fn heard(&self) -> u64 {
        let packets = match &self.way {
            Way::Quic { connection, .. } => quic::heard(connection),
            Way::Tls(_) => 0,
        };
        packets + self.signs.count()
    }

    fn ended(&self) -> Ended {
        match &self.way {
            Way::Quic { connection, .. } => {
                quic::close_code(connection).map_or(Ended::Broken, Ended::Closed)
            }
            Way::Tls(_) => Ended::Broken,
        }
    }

    fn dial_carrier(
        &self,
        ticket: Ticket,
        visitors: &Arc<Visitors>,
        home: &Worker,
        carriers: &TaskTracker,
    ) {
        let Way::Tls(dialler) = &self.way else {
            return; // over QUIC the relay opens streams itself
        };
        let (dialler, raw, visitors) = (dialler.clone(), self.raw.clone(), Arc::clone(visitors));
        let worker = visitors.least_busy(home).clone();
        let runtime = worker.runtime().clone();
        let dialled = async move {
            match timeout(DIAL_TIME, dialler.dial(ticket)).await {
                Ok(Ok(carrier)) => visitors.receive_here(carrier, raw, &worker),
                Ok(Err(error)) => tracing::debug!(%error, "no carrier for a visitor"),
                Err(_) => tracing::debug!("no carrier for a visitor in time"),
            }
        };
        carriers.spawn_on(dialled, &runtime);
    }
}

impl Way {
    /// The next visitor's carrier; `None` once the connection has ended.
    async fn carrier(&self) -> Option<Carrier> {
        match self {
            Self::Quic { connection, .. } => {
                let (send, recv) = connection.accept_bi().await.ok()?;
                Some(Carrier::quic(send, recv))
            }
            Self::Tls(_) => std::future::pending().await, // they come by ticket
        }
    }

    /// As far as it is known without asking.
    fn round_trip(&self) -> Option<Duration> {
        match self {
            Self::Quic { connection, .. } => Some(quic::path(connection).round_trip),
            Self::Tls(_) => None,
        }
    }
}

/// Brings tls carriers to the relay process that asked for them.
#[derive(Clone)]
struct CarrierDialler {
    connector: TlsConnector,
    host: String,
    address: SocketAddr,
    signs: Arc<SignsOfLife>,
}

impl CarrierDialler {
    async fn dial(&self, ticket: Ticket) -> io::Result<Carrier> {
        let stream = resolve::connect_to(self.address).await?;
        let name = tls::server_name(&self.host)?;
        let stream = self
            .connector
            .connect(name, Prefixed::new(Bytes::new(), stream))
            .await?;
        let mut stream = TlsStream::from(stream);
        let carry = Frame::Carry { ticket }.encode().map_err(io::Error::other)?;
        stream.write_all(&carry).await?;
        stream.flush().await?;
        Ok(Carrier::tls(stream, Arc::clone(&self.signs)))
    }
}

impl fmt::Debug for CarrierDialler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CarrierDialler")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relay_addresses_have_a_port() {
        let relay = RelayAddress::parse("relay.nas.localhost:8443").unwrap();
        assert_eq!(
            (relay.host.as_str(), relay.port),
            ("relay.nas.localhost", 8443)
        );
        assert_eq!(RelayAddress::parse("relay.nas.localhost"), None);
        assert_eq!(RelayAddress::parse("relay.nas.localhost:x"), None);
    }
}
