//! What a paired device asks for itself.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{ApiError, Code, Problem};
use super::signed::Signed;
use super::{Cloud, read_json};
use crate::authority::DeviceCertificate;

/// A certificate for the key of whoever asks.
#[derive(Serialize, ToSchema)]
pub(super) struct CertificateAnswer {
    /// Leaf first, in PEM.
    chain: String,
    /// When to ask for the next one, in seconds since 1970.
    renew_at: u64,
    /// When it ends, in seconds since 1970.
    not_after: u64,
}

impl From<DeviceCertificate> for CertificateAnswer {
    fn from(certificate: DeviceCertificate) -> Self {
        Self {
            chain: certificate.chain,
            renew_at: certificate.renew_at,
            not_after: certificate.not_after,
        }
    }
}

/// Sign a certificate for the device's own name and the names below it.
#[utoipa::path(
    post,
    path = "/api/device/certificate",
    request_body(content = String, content_type = "application/x-pem-file", description = "A PKCS#10 request in PEM, with a P-256 key."),
    security(("device_signature" = [])),
    responses(
        (status = 200, body = CertificateAnswer),
        (status = 400, body = Problem),
        (status = 401, body = Problem, description = "The signature is missing or wrong."),
        (status = 403, body = Problem, description = "The key belongs to no device."),
        (status = 422, body = Problem, description = "The signing request is refused."),
    )
)]
pub(super) async fn certificate(
    State(cloud): State<Arc<Cloud>>,
    request: Signed,
) -> Result<Json<CertificateAnswer>, ApiError> {
    let device = request.device(&cloud)?;
    let text = str::from_utf8(&request.body)
        .map_err(|error| ApiError::new(Code::BadSigning, &cloud.metrics, &error))?;
    let signed = cloud.devices.sign(&device.name, text);
    let certificate = signed.map_err(|error| ApiError::signing(&error, &cloud.metrics))?;
    cloud.metrics.certificates.inc();
    Ok(Json(certificate.into()))
}

/// Under which addresses the device can perhaps be reached.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AddressReport {
    /// The device's own addresses; at most 16.
    #[schema(value_type = Vec<String>, example = json!(["192.168.1.5", "2001:db8::5"]))]
    addresses: BTreeSet<IpAddr>,
}

/// The report is kept.
#[derive(Serialize, ToSchema)]
pub(super) struct ReportAnswer {}

/// Report the device's own addresses, replacing what was reported before.
#[utoipa::path(
    put,
    path = "/api/device/addresses",
    request_body = AddressReport,
    security(("device_signature" = [])),
    responses(
        (status = 200, body = ReportAnswer),
        (status = 400, body = Problem),
        (status = 401, body = Problem, description = "The signature is missing or wrong."),
        (status = 403, body = Problem, description = "The key belongs to no device."),
        (status = 422, body = Problem, description = "Too many addresses."),
    )
)]
pub(super) async fn addresses(
    State(cloud): State<Arc<Cloud>>,
    request: Signed,
) -> Result<Json<ReportAnswer>, ApiError> {
    let device = request.device(&cloud)?;
    let report: AddressReport = read_json(&request.body, &cloud.metrics)?;
    let addresses: Vec<IpAddr> = report.addresses.into_iter().collect();
    let kept = cloud.devices.report_addresses(&device, &addresses).await;
    kept.map_err(|error| ApiError::device(&error, &cloud.metrics))?;
    Ok(Json(ReportAnswer {}))
}

/// Where the device can bring its tunnels.
#[derive(Serialize, ToSchema)]
pub(super) struct RelaysAnswer {
    /// Each as `host:port`; the one that the device should try first stands first. Never empty.
    #[schema(example = json!(["relay.nas.example.com:443"]))]
    relays: Vec<String>,
}

/// Which relays there are. An agent asks again and again, and moves its tunnels after the answer.
#[utoipa::path(
    get,
    path = "/api/device/relays",
    security(("device_signature" = [])),
    responses(
        (status = 200, body = RelaysAnswer),
        (status = 400, body = Problem),
        (status = 401, body = Problem, description = "The signature is missing or wrong."),
        (status = 403, body = Problem, description = "The key belongs to no device."),
    )
)]
pub(super) async fn relays(
    State(cloud): State<Arc<Cloud>>,
    request: Signed,
) -> Result<Json<RelaysAnswer>, ApiError> {
    let device = request.device(&cloud)?;
    Ok(Json(RelaysAnswer {
        relays: cloud.fleet.relays_for(&device),
    }))
}
