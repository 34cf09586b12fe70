//! The service behind every peer: octets of no meaning, which `sendfile(2)` takes from memory where they are many.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use rustix::fs::{MemfdFlags, memfd_create, sendfile};
use rustix::net::sockopt::set_tcp_congestion;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;
use tokio::time::sleep;

use crate::plain::{HELLO, Request, SMALL, WORK};

/// The file that long answers are made of, again and again: more than a processor's caches hold.
pub(crate) const FILE: u64 = 64 << 20;

/// How much is sent at once, so that eight visitors get their turns.
const PORTION: u64 = 512 << 10;

/// A hello and a request come together, and are read together.
const READ: usize = 4096;

/// What is wanted.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Where it listens; port 0 for any.
    pub(crate) listen: SocketAddr,
    /// How it meets losses; `None` for what is the default here.
    pub(crate) congestion: Option<String>,
}

/// Where it listens.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) address: SocketAddr,
}

pub(super) async fn play(order: Order) -> anyhow::Result<()> {
    let file = Arc::new(file()?);
    let listener = TcpListener::bind(order.listen).await?;
    if let Some(congestion) = &order.congestion {
        // Visitors' sockets inherit it.
        set_tcp_congestion(&listener, congestion).context("this kernel has no such control")?;
    }
    super::say(&Ready {
        address: listener.local_addr()?,
    })?;
    loop {
        let (visitor, _) = listener.accept().await?;
        visitor.set_nodelay(true)?;
        // The visitor sees an error as a broken connection, which is counted there. The tasks end with the process.
        tokio::spawn(serve(visitor, Arc::clone(&file)));
    }
}

fn file() -> io::Result<File> {
    let mut file = File::from(memfd_create("plain origin", MemfdFlags::CLOEXEC)?);
    let octets = vec![b'#'; 1 << 20];
    for _ in 0..FILE / octets.len() as u64 {
        file.write_all(&octets)?;
    }
    Ok(file)
}

async fn serve(visitor: TcpStream, file: Arc<File>) -> io::Result<()> {
    let mut visitor = BufReader::with_capacity(READ, visitor);
    visitor.read_exact(&mut vec![0; HELLO.len()]).await?;
    let mut request = [0; Request::LENGTH];
    loop {
        visitor.read_exact(&mut request).await?;
        let Request {
            length,
            last,
            works,
        } = Request::decode(&request);
        if works {
            sleep(WORK).await;
        }
        if length <= SMALL {
            let octets = [b'#'; SMALL as usize];
            visitor.write_all(&octets[..length as usize]).await?;
        } else {
            send(visitor.get_ref(), &file, length).await?;
        }
        if last {
            return Ok(());
        }
    }
}

async fn send(visitor: &TcpStream, file: &File, length: u64) -> io::Result<()> {
    let (mut left, mut offset) = (length, 0);
    while left > 0 {
        visitor.writable().await?;
        let portion = left.min(FILE - offset).min(PORTION) as usize;
        let sent = visitor.try_io(Interest::WRITABLE, || {
            Ok(sendfile(visitor, file, Some(&mut offset), portion)?)
        });
        match sent {
            Ok(sent) => left -= sent as u64,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if offset == FILE {
            offset = 0;
        }
        yield_now().await; // a visitor who reads fast would have this thread for itself
    }
    Ok(())
}
