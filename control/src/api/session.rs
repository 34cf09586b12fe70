//! The operator signs in and out, and who else asks is refused.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::{FromRequestParts, State};
use axum::http::header::{COOKIE, HOST, ORIGIN, SET_COOKIE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use serde::Deserialize;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::sign_in::{SESSION_LIFE, Session};

use super::error::{ApiError, Code, Problem};
use super::{Cloud, read_json};

/// Only this host over TLS can set or read it (RFC 6265bis section 4.1.3.2).
pub(super) const COOKIE_NAME: &str = "__Host-causeway-operator";

/// The operator, by a session that has not ended.
#[derive(Debug)]
pub(crate) struct Operator {
    pub(super) session: Session,
}

impl Operator {
    /// Who shows a session's cookie.
    pub(crate) fn by_cookie(headers: &HeaderMap, cloud: &Cloud) -> Option<Self> {
        let token = session_token(headers)?;
        let session = cloud.sign_in.session(token, Instant::now())?;
        Some(Self { session })
    }
}

impl FromRequestParts<Arc<Cloud>> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, cloud: &Arc<Cloud>) -> Result<Self, ApiError> {
        Self::by_cookie(&parts.headers, cloud)
            .ok_or_else(|| ApiError::new(Code::NotSignedIn, &cloud.metrics, &"no session"))
    }
}

/// A request that changes something and comes from a page of this host, not from another site that a browser shows.
#[derive(Debug)]
pub(crate) struct SameOrigin;

impl FromRequestParts<Arc<Cloud>> for SameOrigin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, cloud: &Arc<Cloud>) -> Result<Self, ApiError> {
        let header = |name| {
            parts
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let host = parts
            .uri
            .authority()
            .map(|authority| authority.as_str())
            .or_else(|| header(HOST.as_str()));
        let same = match (header("sec-fetch-site"), header(ORIGIN.as_str())) {
            (Some(site), _) => site == "same-origin",
            (None, Some(origin)) => host.is_some_and(|host| origin == format!("https://{host}")),
            (None, None) => false,
        };
        if same {
            Ok(Self)
        } else {
            Err(ApiError::new(
                Code::CrossSite,
                &cloud.metrics,
                &"neither Sec-Fetch-Site nor Origin says so",
            ))
        }
    }
}

/// The token of a sign-in link.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SignInRequest {
    /// What stands behind `#sign-in=` in the link.
    #[schema(value_type = String)]
    token: Zeroizing<String>,
}

/// Sign in with a link, which works once.
#[utoipa::path(
    post,
    path = "/api/session",
    request_body = SignInRequest,
    responses(
        (status = 204, description = "Signed in; the session is in a cookie."),
        (status = 400, body = Problem),
        (status = 403, body = Problem, description = "The link is used or expired, or the request comes from another site."),
    )
)]
pub(super) async fn sign_in(
    State(cloud): State<Arc<Cloud>>,
    _same_origin: SameOrigin,
    body: Bytes,
) -> Result<impl IntoResponse, ApiError> {
    let request: SignInRequest = read_json(&body, &cloud.metrics)?;
    let redeemed = cloud.sign_in.redeem(&request.token, Instant::now());
    let session =
        redeemed.map_err(|error| ApiError::new(Code::Internal, &cloud.metrics, &error))?;
    let session = session.ok_or_else(|| {
        ApiError::new(
            Code::WrongLink,
            &cloud.metrics,
            &"a link that is not waited for",
        )
    })?;
    tracing::info!("the operator has signed in");
    let cookie = format!(
        "{COOKIE_NAME}={}; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age={}",
        session.reveal(),
        SESSION_LIFE.as_secs()
    );
    Ok((StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]))
}

/// Sign out.
#[utoipa::path(
    delete,
    path = "/api/session",
    security(("operator_session" = [])),
    responses((status = 204, description = "Signed out."), (status = 403, body = Problem))
)]
pub(super) async fn sign_out(
    State(cloud): State<Arc<Cloud>>,
    _same_origin: SameOrigin,
    headers: HeaderMap,
) -> impl IntoResponse {
    if let Some(token) = session_token(&headers) {
        cloud.sign_in.end(token);
    }
    let cookie = format!("{COOKIE_NAME}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0");
    (StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)])
}

fn session_token(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split("; "))
        .find_map(|cookie| cookie.strip_prefix(COOKIE_NAME)?.strip_prefix('='))
}
