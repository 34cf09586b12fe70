//! Whom a device can ask for a certificate that every browser trusts.

use std::io;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::error::{ApiError, Code, Problem};
use super::signed::Signed;
use super::{Cloud, read_json};
use crate::config::{AcmeAuthority, AcmeConfig};
use crate::orders::{Purpose, Turn};

/// The certificate authorities of the operator's choice, as devices are told. It cannot be printed: keys are in it.
#[derive(Clone, Default, Serialize, ToSchema)]
pub(crate) struct AcmeAuthorities {
    /// How they reach the operator.
    #[schema(example = "mailto:hostmaster@example.com")]
    contact: Option<String>,
    /// In the order in which they are asked; the first that gives a certificate is enough. Empty if devices have certificates of
    /// the operator's own authority only.
    authorities: Vec<Authority>,
}

/// One that speaks ACME (RFC 8555).
#[derive(Clone, Serialize, ToSchema)]
struct Authority {
    /// The address of its directory.
    #[schema(example = "https://acme-v02.api.letsencrypt.org/directory")]
    directory: String,
    /// What that is checked against beside what the device trusts, in PEM.
    ca: Option<String>,
    /// The operator's account with it, to which those of devices belong (RFC 8555 section 7.3.4).
    binding: Option<Binding>,
    /// Which of its kinds of certificates is ordered, where it has several (draft-ietf-acme-profiles).
    #[schema(example = "shortlived")]
    profile: Option<String>,
    /// What it looks for in CAA records, if its directory does not say so.
    #[schema(example = "letsencrypt.org")]
    caa_identity: Option<String>,
}

/// An account of the operator's.
#[derive(Clone, Serialize, ToSchema)]
struct Binding {
    key_id: String,
    /// In base64url.
    #[schema(value_type = String)]
    key: Zeroizing<String>,
}

impl std::fmt::Debug for AcmeAuthorities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let directories = self
            .authorities
            .iter()
            .map(|authority| &authority.directory);
        f.debug_list().entries(directories).finish()
    }
}

impl AcmeAuthorities {
    /// As they are configured, with what stands in the files.
    ///
    /// # Errors
    /// If one cannot be read.
    pub(crate) fn read(config: Option<&AcmeConfig>) -> io::Result<Self> {
        let Some(AcmeConfig { contact, ca, .. }) = config else {
            return Ok(Self::default());
        };
        let authorities: io::Result<_> = ca.iter().map(Authority::read).collect();
        Ok(Self {
            contact: contact.clone(),
            authorities: authorities?,
        })
    }

    /// Whether a device may say that it has certificates of the authority with this directory, which looks for `issuer` in CAA records.
    pub(super) fn has(&self, directory: &str, issuer: &str) -> bool {
        let is_it = |authority: &&Authority| authority.directory == directory;
        let authority = self.authorities.iter().find(is_it);
        authority.is_some_and(|authority| {
            let said = authority.caa_identity.as_deref();
            said.is_none_or(|said| said == issuer)
        })
    }
}

impl Authority {
    fn read(configured: &AcmeAuthority) -> io::Result<Self> {
        let binding = configured.eab_key_id.clone().zip(configured.eab_key()?);
        Ok(Self {
            directory: configured.directory.clone(),
            ca: configured.ca()?,
            binding: binding.map(|(key_id, key)| Binding { key_id, key }),
            profile: configured.profile.clone(),
            caa_identity: configured.caa_identity.clone(),
        })
    }
}

#[cfg(test)]
impl AcmeAuthorities {
    /// One that says itself what it looks for in CAA records, and one of which the operator does.
    pub(super) fn of_tests() -> Self {
        let authority = |host: &str, caa_identity: Option<&str>| Authority {
            directory: format!("https://{host}/dir"),
            ca: None,
            binding: None,
            profile: None,
            caa_identity: caa_identity.map(str::to_owned),
        };
        Self {
            contact: None,
            authorities: vec![
                authority("ca.test", None),
                authority("said.test", Some("said.test")),
            ],
        }
    }
}

/// Which certificate authorities the device can ask, and as whom. It has an account of its own with each.
#[utoipa::path(
    get,
    path = "/api/device/acme",
    security(("device_signature" = [])),
    responses(
        (status = 200, body = AcmeAuthorities),
        (status = 400, body = Problem),
        (status = 401, body = Problem, description = "The signature is missing or wrong."),
        (status = 403, body = Problem, description = "The key belongs to no device."),
    )
)]
pub(super) async fn authorities(
    State(cloud): State<Arc<Cloud>>,
    request: Signed,
) -> Result<Json<AcmeAuthorities>, ApiError> {
    request.device(&cloud)?;
    Ok(Json(cloud.acme.clone()))
}

/// What a device wants to order.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OrderWanted {
    /// The address of the authority's directory.
    #[schema(example = "https://acme-v02.api.letsencrypt.org/directory")]
    directory: String,
    /// Whether visitors see a certificate of such an authority that is still good.
    renews: bool,
}

/// Whether it may.
#[derive(Serialize, ToSchema)]
pub(super) struct OrderTurn {
    /// It may order once, now.
    granted: bool,
    /// Else so many come before it,
    ahead: usize,
    /// and after so many seconds it is to ask again. It keeps its place if it does.
    wait_seconds: u64,
}

/// Whether the device may order a certificate now. An authority may give only so many to the whole zone.
#[utoipa::path(
    post,
    path = "/api/device/acme/turn",
    request_body = OrderWanted,
    security(("device_signature" = [])),
    responses(
        (status = 200, body = OrderTurn),
        (status = 400, body = Problem),
        (status = 401, body = Problem, description = "The signature is missing or wrong."),
        (status = 403, body = Problem, description = "The key belongs to no device."),
        (status = 422, body = Problem, description = "Nobody asks this authority here."),
        (status = 503, body = Problem, description = "The database failed."),
    )
)]
pub(super) async fn turn(
    State(cloud): State<Arc<Cloud>>,
    request: Signed,
) -> Result<Json<OrderTurn>, ApiError> {
    let device = request.device(&cloud)?;
    let OrderWanted { directory, renews } = read_json(&request.body, &cloud.metrics)?;
    let purpose = match renews {
        true => Purpose::Renewal,
        false => Purpose::First,
    };
    let refuse = |code, cause: &dyn std::fmt::Display| ApiError::new(code, &cloud.metrics, cause);
    let asked = cloud.orders.ask(&directory, device.registration, purpose);
    let turn = asked
        .await
        .map_err(|error| refuse(Code::Internal, &error))?;
    let unknown = || {
        refuse(
            Code::UnknownAuthority,
            &"an authority that is not in [acme]",
        )
    };
    Ok(Json(match turn.ok_or_else(unknown)? {
        Turn::Now => OrderTurn {
            granted: true,
            ahead: 0,
            wait_seconds: 0,
        },
        Turn::Later { ahead, wait } => OrderTurn {
            granted: false,
            ahead,
            wait_seconds: wait.as_secs(),
        },
    }))
}
