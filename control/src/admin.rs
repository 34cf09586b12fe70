//! For the operator's machines, on a loopback listener:
//!
//! - `/metrics` — every part's counters, in the Prometheus text format
//! - `/livez`   — the process answers
//! - `/readyz`  — the service works; if not, a line for each thing that does not
//!
//! It runs on a thread and a runtime of its own, so that it answers when the data path is busy.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{IntCounter, Registry, TEXT_FORMAT, TextEncoder};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::http;
use crate::store::Store;

/// Clients at a time: a monitoring system and a person or two.
const MAX_CLIENTS: usize = 64;

/// How long the database may take to answer the question whether it does.
const CHECK_TIME: Duration = Duration::from_secs(1);

/// What the endpoints look at.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) registry: Registry,
    pub(crate) store: Store,
    /// Cancelled once the process takes no new work.
    pub(crate) draining: CancellationToken,
}

/// A running admin listener.
#[derive(Debug)]
pub(crate) struct Admin {
    address: SocketAddr,
    /// Its other end is dropped with the thread.
    ended: oneshot::Receiver<Infallible>,
}

impl Admin {
    /// Listens until `stop`.
    pub(crate) fn start(
        address: SocketAddr,
        watched: Watched,
        refused: IntCounter,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let listener = StdTcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (running, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("admin".into())
            .spawn(move || {
                let _running = running;
                runtime.block_on(async move {
                    match TcpListener::from_std(listener) {
                        Ok(listener) => {
                            let router = router(watched);
                            http::serve_loopback(listener, router, MAX_CLIENTS, refused, stop)
                                .await;
                        }
                        Err(error) => tracing::error!(%error, "the admin listener cannot be used"),
                    }
                });
            })?;
        Ok(Self { address, ended })
    }

    /// Where it listens: the address really bound.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until its thread has ended.
    pub(crate) async fn ended(self) {
        let _ = self.ended.await;
    }
}

fn router(watched: Watched) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get("alive\n"))
        .route("/readyz", get(ready))
        .with_state(Arc::new(watched))
}

async fn metrics(State(watched): State<Arc<Watched>>) -> impl IntoResponse {
    let text = TextEncoder::new().encode_to_string(&watched.registry.gather());
    match text {
        Ok(text) => (StatusCode::OK, [(CONTENT_TYPE, TEXT_FORMAT)], text),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(CONTENT_TYPE, "text/plain")],
            error.to_string(),
        ),
    }
}

async fn ready(State(watched): State<Arc<Watched>>) -> impl IntoResponse {
    let mut faults = String::new();
    if watched.draining.is_cancelled() {
        faults.push_str("draining: no new visitors are taken\n");
    }
    match timeout(CHECK_TIME, watched.store.check()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => faults.push_str(&format!("{error}\n")),
        Err(_) => faults.push_str("the database does not answer\n"),
    }
    if faults.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, faults)
    }
}
