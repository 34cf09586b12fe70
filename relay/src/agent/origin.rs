//! The local service on the device's side: where it is, and a connection to it that says who the visitor is.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::Uri;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use wire::proxy_v2;

use super::flow::Http3Server;
use super::origin_failure::{OriginFailure, OriginFailures};
use super::status::OriginStatus;
use crate::held;
use crate::resolve::Resolver;
use crate::tls::{self, Prefixed, Roots, TlsError};

/// How long an origin may take to accept, its TLS included.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// How long an origin may take to begin its answer once it has all of a request, unless the owner says otherwise. Longer than what
/// makes a page wait for news, which is mostly a minute.
pub const ANSWER_TIME: Duration = Duration::from_secs(120);

/// Between them is what an owner may say.
pub const ANSWER_TIMES: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(3600);

/// Where a service is, and how it is spoken to.
#[derive(Clone)]
pub struct Origin {
    address: OriginAddress,
    visitor_address: VisitorAddress,
    tls: Option<TlsConnector>,
    answer_time: Duration,
    http3: Option<Http3Server>,
    /// Shared by all clones.
    failures: Arc<OriginFailures>,
}

/// Where an origin is: `http://host:port`, `https://host:port`, `h2c://host:port`, `h2://host:port`, `tcp://host:port`,
/// `tls://host:port` or `udp://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginAddress {
    /// What it speaks.
    pub scheme: Scheme,
    /// Name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// What an origin speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP in clear, on the device itself or its own network.
    Http,
    /// HTTP over TLS.
    Https,
    /// HTTP/2 in clear from its first octet on (RFC 9113 section 3.3), as gRPC wants it.
    H2c,
    /// HTTP/2 over TLS.
    H2,
    /// Any bytes: what is inside the visitor's TLS passes as it is.
    Tcp,
    /// TLS with a certificate of its own: the visitor's TLS passes as it is, and ends there.
    Tls,
    /// Datagrams, as they come to a public port.
    Udp,
}

impl Scheme {
    /// As URLs have it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::H2c => "h2c",
            Self::H2 => "h2",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Udp => "udp",
        }
    }

    pub(super) fn is_http(self) -> bool {
        match self {
            Self::Http | Self::Https | Self::H2c | Self::H2 => true,
            Self::Tcp | Self::Tls | Self::Udp => false,
        }
    }

    pub(super) fn is_http2(self) -> bool {
        matches!(self, Self::H2c | Self::H2)
    }

    /// Whether the agent itself speaks TLS with it, and so has a certificate to check.
    pub(super) fn has_tls_of_ours(self) -> bool {
        matches!(self, Self::Https | Self::H2)
    }
}

/// How an origin hears the visitor's address. In a configuration: `"forwarded"`, `"proxy-v2"` or `"hidden"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VisitorAddress {
    /// In `Forwarded`, `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host`. HTTP origins only; the default for them.
    #[default]
    Forwarded,
    /// In a PROXY protocol v2 header in front of each connection. The origin must expect it.
    ProxyV2,
    /// Not at all.
    Hidden,
}

/// Whether the certificate of an `https://` or `h2://` origin is checked.
#[derive(Clone, Debug)]
pub enum OriginTrust {
    /// These certificates must vouch for it, or name it itself.
    Roots(Roots),
    /// Not at all: for a device that made its certificate itself.
    Anything,
}

impl OriginTrust {
    /// Those that this system trusts, if it trusts any.
    pub fn of_system() -> Self {
        Self::Roots(Roots::of_system().unwrap_or_else(|_| Roots::none()))
    }
}

impl OriginAddress {
    pub(super) fn is_http(&self) -> bool {
        self.scheme.is_http()
    }
}

impl fmt::Display for OriginAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme.name(), self.host, self.port)
    }
}

/// The text is not the address of an origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an origin; it looks like http://127.0.0.1:80, https://127.0.0.1:443, h2c://127.0.0.1:50051, tcp://127.0.0.1:22, \
     tls://127.0.0.1:443 or udp://127.0.0.1:53"
)]
pub struct OriginError(String);

