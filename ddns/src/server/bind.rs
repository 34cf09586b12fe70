//! Takes one port for UDP and TCP, and another for TLS.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::sys;

/// How often a worker without queries looks whether it should end. A wake-up by poll and eventfd would end it at once,
/// but costs two more system calls for every small batch of queries; this costs four wake-ups a second, and only when
/// there is nothing to do.
const WAKE_INTERVAL: Duration = Duration::from_millis(250);
/// A burst of queries waits here while a worker answers the one before. The kernel may grant less.
const SOCKET_BUFFER: usize = 4 << 20;
/// A free TCP port is nearly always a free UDP port.
const ATTEMPTS: usize = 16;
const BACKLOG: i32 = 1024;

/// The sockets of one server.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// The address they have in common.
    pub(crate) addr: SocketAddr,
    pub(crate) tcp: TcpListener,
    /// One for each worker; the kernel deals the datagrams out among them.
    pub(crate) udp: Vec<UdpSocket>,
}

/// A socket could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for DNS on {addr} ({transport}): {source}")]
pub struct ListenError {
    /// Where.
    pub addr: SocketAddr,
    /// `UDP`, `TCP` or `TLS`.
    pub transport: &'static str,
    /// What the system says.
    pub source: io::Error,
}

/// Takes `listen`, with `workers` sockets for UDP. Port 0 is some port that is free for both.
pub(crate) fn bind(listen: SocketAddr, workers: usize) -> Result<Sockets, ListenError> {
    let mut attempts = if listen.port() == 0 { ATTEMPTS } else { 1 };
    loop {
        attempts -= 1;
        match bind_both(listen, workers) {
            Err(error) if attempts > 0 && error.source.kind() == io::ErrorKind::AddrInUse => {}
            result => return result,
        }
    }
}

/// Takes `listen` for DNS over TLS. Says where it is as well.
pub(crate) fn bind_dot(
    listen: SocketAddr,
) -> Result<(SocketAddr, tokio::net::TcpListener), ListenError> {
    bind_tcp(listen)
        .and_then(|tcp| Ok((tcp.local_addr()?, tokio::net::TcpListener::from_std(tcp)?)))
        .map_err(|source| ListenError {
            addr: listen,
            transport: "TLS",
            source,
        })
}

fn bind_both(listen: SocketAddr, workers: usize) -> Result<Sockets, ListenError> {
    let failed = |transport| {
        move |source| ListenError {
            addr: listen,
            transport,
            source,
        }
    };
    let tcp = bind_tcp(listen).map_err(failed("TCP"))?;
    let addr = tcp.local_addr().map_err(failed("TCP"))?;
    let udp = bind_all_udp(addr, workers).map_err(failed("UDP"))?;
    Ok(Sockets { addr, tcp, udp })
}

fn bind_tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    take_both_families(&socket, addr)?;
    // Without it a restart has to wait for the connections of the last run to be forgotten.
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// The first is bound alone, which fails where anybody has the port, and only then shares it: a port that is shared from the beginning
/// is shared unseen with whoever else of this user does so.
fn bind_all_udp(addr: SocketAddr, workers: usize) -> io::Result<Vec<UdpSocket>> {
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        take_both_families(&socket, addr)?;
        prepare_udp(&socket, addr)?;
        let is_first = sockets.is_empty();
        socket.set_reuse_port(!is_first)?;
        socket.bind(&addr.into())?;
        socket.set_reuse_port(workers > 1)?;
        sockets.push(socket.into());
    }
    deal_out(&sockets)?;
    Ok(sockets)
}

/// Has the kernel deal the datagrams of a port out among all its sockets.
pub(super) fn deal_out(sockets: &[UdpSocket]) -> io::Result<()> {
    if let [first, _, ..] = sockets {
        let count = sockets.len().try_into().map_err(io::Error::other)?;
        sys::deal_out(first.as_fd(), count)?;
    }
    Ok(())
}

/// Sets what a worker needs on its socket, and what it has already once more.
pub(super) fn prepare_udp(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    // Smaller buffers serve as well, only burst by burst.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.set_read_timeout(Some(WAKE_INTERVAL))?;
    socket.set_write_timeout(Some(WAKE_INTERVAL))?;
    if addr.ip().is_unspecified() {
        sys::tell_local_address(socket.as_fd(), addr.is_ipv6())?;
    }
    sys::ignore_path_mtu(socket.as_fd(), addr.is_ipv6())
}

/// `[::]` takes IPv4 as well, whatever the system's default.
fn take_both_families(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sockets_have_one_port() {
        let sockets = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_ne!(sockets.addr.port(), 0);
        assert_eq!(sockets.tcp.local_addr().unwrap(), sockets.addr);
        assert_eq!(sockets.udp.len(), 3);
        for socket in &sockets.udp {
            assert_eq!(socket.local_addr().unwrap(), sockets.addr);
        }
    }

    #[test]
    fn one_busy_client_is_dealt_out_among_all_workers() {
        let sockets = bind("127.0.0.1:0".parse().unwrap(), 4).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..400 {
            client.send_to(b"?", sockets.addr).unwrap();
        }
        for socket in &sockets.udp {
            let mut received = 0;
            socket.set_nonblocking(true).unwrap();
            while socket.recv(&mut [0; 8]).is_ok() {
                received += 1;
            }
            assert!((50..150).contains(&received), "{received}");
        }
    }

    #[test]
    fn a_port_in_use_is_named() {
        let first = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let error = bind(first.addr, 1).unwrap_err();
        assert_eq!((error.addr, error.transport), (first.addr, "TCP"));

        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = udp.local_addr().unwrap();
        let error = bind(addr, 1).unwrap_err();
        assert_eq!((error.addr, error.transport), (addr, "UDP"));
        assert!(error.to_string().contains(&addr.port().to_string()));
    }

    #[test]
    fn a_port_is_not_shared_with_somebody_who_would() {
        let other = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        other.set_reuse_port(true).unwrap();
        let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
        other.bind(&loopback.into()).unwrap();
        let addr = other.local_addr().unwrap().as_socket().unwrap();
        for workers in [1, 3] {
            let error = bind(addr, workers).unwrap_err();
            assert_eq!((error.addr, error.transport), (addr, "UDP"));
        }
    }
}
