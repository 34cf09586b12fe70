//! A visitor arrives: admitted, its name read, its device found, a carrier opened, its bytes pumped. The functions stand
//! in that order. Agents over TLS, and visitors of the operator's own hosts, arrive through the same door; all of them may come by way
//! of a proxy that says who they are.
//!
//! Until it is known which worker is to serve it, a connection is in nobody's event queue: mostly its first octets are there
//! when it is accepted.

mod cloud;
mod first_octets;
mod observed;
mod port;
mod proxy_header;
mod returning;

use std::fmt;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream as StdTcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use directory::{DeviceId, OperatorName, Place, Reader};
use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::time::{Instant as Deadline, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::frame::Open;
use wire::proxy_v2::Ends;
use wire::raw::Header;

use crate::carrier::Carrier;
use crate::carrier::raw::TurnedAway;
use crate::counts::prefix;
use crate::pace::Paced;
use crate::records::Recorder;
use crate::splice::{self, Moved, Orders, RawWay};
use crate::tls::{self, Prefixed};
use crate::workers::{Served, Worker};

pub(crate) use cloud::Cloud;
pub use cloud::CloudVisitor;
pub(super) use first_octets::HELLO_PORTION;
use first_octets::{First, FirstOctets, Progressed, name_in};
use observed::Observed;
use proxy_header::ProxyHeader;
pub(crate) use returning::Returning;

use super::handed::{Message, NOBODY, NoMessage};
use super::limits::{Admitted, DeviceVisitor, HELLO_TIME, Limits, Silent};
use super::listen;
use super::metrics::{HandedOver, Metrics, end_name};
use super::ports::PortDoor;
use super::predecessor::{Predecessor, Untold};
use super::presence::Transport;
use super::proxies::Proxies;
use super::recorded::Visit;
use super::refusal::Refusal;
use super::register::Register;
use super::sessions::{OpenError, Session, Sessions};

/// How long a visitor who was sent an alert may take to read it before the connection closes.
const ALERT_LINGER: Duration = Duration::from_secs(1);

/// The pause after the kernel could not hand over a connection: descriptors come back when visitors leave.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Everything the path of a visitor needs who comes in at one worker.
pub(crate) struct Front {
    /// Where the front listens.
    pub(crate) address: SocketAddr,
    pub(crate) directory: Reader,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) register: Arc<Register>,
    /// The process before, if there is one that still has tunnels.
    pub(super) predecessor: Option<Arc<Predecessor>>,
    pub(crate) limits: Limits,
    /// Who may say whose a connection is.
    pub(super) proxies: Proxies,
    /// Who have come in here and have not said their name.
    pub(crate) silent: Silent,
    pub(crate) metrics: Arc<Metrics>,
    /// Where agents bring their tunnels.
    pub(crate) host: Place,
    /// How `cloud.<zone>` is reached, if it is here.
    pub(crate) cloud: Option<Cloud>,
    /// Keeps a record of each visitor's connection, if the operator wants any.
    pub(crate) recorder: Option<Recorder>,
    /// Whether agents may still be on their way back from an earlier run.
    pub(crate) returning: Returning,
    /// Cancelled when the relay stops for good: cuts whoever is still here.
    pub(crate) cut: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) worker: Worker,
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Accepts visitors until `stop`: at the front, or at a public port.
pub(crate) async fn accept(
    front: Arc<Front>,
    listener: Arc<AsyncFd<TcpListener>>,
    door: Option<Arc<PortDoor>>,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            biased; // stopping must not wait for a gap between visitors
            () = stop.cancelled() => break,
            accepted = listener.async_io(Interest::READABLE, accept_one) => accepted,
        };
        match accepted {
            Ok((visitor, address)) => front.come(visitor, address, door.clone()),
            Err(error) => {
                front.metrics.accept_error(&error);
                tracing::debug!(%error, "the kernel could not hand over a visitor");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // The front's listeners go to the next process, as those of ports do. Whoever is in the queue of a port's when it is closed would be lost.
    if door
        .as_ref()
        .is_some_and(|door| !door.is_attended_to_elsewhere())
    {
        for _ in 0..listen::BACKLOG {
            let Ok((visitor, address)) = accept_one(listener.get_ref()) else {
                return;
            };
            front.come(visitor, address, door.clone());
        }
    }
}

fn accept_one(listener: &TcpListener) -> io::Result<(StdTcpStream, SocketAddr)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (visitor, address) = acceptfrom_with(listener, flags)?;
    let address = address.and_then(|address| SocketAddr::try_from(address).ok());
    let address = address.ok_or(io::ErrorKind::NotConnected)?;
    Ok((visitor.into(), address))
}

