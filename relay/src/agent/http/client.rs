//! The HTTP clients of one visitor, one to each service that it asks, and what they are given of ours: bodies of requests, and
//! connections to the origin.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::Uri;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::rt::ReadBufCursor;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;
use wire::frame::Open;

use super::connection::MAX_HEAD;
use super::patience::{Asks, Credit, UnderWay};
use super::{BrokeOff, Exchange, Tasks, VisitorBody};
use crate::agent::origin::OriginStream;
use crate::agent::services::{Hosts, Service};

/// A request's body on its way to the origin, whose client drops it when all of it has been sent.
#[derive(Debug)]
pub(super) struct Asked {
    body: VisitorBody,
    /// None if there is nothing to wait for.
    credit: Option<Credit>,
    /// Its other end hears of the drop.
    _sent: oneshot::Sender<Infallible>,
}

/// Why a request's body does not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskedError {
    #[error(transparent)]
    BrokeOff(#[from] BrokeOff),
    #[error("the visitor does not send the request's body")]
    TooSlow,
}

impl Asked {
    pub(super) fn new(
        body: VisitorBody,
        under_way: &Arc<UnderWay>,
        asks: Asks,
        sent: oneshot::Sender<Infallible>,
    ) -> Self {
        let may_take = !body.is_end_stream();
        Self {
            body,
            credit: may_take.then(|| Credit::new(Arc::clone(under_way), asks)),
            _sent: sent,
        }
    }
}

impl Body for Asked {
    type Data = Bytes;
    type Error = AskedError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AskedError>>> {
        let Self { body, credit, .. } = &mut *self;
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(frame) => {
                if let (Some(Ok(frame)), Some(credit)) = (&frame, credit) {
                    credit.earn(frame.data_ref().map_or(0, Bytes::len));
                }
                Poll::Ready(frame.map(|frame| Ok(frame?)))
            }
            Poll::Pending => {
                if let Some(credit) = credit {
                    ready!(credit.poll_used_up(cx));
                    return Poll::Ready(Some(Err(AskedError::TooSlow)));
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

pub(super) type OriginClient = Client<Connector, Asked>;

/// How long a connection to the origin is kept for the visitor's next request. Most servers close theirs after 5 s or more.
const ORIGIN_IDLE: Duration = Duration::from_secs(4);

/// What an origin may send over HTTP/2 before the visitor has taken it: for one answer, and for all of them.
const ANSWER_WINDOW: u32 = 1024 * 1024;
const ANSWERS_WINDOW: u32 = 4 * 1024 * 1024;

/// What is held of one request that such an origin has not taken yet.
const REQUEST_BUFFER: usize = 256 * 1024;

/// One visitor's clients. Their connections to the origins are this visitor's alone, so one visitor's request can never end in
/// another's.
pub(super) struct Clients {
    visitor: SocketAddr,
    front: SocketAddr,
    hosts: Arc<Hosts>,
    tasks: Tasks,
    /// Mostly one.
    clients: Mutex<Vec<(Arc<Service>, OriginClient)>>,
}

impl Clients {
    pub(super) fn new(open: &Open, hosts: Arc<Hosts>, tasks: Tasks) -> Self {
        Self {
            visitor: open.visitor,
            front: open.front,
            hosts,
            tasks,
            clients: Mutex::default(),
        }
    }

    /// What it takes to ask `service`.
    pub(super) fn exchange(&self, service: Arc<Service>) -> Exchange {
        Exchange {
            client: self.client(&service),
            service,
            visitor: self.visitor,
            tasks: self.tasks.clone(),
        }
    }

    fn client(&self, service: &Arc<Service>) -> OriginClient {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let known = clients.iter().find(|(of, _)| Arc::ptr_eq(of, service));
        if let Some((_, client)) = known {
            return client.clone();
        }
        // What has been replaced is asked nothing more.
        clients.retain(|(of, _)| self.hosts.services.holds(of));
        let connector = Connector {
            service: Arc::clone(service),
            visitor: self.visitor,
            front: self.front,
        };
        let client: OriginClient = Client::builder(self.tasks.clone())
            .pool_idle_timeout(ORIGIN_IDLE)
            .pool_timer(TokioTimer::new())
            .http1_max_buf_size(MAX_HEAD as usize)
            .http2_only(service.origin.scheme().is_http2())
            .http2_max_header_list_size(MAX_HEAD)
            .http2_initial_stream_window_size(ANSWER_WINDOW)
            .http2_initial_connection_window_size(ANSWERS_WINDOW)
            .http2_max_send_buf_size(REQUEST_BUFFER)
            .build(connector);
        clients.reserve_exact(1); // room for more is for hardly anybody
        clients.push((Arc::clone(service), client.clone()));
        client
    }
}

/// Dials the origin for one visitor, as the HTTP client asks for connections.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    service: Arc<Service>,
    visitor: SocketAddr,
    front: SocketAddr,
}

impl tower::Service<Uri> for Connector {
    type Response = OriginConnection;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<OriginConnection>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _origin: Uri) -> Self::Future {
        let Self {
            service,
            visitor,
            front,
        } = self.clone();
        Box::pin(async move {
            let stream = service.origin.connect(visitor, front).await?;
            Ok(OriginConnection(TokioIo::new(stream)))
        })
    }
}

/// A connection to the origin in the form the HTTP client wants.
#[derive(Debug)]
pub(super) struct OriginConnection(TokioIo<OriginStream>);

impl Connection for OriginConnection {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for OriginConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for OriginConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }
}
