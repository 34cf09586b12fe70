//! A visitor's stream, on which the heads of its requests have to come in time.

use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::untaken::Offer;
use super::{HEAD_TIME, REST_TIME, Requests};
use crate::agent::http::frames::Frames;

/// What a visitor sends and is sent. Reading fails when the head of a request does not come in time.
#[derive(Debug)]
pub(in crate::agent::http) struct PatientStream<S> {
    stream: S,
    requests: Arc<Requests>,
    /// Over HTTP/2, where requests are under way beside each other, these say when a head is.
    frames: Option<Frames>,
    /// As many had begun when it was read last.
    begun: u64,
    state: Between,
    /// The end of that; made when it is first waited for.
    timer: Option<Pin<Box<Sleep>>>,
    /// What it was sent and has not taken.
    unsent: Offer,
}

/// Where a visitor is, of whose requests none is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    Come,
    Head,
    Rest,
}

impl<S> PatientStream<S> {
    pub(in crate::agent::http) fn http1(stream: S, requests: &Arc<Requests>) -> Self {
        Self {
            stream,
            requests: Arc::clone(requests),
            frames: None,
            begun: 0,
            state: Between::Come,
            timer: None,
            unsent: Offer::new(requests),
        }
    }

    /// Who has asked once may rest for as long as it likes, and who has not is [silent](Requests::silence).
    pub(in crate::agent::http) fn http2(stream: S, requests: &Arc<Requests>) -> Self {
        Self {
            frames: Some(Frames::new()),
            state: Between::Head,
            ..Self::http1(stream, requests)
        }
    }

    /// What has been written may be held here yet; only what is flushed has been taken.
    fn written(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(octets)) => self.requests.taking.sent(*octets),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.unsent.set(true),
        }
        written
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
        let too_slow = &self.requests.patience.too_slow;
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
        let written = Pin::new(&mut self.stream).poll_write(cx, octets);
        self.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.unsent.set(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::{Instant, timeout};

    use super::super::tests::{counted, requests};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn visitor() -> (DuplexStream, PatientStream<DuplexStream>, Arc<Requests>) {
        let requests = requests();
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
            never = drips => never,
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
    async fn over_http2_a_rest_has_no_end_and_each_head_ten_seconds() {
        let requests = requests();
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
}
