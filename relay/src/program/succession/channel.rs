//! The channel between two processes of this program that follow each other: whole messages, with descriptors.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_setfd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::local;
use crate::sys;

/// The longest message, in octets.
pub(super) const MESSAGE: usize = 64 * 1024;

/// One end.
#[derive(Debug)]
pub(super) struct Channel(AsyncFd<OwnedFd>);

/// A message as it came.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) octets: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// The number under which a program that is started now finds `descriptor`.
pub(super) fn keep_over_exec(descriptor: &OwnedFd) -> io::Result<RawFd> {
    fcntl_setfd(descriptor, FdFlags::empty())?;
    Ok(descriptor.as_raw_fd())
}

impl Channel {
    /// Takes an end, on the runtime that calls.
    pub(super) fn new(end: OwnedFd) -> io::Result<Self> {
        Ok(Self(sys::queue(end)?))
    }

    /// Sends a message.
    ///
    /// # Errors
    /// If the other end is gone, or the message has too much.
    pub(super) async fn send(
        &self,
        octets: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        if octets.len() > MESSAGE {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let send = |end: &OwnedFd| local::send(end, &[IoSlice::new(octets)], descriptors);
        self.0.async_io(Interest::WRITABLE, send).await
    }

    /// The next message; `None` when the other end is gone.
    ///
    /// # Errors
    /// If what came is longer than any message.
    pub(super) async fn receive(&self) -> io::Result<Option<Received>> {
        self.0.async_io(Interest::READABLE, receive_from).await
    }
}

fn receive_from(end: &OwnedFd) -> io::Result<Option<Received>> {
    let mut octets = vec![0; MESSAGE];
    let received = local::receive(end, &mut octets)?;
    if received.is_cut || received.lacks_descriptors {
        return Err(io::Error::other("a message that was cut"));
    }
    if received.length == 0 && received.descriptors.is_empty() {
        return Ok(None);
    }
    octets.truncate(received.length);
    Ok(Some(Received {
        octets,
        descriptors: received.descriptors,
    }))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::os::fd::AsFd;

    use super::*;
    use crate::local::{DESCRIPTORS, pair};

    #[tokio::test]
    async fn descriptors_arrive_with_their_message_and_in_order() {
        let (one, other) = pair().unwrap();
        let (one, other) = (Channel::new(one).unwrap(), Channel::new(other).unwrap());
        let listeners = [(); 3].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let borrowed: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
        one.send(b"three", &borrowed).await.unwrap();
        one.send(b"none", &[]).await.unwrap();
        let received = other.receive().await.unwrap().unwrap();
        assert_eq!(received.octets, b"three");
        let addresses: Vec<_> = received
            .descriptors
            .into_iter()
            .map(|descriptor| TcpListener::from(descriptor).local_addr().unwrap())
            .collect();
        let sent: Vec<_> = listeners
            .iter()
            .map(|listener| listener.local_addr().unwrap())
            .collect();
        assert_eq!(addresses, sent);
        let received = other.receive().await.unwrap().unwrap();
        assert_eq!(
            (&*received.octets, received.descriptors.len()),
            (&b"none"[..], 0)
        );
        drop(one);
        assert!(other.receive().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_is_too_much_is_not_sent() {
        let (one, _other) = pair().unwrap();
        let one = Channel::new(one).unwrap();
        let end = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let many = vec![end.as_fd(); DESCRIPTORS + 1];
        assert!(one.send(b"many", &many).await.is_err());
        assert!(one.send(&vec![0; MESSAGE + 1], &[]).await.is_err());
    }
}
