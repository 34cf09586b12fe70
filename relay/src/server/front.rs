//! A visitor arrives: admitted, its name read, its device found, a carrier opened, its bytes pumped. The functions stand
//! in that order. Agents over TLS, and visitors of the operator's own hosts, arrive through the same door.

use std::cmp::Ordering;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use directory::{DeviceId, OperatorName, Place, Reader};
use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::client_hello::{NotAHello, Progress, Reader as HelloReader};
use wire::frame::Open;
use wire::raw::{self, Header};

use crate::carrier::Carrier;
use crate::carrier::raw::TurnedAway;
use crate::congestion;
use crate::splice::{self, Moved};
use crate::tls::{self, Accepted, Prefixed};

use super::limits::{Admitted, DeviceVisitor, HELLO_TIME, Limits};
use super::metrics::{HandedOver, Metrics, end_name};
use super::refusal::Refusal;
use super::register::Register;
use super::sessions::{OpenError, Session, Sessions};

/// TLS alert record: fatal, unrecognized_name (RFC 6066 section 3, RFC 8446 section 6).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// How long a visitor who was sent an alert may take to read it before the connection closes.
const ALERT_LINGER: Duration = Duration::from_secs(1);

/// How much is read from a visitor at once while its hello is incomplete: most hellos come whole.
const HELLO_PORTION: usize = 2048;

/// Idle visitors' hosts are asked for a sign of life this often, so that one who left without a word is noticed.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// The pause after the kernel could not hand over a connection: descriptors come back when visitors leave.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A visitor of `cloud.<zone>`, whose TLS has ended here.
#[derive(Debug)]
pub struct CloudVisitor {
    /// What it says and hears.
    pub stream: Accepted,
    /// Where it comes from.
    pub address: SocketAddr,
    /// Whether its TLS handshake settled on HTTP/2.
    pub http2: bool,
    /// Counts the visitor until it has left.
    pub admitted: Admitted,
}

/// Everything a visitor's path needs.
pub(crate) struct Front {
    pub(crate) directory: Reader,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) register: Register,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) cloud_acceptor: TlsAcceptor,
    pub(crate) cloud_visitors: mpsc::Sender<CloudVisitor>,
    /// Cancelled when the relay stops for good: cuts whoever is still here.
    pub(crate) cut: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// Accepts visitors until `stop`.
