//! Answers that a visitor has asked for and does not take. A paused video is one, and so is an attack: some may wait for as long
//! as they like, of each address and in all. Who takes slowly may seem to take nothing, as seen from here, until the kernels on
//! the way have room for another portion, a mebibyte perhaps; so these wait there too.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Requests;
use crate::counts::{Counted, CountedOfAddress, CountsByAddress};

/// A visitor who takes less than so many octets of its answers in such a time, and could take more, leaves them. Within ten
/// seconds that is noticed: all that is on the way fills first, and it is looked now and then.
const LEAST: u64 = 4000;
const TAKING_TIME: Duration = Duration::from_secs(8);

/// The visitors of an agent who are not waited for as others are.
#[derive(Debug)]
pub(super) struct Places {
    by_address: CountsByAddress,
    all: Arc<AtomicUsize>,
    of_an_address: usize,
    in_all: usize,
}

/// The right of one of them.
#[derive(Debug)]
pub(super) struct Place {
    _counted: (CountedOfAddress, Counted),
}

impl Places {
    /// For those who leave their answers: of one address eight, as browsers have six connections to a host over HTTP/1.1; of all 256, as
    /// the relay holds some 300 KiB for each.
    pub(super) fn of_answers() -> Self {
        Self::new(8, 256)
    }

    /// For calls that rest: of one address as many as one visitor has requests at a time; of all eight times that, as each is a stream
    /// at the service too.
    pub(super) fn of_calls() -> Self {
        Self::new(250, 2000)
    }

    fn new(of_an_address: usize, in_all: usize) -> Self {
        Self {
            by_address: CountsByAddress::default(),
            all: Arc::default(),
            of_an_address,
            in_all,
        }
    }

    /// One for a visitor from there, if one is free.
    pub(super) fn take(&self, from: IpAddr) -> Option<Place> {
        let of_address = self.by_address.below(from, self.of_an_address)?;
        let one = Counted::below(&self.all, self.in_all)?;
        Some(Place {
            _counted: (of_address, one),
        })
    }
}

/// How one visitor takes what it is answered.
#[derive(Debug, Default)]
pub(super) struct Taking {
    offers: Mutex<Offers>,
    /// There is an offer where there was none.
    begins: Notify,
    /// Octets that it has been sent.
    sent: AtomicU64,
}

/// What it could take just now.
#[derive(Debug, Default)]
struct Offers {
    count: usize,
    /// Since when there is one, or when it was seen last that enough had been taken; and how many octets it had been sent by then.
    since: Option<(Instant, u64)>,
}

/// How it takes it.
pub(super) enum Look {
    NoOffer,
    Takes,
    Leaves,
}

impl Taking {
    fn offers(&self) -> MutexGuard<'_, Offers> {
        self.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sent(&self, octets: usize) {
        let octets = u64::try_from(octets).unwrap_or(u64::MAX);
        self.sent.fetch_add(octets, Relaxed);
    }

    fn offer(&self) {
        let mut offers = self.offers();
        offers.count += 1;
        if offers.count == 1 {
            offers.since = Some((Instant::now(), self.sent.load(Relaxed)));
            self.begins.notify_one();
        }
    }

    fn withdraw(&self) {
        let mut offers = self.offers();
        offers.count -= 1;
        if offers.count == 0 {
            offers.since = None;
        }
    }

    pub(super) fn look(&self) -> Look {
        let Some((since, sent_then)) = &mut self.offers().since else {
            return Look::NoOffer;
        };
        let (now, sent) = (Instant::now(), self.sent.load(Relaxed));
        if sent - *sent_then >= LEAST {
            (*since, *sent_then) = (now, sent);
        }
        match now - *since < TAKING_TIME {
            true => Look::Takes,
            false => Look::Leaves,
        }
    }

    /// Ends when there is an offer where there was none.
    pub(super) async fn begins(&self) {
        self.begins.notified().await;
    }
}

/// Something that a visitor could take, while it is set.
#[derive(Debug)]
pub(super) struct Offer {
    requests: Arc<Requests>,
    is_set: bool,
}

impl Offer {
    pub(super) fn new(requests: &Arc<Requests>) -> Self {
        Self {
            requests: Arc::clone(requests),
            is_set: false,
        }
    }

