//! Who is attached now. One device has one session that takes new visitors: the newest.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use directory::{DeviceId, DeviceLimits, PublicKey};
use prometheus::IntGauge;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use wire::frame::{Open, Ticket};
use wire::{CloseCode, Features, Frame, InstanceId};

use crate::carrier::Carrier;
use crate::carrier::dialled::Dialled;
use crate::carrier::raw::{Door, SealKey};
use crate::liveness::{Liveness, Patience, SignsOfLife, Verdict};
use crate::pace::Pace;
use crate::quic::{self, Connection, RecvStream, SendStream};
use crate::splice::RawWay;
use crate::workers::{Worker, Workers};

use super::carriers::{Carriers, Taken, Tickets, UnknownTicket};
use super::commands::{Commands, Full};
use super::limits::{DeviceVisitor, DeviceVisitors, Limits, VISITORS_PER_DEVICE};
use super::ports::Published;
use super::presence::Transport;
use super::roaming::Roaming;
use super::traffic::{Growing, Octets, Told};

/// How long a visitor waits for its carrier.
const OPEN_TIME: Duration = Duration::from_secs(5);

/// Sessions of one device that were superseded and still have visitors, at most. One more ends the oldest.
const MAX_OLDER: usize = 4;

/// A superseded session whose visitors have moved nothing for this long ends with them.
const SUPERSEDED_IDLE_MS: u64 = 600_000;

/// Of the visitors that a device may have, there may be as many more whose addresses may be forged as this part, and never more than
/// so many: a handshake takes one round trip until it is known.
const PART_FOR_UNPROVED: usize = 8;
const MOST_UNPROVED: usize = 64;

/// Of a device so many may converse at its public UDP ports, and never more than it may have visitors. Its agent has room for these and for
/// those who do not converse yet.
const MOST_AT_PORTS: usize = 448;

/// While a visitor waits, a dead agent is noticed within three seconds.
const PATIENCE: Patience = Patience {
    quiet: Duration::from_millis(750),
    again: Duration::from_millis(500),
    give_up: Duration::from_millis(2500),
};

/// The same while nobody waits, of what the agent itself says: it asks every five seconds or so, every nine while nobody visits it and it
/// has another tunnel. One that went without a word is noticed within twenty seconds.
const PATIENCE_AT_REST: Patience = Patience {
    quiet: Duration::from_secs(14),
    again: Duration::from_secs(2),
    give_up: Duration::from_millis(18_500),
};

/// How often the sessions are looked at.
pub(super) const SWEEP: Duration = Duration::from_millis(250);

/// Every so many sweeps, the paths of tunnels over QUIC are looked at: for that a connection's lock is taken.
const PATH_SWEEPS: u32 = 16;

/// Paths of tunnels that have moved nothing for this long are not looked at: the time between two looks.
const PATH_IDLE_MS: u64 = 4_000;

/// A visitor that has moved nothing for this long does not wait any more but rests.
const RESTS_AFTER_MS: u64 = 30_000;

/// The sessions of one relay.
#[derive(Debug)]
pub(crate) struct Sessions {
    workers: Workers,
    limits: Limits,
    /// Ends every session when the relay stops for good.
    cut: CancellationToken,
    sessions_by_device: DashMap<DeviceId, SessionsOfDevice>,
    tickets: Tickets,
    /// Spare tls carriers of all sessions.
    spare_carriers: IntGauge,
    told: Told,
    /// Which devices visitors come back to from elsewhere.
    pub(super) roaming: Roaming,
    /// How many there were.
    sweeps: AtomicU32,
    /// Where raw connections arrive.
    pub(crate) door: Door,
}

/// The sessions of one device. There is at least one.
#[derive(Debug, Default)]
struct SessionsOfDevice {
    /// Takes new visitors.
    newest: Option<Arc<Session>>,
    /// Keep the visitors they have; the oldest first.
    older: Vec<Arc<Session>>,
}

impl SessionsOfDevice {
    fn each(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.older.iter().chain(&self.newest)
    }
}

impl Sessions {
    pub(crate) fn new(
        workers: Workers,
        limits: Limits,
        spare_carriers: IntGauge,
        told: Told,
        roaming: Roaming,
        cut: CancellationToken,
    ) -> Self {
        Self {
            workers,
            limits,
            cut,
            sessions_by_device: DashMap::new(),
            tickets: Tickets::default(),
            spare_carriers,
            told,
            roaming,
            sweeps: AtomicU32::new(0),
            door: Door::default(),
        }
    }

