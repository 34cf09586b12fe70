//! The agent's own HTTP/3: visitors over QUIC whose service the agent speaks it for. Their flows lead to an endpoint within the tunnel,
//! which there is from the first of them on; their requests then go the way of all others.

use std::io;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::header::HeaderValue;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use wire::frame::Open;

use crate::counts::Counted;
use crate::quic::{self, Connection, Entrance, IdStock, Incoming, Losses, Nested};
use crate::tls::CertificateSlot;
use crate::turns;

use super::http::{self, Patience};
use super::services::Hosts;

/// How long a handshake may take.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Visitors of one tunnel at a time.
const MOST: usize = 1024;

/// So often in a row a tunnel may have too little room for them: ten seconds, in which it finds out what a new path carries, or that an
/// old one carries what it did.
const NARROW_LOOKS: u32 = 40;

/// How long visitors of a tunnel that is about to end may take to hear so.
const GOODBYE_TIME: Duration = Duration::from_millis(250);

/// How long a browser may remember that there is HTTP/3: not for long, as the next tunnel may be over TLS.
const REMEMBERED_SECONDS: u32 = 3600;

/// RFC 9114 section 8.1, `H3_REQUEST_REJECTED`: it may try elsewhere.
const REJECTED: u32 = 0x10b;

/// The HTTP/3 of one tunnel over QUIC.
pub(super) struct Http3 {
    pub(super) tunnel: Connection,
    pub(super) certificate: CertificateSlot,
    pub(super) hosts: Arc<Hosts>,
    pub(super) patience: Arc<Patience>,
    pub(super) losses: Arc<dyn Losses>,
    /// What the relay has given for them.
    pub(super) ids: IdStock,
    /// Counts them with the tunnel's others.
    pub(super) guests: TaskTracker,
    pub(super) moving: CancellationToken,
    pub(super) serving: Mutex<Option<Serving>>,
}

/// Its endpoint, once somebody has come.
pub(super) struct Serving {
    endpoint: Arc<Nested>,
    /// How often in a row the tunnel had too little room for them.
    narrow_looks: u32,
    _accepts: AbortOnDropHandle<()>,
}

/// With the tunnel they go.
impl Drop for Serving {
    fn drop(&mut self) {
        self.endpoint.close();
    }
}

impl std::fmt::Debug for Http3 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http3").finish_non_exhaustive()
    }
}

impl Http3 {
    /// What `Alt-Svc` says to somebody who has asked for `host`, with the port that it has come to (RFC 7838 section 3): nothing fits
    /// into a tunnel whose packets are too short for a QUIC connection to begin.
    pub(super) fn offer(&self, host: &str) -> HeaderValue {
        if !quic::has_room_for_quic(&self.tunnel) {
            return no_offer();
        }
        let port = host
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok());
        let port: u16 = port.unwrap_or(443);
        let offer = format!("h3=\":{port}\"; ma={REMEMBERED_SECONDS}");
        HeaderValue::try_from(offer).unwrap_or_else(|_| no_offer())
    }

    /// A visitor's flow begins. To be called where the tunnel's socket is.
    pub(super) fn enter(self: &Arc<Self>, open: Arc<Open>) -> io::Result<Entrance> {
        let mut serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        let serving = match &mut *serving {
            Some(serving) => serving,
            none => none.insert(self.begin()?),
        };
        Ok(serving.endpoint.enter(open))
    }

    /// Looks at the tunnel, a few times a second. Where its packets stay too short for those of its visitors, they are told to go: their
    /// short packets would still pass, and they would wait for answers that cannot.
    pub(super) fn look(&self) {
        let mut serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(here) = &mut *serving else {
            return;
        };
        here.narrow_looks = match quic::has_room_for_quic(&self.tunnel) {
            true => 0,
            false => here.narrow_looks + 1,
        };
        if here.narrow_looks > NARROW_LOOKS {
            drop(serving.take());
        }
    }

    /// Tells all of them that this is the end, as long as there is a way to them: else they would ask on until they give up.
    pub(super) async fn say_goodbye(&self) {
        let endpoint = self.endpoint();
        if let Some(endpoint) = endpoint {
            endpoint.close();
            let _ = timeout(GOODBYE_TIME, endpoint.wait_idle()).await;
        }
    }

    fn endpoint(&self) -> Option<Arc<Nested>> {
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        serving
            .as_ref()
            .map(|serving| Arc::clone(&serving.endpoint))
    }

    fn begin(&self) -> io::Result<Serving> {
        let endpoint = Nested::open(
            self.certificate.clone(),
            self.ids.clone(),
            Arc::clone(&self.losses),
        )?;
        let endpoint = Arc::new(endpoint);
        let door = Door {
            endpoint: Arc::clone(&endpoint),
            hosts: Arc::clone(&self.hosts),
            patience: Arc::clone(&self.patience),
            guests: self.guests.clone(),
            moving: self.moving.clone(),
        };
        Ok(Serving {
            endpoint,
            narrow_looks: 0,
            _accepts: AbortOnDropHandle::new(tokio::spawn(Arc::new(door).accept())),
        })
    }
}

/// What `Alt-Svc` says where there is no HTTP/3, or no more.
pub(super) fn no_offer() -> HeaderValue {
    HeaderValue::from_static("clear")
}

/// Where they come in. When the endpoint is closed they go.
struct Door {
    endpoint: Arc<Nested>,
    hosts: Arc<Hosts>,
    patience: Arc<Patience>,
    guests: TaskTracker,
    moving: CancellationToken,
}

impl Door {
    async fn accept(self: Arc<Self>) {
        let here = Arc::<AtomicUsize>::default();
        while let Some(incoming) = self.endpoint.accept().await {
            let Some(counted) = Counted::below(&here, MOST) else {
                incoming.refuse();
                continue;
            };
            let door = Arc::clone(&self);
            self.guests.spawn(async move {
                let _counted = counted;
                if let Err(error) = door.serve(incoming).await {
                    tracing::debug!(%error, "a visitor over HTTP/3 has gone");
                }
            });
        }
    }

    async fn serve(&self, incoming: Incoming) -> io::Result<()> {
        timeout(HANDSHAKE_TIME, turns::for_a_handshake()).await?; // no part of the visitor's own time
        let established = timeout(HANDSHAKE_TIME, self.endpoint.establish(incoming));
        let connection = established.await?.map_err(io::Error::other)?;
        let open = self.endpoint.visitor(&connection);
        let open = open.ok_or(io::ErrorKind::NotConnected)?;
        // As over TLS, the handshake says for which service it is, and not the relay alone.
        let asked = connection
            .server_name()
            .and_then(|asked| self.hosts.service(&asked));
        if !asked.is_some_and(|service| service.origin.has_http3_here()) {
            self.hosts.refused.other_name();
            quic::reject(&connection, REJECTED);
            return Err(io::Error::other("its handshake is for another service"));
        }
        let now = || self.endpoint.proved_visitor(&connection);
        let served = http::serve_http3(
            &connection,
            &open,
            now,
            &self.hosts,
            &self.patience,
            &self.moving,
        );
        Box::pin(served).await
    }
}
