//! The way to a relay. QUIC is tried first, TLS after a head start, and whichever is attached first is taken.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::join;
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::task::TaskTracker;
use wire::hello::VERSION;
use wire::{CloseCode, Features, Frame, Hello, InstanceId};

use crate::carrier::raw;
use crate::control_stream::ControlStream;
use crate::quic::{self, Attempts, Connection, Endpoint, Losses, Profile};
use crate::resolve::{self, Resolver};
use crate::server::Transport;
use crate::sys;
use crate::tls::{self, AgentCertificate, Prefixed, Roots, TlsError, TlsStream};

use super::SOFTWARE;
use super::choice::Wanted;
use super::ports::{PortsLog, ToldPorts};
use super::pulse::{AGAIN, LATE};
use super::relays::RelayAddress;
use super::situation::ToldLimits;
use super::tunnel::{CarrierDialler, Greeting, Tunnel, Way};

/// How long one way of reaching a relay may take, hello and welcome included.
pub(super) const DIAL_TIME: Duration = Duration::from_secs(4);

/// How much longer it may take over QUIC once the relay has answered at all: it is busy then, and who goes away and comes again only
/// makes it busier.
const ANSWERED_TIME: Duration = Duration::from_secs(6);

/// How long QUIC is tried alone. With UDP blocked a tunnel over TLS then stands well within five seconds.
const QUIC_HEAD_START: Duration = Duration::from_millis(1500);

/// The same after a tunnel has fallen silent, when UDP is the likely culprit.
const QUIC_HEAD_START_AFTER_SILENCE: Duration = Duration::from_millis(300);

/// The same after a dial that came to nothing: with UDP blocked, what counts is how soon TLS is tried again.
const QUIC_HEAD_START_AGAIN: Duration = Duration::from_millis(700);

/// The same where a tunnel over QUIC stands at another relay: UDP is open, and nobody waits for this one. A relay that is away costs
/// half as much so.
const QUIC_HEAD_START_BESIDE: Duration = DIAL_TIME;

