//! An agent with a code becomes a device.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use directory::PairingCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{ApiError, Code, Problem};
use super::signed::Signed;
use super::{Cloud, read_json};

/// What an agent sends, signed with the key it will have from now on.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PairRequest {
    /// The code from `causeway device add`.
    #[schema(example = "7X3M-9QKD-2FVA-HT6R")]
    code: String,
    /// Program and version, for the operator's eyes.
    #[schema(max_length = 100)]
    #[serde(default)]
    software: String,
}

/// The longest `software`, in octets.
const MAX_SOFTWARE: usize = 100;

impl PairRequest {
    /// Whether the agent's word for itself can be shown to a person. It is kept by the tunnel, which says it again.
    fn is_presentable(&self) -> bool {
        self.software.len() <= MAX_SOFTWARE && !self.software.chars().any(char::is_control)
    }
}

/// What the agent needs to know.
#[derive(Serialize, ToSchema)]
pub(super) struct PairAnswer {
    /// The device's lasting id.
    device_id: String,
    /// Its name under the zone.
    name: String,
    /// The operator's zone.
    zone: String,
    /// Where to bring the tunnel: `host:port`.
    relays: Vec<String>,
    /// What to check relays and cloud against, in PEM.
    trust_root: String,
}

/// Pair a device: a code works once, within ten minutes. The same key may repeat its request.
#[utoipa::path(
    post,
    path = "/api/pair",
    request_body = PairRequest,
    security(("device_signature" = [])),
    responses(
        (status = 200, body = PairAnswer),
        (status = 400, body = Problem),
        (status = 401, body = Problem, description = "The signature is missing or wrong."),
        (status = 403, body = Problem, description = "The code is wrong, used or expired."),
        (status = 409, body = Problem, description = "The key has a name already."),
    )
)]
pub(super) async fn pair(
    State(cloud): State<Arc<Cloud>>,
    request: Signed,
) -> Result<Json<PairAnswer>, ApiError> {
    let asked: PairRequest = read_json(&request.body, &cloud.metrics)?;
    if !asked.is_presentable() {
        let cause = "a name of its program that cannot be shown";
        return Err(ApiError::new(Code::BadRequest, &cloud.metrics, &cause));
    }
    let code = PairingCode::parse(&asked.code)
        .map_err(|error| ApiError::new(Code::WrongPairing, &cloud.metrics, &error))?;
    let device = cloud.devices.pair(&code, &request.key).await;
    let device = device.map_err(|error| ApiError::pairing(&error, &cloud.metrics))?;
    let id = device
        .identity
        .as_ref()
        .map(|identity| identity.id.to_string());
    cloud.metrics.pairings.inc();
    tracing::info!("a device was paired");
    Ok(Json(PairAnswer {
        device_id: id.unwrap_or_default(),
        name: device.name.to_string(),
        zone: cloud.zone.to_string(),
        relays: cloud.fleet.relays_for(&device),
        trust_root: cloud.trust_root.clone(),
    }))
}
