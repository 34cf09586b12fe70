//! Sockets that are there already: those of the server before this one. They are the same sockets in both processes, with one
//! queue each: what comes in is answered by whoever reads it first, and what nobody has read yet waits for whoever is left.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::{SockRef, Type};

use crate::server::bind::{self, Sockets};

/// Sockets to listen on. An empty one has all bound anew.
#[derive(Debug, Default)]
pub struct Bound {
    /// DNS over UDP: all that share the port, since the kernel deals the datagrams out among them whoever reads. Each gets a worker.
    pub udp: Vec<UdpSocket>,
    /// DNS over TCP, on the same port.
    pub tcp: Option<TcpListener>,
    /// DNS over TLS. Without it, that is bound anew.
    pub dot: Option<TcpListener>,
}

/// Why sockets that are there already cannot be used. Whoever has handed them over has to mend it, or the configuration says
/// something else than it did to the server before.
#[derive(Debug, thiserror::Error)]
pub enum BoundError {
    /// UDP without TCP, or TCP without UDP.
    #[error("DNS is spoken over UDP and TCP on one port, and of the two only {0} was handed over")]
    Half(&'static str),
    /// A socket of another kind, or a connection.
    #[error("what was handed over for DNS ({0}) is no socket for that")]
    Kind(&'static str),
    /// It is elsewhere than the configuration says, or UDP and TCP are apart.
    #[error(
        "the socket that was handed over for DNS ({transport}) is at {bound}, and should be at {wanted}"
    )]
    Elsewhere {
        /// `UDP`, `TCP` or `TLS`.
        transport: &'static str,
        /// Where it is.
        bound: SocketAddr,
        /// Where it should be.
        wanted: SocketAddr,
    },
    /// It is at `[::]` without IPv4.
    #[error(
        "the socket that was handed over for DNS ({0}) takes no IPv4, which `[::]` in the configuration includes"
    )]
    OnlyIpv6(&'static str),
    /// Nobody takes it.
    #[error("a socket for DNS over TLS was handed over, and there is no `dot` in [ddns]")]
    Unwanted,
    /// The system's.
    #[error("the socket that was handed over for DNS ({transport}) cannot be used: {source}")]
    Unusable {
        /// `UDP`, `TCP` or `TLS`.
        transport: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

/// The sockets for UDP and TCP at `listen`, if they are there already.
pub(crate) fn take(
    listen: SocketAddr,
    udp: Vec<UdpSocket>,
    tcp: Option<TcpListener>,
) -> Result<Option<Sockets>, BoundError> {
    let tcp = match (tcp, udp.is_empty()) {
        (Some(tcp), false) => tcp,
        (Some(_), true) => return Err(BoundError::Half("TCP")),
        (None, false) => return Err(BoundError::Half("UDP")),
        (None, true) => return Ok(None),
    };
    let addr = take_listener(listen, &tcp, "TCP")?;
    for socket in &udp {
        let socket = SockRef::from(socket);
        check(addr, &socket, Type::DGRAM, "UDP")?;
        bind::prepare_udp(&socket, addr).map_err(unusable("UDP"))?;
    }
    bind::deal_out(&udp).map_err(unusable("UDP"))?;
    Ok(Some(Sockets { addr, tcp, udp }))
}

/// The listener for TLS at `listen`, and where it is.
pub(crate) fn take_dot(
    listen: SocketAddr,
    tcp: TcpListener,
) -> Result<(SocketAddr, tokio::net::TcpListener), BoundError> {
    let addr = take_listener(listen, &tcp, "TLS")?;
    let tcp = tokio::net::TcpListener::from_std(tcp).map_err(unusable("TLS"))?;
    Ok((addr, tcp))
}

fn take_listener(
    wanted: SocketAddr,
    tcp: &TcpListener,
    transport: &'static str,
) -> Result<SocketAddr, BoundError> {
    let socket = SockRef::from(tcp);
    let addr = check(wanted, &socket, Type::STREAM, transport)?;
    if !socket.is_listener().unwrap_or(false) {
        return Err(BoundError::Kind(transport));
    }
    tcp.set_nonblocking(true).map_err(unusable(transport))?;
    Ok(addr)
}

/// Where `socket` is; that must be `wanted`, whose port 0 is any.
fn check(
    wanted: SocketAddr,
    socket: &SockRef<'_>,
    kind: Type,
    transport: &'static str,
) -> Result<SocketAddr, BoundError> {
    let bound = socket.local_addr().ok().and_then(|addr| addr.as_socket());
    let bound = bound
        .filter(|bound| bound.port() != 0 && socket.r#type().is_ok_and(|its| its == kind))
        .ok_or(BoundError::Kind(transport))?;
    if bound.ip() != wanted.ip() || ![0, bound.port()].contains(&wanted.port()) {
        return Err(BoundError::Elsewhere {
            transport,
            bound,
            wanted,
        });
    }
    if bound.is_ipv6() && bound.ip().is_unspecified() && socket.only_v6().unwrap_or(true) {
        return Err(BoundError::OnlyIpv6(transport));
    }
    Ok(bound)
}

fn unusable(transport: &'static str) -> impl Fn(io::Error) -> BoundError {
    move |source| BoundError::Unusable { transport, source }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};
    use std::os::fd::OwnedFd;

    use socket2::{Domain, Socket};

    use super::*;

    const ANY: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

    fn bound() -> Sockets {
        bind::bind(ANY.into(), 3).unwrap()
    }

    fn fault(
        wanted: impl Into<SocketAddr>,
        udp: Vec<UdpSocket>,
        tcp: Option<TcpListener>,
    ) -> String {
        take(wanted.into(), udp, tcp).unwrap_err().to_string()
    }

    #[test]
    fn the_same_sockets_are_taken_and_wait_as_a_worker_needs_it() {
        let before = bound();
        let duplicates: Vec<_> = before.udp.iter().map(UdpSocket::try_clone).collect();
        let duplicates: Vec<_> = duplicates.into_iter().map(Result::unwrap).collect();
        duplicates[0].set_nonblocking(true).unwrap();
        let tcp = before.tcp.try_clone().unwrap();
        let after = take(before.addr, duplicates, Some(tcp)).unwrap().unwrap();
        assert_eq!((after.addr, after.udp.len()), (before.addr, 3));

        // A worker ends its wait without a query by the time-out, and not at once.
        let began = std::time::Instant::now();
        after.udp[0].recv(&mut [0; 8]).unwrap_err();
        assert!(began.elapsed().as_millis() >= 200, "{:?}", began.elapsed());

        let client = UdpSocket::bind(ANY).unwrap();
        for _ in 0..90 {
            client.send_to(b"?", after.addr).unwrap();
        }
        let mut received = 0;
        for socket in &after.udp {
            while socket.recv(&mut [0; 8]).is_ok() {
                received += 1;
            }
        }
        assert_eq!(received, 90);
        assert!(take(before.addr, Vec::new(), None).unwrap().is_none());
    }

    #[test]
    fn one_of_two_is_refused() {
        let Sockets { udp, tcp, addr } = bound();
        assert!(fault(addr, udp, None).contains("only UDP"));
        assert!(fault(addr, Vec::new(), Some(tcp)).contains("only TCP"));
    }

    #[test]
    fn sockets_must_be_where_the_configuration_says_and_on_one_port() {
        for wanted in [
            SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
        ] {
            let Sockets { udp, tcp, addr } = bound();
            let fault = fault(wanted, udp, Some(tcp));
            let both = [addr, wanted].map(|address| address.to_string());
            assert!(both.iter().all(|one| fault.contains(one)), "{fault}");
        }
        let (first, second) = (bound(), bound());
        let fault = fault(ANY, first.udp, Some(second.tcp));
        assert!(fault.contains("(UDP)"), "{fault}");
        assert!(fault.contains(&second.addr.to_string()), "{fault}");
    }

    #[test]
    fn what_is_of_another_kind_is_refused() {
        let listener = || TcpListener::bind(ANY).unwrap();
        let connected_to = listener();
        let connection = TcpStream::connect(connected_to.local_addr().unwrap()).unwrap();
        let unbound = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        let things: [(OwnedFd, OwnedFd); 3] = [
            (UdpSocket::bind(ANY).unwrap().into(), connection.into()),
            (listener().into(), listener().into()),
            (unbound.into(), listener().into()),
        ];
        for (udp, tcp) in things {
            let fault = fault(ANY, vec![udp.into()], Some(tcp.into()));
            assert!(fault.contains("is no socket for that"), "{fault}");
        }
    }

    #[test]
    fn ipv6_alone_is_not_every_address() {
        let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        socket.set_only_v6(true).unwrap();
        socket.bind(&everywhere.into()).unwrap();
        socket.listen(1).unwrap();
        let udp = UdpSocket::bind(ANY).unwrap();
        let fault = fault(everywhere, vec![udp], Some(socket.into()));
        assert!(fault.contains("takes no IPv4"), "{fault}");
    }
}
