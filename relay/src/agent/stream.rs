//! A visitor's bytes as one stream to read and write, whichever way they come: through a relay (`carried`), or straight to the
//! device (`direct`).

mod carried;
mod direct;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::tls::Prefixed;

pub(super) use carried::CarriedStream;
use direct::DirectStream;

/// The stream. `tokio_util::either` would be the same, but for writes of several pieces at once.
#[expect(
    clippy::large_enum_variant,
    reason = "most come through a relay, and a box would cost each of them"
)]
pub(super) enum VisitorStream {
    /// On a carrier, and over a raw connection once the relay has asked for one.
    Carried(CarriedStream),
    /// On the visitor's own TCP connection to the device.
    Direct(DirectStream),
}

impl VisitorStream {
    /// The stream of a visitor whose own connection this is.
    pub(super) fn direct(connection: Prefixed) -> Self {
        Self::Direct(DirectStream::new(connection))
    }
}

impl From<CarriedStream> for VisitorStream {
    fn from(carried: CarriedStream) -> Self {
        Self::Carried(carried)
    }
}

impl AsyncRead for VisitorStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Carried(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Direct(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for VisitorStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(octets)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Carried(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Direct(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Carried(stream) => Pin::new(stream).poll_flush(cx),
            Self::Direct(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Carried(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Direct(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
