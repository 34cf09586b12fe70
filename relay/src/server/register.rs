//! An agent arrives: its key proved by TLS, its device found, its hello answered, its session attached until the tunnel
//! ends. The functions stand in that order; the same for QUIC and TLS, which differ only in how they begin and end.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use directory::{Device, DeviceId, DeviceName, PublicKey, Reader};
use tokio::io::join;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::frame::Ticket;
use wire::{ALPN_CARRIER, ALPN_TUNNEL, CloseCode, Features, Frame, Hello};

use crate::carrier::dialled::Dialled;
use crate::carrier::raw::SealKey;
use crate::control_stream::{ControlError, ControlStream, read_first};
use crate::counts::{Counted, CountedOfAddress, CountsByAddress};
use crate::quic::{self, Connection, Endpoint, Incoming, RelaySide};
use crate::tls::{self, Prefixed, TlsStream};
use crate::turns;
use crate::workers::Worker;

use super::handed::{Message, NoMessage};
use super::limits::{HELLO_TIME, Limits};
use super::metrics::{HandshakeKind, Metrics, Outcome};
use super::ports::Ports;
use super::predecessor::Predecessor;
use super::presence::{Attachment, Presence};
use super::refusal::Rejection;
use super::sessions::{Session, Sessions, Tunnel};

/// QUIC handshakes under way at a time, of all and of one address. Each costs a key exchange and a signature, and stays for
/// [`HELLO_TIME`] at most, or [`BUSY_TIME`]. Agents behind one address that are refused come again with their back-off.
const MAX_HANDSHAKES: usize = 4096;
const MAX_HANDSHAKES_PER_ADDRESS: usize = 1024;

/// Of the TLS handshakes at a worker, one address may have this part: who begins them and says no more holds each for
/// [`HELLO_TIME`], and shall not shut others out.
const TLS_PART_PER_ADDRESS: usize = 4;

/// Everything an agent's path needs.
pub(crate) struct Register {
    pub(crate) directory: Reader,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) presence: Presence,
    pub(super) ports: Arc<Ports>,
    /// The process before, if there is one that still has tunnels.
    pub(super) predecessor: Option<Arc<Predecessor>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) quic: Arc<RelaySide>,
    pub(crate) limits: Limits,
    /// TLS handshakes under way at this worker, the operator's own hosts' among them.
    pub(crate) tls_handshakes: Arc<AtomicUsize>,
    pub(crate) tls_handshakes_by_address: CountsByAddress,
    /// What this relay does.
    pub(crate) features: Features,
    /// Cancelled once the relay takes no more of them.
    pub(crate) leaving: CancellationToken,
    /// The tasks of tunnels, which outlive those of visitors.
    pub(crate) tasks: TaskTracker,
    /// Where this register's agents arrive, and stay.
    pub(crate) worker: Worker,
}

/// How long a handshake over QUIC may take of an agent that was asked to show its address, because many came at once: as long as that
/// waits for a relay that has answered. To end it sooner is to have it begin anew.
const BUSY_TIME: Duration = Duration::from_secs(10);

/// QUIC handshakes under way, at all endpoints; clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handshakes {
    all: Arc<AtomicUsize>,
    by_address: CountsByAddress,
}

/// Accepts tunnels over QUIC until the endpoint closes.
pub(crate) async fn accept_quic(
    register: Arc<Register>,
    endpoint: Endpoint,
    handshakes: Handshakes,
) {
    while let Some(incoming) = endpoint.accept().await {
        if register.leaving.is_cancelled() {
            incoming.refuse();
            register.handshake(HandshakeKind::Quic, Outcome::Refused);
            register.refuse(Rejection::Leaving);
            continue;
        }
        let address = incoming.remote_address.ip();
        let many = handshakes.all.load(Relaxed) > register.limits.retry_above();
        // An address that is not proved may be forged, so what it has used up shuts nobody out (RFC 9000 section 8.1).
        let fast = || !register.limits.handshake(address, !incoming.may_retry);
        if incoming.may_retry && (many || fast()) {
            incoming.retry();
            register.metrics.measured.retry();
            continue;
        }
        if !incoming.may_retry && fast() {
            incoming.refuse();
            register.handshake(HandshakeKind::Quic, Outcome::Refused);
            register.refuse(Rejection::TooFast);
            continue;
        }
        let (Some(one), Some(of_address)) = (
            Counted::below(&handshakes.all, MAX_HANDSHAKES),
            handshakes
                .by_address
                .below(address, MAX_HANDSHAKES_PER_ADDRESS),
        ) else {
            incoming.refuse();
            register.handshake(HandshakeKind::Quic, Outcome::Refused);
            register.refuse(Rejection::Busy);
            continue;
        };
        let here = Arc::clone(&register);
        let came_at = Instant::now();
        let arriving = Box::pin(async move {
            let arrival = here.over_quic(incoming).await?;
            drop((one, of_address));
            here.welcome(arrival, came_at).await
        });
        register
            .tasks
            .spawn(Arc::clone(&register).receive(arriving));
    }
}

