//! Connections that say little, or what is none, before anybody knows whom they want.

use std::io;
use std::time::Duration;

use rand::RngExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use wire::raw::{FIRST_OCTET, HEADER};

use crate::plain::HELLO;

/// Between two octets of one who says its name slowly.
const PAUSE: Duration = Duration::from_millis(500);

/// The head of a record as long as may be (RFC 8446 section 5.1), and of a ClientHello in it.
const LONG_RECORD: [u8; 5] = [22, 3, 1, 0x40, 0];
const LONG_HELLO: [u8; 6] = [1, 0, 0x3f, 0xfc, 3, 3];
const ENDLESS_HELLO: [u8; 6] = [1, 0xff, 0xff, 0xff, 3, 3];

/// What is sent of a long hello: as much as the relay does not count.
const SENT_OF_LONG: usize = 4096;

/// Says nothing.
pub(super) async fn rest(mut stream: TcpStream) -> io::Result<()> {
    let mut room = [0; 64];
    while stream.read(&mut room).await? > 0 {}
    Ok(())
}

/// Asks for a device that does not exist.
pub(super) async fn ask_for_nobody(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(HELLO).await?;
    rest(stream).await
}

/// The same octet by octet.
pub(super) async fn say_slowly(mut stream: TcpStream) -> io::Result<()> {
    let mut room = [0; 64];
    for octet in HELLO {
        stream.write_all(&[*octet]).await?;
        if timeout(PAUSE, stream.read(&mut room)).await.is_ok() {
            return Ok(());
        }
    }
    rest(stream).await
}

/// Sends some of a hello that is as long as one record can be, and no more of it.
pub(super) async fn begin_a_long_hello(mut stream: TcpStream) -> io::Result<()> {
    let mut octets = [&LONG_RECORD[..], &LONG_HELLO].concat();
    octets.resize(SENT_OF_LONG, 0);
    stream.write_all(&octets).await?;
    rest(stream).await
}

/// Sends some of a hello that is to have 16 MiB.
pub(super) async fn claim_much(mut stream: TcpStream) -> io::Result<()> {
    let mut octets = [&LONG_RECORD[..], &ENDLESS_HELLO].concat();
    octets.resize(SENT_OF_LONG, 0);
    stream.write_all(&octets).await?;
    rest(stream).await
}

/// Claims to be the raw connection that was asked for with a ticket.
pub(super) async fn show_a_ticket(mut stream: TcpStream) -> io::Result<()> {
    let mut octets = [0; HEADER];
    rand::rng().fill(&mut octets);
    octets[..2].copy_from_slice(&[FIRST_OCTET, 1]);
    stream.write_all(&octets).await?;
    rest(stream).await
}
