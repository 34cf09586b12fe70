//! What hyper's client is given of ours: bodies of requests, and connections to the origin.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::Uri;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::rt::ReadBufCursor;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use super::patience::{Credit, UnderWay};
use crate::agent::origin::{Origin, OriginStream};

/// A request's body on its way to the origin, whose client drops it when all of it has been sent.
#[derive(Debug)]
pub(super) struct Asked {
    body: Incoming,
    /// None if there is nothing to wait for.
    credit: Option<Credit>,
    /// Its other end hears of the drop.
    _sent: oneshot::Sender<Infallible>,
}

/// Why a request's body does not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskedError {
    #[error(transparent)]
    BrokeOff(#[from] hyper::Error),
    #[error("the visitor does not send the request's body")]
    TooSlow,
}

impl Asked {
    pub(super) fn new(
        body: Incoming,
        under_way: &Arc<UnderWay>,
        sent: oneshot::Sender<Infallible>,
    ) -> Self {
        let may_take = !body.is_end_stream();
        Self {
            body,
            credit: may_take.then(|| Credit::new(Arc::clone(under_way))),
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

/// Dials the origin for one visitor, as the HTTP client asks for connections.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) origin: Arc<Origin>,
    pub(super) visitor: SocketAddr,
    pub(super) front: SocketAddr,
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
            origin,
            visitor,
            front,
        } = self.clone();
        Box::pin(async move {
            let stream = origin.connect(visitor, front).await?;
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
