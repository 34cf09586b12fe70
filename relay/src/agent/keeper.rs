//! Keeps one tunnel up: a tunnel that ends is followed by another, and one that is to end is followed before it does. Several keepers
//! are at a relay each (`relays`). What happens to a tunnel while it stands and nothing is wrong with it is in `measured`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use wire::Retry;

use crate::server::Transport;
use crate::workers::Worker;

use super::GOODBYE;
use super::attended::Attended;
use super::dial::{Before, DialError, Dialler};
use super::log_rate::{Line, LogRate};
use super::measured::{Measured, TRY_AGAIN};
use super::redial::{LATER, PATIENT_AFTER, PATIENT_REDIAL, REDIAL, Redials, spread};
use super::relays::{Berth, Relays, Stands};
use super::situation::{Standing, TunnelSituation};
use super::tunnel::{Ended, Orders, Tunnel};
use super::visitor::Visitors;
use crate::backoff::Backoff;

/// How long a tunnel to a relay that is not listed any more is kept for want of one to another relay, though visitors could come
/// through the other tunnel.
const UNLISTED_TIME: Duration = Duration::from_secs(60);

/// Keeps one tunnel up.
pub(super) struct TunnelKeeper {
    pub(super) dialler: Arc<Dialler>,
    /// Shared by all keepers of the agent.
    pub(super) relays: Relays,
    pub(super) visitors: Arc<Visitors>,
    /// What is known of the tunnel, for the next decision and for whoever asks.
    pub(super) known: TunnelSituation,
    /// Hears it whenever a tunnel has ended.
    pub(super) tunnel_ended: Arc<Notify>,
    /// Where the tunnel's socket is.
    pub(super) home: Worker,
    /// No tunnel is dialled any more; the visitors of those that stand may stay.
    pub(super) retire: CancellationToken,
    pub(super) stop: CancellationToken,
    /// How often it is in the log how its tunnels begin and end.
    pub(super) log: LogRate,
}

/// A tunnel, and the right to have it.
struct Held {
    tunnel: Tunnel,
    berth: Berth,
}

/// What happened to the tunnel that took new visitors.
pub(super) enum Turn {
    /// It ended.
    Ended(Ended),
    /// The relay asked for another one, after a while; this one lives on for the visitors it has, until it ends. They are to move
    /// when the other stands.
    Drained(Duration, oneshot::Receiver<Ended>, CancellationToken),
    /// Its relay is not listed any more: another one is wanted, and then this one is to be left.
    Unlisted(oneshot::Receiver<Ended>, CancellationToken),
    /// A better one stands already.
    Better(Box<Tunnel>),
}

impl TunnelKeeper {
    /// Returns when the agent stops, or has retired and has no visitors. `raw_outcomes` tells of each raw connection whether it came.
    pub(super) async fn keep(self, mut raw_outcomes: mpsc::Receiver<bool>) {
        let mut tunnels = Attended::default();
        let mut redials = Redials::new();
        let mut next = None;
        let mut berth = None;
        let mut before = Before::Nothing;
        while !self.stop.is_cancelled() {
            let held = match next.take() {
                Some(held) => held,
                None => match self.dial(berth.take(), before).await {
                    Some(held) => held,
                    None => break,
                },
            };
            before = Before::Nothing;
            let Held {
                tunnel,
                berth: here,
            } = held;
            let stands = here.stands();
            let since = Instant::now();
            let attended = self.attend(tunnel, &here, &mut tunnels, &mut raw_outcomes);
            match attended.await {
                Turn::Ended(ended) => {
                    self.ended(stands);
                    tokio::select! {
                        biased; // what has happened is said whatever the list says
                        () = self.rest(ended, redials.wait(since.elapsed())) => {}
                        () = here.unlisted() => {} // what one relay demands does not hold for another
                    }
                    if ended == Ended::Silent {
                        before = Before::Silence;
                    }
                    berth = Some(match ended {
                        Ended::Silent | Ended::Broken => here.elsewhere(),
                        Ended::Stopped | Ended::Left | Ended::Closed(_) => here,
                    });
                }
                Turn::Drained(asked, mut old_ended, moving) => {
                    let wait = redials.wait_as_asked(since.elapsed(), asked);
                    if let Some(Line { left_out }) = self.line() {
                        let relay = &here.relay;
                        tracing::info!(%relay, left_out, "the relay asks this agent to come back");
                    }
                    let replacement = async {
                        self.pause(wait).await;
                        self.dial(Some(here), Before::Nothing).await
                    };
                    let mut replacement = std::pin::pin!(replacement);
                    next = tokio::select! {
                        held = &mut replacement => held,
                        _ = &mut old_ended => {
                            self.ended(stands);
                            replacement.await
                        }
                    };
                    moving.cancel();
                }
                Turn::Unlisted(old_ended, leave) => {
                    next = self.leave(here, stands, old_ended, leave).await;
                }
                Turn::Better(tunnel) => {
                    next = Some(Held {
                        tunnel: *tunnel,
                        berth: here,
                    });
                }
            }
        }
        self.known.ended();
        let too_late = async {
            self.stop.cancelled().await;
            sleep(GOODBYE).await;
        };
        tokio::select! {
            () = tunnels.all_have_ended() => {}
            () = too_late => {}
        }
    }

