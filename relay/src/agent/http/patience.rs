//! How long a visitor is waited for: for the head of a request, and for its body. Only time in which there is nothing but the
//! visitor to wait for counts, so an origin that takes its time costs nobody anything.
//!
//! ```text
//!   comes ──► head ──► request under way: body, answer ──► rest ──► head …
//!        HEAD_TIME        credit of its own               REST_TIME
//! ```

use std::collections::BTreeMap;
use std::future::{Future as _, pending};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep};

use super::frames::Frames;

/// How long a visitor may take to send a request's head, from when it has begun; the first one, from when the visitor is there.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// How long it may rest between requests.
pub(super) const REST_TIME: Duration = Duration::from_secs(75);

/// How long a request's body may keep us waiting to begin with.
const BODY_TIME: Duration = Duration::from_secs(10);

/// So many octets of it earn a second more: any line does better, and an upload that pauses has earned hours.
const OCTETS_A_SECOND: u64 = 500;

/// Nobody earns more than this.
const MOST_CREDIT: Duration = Duration::from_secs(24 * 60 * 60);

/// What is added while it may be that nothing can come, because what came for other requests is held up.
const HELD_UP_TIME: Duration = Duration::from_secs(1);

/// Visitors who were not waited for any longer, by what did not come.
#[derive(Debug, Default)]
pub(in crate::agent) struct TooSlow {
    /// They came, and asked for nothing.
    silent: AtomicU64,
    head: AtomicU64,
    body: AtomicU64,
}

impl TooSlow {
    /// By reason, each of them.
    pub(in crate::agent) fn counts(&self) -> BTreeMap<String, u64> {
        let counts = [
            ("silent", &self.silent),
            ("head", &self.head),
            ("body", &self.body),
        ];
        let counts = counts.map(|(reason, count)| (reason.to_owned(), count.load(Relaxed)));
        counts.into()
    }
}

/// The requests of one visitor: how many have come, and how many are over.
#[derive(Debug, Default)]
pub(super) struct Requests {
    begun: AtomicU64,
    over: AtomicU64,
    one_is_over: Notify,
    /// Bodies of which something may have come that the origin does not take yet.
    held_up: AtomicUsize,
    too_slow: Arc<TooSlow>,
}

