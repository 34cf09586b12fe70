//! The front's sockets: a TCP listener for each worker and, unless QUIC is off, a UDP socket for each, all on one port.
//!
//! The first of each kind is bound alone, and shares its port afterwards: so a second relay on the same port is refused,
//! and does not join the first one's sockets, which would take part of its visitors.
//!
//! A front that was bound before this program began is one socket, whose queue all workers empty. It outlives the relay, and
//! what comes when nobody accepts waits there. That of the process before is a group like our own, and each of its sockets has a
//! queue: all of them must be attended to.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use directory::DeviceId;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::held;
use crate::quic::socket_buffers;
use crate::sys;

use super::presence::Attachment;

/// Connections waiting to be accepted; the kernel caps it at `net.core.somaxconn`.
pub(super) const BACKLOG: i32 = 4096;

/// What each UDP socket is to keep each way, in octets.
const UDP_BUFFER: usize = 7 * 1024 * 1024;

/// The same at a public port of a device, of which there may be many.
const UDP_PORT_BUFFER: usize = 2 * 1024 * 1024;

/// How often a free port is looked for that both TCP and UDP can have.
const PORT_TRIES: usize = 16;

/// Idle visitors' hosts are asked for a sign of life this often, so that one who left without a word is noticed.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// What is there already when a relay begins. It binds what is absent, at the addresses that the configuration says.
#[derive(Debug, Default)]
pub struct Bound {
    /// The front's TCP listeners: one, or those of the process before.
    pub front: Vec<TcpListener>,
    /// For plain HTTP.
    pub http: Option<TcpListener>,
    /// The front's UDP sockets, in the order in which they were bound. Without QUIC they are not used.
    pub udp: Vec<UdpSocket>,
    /// How many processes there have been before this one, one after the other, modulo 256.
    pub generation: u8,
    /// Of public TCP ports, at the front's address.
    pub ports: Vec<TcpListener>,
    /// For each UDP socket, the earlier processes that have connections on it: their generations, and where they take packets.
    pub earlier: Vec<Vec<(u8, OwnedFd)>>,
    /// The ways to the process before, one for each of its workers, for whom only that one can serve.
    pub predecessor: Vec<OwnedFd>,
    /// The devices that are present there.
    pub present: Vec<(DeviceId, Attachment)>,
}

/// The front's sockets, bound.
#[derive(Debug)]
pub(super) struct FrontSockets {
    /// One for each worker.
    pub(super) tcp: Vec<TcpListener>,
    /// One for each worker; a single one where the kernel cannot tell which of several a packet is for; none without QUIC.
    pub(super) udp: Vec<UdpSocket>,
}

impl FrontSockets {
    /// Of each kind one for each of `workers`: those that are there already, and none more than workers. Of fewer TCP listeners
    /// several workers have the same; in the place of fewer UDP sockets others cannot be bound.
    pub(super) fn new(
        there: (Vec<TcpListener>, Vec<UdpSocket>),
        address: SocketAddr,
        with_udp: bool,
        workers: usize,
    ) -> io::Result<Self> {
        let (there, udp_there) = there;
        let Some(first) = there.first() else {
            return Self::bind(address, with_udp, workers);
        };
        let udp = match with_udp {
            true if udp_there.is_empty() => udp_group(first.local_addr()?, workers)?,
            true => udp_there,
            false => Vec::new(),
        };
        let mut tcp = Vec::new();
        for listener in there {
            let listener = Socket::from(listener);
            listen(&listener)?;
            tcp.push(TcpListener::from(listener));
        }
        for another in tcp.len()..workers {
            tcp.push(tcp[another % tcp.len()].try_clone()?);
        }
        Ok(Self { tcp, udp })
    }

    /// Binds `workers` of each kind, on a port that both can have if `address` names none.
    fn bind(address: SocketAddr, with_udp: bool, workers: usize) -> io::Result<Self> {
        let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
        loop {
            let tcp = tcp_group(address, workers)?;
            if !with_udp {
                let udp = Vec::new();
                return Ok(Self { tcp, udp });
            }
            match udp_group(tcp[0].local_addr()?, workers) {
                Ok(udp) => return Ok(Self { tcp, udp }),
                Err(error) if tries <= 1 => return Err(error),
                Err(_) => tries -= 1,
            }
        }
    }
}

