//! What is known of a running agent: of each tunnel by itself, for the next decision about it, and of all, for whoever asks.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::quic::{self, Connection, Gso, Path, Profile, Room};
use crate::server::Transport;

use super::Attached;
use super::certificate_watch::Heard;
use super::choice::{Choice, Reason, Wanted};
use super::cloud::Clock;
use super::ports::ToldPorts;
use super::relays::{RelayAddress, TUNNELS};
use super::status::{
    CertificateStatus, DirectStatus, DnsStatus, LimitsStatus, PathStatus, Status, TunnelStatus,
};
use super::visitor::Visitors;
use super::visitor::direct::Door;

/// What is known of the agent while it runs. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Situation {
    known: Arc<Mutex<Known>>,
    /// Hears how the agent is attached.
    attached: Arc<watch::Sender<Option<Attached>>>,
}

#[derive(Debug)]
struct Known {
    /// One for each keeper.
    tunnels: [KnownTunnel; TUNNELS],
    raw_came: u64,
    raw_missed: u64,
    dns: Option<DnsStatus>,
    lan: Option<DnsStatus>,
    direct: Option<Arc<Door>>,
    /// Why the cloud does not know of it.
    direct_problem: Option<String>,
    clock: Clock,
    certificate: Option<CertificateStatus>,
    seen: Option<Heard>,
}

#[derive(Debug)]
struct KnownTunnel {
    gso: Gso,
    /// Which relay the rest is about.
    relay: Option<RelayAddress>,
    choice: Choice,
    standing: Option<Standing>,
    raw_came: u64,
    raw_missed: u64,
}

/// A tunnel that takes new visitors.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) relay: RelayAddress,
    pub(super) transport: Transport,
    pub(super) seen_as: SocketAddr,
    pub(super) since: Instant,
    /// Over QUIC.
    pub(super) profile: Option<Profile>,
    pub(super) raw_offered: bool,
    pub(super) limits: ToldLimits,
    pub(super) ports: ToldPorts,
    /// Its visitors.
    pub(super) guests: TaskTracker,
    /// Over QUIC.
    pub(super) connection: Option<Connection>,
}

impl Situation {
    pub(super) fn new(gso: Gso, clock: Clock, attached: watch::Sender<Option<Attached>>) -> Self {
        let now = Instant::now();
        let known = Known {
            tunnels: std::array::from_fn(|_| KnownTunnel {
                gso,
                relay: None,
                choice: Choice::new(gso, now),
                standing: None,
                raw_came: 0,
                raw_missed: 0,
            }),
            raw_came: 0,
            raw_missed: 0,
            dns: None,
            lan: None,
            direct: None,
            direct_problem: None,
            clock,
            certificate: None,
            seen: None,
        };
        Self {
            known: Arc::new(Mutex::new(known)),
            attached: Arc::new(attached),
        }
    }

    /// For each keeper, what it knows.
    pub(super) fn of_each(&self) -> [TunnelSituation; TUNNELS] {
        std::array::from_fn(|number| TunnelSituation {
            situation: self.clone(),
            number,
        })
    }

    pub(super) fn dns(&self, dns: DnsStatus) {
        self.known().dns = Some(dns);
    }

    /// What `lan.` in front of the name has been told.
    pub(super) fn lan(&self, lan: DnsStatus) {
        self.known().lan = Some(lan);
    }

    /// Where visitors come straight to the device.
    pub(super) fn direct(&self, door: Option<Arc<Door>>) {
        self.known().direct = door;
    }

    pub(super) fn direct_problem(&self, problem: Option<String>) {
        self.known().direct_problem = problem;
    }

    pub(super) fn certificate(&self, certificate: CertificateStatus) {
        self.known().certificate = Some(certificate);
    }

