//! A body of zeros, which costs its sender next to nothing: for uploads, and for what the origin answers.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

const PORTION: usize = 64 * 1024;

static ZEROS: [u8; PORTION] = [0; PORTION];

/// So many zeros.
#[derive(Debug)]
pub(crate) struct Zeros {
    left: u64,
    sent: Option<Arc<AtomicU64>>,
}

impl Zeros {
    pub(crate) fn new(length: u64) -> Self {
        Self {
            left: length,
            sent: None,
        }
    }

    /// The same, which counts in `sent` what has been taken of it.
    pub(crate) fn counted(length: u64, sent: Arc<AtomicU64>) -> Self {
        Self {
            left: length,
            sent: Some(sent),
        }
    }
}

impl Body for Zeros {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let portion = usize::try_from(self.left).map_or(PORTION, |left| left.min(PORTION));
        self.left -= portion as u64;
        if let Some(sent) = &self.sent {
            sent.fetch_add(portion as u64, Relaxed);
        }
        let octets = Bytes::from_static(&ZEROS[..portion]);
        Poll::Ready(Some(Ok(Frame::data(octets))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