/// An agent that has proved its key and said hello.
struct Arrival {
    device: DeviceId,
    name: DeviceName,
    key: PublicKey,
    hello: Hello,
    seen_as: SocketAddr,
    tunnel: Tunnel,
    seal_key: Option<SealKey>,
    control: ControlStream,
}

/// An agent that has been told so.
struct Attached {
    session: Arc<Session>,
    control: ControlStream,
}

impl Register {
    /// The life of a tunnel. Its task is to cost little while it rests: whatever is soon over is boxed.
    async fn receive(
        self: Arc<Self>,
        arriving: Pin<Box<impl Future<Output = Result<Attached, Rejection>>>>,
    ) {
        let Attached {
            session,
            mut control,
        } = match arriving.await {
            Ok(attached) => attached,
            Err(rejection) => return self.refuse(rejection),
        };
        let code = attend(&session, &self.ports, &mut control).await;
        session.end(code);
        self.detach(&session, session.end_code());
        Box::pin(part(&session.tunnel, &mut control, session.end_code())).await;
    }

    async fn over_quic(&self, incoming: Incoming) -> Result<Arrival, Rejection> {
        let time = match incoming.may_retry {
            true => HELLO_TIME,
            false => BUSY_TIME,
        };
        let connection = timeout(time, self.quic.accept(incoming)).await;
        self.handshake(HandshakeKind::Quic, Outcome::of(&connection));
        let connection = connection
            .ok()
            .and_then(Result::ok)
            .ok_or(Rejection::Handshake)?;
        self.greet_over_quic(&connection)
            .await
            .map_err(|(rejection, code)| {
                quic::close(&connection, code);
                rejection
            })
    }

    async fn greet_over_quic(
        &self,
        connection: &Connection,
    ) -> Result<Arrival, (Rejection, CloseCode)> {
        let key =
            quic::agent_key(connection).ok_or((Rejection::NoKey, CloseCode::UnknownDevice))?;
        let (device, name) = self
            .whose(&key)
            .ok_or((Rejection::UnknownDevice, CloseCode::UnknownDevice))?;
        let greeted = timeout(HELLO_TIME, async {
            let (send, recv) = connection.accept_bi().await.ok()?;
            let mut control = ControlStream::new(join(recv, send));
            let hello = control.next().await.ok()?;
            Some((hello, control))
        });
        let no_hello = (Rejection::NoHello, CloseCode::TooSlow);
        let (hello, control) = greeted.await.ok().flatten().ok_or(no_hello)?;
        Ok(Arrival {
            device,
            name,
            key,
            hello: as_hello(hello)?,
            seen_as: connection.remote_address(),
            tunnel: Tunnel::Quic(connection.clone()),
            seal_key: quic::seal_key(connection),
            control,
        })
    }

    /// A TLS handshake that may begin at this worker, until the value is dropped; `None` if there are as many as may be, in all
    /// or from one address. A crowd of them would keep the thread from those who are served.
    pub(crate) fn begin_tls(&self, from: IpAddr) -> Option<(Counted, CountedOfAddress)> {
        let most = self.limits.tls_handshakes();
        let of_address = most.div_ceil(TLS_PART_PER_ADDRESS);
        let of_address = self.tls_handshakes_by_address.below(from, of_address)?;
        Some((Counted::below(&self.tls_handshakes, most)?, of_address))
    }

