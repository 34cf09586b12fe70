//! The threads that carry bytes: a runtime each, and nothing of one is ever taken over by another. What is woken on a thread
//! stays there, and what many visitors say at once leaves together: with one shared runtime each answer was a packet of its
//! own. `benches/README.md` has the figures.

use std::cell::Cell;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;

use tokio::runtime::{self, EnterGuard, Handle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// How many are useful at most: a connection id has an octet for its worker.
const MAX: usize = 256;

/// How many sockets are looked after in one go. What they have to say leaves together after that: with more of them the
/// other end of the tunnel is idle meanwhile and then has everything to do at once, with fewer each packet carries less.
pub(crate) const EVENTS: usize = 24;

/// How many more visitors than the least busy worker one may have before newcomers go there: to change threads costs a
/// visitor some microseconds.
const TOLERANCE: usize = 4;

thread_local! {
    /// Which worker this thread is.
    static HERE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The threads. They end, and everything on them, when this is dropped.
#[derive(Debug)]
pub struct WorkerThreads {
    workers: Workers,
    stop: CancellationToken,
    threads: Vec<thread::JoinHandle<()>>,
}

impl WorkerThreads {
    /// Starts one for each core that this process may use: what affinity and quota leave of the machine.
    ///
    /// # Errors
    /// If the system gives no thread or no event queue.
    pub fn per_core() -> io::Result<Self> {
        Self::start(cores())
    }

    /// The same, but for one core: there the kernel does its half of the work, and this process whatever is no visitor.
    ///
    /// # Errors
    /// If the system gives no thread or no event queue.
    pub fn per_core_but_one() -> io::Result<Self> {
        Self::start(NonZeroUsize::new(cores().get() - 1).unwrap_or(NonZeroUsize::MIN))
    }

    /// Starts `count` workers, or as many of them as are useful.
    ///
    /// # Errors
    /// If the system gives no thread or no event queue.
    pub fn start(count: NonZeroUsize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let stop_if_one_fails = stop.clone().drop_guard();
        let (mut workers, mut threads) = (Vec::new(), Vec::new());
        for index in 0..count.get().min(MAX) {
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .max_io_events_per_tick(EVENTS)
                .build()?;
            workers.push(Worker(Arc::new(State {
                index,
                runtime: runtime.handle().clone(),
                visitors: AtomicUsize::new(0),
                asked: AtomicBool::new(false),
                keeps_up: AtomicBool::new(true),
            })));
            let stopped = stop.clone();
            let thread = thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    HERE.set(Some(index));
                    runtime.block_on(stopped.cancelled());
                    runtime.shutdown_background(); // a name server that does not answer is not waited for
                })?;
            threads.push(thread);
        }
        stop_if_one_fails.disarm();
        Ok(Self {
            workers: Workers {
                all: workers.into(),
                turn: Arc::default(),
            },
            stop,
            threads,
        })
    }

    /// Who works there.
    pub fn workers(&self) -> Workers {
        self.workers.clone()
    }
}

fn cores() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

impl Drop for WorkerThreads {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // a panic has been reported by the thread itself
        }
    }
}

/// All workers; clones are the same.
#[derive(Clone, Debug)]
pub struct Workers {
    /// At least one.
    all: Arc<[Worker]>,
    turn: Arc<AtomicUsize>,
}

impl Workers {
    pub(crate) fn all(&self) -> &[Worker] {
        &self.all
    }

    /// How many there are: one at least.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Waits until each has done something that was asked of it now: so long as one hangs, for ever. False if one has been
    /// stopped.
    pub async fn have_a_turn(&self) -> bool {
        for worker in self.all() {
            let turn = AbortOnDropHandle::new(worker.runtime().spawn(async {}));
            if turn.await.is_err() {
                return false;
            }
        }
        true
    }

    /// One after the other: for what lasts, and is alike.
    pub(crate) fn next(&self) -> &Worker {
        &self.all[self.turn.fetch_add(1, Relaxed) % self.all.len()]
    }

    /// Where a newcomer at `here` is to be served: there, unless another has far fewer visitors.
    pub(crate) fn least_busy<'a>(&'a self, here: &'a Worker) -> &'a Worker {
        let busy = |worker: &Worker| worker.0.visitors.load(Relaxed);
        let least = self.all.iter().min_by_key(|worker| busy(worker));
        match least {
            Some(least) if busy(here) > busy(least) + TOLERANCE => least,
            Some(_) | None => here,
        }
    }
}

