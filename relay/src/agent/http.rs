//! HTTP between visitor and origin. Each request is routed by the host it names, loses what only concerns this hop, and
//! tells the origin who asks. Bodies pass as they come.

mod client;
mod connection;
mod frames;
mod head;
mod http3;
mod patience;
mod way;

use std::convert::Infallible;
use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderValue};
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::client::legacy::Error as ClientError;
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use wire::frame::Open;

use crate::tls;

use super::http3::{Http3, no_offer};
use super::log_rate::Line;
use super::origin_failure::OriginFailure;
use super::pass;
use super::services::{Hosts, Service};
use super::stream::VisitorStream;
use client::{Asked, Clients, OriginClient};
pub(super) use patience::Patience;
use patience::{Asks, Requests, UnderWay};

pub(super) use http3::serve as serve_http3;

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

/// The body of a visitor's request.
#[derive(Debug)]
enum VisitorBody {
    /// Over HTTP/1.1 or HTTP/2.
    Hyper(Incoming),
    Http3(Box<http3::Http3Body>),
}

/// Why it did not come to its end.
#[derive(Debug, thiserror::Error)]
enum BrokeOff {
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    #[error("{0:?}")]
    Http3(h3::error::StreamError),
}

impl Body for VisitorBody {
    type Data = Bytes;
    type Error = BrokeOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        match &mut *self {
            Self::Hyper(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(BrokeOff::Hyper)))
            }
            Self::Http3(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(BrokeOff::Http3)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Hyper(body) => body.is_end_stream(),
            Self::Http3(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hyper(body) => body.size_hint(),
            Self::Http3(body) => body.size_hint(),
        }
    }
}

