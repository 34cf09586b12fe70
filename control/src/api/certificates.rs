//! Which certificates were seen for a device's name, and what the device says of them.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::error::{ApiError, Code, Problem};
use super::signed::Signed;
use super::{Cloud, read_json};
use crate::certificate_watch::{LogStatus, SeenCertificate};
use crate::devices::now_ms;

/// So many keys a device may report: as many as it can have been told of.
const MOST_REPORTED: usize = 256;

/// What was seen before need not be told again.
#[derive(Deserialize, IntoParams)]
pub(super) struct After {
    /// The highest number of what the device has heard already.
    #[serde(default)]
    after: u64,
}

/// What certificate transparency logs have shown.
#[derive(Serialize, ToSchema)]
pub(super) struct SeenAnswer {
    /// At most 64, the lowest numbers first; after so many there may be more.
    certificates: Vec<Seen>,
    /// The logs that are followed; empty if none is.
    logs: Vec<LogStatus>,
    /// When to ask again, in seconds.
    ask_again_seconds: Option<u64>,
}

/// A certificate that is good for names of the device.
#[derive(Serialize, ToSchema)]
struct Seen {
    number: u64,
    /// SHA-256 of its public key (SubjectPublicKeyInfo), in hexadecimal.
    key: String,
    /// Those of its names that are in question.
    names: Vec<String>,
    /// In hexadecimal.
    serial: String,
    issuer: String,
    /// In seconds since 1970.
    not_before: i64,
    /// The same.
    not_after: i64,
    /// Where it was seen.
    log: String,
    /// As which entry.
    entry: u64,
}

impl From<SeenCertificate> for Seen {
    fn from(seen: SeenCertificate) -> Self {
        Self {
            number: seen.number,
            key: seen.key,
            names: seen.names,
            serial: seen.serial,
            issuer: seen.issuer,
            not_before: seen.not_before,
            not_after: seen.not_after,
            log: seen.log,
            entry: seen.entry,
        }
    }
}

/// Which certificates logs have shown for the device's name and the names below it, its own with them. Of each key there is the one that
/// is good for longest.
#[utoipa::path(
    get,
    path = "/api/device/certificates/seen",
    params(After),
    security(("device_signature" = [])),
    responses(
        (status = 200, body = SeenAnswer),
        (status = 400, body = Problem),
        (status = 401, body = Problem, description = "The signature is missing or wrong."),
        (status = 403, body = Problem, description = "The key belongs to no device."),
    )
)]
pub(super) async fn seen(
    State(cloud): State<Arc<Cloud>>,
    query: Result<Query<After>, QueryRejection>,
    request: Signed,
) -> Result<Json<SeenAnswer>, ApiError> {
    let device = request.device(&cloud)?;
    let query = query.map_err(|error| ApiError::new(Code::BadRequest, &cloud.metrics, &error));
    let Query(After { after }) = query?;
    let store = &cloud.certificate_watch.store;
    let seen = store.certificates_seen(&device.name, after, now_ms()).await;
    let seen = seen.map_err(|error| ApiError::new(Code::Internal, &cloud.metrics, &error))?;
    let ask_again = cloud.certificate_watch.devices_ask();
    Ok(Json(SeenAnswer {
        certificates: seen.into_iter().map(Seen::from).collect(),
        logs: cloud.certificate_watch.logs(),
        ask_again_seconds: ask_again.map(|time| time.as_secs()),
    }))
}

/// What the device says is not its own.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StrangeReport {
    /// The keys of certificates as they were told; at most 256.
    keys: Vec<String>,
}

/// The report is kept.
#[derive(Serialize, ToSchema)]
pub(super) struct StrangeAnswer {}

/// Say which of the certificates that were seen are not the device's own, replacing what was said before. The operator sees them.
#[utoipa::path(
    put,
    path = "/api/device/certificates/strange",
    request_body = StrangeReport,
    security(("device_signature" = [])),
    responses(
        (status = 200, body = StrangeAnswer),
        (status = 400, body = Problem),
        (status = 401, body = Problem, description = "The signature is missing or wrong."),
        (status = 403, body = Problem, description = "The key belongs to no device."),
    )
)]
pub(super) async fn strange(
    State(cloud): State<Arc<Cloud>>,
    request: Signed,
) -> Result<Json<StrangeAnswer>, ApiError> {
    let device = request.device(&cloud)?;
    let report: StrangeReport = read_json(&request.body, &cloud.metrics)?;
    let keys = report.keys.iter().map(|key| {
        let octets = HEXLOWER.decode(key.as_bytes()).ok()?;
        <[u8; 32]>::try_from(octets).ok()
    });
    let keys: Option<Vec<_>> = keys.collect();
    let keys = keys.filter(|keys| keys.len() <= MOST_REPORTED);
    let keys = keys
        .ok_or_else(|| ApiError::new(Code::BadRequest, &cloud.metrics, &"no keys, or too many"))?;
    let store = &cloud.certificate_watch.store;
    let reported = store
        .report_certificates(&device.name, &keys, now_ms())
        .await;
    let new = reported.map_err(|error| ApiError::new(Code::Internal, &cloud.metrics, &error))?;
    if new > 0 {
        cloud.certificate_watch.reported(new);
        tracing::warn!(
            device = device.name.as_str(),
            certificates = new,
            "a device says that certificates for its name are not its own; `causeway certificates` lists them"
        );
    }
    Ok(Json(StrangeAnswer {}))
}