/// A TCP listener that nobody shares: the one that is there already, or else a new one.
pub(super) fn tcp(there: Option<TcpListener>, address: SocketAddr) -> io::Result<TcpListener> {
    if let Some(there) = there {
        there.set_nonblocking(true)?;
        return Ok(there);
    }
    let socket = tcp_socket(address)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A TCP listener at a public port of a device: the one that is there already, or else a new one, which nobody shares but, if it
/// `shares`, another process of this relay.
pub(super) fn tcp_port(
    there: Option<TcpListener>,
    address: SocketAddr,
    shares: bool,
) -> io::Result<TcpListener> {
    let socket = match there {
        Some(there) => there.into(),
        None => at_port(tcp_socket(address)?, address, shares)?,
    };
    listen(&socket)?;
    Ok(socket.into())
}

/// A socket for datagrams at one, which is shared likewise.
pub(super) fn udp_port(address: SocketAddr, shares: bool) -> io::Result<UdpSocket> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
    socket_buffers::ask(&socket, UDP_PORT_BUFFER)?;
    Ok(at_port(socket, address, shares)?.into())
}

/// Binds a socket. Who binds it alone finds out whether somebody has the port; who comes after this process may share it all the same.
fn at_port(socket: Socket, address: SocketAddr, shares: bool) -> io::Result<Socket> {
    socket.set_reuse_port(shares)?;
    socket.bind(&address.into())?;
    socket.set_reuse_port(true)?;
    Ok(socket)
}

fn tcp_group(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let first = tcp_socket(address)?;
    first.bind(&address.into())?;
    let mut sockets = vec![first];
    share(&mut sockets, count, tcp_socket)?;
    sockets.iter().try_for_each(listen)?;
    Ok(sockets.into_iter().map(TcpListener::from).collect())
}

/// Listens for the front, or goes on to.
fn listen(socket: &Socket) -> io::Result<()> {
    // Connections have what their listener had.
    socket.set_tcp_nodelay(true)?;
    held::limit_unsent(socket, held::UNSENT_TO_VISITOR);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE / 4);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_nonblocking(true)?;
    socket.listen(BACKLOG)
}

fn udp_group(address: SocketAddr, count: usize) -> io::Result<Vec<UdpSocket>> {
    let first = udp_socket(address)?;
    first.bind(&address.into())?;
    let mut sockets = vec![first];
    share(&mut sockets, count, udp_socket)?;
    if sockets.len() > 1 {
        let several = u32::try_from(sockets.len()).map_err(io::Error::other)?;
        if let Err(error) = sys::steer_by_connection_id(&sockets[0], several) {
            tracing::warn!(%error, "QUIC has one thread only: the kernel does not steer packets");
            sockets.truncate(1);
        }
    }
    Ok(sockets.into_iter().map(UdpSocket::from).collect())
}

/// Binds more sockets to the address of the first, until there are `count`.
fn share(
    sockets: &mut Vec<Socket>,
    count: usize,
    another: impl Fn(SocketAddr) -> io::Result<Socket>,
) -> io::Result<()> {
    let Some(first) = sockets.first() else {
        return Ok(());
    };
    let address = first.local_addr()?;
    if count > 1 {
        first.set_reuse_port(true)?;
    }
    let bound = address.as_socket().ok_or(io::ErrorKind::Unsupported)?;
    for _ in 1..count {
        let socket = another(bound)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address)?;
        sockets.push(socket);
    }
    Ok(())
}

fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = socket(address, Type::STREAM, Protocol::TCP)?;
    socket.set_reuse_address(true)?; // a restart must not wait for old connections' TIME_WAIT
    Ok(socket)
}

