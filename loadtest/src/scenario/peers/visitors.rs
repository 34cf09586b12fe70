//! Visitors that cost next to nothing: one thread for all of them, and the kernel throws away what they receive.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::entrance::{Entrance, Line};
use crate::plain::{HELLO, Request};
use crate::scenario::requests::Clock;
use crate::scenario::{Load, ScenarioError, for_ever};

/// How long nothing may come.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many may be on their way to a first answer: no more than a household, however many there are to be.
const AT_ONCE: usize = 64;

/// What a visitor does, again and again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Visit {
    /// How much it asks for.
    pub(super) length: u64,
    /// Whether the origin has something to do first.
    pub(super) works: bool,
    pub(super) then: Then,
}

/// What a visitor does with its connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    AskAgain,
    Leave,
    Rest,
}

/// The visitors. They are gone when this is dropped.
pub(super) struct Visitors {
    /// Octets, all visitors together.
    pub(super) received: Arc<AtomicU64>,
    pub(super) clock: Arc<Clock>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Visitors {
    pub(super) fn start(
        entrance: Entrance,
        visit: Visit,
        count: usize,
        load: Arc<Load>,
    ) -> Result<Self, ScenarioError> {
        let visitor = Arc::new(Visitor {
            entrance,
            visit,
            arrivals: Semaphore::new(AT_ONCE),
            load,
            received: Arc::default(),
            clock: Arc::new(Clock::new()?),
        });
        let (received, clock) = (Arc::clone(&visitor.received), Arc::clone(&visitor.clock));
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = thread::Builder::new()
            .name("visitors".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let mut visitors = JoinSet::new();
                    for _ in 0..count {
                        let visitor = Arc::clone(&visitor);
                        visitors.spawn(async move {
                            for_ever(&visitor.load, || visitor.visit()).await;
                        });
                    }
                    stopped.cancelled().await;
                });
            })?;
        Ok(Self {
            received,
            clock,
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Visitors {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // none of them waits for anything but its runtime
        }
    }
}

/// What all of them have in common, which is everything.
struct Visitor {
    entrance: Entrance,
    visit: Visit,
    arrivals: Semaphore,
    load: Arc<Load>,
    received: Arc<AtomicU64>,
    clock: Arc<Clock>,
}

impl Visitor {
    /// One connection and as many answers over it as are wanted.
    async fn visit(&self) -> io::Result<()> {
        let Visit {
            length,
            works,
            then,
        } = self.visit;
        let arrival = self.arrivals.acquire().await.map_err(io::Error::other)?;
        let request = Request {
            length,
            last: then == Then::Leave,
            works,
        };
        let mut arrival = Some(arrival);
        let mut start = Instant::now();
        let mut line = self.entrance.enter().await?;
        line.send(&[HELLO, &request.encode()].concat()).await?;
        loop {
            self.receive(&mut line, length).await?;
            self.clock.answer(start, &self.load);
            match then {
                Then::AskAgain => {}
                Then::Leave => return Ok(()),
                Then::Rest => {
                    drop(arrival.take());
                    return pending().await;
                }
            }
            start = Instant::now();
            line.send(&request.encode()).await?;
        }
    }

    async fn receive(&self, line: &mut Line, length: u64) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            match timeout(PATIENCE, line.forget(left)).await?? {
                0 => return Err(ended_after(length - left)),
                received => {
                    left -= received as u64;
                    self.received.fetch_add(received as u64, Relaxed);
                }
            }
        }
        Ok(())
    }
}

fn ended_after(octets: u64) -> io::Error {
    let words = format!("the answer ended after {octets} octets");
    io::Error::new(io::ErrorKind::UnexpectedEof, words)
}
