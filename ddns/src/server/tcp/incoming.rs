//! What a client sends, cut into messages.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::{Instant, timeout_at};

use super::{End, IDLE, LENGTH, MAX_MESSAGE, WHOLE_MESSAGE};

/// What has come of the stream and is not answered yet.
pub(super) struct Incoming {
    octets: Box<[u8]>,
    start: usize,
    end: usize,
    /// When the message that has begun must be whole.
    deadline: Option<Instant>,
}

impl Incoming {
    pub(super) fn new() -> Self {
        Self {
            octets: vec![0; LENGTH + MAX_MESSAGE].into(),
            start: 0,
            end: 0,
            deadline: None,
        }
    }

    /// The length of the message that begins, if that much is there.
    fn length(&self) -> Option<usize> {
        let length = self.octets[self.start..self.end].first_chunk::<LENGTH>()?;
        Some(u16::from_be_bytes(*length).into())
    }

    pub(super) fn has_whole_message(&self) -> bool {
        self.length()
            .is_some_and(|length| self.start + LENGTH + length <= self.end)
    }

    pub(super) fn is_too_long(&self) -> bool {
        self.length().is_some_and(|length| length > MAX_MESSAGE)
    }

    pub(super) fn next_message(&mut self) -> Option<&[u8]> {
        if !self.has_whole_message() {
            return None;
        }
        let begin = self.start + LENGTH;
        let end = begin + self.length()?;
        self.start = end;
        self.deadline = None;
        Some(&self.octets[begin..end])
    }

    /// Waits for more; there is room, since no whole message is there and none is too long.
    pub(super) async fn receive<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
    ) -> Result<(), End> {
        self.octets.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;

        let now = Instant::now();
        let (deadline, late) = if self.end == 0 {
            (now + IDLE, End::Idle)
        } else {
            let deadline = *self.deadline.get_or_insert(now + WHOLE_MESSAGE);
            (deadline, End::SlowSender)
        };
        match timeout_at(deadline, stream.read(&mut self.octets[self.end..])).await {
            Err(_) => Err(late),
            // TLS says so when the client has ended without its last word, as many do; lengths say what is whole here.
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Err(End::Closed),
            Ok(Err(_)) => Err(End::Broken),
            Ok(Ok(0)) => Err(End::Closed),
            Ok(Ok(len)) => {
                self.end += len;
                Ok(())
            }
        }
    }
}