fn udp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
    socket_buffers::ask(&socket, UDP_BUFFER)?;
    Ok(socket)
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 as well, whatever the system's default.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};

    use super::*;

    #[test]
    fn workers_share_a_port_that_nobody_else_can_join() {
        for address in [
            (Ipv4Addr::LOCALHOST, 0).into(),
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        ] {
            let sockets = FrontSockets::new(Default::default(), address, true, 3).unwrap();
            assert_eq!((sockets.tcp.len(), sockets.udp.len()), (3, 3));
            let taken = sockets.tcp[0].local_addr().unwrap();
            for address in sockets.tcp.iter().map(TcpListener::local_addr) {
                assert_eq!(address.unwrap(), taken);
            }
            for address in sockets.udp.iter().map(UdpSocket::local_addr) {
                assert_eq!(address.unwrap(), taken);
            }
            let tcp = tcp_group(taken, 3).unwrap_err();
            assert_eq!(tcp.kind(), ErrorKind::AddrInUse);
            let udp = udp_group(taken, 3).unwrap_err();
            assert_eq!(udp.kind(), ErrorKind::AddrInUse);
        }
    }

    #[test]
    fn workers_share_what_is_there_already_and_leave_it_there() {
        let there = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = there.local_addr().unwrap();
        let held = there.try_clone().unwrap();
        let waits = TcpStream::connect(address).unwrap();
        let sockets = FrontSockets::new((vec![there], Vec::new()), address, true, 3).unwrap();
        assert_eq!((sockets.tcp.len(), sockets.udp.len()), (3, 3));
        assert_eq!(sockets.udp[2].local_addr().unwrap(), address);
        let (came, from) = sockets.tcp[2].accept().unwrap();
        assert_eq!(from, waits.local_addr().unwrap());
        assert!(!came.nodelay().unwrap(), "it came before");
        let comes = TcpStream::connect(address).unwrap();
        let (came, from) = sockets.tcp[0].accept().unwrap();
        assert_eq!(from, comes.local_addr().unwrap());
        assert!(came.nodelay().unwrap());
        for socket in &sockets.tcp {
            let nobody = socket.accept().unwrap_err();
            assert_eq!(nobody.kind(), ErrorKind::WouldBlock);
        }
        drop(sockets);
        TcpStream::connect(address).unwrap();
        held.accept().unwrap();
    }

    #[test]
    fn each_socket_of_the_process_before_has_a_worker() {
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        let before = FrontSockets::new(Default::default(), address, true, 3).unwrap();
        let address = before.tcp[0].local_addr().unwrap();
        let same = || {
            let tcp = before.tcp.iter().map(|socket| socket.try_clone().unwrap());
            let udp = before.udp.iter().map(|socket| socket.try_clone().unwrap());
            (tcp.collect(), udp.collect())
        };
        // Whichever queue the kernel puts them in.
        let come: Vec<_> = (0..30)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        let sockets = FrontSockets::new(same(), address, true, 4).unwrap();
        assert_eq!((sockets.tcp.len(), sockets.udp.len()), (4, 3));
        let accepted = |socket: &TcpListener| std::iter::from_fn(|| socket.accept().ok()).count();
        let all: usize = sockets.tcp.iter().map(accepted).sum();
        assert_eq!(all, come.len());
        let without_udp = FrontSockets::new(same(), address, false, 3).unwrap();
        assert!(without_udp.udp.is_empty());
    }

    #[test]
    fn a_packet_reaches_the_socket_that_its_connection_id_names() {
        let sockets = udp_group((Ipv4Addr::LOCALHOST, 0).into(), 3).unwrap();
        let to = sockets[0].local_addr().unwrap();
        let deadline = Some(Duration::from_secs(5));
        for socket in &sockets {
            socket.set_nonblocking(false).unwrap();
            socket.set_read_timeout(deadline).unwrap();
        }
        for id in 0..12_u8 {
            let long = [0xc3, 0, 0, 0, 1, 8, id, 9, 9, 9, 9, 9, 9, 9];
            let short = [0x43, id, 9, 9, 9, 9, 9, 9, 9];
            for packet in [&long[..], &short[..]] {
                // From another port each time: as if a NAT had forgotten the one before.
                let from = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                from.send_to(packet, to).unwrap();
                let mut received = [0; 32];
                let named = &sockets[usize::from(id) % sockets.len()];
                let (length, who) = named.recv_from(&mut received).unwrap();
                assert_eq!(&received[..length], packet);
                assert_eq!(who, from.local_addr().unwrap());
            }
        }
    }
}
