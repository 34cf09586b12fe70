//! The service behind the agent: small answers, endless ones, a place to upload to, and WebSockets that say again what they hear, as
//! cheap as HTTP can be.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::net::TcpListener;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::web_socket;
use crate::zeros::Zeros;

/// Answered with [`BULK_LENGTH`] octets; uploads go there too. Every other path gets [`SMALL_LENGTH`].
pub(crate) const BULK: &str = "/bulk";

const BULK_LENGTH: u64 = 1 << 30;
const SMALL_LENGTH: u64 = 1024;

/// What it gives the kernel that cannot be sent yet, in octets, for each visitor. On loopback that would be 1.4 MB by default, which
/// is no part of what is measured.
const UNSENT: u32 = 256 * 1024;

/// What is wanted: nothing that could be chosen.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {}

/// Where it listens.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) address: SocketAddr,
}

pub(super) async fn play(Order {}: Order) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    // Its connections have it too.
    SockRef::from(&listener).set_tcp_notsent_lowat(UNSENT)?;
    super::say(&Ready {
        address: listener.local_addr()?,
    })?;
    loop {
        let (client, _) = listener.accept().await?;
        client.set_nodelay(true)?;
        // Its client sees an error as a broken connection, which is counted there. The tasks end with the process.
        let served =
            http1::Builder::new().serve_connection(TokioIo::new(client), service_fn(answer));
        tokio::spawn(served.with_upgrades());
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Zeros>, Infallible> {
    if let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) {
        let accepted = derive_accept_key(key.as_bytes());
        return Ok(upgraded(request, &accepted));
    }
    let bulk = request.uri().path() == BULK;
    let mut answer = match request.method() {
        &Method::PUT | &Method::POST => Response::new(Zeros::new(0)),
        _ if bulk => Response::new(Zeros::new(BULK_LENGTH)),
        _ => Response::new(Zeros::new(SMALL_LENGTH)),
    };
    let mut body = request.into_body();
    if !body.is_end_stream() {
        while let Some(Ok(_)) = body.frame().await {}
        *answer.status_mut() = StatusCode::NO_CONTENT;
    }
    Ok(answer)
}

/// RFC 6455 section 4.2.2.
fn upgraded(request: Request<Incoming>, accepted: &str) -> Response<Zeros> {
    tokio::spawn(echo(request));
    let mut answer = Response::new(Zeros::new(0));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let accepted = HeaderValue::from_str(accepted); // base64, which is a value
    headers.extend(
        accepted
            .ok()
            .map(|accepted| (SEC_WEBSOCKET_ACCEPT, accepted)),
    );
    answer
}

/// Says again what it hears, for as long as its visitor likes.
async fn echo(request: Request<Incoming>) -> io::Result<()> {
    let upgraded = hyper::upgrade::on(request)
        .await
        .map_err(io::Error::other)?;
    let (stream, config) = (TokioIo::new(upgraded), web_socket::config());
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    while let Some(message) = socket.next().await {
        let message = message.map_err(io::Error::other)?;
        if message.is_text() || message.is_binary() {
            socket.send(message).await.map_err(io::Error::other)?;
        }
    }
    Ok(())
}
