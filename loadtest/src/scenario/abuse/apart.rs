//! An attack in a network namespace of its own. All that has a part in it is there, so it has a thread of its own.

use std::thread::{self, JoinHandle};

use tokio::runtime;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::ground::Ground;
use super::{Battle, Outcome};
use crate::scenario::ScenarioError;
use crate::world::{Carrier, Ends};

/// Fights there. When this is dropped, everything is ended first.
pub(super) async fn fight(carrier: Carrier, battle: Battle) -> Result<Outcome, ScenarioError> {
    let (sender, outcome) = oneshot::channel();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let thread = thread::Builder::new().spawn(move || {
        let fought = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ScenarioError::from)
            .and_then(|runtime| {
                runtime.block_on(async {
                    tokio::select! {
                        outcome = fight_here(carrier, battle) => outcome,
                        () = stopped.cancelled() => Err(ScenarioError::Interrupted),
                    }
                })
            });
        let _ = sender.send(fought); // nobody waits any more
    })?;
    let _apart = Apart {
        stop,
        thread: Some(thread),
    };
    outcome.await.unwrap_or(Err(ScenarioError::Interrupted))
}

async fn fight_here(carrier: Carrier, battle: Battle) -> Result<Outcome, ScenarioError> {
    let ends = Ends::among_strangers().await?;
    let mut ground = Ground::at(&ends, carrier).await?;
    battle.fight(&mut ground).await
}

/// The thread, until it has ended what it has started.
struct Apart {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic there is heard as no outcome
        }
    }
}
