//! DuckDNS's dialect: everything in the URL, `OK` or `KO` in return.
//!
//! A token alone names no device, so the devices named by `domains` decide whose key it must be: the key of addresses, or that of
//! challenges where the request has a `txt`. All of them or none; and since a key is one device's, that is one device, perhaps named
//! more than once. A request with a `txt` and addresses asks for what no key may do, and gets `KO`.
//!
//! What may pass by itself is `KO` with the status 503, at which inadyn tries again; at any other `KO` it gives up for good.

pub mod request;

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use directory::{Device, Duty};

use self::request::{DuckRequest, MAX_DOMAINS, Wish};
use super::credentials::Credentials;
use super::{Doors, reply, visitor};
use crate::addresses::ChangeSet;
use crate::challenges::{ChallengeChange, ChallengeHost};
use crate::own::Change;
use crate::update::{Door, Outcome};

/// `GET /update`
pub(super) async fn update(State(doors): State<Arc<Doors>>, request: Request) -> Response {
    let asked = DuckRequest::parse(request.uri().query().unwrap_or_default());
    answer(&doors, &asked, visitor(&request)).await
}

/// `GET /update/DOMAINS/TOKEN[/ADDRESS]`
pub(super) async fn update_by_path(State(doors): State<Arc<Doors>>, request: Request) -> Response {
    let asked = DuckRequest::parse_path(request.uri().path());
    answer(&doors, &asked, visitor(&request)).await
}

async fn answer(doors: &Doors, asked: &DuckRequest, visitor: Option<IpAddr>) -> Response {
    let updater = doors.updater.at(Door::DuckDns).coming_from(visitor);
    let refuse = |reason| {
        updater.refused(reason);
        not_done(StatusCode::OK)
    };
    let Some(device) = proved(doors, asked) else {
        return refuse("badauth");
    };
    let Some(change) = change(&asked.wish, visitor) else {
        return refuse("bad_address");
    };
    match updater
        .update(device.registration, &device.name, change)
        .await
    {
        Ok(outcome) => reply::text(StatusCode::OK, said(asked, &outcome)),
        Err(error) if error.may_pass() => not_done(StatusCode::SERVICE_UNAVAILABLE),
        Err(_) => not_done(StatusCode::OK),
    }
}

/// The device that every domain names, if the token is its key for what is asked.
fn proved(doors: &Doors, asked: &DuckRequest) -> Option<Device> {
    if asked.domains.len() > MAX_DOMAINS {
        return None;
    }
    let duty = match asked.wish {
        Wish::AddText(_) | Wish::ClearTexts => Duty::Challenges,
        Wish::Addresses(_) | Wish::VisitorsAddress | Wish::Unreadable => Duty::Addresses,
    };
    let mut proved: Option<Device> = None;
    for domain in &asked.domains {
        let credentials = Credentials::new(domain, asked.token.reveal());
        let device = credentials.device(&doors.directory, duty)?;
        if proved.is_some_and(|other| other.registration != device.registration) {
            return None;
        }
        proved = Some(device);
    }
    proved
}

fn change(wish: &Wish, visitor: Option<IpAddr>) -> Option<Change> {
    let host = ChallengeHost::device();
    match wish {
        Wish::Addresses(change) => Some((*change).into()),
        Wish::VisitorsAddress => Some(ChangeSet::default().set(visitor?).ok()?.into()),
        Wish::AddText(value) => Some(ChallengeChange::Add(host, value.clone()).into()),
        Wish::ClearTexts => Some(ChallengeChange::Clear(host).into()),
        Wish::Unreadable => None,
    }
}

/// `OK`, and on demand what there is now and whether it was so before.
fn said(asked: &DuckRequest, outcome: &Outcome) -> String {
    if !asked.verbose {
        return "OK".to_owned();
    }
    let result = match outcome {
        Outcome::Changed(_) => "UPDATED",
        Outcome::Unchanged(_) => "NOCHANGE",
    };
    match &asked.wish {
        Wish::AddText(value) => {
            let value = String::from_utf8_lossy(value.as_bytes());
            format!("OK\n{value}\n{result}")
        }
        Wish::ClearTexts => format!("OK\n\n{result}"),
        Wish::Addresses(_) | Wish::VisitorsAddress | Wish::Unreadable => {
            let own = outcome.held().own.addresses;
            let v4 = own.v4.map(|address| address.to_string());
            let v6 = own.v6.map(|address| address.to_string());
            let (v4, v6) = (v4.unwrap_or_default(), v6.unwrap_or_default());
            format!("OK\n{v4}\n{v6}\n{result}")
        }
    }
}

fn not_done(status: StatusCode) -> Response {
    reply::text(status, "KO".to_owned())
}
