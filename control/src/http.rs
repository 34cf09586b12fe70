//! Serving HTTP: one place with the deadlines and bounds that every listener of this process has.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

/// How long a client may take to send a request's head, and may rest between requests.
const HEAD_TIME: Duration = Duration::from_secs(9);

/// How often a quiet HTTP/2 client is asked whether it is still there, and how long it may take to answer.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// Requests of one HTTP/2 client at a time.
const MAX_REQUESTS: u32 = 100;

/// What an HTTP/2 client may send before it is read: for one request, and for all.
const REQUEST_WINDOW: u32 = 64 * 1024;
const CLIENT_WINDOW: u32 = 1024 * 1024;

/// The longest head that is read, in octets.
const MAX_HEAD: u32 = 16 * 1024;

/// A client on whose connection no byte moves for this long is gone. Longer than the pauses of [`PING`] and of the pages'
/// event streams.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// A client who takes nothing of an answer for this long is no longer waited for, whatever it sends.
const STUCK_TIME: Duration = Duration::from_secs(9);

/// How long open requests may take to finish when the listener stops.
const GOODBYE: Duration = Duration::from_secs(2);

/// The pause after the kernel could not hand over a connection.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a client speaks, as its TLS handshake has settled it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// Serves one client until it leaves or is idle for too long, or until its open requests are answered after `stop`.
pub(crate) async fn serve_client(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    protocol: Protocol,
    client: SocketAddr,
    router: Router,
    stop: CancellationToken,
) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(client));
        let router = router.clone();
        async move {
            let Ok(response) = router.oneshot(request.map(Body::new)).await;
            Ok::<_, Infallible>(response)
        }
    });
    let stream = TokioIo::new(IdleLimit::new(stream));
    let served = match protocol {
        Protocol::Http1 => {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .max_buf_size(MAX_HEAD as usize)
                .serve_connection(stream, service)
                .with_upgrades();
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                served = connection.as_mut() => served,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    timeout(GOODBYE, connection).await.unwrap_or(Ok(()))
                }
            }
        }
        Protocol::Http2 => {
            let connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(MAX_REQUESTS)
                .initial_stream_window_size(REQUEST_WINDOW)
                .initial_connection_window_size(CLIENT_WINDOW)
                .max_header_list_size(MAX_HEAD)
                .keep_alive_interval(PING.0)
                .keep_alive_timeout(PING.1)
                .serve_connection(stream, service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                served = connection.as_mut() => served,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    timeout(GOODBYE, connection).await.unwrap_or(Ok(()))
                }
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "an HTTP client's connection has ended early");
    }
}

/// Clients sent away by this process's own listeners because as many were there as may be, by listener.
#[derive(Clone, Debug)]
pub(crate) struct ClientsRefused(IntCounterVec);

impl ClientsRefused {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = IntCounterVec::new(
            Opts::new(
                "causeway_control_clients_refused_total",
                "Clients sent away because as many were there as may be.",
            ),
            &["listener"],
        )?;
        registry.register(Box::new(counters.clone()))?;
        Ok(Self(counters))
    }

    pub(crate) fn at(&self, listener: &str) -> IntCounter {
        self.0.with_label_values(&[listener])
    }
}

/// Accepts clients in clear until `stop`, at most `most` at a time, and counts the others; for loopback listeners only.
pub(crate) async fn serve_loopback(
    listener: TcpListener,
    router: Router,
    most: usize,
    refused: IntCounter,
    stop: CancellationToken,
) {
    let clients = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) if clients.len() < most => {
                clients.spawn(serve_client(
                    stream,
                    Protocol::Http1,
                    client,
                    router.clone(),
                    stop.clone(),
                ));
            }
            Ok(_) => refused.inc(), // full: closed at once
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
    clients.close();
    let _ = timeout(GOODBYE, clients.wait()).await;
}

/// A stream that fails when no byte has moved in either direction for [`IDLE_TIME`], or none of what is to be sent for [`STUCK_TIME`].
struct IdleLimit<S> {
    stream: S,
    deadline: Pin<Box<Sleep>>,
    /// What is to be sent is not taken.
    stuck: bool,
}

impl<S> IdleLimit<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            deadline: Box::pin(sleep(IDLE_TIME)),
            stuck: false,
        }
    }

    /// Passes on what reading gave, and takes progress or lack of it into account.
    fn watch_read<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            if !self.stuck {
                self.deadline.as_mut().reset(Instant::now() + IDLE_TIME);
            }
            return result;
        }
        self.wait(cx)
    }

    /// The same for writing, for flushing what something has been written for, and for what is said at the end.
    fn watch_write<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stuck = false;
            self.deadline.as_mut().reset(Instant::now() + IDLE_TIME);
            return result;
        }
        if !self.stuck {
            self.stuck = true;
            self.deadline.as_mut().reset(Instant::now() + STUCK_TIME);
        }
        self.wait(cx)
    }

    fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for IdleLimit<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.watch_read(cx, result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for IdleLimit<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, octets);
        self.watch_write(cx, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        if result.is_ready() && !self.stuck {
            return result; // there may have been nothing to flush, which is no sign of life
        }
        self.watch_write(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS has something to send yet.
        let result = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.watch_write(cx, result)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufWriter, duplex, split};
    use tokio::time::interval;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_not_waited_for_whatever_it_sends() {
        let (client, server) = duplex(64);
        let (mut hears, mut says) = split(IdleLimit::new(server));
        let (_takes_nothing, mut sends) = split(client);
        let keep_sending = async {
            let mut seconds = interval(SECOND);
            loop {
                seconds.tick().await;
                let _ = sends.write_all(b"x").await;
                let _ = hears.read_u8().await;
            }
        };
        let begun = Instant::now();
        let said = tokio::select! {
            said = says.write_all(&[0; 1000]) => said,
            () = keep_sending => Ok(()),
        };
        assert_eq!(said.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!((STUCK_TIME..STUCK_TIME + 2 * SECOND).contains(&begun.elapsed()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_take_what_is_said_at_the_end_is_not_waited_for() {
        let (_takes_nothing, server) = duplex(64);
        // As TLS does, it has more to send when it is to end.
        let mut server = IdleLimit::new(BufWriter::new(server));
        server.write_all(&[0; 65]).await.unwrap();
        let begun = Instant::now();
        let ended = timeout(IDLE_TIME, server.shutdown()).await.unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), STUCK_TIME.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_slowly_is_waited_for_and_who_does_nothing_for_longer() {
        let (mut client, server) = duplex(64);
        let mut server = IdleLimit::new(server);
        let take_slowly = async {
            let mut room = [0; 64];
            for _ in 0..16 {
                sleep(STUCK_TIME - SECOND).await;
                client.read_exact(&mut room).await.unwrap();
            }
        };
        let (said, ()) = tokio::join!(server.write_all(&[0; 16 * 64]), take_slowly);
        said.unwrap();
        server.flush().await.unwrap();
        let begun = Instant::now();
        let heard = server.read_u8().await;
        assert_eq!(heard.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() > STUCK_TIME);
    }
}
