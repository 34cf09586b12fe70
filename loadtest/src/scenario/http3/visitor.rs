//! A visitor who looks at every octet of an answer, over HTTP/3 or over TLS and TCP.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use h3::client::SendRequest;
use hyper::{Request, StatusCode};
use quinn::Endpoint;
use quinn::crypto::rustls::QuicClientConfig;
use relay::tls::{Roots, connect_https};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::part::body_origin::{HTTP3, Ready};
use crate::pattern::Checked;

/// How long nothing may come.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long one handshake may take until another is tried: over a tunnel that has just been made nobody gets in who comes by QUIC.
const TRY: Duration = Duration::from_secs(2);

/// And all of them.
const COMING: Duration = Duration::from_secs(30);

/// What TLS hands out at once.
const PORTION: usize = 256 * 1024;

/// What a visitor speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Http3,
    Tls,
}

/// A visitor who has come in.
pub(super) enum Visitor {
    Http3 {
        requests: SendRequest<h3_quinn::OpenStreams, Bytes>,
        /// What the connection does by itself.
        _driven: AbortOnDropHandle<()>,
        _endpoint: Endpoint,
    },
    Tls {
        stream: Box<dyn crate::entrance::Stream>,
        room: Vec<u8>,
    },
}

impl Visitor {
    /// Comes to `door`, and trusts the service there by its certificate.
    pub(super) async fn come(
        over: Over,
        door: SocketAddr,
        host: &str,
        service: &Ready,
    ) -> io::Result<Self> {
        let begun = Instant::now();
        loop {
            let came = match over {
                Over::Http3 => timeout(TRY, by_http3(door, host, &service.certificate)).await,
                Over::Tls => timeout(TRY, by_tls(door, host, &service.certificate)).await,
            };
            match came {
                Ok(came) => return came,
                Err(late) if begun.elapsed() > COMING => return Err(late.into()),
                Err(_) => {}
            }
        }
    }

    /// Asks for `length` octets, and checks each.
    pub(super) async fn fetch(&mut self, host: &str, length: u64) -> io::Result<()> {
        let mut checked = Checked::default();
        match self {
            Self::Http3 { requests, .. } => {
                let request = Request::get(format!("https://{host}/{length}")).body(());
                let request = request.map_err(io::Error::other)?;
                let stream = requests.send_request(request).await;
                let mut stream = stream.map_err(io::Error::other)?;
                stream.finish().await.map_err(io::Error::other)?;
                let answer = timeout(PATIENCE, stream.recv_response()).await?;
                let status = answer.map_err(io::Error::other)?.status();
                if status != StatusCode::OK {
                    return Err(io::Error::other(format!("the answer was {status}")));
                }
                while let Some(mut data) = timeout(PATIENCE, stream.recv_data())
                    .await?
                    .map_err(io::Error::other)?
                {
                    while data.has_remaining() {
                        let piece = data.chunk();
                        checked.take(piece)?;
                        let count = piece.len();
                        data.advance(count);
                    }
                }
            }
            Self::Tls { stream, room } => {
                stream.write_all(&length.to_be_bytes()).await?;
                stream.flush().await?;
                while checked.length < length {
                    match timeout(PATIENCE, stream.read(room)).await?? {
                        0 => break,
                        count => checked.take(&room[..count])?,
                    }
                }
            }
        }
        match checked.length == length {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the answer ended after {} octets", checked.length),
            )),
        }
    }
}

async fn by_http3(door: SocketAddr, host: &str, certificate: &str) -> io::Result<Visitor> {
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes());
    let mut roots = RootCertStore::empty();
    let added = roots.add(certificate.map_err(io::Error::other)?);
    added.map_err(io::Error::other)?;
    let mut tls = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![HTTP3.to_vec()];
    let crypto = QuicClientConfig::try_from(tls).map_err(io::Error::other)?;
    let endpoint = Endpoint::client((std::net::Ipv4Addr::UNSPECIFIED, 0).into())?;
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let connecting = endpoint.connect_with(config, door, host);
    let connection = connecting.map_err(io::Error::other)?.await?;
    let connection = h3::client::new(h3_quinn::Connection::new(connection)).await;
    let (mut connection, requests) = connection.map_err(io::Error::other)?;
    let driven = async move {
        // How it ends, requests say.
        let _ = poll_fn(|cx| connection.poll_close(cx)).await;
    };
    Ok(Visitor::Http3 {
        requests,
        _driven: AbortOnDropHandle::new(tokio::spawn(driven)),
        _endpoint: endpoint,
    })
}

async fn by_tls(door: SocketAddr, host: &str, certificate: &str) -> io::Result<Visitor> {
    let roots = Roots::from_pem(certificate).map_err(io::Error::other)?;
    let stream = TcpStream::connect(door).await?;
    stream.set_nodelay(true)?;
    Ok(Visitor::Tls {
        stream: Box::new(connect_https(stream, host, &roots).await?),
        room: vec![0; PORTION],
    })
}