/// Where a visitor comes from, and where it has come to.
#[derive(Clone, Copy, Debug)]
struct Way {
    visitor: SocketAddr,
    /// As a proxy says it; absent: where the front listens.
    front: Option<SocketAddr>,
}

impl Way {
    /// Without a proxy.
    fn straight(visitor: SocketAddr) -> Self {
        let front = None;
        Self { visitor, front }
    }
}

impl From<Ends> for Way {
    fn from(ends: Ends) -> Self {
        Self {
            visitor: ends.source,
            front: Some(ends.destination),
        }
    }
}

/// Where a visitor got to.
enum Arrived {
    /// To the session of its device.
    Guest(Box<Guest>),
    /// To somebody here who goes on with it, and counts it.
    HandedOver(HandedOver),
}

/// A visitor whose device is attached.
struct Guest {
    visitor: StdTcpStream,
    visit: Visit,
    /// Where it has come to, if a proxy has said so.
    front: Option<SocketAddr>,
    hello: Bytes,
    name: String,
    session: Arc<Session>,
    /// Where it has come to, if that is a public port of the device.
    door: Option<Arc<PortDoor>>,
    places: (Admitted, DeviceVisitor),
}

/// A visitor and its device, joined by a carrier.
struct Joined {
    visitor: TcpStream,
    visit: Visit,
    carrier: Carrier,
    session: Arc<Session>,
    door: Option<Arc<PortDoor>>,
    /// Octets that are on the carrier already.
    hello: usize,
    places: (Admitted, DeviceVisitor),
}

/// A visitor that goes no further.
struct SentAway {
    refusal: Refusal,
    /// What there is to tell it on, and its place among the visitors until it has been told.
    to_tell: Option<(StdTcpStream, Admitted)>,
}

impl SentAway {
    /// Boxed: whoever is not sent away is not to have room for it.
    fn telling(refusal: Refusal, visitor: StdTcpStream, place: Admitted) -> Box<Self> {
        let to_tell = Some((visitor, place));
        Box::new(Self { refusal, to_tell })
    }

    /// The same where nothing can be told any more.
    fn silently(refusal: Refusal) -> Box<Self> {
        let to_tell = None;
        Box::new(Self { refusal, to_tell })
    }
}

impl Front {
    /// Takes in whoever has been accepted: from a proxy as whom that says it to be, from elsewhere as who it is.
    fn come(
        self: &Arc<Self>,
        visitor: StdTcpStream,
        address: SocketAddr,
        door: Option<Arc<PortDoor>>,
    ) {
        let here = Arc::clone(self);
        let until = Deadline::now() + HELLO_TIME;
        if self.proxies.include(address.ip()) {
            let admitted = self.limits.admit_from_proxy(address.ip(), &self.silent);
            self.admit(admitted, |admitted| {
                here.arrive_from_proxy(visitor, address, until, admitted, door)
            });
        } else {
            let admitted = self.limits.admit(address.ip(), &self.silent);
            let way = Way::straight(address);
            self.admit(admitted, |admitted| {
                here.arrive(visitor, way, until, admitted, door)
            });
        }
    }

    /// Lets one in who will arrive so, or counts why not.
    fn admit<Arriving>(
        self: &Arc<Self>,
        admitted: Result<Admitted, Refusal>,
        arrive: impl FnOnce(Admitted) -> Arriving,
    ) where
        Arriving: Future<Output = Result<Arrived, Box<SentAway>>> + Send + 'static,
    {
        self.metrics.visitor_accepted();
        match admitted {
            Ok(admitted) => {
                // Boxed, as is the rest that is soon over: most of its life a visitor is pumped, or rests.
                let arriving = Box::pin(arrive(admitted));
                let visit = Arc::clone(self).visit(Instant::now(), arriving);
                self.tasks.spawn(visit);
            }
            Err(refusal) => self.metrics.visitor_refused(refusal),
        }
    }

