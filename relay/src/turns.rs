//! Bulk takes turns, and so do TLS handshakes. Whoever has moved much asks for one before more, and between two turns a worker
//! looks at its events: what is small waits for one turn of bulk at each step of its way, however many downloads there are.
//!
//! Sockets that are always ready would otherwise keep the thread for themselves, and each of eight downloads would have its
//! turn before a request that came meanwhile was heard; a thousand visitors who come at once would keep it for seconds, and the
//! tunnel would be silent for as long.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::task::yield_now;

use crate::workers;

/// How many octets one direction moves before it asks: requests never do.
const UNASKED: usize = 64 * 1024;

/// How many octets are moved by all before the worker looks at its events. A turn that has begun is not cut short.
const BEFORE_A_LOOK: usize = 128 * 1024;

/// What a handshake counts, in octets moved: between two looks as many are begun as sockets are looked after in one go, so that
/// their answers leave together.
const HANDSHAKE: usize = BEFORE_A_LOOK / workers::EVENTS;

thread_local! {
    static HERE: Arc<Turns> = Arc::default();
}

/// One direction's part in it.
#[derive(Default)]
pub(crate) struct Turn {
    /// Octets since it asked last.
    moved: usize,
    asked: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Turn {
    /// So many octets have been moved.
    pub(crate) fn moved(&mut self, octets: usize) {
        self.moved += octets;
    }

    /// Waits until it is this direction's turn, if it has moved much since the last. To be called before it waits for
    /// anything else.
    pub(crate) async fn next(&mut self) {
        if self.is_due() {
            Box::pin(a_turn()).await;
        }
    }

    /// The same for who cannot wait in one place. Who is in line must poll when it is woken, or it holds up the others.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.asked.is_none() && self.is_due() {
            self.asked = Some(Box::pin(a_turn()));
        }
        if let Some(asked) = &mut self.asked {
            ready!(asked.as_mut().poll(cx));
            self.asked = None;
        }
        Poll::Ready(())
    }

    /// Whether it has moved so much that it has to ask; what that was is said to the others.
    fn is_due(&mut self) -> bool {
        let due = self.moved >= UNASKED;
        if due {
            HERE.with(|turns| turns.lock().moved += self.moved);
            self.moved = 0;
        }
        due
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn")
            .field("moved", &self.moved)
            .finish_non_exhaustive()
    }
}

/// Waits until it is one handshake's turn. To be called before its first octet is read.
pub(crate) async fn for_a_handshake() {
    Box::pin(a_turn()).await;
    HERE.with(|turns| turns.lock().moved += HANDSHAKE);
}

/// How many octets are to be moved in a turn that begins now: few if others wait.
pub(crate) fn length() -> usize {
    HERE.with(|turns| match turns.lock().waiting.is_empty() {
        true => usize::MAX,
        false => BEFORE_A_LOOK,
    })
}

/// The turns on one worker.
#[derive(Debug, Default)]
struct Turns(Mutex<Line>);

#[derive(Debug, Default)]
struct Line {
    /// By all, since the worker looked at its events.
    moved: usize,
    waiting: VecDeque<(u64, Waker)>,
    last_place: u64,
}

impl Line {
    fn wake_first(&self) {
        if let Some((_, waker)) = self.waiting.front() {
            waker.wake_by_ref();
        }
    }
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// First come, first served; the first in line lets the worker look at its events when that is due.
async fn a_turn() {
    let place = poll_fn(|cx| Poll::Ready(Place::last(cx))).await;
    poll_fn(|cx| place.poll_first(cx)).await;
    if place.turns.lock().moved >= BEFORE_A_LOOK {
        yield_now().await;
        place.turns.lock().moved = 0;
    }
}

/// A place in line. Whoever leaves it, by having had a turn or otherwise, makes room for the next.
struct Place {
    turns: Arc<Turns>,
    number: u64,
}

impl Place {
    fn last(cx: &Context<'_>) -> Self {
        let turns = HERE.with(Arc::clone);
        let mut line = turns.lock();
        line.last_place += 1;
        let number = line.last_place;
        line.waiting.push_back((number, cx.waker().clone()));
        drop(line);
        Self { turns, number }
    }

