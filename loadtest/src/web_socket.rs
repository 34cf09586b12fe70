//! A visitor's WebSocket: TLS to a device's name through the front, and RFC 6455 in it.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use relay::tls::connect_https;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpSocket;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::visitor::Door;

/// How long it may take to open one, and to hear what was said.
const PATIENCE: Duration = Duration::from_secs(30);

/// Its messages are short, and there are thousands of them: both ends keep little for each.
const BUFFER: usize = 1024;

pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(BUFFER)
}

/// One that is open.
pub(crate) struct WebSocket(WebSocketStream<Box<dyn Stream>>);

/// What it runs on.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl WebSocket {
    /// One of the device behind `door`, at `path`, for who comes from such an address.
    pub(crate) async fn open(door: &Door, path: &str, from: Option<IpAddr>) -> io::Result<Self> {
        let opened = timeout(PATIENCE, async {
            let front = door.entrance().front;
            let socket = match front.is_ipv4() {
                true => TcpSocket::new_v4()?,
                false => TcpSocket::new_v6()?,
            };
            if let Some(from) = from {
                socket.bind((from, 0).into())?;
            }
            let stream = socket.connect(front).await?;
            stream.set_nodelay(true)?;
            let stream = connect_https(stream, door.host(), door.roots()).await?;
            let stream: Box<dyn Stream> = Box::new(stream);
            let url = format!("wss://{}:{}{path}", door.host(), front.port());
            let opened = client_async_with_config(url, stream, Some(config())).await;
            let (socket, _) = opened.map_err(io::Error::other)?;
            Ok(Self(socket))
        });
        opened.await?
    }

    /// Says something, and waits until it is said again.
    pub(crate) async fn ask(&mut self, text: &str) -> io::Result<()> {
        let asked = timeout(PATIENCE, async {
            let said = Message::text(text);
            self.0.send(said.clone()).await.map_err(io::Error::other)?;
            while let Some(heard) = self.0.next().await {
                if heard.map_err(io::Error::other)? == said {
                    return Ok(());
                }
            }
            Err(io::ErrorKind::UnexpectedEof.into())
        });
        asked.await?
    }
}
