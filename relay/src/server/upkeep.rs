//! What is looked after again and again while the relay runs: its sessions, and how much memory is used. It is noted when each was
//! done last, so that somebody can tell if it is done no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::sys;

use super::limits::Limits;
use super::sessions::{SWEEP, Sessions};

/// How often the memory is looked at. Between two looks newcomers are let in, thousands a second if there is a flood of them.
const LOOK: Duration = Duration::from_millis(100);

/// Where memory is short, the allocator is asked this often to give back what is free: it looks through all it has, and whoever wants
/// memory meanwhile may wait for it.
const GIVE_BACK: Duration = Duration::from_secs(5);

/// The same while more is used than the budget: what is free is not to cost a visitor its place.
const GIVE_BACK_AT_ONCE: Duration = Duration::from_millis(500);

/// What the relay looks after; clones are the same.
#[derive(Clone, Debug)]
pub struct Upkeep {
    limits: Limits,
    begun: Instant,
    sessions: Arc<Done>,
    memory: Arc<Done>,
}

/// When something was done last, in milliseconds since the relay began.
#[derive(Debug, Default)]
struct Done(AtomicU64);

impl Upkeep {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            begun: Instant::now(),
            sessions: Arc::default(),
            memory: Arc::default(),
        }
    }

    /// What is done several times a second, and when each was done last.
    pub fn last_done(&self) -> [(&'static str, Instant); 2] {
        [("sessions", &self.sessions), ("memory", &self.memory)].map(|(what, done)| {
            let since_begun = Duration::from_millis(done.0.load(Relaxed));
            (what, self.begun + since_begun)
        })
    }

    /// Whether newcomers are sent away because as much memory is used as may be.
    pub fn memory_is_over(&self) -> bool {
        self.limits.memory().is_over()
    }

    pub(super) async fn sweep(self, sessions: Arc<Sessions>, until: CancellationToken) {
        let mut ticks = interval(SWEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay); // several looks at once see no more than one
        loop {
            tokio::select! {
                () = until.cancelled() => return,
                _ = ticks.tick() => sessions.sweep(Instant::now()),
            }
            self.done(&self.sessions);
        }
    }

    /// What a flood leaves behind is free, but still this process's: where memory is short it is given back to the system, so that
    /// those who come after a flood are not sent away for it. If even then more is used than the budget, the newest have to leave.
    pub(super) async fn watch_memory(self, until: CancellationToken) {
        let memory = self.limits.memory();
        let mut ticks = interval(LOOK);
        let mut given_back: Option<Instant> = None;
        loop {
            tokio::select! {
                () = until.cancelled() => return,
                _ = ticks.tick() => memory.look(Instant::now()),
            }
            let pause = match memory.is_exceeded() {
                true => GIVE_BACK_AT_ONCE,
                false => GIVE_BACK,
            };
            let is_due = given_back.is_none_or(|at| at.elapsed() >= pause);
            if is_due && memory.is_short() {
                // Not here, where visitors are served. That it cannot end but by itself is no loss: it takes well below a second.
                let _ = spawn_blocking(sys::give_back_memory).await;
                let now = Instant::now();
                memory.look(now);
                given_back = Some(now);
                let visitors = memory.shed_newest(now);
                if visitors > 0 {
                    tracing::warn!(
                        visitors,
                        "memory is short: the newest visitors have to leave"
                    );
                }
            }
            self.done(&self.memory);
        }
    }

    fn done(&self, what: &Done) {
        let since_begun = u64::try_from(self.begun.elapsed().as_millis());
        what.0.store(since_begun.unwrap_or(u64::MAX), Relaxed);
    }
}
