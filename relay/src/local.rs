//! A way between two processes of this host that keeps messages apart (unix(7), `SOCK_SEQPACKET`). Descriptors go along with a
//! message (`SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};

/// So many descriptors go with one message; the kernel takes 253.
pub(crate) const DESCRIPTORS: usize = 128;

/// Two ends that belong together. Neither ever waits.
///
/// # Errors
/// If there are no descriptors.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// Sends a message of these parts, all or nothing.
///
/// # Errors
/// [`WouldBlock`](io::ErrorKind::WouldBlock) if the way is full, [`InvalidInput`](io::ErrorKind::InvalidInput) if there are too
/// many descriptors; others as the system says.
pub(crate) fn send(
    end: impl AsFd,
    parts: &[IoSlice<'_>],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    if descriptors.len() > DESCRIPTORS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        beside.push(SendAncillaryMessage::ScmRights(descriptors)); // there is room for so many
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(end, parts, &mut beside, flags)?;
    Ok(())
}

/// A message as it came.
#[derive(Debug)]
pub(crate) struct Received {
    /// How many octets it has.
    pub(crate) length: usize,
    pub(crate) descriptors: Vec<OwnedFd>,
    /// There was no room for all octets.
    pub(crate) is_cut: bool,
    /// Descriptors are missing: there were too many, or this process may have no more.
    pub(crate) lacks_descriptors: bool,
}

/// Receives the next message into `room`. At the end of the way there is always an empty one: [`has_ended`] tells it apart.
///
/// # Errors
/// [`WouldBlock`](io::ErrorKind::WouldBlock) if there is none now; others as the system says.
pub(crate) fn receive(end: impl AsFd, room: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(end, &mut [IoSliceMut::new(room)], &mut beside, flags)?;
    let mut descriptors = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            descriptors.extend(came);
        }
    }
    Ok(Received {
        length: received.bytes,
        descriptors,
        is_cut: received.flags.contains(ReturnFlags::TRUNC),
        lacks_descriptors: received.flags.contains(ReturnFlags::CTRUNC),
    })
}

/// Whether nobody is at the other end any more, or nothing more is to come from there.
///
/// # Errors
/// As the system says.
pub(crate) fn has_ended(end: impl AsFd) -> io::Result<bool> {
    let mut ends = [PollFd::new(&end, PollFlags::RDHUP)];
    poll(&mut ends, Some(&Timespec::default()))?;
    let [end] = ends;
    let ended = PollFlags::RDHUP | PollFlags::HUP;
    Ok(end.revents().intersects(ended))
}