    pub(super) fn set(&mut self, is_set: bool) {
        if std::mem::replace(&mut self.is_set, is_set) == is_set {
            return;
        }
        match is_set {
            true => self.requests.taking.offer(),
            false => self.requests.taking.withdraw(),
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// The body of an answer: on offer but while the origin is waited for.
#[derive(Debug)]
pub(in crate::agent::http) struct OfferedBody<B> {
    body: B,
    offer: Offer,
}

impl<B> OfferedBody<B> {
    pub(super) fn new(body: B, requests: &Arc<Requests>) -> Self {
        let mut offer = Offer::new(requests);
        offer.set(true);
        Self { body, offer }
    }
}

impl<B: Body + Unpin> Body for OfferedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.offer.set(matches!(polled, Poll::Ready(Some(Ok(_)))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::pending;

    use http_body_util::BodyExt as _;
    use hyper::body::Bytes;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::{sleep, timeout};

    use super::super::{Patience, PatientStream};
    use super::*;

    const LONG: Duration = Duration::from_secs(100 * TAKING_TIME.as_secs());

    fn visitor(last: u8, patience: &Arc<Patience>) -> Arc<Requests> {
        Requests::new([192, 0, 2, last].into(), patience)
    }

    /// Whether it is not waited for any longer.
    async fn is_sent_away(requests: &Requests) -> bool {
        timeout(LONG, requests.untaken()).await.is_ok()
    }

    /// Others who leave theirs, and may.
    fn others(count: u8, of: impl Fn(u8) -> u8, patience: &Arc<Patience>) -> Vec<Place> {
        let places = (0..count).map(|number| patience.answers.take([192, 0, 2, of(number)].into()));
        places.map(Option::unwrap).collect()
    }

    fn full() -> (Arc<Patience>, Vec<Place>) {
        let patience = Arc::default();
        let others = others(8, |_| 1, &patience);
        (patience, others)
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_of_each_address_may_leave_their_answers_and_not_too_many_in_all() {
        let patience = Arc::default();
        let mut of_one = others(7, |_| 1, &patience);
        let requests = visitor(1, &patience);
        let _answer = requests.begin().offered(());
        assert!(!is_sent_away(&requests).await);
        of_one.extend(others(1, |_| 1, &patience));
        assert!(is_sent_away(&requests).await);
        assert_eq!(patience.too_slow()["answer"], 1);

        let another = visitor(2, &patience);
        let _answer = another.begin().offered(());
        assert!(!is_sent_away(&another).await);
        let of_all = others(248, |number| 3 + number / 8, &patience);
        assert!(is_sent_away(&another).await);
        drop((of_one, of_all));
        assert!(!is_sent_away(&requests).await);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_its_answer_is_waited_for_and_who_takes_next_to_nothing_is_not() {
        let (patience, _others) = full();
        let requests = visitor(1, &patience);
        let _answer = requests.begin().offered(());
        for (octets, takes) in [(500, true), (499, false)] {
            let takes_so_much = async {
                loop {
                    sleep(Duration::from_millis(999)).await;
                    requests.taking.sent(octets);
                }
            };
            let sent_away = tokio::select! {
                sent_away = timeout(LONG, requests.untaken()) => sent_away.is_ok(),
                never = takes_so_much => never,
            };
            assert_eq!(sent_away, !takes, "{octets}");
        }
    }

    /// So many octets of an answer, whose rest takes its time.
    struct Part(Option<&'static str>);

    impl Body for Part {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.take() {
                Some(part) => Poll::Ready(Some(Ok(Frame::data(part.into())))),
                None => Poll::Pending,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_that_takes_its_time_costs_the_visitor_nothing() {
        let (patience, _others) = full();
        let requests = visitor(1, &patience);
        let mut answer = requests.begin().offered(Part(Some("this")));
        assert!(is_sent_away(&requests).await); // nobody has asked for any
        answer.frame().await.unwrap().unwrap();
        assert!(is_sent_away(&requests).await);
        assert!(timeout(LONG, answer.frame()).await.is_err());
        assert!(!is_sent_away(&requests).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_flushed_has_not_been_taken() {
        let (patience, _others) = full();
        let requests = visitor(1, &patience);
        let begun = Instant::now();
        let (mut visitor, here) = duplex(64);
        let mut stream = PatientStream::http1(here, &requests);
        let sends = async {
            stream.write_all(&[0; 100]).await.unwrap();
            pending::<()>().await;
        };
        tokio::select! {
            sent_away = is_sent_away(&requests) => assert!(sent_away),
            () = sends => {}
        }
        assert_eq!(begun.elapsed().as_secs(), TAKING_TIME.as_secs());
        let mut taken = [0; 64];
        visitor.read_exact(&mut taken).await.unwrap();
        stream.write_all(&[0; 36]).await.unwrap();
        stream.flush().await.unwrap();
        assert!(!is_sent_away(&requests).await);
    }
}