    /// The session that takes visitors of `device`.
    pub(crate) fn of(&self, device: &DeviceId) -> Option<Arc<Session>> {
        self.sessions_by_device.get(device)?.newest.clone()
    }

    /// Every session of `device`.
    pub(crate) fn all_of(&self, device: &DeviceId) -> Vec<Arc<Session>> {
        self.sessions_by_device
            .get(device)
            .map(|sessions| sessions.each().cloned().collect())
            .unwrap_or_default()
    }

    /// Attaches `session`; the newest wins. `attached` runs while no other session of the device can come or go. Gives back
    /// the one it takes over from, which stays known here until it is detached.
    pub(crate) fn attach(
        &self,
        session: &Arc<Session>,
        attached: impl FnOnce(),
    ) -> Option<Arc<Session>> {
        let mut sessions = self.sessions_by_device.entry(session.device).or_default();
        let before = sessions.newest.replace(Arc::clone(session));
        sessions.older.extend(before.clone());
        if sessions.older.len() > MAX_OLDER {
            sessions.older[0].end(CloseCode::Superseded);
        }
        attached();
        before
    }

    /// Detaches `session`. `gone` runs if the device has none left that takes visitors, and while none can come.
    pub(crate) fn detach(&self, session: &Arc<Session>, gone: impl FnOnce()) {
        if let Tunnel::Tls { carriers, .. } = &session.tunnel {
            carriers.close();
        }
        session.tell_packets(&self.told);
        let Entry::Occupied(mut entry) = self.sessions_by_device.entry(session.device) else {
            return;
        };
        let sessions = entry.get_mut();
        sessions.older.retain(|older| !Arc::ptr_eq(older, session));
        let is_newest = |newest: &mut Arc<Session>| Arc::ptr_eq(newest, session);
        if sessions.newest.take_if(is_newest).is_some() {
            gone();
        }
        if sessions.each().next().is_none() {
            self.roaming.forget(&session.device);
            entry.remove();
        }
    }

    /// Looks at every session, those of one device after each other and its newest last. The second argument says whether it is
    /// that.
    pub(super) fn each(&self, mut look: impl FnMut(&Session, bool)) {
        for sessions in &self.sessions_by_device {
            sessions.older.iter().for_each(|older| look(older, false));
            sessions.newest.iter().for_each(|newest| look(newest, true));
        }
    }

    /// A visitor of `session` has ended: the metrics hear of its last octets now.
    pub(crate) fn tell_octets(&self, session: &Session) {
        session.tell_octets(&self.told);
    }

    /// Whether no device is attached.
    pub(super) fn are_none(&self) -> bool {
        self.sessions_by_device.is_empty()
    }

