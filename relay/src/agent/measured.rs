//! Measures how a tunnel does that stands, and dials a better one when there is to be one.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};
use wire::CloseCode;

use crate::quic::{self, Attempts};
use crate::server::Transport;

use super::choice::Wanted;
use super::keeper::{TunnelKeeper, Turn};
use super::relays::RelayAddress;
use super::situation::Standing;
use super::tunnel::{Ended, Tunnel};

/// How often an agent on TLS looks whether QUIC works by now, and after how long what did not come about is tried again.
pub(super) const TRY_AGAIN: Duration = Duration::from_secs(60);

/// How often the tunnel's path is looked at.
const LOOK: Duration = Duration::from_secs(3);

/// The tunnel that takes visitors, and what tells how it does.
pub(super) struct Measured<'a> {
    pub(super) standing: Standing,
    pub(super) raw_outcomes: &'a mut mpsc::Receiver<bool>,
    /// Before, no other is dialled.
    pub(super) not_before: Instant,
}

impl TunnelKeeper {
    /// Measures how the tunnel does, until another is wanted.
    pub(super) async fn another_is_wanted(&self, measured: &mut Measured<'_>) -> Wanted {
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
                Some(came) = raw_outcomes.recv() => self.known.raw(came),
            }
            self.known.limited(standing.limits.is_paced());
            let wanted = self.known.wanted();
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

    /// Looks at the path, and at TCP's beside it if that is bad for long.
    async fn look(&self, standing: &Standing) {
        let Some(connection) = &standing.connection else {
            return;
        };
        let path = quic::path(connection);
        if let Some(suspicion) = self.known.looked(path)
            && let Ok(over_tcp) = self.dialler.tcp_round_trip(&standing.relay).await
        {
            self.known.compared(suspicion, path.round_trip, over_tcp);
        }
    }

    /// Dials another tunnel; `None` if there is none, and the one that stands is to go on. That the relay drains or supersedes
    /// that one meanwhile is because the other stands there already.
    pub(super) async fn replace(
        &self,
        wanted: Wanted,
        relay: &RelayAddress,
        ended: &mut oneshot::Receiver<Ended>,
    ) -> Option<Turn> {
        let mut dialled = std::pin::pin!(self.dial_as(wanted, relay));
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

    async fn dial_as(&self, wanted: Wanted, relay: &RelayAddress) -> Option<Tunnel> {
        let dialled = match wanted.transport {
            Transport::Quic => {
                let attempts = Attempts::default();
                self.dialler
                    .dial_quic(relay, wanted.profile, &attempts)
                    .await
            }
            Transport::Tls => self.dialler.dial_tls(relay).await,
        };
        dialled.ok()
    }
}
