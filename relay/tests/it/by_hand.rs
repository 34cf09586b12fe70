//! An agent's connections to the relay, spoken by hand, and what either hears.

use std::sync::Arc;

use bytes::BytesMut;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wire::frame::{Decoded, Frame};

use crate::world::{SOON, World};

/// TLS with the relay under the key of device `name`, for the protocol `alpn`.
pub(crate) async fn connect(world: &World, name: &str, alpn: &[u8]) -> TlsStream<TcpStream> {
    let key = std::fs::read_to_string(world.state_of(name).join("identity.pem")).unwrap();
    let pair = rcgen::KeyPair::from_pem(&key).unwrap();
    let certificate = rcgen::CertificateParams::default()
        .self_signed(&pair)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(world.trust_root.as_bytes()).unwrap())
        .unwrap();
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(world.front).await.unwrap();
    let host = ServerName::try_from("relay.nas.localhost").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(host, stream)
        .await
        .unwrap()
}

/// The next frame, and not an octet more than it has.
pub(crate) async fn hear(stream: &mut (impl AsyncRead + Unpin)) -> Frame {
    let mut buffer = BytesMut::new();
    loop {
        match Frame::decode(&mut buffer).unwrap() {
            Decoded::Frame(frame) => return frame,
            Decoded::Unknown => {}
            Decoded::NeedMore => {
                let octet = timeout(SOON, stream.read_u8()).await.unwrap();
                buffer.extend_from_slice(&[octet.expect("the other end has closed")]);
            }
        }
    }
}