    /// A connection to `relay.<zone>` on the front's TCP port: a tunnel, or a carrier for a visitor who waits.
    pub(crate) async fn over_tcp(self: &Arc<Self>, stream: Prefixed, seen_as: SocketAddr) {
        let came_at = Instant::now();
        if !self.limits.handshake(seen_as.ip(), true) {
            self.handshake(HandshakeKind::Tls, Outcome::Refused);
            return self.refuse(Rejection::TooFast);
        }
        let Some(under_way) = self.begin_tls(seen_as.ip()) else {
            self.handshake(HandshakeKind::Tls, Outcome::Refused);
            return self.refuse(Rejection::Busy);
        };
        let accepted = timeout(HELLO_TIME, async {
            turns::for_a_handshake().await;
            self.acceptor.accept(stream).await
        })
        .await;
        self.handshake(HandshakeKind::Tls, Outcome::of(&accepted));
        let Ok(Ok(stream)) = accepted else {
            return self.refuse(Rejection::Handshake);
        };
        drop(under_way);
        match tls::protocol(&stream) {
            Some(protocol) if protocol == ALPN_TUNNEL => {
                let key = tls::agent_key(&stream);
                let here = Arc::clone(self);
                let arriving = Box::pin(async move {
                    let arrival = here.greet_over_tls(key, stream.into(), seen_as).await?;
                    here.welcome(arrival, came_at).await
                });
                // Its own task: a visitor's must end when it is no visitor.
                self.tasks.spawn(Arc::clone(self).receive(arriving));
            }
            Some(protocol) if protocol == ALPN_CARRIER => {
                let taken = self.take_carrier(stream.into(), seen_as.ip()).await;
                if let Err(rejection) = taken {
                    self.refuse(rejection);
                }
            }
            Some(_) | None => self.refuse(Rejection::WrongProtocol),
        }
    }

    async fn take_carrier(&self, mut stream: TlsStream, from: IpAddr) -> Result<(), Rejection> {
        let first = timeout(HELLO_TIME, read_first(&mut stream)).await;
        match first.ok().and_then(Result::ok) {
            Some(Frame::Carry { ticket }) => {
                if let Some(predecessor) = &self.predecessor
                    && !self.sessions.expect_carrier(&ticket)
                    && predecessor.is_there()
                {
                    let limits = self.limits.clone();
                    let expected = move || limits.was_carrier(from);
                    let carried = Box::pin(predecessor.carry(ticket, stream, expected)).await;
                    return carried.map_err(|_| Rejection::UnknownTicket);
                }
                self.redeem(&ticket, stream.into())?;
                self.limits.was_carrier(from);
                Ok(())
            }
            Some(_) => Err(Rejection::BadHello),
            None => Err(Rejection::NoHello),
        }
    }

    fn redeem(&self, ticket: &Ticket, carrier: Dialled) -> Result<(), Rejection> {
        let redeemed = self.sessions.redeem(ticket, carrier);
        redeemed.map_err(|_| Rejection::UnknownTicket)
    }

    /// Takes a carrier that has come to the successor of this process to whoever has made its ticket.
    pub(super) async fn take_handed_carrier(
        &self,
        ticket: Ticket,
        stream: UnixStream,
    ) -> Result<(), NoMessage> {
        if let Some(predecessor) = &self.predecessor
            && !self.sessions.expect_carrier(&ticket)
            && predecessor.is_there()
        {
            // If it does not hear it, nobody else waits for the carrier.
            let _ = predecessor.tell(&Message::Carrier { ticket, stream }).await;
            return Ok(());
        }
        let carrier = Dialled::passed_on(stream).map_err(|_| NoMessage::Descriptors)?;
        if let Err(rejection) = self.redeem(&ticket, carrier) {
            self.refuse(rejection);
        }
        Ok(())
    }

    async fn greet_over_tls(
        &self,
        key: Option<PublicKey>,
        stream: TlsStream,
        seen_as: SocketAddr,
    ) -> Result<Arrival, Rejection> {
        let seal_key = tls::seal_key(&stream);
        let mut control = ControlStream::new(stream);
        let greeted = async {
            let key = key.ok_or((Rejection::NoKey, CloseCode::UnknownDevice))?;
            let (device, name) = self
                .whose(&key)
                .ok_or((Rejection::UnknownDevice, CloseCode::UnknownDevice))?;
            let hello = timeout(HELLO_TIME, control.next()).await;
            let hello = hello
                .ok()
                .and_then(Result::ok)
                .ok_or((Rejection::NoHello, CloseCode::TooSlow))?;
            Ok((key, device, name, as_hello(hello)?))
        };
        let tunnel = self.sessions.tls_tunnel();
        match greeted.await {
            Ok((key, device, name, hello)) => Ok(Arrival {
                device,
                name,
                key,
                hello,
                seen_as,
                tunnel,
                seal_key,
                control,
            }),
            Err((rejection, code)) => {
                part(&tunnel, &mut control, code).await;
                Err(rejection)
            }
        }
    }