    async fn visit(
        self: Arc<Self>,
        came_at: Instant,
        arriving: Pin<Box<impl Future<Output = Result<Arrived, Box<SentAway>>>>>,
    ) {
        let guest = match arriving.await {
            Ok(Arrived::Guest(guest)) => guest,
            Ok(Arrived::HandedOver(to)) => return self.metrics.visitor_handed_over(to),
            Err(sent_away) => return Box::pin(self.send_away(sent_away)).await,
        };
        let worker = guest.session.worker(&self.worker);
        let served = worker.serve();
        if worker == self.worker {
            return self.host(guest, came_at, served).await;
        }
        let hosted = Arc::clone(&self).host(guest, came_at, served);
        self.tasks.spawn_on(hosted, worker.runtime());
    }

    /// At the worker that is to serve the visitor.
    async fn host(self: Arc<Self>, guest: Box<Guest>, came_at: Instant, _served: Served) {
        let mut joined = match Box::pin(self.join(guest)).await {
            Ok(joined) => joined,
            Err(sent_away) => return Box::pin(self.send_away(sent_away)).await,
        };
        let kind = joined.carrier.kind();
        self.metrics.measured.visitor_open(kind, came_at.elapsed());
        joined.session.octets.to_device.add(joined.hello as u64);
        let mut moved = match joined.door.clone() {
            None => self.pump(&mut joined).await,
            Some(door) => Box::pin(self.pump_at_port(&mut joined, &door)).await,
        };
        moved.outwards += joined.hello as u64;
        self.sessions.tell_octets(&joined.session);
        self.metrics.visitor_ended(moved);
        if let Some(recorder) = &self.recorder {
            let (device, carrier) = (joined.session.device, joined.carrier.kind());
            recorder.record(joined.visit.record(device, carrier, moved));
        }
        let end = end_name(moved.end);
        let Moved {
            outwards: to_device,
            inwards: to_visitor,
            ..
        } = moved;
        tracing::debug!(
            end,
            to_device,
            to_visitor,
            "a visitor's connection has ended"
        );
    }

    async fn send_away(&self, sent_away: Box<SentAway>) {
        let SentAway { refusal, to_tell } = *sent_away;
        self.metrics.visitor_refused(refusal);
        tracing::debug!(reason = refusal.name(), "a visitor was sent away");
        if let Some((visitor, admitted)) = to_tell
            && refusal.alerts()
        {
            // Who has gone meanwhile need not be told.
            let _ = match self.limits.linger(admitted.from()) {
                Some(_place) => Box::pin(alert(visitor)).await,
                None => (&visitor).write_all(&tls::UNRECOGNIZED_NAME), // mostly it is heard all the same
            };
        }
    }

    /// By way of a proxy, which says first who it is.
    async fn arrive_from_proxy(
        self: Arc<Self>,
        visitor: StdTcpStream,
        proxy: SocketAddr,
        until: Deadline,
        mut admitted: Admitted,
        door: Option<Arc<PortDoor>>,
    ) -> Result<Arrived, Box<SentAway>> {
        let said = match ProxyHeader::default().read(&visitor) {
            Ok(proxy_header::Progressed::Said(ends)) => Ok(ends),
            Ok(proxy_header::Progressed::NeedMore(header)) => {
                self.in_time(until, header.wait(&visitor)).await
            }
            Err(refusal) => Err(refusal),
        };
        let way = match said {
            Ok(ends) => {
                self.metrics.proxy_header(ends.is_some());
                ends.map_or(Way::straight(proxy), Way::from)
            }
            Err(refusal) => return Err(SentAway::telling(refusal, visitor, admitted)),
        };
        match admitted.comes_from(way.visitor.ip()) {
            Ok(()) => self.arrive(visitor, way, until, admitted, door).await,
            Err(refusal) => Err(SentAway::telling(refusal, visitor, admitted)),
        }
    }