/// One of the threads.
#[derive(Clone, Debug)]
pub(crate) struct Worker(Arc<State>);

#[derive(Debug)]
struct State {
    index: usize,
    runtime: Handle,
    visitors: AtomicUsize,
    /// It was asked to say that it gets round to its events, and has not yet.
    asked: AtomicBool,
    keeps_up: AtomicBool,
}

impl Worker {
    pub(crate) fn index(&self) -> usize {
        self.0.index
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// Until the guard is dropped, what this thread makes (sockets, tasks) belongs to the worker.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.0.runtime.enter()
    }

    /// Looks whether it has got round to its events since the last time, and asks it anew. To be called at even intervals.
    pub(crate) fn ask_for_a_sign(&self) {
        let behind = self.0.asked.swap(true, Relaxed);
        self.0.keeps_up.store(!behind, Relaxed);
        if !behind {
            let state = Arc::clone(&self.0);
            drop(
                self.runtime()
                    .spawn(async move { state.asked.store(false, Relaxed) }),
            );
        }
    }

    /// Whether it had, when that was looked at last. Who is behind hears late, and must not take that for silence.
    pub(crate) fn keeps_up(&self) -> bool {
        self.0.keeps_up.load(Relaxed)
    }

    /// Counts a visitor until the value is dropped.
    pub(crate) fn serve(&self) -> Served {
        self.0.visitors.fetch_add(1, Relaxed);
        Served(self.clone())
    }
}

impl PartialEq for Worker {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A visitor counted at its worker.
#[derive(Debug)]
pub(crate) struct Served(Worker);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.0.visitors.fetch_sub(1, Relaxed);
    }
}

/// Which worker the calling thread is, if it is one.
pub(crate) fn here() -> Option<usize> {
    HERE.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads(count: usize) -> WorkerThreads {
        WorkerThreads::start(NonZeroUsize::new(count).unwrap()).unwrap()
    }

    #[test]
    fn what_is_spawned_on_a_worker_runs_there_and_ends_with_it() {
        let threads = threads(3);
        let dropped = CancellationToken::new();
        for worker in threads.workers().all() {
            let (say, said) = std::sync::mpsc::sync_channel(1);
            let guard = dropped.clone().drop_guard();
            worker.runtime().spawn(async move {
                let _guard = guard;
                say.send(here()).unwrap();
                std::future::pending::<()>().await;
            });
            assert_eq!(said.recv().unwrap(), Some(worker.index()));
        }
        assert_eq!(here(), None);
        drop(threads);
        assert!(dropped.is_cancelled());
    }

    #[test]
    fn a_newcomer_stays_unless_another_worker_has_far_fewer_visitors() {
        let threads = threads(2);
        let workers = threads.workers();
        let (here, there) = (&workers.all()[0], &workers.all()[1]);
        let mut served: Vec<_> = (0..TOLERANCE).map(|_| here.serve()).collect();
        assert!(workers.least_busy(here) == here);
        served.push(here.serve());
        assert!(workers.least_busy(here) == there);
        served.clear();
        assert!(workers.least_busy(here) == here);
    }

    #[test]
    fn a_worker_that_is_busy_is_behind_until_it_has_got_round() {
        let threads = threads(1);
        let workers = threads.workers();
        let worker = &workers.all()[0];
        let (go_on, wait) = std::sync::mpsc::sync_channel::<()>(0);
        worker.runtime().spawn(async move { wait.recv() });
        worker.ask_for_a_sign();
        assert!(worker.keeps_up(), "it has not been asked before");
        worker.ask_for_a_sign();
        assert!(!worker.keeps_up());
        go_on.send(()).unwrap();
        let (say, said) = std::sync::mpsc::sync_channel(1);
        worker.runtime().spawn(async move { say.send(()) });
        said.recv().unwrap(); // what was asked before has been done
        worker.ask_for_a_sign();
        assert!(worker.keeps_up());
    }

    #[test]
    fn turns_go_round() {
        let threads = threads(2);
        let workers = threads.workers();
        let turns: Vec<_> = (0..4).map(|_| workers.next().index()).collect();
        assert_eq!(turns, [0, 1, 0, 1]);
    }
}