    fn poll_first(&self, cx: &Context<'_>) -> Poll<()> {
        let mut line = self.turns.lock();
        match line.waiting.front() {
            Some((first, _)) if *first == self.number => return Poll::Ready(()),
            Some(_) | None => {}
        }
        let mut places = line.waiting.iter_mut();
        if let Some((_, waker)) = places.find(|(number, _)| *number == self.number) {
            waker.clone_from(cx.waker());
        }
        Poll::Pending
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut line = self.turns.lock();
        let was_first = line.waiting.front().map(|(first, _)| *first) == Some(self.number);
        line.waiting.retain(|(number, _)| *number != self.number);
        if was_first {
            line.wake_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    /// Runs as many directions that move a turn at a time as there are names, and says in which order they moved.
    async fn order_of(names: &'static str, turns: usize) -> String {
        let moved = Arc::new(Mutex::new(String::new()));
        let tasks: Vec<_> = names
            .chars()
            .map(|name| {
                let moved = Arc::clone(&moved);
                tokio::spawn(async move {
                    let mut turn = Turn::default();
                    for _ in 0..turns {
                        turn.next().await;
                        moved.lock().unwrap().push(name);
                        turn.moved(BEFORE_A_LOOK);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        Arc::into_inner(moved).unwrap().into_inner().unwrap()
    }

    #[tokio::test]
    async fn everybody_has_a_turn_before_anybody_has_the_next() {
        assert_eq!(order_of("abc", 3).await, "abcabcabc");
    }

    #[tokio::test]
    async fn between_two_turns_the_worker_looks_at_its_events() {
        let looks = Arc::new(AtomicUsize::new(0));
        let looking = Arc::clone(&looks);
        let task = tokio::spawn(async move {
            loop {
                looking.fetch_add(1, Relaxed);
                yield_now().await; // until the worker has looked
            }
        });
        let turns = 8;
        order_of("abcd", turns).await;
        task.abort();
        let looks = looks.load(Relaxed);
        assert!(looks >= 4 * (turns - 2), "{looks}"); // the first asks nobody, the last waits for nobody
    }

    #[tokio::test]
    async fn between_some_handshakes_the_worker_looks_at_its_events() {
        let done = Arc::new(AtomicUsize::new(0));
        for _ in 0..100 {
            let done = Arc::clone(&done);
            tokio::spawn(async move {
                for_a_handshake().await;
                done.fetch_add(1, Relaxed);
            });
        }
        let (mut before, mut most) = (0, 0);
        while before < 100 {
            yield_now().await; // until the worker has looked
            let now = done.load(Relaxed);
            most = most.max(now - before);
            before = now;
        }
        assert!(
            (1..=BEFORE_A_LOOK / HANDSHAKE + 1).contains(&most),
            "{most}"
        );
    }

    #[tokio::test]
    async fn who_leaves_the_line_holds_up_nobody() {
        let (mut first, mut second) = (Turn::default(), Turn::default());
        for turn in [&mut first, &mut second] {
            turn.moved(UNASKED);
        }
        let mut leaves = Box::pin(first.next());
        let mut stays = Box::pin(second.next());
        poll_fn(|cx| {
            HERE.with(|turns| turns.lock().moved = BEFORE_A_LOOK);
            assert!(leaves.as_mut().poll(cx).is_pending());
            assert!(stays.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        drop(leaves);
        stays.await;
        assert_eq!(HERE.with(|turns| turns.lock().waiting.len()), 0);
    }

    #[tokio::test]
    async fn who_polls_has_its_place_and_leaves_it_when_dropped() {
        let (mut first, mut second) = (Turn::default(), Turn::default());
        poll_fn(|cx| {
            for turn in [&mut first, &mut second] {
                turn.moved(BEFORE_A_LOOK);
                assert!(turn.poll_next(cx).is_pending());
            }
            assert!(second.poll_next(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        assert_eq!(HERE.with(|turns| turns.lock().waiting.len()), 2);
        drop(first);
        poll_fn(|cx| second.poll_next(cx)).await;
        assert_eq!(HERE.with(|turns| turns.lock().waiting.len()), 0);
    }

    #[tokio::test]
    async fn little_is_moved_without_a_turn() {
        let mut turn = Turn::default();
        turn.moved(UNASKED - 1);
        HERE.with(|turns| turns.lock().moved = BEFORE_A_LOOK);
        let mut next = Box::pin(turn.next());
        poll_fn(|cx| {
            assert!(next.as_mut().poll(cx).is_ready());
            Poll::Ready(())
        })
        .await;
    }
}
