//! Public ports that lead to services of devices: an operator gives a device a port of this relay, its agent says that it has a service
//! for it, and as long as both hold and the device is attached the relay listens there.
//!
//! ```text
//!   agent: Publish ─► in the range? ─► whose, by the Directory? ─► bound ─► Published
//!   TCP   front.rs: accept ─► limits ─► session ─► carrier.open(port) ─► splice, never raw
//!   UDP   flows/port.rs: a datagram ─► its visitor's flow, or a new one ─► the tunnel
//! ```
//!
//! Nobody listens at a port whose device is away: who comes there hears so from the kernel, at once. The next process of this relay has
//! the same TCP listeners, so that whoever is in the queue of one is taken in by whichever process has the device. Each has a UDP socket
//! of its own: of one that both read, either would get any visitor's datagrams, and a conversation would be two. So the kernel leads each
//! visitor to one of them, and when the older process closes its socket those it has begin anew at the other. What is said at a port is
//! not encrypted by anybody here, but in the tunnel.

mod door;
mod inherited;
mod range;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::mem;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use directory::{DeviceId, Protocol, PublicPort, Reader};
use prometheus::IntGauge;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use wire::Frame;
use wire::ports::{PortState, PublishedPort};

pub(crate) use door::PortDoor;
use inherited::InheritedPorts;
pub use range::{PortRange, PortRangeError};

use super::flows::{Flows, UdpPort};
use super::front::{self, Front};
use super::listen;
use super::sessions::{Session, Sessions};
use crate::quic::PortSocket;
use crate::sys;
use crate::workers::Worker;

/// What an agent publishes is looked at so often at most, and the newest counts: each look may bind many sockets, while nobody else can. What
/// could not be listened on is tried again then: whoever was there before may take a moment to leave.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// An agent that has another tunnel has its ports for so long before it says there which it has.
const SILENT_TIME: Duration = Duration::from_secs(5);

/// The operator hears so often at most that a port cannot be listened on.
const TOLD_EVERY: Duration = Duration::from_secs(600);

/// The public ports of one relay.
pub(crate) struct Ports {
    pub(super) around: Around,
    /// One for each worker, once they are there.
    pub(super) fronts: OnceLock<Vec<Weak<Front>>>,
    /// Whose agents have services for any, each at its newest session.
    asking: Mutex<HashSet<DeviceId>>,
    open_by_port: Mutex<OpenByPort>,
    inherited: InheritedPorts,
    /// Those that were closed and are still the device's, as long as somebody who has come there is there.
    left: Mutex<Vec<Weak<PortDoor>>>,
    /// Which could not be listened on, and when the operator was told.
    failing: Mutex<HashMap<PublicPort, Option<Instant>>>,
}

/// What it takes to open one.
pub(super) struct Around {
    /// Which ports may be given to devices; `None`: none.
    pub(super) range: Option<PortRange>,
    /// The front's.
    pub(super) address: IpAddr,
    /// Whether a process before this one may listen there too, as long as devices are on their way from there to here.
    pub(super) shares: bool,
    /// Whether datagrams are handed to the kernel in batches.
    pub(super) batches: bool,
    pub(super) directory: Reader,
    pub(super) sessions: Arc<Sessions>,
    pub(super) flows: Arc<Flows>,
    /// Who serves visitors, and who is there as long as tunnels are.
    pub(super) visitors: TaskTracker,
    pub(super) tunnels: TaskTracker,
    /// Cancelled when nobody is to come any more, and when nobody is to be there.
    pub(super) stop: CancellationToken,
    pub(super) cut: CancellationToken,
    /// How many are open, TCP and UDP.
    pub(super) open: [IntGauge; 2],
}

impl Around {
    /// Whose the port is.
    fn holder(&self, port: PublicPort) -> Option<DeviceId> {
        let name = self.directory.port_holder(port)?;
        let identity = self.directory.device_by_name(&name)?.identity?;
        Some(identity.id)
    }
}

/// A port at which the relay listens.
struct OpenPort {
    door: Arc<PortDoor>,
    socket: PortListener,
    /// Who attends to it.
    home: Worker,
    /// Ends that.
    _attended: DropGuard,
}

