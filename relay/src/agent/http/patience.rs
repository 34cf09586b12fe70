//! How long a visitor is waited for: for the head of a request, for its body, and until it takes the answer. Only time in which
//! there is nothing but the visitor to wait for counts, so an origin that takes its time costs nobody anything.
//!
//! ```text
//!   comes ──► head ──► request under way: body, answer ──► rest ──► head …
//!        HEAD_TIME        credit of its own; places       REST_TIME
//! ```

mod credit;
mod stream;
mod untaken;

use std::collections::BTreeMap;
use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

pub(super) use credit::{Asks, Credit};
pub(super) use stream::PatientStream;
use untaken::{Look, OfferedBody, Place, Places, Taking};

/// How long a visitor may take to send a request's head, from when it has begun; the first one, from when the visitor is there.
pub(super) const HEAD_TIME: Duration = Duration::from_secs(9);

/// How long it may rest between requests over HTTP/1.1, where each needs a connection.
pub(super) const REST_TIME: Duration = Duration::from_secs(75);

/// How often it is looked whether a visitor takes what it could.
const LOOK: Duration = Duration::from_secs(1);

/// What all visitors of an agent share.
#[derive(Debug)]
pub(in crate::agent) struct Patience {
    too_slow: TooSlow,
    answers: Places,
    calls: Places,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            too_slow: TooSlow::default(),
            answers: Places::of_answers(),
            calls: Places::of_calls(),
        }
    }
}

/// Visitors who were not waited for any longer, by what they did not do.
#[derive(Debug, Default)]
struct TooSlow {
    /// They came, and asked for nothing.
    silent: AtomicU64,
    head: AtomicU64,
    body: AtomicU64,
    /// They did not take what they had asked for.
    answer: AtomicU64,
}

impl Patience {
    /// How many were not waited for any longer, by reason, each of them.
    pub(in crate::agent) fn too_slow(&self) -> BTreeMap<String, u64> {
        let counts = [
            ("silent", &self.too_slow.silent),
            ("head", &self.too_slow.head),
            ("body", &self.too_slow.body),
            ("answer", &self.too_slow.answer),
        ];
        let counts = counts.map(|(reason, count)| (reason.to_owned(), count.load(Relaxed)));
        counts.into()
    }
}

/// The requests of one visitor: how many have come, and how many are over.
#[derive(Debug)]
pub(super) struct Requests {
    /// Where it comes from.
    visitor: IpAddr,
    begun: AtomicU64,
    over: AtomicU64,
    one_is_over: Notify,
    head_is_late: Notify,
    /// Bodies of which something may have come that the origin does not take yet.
    held_up: AtomicUsize,
    taking: Taking,
    patience: Arc<Patience>,
}

impl Requests {
    pub(super) fn new(visitor: IpAddr, patience: &Arc<Patience>) -> Arc<Self> {
        Arc::new(Self {
            visitor,
            begun: AtomicU64::new(0),
            over: AtomicU64::new(0),
            one_is_over: Notify::new(),
            head_is_late: Notify::new(),
            held_up: AtomicUsize::new(0),
            taking: Taking::default(),
            patience: Arc::clone(patience),
        })
    }

    /// The head of one has come.
    pub(super) fn begin(self: &Arc<Self>) -> Arc<UnderWay> {
        self.begun.fetch_add(1, Relaxed);
        Arc::new(UnderWay {
            requests: Arc::clone(self),
            was_too_slow: AtomicBool::new(false),
            changes_protocol: AtomicBool::new(false),
        })
    }

    /// Ends when one is over. The visitor may have begun to rest before, and whoever waits for what it sends then is to look
    /// again.
    pub(super) async fn one_is_over(&self) {
        self.one_is_over.notified().await;
    }

    /// Ends if a visitor who is new asks for nothing in time.
    pub(super) async fn silence(&self) {
        sleep(HEAD_TIME).await;
        if self.begun.load(Relaxed) > 0 {
            pending::<()>().await;
        }
        self.patience.too_slow.silent.fetch_add(1, Relaxed);
    }

    /// The right to rest within a call, if there is room for one more who does.
    fn resting_call(&self) -> Option<Place> {
        self.patience.calls.take(self.visitor)
    }

    /// How many have come.
    pub(super) fn begun(&self) -> usize {
        usize::try_from(self.begun.load(Relaxed)).unwrap_or(usize::MAX)
    }

    /// So many octets of answers have been sent.
    pub(super) fn sent(&self, octets: usize) {
        self.taking.sent(octets);
    }

    /// A head was waited for no longer.
    pub(super) fn head_was_late(&self) {
        self.patience.too_slow.head.fetch_add(1, Relaxed);
        self.head_is_late.notify_one();
    }

    /// Ends if that is so.
    pub(super) async fn head_is_late(&self) {
        self.head_is_late.notified().await;
    }

    /// Ends if a visitor leaves its answers, and too many do.
    pub(super) async fn untaken(&self) {
        let mut place = None;
        loop {
            match self.taking.look() {
                Look::NoOffer => {
                    place = None;
                    self.taking.begins().await;
                    continue;
                }
                Look::Takes => place = None,
                Look::Leaves => {
                    place = place.or_else(|| self.patience.answers.take(self.visitor));
                    if place.is_none() {
                        break;
                    }
                }
            }
            sleep(LOOK).await;
        }
        self.patience.too_slow.answer.fetch_add(1, Relaxed);
    }
}

/// A request that has come and is not over: its body and its answer each hold this as long as there may be more of them.
#[derive(Debug)]
pub(super) struct UnderWay {
    requests: Arc<Requests>,
    was_too_slow: AtomicBool,
    changes_protocol: AtomicBool,
}

impl UnderWay {
    /// Whether its body did not come in time.
    pub(super) fn was_too_slow(&self) -> bool {
        self.was_too_slow.load(Relaxed)
    }

    /// The body of its answer.
    pub(super) fn offered<B>(&self, body: B) -> OfferedBody<B> {
        OfferedBody::new(body, &self.requests)
    }

    /// It is the visitor's last, and never over.
    pub(super) fn changes_protocol(&self) {
        self.changes_protocol.store(true, Relaxed);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !*self.changes_protocol.get_mut() {
            self.requests.over.fetch_add(1, Relaxed);
            self.requests.one_is_over.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    /// Of a visitor from nowhere.
    pub(super) fn requests() -> Arc<Requests> {
        Requests::new([192, 0, 2, 1].into(), &Arc::default())
    }

    pub(super) fn counted(requests: &Requests) -> [u64; 3] {
        let counts = requests.patience.too_slow();
        ["silent", "head", "body"].map(|reason| counts[reason])
    }

    #[tokio::test(start_paused = true)]
    async fn a_visitor_who_asks_for_nothing_is_silent_and_one_who_has_asked_is_not() {
        let requests = requests();
        let begun = Instant::now();
        requests.silence().await;
        assert_eq!(begun.elapsed().as_secs(), HEAD_TIME.as_secs());
        assert_eq!(counted(&requests), [1, 0, 0]);
        drop(requests.begin());
        let silence = timeout(100 * REST_TIME, requests.silence()).await;
        assert!(silence.is_err());
    }
}
