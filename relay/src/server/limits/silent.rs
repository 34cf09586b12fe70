//! Those who have connected and not said their name: who of them leaves when too many are there.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::counts::Counted;

/// Those at one worker who have not said their name. Only there somebody gives way to who comes there: another worker may have no
/// time just now, and a crowd would come before it has. For the same reason each worker has a part of the places.
#[derive(Debug)]
pub(crate) struct Silent {
    here: Arc<AtomicUsize>,
    workers: usize,
    waiting: Mutex<Waiting>,
}

/// Who may be told to leave: the earlier one has begun to wait, the less its number.
#[derive(Debug, Default)]
struct Waiting {
    waker_by_number: BTreeMap<u64, Waker>,
    last_number: u64,
}

impl Silent {
    /// For one of so many workers.
    pub(crate) fn at_one_of(workers: usize) -> Self {
        Self {
            here: Arc::default(),
            workers: workers.max(1),
            waiting: Mutex::default(),
        }
    }

    /// One more is here, of whom there may be `most` at all workers together: with more than this one's part of them, somebody
    /// makes room.
    pub(super) fn one_more(&self, most: usize) -> Option<Counted> {
        let here = Counted::below(&self.here, usize::MAX);
        if self.here.load(Relaxed) > most / self.workers {
            self.make_room();
        }
        here
    }

    /// Waits until this one, who has been silent for longer than the others, has to make room.
    pub(crate) fn gives_way(&self) -> GivesWay<'_> {
        GivesWay {
            silent: self,
            number: None,
        }
    }

    /// Tells the one who has waited longest. If nobody waits, nobody is told, nor whoever waits next: those who were here are about
    /// to say their name, and that makes room as well.
    fn make_room(&self) {
        let longest = self.lock().waker_by_number.pop_first();
        if let Some((_, waker)) = longest {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ready once the one who waits has to make room.
#[derive(Debug)]
pub(crate) struct GivesWay<'a> {
    silent: &'a Silent,
    number: Option<u64>,
}

impl Future for GivesWay<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.silent.lock();
        match self.number {
            None => {
                waiting.last_number += 1;
                let number = waiting.last_number;
                waiting.waker_by_number.insert(number, cx.waker().clone());
                drop(waiting);
                self.number = Some(number);
            }
            Some(number) => match waiting.waker_by_number.get_mut(&number) {
                Some(waker) => waker.clone_from(cx.waker()),
                None => return Poll::Ready(()),
            },
        }
        Poll::Pending
    }
}

impl Drop for GivesWay<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.silent.lock().waker_by_number.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ip, limits};
    use super::*;

    #[tokio::test]
    async fn who_has_been_silent_longest_gives_way_to_the_newest() {
        let (limits, silent) = (limits(70), Silent::at_one_of(1));
        let mut nobody = std::task::Context::from_waker(std::task::Waker::noop());
        let come = || limits.admit(ip("192.0.2.1"), &silent).unwrap();
        let (mut here, mut waiting) = (Vec::new(), Vec::new());
        for _ in 0..60 {
            here.push(come());
            waiting.push(Box::pin(silent.gives_way()));
        }
        let mut left = || -> Vec<bool> {
            let left = waiting.iter_mut();
            left.map(|waits| waits.as_mut().poll(&mut nobody).is_ready())
                .collect()
        };
        assert!(!left().contains(&true));
        here.push(come());
        let left = left();
        assert!(left[0] && !left[1..].contains(&true), "{left:?}");
    }

    #[test]
    fn nobody_gives_way_for_whom_there_is_room_again() {
        let (limits, silent) = (limits(70), Silent::at_one_of(1));
        let mut nobody = Context::from_waker(Waker::noop());
        let come = || limits.admit(ip("192.0.2.1"), &silent).unwrap();
        let mut here: Vec<_> = (0..61).map(|_| come()).collect(); // one too many, and nobody waits yet
        here.truncate(58);
        let mut first = Box::pin(silent.gives_way());
        assert!(first.as_mut().poll(&mut nobody).is_pending());
        let mut second = Box::pin(silent.gives_way());
        assert!(second.as_mut().poll(&mut nobody).is_pending());

        // One who was told, and has said its name in the same moment.
        here.extend((0..3).map(|_| come()));
        drop(first);
        assert!(second.as_mut().poll(&mut nobody).is_pending());
        drop(second);
        assert!(silent.lock().waker_by_number.is_empty());
    }
}
