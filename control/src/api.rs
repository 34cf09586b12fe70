//! The HTTP API of `https://cloud.<zone>`: every route on one page.
//!
//! | route | who | what |
//! |---|---|---|
//! | `POST /api/pair` | an agent with a code | becomes a device |
//! | `POST /api/device/certificate` | a device | its certificate |
//! | `GET /api/device/acme` | a device | who else it can ask for one |
//! | `POST /api/device/acme/turn` | a device | whether it may order of them now |
//! | `GET /api/device/certificates/seen` | a device | which certificates logs have shown for its name |
//! | `PUT /api/device/certificates/strange` | a device | says which of them are not its own |
//! | `PUT /api/device/addresses` | a device | reports its addresses |
//! | `GET /api/device/relays` | a device | where it can bring its tunnels |
//! | `POST /api/relay/follow` | a relay | hears who is who |
//! | `POST /api/relay/presence` | a relay | reports which devices are there |
//! | `POST /api/relay/certificate` | a relay | its certificate |
//! | `GET /api/device/dns` | a device | what it has of its own in the zone |
//! | `PATCH /api/device/dns` | a device | changes that |
//! | `POST /api/session` | the operator with a link | signs in |
//! | `DELETE /api/session` | the operator | signs out |
//! | `GET /api/devices` | the operator | the devices and their state |
//! | `GET /api/devices/events` | the operator | the same, live |
//! | `GET /api/openapi.json` | everybody | this API, for programs |
//!
//! A device proves itself by a signature over the request (`signed`), the operator by a session cookie (`session`).

mod acme;
mod certificates;
mod device;
mod devices;
mod dns;
mod document;
mod error;
mod pair;
mod relay;
mod session;
mod signed;

use std::sync::Arc;
use std::time::Duration;

use ::relay::server::{PortRange, Traffic};
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use directory::Zone;
use prometheus::{IntCounterVec, Opts, Registry};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::certificate_watch::CertificateWatch;
use crate::devices::Devices;
use crate::fleet::Fleet;
use crate::orders::Orders;
use crate::sign_in::SignIn;
use crate::steering::Steering;

pub(crate) use acme::AcmeAuthorities;
pub(crate) use devices::{DeviceRow, DeviceState, https_url, rows};
use error::{ApiError, Code};
pub(crate) use session::Operator;
use signed::ReplayGuard;

/// No body of this API is larger, in octets.
const MAX_BODY: usize = 64 * 1024;

/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(9);

/// How long a request may take until its answer begins.
const REQUEST_TIME: Duration = Duration::from_secs(15);

/// What the handlers share.
#[derive(Debug)]
pub(crate) struct Cloud {
    pub(crate) zone: Zone,
    /// The front's port, for the addresses of devices.
    pub(crate) port: u16,
    /// Which ports may be given to devices, if any.
    pub(crate) ports: Option<PortRange>,
    /// What pairing tells an agent to trust, in PEM.
    pub(crate) trust_root: String,
    pub(crate) devices: Devices,
    /// The other relays, and which devices are where.
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) traffic: Traffic,
    /// Changes whenever the Directory does.
    pub(crate) directory_changes: watch::Receiver<u64>,
    pub(crate) sign_in: SignIn,
    pub(crate) replays: ReplayGuard,
    /// Absent if another server answers for the zone.
    pub(crate) dns: Option<ddns::update::Updater>,
    /// The keys of the zone, if it is signed here.
    pub(crate) keys: Option<ddns::dnssec::keys::Keys>,
    /// Writes the zone down, if it is answered for here.
    pub(crate) export: Option<ddns::transfer::Export>,
    /// Takes devices' addresses out of a zone's file, the same.
    pub(crate) import: Option<ddns::transfer::import::Import>,
    /// Where names lead; absent too if another server answers for the zone.
    pub(crate) steering: Option<Steering>,
    /// Who is asked for the certificates of devices.
    pub(crate) acme: AcmeAuthorities,
    /// Whose turn it is to order of them.
    pub(crate) orders: Arc<Orders>,
    /// Which certificates were seen.
    pub(crate) certificate_watch: CertificateWatch,
    pub(crate) metrics: Metrics,
    /// Ends the event streams.
    pub(crate) stop: CancellationToken,
}

