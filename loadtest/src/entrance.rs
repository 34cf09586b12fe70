//! Where a visitor comes in, and what it has then: a connection that is plain, or TLS to the device.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;

use relay::tls::{Roots, connect_https};
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;

/// The most that is received at once.
const PORTION: usize = 256 * 1024;

thread_local! {
    /// Said to be where plain octets go. None ever does.
    static NOWHERE: RefCell<Vec<u8>> = RefCell::new(vec![0; PORTION]);
}

/// A door for visitors.
#[derive(Clone, Debug)]
pub(crate) struct Entrance {
    pub(crate) front: SocketAddr,
    /// The device's host name and what vouches for it, where its agent ends TLS.
    pub(crate) tls: Option<(String, Roots)>,
}

/// A visitor's connection.
pub(crate) enum Line {
    Plain(TcpStream),
    Tls {
        stream: Box<dyn Stream>,
        room: Vec<u8>,
    },
}

/// What TLS is here.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Entrance {
    pub(crate) fn plain(front: SocketAddr) -> Self {
        Self { front, tls: None }
    }

    pub(crate) async fn enter(&self) -> io::Result<Line> {
        self.enter_by(TcpStream::connect(self.front).await?).await
    }

    /// The same by a connection that is there.
    pub(crate) async fn enter_by(&self, stream: TcpStream) -> io::Result<Line> {
        stream.set_nodelay(true)?;
        let Some((host, roots)) = &self.tls else {
            return Ok(Line::Plain(stream));
        };
        Ok(Line::Tls {
            stream: Box::new(connect_https(stream, host, roots).await?),
            room: vec![0; PORTION],
        })
    }
}

impl Line {
    pub(crate) async fn send(&mut self, octets: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(octets).await,
            Self::Tls { stream, .. } => {
                stream.write_all(octets).await?;
                stream.flush().await
            }
        }
    }

    /// Receives `limit` octets at most and throws them away: plain ones the kernel does. How many there were; 0 for the end.
    pub(crate) async fn forget(&mut self, limit: u64) -> io::Result<usize> {
        let limit = usize::try_from(limit).unwrap_or(PORTION).min(PORTION);
        match self {
            Self::Tls { stream, room } => stream.read(&mut room[..limit]).await,
            Self::Plain(stream) => loop {
                stream.readable().await?;
                match stream.try_io(Interest::READABLE, || forget(stream, limit)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    forgotten => return forgotten,
                }
            },
        }
    }
}

/// With MSG_TRUNC a TCP socket's octets are counted and thrown away (tcp(7)).
fn forget(stream: &TcpStream, limit: usize) -> io::Result<usize> {
    NOWHERE.with_borrow_mut(|nowhere| {
        let (_, length) = recv(stream, &mut nowhere[..limit], RecvFlags::TRUNC)?;
        Ok(length)
    })
}
