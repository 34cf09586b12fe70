//! Where a datagram came from, kept for a reply that leaves later than the batch.

use std::fmt;
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::batch::Control;

/// The source of a datagram, and the local address that it was sent to.
pub(crate) struct Origin {
    source: libc::sockaddr_storage,
    source_len: libc::socklen_t,
    control: Control,
    /// 0 if the local address is not known.
    control_len: usize,
}

impl Origin {
    /// Copies what a header says, whose name and control message have the sizes of these here.
    ///
    /// # Safety
    /// The header's pointers lead to a whole `sockaddr_storage` and a whole [`Control`], which nothing else changes now.
    pub(super) unsafe fn of(header: &libc::msghdr, knows_local_address: bool) -> Self {
        Self {
            // SAFETY: as the caller promises.
            source: unsafe { header.msg_name.cast::<libc::sockaddr_storage>().read() },
            source_len: header.msg_namelen,
            // SAFETY: the same.
            control: unsafe { header.msg_control.cast::<Control>().read() },
            control_len: match knows_local_address {
                true => header.msg_controllen,
                false => 0,
            },
        }
    }

    /// Sends a datagram back, from the address that the other was sent to. Does not wait.
    ///
    /// # Errors
    /// As sendmsg(2) says.
    pub(crate) fn reply(&self, socket: BorrowedFd<'_>, octets: &[u8]) -> io::Result<()> {
        let mut part = libc::iovec {
            iov_base: octets.as_ptr().cast_mut().cast(),
            iov_len: octets.len(),
        };
        // SAFETY: a header is made of integers and pointers, for which zeros are a value.
        let mut header: libc::msghdr = unsafe { zeroed() };
        header.msg_name = (&raw const self.source).cast_mut().cast();
        header.msg_namelen = self.source_len;
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = (&raw const self.control).cast_mut().cast();
        header.msg_controllen = self.control_len;
        // SAFETY: name, part and control message have the sizes that are said, live as long as the call, and are only read.
        let sent =
            unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT) };
        match sent {
            ..0 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Origin(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};
    use std::os::fd::AsFd;

    use super::super::{Batch, tell_local_address};

    #[test]
    fn a_reply_leaves_after_the_batch_from_where_the_datagram_went() {
        let server = UdpSocket::bind("0.0.0.0:0").unwrap();
        tell_local_address(server.as_fd(), false).unwrap();
        let port = server.local_addr().unwrap().port();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        // A socket hears only where it is connected to.
        client.connect(("127.0.0.2", port)).unwrap();
        client.send(b"hello").unwrap();
        let mut batch = Batch::new();
        assert_eq!(batch.receive(server.as_fd()).unwrap(), 1);
        let exchange = batch.exchange(0);
        let source: Option<SocketAddr> = exchange.source();
        assert_eq!(source, Some(client.local_addr().unwrap()));
        let origin = exchange.origin();
        drop(batch);
        origin.reply(server.as_fd(), b"later").unwrap();
        let mut reply = [0; 10];
        let len = client.recv(&mut reply).unwrap();
        assert_eq!(reply[..len], *b"later");
    }
}