    async fn arrive(
        self: Arc<Self>,
        visitor: StdTcpStream,
        way: Way,
        until: Deadline,
        mut admitted: Admitted,
        door: Option<Arc<PortDoor>>,
    ) -> Result<Arrived, Box<SentAway>> {
        if let Some(door) = door {
            return self.arrive_at_port(door, visitor, way, admitted);
        }
        let first = match FirstOctets::default().read(&visitor) {
            Ok(Progressed::Enough(first)) => Ok(first),
            Ok(Progressed::NeedMore(octets)) => {
                self.in_time(until, octets.wait(&visitor, &self.limits))
                    .await
            }
            Err(refusal) => Err(refusal),
        };
        admitted.named();
        match first {
            Ok(First::Hello { octets, name }) => {
                self.lead(visitor, way, octets, name, admitted).await
            }
            Ok(First::Raw(header)) => Ok(Arrived::HandedOver(match header {
                Some(header) => self.admit_raw(header, visitor, way.visitor.ip()).await,
                None => self.turn_away(TurnedAway::BadHeader),
            })),
            Err(refusal) => Err(SentAway::telling(refusal, visitor, admitted)),
        }
    }

    /// Takes in a visitor who has come to the successor of this process and asks for a device that had no tunnel there.
    pub(super) fn take_in_visitor(
        self: &Arc<Self>,
        device: DeviceId,
        proxied: Option<Ends>,
        hello: Bytes,
        visitor: StdTcpStream,
    ) {
        let Some(name) = name_in(&hello) else {
            return self.nonsense(NoMessage::Malformed);
        };
        let (Ok(address), Ok(())) = (visitor.peer_addr(), visitor.set_nonblocking(true)) else {
            self.metrics.visitor_accepted();
            return self.metrics.visitor_refused(Refusal::LeftEarly);
        };
        let way = proxied.map_or(Way::straight(address), Way::from);
        let here = Arc::clone(self);
        // Whose name it is, the successor knows better: it hears of changes.
        let device = (device != NOBODY).then_some(Some(device));
        let admitted = self.limits.admit(way.visitor.ip(), &self.silent);
        self.admit(admitted, |mut admitted| async move {
            admitted.named();
            here.find(visitor, way, hello, name, device, admitted).await
        });
    }

    /// What a visitor is yet to send before it has said its name.
    async fn in_time<T>(
        &self,
        until: Deadline,
        sent: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        tokio::select! {
            biased;
            () = self.cut.cancelled() => Err(Refusal::LeftEarly),
            () = self.silent.gives_way() => Err(Refusal::GaveWay),
            sent = timeout_at(until, sent) => sent.unwrap_or(Err(Refusal::TooSlow)),
        }
    }

    /// Takes a raw connection to whoever has made its ticket.
    pub(super) async fn admit_raw(
        &self,
        header: Header,
        stream: StdTcpStream,
        from: IpAddr,
    ) -> HandedOver {
        if let Some(predecessor) = &self.predecessor
            && !self.sessions.door.expects(&header.ticket)
            && predecessor.is_there()
        {
            // If it does not hear it, nobody else waits for the connection.
            let message = Message::Raw { header, stream };
            return match Box::pin(predecessor.tell(&message)).await {
                Ok(()) => HandedOver::Predecessor,
                Err(_) => self.turn_away(TurnedAway::UnknownTicket),
            };
        }
        match self.sessions.door.admit(&header, stream) {
            Ok(()) => {
                self.limits.was_expected(from);
                HandedOver::Tunnel
            }
            Err(reason) => self.turn_away(reason),
        }
    }

    fn turn_away(&self, reason: TurnedAway) -> HandedOver {
        self.metrics.raw_turned_away(reason);
        tracing::debug!(reason = reason.name(), "a raw connection was turned away");
        HandedOver::Tunnel
    }

