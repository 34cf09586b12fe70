//! A service with a certificate of its own that answers with [bodies that can be checked](crate::pattern): over HTTP/3, and over TLS
//! without HTTP to who says how much he wants.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use h3::server::RequestResolver;
use hyper::Response;
use quinn::crypto::rustls::QuicServerConfig;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::pattern;

/// What goes to a stream at once.
const PORTION: usize = 64 * 1024;

/// HTTP/3's name in handshakes (RFC 9114 section 3.1).
pub(crate) const HTTP3: &[u8] = b"h3";

/// What is wanted.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Where it listens; port 0 for any.
    pub(crate) listen: SocketAddr,
    /// Whom its certificate names.
    pub(crate) host: String,
}

/// Where it listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) http3: SocketAddr,
    pub(crate) tls: SocketAddr,
    /// By which it can be trusted, in PEM.
    pub(crate) certificate: String,
}

pub(super) async fn play(order: Order) -> anyhow::Result<()> {
    let certified = rcgen::generate_simple_self_signed([order.host])?;
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der());
    let key = key.map_err(anyhow::Error::msg)?;
    let chain = vec![certified.cert.der().clone()];
    let mut tls = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let listener = TcpListener::bind(order.listen).await?;
    let acceptor = TlsAcceptor::from(Arc::new(tls.clone()));
    tls.alpn_protocols = vec![HTTP3.to_vec()];
    let crypto = Arc::new(QuicServerConfig::try_from(tls)?);
    let config = quinn::ServerConfig::with_crypto(crypto);
    let endpoint = quinn::Endpoint::server(config, order.listen)?;
    super::say(&Ready {
        http3: endpoint.local_addr()?,
        tls: listener.local_addr()?,
        certificate: certified.cert.pem(),
    })?;
    // Visitors see an error as a broken connection, which they tell. The tasks end with the process.
    loop {
        tokio::select! {
            Some(visitor) = endpoint.accept() => {
                tokio::spawn(over_http3(visitor));
            }
            accepted = listener.accept() => {
                tokio::spawn(over_tls(accepted?.0, acceptor.clone()));
            }
        }
    }
}

async fn over_http3(visitor: quinn::Incoming) -> anyhow::Result<()> {
    let connection = h3_quinn::Connection::new(visitor.await?);
    let mut connection = h3::server::Connection::new(connection).await?;
    while let Some(request) = connection.accept().await? {
        tokio::spawn(answer(request));
    }
    Ok(())
}

/// The path says how much is wanted.
async fn answer(
    request: RequestResolver<h3_quinn::Connection, bytes::Bytes>,
) -> anyhow::Result<()> {
    let (request, mut stream) = request.resolve_request().await?;
    let length = request.uri().path().trim_start_matches('/').parse()?;
    stream.send_response(Response::new(())).await?;
    for portion in pattern::portions(0, length, PORTION) {
        stream.send_data(portion).await?;
    }
    stream.finish().await?;
    Ok(())
}

/// Eight octets say the same.
async fn over_tls(visitor: TcpStream, acceptor: TlsAcceptor) -> io::Result<()> {
    visitor.set_nodelay(true)?;
    let mut stream = acceptor.accept(visitor).await?;
    loop {
        let length = stream.read_u64().await?;
        for portion in pattern::portions(0, length, PORTION) {
            stream.write_all(&portion).await?;
        }
        stream.flush().await?;
    }
}
