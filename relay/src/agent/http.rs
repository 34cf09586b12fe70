//! HTTP between visitor and origin. Each request is routed by the host it names, loses what only concerns this hop, and
//! tells the origin who asks. Bodies pass as they come.

mod client;
mod head;

use std::convert::Infallible;
use std::error::Error as StdError;
use std::future::{Future, pending};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use directory::{DeviceName, Place, Zone};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use wire::frame::Open;

use crate::tls;

use super::origin::Origin;
use super::origin_failure::OriginFailure;
use super::pass;
use super::stream::VisitorStream;
use client::{Asked, Connector};

/// How long a visitor may take to send a request's head, and may rest between requests.
const HEAD_TIME: Duration = Duration::from_secs(75);

/// How long a connection to the origin is kept for the visitor's next request. Most servers close theirs after 5 s or more.
const ORIGIN_IDLE: Duration = Duration::from_secs(4);

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
const MAX_HEAD: u32 = 64 * 1024;

type Answer = Response<BoxBody<Bytes, hyper::Error>>;
type OriginClient = Client<Connector, Asked>;

/// The names that are served here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names<'a> {
    pub(super) zone: &'a Zone,
    pub(super) device: &'a DeviceName,
}

/// Serves one visitor's requests until it leaves. Once `moving` is cancelled it is asked to come anew for its next one.
pub(super) async fn serve(
    visitor: TlsStream<VisitorStream>,
    open: &Open,
    origin: &Arc<Origin>,
    names: Names<'_>,
    moving: CancellationToken,
) -> io::Result<()> {
    let http2 = visitor.get_ref().1.alpn_protocol() == Some(tls::HTTP2);
    let tasks = Tasks::new();
    let connector = Connector {
        origin: Arc::clone(origin),
        visitor: open.visitor,
        front: open.front,
    };
    // Connections to the origin are this visitor's alone, so one visitor's request can never end in another's.
    let client: OriginClient = Client::builder(tasks.clone())
        .pool_idle_timeout(ORIGIN_IDLE)
        .pool_timer(TokioTimer::new())
        .http1_max_buf_size(MAX_HEAD as usize)
        .build(connector);
    let exchange = Exchange {
        client,
        origin: Arc::clone(origin),
        visitor: open.visitor,
        tasks: tasks.clone(),
    };
    let asked = Notify::new();
    let service = service_fn(|request| {
        asked.notify_one();
        let routed = route(&request, &open.name, names);
        let exchange = exchange.clone();
        // HTTP/2 says so for the whole connection.
        let moving = (!http2).then(|| moving.clone());
        async move {
            let mut answer = match routed {
                Ok(host) => exchange.forward(request, host).await,
                Err(Refusal(status, sentence)) => say(status, sentence),
            };
            if moving.is_some_and(|moving| moving.is_cancelled()) {
                close_after(&mut answer);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let visitor = TokioIo::new(visitor);
    let served = if http2 {
        let connection = http2::Builder::new(tasks)
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_REQUESTS)
            .initial_stream_window_size(REQUEST_WINDOW)
            .initial_connection_window_size(VISITOR_WINDOW)
            .max_send_buf_size(ANSWER_BUFFER)
            .max_header_list_size(MAX_HEAD)
            .keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1)
            .serve_connection(visitor, service);
        let mut connection = pin!(connection);
        // Nothing else ends a visitor who asks for nothing; HTTP/1.1 has a deadline for each head.
        let mut silence = pin!(async {
            if timeout(HEAD_TIME, asked.notified()).await.is_ok() {
                pending::<()>().await;
            }
        });
        let mut has_heard = false;
        loop {
            tokio::select! {
                served = &mut connection => break served,
                () = &mut silence => return Err(io::ErrorKind::TimedOut.into()),
                () = moving.cancelled(), if !has_heard => {
                    has_heard = true;
                    connection.as_mut().graceful_shutdown(); // RFC 9113 section 6.8
                }
            }
        }
    } else {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(MAX_HEAD as usize)
            .serve_connection(visitor, service)
            .with_upgrades();
        let mut connection = pin!(connection);
        // Who is let go in the moment in which it asks again does not know whether it was heard.
        let rested = async {
            moving.cancelled().await;
            sleep(MOVING_TIME).await;
        };
        tokio::select! {
            served = &mut connection => served,
            () = rested => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    exchange.tasks.upgraded().await;
    served.map_err(io::Error::other)
}

/// The visitor is not to ask again on this connection, unless it has changed its protocol (RFC 9112 section 9.6).
fn close_after(answer: &mut Answer) {
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let close = HeaderValue::from_static("close");
        answer.headers_mut().insert(header::CONNECTION, close);
    }
}

/// A request that does not go to the origin: the status and the sentence that answer it.
struct Refusal(StatusCode, &'static str);

const NO_HOST: Refusal = Refusal(
    StatusCode::BAD_REQUEST,
    "The request does not name one host.",
);

/// The host that the request is for, or the answer for one that is not served here. `opened` is the name that the visitor
/// asked for when it came.
fn route(request: &Request<Incoming>, opened: &str, names: Names<'_>) -> Result<String, Refusal> {
    let mut in_heads = request.headers().get_all(header::HOST).iter();
    let in_head = in_heads.next().map(HeaderValue::to_str);
    let in_target = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    let host = match (in_target, in_head) {
        _ if in_heads.next().is_some() => return Err(NO_HOST), // RFC 9112 section 3.2
        // RFC 9113 section 8.3.1: the two must agree.
        (Some(target), Some(Ok(head))) if target.eq_ignore_ascii_case(head) => target,
        (Some(target), None) => target,
        (None, Some(Ok(head))) => head,
        (None, None) if request.version() == Version::HTTP_10 => opened, // which has no Host
        _ => return Err(NO_HOST),
    };
    if request.method() == Method::CONNECT {
        return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "This is no proxy."));
    }
    let (bare, port) = host.rsplit_once(':').unwrap_or((host, ""));
    if host.contains('@') || !port.bytes().all(|octet| octet.is_ascii_digit()) {
        // An origin that takes what stands behind the @ for the host would be led astray (RFC 9110 section 4.2.4).
        return Err(NO_HOST);
    }
    if names.zone.locate(bare) != Place::Device(names.device.clone()) {
        // RFC 9110 section 15.5.20: a browser that shares a connection between names tries again on its own.
        return Err(Refusal(
            StatusCode::MISDIRECTED_REQUEST,
            "This host is not served on this connection.",
        ));
    }
    Ok(host.to_owned())
}

/// What one visitor's requests share.
#[derive(Clone)]
struct Exchange {
    client: OriginClient,
    origin: Arc<Origin>,
    visitor: SocketAddr,
    tasks: Tasks,
}

impl Exchange {
    async fn forward(&self, mut request: Request<Incoming>, host: String) -> Answer {
        let upgrade = head::take_upgrade(&mut request);
        let wants_upgrade = upgrade.is_some();
        let visitor_side = wants_upgrade.then(|| hyper::upgrade::on(&mut request));
        let prepared = head::for_origin(&mut request, &host, upgrade, &self.origin, self.visitor);
        if prepared.is_none() {
            return say(
                StatusCode::BAD_REQUEST,
                "The request target makes no sense.",
            );
        }
        match self.answer_to(request).await {
            Ok(mut answer) => {
                let failures = self.origin.failures();
                failures.answered();
                if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                    let Some(visitor_side) = visitor_side else {
                        return say(
                            StatusCode::BAD_GATEWAY,
                            "The device's service changed protocols unasked.",
                        );
                    };
                    let origin_side = hyper::upgrade::on(&mut answer);
                    self.tasks.upgrade(async move {
                        if let (Ok(visitor), Ok(origin)) = (visitor_side.await, origin_side.await) {
                            let (visitor, origin) = (TokioIo::new(visitor), TokioIo::new(origin));
                            // What broke is closed when both are dropped; there is nobody left to tell.
                            let _ = pass::both_ways(visitor, origin).await;
                        }
                    });
                } else {
                    head::strip_hop_by_hop(answer.headers_mut());
                }
                *answer.version_mut() = Version::HTTP_11; // ours, whatever the origin's
                let failures = Arc::clone(failures);
                let noted = move |error| {
                    failures.failed(OriginFailure::BrokeOff);
                    error
                };
                answer.map(|body| body.map_err(noted).boxed())
            }
            Err(failure) => {
                let (status, sentence) = failure.answer();
                say(status, sentence)
            }
        }
    }

    /// The beginning of the origin's answer. It has its time for that from when it has all of the request.
    async fn answer_to(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Incoming>, OriginFailure> {
        let (sent, all_sent) = oneshot::channel();
        let request = request.map(|body| Asked::new(body, sent));
        let late = async {
            let _ = all_sent.await;
            sleep(self.origin.answer_time()).await;
        };
        tokio::select! {
            biased;
            answer = self.client.request(request) => answer.map_err(|error| self.explain(&error)),
            () = late => {
                tracing::warn!(origin = %self.origin.authority(), "the origin gave no answer in time");
                self.origin.failures().failed(OriginFailure::NoAnswer);
                Err(OriginFailure::NoAnswer)
            }
        }
    }

    fn explain(&self, error: &ClientError) -> OriginFailure {
        let cause = root_cause(error);
        tracing::warn!(%cause, origin = %self.origin.authority(), "the origin gave no answer");
        if error.is_connect() {
            // Noted when it was dialled.
            return cause
                .downcast_ref()
                .map_or(OriginFailure::NotConnected, OriginFailure::of_connection);
        }
        self.origin.failures().failed(OriginFailure::BrokeOff);
        OriginFailure::BrokeOff
    }
}

fn say(status: StatusCode, sentence: &'static str) -> Answer {
    let body = Full::from(format!("{sentence}\n")).map_err(|never| match never {});
    let mut answer = Response::new(body.boxed());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn root_cause(error: &ClientError) -> &(dyn StdError + 'static) {
    let mut cause: &(dyn StdError + 'static) = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause
}

/// The tasks of one visitor. They end with the last clone that serves it.
#[derive(Clone)]
struct Tasks {
    connections: TaskTracker,
    upgraded: TaskTracker,
    end: CancellationToken,
    _guard: Arc<DropGuard>,
}

impl Tasks {
    fn new() -> Self {
        let end = CancellationToken::new();
        Self {
            connections: TaskTracker::new(),
            upgraded: TaskTracker::new(),
            _guard: Arc::new(end.clone().drop_guard()),
            end,
        }
    }

    /// Runs the two ends of a changed protocol, which outlive the HTTP connection.
    fn upgrade(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.upgraded.spawn(self.until_end(task));
    }

    fn until_end<F: Future>(&self, task: F) -> impl Future<Output = ()> + use<F> {
        let end = self.end.clone();
        async move {
            tokio::select! {
                biased;
                () = end.cancelled() => {}
                _ = task => {}
            }
        }
    }

    /// Waits until every changed protocol has ended.
    async fn upgraded(&self) {
        self.upgraded.close();
        self.upgraded.wait().await;
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        self.connections.spawn(self.until_end(task));
    }
}
