//! The pages of `https://cloud.<zone>`: the operator's list of devices, the page that explains an unreachable device, and the one that tests
//! whether names lead home.
//!
//! They are compiled in, load nothing from elsewhere, and run no script but their own.

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use directory::{OperatorName, Place, host_of};
use tower_http::set_header::SetResponseHeaderLayer;

use crate::api::{self, Cloud, Operator};

/// Nothing from other sites, nothing inline, no framing.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const CROSS_ORIGIN_OPENER_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-opener-policy");

/// The page routes, and the headers that every answer of this host carries.
pub(crate) fn router(cloud: Arc<Cloud>, api: Router) -> Router {
    let always =
        |name, value| SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value));
    Router::new()
        .route("/", get(home))
        .route("/offline", get(offline))
        .route("/lan", get(lan))
        .route(
            "/style.css",
            get((
                [(CONTENT_TYPE, "text/css")],
                include_str!("../pages/style.css"),
            )),
        )
        .route(
            "/devices.js",
            get((
                [(CONTENT_TYPE, "text/javascript")],
                include_str!("../pages/devices.js"),
            )),
        )
        .route(
            "/sign-in.js",
            get((
                [(CONTENT_TYPE, "text/javascript")],
                include_str!("../pages/sign-in.js"),
            )),
        )
        .route(
            "/lan.js",
            get((
                [(CONTENT_TYPE, "text/javascript")],
                include_str!("../pages/lan.js"),
            )),
        )
        .fallback(not_found)
        .with_state(Arc::clone(&cloud))
        .merge(api)
        .layer(from_fn_with_state(cloud, only_this_host))
        .layer(always(CONTENT_SECURITY_POLICY, POLICY))
        .layer(always(X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(always(REFERRER_POLICY, "no-referrer"))
        .layer(always(CROSS_ORIGIN_OPENER_POLICY, "same-origin"))
        .layer(always(CACHE_CONTROL, "no-store"))
}

/// Answers requests that name another host than the one whose certificate was shown (RFC 9110 section 15.5.20).
async fn only_this_host(State(cloud): State<Arc<Cloud>>, request: Request, next: Next) -> Response {
    let in_head = || request.headers().get(HOST)?.to_str().ok();
    let host = request
        .uri()
        .authority()
        .map(|authority| authority.as_str())
        .or_else(in_head);
    // HTTP/1.0 has no such header; a browser, which could be led here by another name, always sends it.
    if host.is_none() && request.version() == Version::HTTP_10 {
        return next.run(request).await;
    }
    let host = host.unwrap_or_default();
    match cloud.zone.locate(host_of(host)) {
        Place::Operator(OperatorName::Cloud) => next.run(request).await,
        Place::Apex
        | Place::Operator(_)
        | Place::Relay(_)
        | Place::Device(_)
        | Place::Nobody
        | Place::Outside => StatusCode::MISDIRECTED_REQUEST.into_response(),
    }
}

#[derive(Template)]
#[template(path = "devices.html")]
struct DevicesPage<'a> {
    zone: &'a str,
    rows: String,
}

#[derive(Template)]
#[template(path = "sign-in.html")]
struct SignInPage<'a> {
    zone: &'a str,
}

#[derive(Template)]
#[template(path = "offline.html")]
struct OfflinePage<'a> {
    zone: &'a str,
}

#[derive(Template)]
#[template(path = "lan.html")]
struct LanPage<'a> {
    zone: &'a str,
}

#[derive(Template)]
#[template(path = "not-found.html")]
struct NotFoundPage<'a> {
    zone: &'a str,
}

async fn home(State(cloud): State<Arc<Cloud>>, headers: HeaderMap) -> Response {
    if Operator::by_cookie(&headers, &cloud).is_none() {
        return page(
            StatusCode::OK,
            &SignInPage {
                zone: cloud.zone.as_str(),
            },
        );
    }
    let rows = match api::rows(&cloud).await {
        Ok(rows) => rows,
        Err(error) => return error.into_response(),
    };
    let rows = serde_json::to_string(&rows).unwrap_or_default();
    page(
        StatusCode::OK,
        &DevicesPage {
            zone: cloud.zone.as_str(),
            rows,
        },
    )
}

async fn offline(State(cloud): State<Arc<Cloud>>) -> Response {
    page(
        StatusCode::OK,
        &OfflinePage {
            zone: cloud.zone.as_str(),
        },
    )
}

/// The only page whose script asks somebody else: devices, whether they are there.
async fn lan(State(cloud): State<Arc<Cloud>>) -> Response {
    let zone = cloud.zone.as_str();
    let mut response = page(StatusCode::OK, &LanPage { zone });
    let devices = POLICY.replace(
        "connect-src 'self'",
        &format!("connect-src https://*.{zone}:*"),
    );
    if let Ok(policy) = HeaderValue::from_str(&devices) {
        response
            .headers_mut()
            .insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

async fn not_found(State(cloud): State<Arc<Cloud>>) -> Response {
    page(
        StatusCode::NOT_FOUND,
        &NotFoundPage {
            zone: cloud.zone.as_str(),
        },
    )
}

fn page(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => (status, Html(text)).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page could not be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