    /// Every session, for draining.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.sessions_by_device
            .iter()
            .flat_map(|sessions| sessions.each().cloned().collect::<Vec<_>>())
            .collect()
    }

    /// Probes the agents whose visitors wait in silence, and closes the tunnels of those that do not answer.
    pub(crate) fn sweep(&self, now: Instant) {
        for worker in self.workers.all() {
            worker.ask_for_a_sign();
        }
        let with_paths = self
            .sweeps
            .fetch_add(1, Relaxed)
            .is_multiple_of(PATH_SWEEPS);
        self.each(|session, _| {
            session.sweep(now, &self.told);
            if with_paths
                && session.idle_ms(now) < PATH_IDLE_MS
                && let Some(round_trip) = session.tell_packets(&self.told)
            {
                let round_trips = &self.told.paths.round_trips;
                round_trips.observe(round_trip.as_secs_f64());
            }
        });
    }

    /// Whether a tls carrier with this ticket is expected.
    pub(super) fn expect_carrier(&self, ticket: &Ticket) -> bool {
        self.tickets.know(ticket)
    }

    /// Hands a tls carrier to the session that its ticket was made for. A ticket works once.
    pub(crate) fn redeem(&self, ticket: &Ticket, stream: Dialled) -> Result<(), UnknownTicket> {
        self.tickets.redeem(ticket, stream)
    }

    /// Makes a session, not attached yet.
    pub(super) fn session(
        &self,
        device: DeviceId,
        key: PublicKey,
        instance: InstanceId,
        features: Features,
        seen_as: SocketAddr,
        tunnel: Tunnel,
        seal_key: Option<SealKey>,
        home: Worker,
        now: Instant,
    ) -> Arc<Session> {
        // As whichever session is left: a tunnel that comes and goes gives its device no more.
        let any = self.all_of(&device).into_iter().next();
        let pace = any.as_ref().map(|any| Arc::clone(&any.pace));
        let visitors = any.map(|any| any.visitors.beside());
        Arc::new(Session {
            pace: pace.unwrap_or_else(|| Arc::new(Pace::new(0, now))),
            most_visitors: self.limits.visitors_per_device().into(),
            own_limits: Mutex::default(),
            published: Mutex::default(),
            device,
            key,
            instance,
            raw: seal_key
                .filter(|_| features.has(Features::RAW_CARRIER))
                .map(|key| (self.door.clone(), key)),
            features,
            roaming: self.roaming.clone(),
            seen_as,
            tunnel,
            home,
            workers: self.workers.clone(),
            commands: Commands::default(),
            ended: self.cut.child_token(),
            end_code: Mutex::new(None),
            followed: AtomicBool::new(false),
            left: AtomicBool::new(false),
            visitors: visitors.unwrap_or_default(),
            octets: Octets::default(),
            packets_sent: Growing::default(),
            packets_lost: Growing::default(),
            limits: self.limits.clone(),
            started: now,
            active: AtomicBool::new(false),
            active_at_ms: AtomicU64::new(0),
            spoke_at_ms: AtomicU64::new(0),
            liveness: Mutex::new(Liveness::new(now)),
            speaking: Mutex::new(Liveness::new(now)),
        })
    }

    /// The tunnel of a session over TLS, which brings carriers by ticket.
    pub(super) fn tls_tunnel(&self) -> Tunnel {
        Tunnel::Tls {
            signs: Arc::default(),
            carriers: Carriers::new(self.tickets.clone(), self.spare_carriers.clone()),
        }
    }
}

/// One attached agent.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) device: DeviceId,
    pub(crate) key: PublicKey,
    pub(crate) instance: InstanceId,
    pub(crate) seen_as: SocketAddr,
    /// What both ends do.
    features: Features,
    roaming: Roaming,
    pub(super) tunnel: Tunnel,
    /// Where the tunnel's socket is.
    home: Worker,
    workers: Workers,
    /// How raw connections beside its carriers are had, if its agent brings any.
    raw: Option<(Door, SealKey)>,
    /// What the tunnel's task is to say.
    pub(super) commands: Commands,
    ended: CancellationToken,
    end_code: Mutex<Option<CloseCode>>,
    /// By one at the successor of this process.
    followed: AtomicBool,
    /// The same, and so long ago that whoever was under way has come.
    left: AtomicBool,
    visitors: DeviceVisitors,
    /// What has passed.
    pub(super) octets: Octets,
    /// Of a tunnel over QUIC, what of its path has been told.
    packets_sent: Growing,
    packets_lost: Growing,
    limits: Limits,
    /// How fast all visitors of the device are together, over every session it has.
    pub(crate) pace: Arc<Pace>,
    most_visitors: AtomicUsize,
    own_limits: Mutex<OwnLimits>,
    published: Mutex<Published>,
    started: Instant,
    active: AtomicBool,
    active_at_ms: AtomicU64,
    spoke_at_ms: AtomicU64,
    liveness: Mutex<Liveness>,
    /// The same by what the agent says.
    speaking: Mutex<Liveness>,
}

/// What one device may have at most, where that is not what all may.
#[derive(Debug, Default)]
struct OwnLimits {
    limits: DeviceLimits,
    /// What its agent was told last.
    told: Option<Frame>,
}

/// What the session's carriers come from.
#[derive(Debug)]
pub(crate) enum Tunnel {
    Quic(Connection),
    Tls {
        signs: Arc<SignsOfLife>,
        carriers: Arc<Carriers>,
    },
}

/// Why a visitor got no carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenError {
    /// The device has as many visitors as it may, or another tunnel of it has taken over.
    DeviceFull,
    /// The agent did not bring a carrier in time, or its tunnel ended.
    NoCarrier,
}

