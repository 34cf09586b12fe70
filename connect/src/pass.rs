//! One service's bytes, once the agent has granted it.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, BufReader, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// What is copied at once, each way.
const BUFFER: usize = 64 * 1024;

/// A connection to one service of a device.
pub type Connection = TlsStream<BufReader<TcpStream>>;

/// A connection for TLS, which asks for 4 KiB at a time: as system calls these would cost more than their decryption.
pub(crate) fn buffered(stream: TcpStream) -> BufReader<TcpStream> {
    BufReader::with_capacity(BUFFER, stream)
}

/// Copies both ways until both have ended, each on its own.
///
/// # Errors
/// If either side breaks off.
pub(crate) async fn both_ways(
    mut connection: Connection,
    app: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> io::Result<()> {
    copy_bidirectional_with_sizes(app, &mut connection, BUFFER, BUFFER).await?;
    Ok(())
}
