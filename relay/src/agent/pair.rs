//! Pairing: a single-use code, shown to the owner, becomes this device's place in the Directory.

use directory::PairingCode;
use hyper::Method;
use serde::{Deserialize, Serialize};

use super::SOFTWARE;
use super::cloud::{CallError, Cloud};
use super::state::{Pairing, State, StateError};

#[derive(Serialize)]
struct PairRequest<'a> {
    code: &'a str,
    software: &'a str,
}

#[derive(Deserialize)]
struct PairAnswer {
    device_id: String,
    name: String,
    zone: String,
    relays: Vec<String>,
    trust_root: String,
}

/// Why pairing failed.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The cloud could not be asked, or said no.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The answer could not be kept. The same command with the same code mends it.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Registers the device of `state` with the cloud and keeps what it returns. The device's key is on disk before the code
/// is sent, and the cloud answers the same key and code again, so that a crash in between loses nothing.
///
/// # Errors
/// If the cloud refuses the code or the answer cannot be kept.
pub async fn pair(state: &State, cloud: &Cloud, code: &PairingCode) -> Result<Pairing, PairError> {
    let identity = state.identity()?;
    let request = PairRequest {
        code: &code.reveal(),
        software: SOFTWARE,
    };
    let body = serde_json::to_vec(&request).unwrap_or_default(); // two strings
    let answer: PairAnswer = cloud
        .call(
            Method::POST,
            "/api/pair",
            "application/json",
            body,
            &identity,
        )
        .await?;
    let pairing = Pairing {
        device_id: answer.device_id,
        name: answer.name,
        zone: answer.zone,
        cloud: cloud.address().to_owned(),
        relays: answer.relays,
        trust_root: answer.trust_root,
    };
    // Before the pairing, so that no crash leaves a certificate of another name or authority beside it.
    state.forget_certificate()?;
    state.keep_pairing(&pairing)?;
    Ok(pairing)
}
