//! What a relay with a process of its own asks for. Its key is registered by `causeway relay add`, and by nothing else.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use following::{Follow, Report};
use serde::Serialize;
use utoipa::ToSchema;

use super::device::CertificateAnswer;
use super::error::{ApiError, Code, Problem};
use super::signed::Signed;
use super::{Cloud, read_json};

/// Lines of JSON (RFC 8259), one after the other.
const JSON_LINES: &str = "application/jsonl";

/// Follow who is who: everything first, unless it is known, then each change, for as long as both sides live.
#[utoipa::path(
    post,
    path = "/api/relay/follow",
    request_body(content = String, content_type = "application/json", description = "What the relay knows already: `{}`, or `{\"known\":{\"epoch\":…,\"version\":…}}`."),
    security(("device_signature" = [])),
    responses(
        (status = 200, content_type = "application/jsonl", body = String),
        (status = 400, body = Problem),
        (status = 401, body = Problem, description = "The signature is missing or wrong."),
        (status = 403, body = Problem, description = "The key belongs to no relay."),
    )
)]
pub(super) async fn follow(
    State(cloud): State<Arc<Cloud>>,
    request: Signed,
) -> Result<Response, ApiError> {
    let relay = request.relay(&cloud)?;
    let Follow { known } = read_json(&request.body, &cloud.metrics)?;
    let body = cloud.fleet.follow(&relay, known, cloud.stop.clone());
    let body = body.ok_or_else(|| {
        let cause = "the relay was removed in this moment";
        ApiError::new(Code::UnknownRelay, &cloud.metrics, &cause)
    })?;
    Ok(([(CONTENT_TYPE, JSON_LINES)], body).into_response())
}

/// The report is taken.
#[derive(Serialize, ToSchema)]
pub(super) struct PresenceAnswer {}

/// Report which devices have come to the relay and which have gone.
#[utoipa::path(
    post,
    path = "/api/relay/presence",
    request_body(content = String, content_type = "application/json", description = "The session, the number of the report in it, who came and who is gone; at most 200 together."),
    security(("device_signature" = [])),
    responses(
        (status = 200, body = PresenceAnswer),
        (status = 400, body = Problem),
        (status = 401, body = Problem, description = "The signature is missing or wrong."),
        (status = 403, body = Problem, description = "The key belongs to no relay."),
        (status = 409, body = Problem, description = "The session has ended, or a report is missing: the relay is to follow anew."),
    )
)]
pub(super) async fn presence(
    State(cloud): State<Arc<Cloud>>,
    request: Signed,
) -> Result<Json<PresenceAnswer>, ApiError> {
    let relay = request.relay(&cloud)?;
    let report: Report = read_json(&request.body, &cloud.metrics)?;
    let taken = cloud.fleet.report(&relay, report);
    taken.map_err(|error| ApiError::report(error, &cloud.metrics))?;
    Ok(Json(PresenceAnswer {}))
}

/// Sign a certificate for the relay's own host.
#[utoipa::path(
    post,
    path = "/api/relay/certificate",
    request_body(content = String, content_type = "application/x-pem-file", description = "A PKCS#10 request in PEM, with a P-256 key."),
    security(("device_signature" = [])),
    responses(
        (status = 200, body = CertificateAnswer),
        (status = 401, body = Problem, description = "The signature is missing or wrong."),
        (status = 403, body = Problem, description = "The key belongs to no relay."),
        (status = 422, body = Problem, description = "The signing request is refused."),
    )
)]
pub(super) async fn certificate(
    State(cloud): State<Arc<Cloud>>,
    request: Signed,
) -> Result<Json<CertificateAnswer>, ApiError> {
    let relay = request.relay(&cloud)?;
    let text = str::from_utf8(&request.body)
        .map_err(|error| ApiError::new(Code::BadSigning, &cloud.metrics, &error))?;
    let signed = cloud.fleet.sign(&relay, text);
    let certificate = signed.map_err(|error| ApiError::signing(&error, &cloud.metrics))?;
    Ok(Json(certificate.into()))
}
