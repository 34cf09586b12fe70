//! Signed updates over a TCP connection, one after the other.

use std::io;
use std::net::SocketAddr;
use std::time::SystemTime;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Signer;
use crate::question::NO_ERROR;

/// A connection, made when it is needed. A clone makes one of its own.
pub(super) struct Line {
    server: SocketAddr,
    signer: Signer,
    stream: Option<TcpStream>,
}

impl Clone for Line {
    fn clone(&self) -> Self {
        Self::to(self.server, self.signer.clone())
    }
}

impl Line {
    pub(super) fn to(server: SocketAddr, signer: Signer) -> Self {
        Self {
            server,
            signer,
            stream: None,
        }
    }

    /// Sends an update of `name`, as messages have it, and waits for the reply; `Ok` once it is acknowledged.
    pub(super) async fn exchange(
        &mut self,
        mut message: Vec<u8>,
        name: &[u8],
    ) -> Result<(), String> {
        self.signer.sign(&mut message, name, SystemTime::now());
        let code = match self.stream.take() {
            Some(stream) => self.exchange_on(stream, &message).await,
            None => match TcpStream::connect(self.server).await {
                Ok(stream) => self.exchange_on(stream, &message).await,
                Err(error) => Err(error),
            },
        };
        match code {
            Ok(NO_ERROR) => Ok(()),
            Ok(code) => Err(format!("the answer was {code}")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The reply's code. The connection is kept only if there was one.
    async fn exchange_on(&mut self, mut stream: TcpStream, message: &[u8]) -> io::Result<u8> {
        stream.set_nodelay(true)?;
        let length = u16::try_from(message.len()).map_err(io::Error::other)?;
        stream
            .write_all(&[&length.to_be_bytes(), message].concat())
            .await?;
        let mut reply = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut reply).await?;
        let &[high, low, _, code, ..] = &reply[..] else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        if !message.starts_with(&[high, low]) {
            return Err(io::Error::other("a reply to nothing"));
        }
        self.stream = Some(stream);
        Ok(code & 0x0f)
    }
}
