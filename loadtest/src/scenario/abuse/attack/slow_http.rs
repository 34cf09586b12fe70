//! HTTP/1.1 that does not come to its end: a head, a body, or an answer.

use std::io;
use std::time::Duration;

use relay::tls::connect_https;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::target::{HttpEnd, Target};

/// Between two octets of one who is slow.
const PAUSE: Duration = Duration::from_millis(500);

/// What the kernel may keep of an answer that nobody reads.
const LITTLE: usize = 4096;

/// Requests that are sent at once by one who reads no answer.
const PIPELINED: usize = 1000;

/// A request's head that does not end.
pub(super) async fn head(stream: TcpStream, target: &Target, number: u64) -> io::Result<()> {
    let end = target.http_end(number);
    let mut stream = connect_https(stream, &end.host, target.roots()).await?;
    let head = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nX-Slow: ",
        end.gives, end.host
    );
    stream.write_all(head.as_bytes()).await?;
    drip(stream).await
}

/// A request's body that does not end.
pub(super) async fn body(stream: TcpStream, target: &Target, number: u64) -> io::Result<()> {
    let end = target.http_end(number);
    let mut stream = connect_https(stream, &end.host, target.roots()).await?;
    let HttpEnd { host, takes, .. } = end;
    let head = format!("PUT {takes} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4000\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    drip(stream).await
}

/// Many requests, and no answer is read. Whether the other end has had enough shows in that it takes no more.
pub(super) async fn read_nothing(
    stream: TcpStream,
    target: &Target,
    number: u64,
) -> io::Result<()> {
    let end = target.http_end(number);
    SockRef::from(&stream).set_recv_buffer_size(LITTLE)?;
    let mut stream = connect_https(stream, &end.host, target.roots()).await?;
    let HttpEnd { host, gives, .. } = end;
    let request = format!("GET {gives} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let requests = request.repeat(PIPELINED);
    stream.write_all(requests.as_bytes()).await?;
    stream.flush().await?;
    loop {
        // A line end in front of a request is skipped (RFC 9112 section 2.2).
        sleep(PAUSE).await;
        stream.write_all(b"\r\n").await?;
        stream.flush().await?;
    }
}

/// An octet at a time, until the other end has answered and closed.
async fn drip(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut room = [0; 1024];
    loop {
        stream.write_all(b"x").await?;
        stream.flush().await?;
        match timeout(PAUSE, stream.read(&mut room)).await {
            Ok(Ok(1..)) | Err(_) => {}
            Ok(ended) => return ended.map(drop),
        }
    }
}