enum PortListener {
    Tcp(TcpListener),
    Udp(UdpSocket, Arc<UdpPort>),
}

/// What an agent has for public ports, and what it was told.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// Absent until it has said so: then another tunnel of it may have, and what is open stays.
    wanted: Option<BTreeSet<PublicPort>>,
    told: Vec<PublishedPort>,
    /// When it was last looked at what it has.
    looked_at: Option<Instant>,
    /// That is looked at again soon.
    again: bool,
}

type OpenByPort = HashMap<PublicPort, OpenPort>;

impl Ports {
    /// With the TCP listeners that the process before has had.
    pub(super) fn new(around: Around, there: Vec<TcpListener>) -> Self {
        let holder = |port| around.holder(port);
        let inherited = InheritedPorts::new(there, around.address, holder);
        Self {
            around,
            fronts: OnceLock::new(),
            asking: Mutex::default(),
            open_by_port: Mutex::default(),
            inherited,
            left: Mutex::default(),
            failing: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, OpenByPort> {
        let open = self.open_by_port.lock();
        open.unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self) -> MutexGuard<'_, Vec<Weak<PortDoor>>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asking(&self) -> MutexGuard<'_, HashSet<DeviceId>> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent of a session has services for these ports and no others.
    pub(super) fn publish(self: &Arc<Self>, session: &Arc<Session>, ports: Vec<PublicPort>) {
        let now = Instant::now();
        {
            let mut published = session.published();
            published.wanted = Some(BTreeSet::from_iter(ports));
            let before = published.looked_at;
            if before.is_some_and(|before| now.saturating_duration_since(before) < LOOK_EVERY) {
                return self.look_again(session, &mut published);
            }
        }
        self.look(session);
    }

    fn look(self: &Arc<Self>, session: &Arc<Session>) {
        let mut open = self.lock();
        self.settle(&mut open, session);
        self.count(&open);
    }

    /// Has the session looked at after a while, if it is not to be already.
    fn look_again(self: &Arc<Self>, session: &Arc<Session>, published: &mut Published) {
        if mem::replace(&mut published.again, true) {
            return;
        }
        let (ports, looked_at) = (Arc::downgrade(self), Arc::downgrade(session));
        let stop = self.around.stop.clone();
        let again = async move {
            if timeout(LOOK_EVERY, stop.cancelled()).await.is_ok() {
                return;
            }
            if let (Some(ports), Some(session)) = (ports.upgrade(), looked_at.upgrade()) {
                session.published().again = false;
                ports.look(&session);
            }
        };
        let runtime = session.home().runtime();
        self.around.tunnels.spawn_on(again, runtime);
    }

    /// Somebody has other ports. Whoever has asked for one of them hears of it, and whoever has come to one that was closed leaves it.
    pub(super) fn review_all(self: &Arc<Self>) {
        let open = self.lock();
        self.left().retain(|left| {
            let door = left.upgrade();
            door.is_some_and(|door| {
                let is_given = self.is_given(door.port, &door.device);
                if !is_given {
                    door.lost.cancel();
                }
                is_given
            })
        });
        self.inherited
            .retain(|port, device| self.is_given(port, device));
        drop(open);
        let asking: Vec<_> = self.asking().iter().copied().collect();
        asking.iter().for_each(|device| self.review(device));
    }

    /// The device has other ports, or another session, or none.
    pub(super) fn review(self: &Arc<Self>, device: &DeviceId) {
        let mut open = self.lock();
        match self.around.sessions.of(device) {
            Some(session) => self.settle(&mut open, &session),
            None => {
                self.asking().remove(device);
                self.close(&mut open, device, |_| true);
            }
        }
        self.count(&open);
    }

    fn count(&self, open: &OpenByPort) {
        for (protocol, gauge) in Protocol::ALL.into_iter().zip(&self.around.open) {
            let count = open.keys().filter(|port| port.protocol == protocol).count();
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Opens and closes what has to be, if the session takes visitors, and tells its agent.
    fn settle(self: &Arc<Self>, open: &mut OpenByPort, session: &Arc<Session>) {
        let device = session.device;
        let newest = self.around.sessions.of(&device);
        if !newest.is_some_and(|newest| Arc::ptr_eq(&newest, session)) {
            return;
        }
        let now = Instant::now();
        let mut published = session.published();
        if session.has_left() {
            published.wanted = Some(BTreeSet::new()); // to the process after this one, which has them now
        }
        if published.wanted.is_none() && session.takes_ports() && session.age(now) < SILENT_TIME {
            self.close(open, &device, |port| {
                self.is_refused(session, port).is_some()
            });
            if open.values().any(|one| one.door.device == device) {
                self.look_again(session, &mut published);
            }
            return;
        }
        published.looked_at = published.wanted.is_some().then_some(now);
        let Published { wanted, told, .. } = &mut *published;
        let none = BTreeSet::new();
        let wanted = wanted.as_ref().unwrap_or(&none);
        match wanted.is_empty() {
            true => drop(self.asking().remove(&device)),
            false => drop(self.asking().insert(device)),
        }
        let is_to_be = |port| !wanted.contains(&port) || self.is_refused(session, port).is_some();
        self.close(open, &device, is_to_be);
        self.inherited
            .retain(|port, of| *of != device || !is_to_be(port));
        let each = wanted.iter().map(|port| PublishedPort {
            port: *port,
            state: Ok(match self.is_refused(session, *port) {
                Some(state) => state,
                None => self.open(open, session, *port),
            }),
        });
        let each: Vec<_> = each.collect();
        if *told != each {
            told.clone_from(&each);
            session.tell(Frame::Published { each });
        }
        let unavailable = |one: &PublishedPort| one.state == Ok(PortState::Unavailable);
        if told.iter().any(unavailable) {
            self.look_again(session, &mut published);
        }
    }

    /// Closes those of the device that are to be. Whoever has come to one that is still the device's may stay.
    fn close(
        &self,
        open: &mut OpenByPort,
        device: &DeviceId,
        is_to_be: impl Fn(PublicPort) -> bool,
    ) {
        open.retain(|port, one| {
            let closes = one.door.device == *device && is_to_be(*port);
            if closes {
                tracing::debug!(%port, "a public port is closed");
                if port.protocol == Protocol::Udp || !self.is_given(*port, device) {
                    one.door.lost.cancel();
                } else {
                    let mut left = self.left();
                    left.retain(|left| left.strong_count() > 0);
                    left.push(Arc::downgrade(&one.door));
                }
            }
            !closes
        });
    }

    fn is_given(&self, port: PublicPort, device: &DeviceId) -> bool {
        self.around.holder(port).as_ref() == Some(device)
    }

    /// Why the session's device has no visitors at the port.
    fn is_refused(&self, session: &Session, port: PublicPort) -> Option<PortState> {
        match self.around.range {
            None => return Some(PortState::NotOffered),
            Some(range) if !range.contains(port.number) => return Some(PortState::OutOfRange),
            Some(_) => {}
        }
        if !self.is_given(port, &session.device) {
            let holder = self.around.directory.port_holder(port);
            return Some(holder.map_or(PortState::NotGiven, |_| PortState::Taken));
        }
        let crosses = port.protocol == Protocol::Tcp || session.takes_flows();
        (!crosses).then_some(PortState::NoDatagrams)
    }

    /// Has the session's worker attend to the port, whoever did so before.
    fn open(&self, open: &mut OpenByPort, session: &Session, port: PublicPort) -> PortState {
        let home = session.home();
        let before = match open.remove(&port) {
            Some(before) if before.door.device != session.device => {
                before.door.lost.cancel();
                None
            }
            before => before,
        };
        if let Some(before) = before {
            if before.home == *home {
                open.insert(port, before);
                return PortState::Open;
            }
            let OpenPort {
                door,
                socket,
                _attended: attended,
                ..
            } = before;
            drop(attended);
            return self.attend(open, door, socket, home);
        }
        let door = Arc::new(PortDoor::new(port, session.device));
        match self.bind(&door) {
            Ok(socket) => self.attend(open, door, socket, home),
            Err(error) => self.unavailable(port, &error),
        }
    }

    fn bind(&self, door: &Arc<PortDoor>) -> io::Result<PortListener> {
        let Around {
            address, shares, ..
        } = self.around;
        let at = (address, door.port.number.get()).into();
        Ok(match door.port.protocol {
            Protocol::Tcp => {
                let there = self.inherited.take(door.port, &door.device);
                PortListener::Tcp(listen::tcp_port(there, at, shares)?)
            }
            Protocol::Udp => {
                let socket = listen::udp_port(at, shares)?;
                let (flows, stop) = (Arc::clone(&self.around.flows), self.around.stop.clone());
                let port = UdpPort::new(Arc::clone(door), flows, stop);
                PortListener::Udp(socket, Arc::new(port))
            }
        })
    }

    fn attend(
        &self,
        open: &mut OpenByPort,
        door: Arc<PortDoor>,
        socket: PortListener,
        home: &Worker,
    ) -> PortState {
        let port = door.port;
        let stop = match port.protocol {
            Protocol::Tcp => self.around.stop.child_token(),
            Protocol::Udp => self.around.cut.child_token(), // who is there goes on to be heard
        };
        match self.attended(&door, &socket, home, stop.clone()) {
            Ok(()) => {
                tracing::debug!(%port, "a public port is open");
                let one = OpenPort {
                    door,
                    socket,
                    home: home.clone(),
                    _attended: stop.drop_guard(),
                };
                open.insert(port, one);
                self.failing()
                    .retain(|of, told| *of != port || told.is_some());
                PortState::Open
            }
            Err(error) => self.unavailable(port, &error),
        }
    }

    /// The TCP listeners, for the next process. One that cannot be had now that one opens itself.
    pub(super) fn hand_over(&self) -> Vec<TcpListener> {
        let open = self.lock();
        let open = open.values().filter_map(|one| match &one.socket {
            PortListener::Tcp(listener) => {
                let listener = listener.try_clone().ok()?;
                one.door.is_handed_over();
                Some(listener)
            }
            PortListener::Udp(..) => None,
        });
        open.chain(self.inherited.cloned()).collect()
    }

    /// Agents have had the time to come: who has waited for one that has not is sent away by the kernel.
    pub(super) fn forget_inherited(&self) {
        self.inherited.retain(|_, _| false);
    }

    fn failing(&self) -> MutexGuard<'_, HashMap<PublicPort, Option<Instant>>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The operator hears of it when it has been tried again.
    fn unavailable(&self, port: PublicPort, error: &io::Error) -> PortState {
        let now = Instant::now();
        let mut failing = self.failing();
        let is_told = match failing.get(&port) {
            None => true,
            Some(Some(told)) => now.saturating_duration_since(*told) < TOLD_EVERY,
            Some(None) => false,
        };
        match is_told {
            true => {
                failing.entry(port).or_default();
                tracing::debug!(%port, %error, "a device's public port cannot be listened on");
            }
            false => {
                failing.insert(port, Some(now));
                tracing::warn!(%port, %error, "a device's public port cannot be listened on");
            }
        }
        PortState::Unavailable
    }

    fn attended(
        &self,
        door: &Arc<PortDoor>,
        socket: &PortListener,
        home: &Worker,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let _entered = home.enter();
        match socket {
            PortListener::Tcp(listener) => {
                let front = self
                    .fronts
                    .get()
                    .and_then(|fronts| fronts.get(home.index()));
                let front = front.and_then(Weak::upgrade);
                let front = front.ok_or(io::ErrorKind::NotConnected)?;
                let listener = Arc::new(sys::queue(listener.try_clone()?)?);
                let door = Some(Arc::clone(door));
                let accepted = front::accept(front, listener, door, stop);
                self.around.visitors.spawn(accepted);
            }
            PortListener::Udp(socket, port) => {
                let socket = PortSocket::new(socket.try_clone()?, self.around.batches)?;
                let attended = Arc::clone(port).attend(Arc::new(socket), stop);
                self.around.tunnels.spawn(attended);
            }
        }
        Ok(())
    }
}
