//! Certificates and TLS settings of both ends. The only file that names the TLS library.
//!
//! Three kinds of TLS stand side by side and never mix:
//!
//! - the **tunnel** and the tls **carrier**, agent to relay, TLS 1.3 only: the relay shows a certificate for
//!   `relay.<zone>`, the agent a self-signed one whose Ed25519 key is its identity;
//! - the **operator's** hosts, visitor to server process: `cloud.<zone>`;
//! - the **device's** names, visitor to agent: that TLS only passes through the relay.

mod chain;
pub(crate) mod hpke;
mod slot;
mod verify;

use std::any::Any;
use std::io;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use directory::PublicKey;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use wire::{ALPN_CARRIER, ALPN_REACH, ALPN_TUNNEL};

use crate::carrier::raw::SealKey;
use crate::resolve;
use crate::workers;
pub(crate) use chain::holds_together;
pub use slot::CertificateSlot;
use verify::{DeviceCertificates, IdentityCertificate, OriginCertificates, Pinned};

/// TLS that this process accepted from a visitor of the operator's own hosts.
pub type Accepted = tokio_rustls::server::TlsStream<Prefixed>;

/// TLS between agent and relay, seen from either end.
pub(crate) type TlsStream = tokio_rustls::TlsStream<Prefixed>;

/// HTTP/2 over TLS, as it is named in the handshake (RFC 9113 section 3.2).
pub(crate) const HTTP2: &[u8] = b"h2";

/// HTTP/1.1, the same (RFC 7301 section 6).
pub(crate) const HTTP1: &[u8] = b"http/1.1";

/// HTTP/3, the same over QUIC (RFC 9114 section 3.1).
const HTTP3: &[u8] = b"h3";

/// DNS over TLS, the same (RFC 7858).
const DOT: &[u8] = b"dot";

/// HTTP/1.0, the same. A client that speaks no other names no other (`curl --http1.0`), and some update clients are that old.
const HTTP1_0: &[u8] = b"http/1.0";

/// TLS alert record: fatal, unrecognized_name (RFC 6066 section 3, RFC 8446 section 6).
pub(crate) const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Why certificates or keys cannot be used. Always the operator's or the device's own fault, never a peer's.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The text is not PEM, or holds nothing of the kind looked for.
    #[error("no usable {0} in the PEM text")]
    Pem(&'static str),
    /// The certificate and the key do not fit each other, or the algorithm is not supported.
    #[error("the certificate or its key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    /// The system has no root certificates.
    #[error("this system has no root certificates; name the operator's with --ca")]
    NoSystemRoots,
}

/// The certificates that a client trusts.
#[derive(Clone, Debug)]
pub struct Roots {
    store: Arc<RootCertStore>,
    /// Those that somebody named, as they stand.
    named: Arc<[CertificateDer<'static>]>,
    /// No others are trusted, and servers are told so.
    is_pinned: bool,
}

impl Roots {
    /// The certificates in a PEM text: an operator's own authority, or a server's own.
    ///
    /// # Errors
    /// If there is none in it, or one cannot be read.
    pub fn from_pem(pem: &str) -> Result<Self, TlsError> {
        let named = certificates(pem)?;
        let mut store = RootCertStore::empty();
        for certificate in &named {
            store.add(certificate.clone())?;
        }
        Ok(Self {
            store: Arc::new(store),
            named: named.into(),
            is_pinned: true,
        })
    }

    /// No certificate at all: whoever is checked against these is refused.
    pub fn none() -> Self {
        Self {
            store: Arc::new(RootCertStore::empty()),
            named: Arc::default(),
            is_pinned: false,
        }
    }

    /// The certificates that this system trusts.
    ///
    /// # Errors
    /// If it has none.
    pub fn of_system() -> Result<Self, TlsError> {
        Self::of_system_and(None)
    }