    /// What the cloud has said of certificates that were seen.
    pub(super) fn seen(&self, heard: Heard) {
        self.known().seen = Some(heard);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever watches hears of a change only.
    fn tell(&self, known: &Known) {
        let attached = known.attached();
        self.attached.send_if_modified(|told| {
            let changes = *told != attached;
            *told = attached;
            changes
        });
    }

    pub(super) fn status(&self, device: &str, visitors: &Visitors, now: Instant) -> Status {
        let known = self.known();
        let tunnels: Vec<_> = known
            .standing()
            .filter_map(|tunnel| tunnel.status(now))
            .collect();
        let reasons = known.reasons(now);
        let services = &visitors.hosts.services;
        Status {
            device: device.to_owned(),
            software: super::SOFTWARE.to_owned(),
            tunnel: tunnels.first().cloned(),
            tunnels,
            visitors: visitors.count(),
            too_slow: visitors.too_slow(),
            flows: visitors.flows(),
            raw_came: known.raw_came,
            raw_missed: known.raw_missed,
            why: reasons.iter().map(ToString::to_string).collect(),
            reasons: names_of(&reasons),
            origin: services.origin(),
            services: services.status(),
            configuration: services.configuration(),
            refused: visitors.hosts.refused.counts(),
            dns: known.dns.clone(),
            lan: known.lan.clone(),
            direct: known.direct.as_ref().map(|door| DirectStatus {
                problem: known.direct_problem.clone(),
                ..door.status()
            }),
            clock_behind: Some(known.clock.ahead()).filter(|ahead| *ahead != 0),
            certificate: known.certificate.clone(),
            seen: known.seen.as_ref().map(Heard::status),
        }
    }
}

impl Known {
    /// The tunnels that stand; the one that has stood longest first.
    fn standing(&self) -> impl Iterator<Item = &KnownTunnel> {
        let mut standing: Vec<_> = self.tunnels.iter().collect();
        standing.retain(|tunnel| tunnel.standing.is_some());
        standing.sort_by_key(|tunnel| tunnel.standing.as_ref().map(|standing| standing.since));
        standing.into_iter()
    }

    fn attached(&self) -> Option<Attached> {
        let standing = || {
            self.standing()
                .filter_map(|tunnel| tunnel.standing.as_ref())
        };
        let longest = standing().next()?;
        Some(Attached {
            transport: longest.transport,
            seen_as: longest.seen_as,
            relays: standing()
                .map(|standing| standing.relay.to_string())
                .collect(),
        })
    }

    /// Of the tunnels that stand, or, if there is none, of those that are dialled; each once.
    fn reasons(&self, now: Instant) -> Vec<Reason> {
        let none_stands = self.standing().next().is_none();
        let mut reasons = Vec::new();
        for tunnel in &self.tunnels {
            if none_stands || tunnel.standing.is_some() {
                reasons.extend(tunnel.choice.reasons(now));
            }
        }
        let mut told = Vec::new();
        reasons.retain(|reason| {
            let is_new = !told.contains(reason);
            told.push(*reason);
            is_new
        });
        reasons
    }
}

fn names_of(reasons: &[Reason]) -> Vec<String> {
    let names = reasons.iter().map(|reason| reason.name().to_owned());
    names.collect()
}

/// What is known of the tunnel of one keeper.
#[derive(Debug)]
pub(super) struct TunnelSituation {
    situation: Situation,
    number: usize,
}

impl TunnelSituation {
    fn with<T>(&self, act: impl FnOnce(&mut KnownTunnel) -> T) -> T {
        act(&mut self.situation.known().tunnels[self.number])
    }

    /// It is to be at `relay`: what was learnt of the way to another is worth nothing there.
    pub(super) fn leads_to(&self, relay: &RelayAddress) {
        self.with(|tunnel| {
            if tunnel.relay.replace(relay.clone()).as_ref() != Some(relay) {
                tunnel.choice = Choice::new(tunnel.gso, Instant::now());
                (tunnel.raw_came, tunnel.raw_missed) = (0, 0);
            }
        });
    }

    pub(super) fn wanted(&self) -> Wanted {
        self.with(|tunnel| tunnel.choice.wanted(Instant::now()))
    }

    /// Whether another tunnel of this agent stands over QUIC.
    pub(super) fn quic_stands_beside(&self) -> bool {
        let known = self.situation.known();
        let beside = known.tunnels.iter().enumerate();
        let mut beside = beside.filter(|(number, _)| *number != self.number);
        beside.any(|(_, tunnel)| {
            let standing = tunnel.standing.as_ref();
            standing.is_some_and(|standing| standing.transport == Transport::Quic)
        })
    }

