//! The first seconds of a relay whose listener was there before it: between two runs nobody is refused, so those who waited in its
//! queue are not sent away either because their device's agent is still on its way back.

use std::sync::Arc;
use std::time::Duration;

use directory::DeviceId;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use crate::server::sessions::{Session, Sessions};

/// How long agents take to come back, and a second more: between two dials they rest for three seconds at most.
const RETURN_TIME: Duration = Duration::from_secs(6);

/// How often those who wait look for theirs. All come in the same few seconds, and must not all wake up for each.
const LOOK: Duration = Duration::from_millis(50);

/// Until when agents may be on their way back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Returning(Option<Instant>);

impl Returning {
    /// Of a relay that starts now.
    pub(crate) fn to(listener_was_there: bool) -> Self {
        Self(listener_was_there.then(|| Instant::now() + RETURN_TIME))
    }

    /// Whether a device that is not here may be soon.
    pub(super) fn is_now(self) -> bool {
        self.0.is_some_and(|until| Instant::now() < until)
    }

    /// The session of `device` once it is here, or nothing when that may not be expected any more. For a device that does not
    /// exist it is waited as for any other.
    pub(super) async fn session(
        self,
        sessions: &Sessions,
        device: &DeviceId,
    ) -> Option<Arc<Session>> {
        let arrived = async {
            let mut looks = interval(LOOK);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                looks.tick().await;
                if let Some(session) = sessions.of(device) {
                    return session;
                }
            }
        };
        timeout_at(self.0?, arrived).await.ok()
    }
}
