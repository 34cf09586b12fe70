//! A service that fails as it is asked to: by its paths.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// Never answered.
pub(crate) const HANG: &str = "/hang";

/// Answered with the half of what was promised, and a reset.
pub(crate) const BREAK: &str = "/break";

/// The half of it, in octets.
pub(crate) const HALF: usize = 64 * 1024;

/// How long the other end has to read it.
const READ_TIME: Duration = Duration::from_millis(200);

/// What is wanted.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Where it listens; port 0 for any.
    pub(crate) listen: SocketAddr,
}

/// Where it listens.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) address: SocketAddr,
}

pub(super) async fn play(order: Order) -> anyhow::Result<()> {
    let listener = TcpListener::bind(order.listen).await?;
    super::say(&Ready {
        address: listener.local_addr()?,
    })?;
    loop {
        let (client, _) = listener.accept().await?;
        // Its client sees what goes wrong. The tasks end with the process.
        tokio::spawn(serve(client));
    }
}

async fn serve(client: TcpStream) -> io::Result<()> {
    let mut client = BufReader::new(client);
    loop {
        let mut path = None;
        loop {
            let mut line = String::new();
            if client.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            match line.trim_end() {
                "" => break,
                first if path.is_none() => path = first.split(' ').nth(1).map(str::to_owned),
                _ => {}
            }
        }
        match path.as_deref() {
            Some(HANG) => return pending().await,
            Some(BREAK) => {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 2 * HALF);
                client.write_all(head.as_bytes()).await?;
                client.write_all(&vec![0; HALF]).await?;
                client.flush().await?;
                // A reset makes the other end throw away what it has not read.
                sleep(READ_TIME).await;
                return SockRef::from(client.get_ref()).set_linger(Some(Duration::ZERO));
            }
            _ => {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n";
                client.write_all(answer).await?;
            }
        }
    }
}
