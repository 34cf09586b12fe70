//! The HTTP doors for updates, in the dialects that routers, NAS and certificate clients already speak.
//!
//! | route | dialect | key |
//! |---|---|---|
//! | `GET /nic/update` | dyn2: dyn.com, No-IP, deSEC, FRITZ!Box | of addresses |
//! | `GET /update`, `GET /update/NAMES/KEY[/ADDRESS]` | DuckDNS | of addresses, or of challenges for TXT |
//! | `POST /register`, `POST /update`, `GET /health` | acme-dns | of challenges |
//! | `POST /present`, `POST /cleanup` | lego's httpreq | of challenges |
//!
//! What real clients need, and where they fail otherwise:
//!
//! - a reply with a `Content-Length`, never in chunks and never compressed (ddclient 3.10 takes the size of a chunk for the reply);
//! - never `429`, at which inadyn gives up for good; what passes by itself is `200` and `911`, or a status of 500 or more;
//! - no refusal that has a word of success anywhere in it: clients search for these;
//! - the connection ends after the reply.
//!
//! A key stands in a header or even in the URL, so neither is ever logged.

pub mod acme_dns;
mod body;
mod credentials;
pub mod duckdns;
pub mod dyn2;
mod form;
pub mod httpreq;
mod reply;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::http::StatusCode;
use axum::middleware::from_fn;
use axum::routing::{get, post};
use directory::Reader;

use crate::update::Updater;

/// What the doors need to know.
#[derive(Debug)]
pub(crate) struct Doors {
    pub(crate) directory: Reader,
    pub(crate) updater: Updater,
    /// Where a name leads that has no own addresses.
    pub(crate) relay: Vec<IpAddr>,
}

/// The routes, ready to be merged into a server. It must put [`ConnectInfo<SocketAddr>`] into the requests.
pub(crate) fn router(doors: Doors) -> Router {
    // GET would answer HEAD as well, and an update is nothing to try out.
    let not_head = async || StatusCode::METHOD_NOT_ALLOWED;
    let update = get(duckdns::update).head(not_head).post(acme_dns::update);
    Router::new()
        .route("/nic/update", get(dyn2::update).head(not_head))
        .route("/update", update)
        .route(
            "/update/{*path}",
            get(duckdns::update_by_path).head(not_head),
        )
        .route("/register", post(acme_dns::register))
        .route("/health", get(acme_dns::health))
        .route("/present", post(httpreq::present))
        .route("/cleanup", post(httpreq::cleanup))
        .layer(from_fn(reply::finish))
        .with_state(Arc::new(doors))
}

/// Where a request comes from.
fn visitor(request: &Request) -> Option<IpAddr> {
    let visitor = request.extensions().get::<ConnectInfo<SocketAddr>>();
    if visitor.is_none() {
        tracing::error!("the HTTP server does not say where requests come from");
    }
    visitor.map(|ConnectInfo(address)| address.ip())
}
