//! A batch of datagrams: received by one `recvmmsg(2)`, answered in place, sent by one `sendmmsg(2)`.
//!
//! ```text
//!  slot i    message ──► (answer) ──► reply
//!            source: where it came from and where the reply goes
//!            control: the address it was sent to, and the one the reply comes from
//!
//!  incoming[i] points into slot i for ever; outgoing[k] into the slot of the k-th reply of this batch
//! ```
//!
//! All is allocated once. The slots are reached only by raw pointers made from the one of their allocation, so that the
//! pointers which the headers keep stay valid.

use std::io;
use std::mem::zeroed;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull, addr_of_mut};
use std::slice;

use super::Origin;
use crate::protocol::UDP_LIMIT;

/// Datagrams in one batch; more are no faster.
const BATCH: usize = 32;
/// Room for one `in6_pktinfo` and its header.
const CONTROL: usize = 64;

#[repr(C)]
struct Slot {
    message: [u8; UDP_LIMIT],
    reply: [u8; UDP_LIMIT],
    source: libc::sockaddr_storage,
    control: Control,
    message_part: libc::iovec,
    reply_part: libc::iovec,
}

/// `cmsghdr` wants the alignment of a `size_t`.
#[repr(C, align(8))]
pub(super) struct Control([u8; CONTROL]);

/// The buffers of one thread.
pub(crate) struct Batch {
    slots: NonNull<Slot>,
    incoming: Box<[libc::mmsghdr; BATCH]>,
    outgoing: Box<[libc::mmsghdr; BATCH]>,
    /// How many of `incoming` the last call has filled.
    received: usize,
    /// How many of `outgoing` are to be sent.
    queued: usize,
}

impl Batch {
    pub(crate) fn new() -> Self {
        // SAFETY: a slot is made of integers and pointers, for which zeros are a value.
        let slots = unsafe { Box::<[Slot]>::new_zeroed_slice(BATCH).assume_init() };
        let slots = NonNull::from(Box::leak(slots)).cast::<Slot>();
        // SAFETY: headers are made of integers and pointers, for which zeros are a value.
        let (incoming, outgoing) = unsafe { (Box::new(zeroed()), Box::new(zeroed())) };
        let mut batch = Self {
            slots,
            incoming,
            outgoing,
            received: BATCH,
            queued: 0,
        };
        for i in 0..BATCH {
            batch.point_incoming(i);
        }
        batch
    }

    /// Waits for one datagram, as long as the socket's time-out, and takes all that are there. Forgets the batch
    /// before.
    ///
    /// # Errors
    /// As recvmmsg(2) says.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        // The kernel has written the sizes it used over the sizes there are.
        for header in &mut self.incoming[..self.received] {
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_hdr.msg_controllen = CONTROL as _;
        }
        self.received = 0;
        self.queued = 0;
        // SAFETY: `incoming` has BATCH headers; each points to a name, a control buffer and one part of the sizes it
        // says, all in its own slot, and nothing else refers to the slots during the call.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.incoming.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_WAITFORONE as _,
                ptr::null_mut(),
            )
        };
        self.received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        Ok(self.received)
    }

    /// The `i`-th datagram of the last [`receive`](Self::receive), and the place for its reply.
    ///
    /// # Panics
    /// If there were not so many.
    pub(crate) fn exchange(&mut self, i: usize) -> Exchange<'_> {
        assert!(i < self.received, "no such datagram in this batch");
        Exchange { batch: self, i }
    }

    /// The datagrams of the last [`receive`](Self::receive).
    pub(crate) fn messages(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.received).map(|i| {
            let len = (self.incoming[i].msg_len as usize).min(UDP_LIMIT);
            let slot = self.slot(i);
            // SAFETY: the message's place is initialised for its whole size; the borrow of `self` keeps every other reference
            // to it, and the kernel, from writing there.
            unsafe { slice::from_raw_parts(addr_of_mut!((*slot).message).cast(), len) }
        })
    }

    /// Sends the replies, and returns how many could not be sent.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>) -> u32 {
        let mut not_sent = 0;
        let mut rest = &mut self.outgoing[..self.queued];
        while !rest.is_empty() {
            // SAFETY: `rest` has as many headers as are said; each points to a name, a control message and one part of
            // the sizes it says, all in one slot, and nothing else refers to the slots during the call.
            let sent = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as libc::c_uint,
                    0,
                )
            };
            let done = match usize::try_from(sent) {
                Ok(sent) => sent,
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => 0,
                // The first of the rest cannot be sent; the others may.
                Err(_) => {
                    not_sent += 1;
                    1
                }
            };
            rest = &mut rest[done..];
        }
        self.queued = 0;
        not_sent
    }

    fn slot(&self, i: usize) -> *mut Slot {
        assert!(i < BATCH);
        // SAFETY: there are BATCH slots behind the pointer.
        unsafe { self.slots.as_ptr().add(i) }
    }

    fn point_incoming(&mut self, i: usize) {
        let slot = self.slot(i);
        let header = &mut self.incoming[i].msg_hdr;
        // SAFETY: `slot` points to a slot that lives as long as the headers; places are only made into pointers here,
        // but for the part, which nothing else refers to.
        unsafe {
            (*slot).message_part = libc::iovec {
                iov_base: addr_of_mut!((*slot).message).cast(),
                iov_len: UDP_LIMIT,
            };
            header.msg_name = addr_of_mut!((*slot).source).cast();
            header.msg_control = addr_of_mut!((*slot).control).cast();
            header.msg_iov = addr_of_mut!((*slot).message_part);
        }
        header.msg_iovlen = 1;
    }

    /// Adds the reply in slot `i` to those to be sent.
    fn queue(&mut self, i: usize, len: usize) {
        let slot = self.slot(i);
        let from = &self.incoming[i].msg_hdr;
        let header = &mut self.outgoing[self.queued].msg_hdr;
        // SAFETY: as in `point_incoming`; `len` is at most the reply's size.
        unsafe {
            (*slot).reply_part = libc::iovec {
                iov_base: addr_of_mut!((*slot).reply).cast(),
                iov_len: len.min(UDP_LIMIT),
            };
            header.msg_iov = addr_of_mut!((*slot).reply_part);
        }
        header.msg_iovlen = 1;
        header.msg_name = from.msg_name;
        header.msg_namelen = from.msg_namelen;
        header.msg_control = from.msg_control;
        header.msg_controllen = if keep_local_address(from) {
            from.msg_controllen
        } else {
            0
        };
        self.queued += 1;
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let slots = ptr::slice_from_raw_parts_mut(self.slots.as_ptr(), BATCH);
        // SAFETY: `new` has leaked this box, and nothing refers to it any more.
        drop(unsafe { Box::from_raw(slots) });
    }
}