    fn whose(&self, key: &PublicKey) -> Option<(DeviceId, DeviceName)> {
        let device = self.directory.device_by_key(key)?;
        Some((id_of(&device)?, device.name))
    }

    fn handshake(&self, kind: HandshakeKind, outcome: Outcome) {
        self.metrics.measured.handshake(kind, outcome);
    }

    fn refuse(&self, rejection: Rejection) {
        self.metrics.tunnel_refused(rejection);
        tracing::info!(reason = rejection.name(), "an agent was refused");
    }

    /// Attaches the session of an agent who came at `came_at`, and answers the hello.
    async fn welcome(&self, arrival: Arrival, came_at: Instant) -> Result<Attached, Rejection> {
        let Arrival {
            device,
            name,
            key,
            hello,
            seen_as,
            tunnel,
            seal_key,
            mut control,
        } = arrival;
        let agreed = match hello.agree(self.features) {
            Ok(agreed) => agreed,
            Err(code) => {
                part(&tunnel, &mut control, code).await;
                return Err(Rejection::BadHello);
            }
        };
        if self.leaving.is_cancelled() {
            part(&tunnel, &mut control, CloseCode::Draining).await;
            return Err(Rejection::Leaving);
        }
        let session = self.sessions.session(
            device,
            key,
            hello.instance,
            agreed.features,
            seen_as,
            tunnel,
            seal_key,
            self.worker.clone(),
            Instant::now(),
        );
        let welcome = Frame::Welcome {
            version: agreed.version,
            features: agreed.features,
            seen_as,
        };
        // First attached, then welcomed: an agent that knows it is attached can be visited.
        self.attach(&session, name, hello.software);
        match control.send(&welcome).await {
            Ok(()) => {
                let measured = &self.metrics.measured;
                measured.tunnel_attach(session.transport(), came_at.elapsed());
            }
            Err(_) => session.end(CloseCode::Unresponsive),
        }
        Ok(Attached { session, control })
    }

    fn attach(&self, session: &Arc<Session>, name: DeviceName, software: String) {
        let transport = session.transport();
        self.metrics.tunnel_attached(transport);
        let before = self.sessions.attach(session, || {
            let since = self.presence.of(&session.device);
            self.presence.attached(
                session.device,
                Attachment {
                    name,
                    since: since.map_or_else(SystemTime::now, |attachment| attachment.since),
                    transport,
                    seen_as: session.seen_as,
                    software,
                },
            );
        });
        if let Some(before) = before {
            let took_ports = before.takes_ports();
            self.displace(before, session);
            if took_ports {
                self.ports.review(&session.device);
            }
        }
        if let Some(predecessor) = &self.predecessor {
            predecessor.attached(session.device, session.instance);
        }
        // The device may have lost its key between the look-up and the attachment, or have other limits.
        match self.directory.device_by_key(&session.key) {
            Some(device) if id_of(&device) == Some(session.device) => {
                session.limit(|| self.directory.limits(&device.name));
            }
            Some(_) | None => session.end(CloseCode::Removed),
        }
        // And the relay may have begun to leave.
        if self.leaving.is_cancelled() {
            session.tell(Frame::Drain {
                reconnect_after: Duration::ZERO,
            });
        }
        tracing::debug!(transport = transport.name(), "an agent is attached");
    }

    /// The newest tunnel wins. One of the same agent takes over gently: visitors on the old tunnel may finish there.
    fn displace(&self, before: Arc<Session>, newest: &Session) {
        if before.instance != newest.instance {
            return before.end(CloseCode::Displaced);
        }
        if before.close_if_empty() {
            return before.end(CloseCode::Superseded);
        }
        before.tell(Frame::Drain {
            reconnect_after: Duration::ZERO,
        });
        self.tasks.spawn(async move {
            before.left_alone().await;
            before.end(CloseCode::Superseded);
        });
    }

