//! A visitor's connection over HTTP/3: the same as the [others](super::connection), but that each request is a stream of its own, whose
//! head and body are waited for by themselves.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf as _;
use h3::error::{Code, StreamError};
use h3::server::{RequestResolver, RequestStream};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use wire::frame::Open;

use crate::quic::{self, Connection, Stopped};

use super::client::Clients;
use super::connection::MAX_HEAD;
use super::patience::{HEAD_TIME, Patience, Requests};
use super::{Answer, Tasks, VisitorBody, answer};
use crate::agent::services::Hosts;

type Both = <quic::Http3 as h3::quic::OpenStreams<Bytes>>::BidiStream;
type Sent = <Both as h3::quic::BidiStream<Bytes>>::SendStream;
type Received = <Both as h3::quic::BidiStream<Bytes>>::RecvStream;

/// How long a visitor may take to say what only its QUIC has to, or to have what it was answered: some round trips.
const SETTLED: Duration = Duration::from_secs(5);

/// So many requests may begin and come to nothing before a head is whole: for each the library remembers a little.
const MOST_UNASKED: usize = 1000;

/// Serves a visitor over HTTP/3 until it leaves or is not waited for any longer. It has come as `open` says, and may move: `now` tells from
/// where it speaks, if that is certain.
pub(in crate::agent) async fn serve(
    connection: &Connection,
    open: &Open,
    now: impl Fn() -> Option<Arc<Open>>,
    hosts: &Arc<Hosts>,
    patience: &Arc<Patience>,
    moving: &CancellationToken,
) -> io::Result<()> {
    let transport = quic::Http3::new(connection, MAX_HEAD.into());
    let stopped = transport.stopped();
    let requests = Requests::new(open.visitor.ip(), patience);
    let mut builder = h3::server::builder();
    builder
        .max_field_section_size(MAX_HEAD.into())
        .send_grease(false);
    // It takes streams that the visitor may not grant.
    let begun = timeout(SETTLED, builder.build::<_, Bytes>(transport)).await?;
    let mut http = begun.map_err(io::Error::other)?;
    let tasks = Tasks::new();
    let clients = |open: &Open| Arc::new(Clients::new(open, Arc::clone(hosts), tasks.clone()));
    let mut here = (open.visitor, clients(open));
    let visit = Arc::new(Visit {
        hosts: Arc::clone(hosts),
        name: open.name.clone(),
        requests: Arc::clone(&requests),
        stopped,
    });
    let mut unasked = 0;
    let mut silence = pin!(requests.silence());
    let mut untaken = pin!(requests.untaken());
    let mut has_heard = false;
    loop {
        tokio::select! {
            biased;
            () = &mut untaken => return Err(io::ErrorKind::TimedOut.into()),
            () = &mut silence => return Err(io::ErrorKind::TimedOut.into()),
            () = requests.head_is_late() => return Err(io::ErrorKind::TimedOut.into()),
            () = moving.cancelled(), if !has_heard => {
                has_heard = true;
                let told = timeout(SETTLED, http.shutdown(0)).await?; // RFC 9114 section 5.2
                told.map_err(io::Error::other)?;
            }
            came = http.accept() => match came {
                Ok(Some(request)) => {
                    unasked += 1;
                    if unasked - requests.begun().min(unasked) > MOST_UNASKED {
                        return Err(io::Error::other("too many requests come to nothing"));
                    }
                    // The connections that an origin has heard of before are not for who comes from elsewhere.
                    if let Some(open) = now().filter(|open| open.visitor != here.0) {
                        here = (open.visitor, clients(&open));
                    }
                    let (visit, clients) = (Arc::clone(&visit), Arc::clone(&here.1));
                    tasks.spawn(async move { visit.serve(request, &clients).await });
                }
                Ok(None) => break,
                Err(error) if error.is_h3_no_error() => break,
                Err(error) => return Err(io::Error::other(error)),
            },
        }
    }
    Ok(())
}

/// What the requests of one visitor share.
struct Visit {
    hosts: Arc<Hosts>,
    name: String,
    requests: Arc<Requests>,
    stopped: Stopped,
}

impl Visit {
    async fn serve(&self, request: RequestResolver<quic::Http3, Bytes>, clients: &Clients) {
        // Whoever breaks off, or says what makes no sense, has been told so.
        let _ = self.exchange(request, clients).await;
    }