impl Session {
    pub(crate) fn transport(&self) -> Transport {
        match self.tunnel {
            Tunnel::Quic(_) => Transport::Quic,
            Tunnel::Tls { .. } => Transport::Tls,
        }
    }

    /// Counts a visitor in, until the value is dropped.
    pub(crate) fn visitor(&self, from: IpAddr) -> Result<DeviceVisitor, OpenError> {
        self.active();
        let most = self.most_visitors.load(Relaxed);
        self.visitors.admit(from, most).ok_or(OpenError::DeviceFull)
    }

    /// Counts in one whose address may be forged: it takes no [place](Self::give_place) yet.
    pub(super) fn visitor_without_place(&self) -> Result<DeviceVisitor, OpenError> {
        self.active();
        let visitor = self.visitors.admit_without_place();
        visitor.ok_or(OpenError::DeviceFull)
    }

    /// Its address is its own.
    pub(super) fn give_place(
        &self,
        visitor: &mut DeviceVisitor,
        from: IpAddr,
    ) -> Result<(), OpenError> {
        let most = self.most_visitors.load(Relaxed);
        match self.visitors.give_place(visitor, from, most) {
            true => Ok(()),
            false => Err(OpenError::DeviceFull),
        }
    }

    /// It converses at a public port: it takes one of the places there are for those.
    pub(super) fn give_place_at_port(
        &self,
        visitor: &mut DeviceVisitor,
        from: IpAddr,
    ) -> Result<(), OpenError> {
        let most = self.most_visitors.load(Relaxed).min(MOST_AT_PORTS);
        match self.visitors.give_place_at_port(visitor, from, most) {
            true => Ok(()),
            false => Err(OpenError::DeviceFull),
        }
    }

    /// How many there may be at a time whose addresses may be forged: so many streams and sockets they take from the others.
    pub(super) fn most_unproved(&self) -> usize {
        (self.most_visitors.load(Relaxed) / PART_FOR_UNPROVED).clamp(1, MOST_UNPROVED)
    }

    /// From now on the device has limits of its own, or none any more. Whoever comes last with what is true then, is right: so it
    /// is read when its turn has come.
    pub(crate) fn limit(&self, own: impl FnOnce() -> DeviceLimits) {
        let mut kept = self
            .own_limits
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        kept.limits = own();
        self.put_in_force(&mut kept);
    }

    /// The limits of all devices have changed.
    pub(crate) fn limits_changed(&self) {
        let mut kept = self
            .own_limits
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.put_in_force(&mut kept);
    }

    fn put_in_force(&self, own: &mut OwnLimits) {
        let DeviceLimits {
            bytes_per_second,
            visitors,
        } = own.limits;
        let bytes_per_second = bytes_per_second.or(self.limits.bytes_per_second_per_device());
        let rate = bytes_per_second.map_or(0, NonZeroU64::get);
        self.pace.set(rate, Instant::now());
        let most = match visitors {
            Some(own) => usize::try_from(own.get())
                .map_or(VISITORS_PER_DEVICE, |own| own.min(VISITORS_PER_DEVICE)),
            None => self.limits.visitors_per_device(),
        };
        self.most_visitors.store(most, Relaxed);
        let now = Frame::Limits {
            bytes_per_second,
            visitors: u32::try_from(most).unwrap_or(u32::MAX),
        };
        // An agent without limits is told nothing, as long as it has been told nothing.
        let unlimited = rate == 0 && most == VISITORS_PER_DEVICE;
        if own.told.as_ref() != Some(&now) && !(unlimited && own.told.is_none()) {
            self.tell(now.clone());
            own.told = Some(now);
        }
    }

    /// Which worker is to serve a visitor who has come in at `here`. Over QUIC all carriers are on one socket, and what wakes
    /// another thread for each packet costs more than it gains; over TLS each visitor has its own.
    pub(crate) fn worker(&self, here: &Worker) -> Worker {
        match self.tunnel {
            Tunnel::Quic(_) => self.home.clone(),
            Tunnel::Tls { .. } => self.workers.least_busy(here).clone(),
        }
    }

