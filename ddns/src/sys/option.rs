//! Socket options.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Asks for the address to which each datagram was sent, so that its reply can come from there. Needed on a wildcard
/// address: a client drops a reply from another address than it asked.
pub(crate) fn tell_local_address(socket: BorrowedFd<'_>, is_ipv6: bool) -> io::Result<()> {
    if is_ipv6 {
        // IPv4 clients of this socket are told of in the same way, as ::ffff:a.b.c.d.
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
    } else {
        set(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
    }
}

/// Neither sets the don't-fragment bit nor believes what ICMP says of the path: replies have 1232 octets at most, and
/// a forged "fragmentation needed" must not make them come in pieces that an attacker could replace.
pub(crate) fn ignore_path_mtu(socket: BorrowedFd<'_>, is_ipv6: bool) -> io::Result<()> {
    set(
        socket,
        libc::IPPROTO_IP,
        libc::IP_MTU_DISCOVER,
        libc::IP_PMTUDISC_OMIT,
    )?;
    if is_ipv6 {
        set(
            socket,
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_OMIT,
        )?;
    }
    Ok(())
}

fn set(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the descriptor is open while it is borrowed, and the call reads one `c_int` behind the pointer, which is
    // `value`'s size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
