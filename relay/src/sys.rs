//! What the system offers and no safe library does: the only unsafe code of this crate.

#![allow(unsafe_code, reason = "system calls that no library wraps")]

use std::env;
use std::fs;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

use libc::{
    BPF_A, BPF_ABS, BPF_ALU, BPF_B, BPF_JA, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_MOD, BPF_RET,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Puts a listener or a connection into the event queue of the calling worker, as it is: what a listener hands over then
/// need not be in any.
///
/// # Errors
/// If the queue takes no more.
pub(crate) fn queue<T: AsRawFd + Into<OwnedFd>>(socket: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: what can turn into an owned descriptor has owned that one all along, and names no other.
    let queued = unsafe { AsyncFd::register(socket) };
    queued.map_err(io::Error::from)
}

/// The same for a socket that is only written to: what comes to it, which others may read, wakes nobody here.
///
/// # Errors
/// If the queue takes no more.
pub(crate) fn queue_to_write<T: AsRawFd + Into<OwnedFd>>(socket: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: as above.
    let queued = unsafe { AsyncFd::register_with_interest(socket, Interest::WRITABLE) };
    queued.map_err(io::Error::from)
}

/// The same for a while, without a second descriptor: the queue forgets the socket when the value is dropped.
///
/// # Errors
/// If the queue takes no more.
pub(crate) fn queue_borrowed(socket: BorrowedFd<'_>) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    // SAFETY: what is borrowed stays open, and names the same descriptor, for as long as the value can live.
    let queued = unsafe { AsyncFd::register(socket) };
    queued.map_err(io::Error::from)
}

/// The smoothed round-trip time of a TCP connection, as the kernel has measured it.
pub(crate) fn tcp_round_trip(stream: impl AsFd) -> Option<Duration> {
    let info = tcp_info(stream)?;
    (info.tcpi_rtt > 0).then(|| Duration::from_micros(info.tcpi_rtt.into()))
}

/// Whether octets of a TCP connection are under way, or it was asked whether there is room for them, and the other end has acknowledged
/// nothing for `time`.
pub(crate) fn is_deaf(stream: impl AsFd, time: Duration) -> bool {
    tcp_info(stream).is_some_and(|info| {
        let silence = Duration::from_millis(info.tcpi_last_ack_recv.into());
        (info.tcpi_unacked > 0 || info.tcpi_probes > 0) && silence >= time
    })
}

/// What the kernel knows of a TCP connection (tcp(7), `TCP_INFO`).
fn tcp_info(stream: impl AsFd) -> Option<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
    // SAFETY: the descriptor is borrowed for the call; the kernel writes at most `length` octets, which `info` has.
    let result = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return None;
    }
    // SAFETY: it is made of integers, for which zeros are a value, whatever of it the kernel has written.
    Some(unsafe { info.assume_init() })
}

