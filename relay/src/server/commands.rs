//! What a session has to say to its agent, until the tunnel's task says it. Most sessions never say anything, so a queue
//! takes room only for what is in it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use wire::Frame;

/// Frames waiting to be sent to one agent: one for each visitor that a device may have, and then some. A tunnel that does not
/// take so many is as good as dead.
const MOST: usize = 4096;

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Commands(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Frame>,
    /// Of the task that says them.
    waker: Option<Waker>,
}

/// There are as many frames as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Commands {
    pub(super) fn push(&self, frame: Frame) -> Result<(), Full> {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.frames.len() >= MOST {
            return Err(Full);
        }
        queue.frames.push_back(frame);
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
        Ok(())
    }

    /// The next frame. One task waits for it at a time.
    pub(super) fn poll_next(&self, cx: &Context<'_>) -> Poll<Frame> {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match queue.frames.pop_front() {
            Some(frame) => Poll::Ready(frame),
            None => {
                queue.frames = VecDeque::new();
                queue.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn next(commands: &Commands) -> Frame {
        poll_fn(|cx| commands.poll_next(cx)).await
    }

    fn frame(sequence: usize) -> Frame {
        Frame::Ping {
            sequence: sequence as u64,
        }
    }

    #[tokio::test]
    async fn frames_come_out_in_order_and_no_more_than_fit_go_in() {
        let commands = Commands::default();
        for sequence in 0..MOST {
            commands.push(frame(sequence)).unwrap();
        }
        assert_eq!(commands.push(frame(MOST)), Err(Full));
        for sequence in 0..MOST {
            assert_eq!(next(&commands).await, frame(sequence));
        }
        let (next, _) = tokio::join!(next(&commands), async { commands.push(frame(7)) });
        assert_eq!(next, frame(7));
    }
}
