//! What the relay measures beside what it counts: how long visitors and agents wait, how handshakes end, and what the paths of
//! tunnels are like.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

use crate::carrier::Kind;
use crate::server::presence::Transport;

/// Upper bounds of the times that are measured, in seconds: from what one machine needs to the longest deadline.
const TIMES: [f64; 15] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// See the module.
#[derive(Debug)]
pub(crate) struct Measured {
    /// From a visitor's arrival to the opened carrier, by its kind. What the visitor itself took to say its name is in it.
    visitor_open: HistogramVec,
    /// From an agent's arrival to its welcome, by transport.
    tunnel_attach: HistogramVec,
    /// TLS and QUIC handshakes that ended here, by kind and outcome.
    handshakes: IntCounterVec,
    /// Agents asked to show that their address is theirs.
    retries: IntCounter,
    /// 1 once no new tunnels are taken.
    draining: IntGauge,
    /// The paths of tunnels over QUIC.
    paths: PathMetrics,
}

/// What the sweep tells of the paths of tunnels over QUIC.
#[derive(Clone, Debug)]
pub(crate) struct PathMetrics {
    /// Packets sent.
    pub(crate) sent: IntCounter,
    /// Of those, the ones that were lost.
    pub(crate) lost: IntCounter,
    /// Round trips, one observation of each busy tunnel at a time.
    pub(crate) round_trips: Histogram,
}

/// Who makes a handshake, and over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandshakeKind {
    /// An agent, for a tunnel over QUIC.
    Quic,
    /// An agent, for a tunnel or a carrier over TLS.
    Tls,
    /// A visitor of the operator's pages.
    Cloud,
}

impl HandshakeKind {
    const ALL: [Self; 3] = [Self::Quic, Self::Tls, Self::Cloud];

    fn name(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tls => "tls",
            Self::Cloud => "cloud",
        }
    }
}

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Well.
    Done,
    /// One end did not like what the other said, or went away.
    Failed,
    /// It was not over in time.
    Late,
    /// It was not begun: as many as may be are under way.
    Refused,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Done, Self::Failed, Self::Late, Self::Refused];

    fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Late => "late",
            Self::Refused => "refused",
        }
    }

    /// Of one that had a deadline.
    pub(crate) fn of<T, E, Late>(ended: &Result<Result<T, E>, Late>) -> Self {
        match ended {
            Ok(Ok(_)) => Self::Done,
            Ok(Err(_)) => Self::Failed,
            Err(_) => Self::Late,
        }
    }
}

impl Measured {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let measured = Self {
            visitor_open: add(
                registry,
                HistogramVec::new(
                    times(
                        "causeway_relay_visitor_open_duration_seconds",
                        "From a visitor's arrival to the opened carrier.",
                    ),
                    &["carrier"],
                )?,
            )?,
            tunnel_attach: add(
                registry,
                HistogramVec::new(
                    times(
                        "causeway_relay_tunnel_attach_duration_seconds",
                        "From an agent's arrival to its welcome.",
                    ),
                    &["transport"],
                )?,
            )?,
            handshakes: add(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "causeway_relay_handshakes_total",
                        "TLS and QUIC handshakes that ended at the relay.",
                    ),
                    &["kind", "outcome"],
                )?,
            )?,
            retries: add(
                registry,
                IntCounter::new(
                    "causeway_relay_quic_retries_total",
                    "Agents that were asked to show that their address is theirs.",
                )?,
            )?,
            draining: add(
                registry,
                IntGauge::new(
                    "causeway_relay_draining",
                    "1 once the relay is about to stop: it takes no new tunnels, and after `leave` no new visitors.",
                )?,
            )?,
            paths: PathMetrics::register(registry)?,
        };
        measured.show_all_labels();
        Ok(measured)
    }

    fn show_all_labels(&self) {
        for kind in Kind::ALL {
            self.visitor_open.with_label_values(&[kind.name()]);
        }
        for transport in [Transport::Quic, Transport::Tls] {
            self.tunnel_attach.with_label_values(&[transport.name()]);
        }
        for kind in HandshakeKind::ALL {
            for outcome in Outcome::ALL {
                self.handshakes
                    .with_label_values(&[kind.name(), outcome.name()]);
            }
        }
    }

    pub(crate) fn visitor_open(&self, carrier: Kind, took: Duration) {
        self.visitor_open
            .with_label_values(&[carrier.name()])
            .observe(took.as_secs_f64());
    }

    pub(crate) fn tunnel_attach(&self, transport: Transport, took: Duration) {
        self.tunnel_attach
            .with_label_values(&[transport.name()])
            .observe(took.as_secs_f64());
    }

    pub(crate) fn handshake(&self, kind: HandshakeKind, outcome: Outcome) {
        self.handshakes
            .with_label_values(&[kind.name(), outcome.name()])
            .inc();
    }

    pub(crate) fn retry(&self) {
        self.retries.inc();
    }

    pub(crate) fn draining(&self) -> IntGauge {
        self.draining.clone()
    }

    pub(crate) fn paths(&self) -> PathMetrics {
        self.paths.clone()
    }
}

impl PathMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            sent: add(
                registry,
                IntCounter::new(
                    "causeway_relay_quic_packets_sent_total",
                    "Packets sent to agents over QUIC.",
                )?,
            )?,
            lost: add(
                registry,
                IntCounter::new(
                    "causeway_relay_quic_packets_lost_total",
                    "Packets sent to agents over QUIC that were lost.",
                )?,
            )?,
            round_trips: add(
                registry,
                Histogram::with_opts(times(
                    "causeway_relay_quic_rtt_seconds",
                    "Round trips to agents over QUIC, every four seconds of each whose visitors move something.",
                ))?,
            )?,
        })
    }
}

fn times(name: &str, help: &str) -> HistogramOpts {
    HistogramOpts::new(name, help).buckets(TIMES.to_vec())
}

fn add<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