/// Has a UDP socket of IPv4 keep what ICMP says of its packets, for [`who_gave_up`].
///
/// # Errors
/// If the kernel refuses.
pub(crate) fn keep_icmp(socket: impl AsFd) -> io::Result<()> {
    let yes: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&yes)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is borrowed for the call; the kernel reads `length` octets, which `yes` has.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_RECVERR,
            (&raw const yes).cast(),
            length,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Which router has given up a packet of this socket because it had come too far, if the next that is kept says so (ip(7),
/// `IP_RECVERR`).
///
/// # Errors
/// `WouldBlock` if nothing is kept.
pub(crate) fn who_gave_up(socket: impl AsFd) -> io::Result<Option<Ipv4Addr>> {
    /// RFC 792.
    const TIME_EXCEEDED: u8 = 11;
    /// Room for the one message that is asked for, aligned as its header is.
    #[repr(C, align(8))]
    struct Room([u8; 256]);
    let mut room = Room([0; 256]);
    // SAFETY: it is made of integers and pointers, for which zeros are a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_control = (&raw mut room).cast();
    message.msg_controllen = size_of::<Room>();
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: the descriptor is borrowed for the call; the kernel writes no address and no payload, for which there is no room, and
    // at most as many octets of control messages as it is told, which `room` has.
    let result = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has filled `message`, whose control messages are in `room`, which lives.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: the walk gives headers within `room` only, as far as the kernel has filled it, aligned.
        let head = unsafe { header.read() };
        let whole = size_of::<libc::sock_extended_err>() + size_of::<libc::sockaddr_in>();
        // SAFETY: it counts octets and reads nothing.
        let needed = unsafe { libc::CMSG_LEN(u32::try_from(whole).map_err(io::Error::other)?) };
        if head.cmsg_level == libc::IPPROTO_IP
            && head.cmsg_type == libc::IP_RECVERR
            && head.cmsg_len >= needed as usize
        {
            // SAFETY: behind the header there are as many octets as both structures have; neither need be aligned.
            let (error, offender) = unsafe {
                let data = libc::CMSG_DATA(header);
                let offender = data.add(size_of::<libc::sock_extended_err>());
                (
                    data.cast::<libc::sock_extended_err>().read_unaligned(),
                    offender.cast::<libc::sockaddr_in>().read_unaligned(),
                )
            };
            let is_routers = error.ee_origin == libc::SO_EE_ORIGIN_ICMP
                && error.ee_type == TIME_EXCEEDED
                && i32::from(offender.sin_family) == libc::AF_INET;
            if is_routers {
                return Ok(Some(u32::from_be(offender.sin_addr.s_addr).into()));
            }
        }
        // SAFETY: as for the first.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok(None)
}

/// How many octets of a TCP connection have been written and not been acknowledged (tcp(7), `SIOCOUTQ`).
///
/// # Errors
/// If it is no connection.
pub(crate) fn unacknowledged(stream: impl AsFd) -> io::Result<u64> {
    let mut waiting: libc::c_int = 0;
    // SAFETY: the descriptor is borrowed for the call; the kernel writes one integer, which `waiting` is. SIOCOUTQ is TIOCOUTQ.
    let result =
        unsafe { libc::ioctl(stream.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut waiting) };
    match result {
        0 => Ok(u64::try_from(waiting).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `SOCK_RCVBUF_LOCK` in linux/socket.h.
const RECEIVE_BUFFER: libc::c_int = 2;

/// Whether the receive buffer stays as large as it is now, or grows with what is read (`SO_BUF_LOCK`, Linux 5.15).
///
/// # Errors
/// If the kernel does not know that.
pub(crate) fn hold_receive_buffer(stream: impl AsFd, held: bool) -> io::Result<()> {
    let locks = if held { RECEIVE_BUFFER } else { 0 };
    let length = libc::socklen_t::try_from(size_of_val(&locks)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is borrowed for the call; the kernel reads `length` octets, which `locks` has.
    let result = unsafe {
        libc::setsockopt(
            stream.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BUF_LOCK,
            (&raw const locks).cast(),
            length,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether it stays so now.
///
/// # Errors
/// If the kernel does not know that.
#[cfg(test)]
pub(crate) fn holds_receive_buffer(stream: impl AsFd) -> io::Result<bool> {
    let mut locks: libc::c_int = 0;
    let mut length = libc::socklen_t::try_from(size_of_val(&locks)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is borrowed for the call; the kernel writes at most `length` octets, which `locks` has.
    let result = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BUF_LOCK,
            (&raw mut locks).cast(),
            &raw mut length,
        )
    };
    match result {
        0 => Ok(locks & RECEIVE_BUFFER != 0),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets the connection id of each QUIC packet say which socket of the group that shares `socket`'s port gets it: its first
/// octet, modulo `sockets`. The sockets count in the order in which they were bound. To be called when all are
/// (socket(7), `SO_ATTACH_REUSEPORT_CBPF`; RFC 8999 sections 5.1 and 5.2 for where the id stands).
///
/// # Errors
/// If the kernel does not know that.
pub(crate) fn steer_by_connection_id(socket: impl AsFd, sockets: u32) -> io::Result<()> {
    const LONG_HEADER: u32 = 0x80;
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: code as u16, // every code has sixteen bits
        jt,
        jf,
        k,
    };
    let mut program = [
        step(BPF_LD | BPF_B | BPF_ABS, 0, 0, 0),
        step(BPF_JMP | BPF_JSET | BPF_K, 2, 0, LONG_HEADER),
        step(BPF_LD | BPF_B | BPF_ABS, 0, 0, 1),
        step(BPF_JMP | BPF_JA, 0, 0, 1),
        step(BPF_LD | BPF_B | BPF_ABS, 0, 0, 6),
        step(BPF_ALU | BPF_MOD | BPF_K, 0, 0, sockets.max(1)),
        step(BPF_RET | BPF_A, 0, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: program.len() as u16, // seven
        filter: program.as_mut_ptr(),
    };
    let length = libc::socklen_t::try_from(size_of_val(&program)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is borrowed for the call; the kernel copies `length` octets, which `program` has, and from
    // where it points as many steps as it says, which live until the end of this function.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes over a descriptor that was open before this program began. To be called while there is one thread, and once for each.
///
/// # Errors
/// If there is none with this number, or this program has opened it itself, or other threads might do something with it.
pub(crate) fn from_before(number: RawFd) -> io::Result<OwnedFd> {
    one_thread()?;
    // SAFETY: the call takes numbers, and fails for one that is no descriptor.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(io::Error::other("it is this program's own"));
    }
    // SAFETY: as above.
    if unsafe { libc::fcntl(number, libc::F_SETFD, flags | libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and without the flag that everything has which is opened here: it is from before, and nobody owns it.
    // It has the flag now, so that it is not taken twice, and no other thread has been doing the same.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Removes variables from the environment of this process, while there is one thread.
///
/// # Errors
/// If there are more.
pub(crate) fn forget_variables(names: &[&str]) -> io::Result<()> {
    one_thread()?;
    for name in names {
        // SAFETY: no other thread reads the environment, as there is none.
        unsafe { env::remove_var(name) };
    }
    Ok(())
}

/// Whether the calling thread is the only one.
fn one_thread() -> io::Result<()> {
    match fs::read_dir("/proc/self/task")?.count() {
        1 => Ok(()),
        _ => Err(io::Error::other("there are other threads already")),
    }
}

/// Has the allocator give the system back what is free in the middle of its heaps (malloc_trim(3)); other allocators than glibc's
/// do so by themselves.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number and may be called by any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixStream;

    use tokio::time::timeout;

    use super::*;

    #[test]
    fn nothing_is_taken_over_or_forgotten_beside_other_threads() {
        // The test has one of its own, beside the first.
        let ours = TcpListener::bind("127.0.0.1:0").unwrap();
        let refused = from_before(ours.as_raw_fd()).unwrap_err().to_string();
        assert!(refused.contains("other threads"), "{refused}");
        assert!(forget_variables(&["PATH"]).is_err());
        assert!(env::var_os("PATH").is_some());
    }

    #[tokio::test]
    async fn what_comes_to_a_socket_that_is_only_written_to_wakes_nobody() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.send_to(b"!", socket.local_addr().unwrap()).unwrap();
        let other = queue(socket.try_clone().unwrap()).unwrap();
        let queued = queue_to_write(socket).unwrap();
        queued.writable().await.unwrap().retain_ready();
        other.readable().await.unwrap().retain_ready();
        let woken = timeout(Duration::from_millis(50), queued.readable());
        woken.await.expect_err("it is somebody else's to read");
    }

    #[test]
    fn the_kernel_knows_how_far_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let round_trip = tcp_round_trip(&stream).unwrap();
        assert!(round_trip < Duration::from_secs(1), "{round_trip:?}");
        let (other, _) = UnixStream::pair().unwrap();
        assert_eq!(tcp_round_trip(&other), None);
    }
}
