//! What the relay counts. Never a name, a device or an address in a label.

mod measured;

use std::io;

use directory::Protocol;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use wire::CloseCode;

use crate::carrier::Kind;
use crate::carrier::raw::TurnedAway;
use crate::quic::{DatagramCounts, Loss, Losses};
use crate::splice::{End, Moved};

use super::handed::NoMessage;
use super::predecessor::Untold;
use super::presence::Transport;
use super::recorded;
use super::refusal::{Refusal, Rejection};
use super::traffic::Told;
use measured::Measured;
pub(crate) use measured::{HandshakeKind, Outcome, PathMetrics};

/// The relay's metrics, all prefixed `causeway_relay_`.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Visitors' TCP connections accepted. Open now = accepted - ended - handed over - refused.
    visitors_accepted: IntCounter,
    /// Visitors that were joined to a device and have ended, by how.
    visitors_ended: IntCounterVec,
    /// Connections that somebody else has taken on, by whom.
    visitors_handed_over: IntCounterVec,
    /// Visitors sent away before they reached anything, by reason.
    visitors_refused: IntCounterVec,
    /// PROXY headers that were read, by whose the connection is.
    proxy_headers: IntCounterVec,
    /// Tls carriers without a visitor.
    spare_carriers: IntGauge,
    /// Carriers opened, by kind.
    carriers_opened: IntCounterVec,
    /// Raw connections asked for, by whether they came.
    raw_connections: IntCounterVec,
    /// Portions of bulk that were copied because they could not be spliced.
    splice_fallback: IntCounter,
    /// Raw connections that were turned away at the front, by reason.
    raw_turned_away: IntCounterVec,
    /// What the process before was to be told and was not, by why.
    predecessor_untold: IntCounterVec,
    /// What the successor said that makes no sense, by what is wrong with it.
    successor_nonsense: IntCounterVec,
    /// Octets passed on, by direction.
    bytes: IntCounterVec,
    /// Tunnels attached now, by transport.
    tunnels: IntGaugeVec,
    /// Tunnels attached since the start, by transport.
    tunnels_attached: IntCounterVec,
    /// Tunnels that have ended, by close code.
    tunnels_closed: IntCounterVec,
    /// Agents that did not get as far as a tunnel, by reason.
    tunnels_refused: IntCounterVec,
    /// Memory of this process, in octets, as it was looked at last; and how much it may be before newcomers are sent away.
    memory: [IntGauge; 2],
    /// Connections that the kernel could not hand over, by what it lacked.
    accept_errors: IntCounterVec,
    /// Datagrams that were nobody's, by what they were.
    datagrams_dropped: IntCounterVec,
    /// Visitors' datagrams that were lost here on their way through a tunnel, by why.
    flow_datagrams_lost: [IntCounter; Loss::ALL.len()],
    /// Public ports of devices that are listened on, TCP and UDP.
    public_ports: IntGaugeVec,
    /// Visitors who came over QUIC and go on from another address.
    flows_moved: IntCounter,
    flows_came_back: IntCounter,
    /// Datagrams for a process before this one, by what became of them.
    datagrams_handed_on: IntCounterVec,
    /// Times, handshakes and paths.
    pub(crate) measured: Measured,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, label: &str| {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let tunnels = IntGaugeVec::new(
            Opts::new("causeway_relay_tunnels", "Tunnels attached now."),
            &["transport"],
        )?;
        registry.register(Box::new(tunnels.clone()))?;
        let spare_carriers = IntGauge::new(
            "causeway_relay_spare_carriers",
            "Tls carriers that wait for a visitor now.",
        )?;
        registry.register(Box::new(spare_carriers.clone()))?;
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let metrics = Self {
            memory: [
                gauge(
                    "causeway_relay_memory_used_bytes",
                    "Memory of this process, as it was looked at last.",
                )?,
                gauge(
                    "causeway_relay_memory_budget_bytes",
                    "Memory above which newcomers are sent away.",
                )?,
            ],
            visitors_accepted: counter(
                "causeway_relay_visitors_accepted_total",
                "Visitors' connections accepted; open now = accepted - ended - handed over - refused.",
            )?,
            visitors_ended: counters(
                "causeway_relay_visitors_ended_total",
                "Visitors that reached a device and have ended.",
                "end",
            )?,
            visitors_handed_over: counters(
                "causeway_relay_visitors_handed_over_total",
                "Connections for the operator's pages, those of agents, and those for the process before.",
                "to",
            )?,
            visitors_refused: counters(
                "causeway_relay_visitors_refused_total",
                "Visitors sent away before they reached anything.",
                "reason",
            )?,
            proxy_headers: counters(
                "causeway_relay_proxy_headers_total",
                "PROXY headers that were read: of connections that proxies pass on, and of their own, such as health checks.",
                "of",
            )?,
            spare_carriers,
            carriers_opened: counters(
                "causeway_relay_carriers_opened_total",
                "Carriers opened.",
                "kind",
            )?,
            raw_connections: counters(
                "causeway_relay_raw_connections_total",
                "Raw connections wanted for bulk, by whether they were asked for and came in time.",
                "outcome",
            )?,
            splice_fallback: counter(
                "causeway_relay_splice_fallback_total",
                "Portions of bulk that were copied because they could not be spliced.",
            )?,
            raw_turned_away: counters(
                "causeway_relay_raw_turned_away_total",
                "Raw connections turned away at the front.",
                "reason",
            )?,
            predecessor_untold: counters(
                "causeway_relay_predecessor_untold_total",
                "What the process before was to be told, a visitor or what else is its, and was not.",
                "reason",
            )?,
            successor_nonsense: counters(
                "causeway_relay_successor_nonsense_total",
                "What the successor of this process said and makes no sense.",
                "reason",
            )?,
            bytes: counters(
                "causeway_relay_bytes_total",
                "Octets passed on.",
                "direction",
            )?,
            tunnels,
            tunnels_attached: counters(
                "causeway_relay_tunnels_attached_total",
                "Tunnels attached since the start.",
                "transport",
            )?,
            tunnels_closed: counters(
                "causeway_relay_tunnels_closed_total",
                "Tunnels that have ended.",
                "code",
            )?,
            tunnels_refused: counters(
                "causeway_relay_tunnels_refused_total",
                "Agents that did not get as far as a tunnel.",
                "reason",
            )?,
            accept_errors: counters(
                "causeway_relay_accept_errors_total",
                "Connections that the kernel could not hand over.",
                "reason",
            )?,
            public_ports: {
                let ports = IntGaugeVec::new(
                    Opts::new(
                        "causeway_relay_public_ports",
                        "Public ports of devices that are listened on now.",
                    ),
                    &["protocol"],
                )?;
                registry.register(Box::new(ports.clone()))?;
                ports
            },
            datagrams_dropped: counters(
                "causeway_relay_datagrams_dropped_total",
                "Datagrams that were nobody's or from nowhere, first packets that were too long or of which too many came, hellos that did not come whole, and malformed messages from a successor that reads the port.",
                "reason",
            )?,
            flow_datagrams_lost: {
                let lost = counters(
                    "causeway_relay_flow_datagrams_lost_total",
                    "Datagrams of visitors over QUIC and at public ports that were lost at the relay on their way through a tunnel.",
                    "reason",
                )?;
                Loss::ALL.map(|why| lost.with_label_values(&[why.name()]))
            },
            flows_came_back: counter(
                "causeway_relay_flows_came_back_total",
                "Visitors over QUIC who came back from elsewhere to the connection that they have with an agent, proved or not.",
            )?,
            flows_moved: counter(
                "causeway_relay_flows_moved_total",
                "Visitors over QUIC who went on from another address.",
            )?,
            datagrams_handed_on: counters(
                "causeway_relay_datagrams_handed_on_total",
                "Datagrams for the process before this one: passed to it, or dropped because its queue was full.",
                "outcome",
            )?,
            measured: Measured::register(registry)?,
        };
        metrics.show_all_labels();
        Ok(metrics)
    }

    /// A counter that is missing until it first counts cannot be told from one that was never there.
    fn show_all_labels(&self) {
        for end in [
            End::Done,
            End::NearGone,
            End::FarGone,
            End::Idle,
            End::Cut,
            End::Shed,
        ] {
            self.visitors_ended.with_label_values(&[end_name(end)]);
        }
        for to in HandedOver::ALL {
            self.visitors_handed_over.with_label_values(&[to.name()]);
        }
        for refusal in Refusal::ALL {
            self.visitors_refused.with_label_values(&[refusal.name()]);
        }
        for is_passed_on in [true, false] {
            let of = header_of(is_passed_on);
            self.proxy_headers.with_label_values(&[of]);
        }
        for kind in Kind::ALL {
            self.carriers_opened.with_label_values(&[kind.name()]);
        }
        for outcome in RawConnection::ALL {
            self.raw_connections.with_label_values(&[outcome.name()]);
        }
        for reason in TurnedAway::ALL {
            self.raw_turned_away.with_label_values(&[reason.name()]);
        }
        for reason in Untold::ALL {
            self.predecessor_untold.with_label_values(&[reason.name()]);
        }
        for reason in NoMessage::ALL {
            self.successor_nonsense.with_label_values(&[reason.name()]);
        }
        for direction in [TO_DEVICE, TO_VISITOR] {
            self.bytes.with_label_values(&[direction]);
        }
        for transport in [Transport::Quic, Transport::Tls] {
            self.tunnels.with_label_values(&[transport.name()]);
            self.tunnels_attached.with_label_values(&[transport.name()]);
        }
        for code in CloseCode::ALL {
            self.tunnels_closed.with_label_values(&[code.name()]);
        }
        for rejection in Rejection::ALL {
            self.tunnels_refused.with_label_values(&[rejection.name()]);
        }
        for reason in LACKS {
            self.accept_errors.with_label_values(&[reason]);
        }
        self.datagram_counts();
    }

    pub(crate) fn visitor_accepted(&self) {
        self.visitors_accepted.inc();
    }

    pub(crate) fn visitor_refused(&self, refusal: Refusal) {
        self.visitors_refused
            .with_label_values(&[refusal.name()])
            .inc();
    }

    /// A proxy has said whose a connection is: somebody's, which it passes on, or its own.
    pub(crate) fn proxy_header(&self, is_passed_on: bool) {
        let of = header_of(is_passed_on);
        self.proxy_headers.with_label_values(&[of]).inc();
    }

    pub(crate) fn visitor_handed_over(&self, to: HandedOver) {
        self.visitors_handed_over
            .with_label_values(&[to.name()])
            .inc();
    }

    pub(crate) fn visitor_ended(&self, moved: Moved) {
        self.visitors_ended
            .with_label_values(&[end_name(moved.end)])
            .inc();
    }

    /// Where the sessions tell what passes.
    pub(crate) fn told(&self) -> Told {
        Told {
            to_device: self.bytes.with_label_values(&[TO_DEVICE]),
            to_visitor: self.bytes.with_label_values(&[TO_VISITOR]),
            paths: self.measured.paths(),
        }
    }

    /// What is used, and what may be.
    pub(crate) fn memory(&self) -> [IntGauge; 2] {
        self.memory.clone()
    }

    pub(super) fn public_ports(&self) -> [IntGauge; 2] {
        Protocol::ALL.map(|protocol| self.public_ports.with_label_values(&[protocol.name()]))
    }

    pub(crate) fn spare_carriers(&self) -> IntGauge {
        self.spare_carriers.clone()
    }

    pub(crate) fn carrier_opened(&self, kind: Kind) {
        self.carriers_opened.with_label_values(&[kind.name()]).inc();
    }

    pub(crate) fn raw_connection(&self, outcome: RawConnection) {
        self.raw_connections
            .with_label_values(&[outcome.name()])
            .inc();
    }

    pub(crate) fn raw_turned_away(&self, reason: TurnedAway) {
        self.raw_turned_away
            .with_label_values(&[reason.name()])
            .inc();
    }

    pub(super) fn predecessor_untold(&self, reason: Untold) {
        self.predecessor_untold
            .with_label_values(&[reason.name()])
            .inc();
    }

    pub(super) fn successor_nonsense(&self, reason: NoMessage) {
        self.successor_nonsense
            .with_label_values(&[reason.name()])
            .inc();
    }

    pub(crate) fn flow_moved(&self) {
        self.flows_moved.inc();
    }

    pub(crate) fn flow_came_back(&self) {
        self.flows_came_back.inc();
    }

    pub(crate) fn splice_fallback(&self) {
        self.splice_fallback.inc();
    }

    pub(crate) fn tunnel_attached(&self, transport: Transport) {
        self.tunnels.with_label_values(&[transport.name()]).inc();
        self.tunnels_attached
            .with_label_values(&[transport.name()])
            .inc();
    }

    pub(crate) fn tunnel_detached(&self, transport: Transport, code: CloseCode) {
        self.tunnels.with_label_values(&[transport.name()]).dec();
        self.tunnels_closed.with_label_values(&[code.name()]).inc();
    }

    pub(crate) fn tunnel_refused(&self, rejection: Rejection) {
        self.tunnels_refused
            .with_label_values(&[rejection.name()])
            .inc();
    }

    pub(crate) fn accept_error(&self, error: &io::Error) {
        self.accept_errors.with_label_values(&[lacks(error)]).inc();
    }

    pub(crate) fn datagram_counts(&self) -> DatagramCounts {
        DatagramCounts {
            stray: self.datagrams_dropped.with_label_values(&["stray"]),
            other: self.datagrams_dropped.with_label_values(&["other"]),
            no_port: self.datagrams_dropped.with_label_values(&["no_port"]),
            misdirected: self.datagrams_dropped.with_label_values(&["misdirected"]),
            passed: self.datagrams_handed_on.with_label_values(&["passed"]),
            full: self.datagrams_handed_on.with_label_values(&["full"]),
            malformed: self.datagrams_dropped.with_label_values(&["malformed"]),
            too_many: self.datagrams_dropped.with_label_values(&["too_many"]),
            oversized: self.datagrams_dropped.with_label_values(&["oversized"]),
            damaged: self.datagrams_dropped.with_label_values(&["damaged"]),
            hello_late: self.datagrams_dropped.with_label_values(&["hello_late"]),
            hello_gave_way: self
                .datagrams_dropped
                .with_label_values(&["hello_gave_way"]),
            hello_too_long: self
                .datagrams_dropped
                .with_label_values(&["hello_too_long"]),
        }
    }
}

