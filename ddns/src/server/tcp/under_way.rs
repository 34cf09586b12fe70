//! The updates of one connection that are on their way to the disk. Their replies come in the order in which they are done (RFC
//! 7766 section 6.2.1.1); one sync of the disk does all that wait for it.

use std::future::pending;

use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::dynamic::{Reply, Waiting};

/// Updates under way on one connection. A disk that takes 10 ms does 25,600 a second so; the other messages wait on the wire.
const MAX_UNDER_WAY: usize = 256;

pub(super) struct UnderWay {
    sender: mpsc::Sender<Reply>,
    done: mpsc::Receiver<Reply>,
    count: usize,
}

impl UnderWay {
    pub(super) fn new() -> Self {
        let (sender, done) = mpsc::channel(MAX_UNDER_WAY);
        let count = 0;
        Self {
            sender,
            done,
            count,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.count >= MAX_UNDER_WAY
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Waits for an update in a task of its own, which outlives the connection: who comes again with the same message is to be told
    /// what became of it.
    pub(super) fn add(&mut self, waiting: Waiting, tasks: &TaskTracker) {
        self.count += 1;
        let sender = self.sender.clone();
        tasks.spawn(async move {
            // There is room for as many as are under way; an error is a connection that has ended.
            let _ = sender.send(waiting.reply().await).await;
        });
    }

    /// The next reply, if it is there.
    pub(super) fn try_next(&mut self) -> Option<Reply> {
        let reply = self.done.try_recv().ok()?;
        self.count -= 1;
        Some(reply)
    }

    /// Waits for the next reply, for ever if none is to come.
    pub(super) async fn next(&mut self) -> Reply {
        match self.done.recv().await {
            Some(reply) => {
                self.count -= 1;
                reply
            }
            None => pending().await, // cannot be: a sender is here
        }
    }
}