    async fn exchange(
        &self,
        request: RequestResolver<quic::Http3, Bytes>,
        clients: &Clients,
    ) -> Result<(), StreamError> {
        let head = async {
            let (request, stream) = request.resolve_request().await?;
            let (sent, received) = stream.split();
            let mut body = Http3Body::new(received);
            if rarely_has_a_body(&request) {
                body.look().await?;
            }
            Ok::<_, StreamError>((request, sent, body))
        };
        let Ok(head) = timeout(HEAD_TIME, head).await else {
            self.requests.head_was_late();
            return Ok(());
        };
        let (request, mut sent, body) = head?;
        if !says_one_length(&request) {
            sent.stop_stream(Code::H3_MESSAGE_ERROR);
            return Ok(());
        }
        let has_body = request.method() != Method::HEAD;
        let request = request.map(|()| VisitorBody::Http3(Box::new(body)));
        let under_way = self.requests.begin();
        let id = sent.send_id();
        let answered = async {
            let answer = answer(request, &self.name, &self.hosts, clients, under_way);
            self.send(&mut sent, answer.await, has_body).await
        };
        tokio::select! {
            biased;
            answered = answered => answered?,
            () = self.stopped.on(id) => {}
        }
        // As long as it counts as under way nobody closes the connection, and with it would go what has not reached the visitor.
        let _ = timeout(SETTLED, self.stopped.on(id)).await;
        Ok(())
    }

    async fn send(
        &self,
        sent: &mut RequestStream<Sent, Bytes>,
        answer: Answer,
        has_body: bool,
    ) -> Result<(), StreamError> {
        let (mut head, mut body) = answer.into_parts();
        // RFC 9110 section 8.6.
        let may_have_length = has_body
            && head.status != StatusCode::NO_CONTENT
            && head.status != StatusCode::NOT_MODIFIED;
        if may_have_length
            && !head.headers.contains_key(header::CONTENT_LENGTH)
            && let Some(length) = body.size_hint().exact()
        {
            let length = HeaderValue::from(length);
            head.headers.insert(header::CONTENT_LENGTH, length);
        }
        sent.send_response(Response::from_parts(head, ())).await?;
        while has_body && let Some(frame) = body.frame().await {
            // What the origin has broken off must not look whole.
            let Ok(frame) = frame else {
                sent.stop_stream(Code::H3_INTERNAL_ERROR);
                return Ok(());
            };
            match frame.into_data() {
                Ok(data) => {
                    let length = data.len();
                    sent.send_data(data).await?;
                    self.requests.sent(length);
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        sent.send_trailers(trailers).await?;
                    }
                }
            }
        }
        sent.finish().await
    }
}

/// Whether a request says at most once how long its body is, and in digits (RFC 9110 section 8.6): no service is to choose.
fn says_one_length(request: &Request<()>) -> bool {
    let mut lengths = request.headers().get_all(header::CONTENT_LENGTH).iter();
    let is_number = |length: &HeaderValue| {
        !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit)
    };
    lengths.next().is_none_or(is_number) && lengths.next().is_none()
}

/// Whether a request that does not say how long its body is mostly has none. Over HTTP/3 that is only known at its end, which comes with
/// the head or right behind it.
fn rarely_has_a_body(request: &Request<()>) -> bool {
    let has_one = [Method::POST, Method::PUT, Method::PATCH];
    !request.headers().contains_key(header::CONTENT_LENGTH) && !has_one.contains(request.method())
}

/// The body of a request.
pub(super) struct Http3Body {
    stream: RequestStream<Received, Bytes>,
    /// What has come already.
    first: Option<Bytes>,
    at: At,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Data,
    Trailers,
    End,
}

impl Http3Body {
    fn new(stream: RequestStream<Received, Bytes>) -> Self {
        Self {
            stream,
            first: None,
            at: At::Data,
        }
    }

    /// Waits for the first of it, or its end.
    async fn look(&mut self) -> Result<(), StreamError> {
        match self.stream.recv_data().await? {
            Some(mut data) => self.first = Some(data.copy_to_bytes(data.remaining())),
            None => self.at = At::End,
        }
        Ok(())
    }
}

impl Body for Http3Body {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let Self { stream, first, at } = &mut *self;
        if let Some(first) = first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if *at == At::Data {
            match ready!(stream.poll_recv_data(cx)) {
                Ok(Some(mut data)) => {
                    let data = data.copy_to_bytes(data.remaining());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(None) => *at = At::Trailers,
                Err(error) => {
                    *at = At::End;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        if *at == At::Trailers {
            let trailers = ready!(stream.poll_recv_trailers(cx)).transpose();
            *at = At::End;
            return Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)));
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.at == At::End && self.first.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.is_end_stream() {
            true => SizeHint::with_exact(0),
            false => SizeHint::default(),
        }
    }
}

impl std::fmt::Debug for Http3Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http3Body").finish_non_exhaustive()
    }
}