    /// The same and those in a PEM text.
    ///
    /// # Errors
    /// If there are none, or one in the text cannot be read.
    pub(crate) fn of_system_and(pem: Option<&str>) -> Result<Self, TlsError> {
        let named = pem.map(certificates).transpose()?.unwrap_or_default();
        let mut store = RootCertStore::empty();
        let native = rustls_native_certs::load_native_certs();
        store.add_parsable_certificates(native.certs);
        for certificate in &named {
            store.add(certificate.clone())?;
        }
        if store.is_empty() {
            return Err(TlsError::NoSystemRoots);
        }
        Ok(Self {
            store: Arc::new(store),
            named: named.into(),
            is_pinned: false,
        })
    }
}

/// How the relay accepts tunnels and tls carriers on the front's TCP port.
pub(crate) fn relay_acceptor(certificate: CertificateSlot) -> Result<TlsAcceptor, TlsError> {
    let mut config = tunnel_server(certificate, DeviceCertificates { mandatory: false })?;
    config.alpn_protocols = vec![ALPN_TUNNEL.to_vec(), ALPN_CARRIER.to_vec()];
    // Carriers are dialled one by one by the same agents: a resumed handshake spares both ends the signature.
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// How the relay accepts tunnels over QUIC.
pub(crate) fn relay_quic(certificate: CertificateSlot) -> Result<ServerConfig, TlsError> {
    let mut config = tunnel_server(certificate, DeviceCertificates { mandatory: true })?;
    config.alpn_protocols = vec![ALPN_TUNNEL.to_vec()];
    // A tunnel lasts; session storage would only cost memory for each.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// How the server process accepts visitors of the operator's own hosts.
pub(crate) fn operator_acceptor(certificate: CertificateSlot) -> Result<TlsAcceptor, TlsError> {
    visitor_acceptor(certificate, &[HTTP2, HTTP1, HTTP1_0])
}

/// How an agent accepts visitors; `alpn` in order of preference, empty if the origin's protocol is not HTTP.
pub(crate) fn visitor_acceptor(
    certificate: CertificateSlot,
    alpn: &[&[u8]],
) -> Result<TlsAcceptor, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificate));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// How a device answers whoever wants to know that it is the one: with its identity, once for each who asks.
pub(crate) fn reach_acceptor(identity: &AgentCertificate) -> Result<TlsAcceptor, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate.clone()], identity.key.clone_key())?;
    config.alpn_protocols = vec![ALPN_REACH.to_vec()];
    // A resumed session would be no fresh signature.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Whether a hello, all octets of which are here, offers `protocol`.
pub(crate) fn offers(mut hello: &[u8], protocol: &[u8]) -> bool {
    let mut acceptor = rustls::server::Acceptor::default();
    while !hello.is_empty() {
        if !acceptor.read_tls(&mut hello).is_ok_and(|read| read > 0) {
            return false;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let mut offered = accepted.client_hello().alpn().into_iter().flatten();
                return offered.any(|offered| offered == protocol);
            }
            Ok(None) => {}
            Err(_) => return false,
        }
    }
    false
}

/// TLS with whoever is at the other end of `stream`, who must prove to be the device `host` with `key` there and then.
///
/// # Errors
/// If the handshake fails, or proves nothing.
pub(crate) async fn connect_device(
    stream: TcpStream,
    host: &str,
    key: PublicKey,
) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
    let configure = || -> Result<ClientConfig, TlsError> {
        Ok(ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(IdentityCertificate { key }))
            .with_no_client_auth())
    };
    let mut config = configure().map_err(io::Error::other)?;
    config.alpn_protocols = vec![ALPN_REACH.to_vec()];
    config.resumption = Resumption::disabled();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(server_name(host)?, Prefixed::new(Bytes::new(), stream))
        .await?;
    match stream.get_ref().1.alpn_protocol() == Some(ALPN_REACH) {
        true => Ok(stream),
        false => Err(io::Error::other("it does not speak causeway-reach/1")),
    }
}

/// How an agent accepts visitors over QUIC. What they would send before the handshake is over is not taken: it can be said again by
/// others (RFC 8446 section 8).
pub(crate) fn visitor_quic(certificate: CertificateSlot) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificate));
    config.alpn_protocols = vec![HTTP3.to_vec()];
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    config.max_early_data_size = 0;
    Ok(config)
}

