//! Where the device's name is to lead: the cloud is told where visitors find the device itself, and what its owner wants.
//!
//! The cloud keeps both over its own restarts, so each is said once: the port when the agent starts, and the owner's word when it is
//! given.

use hyper::Method;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::cloud::{CallError, Cloud};
use super::dns::{PATH, RETRY};
use super::identity::Identity;
use super::situation::Situation;
use crate::backoff::Backoff;

/// Whether a device's name leads to the device itself or to the relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Steer {
    /// To the device while it is found there, else to the relays.
    Auto,
    /// To the device, whether it is found there or not.
    Direct,
    /// To the relays.
    Relay,
}

/// How a device's name is steered, as the cloud says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SteeringStatus {
    /// `auto`, `direct` or `relay`.
    pub mode: String,
    /// The port at which visitors find the device itself; absent if it has told none: then its name leads where its addresses say.
    pub port: Option<u16>,
    /// Where the name leads: `device`, `relay`, or `given` (where the addresses say that the device has been given).
    pub leads: String,
    /// Why, in words.
    pub why: String,
}

#[derive(Serialize)]
struct DirectChange {
    direct: Option<DirectPort>,
}

#[derive(Clone, Copy, Serialize)]
struct DirectPort {
    port: u16,
}

#[derive(Serialize)]
struct SteerChange {
    steer: Steer,
}

/// As much as is read of it. Absent where the cloud is older.
#[derive(Deserialize)]
struct DnsState {
    steering: Option<SteeringStatus>,
}

/// Says that the device's name is to be steered so from now on.
///
/// # Errors
/// If the cloud cannot be reached, or refuses.
pub async fn steer(
    cloud: &Cloud,
    identity: &Identity,
    steer: Steer,
) -> Result<Option<SteeringStatus>, CallError> {
    change(cloud, identity, &SteerChange { steer }).await
}

/// How the device's name is steered now; `None` if the cloud knows nothing of that.
///
/// # Errors
/// If the cloud cannot be reached, or refuses.
pub async fn steering(
    cloud: &Cloud,
    identity: &Identity,
) -> Result<Option<SteeringStatus>, CallError> {
    let asked = cloud.call::<DnsState>(Method::GET, PATH, "application/json", vec![], identity);
    Ok(asked.await?.steering)
}

/// Tells the cloud at which port visitors find the device itself, or that they do not any more. Never returns.
pub(super) async fn tell(
    cloud: &Cloud,
    identity: &Identity,
    port: Option<u16>,
    situation: &Situation,
) {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        match tell_once(cloud, identity, port).await {
            Ok(()) => {
                situation.direct_problem(None);
                return std::future::pending().await;
            }
            Err(error) => {
                if port.is_some() {
                    tracing::info!(%error, "the cloud could not be told that visitors find this device itself");
                    situation.direct_problem(Some(error.to_string()));
                }
                match error.may_pass() {
                    true => sleep(backoff.next_wait()).await,
                    // Nobody is led here, and nothing is lost if that is not said: a check says it too.
                    false if port.is_none() => return std::future::pending().await,
                    false => sleep(RETRY.1).await, // somebody has to mend it
                }
            }
        }
    }
}

async fn tell_once(cloud: &Cloud, identity: &Identity, port: Option<u16>) -> Result<(), CallError> {
    let Some(port) = port else {
        // Most have never told any, and change nothing.
        let told = steering(cloud, identity).await?;
        if told.is_some_and(|told| told.port.is_some()) {
            change(cloud, identity, &DirectChange { direct: None }).await?;
        }
        return Ok(());
    };
    let direct = Some(DirectPort { port });
    change(cloud, identity, &DirectChange { direct }).await?;
    Ok(())
}

async fn change(
    cloud: &Cloud,
    identity: &Identity,
    change: &impl Serialize,
) -> Result<Option<SteeringStatus>, CallError> {
    let body = serde_json::to_vec(change).unwrap_or_default(); // a word or a number
    let changed = cloud.call::<DnsState>(Method::PATCH, PATH, "application/json", body, identity);
    Ok(changed.await?.steering)
}