pub(crate) async fn accept(front: Arc<Front>, listener: TcpListener, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            biased; // stopping must not wait for a gap between visitors
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((visitor, address)) => {
                front.metrics.visitor_accepted();
                match front.limits.admit(address.ip()) {
                    Ok(admitted) => {
                        let front_of_visitor = Arc::clone(&front);
                        front
                            .tasks
                            .spawn(front_of_visitor.visit(visitor, address, admitted));
                    }
                    Err(refusal) => front.metrics.visitor_refused(refusal),
                }
            }
            Err(error) => {
                front.metrics.accept_error();
                tracing::debug!(%error, "the kernel could not hand over a visitor");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Where a visitor got to.
enum Arrived {
    /// To its device.
    Joined(Box<Joined>),
    /// To somebody here who goes on with it, and counts it.
    HandedOver(HandedOver),
}

/// A visitor and its device, joined by a carrier.
struct Joined {
    visitor: TcpStream,
    carrier: Carrier,
    session: Arc<Session>,
    /// Octets that are on the carrier already.
    hello: usize,
    _places: (Admitted, DeviceVisitor),
}

/// A visitor that goes no further.
struct SentAway {
    refusal: Refusal,
    /// What there is to tell it on, and its place among the visitors until it has been told.
    to_tell: Option<(TcpStream, Admitted)>,
}

impl Front {
    async fn visit(self: Arc<Self>, visitor: TcpStream, address: SocketAddr, admitted: Admitted) {
        // Boxed, as is the rest that is soon over: most of its life a visitor is pumped, or rests.
        match Box::pin(self.arrive(visitor, address, admitted)).await {
            Ok(Arrived::Joined(mut joined)) => {
                let moved = self.pump(&mut joined).await;
                self.metrics.visitor_ended(moved);
                let end = end_name(moved.end);
                tracing::debug!(end, "a visitor's connection has ended");
            }
            Ok(Arrived::HandedOver(to)) => self.metrics.visitor_handed_over(to),
            Err(SentAway { refusal, to_tell }) => {
                self.metrics.visitor_refused(refusal);
                tracing::debug!(reason = refusal.name(), "a visitor was sent away");
                if let Some((visitor, _admitted)) = to_tell
                    && refusal.alerts()
                {
                    Box::pin(alert(visitor)).await;
                }
            }
        }
    }

    async fn arrive(
        &self,
        visitor: TcpStream,
        address: SocketAddr,
        mut admitted: Admitted,
    ) -> Result<Arrived, SentAway> {
        prepare(&visitor);
        let first = tokio::select! {
            biased;
            () = self.cut.cancelled() => Err(Refusal::LeftEarly),
            first = timeout(HELLO_TIME, read_first(&visitor)) => first.unwrap_or(Err(Refusal::TooSlow)),
        };
        admitted.named();
        match first {
            Ok(First::Hello { octets, name }) => {
                self.lead(visitor, address, octets, name, admitted).await
            }
            Ok(First::Raw(header)) => {
                self.admit_raw(header, visitor);
                Ok(Arrived::HandedOver(HandedOver::Tunnel))
            }
            Err(refusal) => Err(SentAway {
                refusal,
                to_tell: Some((visitor, admitted)),
            }),
        }
    }

    fn admit_raw(&self, header: Option<Header>, stream: TcpStream) {
        let admitted = match header {
            Some(header) => self.sessions.door.admit(&header, stream),
            None => Err(TurnedAway::BadHeader),
        };
        if let Err(reason) = admitted {
            self.metrics.raw_turned_away(reason);
            tracing::debug!(reason = reason.name(), "a raw connection was turned away");
        }
    }

    /// Takes the visitor to whoever has the name it asked for.
    async fn lead(
        &self,
        visitor: TcpStream,
        address: SocketAddr,
        hello: Bytes,
        name: String,
        admitted: Admitted,
    ) -> Result<Arrived, SentAway> {
        match self.directory.zone().locate(&name) {
            Place::Device(device) => {
                let device = self.directory.device_by_name(&device);
                let device =
                    device.map(|device| device.identity.as_ref().map(|identity| identity.id));
                self.join(visitor, address, hello, name, device, admitted)
                    .await
            }
            Place::Operator(OperatorName::Relay) => {
                self.register
                    .over_tcp(Prefixed::new(hello, visitor), address)
                    .await;
                Ok(Arrived::HandedOver(HandedOver::Tunnel))
            }
            Place::Operator(OperatorName::Cloud) => {
                self.receive_at_cloud(Prefixed::new(hello, visitor), address, admitted)
                    .await
            }
            Place::Apex | Place::Nobody | Place::Outside => {
                self.join(visitor, address, hello, name, None, admitted)
                    .await
            }
        }
    }

    /// Joins the visitor to its device. A name without a device takes the same steps as a device without a tunnel, so
    /// that the time to the alert does not tell them apart.
    async fn join(
        &self,
        visitor: TcpStream,
        address: SocketAddr,
        hello: Bytes,
        name: String,
        device: Option<Option<DeviceId>>,
        admitted: Admitted,
    ) -> Result<Arrived, SentAway> {
        const NOBODY: DeviceId = DeviceId::from_bytes([0; 16]);
        let sent_away = |refusal, visitor, admitted| SentAway {
            refusal,
            to_tell: Some((visitor, admitted)),
        };
        let Some(session) = self.sessions.of(&device.flatten().unwrap_or(NOBODY)) else {
            let refusal = if device.is_some() {
                Refusal::NotAttached
            } else {
                Refusal::UnknownName
            };
            return Err(sent_away(refusal, visitor, admitted));
        };
        let Ok(place) = session.visitor(address.ip()) else {
            return Err(sent_away(Refusal::DeviceFull, visitor, admitted));
        };
        let front = visitor.local_addr().unwrap_or(address);
        let carrier = match session
            .open(
                Open {
                    name,
                    visitor: address,
                    front,
                },
                &hello,
            )
            .await
        {
            Ok(carrier) => carrier,
            Err(OpenError::DeviceFull) => {
                return Err(sent_away(Refusal::DeviceFull, visitor, admitted));
            }
            Err(OpenError::NoCarrier) => {
                return Err(sent_away(Refusal::NoCarrier, visitor, admitted));
            }
        };
        self.metrics.carrier_opened(carrier.kind());
        congestion::choose(&visitor);
        Ok(Arrived::Joined(Box::new(Joined {
            visitor,
            carrier,
            session,
            hello: hello.len(),
            _places: (admitted, place),
        })))
    }

    async fn pump(&self, joined: &mut Joined) -> Moved {
        let session = &joined.session;
        let observer = Observed {
            session,
            metrics: &self.metrics,
        };
        let mut moved = splice::splice(
            &joined.visitor,
            &mut joined.carrier,
            session.raw_way(),
            session.ended(),
            &observer,
        )
        .await;
        moved.outwards += joined.hello as u64;
        moved
    }

    async fn receive_at_cloud(
        &self,
        visitor: Prefixed,
        address: SocketAddr,
        admitted: Admitted,
    ) -> Result<Arrived, SentAway> {
        let refusal = match timeout(HELLO_TIME, self.cloud_acceptor.accept(visitor)).await {
            Ok(Ok(stream)) => {
                let http2 = tls::protocol(&stream) == Some(tls::HTTP2);
                let visitor = CloudVisitor {
                    stream,
                    address,
                    http2,
                    admitted,
                };
                match self.cloud_visitors.try_send(visitor) {
                    Ok(()) => return Ok(Arrived::HandedOver(HandedOver::Cloud)),
                    Err(_) => Refusal::CloudBusy,
                }
            }
            Ok(Err(_)) => Refusal::Handshake,
            Err(_) => Refusal::TooSlow,
        };
        Err(SentAway {
            refusal,
            to_tell: None,
        })
    }
}

/// What becomes of a visitor's bytes, for its session and the counters.
struct Observed<'a> {
    session: &'a Session,
    metrics: &'a Metrics,
}

impl splice::Observer for Observed<'_> {
    fn heard(&self, _octets: usize) {
        self.session.active();
    }

    fn sent(&self, _octets: usize) {
        self.session.active();
    }

    fn raw(&self, came: bool) {
        self.metrics.raw_connection(came);
    }

    fn copied(&self) {
        self.metrics.splice_fallback();
    }
}

