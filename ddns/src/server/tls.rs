//! TLS under DNS (RFC 7858). The only file of this package that names the TLS library.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DistinguishedName, RootCertStore, ServerConfig};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// DNS over TLS, as it is named in the handshake (registered by RFC 7858).
const ALPN: &[u8] = b"dot";
/// A handshake is two flights; whoever takes longer has no line that DNS could be asked over.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// The last word is not waited for longer: who does not take it knows the end by the connection's.
const GOODBYE: Duration = Duration::from_secs(1);
/// Octets of replies that one connection holds until the client reads them.
const MAX_UNSENT: usize = 16 << 10;

/// A connection whose handshake is done.
pub(crate) type TlsStream = tokio_rustls::server::TlsStream<TcpStream>;

/// The certificate that DNS over TLS is spoken with, and its key. It can be replaced while connections are taken; a clone is the
/// same slot.
#[derive(Clone)]
pub struct Certificate(Arc<Slot>);

struct Slot {
    certified: ArcSwap<CertifiedKey>,
    public: ArcSwapOption<Public>,
}

/// What is shown instead to whoever does not say that it trusts `own` (RFC 8446 section 4.2.4).
struct Public {
    certified: Arc<CertifiedKey>,
    own: Vec<DistinguishedName>,
}

/// A certificate or its key cannot be used. Always the operator's fault.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The text is not PEM, or holds nothing of the kind looked for.
    #[error("no usable {0} in the PEM text")]
    Pem(&'static str),
    /// They do not fit each other, or are of a kind that is not known here.
    #[error("the certificate or its key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

impl Certificate {
    /// The chain (leaf first) and the PKCS#8 key, both in PEM.
    ///
    /// # Errors
    /// If they cannot be read or do not fit each other.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, CertificateError> {
        let certified = certified(chain, key)?;
        Ok(Self(Arc::new(Slot {
            certified: ArcSwap::from_pointee(certified),
            public: ArcSwapOption::empty(),
        })))
    }

    /// Puts the chain and key of another one in place, for the connections from now on.
    pub fn replace(&self, next: &Self) {
        self.0.certified.store(next.0.certified.load_full());
    }

    /// Shows `public` from now on, but for those who say that they trust the authority whose certificate is `own`, in PEM: they are
    /// shown what they always were. With `None` everybody is.
    ///
    /// # Errors
    /// If that certificate cannot be read.
    pub fn publish(&self, public: Option<&Self>, own: &str) -> Result<(), CertificateError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(own.as_bytes()) {
            let certificate = certificate.map_err(|_| CertificateError::Pem("certificate"))?;
            roots.add(certificate)?;
        }
        let public = public.map(|public| Public {
            certified: public.0.certified.load_full(),
            own: roots.subjects(),
        });
        self.0.public.store(public.map(Arc::new));
        Ok(())
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate(…)")
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(public) = &*self.0.public.load() {
            let trusted = hello.certificate_authorities().unwrap_or_default();
            let is_own = |name: &DistinguishedName| {
                let mut own = public.own.iter();
                own.any(|own| own.as_ref() == name.as_ref())
            };
            if !trusted.iter().any(is_own) {
                return Some(Arc::clone(&public.certified));
            }
        }
        Some(self.0.certified.load_full())
    }
}

fn certified(chain: &str, key: &str) -> Result<CertifiedKey, CertificateError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| CertificateError::Pem("certificate"))?;
    if chain.is_empty() {
        return Err(CertificateError::Pem("certificate"));
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| CertificateError::Pem("private key"))?;
    Ok(CertifiedKey::from_der(chain, key, &provider())?)
}

fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

/// Takes the handshakes of clients.
#[derive(Clone)]
pub(crate) struct Acceptor(TlsAcceptor);

impl Acceptor {
    /// TLS 1.3 and 1.2 (RFC 9325 section 3.1.1). Clients that come again resume without a signature of ours (RFC 7858 section 3.4).
    pub(crate) fn new(certificate: Certificate) -> Result<Self, CertificateError> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(certificate));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        config.send_tls13_tickets = 1;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Does the handshake, in five seconds or not at all.
    pub(crate) async fn accept(&self, stream: TcpStream) -> Result<Box<TlsStream>, Failure> {
        let handshake = self.0.accept_with(stream, |connection| {
            connection.set_buffer_limit(Some(MAX_UNSENT));
        });
        match timeout(HANDSHAKE, handshake).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(Failure::of(&error)),
            Err(_) => Err(Failure::Slow),
        }
    }
}

