//! What hyper's client is given of ours: bodies of requests, and connections to the origin.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::Uri;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::rt::ReadBufCursor;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use crate::agent::origin::{Origin, OriginStream};

/// A request's body on its way to the origin, whose client drops it when all of it has been sent.
#[derive(Debug)]
pub(super) struct Asked {
    body: Incoming,
    /// Its other end hears of the drop.
    _sent: oneshot::Sender<Infallible>,
}

impl Asked {
    pub(super) fn new(body: Incoming, sent: oneshot::Sender<Infallible>) -> Self {
        Self { body, _sent: sent }
    }
}

impl Body for Asked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
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