/// How an agent brings its tunnel: shows `identity`, trusts only `roots`.
pub(crate) fn tunnel_client(
    roots: &Roots,
    identity: &AgentCertificate,
) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(Arc::clone(&roots.store))
        .with_client_auth_cert(vec![identity.certificate.clone()], identity.key.clone_key())?;
    config.alpn_protocols = vec![ALPN_TUNNEL.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The same over TCP.
pub(crate) fn tunnel_connector(
    roots: &Roots,
    identity: &AgentCertificate,
) -> Result<TlsConnector, TlsError> {
    Ok(TlsConnector::from(Arc::new(tunnel_client(
        roots, identity,
    )?)))
}

/// How an agent dials tls carriers; their ticket says whose they are, so no certificate is shown.
pub(crate) fn carrier_client(roots: &Roots) -> Result<TlsConnector, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(Arc::clone(&roots.store))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_CARRIER.to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// TLS for HTTP/1.1 on `stream` with `host`, whose certificate `roots` must vouch for.
///
/// # Errors
/// If the handshake fails.
pub async fn connect_https(
    stream: TcpStream,
    host: &str,
    roots: &Roots,
) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
    connect(stream, host, roots, HTTP1).await
}

/// The same with whoever is there: what he says is a hint, and he is told nothing.
///
/// # Errors
/// If the handshake fails.
pub(crate) async fn connect_unchecked(
    stream: TcpStream,
    host: &str,
    protocol: &[u8],
) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
    let connector = origin_client(None, protocol).map_err(io::Error::other)?;
    connector
        .connect(server_name(host)?, Prefixed::new(Bytes::new(), stream))
        .await
}

/// The same for HTTP/2.
///
/// # Errors
/// If the handshake fails.
pub async fn connect_http2(
    stream: TcpStream,
    host: &str,
    roots: &Roots,
) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
    connect(stream, host, roots, HTTP2).await
}

/// The same for DNS (RFC 7858).
///
/// # Errors
/// If the handshake fails.
pub async fn connect_dot(
    stream: TcpStream,
    host: &str,
    roots: &Roots,
) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
    connect(stream, host, roots, DOT).await
}

/// TLS with the relay `host` as an agent brings it for a tunnel, under the key of `identity`. What is said on it is the caller's
/// affair.
///
/// # Errors
/// If the handshake fails.
pub async fn connect_tunnel(
    stream: TcpStream,
    host: &str,
    roots: &Roots,
    identity: &AgentCertificate,
) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
    let connector = tunnel_connector(roots, identity).map_err(io::Error::other)?;
    connector
        .connect(server_name(host)?, Prefixed::new(Bytes::new(), stream))
        .await
}

async fn connect(
    stream: TcpStream,
    host: &str,
    roots: &Roots,
    protocol: &[u8],
) -> io::Result<tokio_rustls::client::TlsStream<Prefixed>> {
    let connector = program_client(roots, protocol).map_err(io::Error::other)?;
    connector
        .connect(server_name(host)?, Prefixed::new(Bytes::new(), stream))
        .await
}

