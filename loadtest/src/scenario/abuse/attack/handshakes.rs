//! TLS handshakes with the relay itself that one end never finishes.

use std::io;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use wire::ALPN_TUNNEL;

use super::hello::Hello;
use super::quiet;
use super::target::Target;

/// Says hello to `relay.<zone>` or `cloud.<zone>`, in records of `portion` octets, and takes whatever is answered.
pub(super) async fn begin(
    mut stream: TcpStream,
    target: &Target,
    number: u64,
    portion: usize,
) -> io::Result<()> {
    let (host, alpn) = match number.is_multiple_of(2) {
        true => ("relay", ALPN_TUNNEL),
        false => ("cloud", &b"h2"[..]),
    };
    let hello = Hello {
        host: &format!("{host}.{}", target.zone),
        alpn,
        transport_parameters: None,
    };
    stream.write_all(&hello.records(portion)).await?;
    quiet::rest(stream).await
}