    /// Takes the visitor to whoever has the name it asked for.
    async fn lead(
        &self,
        visitor: StdTcpStream,
        way: Way,
        hello: Bytes,
        name: String,
        admitted: Admitted,
    ) -> Result<Arrived, Box<SentAway>> {
        let place = self.directory.zone().locate(&name);
        let cloud = match (&place, &self.cloud) {
            (place, _) if *place == self.host => None,
            (Place::Operator(OperatorName::Cloud), Some(cloud)) => Some(cloud),
            (Place::Device(device), _) => {
                let device = self.directory.device_by_name(device);
                let device =
                    device.map(|device| device.identity.as_ref().map(|identity| identity.id));
                let find = self.find(visitor, way, hello, name, device, admitted);
                return find.await;
            }
            // The hosts of other processes are nobody here.
            (_, _) => {
                let find = self.find(visitor, way, hello, name, None, admitted);
                return find.await;
            }
        };
        let Ok(visitor) = TcpStream::from_std(visitor) else {
            return Err(SentAway::silently(Refusal::LeftEarly));
        };
        let visitor = Prefixed::new(hello, visitor);
        match cloud {
            None => {
                Box::pin(self.register.over_tcp(visitor, way.visitor)).await;
                Ok(Arrived::HandedOver(HandedOver::Tunnel))
            }
            Some(cloud) => Box::pin(self.receive_at(cloud, visitor, way.visitor, admitted)).await,
        }
    }

    /// Finds the session of the visitor's device. A name without a device takes the same steps as a device without a tunnel,
    /// so that the time to the alert does not tell them apart.
    async fn find(
        &self,
        visitor: StdTcpStream,
        way: Way,
        hello: Bytes,
        name: String,
        device: Option<Option<DeviceId>>,
        mut admitted: Admitted,
    ) -> Result<Arrived, Box<SentAway>> {
        let id = device.flatten().unwrap_or(NOBODY);
        let session = self.sessions.of(&id);
        if (session.is_some() || self.returning.is_now())
            && let Err(refusal) = admitted.serve()
        {
            return Err(SentAway::telling(refusal, visitor, admitted));
        }
        let session = match session {
            None if self.returning.is_now() => Box::pin(self.await_return(&id)).await,
            found => found,
        };
        let Some(session) = session else {
            let refusal = if device.is_some() {
                Refusal::NotAttached
            } else {
                Refusal::UnknownName
            };
            return Box::pin(self.hand_over(id, way, hello, visitor, refusal, admitted)).await;
        };
        let there = match session.visitor(way.visitor.ip()) {
            Ok(place) => Some((session, place)),
            Err(_) => self.newer(&session, way.visitor.ip()),
        };
        let Some((session, place)) = there else {
            return Err(SentAway::telling(Refusal::DeviceFull, visitor, admitted));
        };
        Ok(Arrived::Guest(Box::new(Guest {
            visitor,
            visit: Visit::begin(way.visitor),
            front: way.front,
            hello,
            name,
            session,
            door: None,
            places: (admitted, place),
        })))
    }

    /// Hands a visitor whose device has no tunnel here to the process before, or says why it is sent away. Whose name is
    /// nobody's goes the same way, and has its alert from there: from here it would come sooner, and tell the names that exist.
    async fn hand_over(
        &self,
        device: DeviceId,
        way: Way,
        octets: Bytes,
        stream: StdTcpStream,
        otherwise: Refusal,
        admitted: Admitted,
    ) -> Result<Arrived, Box<SentAway>> {
        let Some(predecessor) = self.predecessor.as_ref().filter(|before| before.is_there()) else {
            return Err(SentAway::telling(otherwise, stream, admitted));
        };
        let proxied = way.front.map(|destination| Ends {
            source: way.visitor,
            destination,
        });
        let message = Message::Visitor {
            device,
            proxied,
            octets,
            stream,
        };
        let refusal = match predecessor.tell(&message).await {
            Ok(()) => return Ok(Arrived::HandedOver(HandedOver::Predecessor)),
            Err(Untold::Gone) => otherwise,
            Err(Untold::Busy) => Refusal::PredecessorBusy,
        };
        let Message::Visitor { stream, .. } = message else {
            return Err(SentAway::silently(refusal));
        };
        Err(SentAway::telling(refusal, stream, admitted))
    }

    async fn await_return(&self, device: &DeviceId) -> Option<Arc<Session>> {
        tokio::select! {
            biased;
            () = self.cut.cancelled() => None,
            session = self.returning.session(&self.sessions, device) => session,
        }
    }