impl FromStr for OriginAddress {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let error = || OriginError(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| error())?;
        let (scheme, default_port) = match uri.scheme_str() {
            Some("http") => (Scheme::Http, Some(80)),
            Some("https") => (Scheme::Https, Some(443)),
            Some("h2c") => (Scheme::H2c, Some(80)),
            Some("h2") => (Scheme::H2, Some(443)),
            Some("tcp") => (Scheme::Tcp, None),
            Some("tls") => (Scheme::Tls, Some(443)),
            Some("udp") => (Scheme::Udp, None),
            Some(_) | None => return Err(error()),
        };
        let authority = uri.authority().ok_or_else(error)?;
        let plain = !authority.as_str().contains('@')
            && matches!(uri.path(), "" | "/")
            && uri.query().is_none();
        let port = authority.port_u16().or(default_port).ok_or_else(error)?;
        if !plain || authority.host().is_empty() {
            return Err(error());
        }
        Ok(Self {
            scheme,
            host: authority.host().to_owned(),
            port,
        })
    }
}

impl Origin {
    /// The origin at `address`.
    ///
    /// # Errors
    /// If the TLS settings for an `https://` or `h2://` origin cannot be made.
    pub fn new(
        address: OriginAddress,
        visitor_address: VisitorAddress,
        trust: &OriginTrust,
    ) -> Result<Self, TlsError> {
        let protocol = match address.scheme {
            Scheme::Https => Some(tls::HTTP1),
            Scheme::H2 => Some(tls::HTTP2),
            Scheme::Http | Scheme::H2c | Scheme::Tcp | Scheme::Tls | Scheme::Udp => None,
        };
        let roots = match trust {
            OriginTrust::Roots(roots) => Some(roots),
            OriginTrust::Anything => None,
        };
        let tls = protocol.map(|protocol| tls::origin_client(roots, protocol));
        Ok(Self {
            address,
            visitor_address,
            tls: tls.transpose()?,
            answer_time: ANSWER_TIME,
            http3: None,
            failures: Arc::default(),
        })
    }

    /// The same, which may take so long to begin its answer once it has all of a request.
    #[must_use]
    pub fn answering_within(self, answer_time: Duration) -> Self {
        Self {
            answer_time,
            ..self
        }
    }

    /// The same over HTTP/3 too, which the agent speaks for it, or it speaks itself: then visitors' datagrams pass as they are.
    #[must_use]
    pub fn with_http3(self, http3: Option<Http3Server>) -> Self {
        Self { http3, ..self }
    }

    pub(super) fn http3(&self) -> Option<&Http3Server> {
        self.http3.as_ref()
    }

    /// Whether the agent speaks HTTP/3 for it.
    pub(super) fn has_http3_here(&self) -> bool {
        self.is_http() && self.http3 == Some(Http3Server::Agent)
    }

    pub(super) fn answer_time(&self) -> Duration {
        self.answer_time
    }

    pub(super) fn failures(&self) -> &Arc<OriginFailures> {
        &self.failures
    }

    /// How it is, told to whoever asks the agent.
    pub(super) fn status(&self) -> OriginStatus {
        OriginStatus {
            address: self.authority(),
            problem: self.failures.problem().map(str::to_owned),
            failures: self.failures.counts(),
        }
    }

    pub(super) fn address(&self) -> &OriginAddress {
        &self.address
    }

    pub(super) fn scheme(&self) -> Scheme {
        self.address.scheme
    }

    pub(super) fn is_http(&self) -> bool {
        self.address.is_http()
    }

    pub(super) fn visitor_address(&self) -> VisitorAddress {
        self.visitor_address
    }

    /// The origin's own authority, for requests to it.
    pub(super) fn authority(&self) -> String {
        format!("{}:{}", self.address.host, self.address.port)
    }

    /// A connection for one visitor, who reached `front`.
    pub(super) async fn connect(
        &self,
        visitor: SocketAddr,
        front: SocketAddr,
    ) -> io::Result<OriginStream> {
        let dialled = timeout(CONNECT_TIME, self.dial(Caller::Visitor(visitor, front))).await;
        self.noted(dialled, !self.is_http()) // of HTTP only an answer is one
    }

    /// The same without TLS of ours, for bytes that only pass. Its receive buffer is [kept small](held::keep_small), for whoever
    /// reads to let it grow.
    pub(super) async fn connect_plain(
        &self,
        visitor: SocketAddr,
        front: SocketAddr,
    ) -> io::Result<TcpStream> {
        let dialled = self.dial_plain(Caller::Visitor(visitor, front));
        let dialled = timeout(CONNECT_TIME, dialled).await;
        self.noted(dialled, true)
    }

    /// A connection of the agent's own, of which nothing is noted. Knows no deadline; the caller does.
    pub(super) async fn connect_to_look(&self) -> io::Result<OriginStream> {
        self.dial(Caller::Agent).await
    }

