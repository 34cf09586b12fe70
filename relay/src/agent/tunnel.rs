//! One tunnel, attached, to its end. The functions stand in the order in which a tunnel lives.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::frame::Ticket;
use wire::{CloseCode, Frame, ResetCode};

use crate::carrier::{Carrier, raw};
use crate::control_stream::{ControlError, ControlStream};
use crate::liveness::SignsOfLife;
use crate::quic::{self, Connection, Endpoint, Profile};
use crate::resolve;
use crate::server::Transport;
use crate::tls::{self, Prefixed, TlsStream};
use crate::workers::Worker;

use super::dial::DIAL_TIME;
use super::http3::Http3;
use super::ports::ToldPorts;
use super::pulse::{Beat, Pulse};
use super::relays::{RelayAddress, Relays};
use super::services::Services;
use super::situation::ToldLimits;
use super::status::LimitsStatus;
use super::visitor::{Guest, Visitors};

/// How long the relay may take to acknowledge that a tunnel is closed.
const CLOSE_TIME: Duration = Duration::from_millis(500);

/// How long the visitors of a tunnel that is left may take to finish: as long as a relay has patience with one who is idle.
const LEAVE_TIME: Duration = Duration::from_secs(3600);

/// An attached tunnel.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) relay: RelayAddress,
    pub(super) greeting: Greeting,
    /// What the relay says that its device may have at most.
    pub(super) limits: ToldLimits,
    /// How it stands with the public ports that lead to services here.
    pub(super) ports: ToldPorts,
    /// Its visitors.
    pub(super) guests: TaskTracker,
    /// Brings raw connections for its visitors' bulk.
    pub(super) raw: raw::Dialler,
    /// What is heard over its carriers, and over raw connections beside them.
    pub(super) signs: Arc<SignsOfLife>,
    pub(super) way: Way,
    pub(super) control: ControlStream,
}

/// What the relay has said when a tunnel was attached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Greeting {
    /// The agent's address as the relay sees it.
    pub(super) seen_as: SocketAddr,
    /// Whether it takes raw connections.
    pub(super) raw_offered: bool,
    /// Whether it has visitors' datagrams for the tunnel.
    pub(super) datagrams_offered: bool,
    /// Whether it is to be told of public ports.
    pub(super) hears_of_ports: bool,
    /// How long it took to say so.
    pub(super) round_trip: Duration,
}

/// What it runs over.
#[derive(Debug)]
pub(super) enum Way {
    Quic {
        connection: Connection,
        endpoint: Endpoint,
        profile: Profile,
    },
    Tls(CarrierDialler),
}

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// This agent stops.
    Stopped,
    /// It was left, and its last visitor has gone.
    Left,
    /// The relay closed it.
    Closed(CloseCode),
    /// The relay does not answer any more.
    Silent,
    /// The connection broke.
    Broken,
}

/// How often it is looked at whether the relay's packets still come where they are waited for.
const LOOK: Duration = Duration::from_millis(250);

/// What is said to the task that attends a tunnel, and what it says.
pub(super) struct Orders {
    /// The agent stops.
    pub(super) stop: CancellationToken,
    /// This tunnel ends at once, whatever visitors it has.
    pub(super) end: CancellationToken,
    /// Another tunnel takes the new visitors: this one ends with those it has.
    pub(super) leave: CancellationToken,
    /// The visitors had better come by another tunnel, and hear so as far as their protocol has a word for it.
    pub(super) moving: CancellationToken,
    /// Hears it when the relay asks this agent to come back elsewhere; visitors who are here may finish meanwhile.
    pub(super) drain: oneshot::Sender<Duration>,
    /// Tell whether there are other tunnels.
    pub(super) relays: Relays,
}

impl Tunnel {
    pub(super) fn transport(&self) -> Transport {
        match self.way {
            Way::Quic { .. } => Transport::Quic,
            Way::Tls(_) => Transport::Tls,
        }
    }

    /// Over QUIC, its connection and how that was made.
    pub(super) fn connection(&self) -> Option<(&Connection, Profile)> {
        match &self.way {
            Way::Quic {
                connection,
                profile,
                ..
            } => Some((connection, *profile)),
            Way::Tls(_) => None,
        }
    }

    /// Takes visitors until the tunnel ends.
    pub(super) async fn attend(
        mut self,
        visitors: Arc<Visitors>,
        home: Worker,
        orders: Orders,
    ) -> Ended {
        let ended = self.serve(&visitors, &home, orders).await;
        match &self.way {
            Way::Quic {
                connection,
                endpoint,
                ..
            } => {
                quic::close(connection, CloseCode::Done);
                // The relay should hear it before this process ends.
                let _ = timeout(CLOSE_TIME, endpoint.wait_idle()).await;
            }
            Way::Tls(_) => {
                let _ = self
                    .control
                    .send(&Frame::Close {
                        code: Ok(CloseCode::Done),
                    })
                    .await;
                self.control.finish().await;
            }
        }
        ended
    }