    /// A tunnel, however long it takes; `None` when the agent stops or retires. Begins at `berth` if that is given and still good, else
    /// wherever it is best; a relay to which a dial fails is followed by the next that is free.
    async fn dial(&self, berth: Option<Berth>, mut before: Before) -> Option<Held> {
        let mut backoff = Backoff::new(REDIAL.0, REDIAL.1);
        let mut tries: u32 = 0;
        let mut at = berth;
        loop {
            let berth = match at.take().filter(Berth::is_listed) {
                Some(berth) => berth,
                None => tokio::select! {
                    biased;
                    () = self.dials_no_more() => return None,
                    berth = self.relays.berth() => berth,
                },
            };
            self.known.leads_to(&berth.relay);
            if self.known.quic_stands_beside() {
                before = Before::Beside;
            }
            let dialled = tokio::select! {
                biased;
                () = self.dials_no_more() => return None,
                dialled = self.dialler.dial(&berth.relay, before, self.known.wanted()) => dialled,
            };
            match dialled {
                Ok(tunnel) => return Some(Held { tunnel, berth }),
                Err(error) => {
                    if tries == 0
                        && let Some(Line { left_out }) = self.line()
                    {
                        tracing::warn!(relay = %berth.relay, %error, left_out, "no tunnel; trying on");
                    }
                    let wait = match error {
                        DialError::Closed(code) if code.retry() == Retry::Later => LATER,
                        DialError::Closed(_)
                        | DialError::Refused
                        | DialError::Failed(_)
                        | DialError::Tls(_)
                        | DialError::NoKey => backoff.next_wait(),
                    };
                    let wait = if tries > PATIENT_AFTER {
                        PATIENT_REDIAL
                    } else {
                        wait
                    };
                    tokio::select! {
                        () = self.pause(spread(wait)) => {}
                        () = berth.unlisted() => {}
                    }
                    at = Some(berth.elsewhere());
                }
            }
            before = Before::Failure;
            tries = tries.saturating_add(1);
        }
    }

