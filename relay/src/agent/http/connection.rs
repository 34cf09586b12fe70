//! A visitor's connection, in the HTTP that it speaks: how much of it is held, when it is asked to come anew, and when it is not
//! waited for any longer.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::patience::{PatientStream, Requests};
use super::{Answer, Tasks};

/// How often a quiet HTTP/2 visitor is asked whether it is still there, and how long it may take to answer.
const PING: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(20));

/// Requests of one HTTP/2 visitor at a time.
const MAX_REQUESTS: u32 = 250;

/// What an HTTP/2 visitor may send before the origin has taken it: for one request, and for all. 100 ms at 80 and 320 Mbit/s.
const REQUEST_WINDOW: u32 = 1024 * 1024;
const VISITOR_WINDOW: u32 = 4 * 1024 * 1024;

/// What is held of one answer that the visitor has not taken yet.
const ANSWER_BUFFER: usize = 256 * 1024;

/// A visitor who had better come by another tunnel, and asks for nothing, is let go after this long. One who asks hears it with the answer.
const MOVING_TIME: Duration = Duration::from_secs(5);

/// The longest head that is read, in octets; also what each direction of an HTTP/1.1 connection buffers at most, which for
/// a visitor who reads slowly is all of it.
pub(super) const MAX_HEAD: u32 = 64 * 1024;

/// Serves a visitor over HTTP/1.1 until it leaves or is not waited for any longer.
pub(super) async fn http1<S>(
    visitor: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    service: S,
    requests: &Arc<Requests>,
    moving: &CancellationToken,
) -> io::Result<()>
where
    S: Service<Request<Incoming>, Response = Answer, Error = Infallible>,
{
    let visitor = PatientStream::http1(visitor, requests);
    let connection = http1::Builder::new()
        .header_read_timeout(None) // it knows no difference between a head and a rest
        .max_buf_size(MAX_HEAD as usize)
        .serve_connection(TokioIo::new(visitor), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    // Who is let go in the moment in which it asks again does not know whether it was heard.
    let mut rested = pin!(async {
        moving.cancelled().await;
        sleep(MOVING_TIME).await;
    });
    let mut untaken = pin!(requests.untaken());
    let mut is_leaving = false;
    loop {
        tokio::select! {
            served = &mut connection => return served.map_err(io::Error::other),
            () = requests.one_is_over() => {} // the connection is polled again
            () = &mut untaken => return Err(io::ErrorKind::TimedOut.into()),
            () = &mut rested, if !is_leaving => {
                is_leaving = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// The same over HTTP/2.
pub(super) async fn http2<S>(
    visitor: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    service: S,
    tasks: Tasks,
    requests: &Arc<Requests>,
    moving: &CancellationToken,
) -> io::Result<()>
where
    S: Service<Request<Incoming>, Response = Answer, Error = Infallible>,
    S::Future: Send + 'static,
{
    let visitor = PatientStream::http2(visitor, requests);
    let connection = http2::Builder::new(tasks)
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_REQUESTS)
        .initial_stream_window_size(REQUEST_WINDOW)
        .initial_connection_window_size(VISITOR_WINDOW)
        .max_send_buf_size(ANSWER_BUFFER)
        .max_header_list_size(MAX_HEAD)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1)
        .serve_connection(TokioIo::new(visitor), service);
    let mut connection = pin!(connection);
    // Who has asked once may rest as long as it answers pings.
    let mut silence = pin!(requests.silence());
    let mut untaken = pin!(requests.untaken());
    let mut has_heard = false;
    loop {
        tokio::select! {
            served = &mut connection => return served.map_err(io::Error::other),
            () = &mut untaken => return Err(io::ErrorKind::TimedOut.into()),
            () = &mut silence => return Err(io::ErrorKind::TimedOut.into()),
            () = moving.cancelled(), if !has_heard => {
                has_heard = true;
                connection.as_mut().graceful_shutdown(); // RFC 9113 section 6.8
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;
    use hyper::service::service_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::{Instant, timeout};

    use super::super::patience::REST_TIME;
    use super::super::say;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_rest_is_noticed_though_the_origin_has_the_request_after_its_answer() {
        let (mut visitor, here) = duplex(1024);
        let requests = Requests::new([192, 0, 2, 1].into(), &Arc::default());
        let origin_has_it = 100 * SECOND;
        let service = service_fn(|_| {
            let under_way = requests.begin();
            tokio::spawn(async move {
                sleep(origin_has_it).await;
                drop(under_way);
            });
            async { Ok(say(StatusCode::OK, "ok")) }
        });
        let begun = Instant::now();
        let moving = CancellationToken::new();
        let served = http1(here, service, &requests, &moving);
        let served = timeout(10 * REST_TIME, served);
        let (served, answer) = tokio::join!(served, async {
            let asked = b"GET / HTTP/1.1\r\nHost: mynas.nas.example\r\n\r\n";
            visitor.write_all(asked).await.unwrap();
            let mut answer = String::new();
            visitor.read_to_string(&mut answer).await.unwrap();
            answer
        });
        served.unwrap().unwrap();
        assert!(answer.ends_with("ok\n"), "{answer}");
        let rested = begun.elapsed() - origin_has_it;
        assert!(
            (REST_TIME..REST_TIME + SECOND).contains(&rested),
            "{rested:?}"
        );
    }
}