impl Requests {
    pub(super) fn new(too_slow: &Arc<TooSlow>) -> Arc<Self> {
        Arc::new(Self {
            too_slow: Arc::clone(too_slow),
            ..Self::default()
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
        self.too_slow.silent.fetch_add(1, Relaxed);
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

/// How long a request's body is waited for yet.
#[derive(Debug)]
pub(super) struct Credit {
    under_way: Arc<UnderWay>,
    left: Duration,
    /// Nothing of the body is here. Otherwise it is not the visitor who is waited for.
    is_awaited: bool,
    /// When the credit is used up, while the body is awaited.
    timer: Pin<Box<Sleep>>,
}

impl Credit {
    /// That of a body which nobody has begun to read.
    pub(super) fn new(under_way: Arc<UnderWay>) -> Self {
        under_way.requests.held_up.fetch_add(1, Relaxed);
        Self {
            under_way,
            left: BODY_TIME,
            is_awaited: false,
            timer: Box::pin(sleep(BODY_TIME)),
        }
    }

    /// So many octets have come.
    pub(super) fn earn(&mut self, octets: usize) {
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
    pub(super) fn poll_used_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
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
        self.under_way.was_too_slow.store(true, Relaxed);
        requests.too_slow.body.fetch_add(1, Relaxed);
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

/// What a visitor sends and is sent. Reading fails when the head of a request does not come in time.
#[derive(Debug)]
pub(super) struct PatientStream<S> {
    stream: S,
    requests: Arc<Requests>,
    /// Over HTTP/2, where requests are under way beside each other, these say when a head is.
    frames: Option<Frames>,
    /// As many had begun when it was read last.
    begun: u64,
    state: Between,
    /// The end of that; made when it is first waited for.
    timer: Option<Pin<Box<Sleep>>>,
}

/// Where a visitor is, of whose requests none is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    Come,
    Head,
    Rest,
}

impl<S> PatientStream<S> {
    pub(super) fn http1(stream: S, requests: &Arc<Requests>) -> Self {
        Self {
            stream,
            requests: Arc::clone(requests),
            frames: None,
            begun: 0,
            state: Between::Come,
            timer: None,
        }
    }

    /// Who has asked once may rest for as long as it likes, and who has not is [silent](Requests::silence).
    pub(super) fn http2(stream: S, requests: &Arc<Requests>) -> Self {
        Self {
            frames: Some(Frames::new()),
            state: Between::Head,
            ..Self::http1(stream, requests)
        }
    }

    fn enters(&mut self, state: Between) {
        // Who is new has no more time when it has begun.
        if self.state != Between::Come {
            self.timer = None;
        }
        self.state = state;
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let time = match self.state {
            Between::Come | Between::Head => HEAD_TIME,
            Between::Rest => REST_TIME,
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(time)));
        ready!(timer.as_mut().poll(cx));
        let too_slow = &self.requests.too_slow;
        match self.state {
            Between::Come => drop(too_slow.silent.fetch_add(1, Relaxed)),
            Between::Head => drop(too_slow.head.fetch_add(1, Relaxed)),
            Between::Rest => {}
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PatientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let begun = this.requests.begun.load(Relaxed);
        if this.frames.is_none() && this.begun != begun {
            (this.begun, this.state, this.timer) = (begun, Between::Rest, None);
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let waits_for_head = match &this.frames {
            Some(frames) => frames.has_open_head(),
            // Otherwise for a body, or the end; and what is sent too early begins when it is its turn.
            None => this.requests.over.load(Relaxed) == begun,
        };
        if read.is_pending() && waits_for_head {
            ready!(this.poll_late(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let come = buffer.filled().get(before..).unwrap_or_default();
        match &mut this.frames {
            Some(frames) => {
                if frames.read(come) {
                    this.timer = None;
                }
            }
            None => {
                if waits_for_head && !come.is_empty() && this.state != Between::Head {
                    this.enters(Between::Head);
                }
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PatientStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, octets)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::timeout;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn visitor() -> (DuplexStream, PatientStream<DuplexStream>, Arc<Requests>) {
        let requests = Requests::new(&Arc::default());
        let (visitor, here) = duplex(64);
        (visitor, PatientStream::http1(here, &requests), requests)
    }

    /// Reads until there is an error, and says after how many seconds that was.
    async fn patience_of(stream: &mut PatientStream<DuplexStream>) -> u64 {
        let begun = Instant::now();
        let error = loop {
            if let Err(error) = stream.read_u8().await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        begun.elapsed().as_secs()
    }

    fn counted(requests: &Requests) -> [u64; 3] {
        let counts = requests.too_slow.counts();
        ["silent", "head", "body"].map(|reason| counts[reason])
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_has_ten_seconds_in_all_for_the_first_head() {
        let (_silent, mut stream, requests) = visitor();
        assert_eq!(patience_of(&mut stream).await, HEAD_TIME.as_secs());
        assert_eq!(counted(&requests), [1, 0, 0]);

        let (mut slow, mut stream, requests) = visitor();
        let drips = async {
            loop {
                sleep(SECOND).await;
                slow.write_all(b"x").await.unwrap();
            }
        };
        let patience = tokio::select! {
            patience = patience_of(&mut stream) => patience,
            () = drips => unreachable!(),
        };
        assert_eq!(patience, HEAD_TIME.as_secs());
        assert_eq!(counted(&requests), [0, 1, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_asked_may_rest_for_longer_than_a_head_may_take() {
        let (mut visitor, mut stream, requests) = visitor();
        visitor.write_all(b"x").await.unwrap();
        stream.read_u8().await.unwrap();
        drop(requests.begin());
        assert_eq!(patience_of(&mut stream).await, REST_TIME.as_secs());
        assert_eq!(counted(&requests), [0, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_begins_after_a_rest_has_a_time_of_its_own() {
        let (mut visitor, mut stream, requests) = visitor();
        drop(requests.begin());
        let rest = REST_TIME - SECOND;
        let (patience, ()) = tokio::join!(patience_of(&mut stream), async {
            sleep(rest).await;
            visitor.write_all(b"x").await.unwrap();
        });
        assert_eq!(patience, (rest + HEAD_TIME).as_secs());
        assert_eq!(counted(&requests), [0, 1, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_under_way_is_no_rest_whatever_comes() {
        let (mut visitor, mut stream, requests) = visitor();
        let (body, answer) = {
            let under_way = requests.begin();
            (Arc::clone(&under_way), under_way)
        };
        visitor.write_all(b"of a body").await.unwrap();
        let ends = async {
            sleep(10 * REST_TIME).await;
            drop(answer);
            sleep(10 * REST_TIME).await;
            drop(body);
            requests.one_is_over().await;
        };
        tokio::select! {
            _ = patience_of(&mut stream) => panic!("it was not waited for"),
            () = ends => {}
        }
        assert_eq!(patience_of(&mut stream).await, REST_TIME.as_secs());

        requests.begin().changes_protocol();
        let for_ever = timeout(100 * REST_TIME, patience_of(&mut stream)).await;
        assert!(for_ever.is_err(), "{for_ever:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_visitor_who_asks_for_nothing_is_silent_and_one_who_has_asked_is_not() {
        let requests = Requests::new(&Arc::default());
        let begun = Instant::now();
        requests.silence().await;
        assert_eq!(begun.elapsed().as_secs(), HEAD_TIME.as_secs());
        assert_eq!(counted(&requests), [1, 0, 0]);
        drop(requests.begin());
        let silence = timeout(100 * REST_TIME, requests.silence()).await;
        assert!(silence.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn over_http2_a_rest_has_no_end_and_each_head_ten_seconds() {
        let requests = Requests::new(&Arc::default());
        let (mut visitor, here) = duplex(64);
        let mut stream = PatientStream::http2(here, &requests);
        let (whole, open) = (b"\0\0\x01\x01\x05\0\0\0\x01\x82", b"\0\0\0\x01\0\0\0\0\x03");
        let sends = async {
            visitor.write_all(&[b'x'; 24]).await.unwrap(); // the preface
            sleep(2 * REST_TIME).await;
            for _ in 0..2 {
                let (part, rest) = whole.split_at(9);
                visitor.write_all(part).await.unwrap();
                sleep(HEAD_TIME - SECOND).await;
                visitor.write_all(rest).await.unwrap();
                sleep(2 * REST_TIME).await;
            }
            visitor.write_all(open).await.unwrap();
            Instant::now()
        };
        let (_, opened) = tokio::join!(patience_of(&mut stream), sends);
        assert_eq!(opened.elapsed().as_secs(), HEAD_TIME.as_secs());
        assert_eq!(counted(&requests), [0, 1, 0]);
    }

    async fn used_up(credit: &mut Credit) -> f64 {
        let begun = Instant::now();
        poll_fn(|cx| credit.poll_used_up(cx)).await;
        begun.elapsed().as_secs_f64()
    }

    fn about(seconds: f64, expected: f64) {
        assert!((seconds - expected).abs() < 0.1, "{seconds} {expected}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_earns_by_what_it_brings_and_pays_for_the_time_it_is_waited_for() {
        let requests = Requests::new(&Arc::default());
        let under_way = requests.begin();
        let mut credit = Credit::new(Arc::clone(&under_way));
        let waited = timeout(6 * SECOND, used_up(&mut credit)).await;
        assert!(waited.is_err());
        credit.earn(1000); // two seconds
        credit.earn(250); // half a second
        sleep(100 * SECOND).await; // it is the origin who is waited for
        assert!(!under_way.was_too_slow());
        about(used_up(&mut credit).await, 10.0 - 6.0 + 2.5);
        assert!(under_way.was_too_slow());
        assert_eq!(counted(&requests), [0, 0, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn octet_by_octet_a_body_does_not_get_far() {
        let requests = Requests::new(&Arc::default());
        let mut credit = Credit::new(requests.begin());
        let begun = Instant::now();
        while timeout(SECOND / 2, used_up(&mut credit)).await.is_err() {
            credit.earn(1);
        }
        about(begun.elapsed().as_secs_f64(), 10.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_upload_may_pause_for_hours_and_not_for_ever() {
        let requests = Requests::new(&Arc::default());
        let mut credit = Credit::new(requests.begin());
        credit.earn(usize::MAX);
        credit.earn(usize::MAX);
        about(used_up(&mut credit).await, MOST_CREDIT.as_secs_f64());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_pays_while_what_came_for_another_request_is_held_up() {
        let requests = Requests::new(&Arc::default());
        let mut credit = Credit::new(requests.begin());
        let held_up = Credit::new(requests.begin());
        let (waited, ()) = tokio::join!(used_up(&mut credit), async {
            sleep(100 * SECOND).await;
            drop(held_up);
        });
        assert!((100.0..102.0).contains(&waited), "{waited}");
    }
}