/// Serves one visitor's requests until it leaves, each by the service of the host it names. Once `moving` is cancelled it is asked to
/// come anew for its next one. Where its service has it, it hears of HTTP/3 as it is at its tunnel.
pub(super) async fn serve(
    visitor: TlsStream<VisitorStream>,
    open: &Open,
    hosts: &Arc<Hosts>,
    patience: &Arc<Patience>,
    moving: CancellationToken,
    http3: Option<&Arc<Http3>>,
) -> io::Result<()> {
    let http2 = visitor.get_ref().1.alpn_protocol() == Some(tls::HTTP2);
    let is_direct = matches!(visitor.get_ref().0, VisitorStream::Direct(_));
    let tasks = Tasks::new();
    let clients = Clients::new(open, Arc::clone(hosts), tasks.clone());
    let requests = Requests::new(open.visitor.ip(), patience);
    let service = service_fn(|request: Request<Incoming>| {
        let under_way = requests.begin();
        let request = request.map(VisitorBody::Hyper);
        let told = way::answer(&request, is_direct, hosts);
        let routed = route(&request, &open.name, hosts);
        let offer = routed.as_ref().ok().and_then(|(host, service)| {
            let is_here = service.origin.has_http3_here();
            is_here.then(|| http3.map_or_else(no_offer, |http3| http3.offer(host)))
        });
        let routed = routed.map(|(host, service)| (host, clients.exchange(service)));
        // HTTP/2 says so for the whole connection.
        let moving = (!http2).then(|| moving.clone());
        async move {
            let mut answer = match (told, routed) {
                (Some(told), _) => told,
                (None, Ok((host, exchange))) => exchange.forward(request, host, under_way).await,
                (None, Err(Refusal(status, sentence))) => say(status, sentence),
            };
            if let Some(offer) = offer {
                answer.headers_mut().insert(header::ALT_SVC, offer);
            }
            if moving.is_some_and(|moving| moving.is_cancelled()) {
                close_after(&mut answer);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let served = if http2 {
        connection::http2(visitor, service, tasks.clone(), &requests, &moving).await
    } else {
        connection::http1(visitor, service, &requests, &moving).await
    };
    tasks.upgraded().await;
    served
}

/// The answer to one request of a visitor who asked for the host `opened` when it came.
async fn answer(
    request: Request<VisitorBody>,
    opened: &str,
    hosts: &Hosts,
    clients: &Clients,
    under_way: Arc<UnderWay>,
) -> Answer {
    match route(&request, opened, hosts) {
        Ok((host, service)) => {
            let exchange = clients.exchange(service);
            exchange.forward(request, host, under_way).await
        }
        Err(Refusal(status, sentence)) => say(status, sentence),
    }
}

/// The visitor is not to ask again on this connection, unless it has changed its protocol (RFC 9112 section 9.6).
fn close_after(answer: &mut Answer) {
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let close = HeaderValue::from_static("close");
        answer.headers_mut().insert(header::CONNECTION, close);
    }
}

/// A request that the origin does not answer: the status and the sentence that do.
struct Refusal(StatusCode, &'static str);

const NO_HOST: Refusal = Refusal(
    StatusCode::BAD_REQUEST,
    "The request does not name one host.",
);

/// RFC 9110 section 15.5.20: a browser that shares a connection between names tries again on one of its own.
const MISDIRECTED: Refusal = Refusal(
    StatusCode::MISDIRECTED_REQUEST,
    "This host is not served on this connection.",
);

/// RFC 9110 section 15.5.9.
const TOO_SLOW: Refusal = Refusal(
    StatusCode::REQUEST_TIMEOUT,
    "The request's body did not come in time.",
);

impl From<OriginFailure> for Refusal {
    fn from(failure: OriginFailure) -> Self {
        let (status, sentence) = failure.answer();
        Self(status, sentence)
    }
}

/// The host that the request is for, with its service, or the answer for one that is not served here. `opened` is the name that the
/// visitor asked for when it came.
fn route(
    request: &Request<VisitorBody>,
    opened: &str,
    hosts: &Hosts,
) -> Result<(String, Arc<Service>), Refusal> {
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
    match hosts.service(bare) {
        Some(service) if service.origin.is_http() => Ok((host.to_owned(), service)),
        _ => {
            hosts.refused.misdirected();
            Err(MISDIRECTED)
        }
    }
}

/// What one visitor's requests to one service share.
struct Exchange {
    client: OriginClient,
    service: Arc<Service>,
    visitor: SocketAddr,
    tasks: Tasks,
}

impl Exchange {
    async fn forward(
        &self,
        mut request: Request<VisitorBody>,
        host: String,
        under_way: Arc<UnderWay>,
    ) -> Answer {
        if let Some(later) = self.service.ill_for() {
            self.service.origin.failures().failed(OriginFailure::Ill);
            return say_later(later);
        }
        let shares = request.version() >= Version::HTTP_2; // one connection with others
        let to_http2 = self.service.origin.scheme().is_http2();
        let upgrade = head::take_upgrade(&mut request).filter(|_| !to_http2);
        let wants_upgrade = upgrade.is_some();
        let visitor_side = wants_upgrade.then(|| hyper::upgrade::on(&mut request));
        let prepared = head::for_origin(
            &mut request,
            &host,
            upgrade,
            &self.service.origin,
            self.visitor,
        );
        if prepared.is_none() {
            return say(
                StatusCode::BAD_REQUEST,
                "The request target makes no sense.",
            );
        }
        match self.answer_to(request, &under_way).await {
            Ok(mut answer) => {
                let failures = self.service.origin.failures();
                failures.answered();
                if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                    let Some(visitor_side) = visitor_side else {
                        return say(
                            StatusCode::BAD_GATEWAY,
                            "The device's service changed protocols unasked.",
                        );
                    };
                    under_way.changes_protocol();
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
                let answer = answer.map(|body| under_way.offered(body));
                let failures = Arc::clone(failures);
                let noted = move |error| {
                    if !under_way.was_too_slow() {
                        failures.failed(OriginFailure::BrokeOff);
                    }
                    error
                };
                answer.map(|body| body.map_err(noted).boxed())
            }
            Err(Refusal(status, sentence)) => {
                let mut answer = say(status, sentence);
                if under_way.was_too_slow() && !shares {
                    close_after(&mut answer);
                }
                answer
            }
        }
    }

    /// The beginning of the origin's answer. It has its time for that from when it has all of the request.
    async fn answer_to(
        &self,
        request: Request<VisitorBody>,
        under_way: &Arc<UnderWay>,
    ) -> Result<Response<Incoming>, Refusal> {
        let (sent, all_sent) = oneshot::channel();
        let asks = match self.service.origin.scheme().is_http2() && head::is_call(&request) {
            true => Asks::ForACall,
            false => Asks::Once,
        };
        let request = request.map(|body| Asked::new(body, under_way, asks, sent));
        let late = async {
            let _ = all_sent.await;
            sleep(self.service.origin.answer_time()).await;
        };
        tokio::select! {
            biased;
            answer = self.client.request(request) => answer.map_err(|error| match under_way.was_too_slow() {
                true => TOO_SLOW,
                false => self.explain(&error).into(),
            }),
            () = late => {
                let origin = &self.service.origin;
                if let Some(Line { left_out }) = origin.failures().line(OriginFailure::NoAnswer) {
                    let origin = origin.authority();
                    tracing::warn!(%origin, left_out, "the origin gave no answer in time");
                }
                origin.failures().failed(OriginFailure::NoAnswer);
                Err(OriginFailure::NoAnswer.into())
            }
        }
    }

    fn explain(&self, error: &ClientError) -> OriginFailure {
        let cause = root_cause(error);
        let origin = &self.service.origin;
        let failure = match error.is_connect() {
            // Noted when it was dialled.
            true => cause
                .downcast_ref()
                .map_or(OriginFailure::NotConnected, OriginFailure::of_connection),
            false => {
                origin.failures().failed(OriginFailure::BrokeOff);
                OriginFailure::BrokeOff
            }
        };
        if let Some(Line { left_out }) = origin.failures().line(failure) {
            let origin = origin.authority();
            tracing::warn!(%cause, %origin, left_out, "the origin gave no answer");
        }
        failure
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

/// The service is not well, and is asked again `later` (RFC 9110 section 10.2.3).
fn say_later(later: Duration) -> Answer {
    let (status, sentence) = OriginFailure::Ill.answer();
    let mut answer = say(status, sentence);
    let later = HeaderValue::from(later.as_secs().max(1));
    answer.headers_mut().insert(header::RETRY_AFTER, later);
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

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.connections.spawn(self.until_end(task));
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