/// How a program speaks `protocol` over TLS with a server whose certificate `roots` vouch for. Where they are all that it trusts, it says
/// so: the server may have a certificate of another authority for everybody else.
fn program_client(roots: &Roots, protocol: &[u8]) -> Result<TlsConnector, TlsError> {
    let config =
        ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let config = match roots.is_pinned {
        true => config
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned::new(&roots.store)?)),
        false => config.with_root_certificates(Arc::clone(&roots.store)),
    };
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// How an agent speaks `protocol` over TLS with an origin. `roots` must vouch for its certificate, or name it itself; without any,
/// every certificate will do.
pub(crate) fn origin_client(
    roots: Option<&Roots>,
    protocol: &[u8],
) -> Result<TlsConnector, TlsError> {
    let vouched_for = match roots {
        // A verifier cannot be made from no roots.
        Some(roots) if !roots.store.is_empty() => Some(verify::by_roots(&roots.store)?),
        Some(_) | None => None,
    };
    let verifier = OriginCertificates {
        vouched_for,
        named: roots.map(|roots| Arc::clone(&roots.named)),
        provider: provider(),
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Whether a handshake failed because the other side's certificate is not trusted.
pub(crate) fn is_distrust(error: &io::Error) -> bool {
    let cause = error
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}

/// Whether a handshake failed because of what the other side has said, whatever that was.
pub(crate) fn is_of_tls(error: &io::Error) -> bool {
    let cause = error.get_ref();
    cause.is_some_and(|cause| cause.is::<rustls::Error>())
}

/// Whether a handshake failed because the other side's certificate has ended or not begun, by this system's clock.
pub(crate) fn is_out_of_time(error: &io::Error) -> bool {
    use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let cause = error
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(
        cause,
        Some(rustls::Error::InvalidCertificate(
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }
        ))
    )
}

/// The protocol that both ends of `stream` agreed on.
pub(crate) fn protocol(stream: &Accepted) -> Option<&[u8]> {
    stream.get_ref().1.alpn_protocol()
}

/// The Ed25519 key that the agent at the other end of `stream` has proved, if it showed any.
pub(crate) fn agent_key(stream: &Accepted) -> Option<PublicKey> {
    ed25519_key(stream.get_ref().1.peer_certificates()?.first()?)
}

/// The key for the seals of raw connections, which both ends of a tunnel draw from its session.
pub(crate) fn seal_key(stream: &TlsStream) -> Option<SealKey> {
    let exported = [0; SealKey::LENGTH];
    let label = wire::raw::EXPORTER_LABEL;
    let drawn = match stream {
        TlsStream::Client(stream) => stream
            .get_ref()
            .1
            .export_keying_material(exported, label, None),
        TlsStream::Server(stream) => stream
            .get_ref()
            .1
            .export_keying_material(exported, label, None),
    };
    Some(SealKey::new(drawn.ok()?.into()))
}

/// The same for a QUIC connection, which gives the peer's chain as a value of unknown type.
pub(crate) fn key_of_chain(chain: &dyn Any) -> Option<PublicKey> {
    let chain = chain.downcast_ref::<Vec<CertificateDer<'static>>>()?;
    ed25519_key(chain.first()?)
}

/// The Ed25519 key of an agent's certificate; `None` if the certificate is of another kind.
fn ed25519_key(certificate: &CertificateDer<'_>) -> Option<PublicKey> {
    /// RFC 8410 section 4: SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING of 32 octets }.
    const PREFIX: [u8; 12] = [
        0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
    ];
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let info = parsed.subject_public_key_info();
    let key = info.as_ref().strip_prefix(&PREFIX)?;
    Some(PublicKey::from_bytes(key.try_into().ok()?))
}

/// A host name, or an address as URLs have it, as TLS clients check it.
pub(crate) fn server_name(host: &str) -> io::Result<ServerName<'static>> {
    ServerName::try_from(resolve::bare(host).to_owned()).map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{host} is not a host name"),
        )
    })
}

/// The self-signed certificate that an agent shows, with its key.
#[derive(Debug)]
pub struct AgentCertificate {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl AgentCertificate {
    /// From DER: the certificate, and its key in PKCS#8.
    ///
    /// # Errors
    /// If the key is not PKCS#8.
    pub fn from_der(certificate: Vec<u8>, key: Vec<u8>) -> Result<Self, TlsError> {
        Ok(Self {
            certificate: certificate.into(),
            key: PrivateKeyDer::try_from(key).map_err(|_| TlsError::Pem("private key"))?,
        })
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(TlsError::Pem("certificate")),
    }
}

fn certified(chain: &str, key: &str) -> Result<Arc<CertifiedKey>, TlsError> {
    let key =
        PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| TlsError::Pem("private key"))?;
    Ok(Arc::new(CertifiedKey::from_der(
        certificates(chain)?,
        key,
        &provider(),
    )?))
}

fn tunnel_server(
    certificate: CertificateSlot,
    verifier: DeviceCertificates,
) -> Result<ServerConfig, TlsError> {
    Ok(ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(certificate)))
}

/// A TCP connection of which some octets have been read already; they are read again first.
#[derive(Debug)]
pub struct Prefixed {
    prefix: Bytes,
    stream: TcpStream,
    /// Whose event queue the connection is in.
    worker: Option<usize>,
}

impl Prefixed {
    pub(crate) fn new(prefix: Bytes, stream: TcpStream) -> Self {
        Self {
            prefix,
            stream,
            worker: workers::here(),
        }
    }

    /// Makes the connection one of the calling worker, so that it is woken there.
    pub(crate) fn move_here(&mut self) -> io::Result<()> {
        let here = workers::here();
        if self.worker != here {
            let same = self.stream.as_fd().try_clone_to_owned()?;
            self.stream = TcpStream::from_std(same.into())?;
            self.worker = here;
        }
        Ok(())
    }

    /// The connection underneath.
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.stream
    }

    /// Makes the coming close a reset, so that the other side does not take what it has for the whole.
    pub(crate) fn reset_on_close(&self) {
        // If it fails the connection is gone already.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(&self.prefix[..length]);
        self.prefix.advance(length);
        if self.prefix.is_empty() {
            self.prefix = Bytes::new(); // gives its memory back
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, octets)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
