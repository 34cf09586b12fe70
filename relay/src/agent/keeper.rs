//! Keeps a tunnel up: a tunnel that ends is followed by another, and so is one that does worse than another would.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use wire::{CloseCode, Retry};

use crate::quic;
use crate::server::Transport;
use crate::workers::Worker;

use super::backoff::Backoff;
use super::choice::Wanted;
use super::dial::{Before, DialError, Dialler, RelayAddress};
use super::status::{Situation, Standing};
use super::tunnel::{Ended, Tunnel};
use super::visitor::Visitors;
use super::{Attached, GOODBYE};

/// Between two dials, at least and at most. A restarted relay has its agents back within five seconds.
const REDIAL: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(3));

/// After this many failed dials the relay is away for longer, and the waits may be too.
const PATIENT_AFTER: u32 = 100;
const PATIENT_REDIAL: Duration = Duration::from_secs(60);

/// The wait after a close that somebody has to do something about.
const LATER: Duration = Duration::from_secs(120);

/// How often an agent on TLS looks whether QUIC works by now, and after how long what did not come about is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// How often the tunnel's path is looked at.
const LOOK: Duration = Duration::from_secs(3);

/// Keeps one tunnel up.
pub(super) struct TunnelKeeper {
    pub(super) dialler: Arc<Dialler>,
    pub(super) relays: Vec<RelayAddress>,
    pub(super) visitors: Arc<Visitors>,
    pub(super) attached: watch::Sender<Option<Attached>>,
    /// What is known, for the next decision and for whoever asks.
    pub(super) situation: Situation,
    /// Where the tunnel's socket is.
    pub(super) home: Worker,
    pub(super) stop: CancellationToken,
}

/// What happened to the tunnel that took new visitors.
enum Turn {
    /// It ended.
    Ended(Ended),
    /// The relay asked for another one, after a while; this one lives on for the visitors it has, until it ends.
    Drained(Duration, oneshot::Receiver<Ended>),
    /// A better one stands already.
    Better(Box<Tunnel>),
}

/// The tunnel that takes visitors, and what tells how it does.
struct Measured<'a> {
    standing: Standing,
    raw_outcomes: &'a mut mpsc::Receiver<bool>,
    /// Before, no other is dialled.
    not_before: Instant,
}

impl TunnelKeeper {
    /// Returns when the agent stops. `raw_outcomes` tells of each raw connection whether it came.
    pub(super) async fn keep(self, mut raw_outcomes: mpsc::Receiver<bool>) {
        let mut tunnels = JoinSet::new(); // the newest, and older ones whose visitors finish
        let mut next = None;
        let mut before = Before::Nothing;
        while !self.stop.is_cancelled() {
            let tunnel = match next.take() {
                Some(tunnel) => tunnel,
                None => match self.dial(before).await {
                    Some(tunnel) => tunnel,
                    None => break,
                },
            };
            match self.attend(tunnel, &mut tunnels, &mut raw_outcomes).await {
                Turn::Ended(ended) => {
                    self.detached();
                    before = match ended {
                        Ended::Silent => Before::Silence,
                        Ended::Stopped | Ended::Closed(_) | Ended::Broken => Before::Nothing,
                    };
                    self.rest(ended).await;
                }
                Turn::Drained(wait, mut old_ended) => {
                    tracing::info!("the relay asks this agent to come back");
                    let replacement = async {
                        self.pause(wait).await;
                        self.dial(Before::Nothing).await
                    };
                    let mut replacement = std::pin::pin!(replacement);
                    next = tokio::select! {
                        tunnel = &mut replacement => tunnel,
                        _ = &mut old_ended => {
                            self.detached();
                            replacement.await
                        }
                    };
                }
                Turn::Better(tunnel) => next = Some(*tunnel),
            }
        }
        self.detached();
        let _ = timeout(GOODBYE, async {
            while tunnels.join_next().await.is_some() {}
        })
        .await;
    }

