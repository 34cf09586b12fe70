//! The dialect of lego's `httpreq` provider: a challenge is presented, and cleaned up when the CA has looked.
//!
//! The user is the device, and the names are its own and all below it. Both of lego's modes are understood: the name and the value of
//! the record, or (`HTTPREQ_MODE=RAW`) what they are made from.

pub mod request;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use directory::Duty;
use serde::Serialize;

use self::request::ChallengeRequest;
use super::credentials::Credentials;
use super::{Doors, body, reply};
use crate::challenges::{ChallengeChange, ChallengeHost, ChallengeValue};
use crate::update::Door;

#[derive(Serialize)]
struct Done {}

/// `POST /present`
pub(super) async fn present(State(doors): State<Arc<Doors>>, request: Request) -> Response {
    change(&doors, request, ChallengeChange::Add).await
}

/// `POST /cleanup`
pub(super) async fn cleanup(State(doors): State<Arc<Doors>>, request: Request) -> Response {
    change(&doors, request, ChallengeChange::Remove).await
}

async fn change(
    doors: &Doors,
    request: Request,
    change: fn(ChallengeHost, ChallengeValue) -> ChallengeChange,
) -> Response {
    let updater = doors.updater.at(Door::HttpReq);
    let refuse = |status, word| {
        updater.refused(word);
        reply::error(status, word)
    };
    let (head, body) = request.into_parts();
    let body = match body::read(body).await {
        Ok(body) => body,
        Err(error) => return refuse(error.status(), error.word()),
    };
    let credentials = Credentials::of(&head.headers);
    let Some(device) = credentials.device(&doors.directory, Duty::Challenges) else {
        return reply::asking_for_a_key(refuse(StatusCode::UNAUTHORIZED, "forbidden"));
    };
    let Some(asked) = ChallengeRequest::parse(&body) else {
        return refuse(StatusCode::BAD_REQUEST, "malformed");
    };
    let place = ChallengeHost::locate(&asked.name, doors.directory.zone());
    let Some((_, host)) = place.filter(|(name, _)| *name == device.name) else {
        return refuse(StatusCode::FORBIDDEN, "not_below_this_device");
    };
    let change = change(host, asked.value);
    match updater
        .update(device.registration, &device.name, change)
        .await
    {
        Ok(_) => reply::json(StatusCode::OK, &Done {}),
        Err(error) => reply::challenge_error(error),
    }
}
