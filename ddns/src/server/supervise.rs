//! Keeps a worker at its socket. The kernel goes on dealing clients out to a socket that nobody reads, so a worker that
//! fails starts again; one that cannot work at all gives up, and the whole server ends with it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Between two attempts after an error of the system.
const PAUSE: Duration = Duration::from_millis(50);
/// Errors without this much work between them are one trouble.
const CALM: Duration = Duration::from_secs(1);
/// Errors of one trouble until the worker gives up: five seconds of pauses.
const PATIENCE: u32 = 100;

/// Runs `work` again and again until it returns `Ok` (it was told to stop), or gives up with its last error.
/// `restarted` hears of each failure.
pub(crate) fn supervise(
    stopping: &AtomicBool,
    mut work: impl FnMut() -> io::Result<()>,
    restarted: impl Fn(),
) -> io::Result<()> {
    let mut failures = 0;
    loop {
        let began = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(&mut work));
        if stopping.load(Ordering::Relaxed) {
            return Ok(());
        }
        match result {
            Ok(Ok(())) => return Ok(()),
            // A bug met one batch of queries; the next is as good as any.
            Err(_) => tracing::error!("a DNS worker panicked; it starts again"),
            Ok(Err(error)) => {
                if began.elapsed() >= CALM {
                    failures = 0;
                }
                failures += 1;
                if failures >= PATIENCE {
                    return Err(error);
                }
                tracing::warn!(%error, "a DNS worker failed; it starts again");
                std::thread::sleep(PAUSE);
            }
        }
        restarted();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_worker_that_panics_or_fails_starts_again() {
        let stopping = AtomicBool::new(false);
        let runs = Cell::new(0);
        let restarts = Cell::new(0);
        let work = || {
            runs.set(runs.get() + 1);
            match runs.get() {
                1 => panic!("a test of what a panic does"),
                2 => Err(io::Error::other("no")),
                _ => Ok(()),
            }
        };
        supervise(&stopping, work, || restarts.set(restarts.get() + 1)).unwrap();
        assert_eq!((runs.get(), restarts.get()), (3, 2));
    }

    #[test]
    fn a_worker_that_fails_while_stopping_does_not_start_again() {
        let stopping = AtomicBool::new(true);
        let work = || Err(io::Error::other("no"));
        supervise(&stopping, work, || panic!("restarted")).unwrap();
    }
}