/// One datagram and the place for its reply.
pub(crate) struct Exchange<'b> {
    batch: &'b mut Batch,
    i: usize,
}

impl Exchange<'_> {
    /// The datagram was longer than its place.
    pub(crate) fn is_cut(&self) -> bool {
        self.header().msg_hdr.msg_flags & libc::MSG_TRUNC != 0
    }

    /// Where it came from; `None` if the kernel has not said so.
    pub(crate) fn source(&self) -> Option<SocketAddr> {
        let slot = self.batch.slot(self.i);
        // SAFETY: the kernel has written the source, or nothing has and it is zeros; it is read by copy.
        let source = unsafe { addr_of_mut!((*slot).source).read() };
        match libc::c_int::from(source.ss_family) {
            libc::AF_INET => {
                // SAFETY: this family's addresses have this form, which is shorter than the storage.
                let v4 = unsafe { (&raw const source).cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from_bits(u32::from_be(v4.sin_addr.s_addr));
                Some((ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: the same.
                let v6 = unsafe { (&raw const source).cast::<libc::sockaddr_in6>().read() };
                let ip = Ipv6Addr::from_octets(v6.sin6_addr.s6_addr);
                Some((ip, u16::from_be(v6.sin6_port)).into())
            }
            _ => None,
        }
    }

    /// The same, and the address that it was sent to, for a reply that does not leave with the batch.
    pub(crate) fn origin(&self) -> Origin {
        let header = &self.header().msg_hdr;
        let knows_local_address = keep_local_address(header);
        // SAFETY: the header points to the source and the control message of its own slot, which have these types; the borrow of
        // `self` keeps every other reference and the kernel away from them.
        unsafe { Origin::of(header, knows_local_address) }
    }

    /// The datagram, and the octets that the reply may have.
    pub(crate) fn parts(&mut self) -> (&[u8], &mut [u8]) {
        let len = (self.header().msg_len as usize).min(UDP_LIMIT);
        let slot = self.batch.slot(self.i);
        // SAFETY: message and reply are different places of one slot, both initialised for their whole size; the
        // borrow of `self` keeps every other reference and the kernel away from them.
        unsafe {
            (
                slice::from_raw_parts(addr_of_mut!((*slot).message).cast(), len),
                slice::from_raw_parts_mut(addr_of_mut!((*slot).reply).cast(), UDP_LIMIT),
            )
        }
    }

    /// Sends the first `len` octets of the reply with the batch.
    pub(crate) fn reply(self, len: usize) {
        self.batch.queue(self.i, len);
    }

    fn header(&self) -> &libc::mmsghdr {
        &self.batch.incoming[self.i]
    }
}

/// Leaves the way out to the routing table: the interface that a datagram came by need not be the one that leads back.
/// Only a link-local address means nothing without its interface. Says whether a local address is there at all.
fn keep_local_address(header: &libc::msghdr) -> bool {
    // SAFETY: the kernel has written `msg_controllen` octets of well-formed control messages.
    let Some(message) = NonNull::new(unsafe { libc::CMSG_FIRSTHDR(header) }) else {
        return false;
    };
    // SAFETY: CMSG_FIRSTHDR returns only a whole header within the control buffer, which is aligned for it.
    let (level, kind) = unsafe {
        (
            (*message.as_ptr()).cmsg_level,
            (*message.as_ptr()).cmsg_type,
        )
    };
    // SAFETY: the data follows the header.
    let data = unsafe { libc::CMSG_DATA(message.as_ptr()) };
    match (level, kind) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            let info = data.cast::<libc::in_pktinfo>();
            // SAFETY: this kind of message holds this; it may be unaligned.
            unsafe { addr_of_mut!((*info).ipi_ifindex).write_unaligned(0) };
            true
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            let info = data.cast::<libc::in6_pktinfo>();
            // SAFETY: the same.
            unsafe {
                let [first, second, ..] = addr_of_mut!((*info).ipi6_addr).read_unaligned().s6_addr;
                let is_link_local = first == 0xFE && second & 0xC0 == 0x80;
                if !is_link_local {
                    addr_of_mut!((*info).ipi6_ifindex).write_unaligned(0);
                }
            }
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;

    fn pair() -> (UdpSocket, UdpSocket) {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        for socket in [&server, &client] {
            let patience = Some(Duration::from_millis(50));
            socket.set_read_timeout(patience).unwrap();
        }
        (server, client)
    }

    #[test]
    fn each_datagram_gets_its_reply_in_batches() {
        const DATAGRAMS: u8 = 80;
        let (server, client) = pair();
        for i in 0..DATAGRAMS {
            client.send(&vec![i; usize::from(i)]).unwrap();
        }
        let mut batch = Batch::new();
        let mut answered = 0;
        while answered < usize::from(DATAGRAMS) {
            let received = batch.receive(server.as_fd()).unwrap();
            assert!((1..=BATCH).contains(&received));
            for i in 0..received {
                let mut exchange = batch.exchange(i);
                assert!(!exchange.is_cut());
                assert_eq!(exchange.source(), client.local_addr().ok());
                let (message, reply) = exchange.parts();
                let len = message.len();
                reply[..len].copy_from_slice(message);
                reply[len] = 0xFF;
                // Every second one stays without a reply.
                if len % 2 == 0 {
                    exchange.reply(len + 1);
                }
            }
            answered += received;
            assert_eq!(batch.send(server.as_fd()), 0);
        }
        for i in (0..DATAGRAMS).step_by(2) {
            let mut reply = [0; 2000];
            let len = client.recv(&mut reply).unwrap();
            let expected = [vec![i; usize::from(i)], vec![0xFF]].concat();
            assert_eq!(reply[..len], expected);
        }
    }

    #[test]
    fn a_datagram_too_long_is_known_as_cut() {
        let (server, client) = pair();
        client.send(&[0; UDP_LIMIT + 1]).unwrap();
        client.send(&[0; UDP_LIMIT]).unwrap();
        let mut batch = Batch::new();
        let mut cut = Vec::new();
        while cut.len() < 2 {
            for i in 0..batch.receive(server.as_fd()).unwrap() {
                let mut exchange = batch.exchange(i);
                assert_eq!(exchange.parts().0.len(), UDP_LIMIT);
                cut.push(exchange.is_cut());
            }
        }
        assert_eq!(cut, [true, false]);
    }

    #[test]
    fn waiting_ends_with_the_sockets_time_out() {
        let (server, _client) = pair();
        let error = Batch::new().receive(server.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_reply_that_cannot_be_sent_is_counted_and_the_others_go() {
        let (server, client) = pair();
        for _ in 0..3 {
            client.send(b"hello").unwrap();
        }
        let mut batch = Batch::new();
        let mut queued = 0;
        while queued < 3 {
            for i in 0..batch.receive(server.as_fd()).unwrap() {
                batch.exchange(i).reply(5);
                queued += 1;
            }
            // The first of them has nowhere to go.
            batch.outgoing[0].msg_hdr.msg_namelen = 1;
            assert_eq!(batch.send(server.as_fd()), 1);
        }
    }
}
