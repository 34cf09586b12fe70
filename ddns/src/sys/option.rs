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

/// Deals the datagrams out among all sockets that share `socket`'s port, each to any of them. By itself the kernel goes by the
/// client's address and port, and a few busy resolvers may all be one socket's; answers over UDP have no order to be kept.
/// `sockets` is how many they are.
pub(crate) fn deal_out(socket: BorrowedFd<'_>, sockets: u16) -> io::Result<()> {
    const RANDOM: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;
    let mut program = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, RANDOM),
        step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, sockets.into()),
        step(libc::BPF_RET | libc::BPF_A, 0),
    ];
    let program = libc::sock_fprog {
        len: program.len() as libc::c_ushort,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the descriptor is open while it is borrowed; the call reads one `sock_fprog` behind the pointer, which is
    // `program`'s size, and the steps behind that, which live until it has returned.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn step(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
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