    async fn dials_no_more(&self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.retire.cancelled() => {}
        }
    }

    /// Takes visitors from `tunnel` until another is needed.
    async fn attend(
        &self,
        tunnel: Tunnel,
        here: &Berth,
        tunnels: &mut Attended,
        raw_outcomes: &mut mpsc::Receiver<bool>,
    ) -> Turn {
        let standing = self.stands(&tunnel);
        let leave = CancellationToken::new();
        let moving = leave.child_token();
        let (drain, mut drained) = oneshot::channel();
        let (tell, mut ended) = oneshot::channel();
        let (visitors, home) = (Arc::clone(&self.visitors), self.home.clone());
        let one_ends = tunnels.attend(|end| {
            let orders = Orders {
                stop: self.stop.clone(),
                end,
                leave: leave.clone(),
                moving: moving.clone(),
                drain,
                relays: self.relays.clone(),
            };
            let attended = tunnel.attend(visitors, home, orders);
            async move {
                // Nobody listens any more if another tunnel has taken over.
                let _ = tell.send(attended.await);
            }
        });
        if one_ends && let Some(Line { left_out }) = self.line() {
            let relay = &here.relay;
            tracing::warn!(%relay, left_out, "too many tunnels wait for their visitors to finish; the oldest is closed");
        }
        let not_before = match standing.transport {
            Transport::Quic => Instant::now(),
            Transport::Tls => Instant::now() + TRY_AGAIN, // QUIC has just been tried
        };
        let mut measured = Measured {
            standing,
            raw_outcomes,
            not_before,
        };
        loop {
            tokio::select! {
                biased; // an end before anything that would outlive it
                ended = &mut ended => return Turn::Ended(ended.unwrap_or(Ended::Broken)),
                Ok(wait) = &mut drained, if !drained.is_terminated() => return Turn::Drained(wait, ended, moving),
                () = here.unlisted() => return Turn::Unlisted(ended, leave),
                Some(()) = tunnels.one_has_ended() => {}
                wanted = self.another_is_wanted(&mut measured) => {
                    match self.replace(wanted, &here.relay, &mut ended).await {
                        Some(turn) => return turn,
                        None => measured.not_before = Instant::now() + TRY_AGAIN,
                    }
                }
            }
        }
    }

    /// Notes and says how the tunnel is that takes visitors from now on, and why.
    fn stands(&self, tunnel: &Tunnel) -> Standing {
        let (transport, greeting) = (tunnel.transport(), tunnel.greeting);
        let (connection, profile) = tunnel.connection().unzip();
        let standing = Standing {
            relay: tunnel.relay.clone(),
            transport,
            seen_as: greeting.seen_as,
            since: Instant::now(),
            profile,
            raw_offered: greeting.raw_offered,
            limits: tunnel.limits.clone(),
            ports: tunnel.ports.clone(),
            guests: tunnel.guests.clone(),
            connection: connection.cloned(),
        };
        let reasons = self.known.stands(standing.clone());
        let why: Vec<_> = reasons.iter().map(ToString::to_string).collect();
        let why = (!why.is_empty()).then(|| why.join("; "));
        if let Some(Line { left_out }) = self.line() {
            let (transport, relay) = (transport.name(), &tunnel.relay);
            tracing::info!(transport, why, %relay, left_out, "attached to the relay");
        }
        standing
    }

    /// Leaves the tunnel at a relay that is not listed any more: another one stands first, here or at another keeper's.
    async fn leave(
        &self,
        here: Berth,
        stands: Stands,
        mut old_ended: oneshot::Receiver<Ended>,
        leave: CancellationToken,
    ) -> Option<Held> {
        tracing::info!(relay = %here.relay, "the relay is not listed any more");
        let mut replacement = std::pin::pin!(self.dial(None, Before::Nothing));
        let other_suffices = async {
            if self.relays.suffice() {
                sleep(UNLISTED_TIME).await;
            }
            self.relays.until_a_listed_one_is_reached().await;
        };
        let next = tokio::select! {
            held = &mut replacement => held,
            _ = &mut old_ended => {
                drop(here);
                self.ended(stands);
                replacement.await
            }
            () = other_suffices => {
                drop(here);
                self.known.ended();
                drop(stands);
                leave.cancel();
                replacement.await
            }
        };
        leave.cancel();
        next
    }

    /// The tunnel takes no visitors any more.
    fn ended(&self, stands: Stands) {
        drop(stands);
        self.known.ended();
        self.tunnel_ended.notify_one();
    }

    /// Waits as the end of a tunnel demands, or for `wait` if it makes no demand.
    async fn rest(&self, ended: Ended, wait: Duration) {
        match ended {
            Ended::Stopped | Ended::Left => {}
            Ended::Closed(code) => {
                if let Some(Line { left_out }) = self.line() {
                    let name = code.name();
                    tracing::warn!(code = name, left_out, "the relay closed the tunnel: {code}");
                }
                match code.retry() {
                    Retry::Later => self.pause(spread(LATER)).await,
                    Retry::Soon => self.pause(wait).await,
                }
            }
            Ended::Silent => {
                if let Some(Line { left_out }) = self.line() {
                    tracing::warn!(left_out, "the relay does not answer any more");
                }
            }
            Ended::Broken => {
                if let Some(Line { left_out }) = self.line() {
                    tracing::warn!(left_out, "the connection to the relay broke");
                }
                self.pause(wait).await;
            }
        }
    }

    /// The right to a line in the log: how often a tunnel begins and ends is up to the relay.
    fn line(&self) -> Option<Line> {
        self.log.line(tokio::time::Instant::now())
    }

    /// Waits for so long; less when the agent stops or retires.
    async fn pause(&self, wait: Duration) {
        tokio::select! {
            () = self.dials_no_more() => {}
            () = sleep(wait) => {}
        }
    }
}
