//! From a host name to a connection. `localhost` and every name below it is this machine (RFC 6761 section 6.3), which
//! the C library does not know.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// A name server that answers later than this is as good as none.
const LOOKUP_TIME: Duration = Duration::from_secs(5);

/// RFC 8305 section 5: the next address is tried when the one before has not answered after this long.
const STAGGER: Duration = Duration::from_millis(250);

/// How long one address may take to accept a TCP connection.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Where host names lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resolver {
    /// Where the system says, `localhost` apart.
    #[default]
    System,
    /// Every name to this address: for a program that lives beside the server it speaks to.
    Fixed(SocketAddr),
    /// Every name to this host, at the port that is asked for: for one that lives beside several.
    Host(IpAddr),
}

impl Resolver {
    /// The addresses of `host`, never empty.
    ///
    /// # Errors
    /// If the name does not resolve, or not in time.
    pub async fn resolve(self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::System => resolve(host, port).await,
            Self::Fixed(address) => Ok(vec![address]),
            Self::Host(host) => Ok(vec![(host, port).into()]),
        }
    }

    /// A TCP connection to the first address of `host` that accepts one, without Nagle's delay.
    ///
    /// # Errors
    /// If none does; the error of the last address tried.
    pub async fn connect(self, host: &str, port: u16) -> io::Result<TcpStream> {
        let addresses = self.resolve(host, port).await?;
        first_of(addresses, |address| async move {
            timeout(CONNECT_TIME, connect_to(address))
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
        })
        .await
    }
}

/// A TCP connection to `address`, without Nagle's delay. On this machine it stands as soon as it is asked for, and nothing is
/// waited for.
///
/// # Errors
/// If there is no such connection, whenever that turns out.
pub(crate) async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let stands = socket.peer_addr().is_ok();
    let stream = TcpStream::from_std(socket.into())?;
    if !stands {
        stream.writable().await?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
    }
    Ok(stream)
}

async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let plain = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if plain == "localhost" || plain.ends_with(".localhost") {
        let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        return Ok(loopback.map(|ip| SocketAddr::new(ip, port)).to_vec());
    }
    let found = timeout(LOOKUP_TIME, lookup_host((bare(host), port))).await;
    let found = found.map_err(|_| no_answer(host))?;
    // The standard library has no kind for what the C library says.
    let found = found.map_err(|error| io::Error::new(io::ErrorKind::NotFound, error))?;
    let addresses: Vec<_> = found.collect();
    if addresses.is_empty() {
        return Err(no_answer(host));
    }
    Ok(addresses)
}

/// A host without the brackets that an IPv6 address has in a URL.
pub(crate) fn bare(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host)
}

/// Tries `attempt` on each address, the next one whenever the one before fails or is slow, and gives the first success.
pub(crate) async fn first_of<T, F>(
    addresses: Vec<SocketAddr>,
    attempt: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
{
    if let [only] = addresses[..] {
        return attempt(only).await;
    }
    let mut waiting = addresses.into_iter();
    let mut attempts = JoinSet::new(); // dropped with this future, and every attempt with it
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    loop {
        if let Some(address) = waiting.next() {
            attempts.spawn(attempt(address));
        }
        tokio::select! {
            ended = attempts.join_next() => match ended {
                Some(Ok(Ok(success))) => return Ok(success),
                Some(Ok(Err(error))) => failed = error,
                Some(Err(error)) => failed = io::Error::other(error),
                None => return Err(failed),
            },
            () = sleep(STAGGER), if waiting.len() > 0 => {}
        }
    }
}

fn no_answer(host: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("no address found for {host}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, port).into()
    }

    #[tokio::test]
    async fn every_name_below_localhost_is_this_machine() {
        for host in ["localhost", "demo.nas.localhost", "Cloud.NAS.LocalHost."] {
            let addresses = resolve(host, 8443).await.unwrap();
            assert!(addresses.contains(&address(8443)), "{host}");
            assert!(
                addresses.iter().all(|address| address.ip().is_loopback()),
                "{host}"
            );
        }
    }

    #[tokio::test]
    async fn addresses_resolve_to_themselves() {
        assert_eq!(resolve("127.0.0.1", 1).await.unwrap(), [address(1)]);
        assert_eq!(
            resolve("[::1]", 1).await.unwrap(),
            ["[::1]:1".parse().unwrap()]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_address_does_not_hold_up_the_next() {
        let first = first_of(vec![address(1), address(2)], |address| async move {
            if address.port() == 1 {
                sleep(Duration::from_secs(60)).await;
            }
            Ok(address.port())
        });
        assert_eq!(first.await.unwrap(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_failure_is_told() {
        let none: io::Result<()> = first_of(vec![address(1), address(2)], |address| async move {
            Err(io::Error::other(format!("no {}", address.port())))
        })
        .await;
        assert_eq!(none.unwrap_err().to_string(), "no 2");
    }
}
