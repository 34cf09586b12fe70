//! The devices and their state, once or live, for the operator.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::Stream;
use futures_util::stream::unfold;
use serde::Serialize;
use tokio::time::sleep;
use utoipa::ToSchema;

use super::Cloud;
use super::error::{ApiError, Problem};
use super::session::Operator;

/// Changes in quick succession are shown as one.
const SETTLE: Duration = Duration::from_millis(100);

/// A device as the operator sees it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct DeviceRow {
    /// Its name under the zone.
    pub(crate) name: String,
    /// Its full name.
    pub(crate) host: String,
    /// What it is called where its name does not stand; once it has paired.
    pub(crate) id: Option<String>,
    /// Where a browser reaches it.
    pub(crate) url: String,
    /// Whether it is reachable now.
    pub(crate) state: DeviceState,
    /// What its tunnel runs over, while it is attached.
    pub(crate) transport: Option<&'static str>,
    /// Since when it has been attached, in seconds since 1970.
    pub(crate) since: Option<u64>,
    /// Its agent's address as the relay sees it.
    pub(crate) seen_as: Option<String>,
    /// Its agent's program and version.
    pub(crate) software: Option<String>,
    /// The addresses that its agent reports of itself.
    #[schema(value_type = Vec<String>)]
    pub(crate) addresses: Vec<IpAddr>,
}

/// Whether a device is reachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DeviceState {
    /// Its agent holds a tunnel.
    Attached,
    /// It has paired, and its agent holds no tunnel now.
    Away,
    /// Its name is registered and no agent has paired yet.
    NotPaired,
}

/// Every device as it is now.
pub(crate) async fn rows(cloud: &Cloud) -> Result<Vec<DeviceRow>, ApiError> {
    let mut rows = Vec::new();
    for device in cloud.devices.directory().devices() {
        let attachment = device
            .identity
            .as_ref()
            .and_then(|identity| cloud.fleet.of(&identity.id));
        let state = match (&device.identity, &attachment) {
            (None, _) => DeviceState::NotPaired,
            (Some(_), None) => DeviceState::Away,
            (Some(_), Some(_)) => DeviceState::Attached,
        };
        let host = cloud.zone.name_of(&device.name);
        let addresses = cloud.devices.reported_addresses(&device).await;
        rows.push(DeviceRow {
            name: device.name.to_string(),
            id: device
                .identity
                .as_ref()
                .map(|identity| identity.id.to_string()),
            url: https_url(&host, cloud.port),
            host,
            state,
            transport: attachment
                .as_ref()
                .map(|attachment| attachment.transport.name()),
            since: attachment.as_ref().map(|attachment| {
                attachment
                    .since
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default()
                    .as_secs()
            }),
            seen_as: attachment
                .as_ref()
                .map(|attachment| attachment.seen_as.ip().to_canonical().to_string()),
            software: attachment.map(|attachment| attachment.software),
            addresses: addresses.map_err(|error| ApiError::device(&error, &cloud.metrics))?,
        });
    }
    Ok(rows)
}

/// `https://host[:port]/`
pub(crate) fn https_url(host: &str, port: u16) -> String {
    match port {
        443 => format!("https://{host}/"),
        port => format!("https://{host}:{port}/"),
    }
}

/// List the devices.
#[utoipa::path(
    get,
    path = "/api/devices",
    security(("operator_session" = [])),
    responses((status = 200, body = Vec<DeviceRow>), (status = 401, body = Problem))
)]
pub(super) async fn list(
    State(cloud): State<Arc<Cloud>>,
    _operator: Operator,
) -> Result<Json<Vec<DeviceRow>>, ApiError> {
    Ok(Json(rows(&cloud).await?))
}

/// List the devices, and again after each change until the session ends, as server-sent events named `devices`.
#[utoipa::path(
    get,
    path = "/api/devices/events",
    security(("operator_session" = [])),
    responses(
        (status = 200, content_type = "text/event-stream", body = String),
        (status = 401, body = Problem),
    )
)]
pub(super) async fn events(
    State(cloud): State<Arc<Cloud>>,
    operator: Operator,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut presence = cloud.fleet.changes();
    let directory = cloud.directory_changes.clone();
    presence.mark_changed(); // the first list is sent at once
    let stream = unfold(
        (cloud, presence, directory, operator.session),
        |(cloud, mut presence, mut directory, mut session)| async move {
            tokio::select! {
                biased; // an end before anything more is shown
                () = cloud.stop.cancelled() => return None,
                () = session.ended() => return None,
                changed = presence.changed() => changed.ok()?,
                changed = directory.changed() => changed.ok()?,
            }
            sleep(SETTLE).await;
            presence.mark_unchanged();
            directory.mark_unchanged();
            let rows = rows(&cloud).await.ok()?;
            let event = Event::default().event("devices").json_data(rows).ok()?;
            Some((Ok(event), (cloud, presence, directory, session)))
        },
    );
    Sse::new(stream).keep_alive(KeepAlive::default())
}