/// What the API counts, all prefixed `causeway_control_`.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Refusals, by the code that the client got.
    refusals: IntCounterVec,
    /// Agents that became devices.
    pairings: prometheus::IntCounter,
    /// Certificates signed for devices.
    certificates: prometheus::IntCounter,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let refusals = IntCounterVec::new(
            Opts::new(
                "causeway_control_refusals_total",
                "API requests refused, by code.",
            ),
            &["code"],
        )?;
        let pairings = prometheus::IntCounter::new(
            "causeway_control_pairings_total",
            "Agents that became devices.",
        )?;
        let certificates = prometheus::IntCounter::new(
            "causeway_control_certificates_total",
            "Certificates signed for devices.",
        )?;
        registry.register(Box::new(refusals.clone()))?;
        registry.register(Box::new(pairings.clone()))?;
        registry.register(Box::new(certificates.clone()))?;
        for code in error::Code::ALL {
            refusals.with_label_values(&[code.name()]);
        }
        Ok(Self {
            refusals,
            pairings,
            certificates,
        })
    }
}

/// The API's routes.
pub(crate) fn router(cloud: Arc<Cloud>) -> Router {
    let (router, mut document) = OpenApiRouter::with_openapi(document::Document::openapi())
        .routes(routes!(pair::pair))
        .routes(routes!(device::certificate))
        .routes(routes!(acme::authorities))
        .routes(routes!(acme::turn))
        .routes(routes!(certificates::seen))
        .routes(routes!(certificates::strange))
        .routes(routes!(device::addresses))
        .routes(routes!(device::relays))
        .routes(routes!(dns::own, dns::change))
        .routes(routes!(relay::follow))
        .routes(routes!(relay::presence))
        .routes(routes!(relay::certificate))
        .routes(routes!(session::sign_in, session::sign_out))
        .routes(routes!(devices::list))
        .routes(routes!(devices::events))
        .split_for_parts();
    document::complete(&mut document);
    let document = Arc::new(document);
    router
        .route("/api/{*rest}", any(no_route))
        .route(
            "/api/openapi.json",
            get(move || std::future::ready(Json(document).into_response())),
        )
        .layer(from_fn_with_state(Arc::clone(&cloud), within_bounds))
        .with_state(cloud)
}

async fn no_route(State(cloud): State<Arc<Cloud>>) -> ApiError {
    ApiError::new(Code::NoRoute, &cloud.metrics, &"no such path")
}

/// Lets a request through that is short enough and answered in time. Its body is read before anything is decided about
/// it: an answer that comes while the body is still on its way makes HTTP/2 servers reset the stream, which some clients
/// (curl 7.88) take for a failure.
async fn within_bounds(
    State(cloud): State<Arc<Cloud>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let refuse = |code, cause: &str| ApiError::new(code, &cloud.metrics, &cause);
    let answer = async {
        let (head, body) = request.into_parts();
        let octets = read_body(body).await;
        let octets = octets.map_err(|(code, cause)| refuse(code, cause))?;
        Ok(next
            .run(Request::from_parts(head, Body::from(octets)))
            .await)
    };
    timeout(REQUEST_TIME, answer)
        .await
        .unwrap_or_else(|_| Err(refuse(Code::TooSlow, "not answered in time")))
}

/// Reads the body of a request: short, and here in time.
async fn read_body(body: Body) -> Result<Bytes, (Code, &'static str)> {
    let read = timeout(BODY_TIME, to_bytes(body, MAX_BODY)).await;
    let read = read.map_err(|_| (Code::TooSlow, "the body was not here in time"))?;
    read.map_err(|_| (Code::TooLong, "a long body, or a broken one"))
}

/// Reads the JSON of a request. What is wrong with it is told by its place: the words of the JSON reader repeat what it
/// read, which may be a code or made to look like the log.
fn read_json<T: DeserializeOwned>(body: &[u8], metrics: &Metrics) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        let (kind, line, column) = (error.classify(), error.line(), error.column());
        let cause = format!("{kind:?} error of JSON at line {line}, column {column}");
        ApiError::new(Code::BadRequest, metrics, &cause)
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for_as_long_as_an_answer() {
        let begun = tokio::time::Instant::now();
        let nothing = Body::from_stream(pending::<Result<Bytes, Infallible>>());
        let read = timeout(REQUEST_TIME, read_body(nothing)).await;
        let (code, _) = read.unwrap().unwrap_err();
        assert!(matches!(code, Code::TooSlow));
        assert_eq!(begun.elapsed().as_secs(), BODY_TIME.as_secs());
    }

    #[tokio::test]
    async fn a_body_may_be_so_long_and_no_longer() {
        let read = |octets| read_body(Body::from(vec![b' '; octets]));
        assert_eq!(
            read(MAX_BODY).await.ok().map(|body| body.len()),
            Some(MAX_BODY)
        );
        let (code, _) = read(MAX_BODY + 1).await.unwrap_err();
        assert!(matches!(code, Code::TooLong));
    }
}