    /// What has become of a connection, and whether a good one is all that will be known.
    fn noted<T>(&self, dialled: Result<io::Result<T>, Elapsed>, is_answer: bool) -> io::Result<T> {
        let dialled = dialled.unwrap_or_else(|late| Err(late.into()));
        match &dialled {
            Err(error) => self.failures.failed(OriginFailure::of_connection(error)),
            Ok(_) if is_answer => self.failures.answered(),
            Ok(_) => {}
        }
        dialled
    }

    async fn dial_plain(&self, caller: Caller) -> io::Result<TcpStream> {
        let mut stream = Resolver::System
            .connect(&self.address.host, self.address.port)
            .await?;
        held::keep_small(&stream);
        if self.visitor_address == VisitorAddress::ProxyV2 {
            match caller {
                Caller::Visitor(visitor, front) => {
                    stream.write_all(&proxy_v2::encode(visitor, front)).await?;
                }
                Caller::Agent => stream.write_all(&proxy_v2::LOCAL).await?,
            }
        }
        Ok(stream)
    }

    async fn dial(&self, caller: Caller) -> io::Result<OriginStream> {
        let stream = Prefixed::new(Bytes::new(), self.dial_plain(caller).await?);
        let layer = match &self.tls {
            None => Layer::Plain(stream),
            Some(connector) => {
                let name = tls::server_name(&self.address.host)?;
                let stream = connector.connect(name, stream).await.map_err(explained)?;
                Layer::Tls(Box::new(stream.into()))
            }
        };
        Ok(OriginStream { layer, read: 0 })
    }
}

/// For whom an origin is dialled.
#[derive(Clone, Copy)]
enum Caller {
    /// A visitor, who reached that front.
    Visitor(SocketAddr, SocketAddr),
    /// The agent itself.
    Agent,
}

/// What the owner can do about an origin whose certificate is not trusted.
fn explained(error: io::Error) -> io::Error {
    if tls::is_distrust(&error) {
        io::Error::other(format!(
            "{error}; name it with origin_ca (--origin-ca), or use origin_insecure (--origin-insecure)"
        ))
    } else {
        error
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// A connection to an origin. Its receive buffer grows once so much has been read that the visitor must be reading too.
#[derive(Debug)]
pub(super) struct OriginStream {
    layer: Layer,
    /// Octets, as far as it matters.
    read: u64,
}

#[derive(Debug)]
enum Layer {
    Plain(Prefixed),
    Tls(Box<tls::TlsStream>),
}

impl OriginStream {
    /// Makes the coming close a reset: the visitor broke off.
    pub(super) fn reset_on_close(&self) {
        self.connection().reset_on_close();
    }

    fn connection(&self) -> &Prefixed {
        match &self.layer {
            Layer::Plain(stream) => stream,
            Layer::Tls(stream) => stream.get_ref().0,
        }
    }

    fn has_read(&mut self, octets: usize) {
        if self.read < held::LIKELY_READ {
            self.read += octets as u64;
            if self.read >= held::LIKELY_READ {
                held::let_grow(self.connection().tcp());
            }
        }
    }
}

impl AsyncRead for OriginStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match &mut self.layer {
            Layer::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Layer::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        self.has_read(buffer.filled().len() - before);
        read
    }
}

impl AsyncWrite for OriginStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.layer {
            Layer::Plain(stream) => Pin::new(stream).poll_write(cx, octets),
            Layer::Tls(stream) => Pin::new(stream).poll_write(cx, octets),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.layer {
            Layer::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Layer::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.layer {
            Layer::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Layer::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.layer {
            Layer::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Layer::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_with_their_default_ports() {
        let read = |text: &str| text.parse::<OriginAddress>().unwrap();
        assert_eq!(
            read("http://127.0.0.1:8080"),
            OriginAddress {
                scheme: Scheme::Http,
                host: "127.0.0.1".into(),
                port: 8080
            }
        );
        assert_eq!(read("http://nas/").port, 80);
        assert_eq!(read("https://nas").port, 443);
        assert_eq!(read("tls://nas").port, 443);
        assert_eq!(
            read("tcp://[::1]:22"),
            OriginAddress {
                scheme: Scheme::Tcp,
                host: "[::1]".into(),
                port: 22
            }
        );
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for bad in [
            "",
            "127.0.0.1:80",
            "ftp://a",
            "tcp://a",
            "http://",
            "http://a@b",
            "http://a/b",
            "http://a?b",
        ] {
            assert!(bad.parse::<OriginAddress>().is_err(), "{bad}");
        }
    }
}