    /// Opens a carrier whose first bytes are `open` and then what the visitor has already sent.
    pub(crate) async fn open(&self, open: Open, first: &[u8]) -> Result<Carrier, OpenError> {
        let frame = Frame::Open(open)
            .encode()
            .map_err(|_| OpenError::NoCarrier)?;
        let opened = async {
            let mut carrier = match &self.tunnel {
                Tunnel::Quic(connection) => {
                    let (send, recv) = connection
                        .open_bi()
                        .await
                        .map_err(|_| OpenError::NoCarrier)?;
                    Carrier::quic(send, recv)
                }
                Tunnel::Tls { signs, carriers } => {
                    Carrier::tls(self.dialled(carriers).await?, Arc::clone(signs))
                }
            };
            carrier
                .sender
                .open(&frame, first)
                .await
                .map_err(|_| OpenError::NoCarrier)?;
            Ok(carrier)
        };
        tokio::select! {
            biased;
            () = self.ended.cancelled() => Err(OpenError::NoCarrier),
            opened = timeout(OPEN_TIME, opened) => opened.unwrap_or(Err(OpenError::NoCarrier)),
        }
    }

    /// Whether visitors' datagrams cross its tunnel.
    pub(super) fn takes_flows(&self) -> bool {
        matches!(self.tunnel, Tunnel::Quic(_)) && self.features.has(Features::DATAGRAMS)
    }

    /// Connection ids that lead to the device, if its visitors' datagrams do.
    pub(super) fn roaming_ids(&self) -> Option<Frame> {
        self.takes_flows().then(|| Frame::Ids {
            ids: self.roaming.give(self.device),
        })
    }

    /// Whether its agent takes visitors of public ports.
    pub(super) fn takes_ports(&self) -> bool {
        self.features.has(Features::PORTS)
    }

    /// What its agent has for public ports.
    pub(super) fn published(&self) -> MutexGuard<'_, Published> {
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the stream beside which a visitor's datagrams cross. Nothing is said on it yet.
    pub(super) async fn open_flow(&self) -> Result<(SendStream, RecvStream), OpenError> {
        let Tunnel::Quic(connection) = &self.tunnel else {
            return Err(OpenError::NoCarrier);
        };
        tokio::select! {
            biased;
            () = self.ended.cancelled() => Err(OpenError::NoCarrier),
            opened = timeout(OPEN_TIME, connection.open_bi()) => {
                opened.ok().and_then(Result::ok).ok_or(OpenError::NoCarrier)
            }
        }
    }

    /// The worker that has the tunnel's socket.
    pub(super) fn home(&self) -> &Worker {
        &self.home
    }

    /// How bulk leaves a carrier of this session.
    pub(crate) fn raw_way(&self) -> RawWay {
        match &self.raw {
            Some((door, key)) => RawWay::Expect(door.clone(), key.clone()),
            None => RawWay::Never,
        }
    }

    /// A TLS connection that the agent has dialled, or dials now.
    async fn dialled(&self, carriers: &Arc<Carriers>) -> Result<Dialled, OpenError> {
        if !self.features.has(Features::TLS_CARRIER) {
            return Err(OpenError::NoCarrier);
        }
        let (taken, tickets) = carriers.take(Instant::now());
        for ticket in tickets {
            let asked = self.commands.push(Frame::Dial { ticket });
            asked.map_err(|Full| OpenError::NoCarrier)?;
        }
        let stream = match taken {
            Taken::AtHand(stream) => stream,
            Taken::Awaited(carrier) => carrier.await.map_err(|_| OpenError::NoCarrier)?,
        };
        stream.move_here().map_err(|_| OpenError::NoCarrier)
    }

    /// Sends a frame to the agent if there is room; a tunnel without room is about to be closed anyway.
    pub(crate) fn tell(&self, frame: Frame) {
        let _ = self.commands.push(frame);
    }

    /// Ends the session and cuts its visitors. The first code counts.
    pub(crate) fn end(&self, code: CloseCode) {
        self.end_code
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(code);
        self.ended.cancel();
    }

    /// Cancelled once the session is to end, or has.
    pub(crate) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// With which code the session was ended. One that nobody ended was cut with all others.
    pub(crate) fn end_code(&self) -> CloseCode {
        self.end_code
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .unwrap_or(CloseCode::Draining)
    }

    /// Notes that the agent has another tunnel at the successor of this process. Whether that was known.
    pub(super) fn is_followed(&self) -> bool {
        self.followed.swap(true, Relaxed)
    }