    /// A tunnel, however long it takes; `None` when the agent stops.
    async fn dial(&self, mut before: Before) -> Option<Tunnel> {
        let mut backoff = Backoff::new(REDIAL.0, REDIAL.1);
        let mut tries: u32 = 0;
        loop {
            let relay = self.relays.get(tries as usize % self.relays.len())?;
            let dialled = tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                dialled = self.dialler.dial(relay, before, self.wanted()) => dialled,
            };
            match dialled {
                Ok(tunnel) => return Some(tunnel),
                Err(error) => {
                    if tries == 0 {
                        tracing::warn!(%error, "no tunnel; trying on");
                    }
                    let wait = match error {
                        DialError::Closed(code) if code.retry() == Retry::Later => LATER,
                        DialError::Closed(_)
                        | DialError::Failed(_)
                        | DialError::Tls(_)
                        | DialError::NoKey => backoff.next_wait(),
                    };
                    self.pause(if tries > PATIENT_AFTER {
                        PATIENT_REDIAL
                    } else {
                        wait
                    })
                    .await;
                }
            }
            before = Before::Failure;
            tries = tries.saturating_add(1);
        }
    }

    /// Takes visitors from `tunnel` until another is needed.
    async fn attend(
        &self,
        tunnel: Tunnel,
        tunnels: &mut JoinSet<()>,
        raw_outcomes: &mut mpsc::Receiver<bool>,
    ) -> Turn {
        let standing = self.stands(&tunnel);
        let (drain, mut drained) = oneshot::channel();
        let (end, mut ended) = oneshot::channel();
        let visitors = Arc::clone(&self.visitors);
        let attended = tunnel.attend(visitors, self.home.clone(), drain, self.stop.clone());
        tunnels.spawn(async move {
            // Nobody listens any more if another tunnel has taken over.
            let _ = end.send(attended.await);
        });
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
                Ok(wait) = &mut drained, if !drained.is_terminated() => return Turn::Drained(wait, ended),
                Some(_) = tunnels.join_next() => {}
                wanted = self.another_is_wanted(&mut measured) => {
                    match self.replace(wanted, &mut ended).await {
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
        let now = Instant::now();
        let standing = Standing {
            relay: tunnel.relay.to_string(),
            transport,
            seen_as: greeting.seen_as,
            since: now,
            profile,
            raw_offered: greeting.raw_offered,
            limits: tunnel.limits.clone(),
            connection: connection.cloned(),
        };
        let mut known = self.situation.known();
        known.choice.attached(profile, greeting.raw_offered, now);
        known.standing = Some(standing.clone());
        let reasons = known.choice.reasons(now);
        drop(known);
        self.attached.send_replace(Some(Attached {
            transport,
            seen_as: greeting.seen_as,
        }));
        let why: Vec<_> = reasons.iter().map(ToString::to_string).collect();
        let why = (!why.is_empty()).then(|| why.join("; "));
        let transport = transport.name();
        tracing::info!(transport, why, "attached to the relay");
        standing
    }

    fn detached(&self) {
        self.situation.known().standing = None;
        self.attached.send_replace(None);
    }

    fn wanted(&self) -> Wanted {
        self.situation.known().choice.wanted(Instant::now())
    }

    /// Measures how the tunnel does, until another is wanted.
    async fn another_is_wanted(&self, measured: &mut Measured<'_>) -> Wanted {
        let Measured {
            standing,
            raw_outcomes,
            not_before,
        } = measured;
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => self.look(standing).await,
                Some(came) = raw_outcomes.recv() => self.heard_of_raw(came),
            }
            let is_paced = standing.limits.is_paced();
            self.situation.known().choice.limited(is_paced);
            let wanted = self.wanted();
            let other = match standing.transport {
                Transport::Quic => {
                    wanted.transport == Transport::Tls || Some(wanted.profile) != standing.profile
                }
                Transport::Tls => wanted.transport == Transport::Quic,
            };
            if other && Instant::now() >= *not_before {
                return wanted;
            }
        }
    }

    /// Dials another tunnel; `None` if there is none, and the one that stands is to go on. That the relay drains or supersedes
    /// that one meanwhile is because the other stands there already.
    async fn replace(&self, wanted: Wanted, ended: &mut oneshot::Receiver<Ended>) -> Option<Turn> {
        let mut dialled = std::pin::pin!(self.dial_as(wanted));
        let mut superseded = false;
        let tunnel = tokio::select! {
            biased;
            ended = ended => match ended {
                Ok(Ended::Closed(CloseCode::Superseded)) => {
                    superseded = true;
                    dialled.await
                }
                ended => return Some(Turn::Ended(ended.unwrap_or(Ended::Broken))),
            },
            tunnel = &mut dialled => tunnel,
        };
        match tunnel {
            Some(tunnel) => Some(Turn::Better(Box::new(tunnel))),
            None => superseded.then_some(Turn::Ended(Ended::Closed(CloseCode::Superseded))),
        }
    }

    async fn dial_as(&self, wanted: Wanted) -> Option<Tunnel> {
        let relay = self.relays.first()?;
        let dialled = match wanted.transport {
            Transport::Quic => self.dialler.dial_quic(relay, wanted.profile).await,
            Transport::Tls => self.dialler.dial_tls(relay).await,
        };
        dialled.ok()
    }

    /// Looks at the path, and at TCP's beside it if that is bad for long.
    async fn look(&self, standing: &Standing) {
        let (Some(connection), Some(relay)) = (&standing.connection, self.relays.first()) else {
            return;
        };
        let path = quic::path(connection);
        let suspicion = {
            let choice = &mut self.situation.known().choice;
            choice.looked(path);
            let suspicion = choice.suspects();
            suspicion.filter(|&suspicion| !choice.gives_up_batches(suspicion, Instant::now()))
        };
        if let Some(suspicion) = suspicion
            && let Ok(over_tcp) = self.dialler.tcp_round_trip(relay).await
        {
            let now = Instant::now();
            let choice = &mut self.situation.known().choice;
            choice.compared(suspicion, path.round_trip, over_tcp, now);
        }
    }

    fn heard_of_raw(&self, came: bool) {
        let mut known = self.situation.known();
        known.choice.raw(came);
        let count = match came {
            true => &mut known.raw_came,
            false => &mut known.raw_missed,
        };
        *count += 1;
    }

    /// Waits as the end of a tunnel demands.
    async fn rest(&self, ended: Ended) {
        match ended {
            Ended::Stopped => {}
            Ended::Closed(code) => {
                tracing::warn!(code = code.name(), "the relay closed the tunnel: {code}");
                match code.retry() {
                    Retry::Later => self.pause(LATER).await,
                    Retry::Soon => self.pause(REDIAL.0).await,
                }
            }
            Ended::Silent => tracing::warn!("the relay does not answer any more"),
            Ended::Broken => {
                tracing::warn!("the connection to the relay broke");
                self.pause(REDIAL.0).await;
            }
        }
    }

    /// Between half and all of `wait`, so that many agents do not come back at once; less when the agent stops.
    async fn pause(&self, wait: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = sleep(wait.mul_f64(rand::random_range(0.5..=1.0))) => {}
        }
    }
}
