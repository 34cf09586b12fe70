//! For the operator's machines, on a loopback listener:
//!
//! - `/metrics`   — every part's counters, in the Prometheus text format
//! - `/livez`     — the process answers
//! - `/readyz`    — the service works; if not, a line for each thing that does not; `?verbose` has a line for each check
//! - `/buildinfo` — which program this is
//!
//! There is no `/startupz`: this listener is opened last, so who is answered at all is answered by a server that has started.
//!
//! It runs on a thread and a runtime of its own, so that it answers when the data path is busy.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use prometheus::{IntCounter, Registry, TEXT_FORMAT, TextEncoder};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::about::BUILD;
use crate::health::Health;
use crate::http;

/// Clients at a time: a monitoring system and a person or two.
const MAX_CLIENTS: usize = 64;

/// What the endpoints look at.
pub(crate) struct Watched {
    pub(crate) registry: Registry,
    pub(crate) health: Health,
}

/// A running admin listener.
#[derive(Debug)]
pub(crate) struct Admin {
    /// Where it listens: the address really bound.
    pub(crate) address: SocketAddr,
    /// A duplicate of what it listens on.
    listener: StdTcpListener,
    stop: CancellationToken,
}

impl Admin {
    /// Listens until `stop`, on `bound` if there is one, which is then known to be where it should, and else at `address`. The future
    /// ends with its thread.
    pub(crate) fn start(
        address: SocketAddr,
        bound: Option<StdTcpListener>,
        watched: Watched,
        refused: IntCounter,
        stop: CancellationToken,
    ) -> io::Result<(Self, impl Future<Output = ()> + use<>)> {
        Self::serve(address, bound, router(watched), refused, stop)
    }

    fn serve(
        address: SocketAddr,
        bound: Option<StdTcpListener>,
        router: Router,
        refused: IntCounter,
        stop: CancellationToken,
    ) -> io::Result<(Self, impl Future<Output = ()> + use<>)> {
        let listener = match bound {
            Some(bound) => bound,
            None => StdTcpListener::bind(address)?,
        };
        listener.set_nonblocking(true)?;
        let admin = Self {
            address: listener.local_addr()?,
            listener: listener.try_clone()?,
            stop: stop.clone(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (running, ended) = oneshot::channel::<Infallible>();
        std::thread::Builder::new()
            .name("admin".into())
            .spawn(move || {
                let _running = running;
                runtime.block_on(async move {
                    match TcpListener::from_std(listener) {
                        Ok(listener) => {
                            http::serve_loopback(listener, router, MAX_CLIENTS, refused, stop)
                                .await;
                        }
                        Err(error) => tracing::error!(%error, "the admin listener cannot be used"),
                    }
                });
            })?;
        Ok((admin, async move {
            let _ = ended.await; // its other end is dropped with the thread
        }))
    }

    /// What it listens on, for a successor: nobody is answered here any more.
    pub(crate) fn hand_over(&self) -> io::Result<OwnedFd> {
        self.stop.cancel();
        Ok(self.listener.try_clone()?.into())
    }
}

fn router(watched: Watched) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get("alive\n"))
        .route("/readyz", get(ready))
        .route("/buildinfo", get(|| std::future::ready(Json(BUILD))))
        .with_state(Arc::new(watched))
}

async fn metrics(State(watched): State<Arc<Watched>>) -> impl IntoResponse {
    watched.health.look().await; // which sets `causeway_check_passes`
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

/// What follows the `?` of `/readyz`.
#[derive(Deserialize)]
struct Wanted {
    verbose: Option<String>,
}

async fn ready(
    State(watched): State<Arc<Watched>>,
    Query(wanted): Query<Wanted>,
) -> impl IntoResponse {
    let report = watched.health.look().await;
    let status = match report.is_ready() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let text = match wanted.verbose {
        Some(_) => report.to_string(),
        None => report.brief(),
    };
    (status, text)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::timeout;

    use super::*;
    use crate::probe;

    /// More than any machine needs.
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

    fn start(
        bound: Option<StdTcpListener>,
        who: &'static str,
    ) -> (Admin, impl Future<Output = ()> + use<>) {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let router = Router::new().route("/livez", get(who));
        let refused = IntCounter::new("refused", "Refused.").unwrap();
        Admin::serve(anywhere, bound, router, refused, CancellationToken::new()).unwrap()
    }

    #[tokio::test]
    async fn who_comes_while_one_follows_another_is_answered() {
        let (first, first_ended) = start(None, "first");
        let address = first.address;
        probe::http(address, "/livez").await.unwrap();
        let handed_over = first.hand_over().unwrap();
        timeout(PATIENCE, first_ended).await.unwrap();
        drop(first);

        // Nobody accepts now, and yet nobody is refused.
        let mut waiting = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        waiting.write_all(request).await.unwrap();
        let (second, second_ended) = start(Some(handed_over.into()), "second");
        assert_eq!(second.address, address);
        let mut reply = String::new();
        let read = timeout(PATIENCE, waiting.read_to_string(&mut reply));
        read.await.unwrap().unwrap();
        assert!(reply.ends_with("second"), "{reply}");
        second.stop.cancel();
        timeout(PATIENCE, second_ended).await.unwrap();
        drop(second);
        assert!(probe::http(address, "/livez").await.is_err());
    }
}