    async fn serve(&mut self, visitors: &Arc<Visitors>, home: &Worker, orders: Orders) -> Ended {
        let Orders {
            stop,
            end,
            leave,
            moving,
            drain,
            relays,
        } = orders;
        let mut drain = Some(drain);
        let services = &visitors.hosts.services;
        let mut changes = services.changes();
        if self.publish(services).await.is_err() {
            return self.ended();
        }
        let mut pulse = Pulse::new(self.greeting.round_trip);
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard_before = 0;
        let relay = self.relay.to_string();
        let guests = self.guests.clone();
        let http3 = self
            .connection()
            .filter(|_| self.greeting.datagrams_offered)
            .map(|(connection, _)| {
                visitors.http3(connection.clone(), guests.clone(), moving.clone())
            });
        let mut last_goes = pin!(async {
            let is_left = async {
                leave.cancelled().await;
                guests.close();
                let _ = timeout(LEAVE_TIME, guests.wait()).await;
            };
            tokio::select! {
                () = end.cancelled() => {}
                () = is_left => {}
            }
        });
        loop {
            let alarm = pulse.alarm();
            tokio::select! {
                biased; // the end first, then what the relay says, then its visitors, then our own pings
                () = stop.cancelled() => {
                    say_goodbye(http3.as_deref()).await;
                    return Ended::Stopped;
                }
                () = &mut last_goes => {
                    say_goodbye(http3.as_deref()).await;
                    return Ended::Left;
                }
                frame = self.control.next() => {
                    self.signs.heard(1);
                    match frame {
                        Ok(Frame::Pong { .. }) => pulse.pong(Instant::now()),
                        Ok(Frame::Ping { sequence }) => {
                            if self.control.send(&Frame::Pong { sequence }).await.is_err() {
                                return self.ended();
                            }
                        }
                        // Who comes to a tunnel that is left has to come again.
                        Ok(Frame::Dial { .. }) if leave.is_cancelled() => {}
                        Ok(Frame::Dial { ticket }) => {
                            pulse.quicken(Instant::now());
                            self.dial_carrier(ticket, &moving, visitors, home);
                        }
                        Ok(Frame::Limits { bytes_per_second, visitors }) => {
                            self.limits.told(LimitsStatus { bytes_per_second, visitors });
                        }
                        Ok(Frame::Published { each }) => {
                            self.ports.said(&each);
                        }
                        Ok(Frame::Drain { reconnect_after }) => {
                            if let Some(drain) = drain.take() {
                                // Nobody listens any more if this tunnel has been replaced already.
                                let _ = drain.send(reconnect_after);
                            }
                        }
                        Ok(Frame::Close { code }) => return Ended::Closed(code.unwrap_or(CloseCode::Done)),
                        Ok(Frame::Ids { ids }) => {
                            if let Some(http3) = &http3 {
                                http3.ids.add(&ids);
                            }
                        }
                        Ok(
                            Frame::Hello(_)
                            | Frame::Welcome { .. }
                            | Frame::WantIds
                            | Frame::Publish { .. }
                            | Frame::Open(_)
                            | Frame::Carry { .. },
                        )
                        | Err(ControlError::Frame(_)) => return Ended::Closed(CloseCode::Protocol),
                        Err(ControlError::Ended | ControlError::Io(_)) => return self.ended(),
                    }
                }
                carrier = self.way.carrier() => match carrier {
                    Some(mut carrier) if leave.is_cancelled() => carrier.sender.reset(ResetCode::Refused),
                    Some(carrier) => {
                        pulse.quicken(Instant::now());
                        let guest = Guest {
                            counted: guests.token(),
                            moving: moving.clone(),
                            home: home.clone(),
                            http3: http3.clone(),
                        };
                        visitors.receive(carrier, self.raw.clone(), guest, home);
                    }
                    None => return self.ended(),
                },
                // What a tunnel that is left has leads here still, as long as nobody else has it.
                Ok(()) = changes.changed(), if !leave.is_cancelled() => {
                    if self.publish(services).await.is_err() {
                        return self.ended();
                    }
                }
                _ = looks.tick(), if !guests.is_empty() => {
                    let heard = self.heard();
                    if std::mem::replace(&mut heard_before, heard) == heard {
                        self.way.show_where();
                    }
                    if let Some(http3) = &http3 {
                        http3.look();
                    }
                }
                () = wants_ids(http3.as_deref()) => {
                    if self.control.send(&Frame::WantIds).await.is_err() {
                        return self.ended();
                    }
                }
                () = relays.until_one_is_lost(), if pulse.is_quiet() => pulse.quicken(Instant::now()),
                () = self.ports.log(&relay) => {}
                () = sleep_until(alarm) => {
                    let is_quiet = relays.are_all_reached() && guests.is_empty();
                    match pulse.due(Instant::now(), self.heard(), self.way.round_trip(), is_quiet) {
                        Beat::Silent => return Ended::Silent,
                        Beat::Rest => {}
                        Beat::Ping { is_light: true, .. } if self.way.ping() => {}
                        Beat::Ping { sequence, .. } => {
                            if self.control.send(&Frame::Ping { sequence }).await.is_err() {
                                return self.ended();
                            }
                        }
                    }
                }
            }
        }
    }