    fn detach(&self, session: &Arc<Session>, code: CloseCode) {
        self.metrics.tunnel_detached(session.transport(), code);
        self.sessions
            .detach(session, || self.presence.detached(&session.device));
        if session.takes_ports() {
            self.ports.review(&session.device);
        }
        tracing::debug!(code = code.name(), "a tunnel has ended");
    }
}

/// Answers the agent's frames and sends it ours, until something ends the tunnel.
async fn attend(
    session: &Arc<Session>,
    ports: &Arc<Ports>,
    control: &mut ControlStream,
) -> CloseCode {
    let mut ended = pin!(session.ended().cancelled());
    loop {
        let said = poll_fn(|cx| {
            // The end first, then what the agent says, then what we have to say.
            if ended.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(session.end_code()));
            }
            if let Poll::Ready(frame) = control.poll_next(cx) {
                return Poll::Ready(heed(session, ports, frame));
            }
            session.commands.poll_next(cx).map(|frame| Ok(Some(frame)))
        });
        match said.await {
            Ok(None) => {}
            Ok(Some(frame)) => {
                if Box::pin(control.send(&frame)).await.is_err() {
                    return CloseCode::Unresponsive;
                }
            }
            Err(code) => return code,
        }
    }
}

/// What is to be said to what the agent has said; `Err` is an end.
fn heed(
    session: &Arc<Session>,
    ports: &Arc<Ports>,
    frame: Result<Frame, ControlError>,
) -> Result<Option<Frame>, CloseCode> {
    let frame = frame.map_err(|error| match error {
        ControlError::Ended | ControlError::Io(_) => CloseCode::Done,
        ControlError::Frame(_) => CloseCode::Protocol,
    })?;
    session.spoke();
    match frame {
        Frame::Ping { sequence } => Ok(Some(Frame::Pong { sequence })),
        Frame::Pong { .. } => Ok(None),
        Frame::WantIds => Ok(session.roaming_ids()),
        Frame::Publish { ports: those } if session.takes_ports() => {
            ports.publish(session, those);
            Ok(None)
        }
        Frame::Close { code } => Err(code.unwrap_or(CloseCode::Done)),
        Frame::Hello(_)
        | Frame::Welcome { .. }
        | Frame::Dial { .. }
        | Frame::Limits { .. }
        | Frame::Ids { .. }
        | Frame::Publish { .. }
        | Frame::Published { .. }
        | Frame::Drain { .. }
        | Frame::Open(_)
        | Frame::Carry { .. } => Err(CloseCode::Protocol),
    }
}

/// The right of `device` to its tunnel has changed: ends the sessions whose key is not valid any more.
pub(crate) fn recheck(sessions: &Sessions, id: &DeviceId, is_valid: impl Fn(&PublicKey) -> bool) {
    for session in sessions.all_of(id) {
        if !is_valid(&session.key) {
            session.end(CloseCode::Removed);
        }
    }
}

fn id_of(device: &Device) -> Option<DeviceId> {
    device.identity.as_ref().map(|identity| identity.id)
}

fn as_hello(frame: Frame) -> Result<Hello, (Rejection, CloseCode)> {
    match frame {
        Frame::Hello(hello) => Ok(hello),
        Frame::Welcome { .. }
        | Frame::Ping { .. }
        | Frame::Pong { .. }
        | Frame::Dial { .. }
        | Frame::Limits { .. }
        | Frame::WantIds
        | Frame::Ids { .. }
        | Frame::Publish { .. }
        | Frame::Published { .. }
        | Frame::Drain { .. }
        | Frame::Close { .. }
        | Frame::Open(_)
        | Frame::Carry { .. } => Err((Rejection::BadHello, CloseCode::Protocol)),
    }
}

/// Says why and closes.
async fn part(tunnel: &Tunnel, control: &mut ControlStream, code: CloseCode) {
    match tunnel {
        Tunnel::Quic(connection) => quic::close(connection, code),
        Tunnel::Tls { .. } => {
            let _ = control.send(&Frame::Close { code: Ok(code) }).await;
            control.finish().await;
        }
    }
}
