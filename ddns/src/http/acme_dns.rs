//! acme-dns's dialect, which most certificate clients speak.
//!
//! With acme-dns itself an account is a name somewhere else, to which the owner leads `_acme-challenge` by a CNAME. Here it is
//! `_acme-challenge` in front of the device's own name, so no CNAME is needed. Nothing is kept for an account: its key is the device's
//! challenge key, its `subdomain` the device's label, and its user is derived from the registration, so that it ends with that.
//!
//! Who may ask from where is not restricted, and a demand to do so is refused: to pass it over in silence would be a promise.

pub mod request;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use data_encoding::HEXLOWER;
use directory::{Device, Duty};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use self::request::{TextUpdate, check_registration};
use super::credentials::Credentials;
use super::{Doors, body, reply};
use crate::challenges::{ChallengeChange, ChallengeHost};
use crate::update::Door;

/// What a client keeps, and shows with each update.
#[derive(Serialize)]
struct Account<'a> {
    username: String,
    password: &'a str,
    fulldomain: String,
    subdomain: &'a str,
    allowfrom: [&'a str; 0],
}

#[derive(Serialize)]
struct Done<'a> {
    txt: &'a str,
}

/// `POST /register`
pub(super) async fn register(State(doors): State<Arc<Doors>>, request: Request) -> Response {
    let refuse = |status, word| refused(&doors, status, word);
    let (head, body) = request.into_parts();
    let body = match body::read(body).await {
        Ok(body) => body,
        Err(error) => return refuse(error.status(), error.word()),
    };
    let credentials = Credentials::of(&head.headers);
    let Some(device) = credentials.device(&doors.directory, Duty::Challenges) else {
        return reply::asking_for_a_key(refuse(StatusCode::UNAUTHORIZED, "forbidden"));
    };
    if let Err(refusal) = check_registration(&body) {
        return refuse(StatusCode::BAD_REQUEST, refusal.word());
    }
    let name = doors.directory.zone().name_of(&device.name);
    let account = Account {
        username: user_of(&device),
        password: credentials.reveal_key(),
        fulldomain: format!("_acme-challenge.{name}"),
        subdomain: device.name.as_str(),
        allowfrom: [],
    };
    reply::json(StatusCode::CREATED, &account)
}

/// `POST /update`
pub(super) async fn update(State(doors): State<Arc<Doors>>, request: Request) -> Response {
    let refuse = |status, word| refused(&doors, status, word);
    let (head, body) = request.into_parts();
    let body = match body::read(body).await {
        Ok(body) => body,
        Err(error) => return refuse(error.status(), error.word()),
    };
    let asked = match TextUpdate::parse(&body) {
        Ok(asked) => asked,
        Err(refusal) => return refuse(StatusCode::BAD_REQUEST, refusal.word()),
    };
    let Some(device) = proved(&doors, &head.headers, &asked.subdomain) else {
        return refuse(StatusCode::UNAUTHORIZED, "forbidden");
    };
    let change = ChallengeChange::Add(ChallengeHost::device(), asked.value);
    let updater = doors.updater.at(Door::AcmeDns);
    match updater
        .update(device.registration, &device.name, change)
        .await
    {
        Ok(_) => reply::json(StatusCode::OK, &Done { txt: &asked.txt }),
        Err(error) => reply::challenge_error(error),
    }
}

/// `GET /health`
pub(super) async fn health(State(doors): State<Arc<Doors>>) -> StatusCode {
    match doors.updater.is_ready() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The device of which `subdomain` is the label, if user and key are its own.
fn proved(doors: &Doors, headers: &HeaderMap, subdomain: &str) -> Option<Device> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let user = header("x-api-user").unwrap_or_default();
    let key = header("x-api-key").unwrap_or_default();
    let device = Credentials::new(subdomain, key).device(&doors.directory, Duty::Challenges)?;
    user.eq_ignore_ascii_case(&user_of(&device))
        .then_some(device)
}

/// A user in the shape that clients know: a UUID of version 8 (RFC 9562 section 5.8).
fn user_of(device: &Device) -> String {
    let digest = Sha256::new()
        .chain_update(b"causeway: a user of the acme-dns door\0")
        .chain_update(device.registration.0.to_be_bytes())
        .chain_update(device.name.as_str())
        .finalize();
    let mut text = HEXLOWER.encode(&digest);
    text.truncate(32);
    text.replace_range(12..13, "8");
    text.replace_range(16..17, "8"); // the variant of RFC 9562
    for at in [20, 16, 12, 8] {
        text.insert(at, '-');
    }
    text
}

fn refused(doors: &Doors, status: StatusCode, word: &'static str) -> Response {
    doors.updater.at(Door::AcmeDns).refused(word);
    reply::error(status, word)
}

#[cfg(test)]
mod tests {
    use directory::{DeviceName, RegistrationId};

    use super::*;

    #[test]
    fn a_user_is_a_uuid_of_its_registration() {
        let user = |registration| {
            user_of(&Device {
                registration: RegistrationId(registration),
                name: DeviceName::parse("mynas").unwrap(),
                identity: None,
                ddns_key: None,
                challenge_key: None,
            })
        };
        let lengths: Vec<_> = user(1).split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!((&user(1)[14..15], &user(1)[19..20]), ("8", "8"));
        assert_eq!(user(1), user(1));
        assert_ne!(user(1), user(2));
    }
}
