//! Frames on a stream: the control stream of a tunnel, and the first frame of a carrier.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::timeout;
use wire::Frame;
use wire::frame::{Decoded, FrameError, LENGTH_OCTETS, MAX_FRAME};

/// A control stream that takes no frame for this long is dead: it carries a few frames a minute.
const WRITE_TIME: Duration = Duration::from_secs(5);

/// How many octets are read at once: most frames are shorter.
const PORTION: usize = 256;

/// Why a stream gave no frame.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// The stream ended in order.
    #[error("the stream ended")]
    Ended,
    /// The connection under it failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer sent something that is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Frames in both directions.
pub(crate) struct ControlStream {
    stream: Box<dyn Duplex>,
    /// What has come and is no whole frame yet.
    buffer: BytesMut,
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl ControlStream {
    pub(crate) fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            buffer: BytesMut::new(),
        }
    }

    /// The next frame that this version knows. Nothing is lost when the future is dropped before it is ready.
    pub(crate) async fn next(&mut self) -> Result<Frame, ControlError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The same, polled. At rest it holds no buffer.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, ControlError>> {
        loop {
            match Frame::decode(&mut self.buffer)? {
                Decoded::Frame(frame) => return Poll::Ready(Ok(frame)),
                Decoded::Unknown => continue,
                Decoded::NeedMore if self.buffer.is_empty() => self.buffer = BytesMut::new(),
                Decoded::NeedMore => {}
            }
            let mut portion = [MaybeUninit::uninit(); PORTION];
            let mut portion = ReadBuf::uninit(&mut portion);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut portion))?;
            if portion.filled().is_empty() {
                return Poll::Ready(Err(ControlError::Ended));
            }
            self.buffer.extend_from_slice(portion.filled());
        }
    }

    /// Sends a frame, or fails within [`WRITE_TIME`].
    pub(crate) async fn send(&mut self, frame: &Frame) -> Result<(), ControlError> {
        let octets = frame.encode()?;
        let sent = timeout(WRITE_TIME, async {
            self.stream.write_all(&octets).await?;
            self.stream.flush().await
        });
        sent.await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(())
    }

    /// Ends the stream in order; over TLS, the connection with it.
    pub(crate) async fn finish(&mut self) {
        // The tunnel is over whether or not the peer still hears it.
        let _ = timeout(WRITE_TIME, self.stream.shutdown()).await;
    }
}

impl fmt::Debug for ControlStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlStream").finish_non_exhaustive()
    }
}

/// Reads the one frame in front of a carrier's bytes, and not an octet more.
pub(crate) async fn read_first(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Frame, ControlError> {
    let mut buffer = BytesMut::zeroed(LENGTH_OCTETS);
    stream.read_exact(&mut buffer).await?;
    let length = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length).into());
    }
    buffer.resize(LENGTH_OCTETS + length, 0);
    stream.read_exact(&mut buffer[LENGTH_OCTETS..]).await?;
    match Frame::decode(&mut buffer)? {
        Decoded::Frame(frame) => Ok(frame),
        Decoded::Unknown | Decoded::NeedMore => Err(FrameError::BadField("kind").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_bytes_behind_the_first_frame_are_left_alone() {
        let frame = Frame::Ping { sequence: 7 };
        let octets = [&frame.encode().unwrap()[..], b"visitor"].concat();
        let mut stream = &octets[..];
        assert_eq!(read_first(&mut stream).await.unwrap(), frame);
        assert_eq!(stream, b"visitor");
    }

    #[tokio::test]
    async fn frames_pass_and_the_end_is_told() {
        let (here, there) = tokio::io::duplex(64);
        let mut writer = ControlStream::new(here);
        let mut reader = ControlStream::new(there);
        for sequence in 0..3 {
            writer.send(&Frame::Ping { sequence }).await.unwrap();
        }
        writer.finish().await;
        drop(writer);
        for sequence in 0..3 {
            assert_eq!(reader.next().await.unwrap(), Frame::Ping { sequence });
        }
        assert!(matches!(reader.next().await, Err(ControlError::Ended)));
    }

    #[tokio::test]
    async fn a_frame_longer_than_any_is_refused_before_it_is_read() {
        let mut stream = &[0xff, 0xff][..];
        assert!(matches!(
            read_first(&mut stream).await,
            Err(ControlError::Frame(FrameError::TooLong(65535)))
        ));
    }
}
