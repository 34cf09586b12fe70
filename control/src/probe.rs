//! Does it answer? What `up` asks itself before it says that it is ready, over real sockets.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http_body_util::Full;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use relay::http_client;
use relay::tls::{self, Roots};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use wire::proxy_v2;

/// How long one answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// No page that is asked for here is longer, in octets.
const MAX_PAGE: usize = 1024 * 1024;

/// Where a listener on `address` is reached from this host.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        SocketAddr::V4(_) | SocketAddr::V6(_) => address.ip(),
    };
    SocketAddr::new(ip, address.port())
}

/// Asks `host` at the front of `relay` for `path` over HTTPS; anything but 200 is an error.
pub(crate) async fn https(
    relay: &relay::server::Handle,
    host: &str,
    path: &str,
    roots: &Roots,
) -> io::Result<()> {
    in_time(async {
        let mut stream = TcpStream::connect(reachable(relay.front())).await?;
        // With a proxy on this host, whoever comes from here must say whose the connection is.
        if relay.has_proxy_at(stream.local_addr()?.ip()) {
            stream.write_all(&proxy_v2::LOCAL).await?;
        }
        let stream = tls::connect_https(stream, host, roots).await?;
        get(stream, host, path).await
    })
    .await
}

/// The same over plain HTTP.
pub(crate) async fn http(address: SocketAddr, path: &str) -> io::Result<()> {
    in_time(async {
        let stream = TcpStream::connect(reachable(address)).await?;
        get(stream, "localhost", path).await
    })
    .await
}

/// Asks the DNS server at `address` for the SOA record of `zone`.
pub(crate) async fn dns(address: SocketAddr, zone: &str) -> io::Result<()> {
    in_time(async {
        let address = reachable(address);
        let any: SocketAddr = if address.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(address).await?;
        let id: [u8; 2] = rand::random();
        socket.send(&soa_query(id, zone)).await?;
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).await?;
        match &answer[..length] {
            // Our id, a response, authoritative, no error, at least one record.
            [a, b, flags, rcode, _, _, high, low, ..]
                if [*a, *b] == id
                    && flags & 0x84 == 0x84
                    && rcode & 0x0f == 0
                    && (*high, *low) != (0, 0) =>
            {
                Ok(())
            }
            _ => Err(io::Error::other("the answer is not the zone's SOA record")),
        }
    })
    .await
}

/// Whether the DNS server at `address` proves over TLS that it is `host`.
pub(crate) async fn dot(address: SocketAddr, host: &str, roots: &Roots) -> io::Result<()> {
    in_time(async {
        let stream = TcpStream::connect(reachable(address)).await?;
        tls::connect_dot(stream, host, roots).await.map(drop)
    })
    .await
}

fn soa_query(id: [u8; 2], zone: &str) -> Vec<u8> {
    let mut query = id.to_vec();
    query.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in zone.split('.') {
        query.push(label.len() as u8); // a label of a Zone has at most 63 octets
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 6, 0, 1]);
    query
}

async fn get(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    host: &str,
    path: &str,
) -> io::Result<()> {
    let request = Request::get(path)
        .header(HOST, host)
        .body(Full::default())
        .map_err(io::Error::other)?;
    match http_client::exchange(stream, request, MAX_PAGE).await? {
        (StatusCode::OK, _) => Ok(()),
        (status, _) => Err(io::Error::other(format!("{path} answered {status}"))),
    }
}

async fn in_time(answer: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    timeout(ANSWER_TIME, answer)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
