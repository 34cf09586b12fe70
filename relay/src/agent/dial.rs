//! The way to a relay. QUIC is tried first, TLS after a head start, and whichever is attached first is taken.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::join;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;
use wire::hello::VERSION;
use wire::{CloseCode, Features, Frame, Hello, InstanceId};

use crate::carrier::raw;
use crate::control_stream::ControlStream;
use crate::quic::{self, Connection, Endpoint, Profile};
use crate::resolve::{self, Resolver};
use crate::server::Transport;
use crate::sys;
use crate::tls::{self, AgentCertificate, Prefixed, Roots, TlsError, TlsStream};

use super::SOFTWARE;
use super::choice::Wanted;
use super::relays::RelayAddress;
use super::situation::ToldLimits;
use super::tunnel::{CarrierDialler, Greeting, Tunnel, Way};

/// How long one way of reaching a relay may take, hello and welcome included.
pub(super) const DIAL_TIME: Duration = Duration::from_secs(4);

/// How long QUIC is tried alone. With UDP blocked a tunnel over TLS then stands well within five seconds.
const QUIC_HEAD_START: Duration = Duration::from_millis(1500);

/// The same after a tunnel has fallen silent, when UDP is the likely culprit.
const QUIC_HEAD_START_AFTER_SILENCE: Duration = Duration::from_millis(300);

/// The same after a dial that came to nothing: with UDP blocked, what counts is how soon TLS is tried again.
const QUIC_HEAD_START_AGAIN: Duration = Duration::from_millis(700);

/// Between two tries over TLS while QUIC has not answered.
const TLS_AGAIN: Duration = Duration::from_millis(500);

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

/// Dials the tunnels of one keeper.
#[derive(Debug)]
pub(super) struct Dialler {
    pub(super) certificate: AgentCertificate,
    pub(super) roots: Roots,
    pub(super) resolver: Resolver,
    /// The same of all keepers of one agent.
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
                guests: TaskTracker::new(),
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
                guests: TaskTracker::new(),
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
