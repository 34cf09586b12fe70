//! What the body of a request has earned.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::UnderWay;
use super::untaken::Place;

/// How long a request's body may keep us waiting to begin with.
const BODY_TIME: Duration = Duration::from_secs(9);

/// So many octets of it earn a second more: any line does better, and an upload that pauses has earned hours.
const OCTETS_A_SECOND: u64 = 500;

/// Nobody earns more than this.
const MOST_CREDIT: Duration = Duration::from_secs(24 * 60 * 60);

/// What is added while it may be that nothing can come, because what came for other requests is held up.
const HELD_UP_TIME: Duration = Duration::from_secs(1);

/// What a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent::http) enum Asks {
    /// One whose body has to come.
    Once,
    /// A call of gRPC, whose body is one side of a conversation. It rests like a changed protocol, if there is a place.
    ForACall,
}

/// How long a request's body is waited for yet.
#[derive(Debug)]
pub(in crate::agent::http) struct Credit {
    under_way: Arc<UnderWay>,
    left: Duration,
    /// Nothing of the body is here. Otherwise it is not the visitor who is waited for.
    is_awaited: bool,
    /// When the credit is used up, while the body is awaited.
    timer: Pin<Box<Sleep>>,
    asks: Asks,
    /// It rests within a call.
    place: Option<Place>,
}

impl Credit {
    /// That of a body which nobody has begun to read.
    pub(in crate::agent::http) fn new(under_way: Arc<UnderWay>, asks: Asks) -> Self {
        under_way.requests.held_up.fetch_add(1, Relaxed);
        Self {
            under_way,
            left: BODY_TIME,
            is_awaited: false,
            timer: Box::pin(sleep(BODY_TIME)),
            asks,
            place: None,
        }
    }

    /// So many octets have come.
    pub(in crate::agent::http) fn earn(&mut self, octets: usize) {
        self.place = None;
        if self.is_awaited {
            self.is_awaited = false;
            self.under_way.requests.held_up.fetch_add(1, Relaxed);
            let until = self.timer.deadline();
            self.left = until.saturating_duration_since(Instant::now());
        }
        let octets = u64::try_from(octets).unwrap_or(u64::MAX);
        let earned = Duration::from_millis(octets.saturating_mul(1000) / OCTETS_A_SECOND);
        self.left = self.left.saturating_add(earned).min(MOST_CREDIT);
    }

    /// To be asked when nothing of the body is here: ready when it has been waited for long enough.
    pub(in crate::agent::http) fn poll_used_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.place.is_some() {
            return Poll::Pending;
        }
        let requests = &self.under_way.requests;
        if !self.is_awaited {
            self.is_awaited = true;
            requests.held_up.fetch_sub(1, Relaxed);
            self.timer.as_mut().reset(Instant::now() + self.left);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            // Of HTTP/2's window for the whole connection they may have all.
            if requests.held_up.load(Relaxed) == 0 {
                break;
            }
            self.timer.as_mut().reset(Instant::now() + HELD_UP_TIME);
        }
        if self.asks == Asks::ForACall {
            self.place = requests.resting_call();
            if self.place.is_some() {
                return Poll::Pending;
            }
        }
        self.under_way.was_too_slow.store(true, Relaxed);
        requests.patience.too_slow.body.fetch_add(1, Relaxed);
        Poll::Ready(())
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        if !self.is_awaited {
            self.under_way.requests.held_up.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::timeout;

    use super::super::tests::{counted, requests};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn used_up(credit: &mut Credit) -> f64 {
        let begun = Instant::now();
        poll_fn(|cx| credit.poll_used_up(cx)).await;
        begun.elapsed().as_secs_f64()
    }

    async fn begins_to_wait(credit: &mut Credit) {
        assert!(timeout(Duration::ZERO, used_up(credit)).await.is_err());
    }

    fn about(seconds: f64, expected: f64) {
        assert!((seconds - expected).abs() < 0.1, "{seconds} {expected}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_earns_by_what_it_brings_and_pays_for_the_time_it_is_waited_for() {
        let requests = requests();
        let under_way = requests.begin();
        let mut credit = Credit::new(Arc::clone(&under_way), Asks::Once);
        let waited = timeout(6 * SECOND, used_up(&mut credit)).await;
        assert!(waited.is_err());
        credit.earn(1000); // two seconds
        credit.earn(250); // half a second
        sleep(100 * SECOND).await; // it is the origin who is waited for
        assert!(!under_way.was_too_slow());
        about(
            used_up(&mut credit).await,
            BODY_TIME.as_secs_f64() - 6.0 + 2.5,
        );
        assert!(under_way.was_too_slow());
        assert_eq!(counted(&requests), [0, 0, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn octet_by_octet_a_body_does_not_get_far() {
        let requests = requests();
        let mut credit = Credit::new(requests.begin(), Asks::Once);
        let begun = Instant::now();
        while timeout(SECOND / 2, used_up(&mut credit)).await.is_err() {
            credit.earn(1);
        }
        about(begun.elapsed().as_secs_f64(), BODY_TIME.as_secs_f64());
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_upload_may_pause_for_hours_and_not_for_ever() {
        let requests = requests();
        let mut credit = Credit::new(requests.begin(), Asks::Once);
        credit.earn(usize::MAX);
        credit.earn(usize::MAX);
        about(used_up(&mut credit).await, MOST_CREDIT.as_secs_f64());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_pays_while_what_came_for_another_request_is_held_up() {
        let requests = requests();
        let mut credit = Credit::new(requests.begin(), Asks::Once);
        let held_up = Credit::new(requests.begin(), Asks::Once);
        let (waited, ()) = tokio::join!(used_up(&mut credit), async {
            sleep(100 * SECOND).await;
            drop(held_up);
        });
        assert!((100.0..102.0).contains(&waited), "{waited}");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_rest_as_long_as_there_are_places_and_give_them_back_with_the_next_message() {
        let requests = requests();
        let call = || Credit::new(requests.begin(), Asks::ForACall);
        let mut resting: Vec<_> = std::iter::repeat_with(call).take(250).collect();
        for credit in &mut resting {
            begins_to_wait(credit).await;
        }
        for credit in &mut resting {
            assert!(timeout(100 * SECOND, used_up(credit)).await.is_err());
        }
        let mut one_more = call();
        about(used_up(&mut one_more).await, BODY_TIME.as_secs_f64());
        assert_eq!(counted(&requests), [0, 0, 1]);
        resting[0].earn(5);
        begins_to_wait(&mut resting[0]).await;
        let mut another = call();
        assert!(timeout(100 * SECOND, used_up(&mut another)).await.is_err());
        // Its place is somebody else's now.
        about(used_up(&mut resting[0]).await, 0.0);
    }
}
