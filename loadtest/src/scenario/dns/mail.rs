//! Datagrams by the dozen: a system call for each would cost the asker more than the server.

use std::array;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, recvmmsg, sendmmsg, sendmsg};

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
    /// Whether the kernel cuts what is sent into datagrams, until it has said that it does not.
    cuts: bool,
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
            cuts: true,
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
    /// Those of one length go through the kernel as one and come out as datagrams where they arrive (UDP_SEGMENT, udp(7)):
    /// the asker then costs less than the server, which sees no difference.
    ///
    /// # Errors
    /// As sendmsg(2) and sendmmsg(2) say.
    pub(super) fn send(&mut self, socket: &UdpSocket) -> io::Result<()> {
        let count = std::mem::take(&mut self.count);
        let lengths = &self.written_lengths[..count];
        let Some(&length) = lengths.first() else {
            return Ok(());
        };
        let are_alike = count > 1 && lengths.iter().all(|other| *other == length);
        let sent = match u16::try_from(length) {
            Ok(length) if self.cuts && are_alike => match self.send_as_one(socket, count, length) {
                Err(Errno::EIO | Errno::EINVAL | Errno::ENOPROTOOPT) => {
                    self.cuts = false;
                    self.send_each(socket, count)
                }
                sent => sent,
            },
            Ok(_) | Err(_) => self.send_each(socket, count),
        };
        match sent {
            Ok(()) | Err(Errno::EAGAIN | Errno::ECONNREFUSED) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn send_as_one(&self, socket: &UdpSocket, count: usize, length: u16) -> nix::Result<()> {
        let parts: [_; BATCH] =
            array::from_fn(|at| IoSlice::new(&self.written[at][..self.written_lengths[at]]));
        let cut = [ControlMessage::UdpGsoSegments(&length)];
        let (parts, flags) = (&parts[..count], MsgFlags::MSG_DONTWAIT);
        sendmsg::<()>(socket.as_raw_fd(), parts, &cut, flags, None).map(drop)
    }

    fn send_each(&mut self, socket: &UdpSocket, count: usize) -> nix::Result<()> {
        let slices: [_; BATCH] =
            array::from_fn(|at| [IoSlice::new(&self.written[at][..self.written_lengths[at]])]);
        let nothing: [ControlMessage<'_>; 0] = [];
        let (slices, flags) = (&slices[..count], MsgFlags::MSG_DONTWAIT);
        let headers = &mut self.headers;
        sendmmsg(
            socket.as_raw_fd(),
            headers,
            slices,
            [None; BATCH],
            nothing,
            flags,
        )
        .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn datagrams_arrive_as_they_were_written_whether_they_are_alike_or_not() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        let mut mail = Mail::new();
        for cuts in [true, false] {
            mail.cuts = cuts;
            for datagrams in [&["one", "two", "six"][..], &["one", "three"], &["one"]] {
                for datagram in datagrams {
                    let (room, length) = mail.write().unwrap();
                    room[..datagram.len()].copy_from_slice(datagram.as_bytes());
                    *length = datagram.len();
                }
                mail.send(&client).unwrap();
                assert_eq!(mail.waiting(), 0);
                for datagram in datagrams {
                    let mut room = [0; 512];
                    let length = server.recv(&mut room).unwrap();
                    assert_eq!(&room[..length], datagram.as_bytes());
                }
            }
        }
    }

    #[test]
    fn there_is_room_for_a_batch() {
        let mut mail = Mail::new();
        assert_eq!(std::iter::from_fn(|| mail.write().map(drop)).count(), BATCH);
    }
}
