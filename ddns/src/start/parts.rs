//! The parts of a running server. When one ends, all end.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{StartError, StopError};
use crate::update::Queue;

/// Threads and tasks, each with a word when it has ended. Dropped, it tells them all to end.
pub(super) struct Parts {
    /// Tells the tasks to end, and is cancelled from outside for the same.
    pub(super) stop: CancellationToken,
    /// Tells the UDP workers.
    stopping: Arc<AtomicBool>,
    /// Tells the writer of the log.
    pub(super) queue: Queue,
    ended: JoinSet<Result<(), StopError>>,
}

impl Parts {
    pub(super) fn new(stop: CancellationToken, queue: Queue) -> Self {
        Self {
            stop,
            stopping: Arc::default(),
            queue,
            ended: JoinSet::new(),
        }
    }

    /// What a UDP worker looks at after each batch.
    pub(super) fn stopping(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stopping)
    }

    /// Runs `work` on a thread of its own.
    pub(super) fn thread(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> Result<(), StartError> {
        let ended = begin(name, work)?;
        self.ended.spawn(ended);
        Ok(())
    }

    /// Runs `write` on a thread of its own, as the writer of the log. It may end before the others, and that is no failure: it does
    /// so only when its queue is stopped. Returns what is cancelled then.
    pub(super) fn writer(
        &mut self,
        write: impl FnOnce() + Send + 'static,
    ) -> Result<CancellationToken, StartError> {
        let ended = begin("ddns-log", move || {
            write();
            Ok(())
        })?;
        let told = CancellationToken::new();
        let (tell, stop) = (told.clone(), self.stop.clone());
        self.ended.spawn(async move {
            let result = ended.await;
            tell.cancel();
            if result.is_ok() {
                stop.cancelled().await;
            }
            result
        });
        Ok(told)
    }

    /// Runs `work` as a task.
    pub(super) fn task(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        self.ended.spawn(async move {
            work.await;
            Ok(())
        });
    }

    /// Waits until a part has ended or all are to, then ends them all. Returns the first failure.
    pub(super) async fn supervise(mut self) -> Result<(), StopError> {
        let mut result = tokio::select! {
            // What has already failed is worth telling, even when the end was asked for in the same moment.
            biased;
            Some(ended) = self.ended.join_next() => flat(ended),
            () = self.stop.cancelled() => Ok(()),
        };
        self.tell();
        while let Some(ended) = self.ended.join_next().await {
            result = result.and(flat(ended));
        }
        result
    }

    fn tell(&self) {
        self.stop.cancel();
        self.stopping.store(true, Ordering::Relaxed);
        self.queue.stop();
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.tell();
    }
}

/// Begins `work` on a thread of its own; the future ends with it.
fn begin(
    name: &'static str,
    work: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<impl Future<Output = Result<(), StopError>>, StartError> {
    let (tell, ended) = oneshot::channel();
    let told = move || {
        let result = match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(StopError::Failed { part: name, source }),
            Err(_) => Err(StopError::Panicked(name)),
        };
        // Nobody listens if the runtime is gone.
        let _ = tell.send(result);
    };
    std::thread::Builder::new()
        .name(name.into())
        .spawn(told)
        .map_err(StartError::Thread)?;
    Ok(async move { ended.await.unwrap_or(Err(StopError::Panicked(name))) })
}

fn flat(ended: Result<Result<(), StopError>, tokio::task::JoinError>) -> Result<(), StopError> {
    let result = ended.unwrap_or(Err(StopError::Panicked("a task")));
    if let Err(error) = &result {
        tracing::error!(%error, "a part of the DNS server has ended, and all end with it");
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::Writer;

    #[tokio::test]
    async fn one_failure_ends_all_and_is_told() {
        for (work, told) in [
            (
                (|| Err(io::Error::other("no"))) as fn() -> io::Result<()>,
                "first cannot go on: no",
            ),
            (
                || panic!("a test of what a panic does"),
                "first ended by a bug",
            ),
        ] {
            let (_writer, queue) = Writer::new(None);
            let mut parts = Parts::new(CancellationToken::new(), queue);
            let (stop, stopping) = (parts.stop.clone(), parts.stopping());
            parts.thread("first", work).unwrap();
            parts.task(async move { stop.cancelled().await });
            let error = parts.supervise().await.unwrap_err();
            assert_eq!(error.to_string(), told);
            assert!(stopping.load(Ordering::Relaxed));
        }
    }

    #[tokio::test]
    async fn dropped_it_tells_all_to_end() {
        let (_writer, queue) = Writer::new(None);
        let parts = Parts::new(CancellationToken::new(), queue);
        let (stop, stopping) = (parts.stop.clone(), parts.stopping());
        drop(parts);
        assert!(stop.is_cancelled() && stopping.load(Ordering::Relaxed));
    }
}
