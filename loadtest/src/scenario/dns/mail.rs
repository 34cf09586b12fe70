//! Datagrams by the dozen: a system call for each would cost the asker more than the server.

use std::array;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, recvmmsg, sendmmsg};

use crate::question::MAX_QUESTION;

/// How many are sent or received by one call; a server takes as many.
pub(super) const BATCH: usize = 32;

/// The longest answer over UDP that is whole.
const LONGEST: usize = 1500;

/// Room for what one call moves, over sockets that are connected.
pub(super) struct Mail {
    headers: MultiHeaders<()>,
    room: Box<[[u8; LONGEST]; BATCH]>,
    lengths: [usize; BATCH],
    /// What is to be sent.
    written: Box<[[u8; MAX_QUESTION]; BATCH]>,
    written_lengths: [usize; BATCH],
    count: usize,
}

impl Mail {
    pub(super) fn new() -> Self {
        Self {
            headers: MultiHeaders::preallocate(BATCH, None),
            room: Box::new([[0; LONGEST]; BATCH]),
            lengths: [0; BATCH],
            written: Box::new([[0; MAX_QUESTION]; BATCH]),
            written_lengths: [0; BATCH],
            count: 0,
        }
    }

    /// Takes what has come, without waiting. Says how many that were; [`BATCH`] may not be all.
    ///
    /// # Errors
    /// As recvmmsg(2) says.
    pub(super) fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let mut slices = self.room.each_mut().map(|room| [IoSliceMut::new(room)]);
        let flags = MsgFlags::MSG_DONTWAIT;
        let socket = socket.as_raw_fd();
        let received = match recvmmsg(socket, &mut self.headers, slices.iter_mut(), flags, None) {
            Ok(received) => received,
            // Nothing is there; or nobody listens, which an earlier datagram has brought about.
            Err(Errno::EAGAIN | Errno::ECONNREFUSED) => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        let mut count = 0;
        for (length, message) in self.lengths.iter_mut().zip(received) {
            *length = message.bytes;
            count += 1;
        }
        Ok(count)
    }

    /// One of those that were received last.
    pub(super) fn received(&self, at: usize) -> &[u8] {
        &self.room[at][..self.lengths[at]]
    }

    /// Room for one more to be sent, and its length, which is to be set. `None` if [`BATCH`] wait already.
    pub(super) fn write(&mut self) -> Option<(&mut [u8; MAX_QUESTION], &mut usize)> {
        let at = self.count;
        let room = self.written.get_mut(at)?;
        self.count += 1;
        Some((room, &mut self.written_lengths[at]))
    }

    /// How many wait to be sent.
    pub(super) fn waiting(&self) -> usize {
        self.count
    }

    /// Sends those that were written. One for which there is no room, or which nobody takes, is lost on the way.
    ///
    /// # Errors
    /// As sendmmsg(2) says.
    pub(super) fn send(&mut self, socket: &UdpSocket) -> io::Result<()> {
        let count = std::mem::take(&mut self.count);
        if count == 0 {
            return Ok(());
        }
        let slices: [_; BATCH] =
            array::from_fn(|at| [IoSlice::new(&self.written[at][..self.written_lengths[at]])]);
        let nothing: [ControlMessage<'_>; 0] = [];
        let sent = sendmmsg(
            socket.as_raw_fd(),
            &mut self.headers,
            &slices[..count],
            [None; BATCH],
            nothing,
            MsgFlags::MSG_DONTWAIT,
        );
        match sent {
            Ok(_) | Err(Errno::EAGAIN | Errno::ECONNREFUSED) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