    /// Whether the agent has long had another tunnel there, so that nobody is to come here any more.
    pub(super) fn has_left(&self) -> bool {
        self.left.load(Relaxed)
    }

    /// Nobody is to come here any more.
    pub(super) fn leaves(&self) {
        self.left.store(true, Relaxed);
    }

    /// How long it has been there.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }

    fn has_visitors(&self) -> bool {
        self.visitors.any()
    }

    /// Visitors now.
    pub(super) fn visitors(&self) -> usize {
        self.visitors.now()
    }

    /// Closes the session to visitors if it has none now.
    pub(crate) fn close_if_empty(&self) -> bool {
        self.visitors.close_if_empty()
    }

    /// Waits until the last visitor has left, whereupon nobody can come any more, or all of them rest for long, or the
    /// session has ended.
    pub(crate) async fn left_alone(&self) {
        /// Nobody is told when a visitor leaves; a session that waits for it is rare and in no hurry.
        const LOOK: Duration = Duration::from_secs(1);
        while !self.close_if_empty()
            && self.idle_ms(Instant::now()) < SUPERSEDED_IDLE_MS
            && timeout(LOOK, self.ended.cancelled()).await.is_err()
        {}
    }

    /// A visitor of this session has just moved bytes, or come. When that was, the next [sweep](Self::sweep) writes down: a clock
    /// for every request would be read more often than anything.
    pub(crate) fn active(&self) {
        self.active.store(true, Relaxed);
    }

    /// The agent has just said something.
    pub(super) fn spoke(&self) {
        if let Tunnel::Tls { signs, .. } = &self.tunnel {
            signs.heard(1);
        }
        self.spoke_at_ms
            .store(self.elapsed_ms(Instant::now()), Relaxed);
    }

    fn tell_octets(&self, told: &Told) {
        told.to_device.inc_by(self.octets.to_device.news());
        told.to_visitor.inc_by(self.octets.to_visitor.news());
    }

    /// Tells what has become of the packets of a tunnel over QUIC, and gives the time of its round trip.
    fn tell_packets(&self, told: &Told) -> Option<Duration> {
        let Tunnel::Quic(connection) = &self.tunnel else {
            return None;
        };
        let packets = quic::packets(connection);
        let (sent, lost) = (packets.sent, packets.lost);
        told.paths.sent.inc_by(self.packets_sent.news_of(sent));
        told.paths.lost.inc_by(self.packets_lost.news_of(lost));
        Some(packets.round_trip)
    }

    fn sweep(&self, now: Instant, told: &Told) {
        let now_ms = self.elapsed_ms(now);
        if self.active.swap(false, Relaxed) {
            self.active_at_ms.store(now_ms, Relaxed);
            self.tell_octets(told);
        }
        if let Tunnel::Tls { carriers, .. } = &self.tunnel {
            carriers.sweep(now);
        }
        let waits = self.has_visitors() && self.idle_ms(now) <= RESTS_AFTER_MS;
        let keeps_up = self.home.keeps_up();
        let listening = waits && keeps_up;
        let of_path = {
            let mut liveness = self.liveness.lock().unwrap_or_else(PoisonError::into_inner);
            let heard = if listening { self.heard() } else { 0 };
            liveness.check(now, heard, listening, PATIENCE)
        };
        let of_agent = {
            let mut speaking = self.speaking.lock().unwrap_or_else(PoisonError::into_inner);
            let spoke_at = self.spoke_at_ms.load(Relaxed);
            speaking.check(now, spoke_at, keeps_up, PATIENCE_AT_REST)
        };
        match of_path.max(of_agent) {
            Verdict::Fine => {}
            Verdict::Probe => self.tell(Frame::Ping {
                sequence: self.elapsed_ms(now),
            }),
            Verdict::Gone => self.end(CloseCode::Unresponsive),
        }
    }

    fn heard(&self) -> u64 {
        match &self.tunnel {
            Tunnel::Quic(connection) => quic::heard(connection),
            Tunnel::Tls { signs, .. } => signs.count(),
        }
    }

    /// How long no visitor has moved anything.
    fn idle_ms(&self, now: Instant) -> u64 {
        self.elapsed_ms(now)
            .saturating_sub(self.active_at_ms.load(Relaxed))
    }

    fn elapsed_ms(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }
}
