//! Asks the cloud which relays there are, again and again, and keeps what it says. A cloud that is away, or talks nonsense,
//! changes nothing.

use std::time::Duration;

use hyper::Method;
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::cloud::{CallError, Cloud};
use super::identity::Identity;
use super::relays::{ListError, RelayAddress, Relays};
use super::state::{Pairing, State, StateError};
use crate::backoff::Backoff;

/// How often the cloud is asked, give or take a fifth.
const ASK: Duration = Duration::from_secs(300);

/// How long after a tunnel has ended, at least and at most, if none has taken its place by then: its relay may be one that the operator
/// has taken away. One that has only begun anew has its agents back sooner, and so many calls at once would keep it from that.
const ASK_SOON: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(30));

/// Between two tries to ask, at least and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

#[derive(Deserialize)]
struct RelaysAnswer {
    relays: Vec<String>,
}

/// Why there is no new list.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the cloud's list of relays is refused: {0}")]
    List(#[from] ListError),
}

/// What it takes to ask, and who wants to know.
pub(super) struct RelayList<'a> {
    pub(super) cloud: &'a Cloud,
    pub(super) identity: &'a Identity,
    pub(super) state: &'a State,
    /// What the agent was started with.
    pub(super) pairing: Pairing,
    pub(super) relays: Relays,
    /// Told by the keepers.
    pub(super) tunnel_ended: &'a Notify,
}

impl RelayList<'_> {
    /// Asks now, now and then, and soon after a tunnel has ended for which there is no other. Never returns.
    pub(super) async fn follow(&self) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            let wait = match self.ask().await {
                Ok((texts, relays)) => {
                    self.relays.list(relays);
                    if let Err(error) = self.keep(texts) {
                        tracing::warn!(%error, "the list of relays could not be kept");
                    }
                    backoff.reset();
                    ASK.mul_f64(rand::random_range(0.8..1.2))
                }
                Err(AskError::List(error)) => {
                    tracing::warn!(%error, "the cloud's list of relays is refused; the last good one stays");
                    backoff.next_wait()
                }
                Err(AskError::Call(error)) => {
                    tracing::debug!(%error, "the cloud does not say which relays there are");
                    backoff.next_wait()
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = until_one_is_missed(self.tunnel_ended, &self.relays) => {}
            }
        }
    }

    async fn ask(&self) -> Result<(Vec<String>, Vec<RelayAddress>), AskError> {
        let RelaysAnswer { relays } = self
            .cloud
            .call(
                Method::GET,
                "/api/device/relays",
                "application/json",
                Vec::new(),
                self.identity,
            )
            .await?;
        let addresses = RelayAddress::parse_list(&relays)?;
        Ok((relays, addresses))
    }

    /// Keeps the list with the pairing, for the next start.
    fn keep(&self, relays: Vec<String>) -> Result<(), StateError> {
        let kept = self.state.pairing()?;
        match with_list(&kept, &self.pairing, relays) {
            Some(pairing) => self.state.keep_pairing(&pairing),
            None => Ok(()),
        }
    }
}

/// Returns some time after a tunnel has ended, if one is missing then.
async fn until_one_is_missed(tunnel_ended: &Notify, relays: &Relays) {
    loop {
        tunnel_ended.notified().await;
        let spread = (ASK_SOON.1 - ASK_SOON.0).mul_f64(rand::random_range(0.0..1.0));
        sleep(ASK_SOON.0 + spread).await;
        if relays.is_one_missing() {
            return;
        }
    }
}

/// The `kept` pairing with this list of relays, if that changes anything. One that was made while the agent ran is left alone: what
/// is heard is said to the device that the agent was `started` as.
fn with_list(kept: &Pairing, started: &Pairing, relays: Vec<String>) -> Option<Pairing> {
    let is_the_same = *started
        == Pairing {
            relays: started.relays.clone(),
            ..kept.clone()
        };
    (is_the_same && kept.relays != relays).then(|| Pairing {
        relays,
        ..kept.clone()
    })
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_that_is_back_is_not_missed() {
        let relays = RelayAddress::parse_list(&["a:443".to_owned()]).unwrap();
        let relays = Relays::new(relays);
        let (tunnel_ended, berth) = (Notify::new(), relays.berth().await);
        let stands = berth.stands();
        tunnel_ended.notify_one();
        let missed = timeout(10 * ASK_SOON.1, until_one_is_missed(&tunnel_ended, &relays));
        assert!(missed.await.is_err());
        drop(stands);
        tunnel_ended.notify_one();
        let missed = timeout(2 * ASK_SOON.1, until_one_is_missed(&tunnel_ended, &relays));
        missed.await.unwrap();
    }

    fn pairing(device_id: &str, relays: &[&str]) -> Pairing {
        Pairing {
            device_id: device_id.to_owned(),
            name: "mynas".to_owned(),
            zone: "nas.localhost".to_owned(),
            cloud: "https://cloud.nas.localhost".to_owned(),
            relays: relays.iter().map(ToString::to_string).collect(),
            trust_root: String::new(),
        }
    }

    #[test]
    fn a_new_list_is_kept_with_the_pairing_and_another_pairing_is_left_alone() {
        let (started, kept) = (pairing("one", &["a:443"]), pairing("one", &["b:443"]));
        let new = || vec!["c:443".to_owned(), "b:443".to_owned()];
        assert_eq!(
            with_list(&kept, &started, new()),
            Some(pairing("one", &["c:443", "b:443"]))
        );
        assert_eq!(with_list(&kept, &started, vec!["b:443".to_owned()]), None);
        let paired_again = pairing("two", &["d:443"]);
        assert_eq!(with_list(&paired_again, &started, new()), None);
    }
}