    /// Joins the visitor to its device.
    async fn join(&self, guest: Box<Guest>) -> Result<Box<Joined>, Box<SentAway>> {
        let Guest {
            visitor,
            visit,
            front,
            hello,
            name,
            mut session,
            door,
            mut places,
        } = *guest;
        let address = visit.address();
        let front = match front {
            Some(front) => front,
            None if self.address.ip().is_unspecified() => {
                visitor.local_addr().unwrap_or(self.address)
            }
            None => self.address,
        };
        let open = Open {
            name,
            visitor: address,
            front,
            datagrams: false,
            port: door.as_ref().map(|door| door.port.number),
        };
        let mut tried_again = false;
        let carrier = loop {
            if session.transport() == Transport::Tls
                && let Err(refusal) = places.0.takes_carrier()
            {
                return Err(match door {
                    Some(_) => SentAway::silently(refusal),
                    None => SentAway::telling(refusal, visitor, places.0),
                });
            }
            let error = match session.open(open.clone(), &hello).await {
                Ok(carrier) => break carrier,
                Err(error) => error,
            };
            if !tried_again
                && session.ended().is_cancelled()
                && let Some((newer, place)) = self.newer(&session, address.ip())
            {
                // At this worker, wherever its tunnel is: few visitors come at such a moment.
                (session, places.1) = (newer, place);
                tried_again = true;
                continue;
            }
            let refusal = match error {
                OpenError::DeviceFull => Refusal::DeviceFull,
                OpenError::NoCarrier => Refusal::NoCarrier,
            };
            return Err(match door {
                Some(_) => SentAway::silently(refusal),
                None => SentAway::telling(refusal, visitor, places.0),
            });
        };
        let Ok(visitor) = TcpStream::from_std(visitor) else {
            return Err(SentAway::silently(Refusal::LeftEarly));
        };
        self.metrics.carrier_opened(carrier.kind());
        Ok(Box::new(Joined {
            visitor,
            visit,
            carrier,
            session,
            door,
            hello: hello.len(),
            places,
        }))
    }

    /// The session that has taken over from another, and a place there for a visitor who came for the other.
    fn newer(
        &self,
        before: &Arc<Session>,
        address: IpAddr,
    ) -> Option<(Arc<Session>, DeviceVisitor)> {
        let newer = self.sessions.of(&before.device)?;
        if Arc::ptr_eq(&newer, before) {
            return None;
        }
        let place = newer.visitor(address).ok()?;
        Some((newer, place))
    }

    fn pump<'a>(&'a self, joined: &'a mut Joined) -> impl Future<Output = Moved> + use<'a> {
        let raw_way = joined.session.raw_way();
        self.pump_until(joined, raw_way, None)
    }

    /// Until `cut` if that is given, or until the session ends.
    fn pump_until<'a>(
        &'a self,
        joined: &'a mut Joined,
        raw_way: RawWay,
        cut: Option<&'a CancellationToken>,
    ) -> impl Future<Output = Moved> + use<'a> {
        let session = &joined.session;
        splice::splice(
            &joined.visitor,
            &mut joined.carrier,
            raw_way,
            Some(Paced {
                pace: &session.pace,
                address: prefix(joined.visit.address().ip()),
            }),
            Orders {
                cut: cut.unwrap_or(session.ended()),
                shed: joined.places.0.shed(),
            },
            Observed {
                session,
                visit: &joined.visit,
                admitted: &joined.places.0,
                metrics: &self.metrics,
            },
        )
    }
}

/// Tells the visitor that nobody here has the name, then ends this side and lets it read that before the close.
async fn alert(visitor: StdTcpStream) -> io::Result<()> {
    let mut visitor = TcpStream::from_std(visitor)?;
    let told = timeout(ALERT_LINGER, async {
        visitor.write_all(&tls::UNRECOGNIZED_NAME).await?;
        visitor.shutdown().await
    });
    if let Ok(Ok(())) = told.await {
        splice::drain(&visitor, ALERT_LINGER).await;
    }
    Ok(())
}