/// Between two tries over TLS while QUIC has not answered.
const TLS_AGAIN: Duration = Duration::from_millis(500);

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// The relay was reached and closed with a code.
    #[error("the relay closed the tunnel: {0}")]
    Closed(CloseCode),
    /// The relay was reached over QUIC, and takes nobody just now.
    #[error("the relay takes no more agents just now")]
    Refused,
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
pub(super) struct Dialler {
    pub(super) certificate: AgentCertificate,
    pub(super) roots: Roots,
    pub(super) resolver: Resolver,
    /// The same of all keepers of one agent.
    pub(super) instance: InstanceId,
    /// Hears whether raw connections reach the relay.
    pub(super) raw_outcomes: mpsc::Sender<bool>,
    /// Hears of visitors' datagrams that are lost here.
    pub(super) losses: Arc<dyn Losses>,
    /// How often it is in the log what relays say of public ports.
    pub(super) ports_log: PortsLog,
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
    /// Whatever it was, a tunnel over QUIC stands at another relay.
    Beside,
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
            Before::Beside => QUIC_HEAD_START_BESIDE,
        };
        let attempts = Attempts::default();
        let mut over_quic = pin!(self.dial_quic(relay, wanted.profile, &attempts));
        let tls_is_tried = async {
            leave_time(head_start).await;
            // A relay that has answered is busy, and over TLS it would be busier.
            while attempts.are_answered() {
                sleep(TLS_AGAIN).await;
            }
        };
        tokio::select! {
            tunnel = &mut over_quic => {
                let was_busy = attempts.are_answered() && before != Before::Failure;
                return self.or_over_tls(relay, tunnel, was_busy).await;
            }
            () = tls_is_tried => {}
        }
        let over_tls = async {
            loop {
                match self.dial_tls(relay).await {
                    tunnel @ (Ok(_) | Err(DialError::Closed(_))) => return tunnel,
                    Err(_) => sleep(TLS_AGAIN).await,
                }
            }
        };
        let mut over_tls = Box::pin(over_tls);
        tokio::select! {
            tunnel = over_quic => match tunnel {
                Ok(_) | Err(DialError::Closed(_) | DialError::Refused) => tunnel,
                // TLS is on its way.
                Err(DialError::Failed(_) | DialError::Tls(_) | DialError::NoKey) => {
                    in_time(DIAL_TIME, over_tls).await
                }
            },
            tunnel = &mut over_tls => tunnel,
        }
    }

    /// What has come of QUIC alone, or what comes of TLS after it. A relay that says no over QUIC would say the same over TLS, and one
    /// that `was_busy` has even less time for that. But if it answers and nothing comes of it time and again, it is the way.
    async fn or_over_tls(
        self: &Arc<Self>,
        relay: &RelayAddress,
        over_quic: Result<Tunnel, DialError>,
        was_busy: bool,
    ) -> Result<Tunnel, DialError> {
        match over_quic {
            Ok(_) | Err(DialError::Closed(_) | DialError::Refused) => over_quic,
            Err(DialError::Failed(_)) if was_busy => over_quic,
            Err(DialError::Failed(_) | DialError::Tls(_) | DialError::NoKey) => {
                self.dial_tls(relay).await
            }
        }
    }

    /// A tunnel over QUIC.
    pub(super) async fn dial_quic(
        self: &Arc<Self>,
        relay: &RelayAddress,
        profile: Profile,
        attempts: &Attempts,
    ) -> Result<Tunnel, DialError> {
        let dial = async {
            let connected = self.connect_quic(relay, profile, attempts).await;
            let (endpoint, connection) =
                connected.map_err(|error| match quic::is_refusal(&error) {
                    true => DialError::Refused,
                    false => error.into(),
                })?;
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
                ports: ToldPorts::new(self.ports_log.clone()),
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
        };
        let mut dial = pin!(dial);
        match timeout(DIAL_TIME, &mut dial).await {
            Ok(dialled) => dialled,
            Err(_) if attempts.are_answered() => in_time(ANSWERED_TIME, dial).await,
            Err(late) => Err(io::Error::from(late).into()),
        }
    }

    /// A tunnel over TLS, on the front's TCP port.
    pub(super) async fn dial_tls(
        self: &Arc<Self>,
        relay: &RelayAddress,
    ) -> Result<Tunnel, DialError> {
        in_time(DIAL_TIME, async {
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
                ports: ToldPorts::new(self.ports_log.clone()),
                guests: TaskTracker::new(),
                raw,
                signs,
                way: Way::Tls(carriers),
                control,
            })
        })
        .await
    }

    /// A QUIC connection with `relay`, on which nothing has been said. What is tried for it is among the `attempts`.
    pub(super) async fn connect_quic(
        self: &Arc<Self>,
        relay: &RelayAddress,
        profile: Profile,
        attempts: &Attempts,
    ) -> io::Result<(Endpoint, Connection)> {
        let addresses = self.resolver.resolve(&relay.host, relay.port).await?;
        let (dialler, host) = (Arc::clone(self), relay.host.clone());
        let attempts = attempts.clone();
        resolve::first_of(addresses, move |address| {
            let (dialler, host) = (Arc::clone(&dialler), host.clone());
            let attempts = attempts.clone();
            async move {
                let (roots, certificate) = (&dialler.roots, &dialler.certificate);
                let losses = Arc::clone(&dialler.losses);
                quic::dial(
                    address,
                    &host,
                    roots,
                    certificate,
                    profile,
                    &attempts,
                    losses,
                )
                .await
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
            features: Features::TLS_CARRIER
                .and(Features::RAW_CARRIER)
                .and(Features::DATAGRAMS)
                .and(Features::PORTS),
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
                datagrams_offered: features.has(Features::DATAGRAMS),
                hears_of_ports: features.has(Features::PORTS),
                round_trip: asked.elapsed(),
            }),
            Frame::Close { code } => Err(DialError::Closed(code.unwrap_or(CloseCode::Done))),
            Frame::Hello(_)
            | Frame::Ping { .. }
            | Frame::Pong { .. }
            | Frame::Dial { .. }
            | Frame::Limits { .. }
            | Frame::WantIds
            | Frame::Ids { .. }
            | Frame::Publish { .. }
            | Frame::Published { .. }
            | Frame::Drain { .. }
            | Frame::Open(_)
            | Frame::Carry { .. } => Err(DialError::Closed(CloseCode::Protocol)),
        }
    }
}

