//! What a session has to say to its agent, until the tunnel's task says it. Most sessions never say anything, so a queue
//! takes room only for what is in it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use wire::Frame;

/// Frames waiting to be sent to one agent: one for each visitor that a device may have, and then some. A tunnel that does not
/// take so many is as good as dead.
const MOST: usize = 4096;

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Commands {
    frames: Mutex<VecDeque<Frame>>,
    told: Notify,
}

/// There are as many frames as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Commands {
    pub(super) fn push(&self, frame: Frame) -> Result<(), Full> {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        if frames.len() >= MOST {
            return Err(Full);
        }
        frames.push_back(frame);
        drop(frames);
        self.told.notify_one();
        Ok(())
    }

    /// Waits for the next frame. One task does so at a time.
    pub(super) async fn next(&self) -> Frame {
        loop {
            let frame = {
                let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
                let frame = frames.pop_front();
                if frames.is_empty() {
                    *frames = VecDeque::new();
                }
                frame
            };
            match frame {
                Some(frame) => return frame,
                None => self.told.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(commands.next().await, frame(sequence));
        }
        let (next, _) = tokio::join!(commands.next(), async { commands.push(frame(7)) });
        assert_eq!(next, frame(7));
    }
}