/// Says that nothing more is sent, so that the client can tell the end from a cut.
pub(crate) async fn say_goodbye(stream: &mut TlsStream) {
    // Whoever cannot be told is gone.
    let _ = timeout(GOODBYE, stream.shutdown()).await;
}

/// Why a handshake came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It took too long.
    Slow,
    /// The client has closed the connection before its end.
    Closed,
    /// The client has said that it does not want: it does not trust the certificate, or knows it by another name.
    Declined,
    /// The two have no version, algorithm or protocol in common.
    Incompatible,
    /// What the client has sent is no TLS, or breaks its rules.
    Malformed,
    /// The network says so.
    Broken,
    /// A fault of ours.
    Ours,
}

impl Failure {
    fn of(error: &io::Error) -> Self {
        use rustls::Error;
        let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref()) else {
            let is_end = error.kind() == io::ErrorKind::UnexpectedEof;
            return if is_end { Self::Closed } else { Self::Broken };
        };
        if matches!(cause, Error::AlertReceived(_)) {
            Self::Declined
        } else if matches!(
            cause,
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol
        ) {
            Self::Incompatible
        } else if matches!(
            cause,
            Error::InvalidMessage(_)
                | Error::InappropriateMessage { .. }
                | Error::InappropriateHandshakeMessage { .. }
                | Error::PeerMisbehaved(_)
                | Error::PeerSentOversizedRecord
                | Error::DecryptError
        ) {
            Self::Malformed
        } else {
            Self::Ours
        }
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Closed => "closed",
            Self::Declined => "declined",
            Self::Incompatible => "incompatible",
            Self::Malformed => "malformed",
            Self::Broken => "broken",
            Self::Ours => "ours",
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey as Made, KeyPair, generate_simple_self_signed};
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, RootCertStore};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsConnector;

    use super::*;

    fn made() -> Made<KeyPair> {
        generate_simple_self_signed(vec!["ns1.nas.test".to_owned()]).unwrap()
    }

    fn pem(made: &Made<KeyPair>) -> (String, String) {
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    /// Whether a client that trusts `trusted` alone comes in.
    async fn comes_in(acceptor: &Acceptor, trusted: &Made<KeyPair>) -> Result<(), Failure> {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.cert.der().clone()).unwrap();
        // In TLS 1.2 the server waits for the client's last word.
        let config = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = async {
            let stream = TcpStream::connect(address).await.unwrap();
            let host = ServerName::try_from("ns1.nas.test").unwrap();
            let _ = TlsConnector::from(Arc::new(config))
                .connect(host, stream)
                .await;
        };
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            acceptor.accept(stream).await.map(drop)
        };
        tokio::join!(client, server).1
    }

    #[tokio::test]
    async fn a_replaced_certificate_is_shown_to_the_next_client() {
        let (first, second) = (made(), made());
        let (chain, key) = pem(&first);
        let certificate = Certificate::from_pem(&chain, &key).unwrap();
        let acceptor = Acceptor::new(certificate.clone()).unwrap();
        assert_eq!(comes_in(&acceptor, &first).await, Ok(()));

        let (chain, key) = pem(&second);
        certificate.replace(&Certificate::from_pem(&chain, &key).unwrap());
        assert_eq!(comes_in(&acceptor, &second).await, Ok(()));
        assert_eq!(comes_in(&acceptor, &first).await, Err(Failure::Declined));
    }

    #[test]
    fn what_cannot_be_used_is_no_certificate() {
        let (first, second) = (made(), made());
        let (chain, key) = pem(&first);
        let other_key = pem(&second).1;
        for (chain, key) in [
            ("", &*key),
            ("no certificate", &key),
            (&chain, ""),
            (&chain, &other_key),
        ] {
            assert!(Certificate::from_pem(chain, key).is_err());
        }
    }
}