    /// Tells the relay which public ports lead to services here, if that is news to it.
    async fn publish(&mut self, services: &Services) -> Result<(), ControlError> {
        let ports = services.ports();
        if self.ports.ask(&ports, self.greeting.hears_of_ports) {
            self.control.send(&Frame::Publish { ports }).await?;
        }
        Ok(())
    }

    /// Grows with every sign of life of the relay.
    fn heard(&self) -> u64 {
        let packets = match &self.way {
            Way::Quic { connection, .. } => quic::heard(connection),
            Way::Tls(_) => 0,
        };
        packets + self.signs.count()
    }

    fn ended(&self) -> Ended {
        match &self.way {
            Way::Quic { connection, .. } => {
                quic::close_code(connection).map_or(Ended::Broken, Ended::Closed)
            }
            Way::Tls(_) => Ended::Broken,
        }
    }

    fn dial_carrier(
        &self,
        ticket: Ticket,
        moving: &CancellationToken,
        visitors: &Arc<Visitors>,
        home: &Worker,
    ) {
        let Way::Tls(dialler) = &self.way else {
            return; // over QUIC the relay opens streams itself
        };
        let (dialler, raw, visitors) = (dialler.clone(), self.raw.clone(), Arc::clone(visitors));
        let worker = visitors.least_busy(home).clone();
        let runtime = worker.runtime().clone();
        let guest = Guest {
            counted: self.guests.token(),
            moving: moving.clone(),
            home: home.clone(),
            http3: None,
        };
        let dialled = async move {
            match timeout(DIAL_TIME, dialler.dial(ticket)).await {
                Ok(Ok(carrier)) => visitors.receive_here(carrier, raw, guest, &worker),
                Ok(Err(error)) => tracing::debug!(%error, "no carrier for a visitor"),
                Err(_) => tracing::debug!("no carrier for a visitor in time"),
            }
        };
        self.guests.spawn_on(dialled, &runtime);
    }
}

/// The visitors of its own HTTP/3 hear that the tunnel ends, while there is a way to them.
async fn say_goodbye(http3: Option<&Http3>) {
    if let Some(http3) = http3 {
        http3.say_goodbye().await;
    }
}

/// Ends when the relay is to be asked for connection ids.
async fn wants_ids(http3: Option<&Http3>) {
    match http3 {
        Some(http3) => http3.ids.wants_more().await,
        None => std::future::pending().await,
    }
}

impl Way {
    /// The next visitor's carrier; `None` once the connection has ended.
    async fn carrier(&self) -> Option<Carrier> {
        match self {
            Self::Quic { connection, .. } => {
                let (send, recv) = connection.accept_bi().await.ok()?;
                Some(Carrier::quic(send, recv))
            }
            Self::Tls(_) => std::future::pending().await, // they come by ticket
        }
    }

    /// Who waits for room has nothing to send. If a NAT has given it another port meanwhile, the relay does not know, and what it says
    /// of room comes to nobody (RFC 9000 section 4.1).
    fn show_where(&self) {
        if let Self::Quic { connection, .. } = self
            && connection.waits_for_room()
        {
            connection.ping();
        }
    }

    /// Has the other end acknowledge that it is there, and no more; `false` where there is no such thing.
    fn ping(&self) -> bool {
        match self {
            Self::Quic { connection, .. } => {
                connection.ping();
                true
            }
            Self::Tls(_) => false,
        }
    }

    /// As far as it is known without asking.
    fn round_trip(&self) -> Option<Duration> {
        match self {
            Self::Quic { connection, .. } => Some(quic::path(connection).round_trip),
            Self::Tls(_) => None,
        }
    }
}

/// Brings tls carriers to the relay process that asked for them.
#[derive(Clone)]
pub(super) struct CarrierDialler {
    pub(super) connector: TlsConnector,
    pub(super) host: String,
    pub(super) address: SocketAddr,
    pub(super) signs: Arc<SignsOfLife>,
}

impl CarrierDialler {
    async fn dial(&self, ticket: Ticket) -> io::Result<Carrier> {
        let stream = resolve::connect_to(self.address).await?;
        let name = tls::server_name(&self.host)?;
        let stream = self
            .connector
            .connect(name, Prefixed::new(Bytes::new(), stream))
            .await?;
        let mut stream = TlsStream::from(stream);
        let carry = Frame::Carry { ticket }.encode().map_err(io::Error::other)?;
        stream.write_all(&carry).await?;
        stream.flush().await?;
        Ok(Carrier::tls(stream.into(), Arc::clone(&self.signs)))
    }
}

impl fmt::Debug for CarrierDialler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CarrierDialler")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