    /// It stands, with what speaks against a better one.
    pub(super) fn stands(&self, standing: Standing) -> Vec<Reason> {
        let now = Instant::now();
        let mut known = self.situation.known();
        let tunnel = &mut known.tunnels[self.number];
        let (profile, raw_offered) = (standing.profile, standing.raw_offered);
        tunnel.choice.attached(profile, raw_offered, now);
        tunnel.standing = Some(standing);
        let reasons = tunnel.choice.reasons(now);
        self.situation.tell(&known);
        reasons
    }

    /// It takes no visitors any more.
    pub(super) fn ended(&self) {
        let mut known = self.situation.known();
        known.tunnels[self.number].standing = None;
        self.situation.tell(&known);
    }

    /// The relay paces what the device moves, or does not.
    pub(super) fn limited(&self, is_paced: bool) {
        self.with(|tunnel| tunnel.choice.limited(is_paced));
    }

    /// A raw connection was asked for, and came or not.
    pub(super) fn raw(&self, came: bool) {
        let mut known = self.situation.known();
        let count = |came_before: &mut u64, missed_before: &mut u64| match came {
            true => *came_before += 1,
            false => *missed_before += 1,
        };
        let Known {
            tunnels,
            raw_came,
            raw_missed,
            ..
        } = &mut *known;
        count(raw_came, raw_missed);
        let tunnel = &mut tunnels[self.number];
        count(&mut tunnel.raw_came, &mut tunnel.raw_missed);
        tunnel.choice.raw(came);
    }

    /// QUIC's path has been looked at. What has been bad for so long that TCP should be measured beside it.
    pub(super) fn looked(&self, path: Path) -> Option<Reason> {
        self.with(|tunnel| {
            let choice = &mut tunnel.choice;
            choice.looked(path);
            let suspicion = choice.suspects();
            suspicion.filter(|&suspicion| !choice.gives_up_batches(suspicion, Instant::now()))
        })
    }

    /// TCP has been measured beside it.
    pub(super) fn compared(&self, suspicion: Reason, over_udp: Duration, over_tcp: Duration) {
        let now = Instant::now();
        self.with(|tunnel| tunnel.choice.compared(suspicion, over_udp, over_tcp, now));
    }
}

impl KnownTunnel {
    fn status(&self, now: Instant) -> Option<TunnelStatus> {
        let standing = self.standing.as_ref()?;
        let reasons = self.choice.reasons(now);
        Some(TunnelStatus {
            relay: standing.relay.to_string(),
            transport: standing.transport.name().to_owned(),
            seen_as: standing.seen_as,
            seconds: now.saturating_duration_since(standing.since).as_secs(),
            bulk: standing.bulk().to_owned(),
            visitors: standing.guests.len(),
            raw_came: self.raw_came,
            raw_missed: self.raw_missed,
            why: reasons.iter().map(ToString::to_string).collect(),
            reasons: names_of(&reasons),
            limits: standing.limits.now(),
            ports: standing.ports.status(),
            path: standing.path(),
        })
    }
}

impl Standing {
    fn bulk(&self) -> &'static str {
        let stays = self
            .profile
            .is_some_and(|profile| profile.room == Room::Large);
        match self.raw_offered && !stays {
            true => "raw",
            false => "tunnel",
        }
    }

    fn path(&self) -> Option<PathStatus> {
        let path = quic::path(self.connection.as_ref()?);
        Some(PathStatus {
            round_trip_ms: path.round_trip.as_secs_f64() * 1000.0,
            packets_sent: path.sent,
            packets_lost: path.lost,
            congestion_control: path.congestion.to_owned(),
            batches: self.profile.is_some_and(|profile| profile.batches),
        })
    }
}

/// What the relay has said that the device may have at most, if anything. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct ToldLimits(Arc<Mutex<Option<LimitsStatus>>>);

impl ToldLimits {
    pub(super) fn told(&self, limits: LimitsStatus) {
        *self.lock() = Some(limits);
    }

    /// Whether the device's octets have a limit.
    pub(super) fn is_paced(&self) -> bool {
        let told = self.now();
        told.is_some_and(|limits| limits.bytes_per_second.is_some())
    }

    fn now(&self) -> Option<LimitsStatus> {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Option<LimitsStatus>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