/// Waits for `time` in which an answer could have been heard.
async fn leave_time(time: Duration) {
    for _ in 0..=AGAIN {
        let until = Instant::now() + time;
        sleep_until(until.into()).await;
        if until.elapsed() < LATE {
            return;
        }
    }
}

async fn in_time<T>(
    time: Duration,
    dial: impl Future<Output = Result<T, DialError>>,
) -> Result<T, DialError> {
    let dialled = timeout(time, dial).await;
    dialled.unwrap_or_else(|late| Err(io::Error::from(late).into()))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::thread;

    use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
    use tokio::net::{TcpListener, UdpSocket};
    use tokio_util::task::AbortOnDropHandle;

    use super::*;
    use crate::quic::Room;

    /// What stands where a relay should.
    #[derive(Clone, Copy)]
    enum Stand {
        /// It answers over UDP, and says nothing of use.
        Busy,
        /// As if UDP were blocked.
        Deaf,
    }

    /// Whether an agent comes over TCP within `time` to what stands there.
    async fn comes_over_tcp(stand: Stand, before: Before, time: Duration) -> bool {
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (tcp, udp);
            }
        };
        let front = tcp.local_addr().unwrap();
        let _answers = AbortOnDropHandle::new(tokio::spawn(async move {
            let mut room = [0; 2048];
            while let Ok((_, from)) = udp.recv_from(&mut room).await {
                if let Stand::Busy = stand {
                    // The shape of a packet with a short header (RFC 9000 section 17.3).
                    let _ = udp.send_to(&[0x40; 40], from).await;
                }
            }
        }));
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let own = CertificateParams::default().self_signed(&key).unwrap();
        let certificate = AgentCertificate::from_der(own.der().to_vec(), key.serialize_der());
        let (raw_outcomes, _heard) = mpsc::channel(1);
        let dialler = Arc::new(Dialler {
            certificate: certificate.unwrap(),
            roots: Roots::none(),
            resolver: Resolver::Fixed(front),
            instance: InstanceId([7; 16]),
            raw_outcomes,
            losses: Arc::<quic::tests::Lost>::default(),
            ports_log: PortsLog::default(),
        });
        let relay = RelayAddress::parse("relay.test:443").unwrap();
        let wanted = Wanted {
            transport: Transport::Quic,
            profile: Profile {
                room: Room::Small,
                batches: false,
            },
        };
        let dial = dialler.dial(&relay, before, wanted);
        let came = async {
            tokio::select! {
                _ = dial => false,
                came = tcp.accept() => came.is_ok(),
            }
        };
        timeout(time, came).await.unwrap_or(false)
    }

    #[tokio::test]
    async fn a_relay_that_answers_over_udp_is_not_dialled_over_tls_meanwhile() {
        let time = QUIC_HEAD_START * 2;
        let (busy, deaf) = tokio::join!(
            comes_over_tcp(Stand::Busy, Before::Nothing, time),
            comes_over_tcp(Stand::Deaf, Before::Nothing, time),
        );
        assert_eq!((busy, deaf), (false, true));
    }

    #[tokio::test]
    async fn who_is_kept_from_hearing_has_the_time_again() {
        let begun = Instant::now();
        let (time, busy) = (LATE / 2, LATE * 2);
        tokio::join!(leave_time(time), async { thread::sleep(busy) });
        assert!(begun.elapsed() >= busy + time, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn nor_is_one_soon_while_a_tunnel_over_quic_stands_beside() {
        let time = QUIC_HEAD_START * 2;
        assert!(!comes_over_tcp(Stand::Deaf, Before::Beside, time).await);
        // But in the end it is.
        assert!(comes_over_tcp(Stand::Deaf, Before::Beside, DIAL_TIME * 3).await);
    }
}