impl Losses for Metrics {
    fn lost(&self, why: Loss, count: usize) {
        let mut each = Loss::ALL.iter().zip(&self.flow_datagrams_lost);
        if let Some((_, lost)) = each.find(|(of, _)| **of == why) {
            lost.inc_by(count as u64);
        }
    }
}

/// Who goes on with a connection that has come in at the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandedOver {
    /// The operator's pages.
    Cloud,
    /// It was no visitor but an agent, with its tunnel or a carrier.
    Tunnel,
    /// The process before, which has the tunnel that it is for.
    Predecessor,
}

impl HandedOver {
    const ALL: [Self; 3] = [Self::Cloud, Self::Tunnel, Self::Predecessor];

    fn name(self) -> &'static str {
        match self {
            Self::Cloud => "cloud",
            Self::Tunnel => "tunnel",
            Self::Predecessor => "predecessor",
        }
    }
}

/// How a visitor's connection ended, in the words of its record.
pub(crate) fn end_name(end: End) -> &'static str {
    recorded::end(end).name()
}

/// What the kernel has too little of.
fn lacks(error: &io::Error) -> &'static str {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE) => DESCRIPTORS,
        Some(Errno::NOBUFS | Errno::NOMEM) => MEMORY,
        Some(_) | None => OTHER,
    }
}

const DESCRIPTORS: &str = "descriptors";
const MEMORY: &str = "memory";
const OTHER: &str = "other";
const LACKS: [&str; 3] = [DESCRIPTORS, MEMORY, OTHER];

fn header_of(is_passed_on: bool) -> &'static str {
    if is_passed_on { "visitor" } else { "proxy" }
}

/// What became of a raw connection that was wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RawConnection {
    Came,
    /// Not in time.
    Missed,
    /// It was not asked for: there was no descriptor for it.
    NoRoom,
}

impl RawConnection {
    const ALL: [Self; 3] = [Self::Came, Self::Missed, Self::NoRoom];

    fn name(self) -> &'static str {
        match self {
            Self::Came => "came",
            Self::Missed => "missed",
            Self::NoRoom => "no_room",
        }
    }
}

const TO_DEVICE: &str = "to_device";
const TO_VISITOR: &str = "to_visitor";
