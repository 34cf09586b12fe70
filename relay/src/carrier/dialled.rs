//! What a tls carrier runs on: the connection that the agent has dialled, or what is inside that, passed on by the relay process at
//! which the connection arrived.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

use crate::congestion;
use crate::held;
use crate::tls::TlsStream;
use crate::workers;

/// The stream under a tls carrier.
#[derive(Debug)]
pub(crate) enum Dialled {
    /// TLS, which ends here.
    Here(Box<TlsStream>),
    /// TLS ends at another process.
    PassedOn {
        /// What is inside.
        stream: UnixStream,
        /// Whose event queue it is in.
        worker: Option<usize>,
    },
}

impl From<TlsStream> for Dialled {
    fn from(stream: TlsStream) -> Self {
        Self::Here(Box::new(stream))
    }
}

impl Dialled {
    /// What another process passes on, in the event queue of the calling worker.
    ///
    /// # Errors
    /// If it is no stream, or the queue takes no more.
    pub(crate) fn passed_on(stream: std::os::unix::net::UnixStream) -> io::Result<Self> {
        stream.peer_addr()?;
        stream.set_nonblocking(true)?;
        Ok(Self::PassedOn {
            stream: UnixStream::from_std(stream)?,
            worker: workers::here(),
        })
    }

    /// Makes it one of the calling worker, so that it is woken there.
    pub(crate) fn move_here(self) -> io::Result<Self> {
        match self {
            Self::Here(mut stream) => {
                stream.get_mut().0.move_here()?;
                Ok(Self::Here(stream))
            }
            Self::PassedOn { stream, worker } if worker == workers::here() => {
                Ok(Self::PassedOn { stream, worker })
            }
            Self::PassedOn { stream, .. } => Self::passed_on(stream.into_std()?),
        }
    }

    /// Sets what a carrier's connection is to have.
    pub(super) fn prepare(&self) {
        if let Self::Here(stream) = self {
            prepare(stream);
        }
    }
}

/// Sets what a carrier's connection is to have, wherever its TLS ends.
pub(crate) fn prepare(stream: &TlsStream) {
    let tcp = stream.get_ref().0.tcp();
    congestion::choose(tcp);
    held::limit_unsent(tcp, held::UNSENT);
}

impl AsyncRead for Dialled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Here(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::PassedOn { stream, .. } => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Dialled {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Here(stream) => Pin::new(stream).poll_write(cx, octets),
            Self::PassedOn { stream, .. } => Pin::new(stream).poll_write(cx, octets),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Here(stream) => Pin::new(stream).poll_flush(cx),
            Self::PassedOn { stream, .. } => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Here(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::PassedOn { stream, .. } => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
