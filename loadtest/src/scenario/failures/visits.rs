//! Visitors who come at a fixed rate, each on a connection of its own, and ask for little: what became of them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::visitor::{Door, VisitError};

/// Where they come, and what they ask for there.
pub(super) type Target = (Door, String);

/// The visitors. They are gone when this is dropped.
pub(super) struct Visits {
    past: Past,
    stop: CancellationToken,
    coming: AbortOnDropHandle<()>,
}

type Past = Arc<Mutex<Vec<Visited>>>;

/// A visit that is over.
#[derive(Clone, Debug)]
pub(super) struct Visited {
    pub(super) began: Instant,
    pub(super) took: Duration,
    /// What went wrong, in words.
    pub(super) failure: Option<String>,
}

impl Visits {
    /// From now on so many come a second, to one target after the other.
    pub(super) fn start(targets: Vec<Target>, rate: u32) -> Self {
        let (past, stop) = (Past::default(), CancellationToken::new());
        let coming = tokio::spawn(come(targets, rate, Arc::clone(&past), stop.clone()));
        Self {
            past,
            stop,
            coming: AbortOnDropHandle::new(coming),
        }
    }

    /// Those that are over now.
    pub(super) fn past(&self) -> Vec<Visited> {
        self.past
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// No more come. Returns when those who are here have gone, who have no longer than any visitor has.
    pub(super) async fn finish(mut self) -> Vec<Visited> {
        self.stop.cancel();
        let _ = (&mut self.coming).await; // a visit that panics has been reported
        self.past()
    }
}

async fn come(targets: Vec<Target>, rate: u32, past: Past, stop: CancellationToken) {
    let mut visits = JoinSet::new(); // dropped with this future, and every visitor with it
    let mut ticks = interval(Duration::from_secs(1) / rate);
    // Who is late comes all the same.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for (door, path) in targets.into_iter().cycle() {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        while visits.try_join_next().is_some() {}
        let past = Arc::clone(&past);
        visits.spawn(async move {
            let began = Instant::now();
            let failure = visit(&door, &path).await.err();
            let visited = Visited {
                began,
                took: began.elapsed(),
                failure: failure.map(|error| error.to_string()),
            };
            past.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(visited);
        });
    }
    while visits.join_next().await.is_some() {}
}

/// A whole visit: connection, TLS, an answer. Its deadlines are any visitor's.
pub(super) async fn visit(door: &Door, path: &str) -> Result<(), VisitError> {
    let mut visit = door.enter().await?;
    visit.exchange_soon(door.get_once(path)).await
}