fn prepare(visitor: &TcpStream) {
    // Neither is worth losing a visitor over.
    let _ = visitor.set_nodelay(true);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE / 4);
    let _ = SockRef::from(visitor).set_tcp_keepalive(&keepalive);
}

/// What a connection begins with. It is decided once, by the first octet.
enum First {
    /// A ClientHello: all octets so far, and the host they name.
    Hello { octets: Bytes, name: String },
    /// The header of a raw connection; `None` if it is none after all.
    Raw(Option<Header>),
}

async fn read_first(visitor: &TcpStream) -> Result<First, Refusal> {
    let mut octets = BytesMut::new();
    let mut reader = HelloReader::default();
    loop {
        // No buffer is held for a visitor who has sent nothing.
        visitor.readable().await.map_err(|_| Refusal::LeftEarly)?;
        octets.reserve(HELLO_PORTION);
        let before = octets.len();
        match visitor.try_read_buf(&mut octets) {
            Ok(0) => return Err(Refusal::LeftEarly),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return Err(Refusal::LeftEarly),
        }
        if octets[0] == raw::FIRST_OCTET {
            match octets.len().cmp(&raw::HEADER) {
                Ordering::Less => continue,
                // An agent sends nothing more before it is told to.
                Ordering::Greater => return Ok(First::Raw(None)),
                Ordering::Equal => {
                    let header = octets.first_chunk().and_then(Header::read);
                    return Ok(First::Raw(header));
                }
            }
        }
        match reader.push(&octets[before..]) {
            Ok(Progress::NeedMore) => {}
            Ok(Progress::Name(name)) => {
                let octets = octets.freeze();
                return Ok(First::Hello { octets, name });
            }
            Ok(Progress::NoName) => return Err(Refusal::NoName),
            Err(
                NotAHello::NotTls
                | NotAHello::OtherMessage
                | NotAHello::TooLong
                | NotAHello::Malformed,
            ) => return Err(Refusal::NotTls),
        }
    }
}

/// Tells the visitor that nobody here has the name, then ends this side and lets it read that before the close.
async fn alert(mut visitor: TcpStream) {
    let told = timeout(ALERT_LINGER, async {
        visitor.write_all(&UNRECOGNIZED_NAME).await?;
        visitor.shutdown().await
    });
    if let Ok(Ok(())) = told.await {
        splice::drain(&visitor, ALERT_LINGER).await;
    }
}
