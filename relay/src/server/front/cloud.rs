//! Visitors of `cloud.<zone>`, whose TLS ends here.

use std::net::SocketAddr;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::{Arrived, Front, SentAway};
use crate::server::CloudDoor;
use crate::server::limits::{Admitted, HELLO_TIME};
use crate::server::metrics::{HandedOver, HandshakeKind, Outcome};
use crate::server::refusal::Refusal;
use crate::tls::{self, Accepted, Prefixed, TlsError};
use crate::turns;

/// A visitor of `cloud.<zone>`, whose TLS has ended here.
#[derive(Debug)]
pub struct CloudVisitor {
    /// What it says and hears.
    pub stream: Accepted,
    /// Where it comes from.
    pub address: SocketAddr,
    /// Whether its TLS handshake settled on HTTP/2.
    pub http2: bool,
    /// Counts the visitor until it has left.
    pub admitted: Admitted,
}

/// The way of the visitors of `cloud.<zone>`.
#[derive(Clone)]
pub(crate) struct Cloud {
    acceptor: TlsAcceptor,
    visitors: mpsc::Sender<CloudVisitor>,
}

impl Cloud {
    /// # Errors
    /// If the certificate cannot be used.
    pub(crate) fn new(door: CloudDoor) -> Result<Self, TlsError> {
        Ok(Self {
            acceptor: tls::operator_acceptor(door.certificate)?,
            visitors: door.visitors,
        })
    }
}

impl Front {
    /// Ends a visitor's TLS, and hands it over to whoever serves the operator's hosts.
    pub(super) async fn receive_at(
        &self,
        cloud: &Cloud,
        visitor: Prefixed,
        address: SocketAddr,
        mut admitted: Admitted,
    ) -> Result<Arrived, Box<SentAway>> {
        if let Err(refusal) = admitted.serve() {
            return Err(SentAway::silently(refusal));
        }
        let Some(_under_way) = self.register.begin_tls(address.ip()) else {
            let handshakes = &self.metrics.measured;
            handshakes.handshake(HandshakeKind::Cloud, Outcome::Refused);
            return Err(SentAway::silently(Refusal::HandshakesBusy));
        };
        let accepted = timeout(HELLO_TIME, async {
            turns::for_a_handshake().await;
            cloud.acceptor.accept(visitor).await
        })
        .await;
        self.metrics
            .measured
            .handshake(HandshakeKind::Cloud, Outcome::of(&accepted));
        let refusal = match accepted {
            Ok(Ok(stream)) => {
                let http2 = tls::protocol(&stream) == Some(tls::HTTP2);
                let visitor = CloudVisitor {
                    stream,
                    address,
                    http2,
                    admitted,
                };
                match cloud.visitors.try_send(visitor) {
                    Ok(()) => return Ok(Arrived::HandedOver(HandedOver::Cloud)),
                    Err(_) => Refusal::CloudBusy,
                }
            }
            Ok(Err(_)) => Refusal::Handshake,
            Err(_) => Refusal::TooSlow,
        };
        Err(SentAway::silently(refusal))
    }
}
