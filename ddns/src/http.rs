//! The HTTP door for updates: `GET /nic/update`, the dyn2 dialect that routers and NAS already speak.
//!
//! What real clients need, and where they fail otherwise:
//!
//! - one word and address a line, one line for each host, in order; plain text with a `Content-Length`, never in chunks
//!   and never compressed (ddclient 3.10 takes the size of a chunk for the reply);
//! - `200` for every word but `badauth`, and `911` when the fault is ours: inadyn gives up for good at any other
//!   status;
//! - the connection ends after the reply.
//!
//! The key stands in the `Authorization` header and foreign keys may stand in the URL, so neither is ever logged.

mod credentials;
pub mod request;
mod word;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, WWW_AUTHENTICATE,
};
use axum::http::{HeaderValue, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use directory::{Device, Reader};

use self::credentials::Credentials;
use self::request::{MAX_HOSTS, UpdateRequest, Wish};
use self::word::Word;
use crate::addresses::ChangeSet;
use crate::metrics::Metrics;
use crate::update::{Outcome, UpdateError, Updater};

/// What the door needs to know.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) directory: Reader,
    pub(crate) updater: Updater,
    pub(crate) metrics: Arc<Metrics>,
    /// Where a name leads that has no own addresses.
    pub(crate) relay: Vec<IpAddr>,
}

/// The routes, ready to be merged into a server. It must put [`ConnectInfo<SocketAddr>`] into the requests.
pub(crate) fn router(door: Door) -> Router {
    // GET would answer HEAD as well, and an update is nothing to try out.
    let methods = get(update).head(async || StatusCode::METHOD_NOT_ALLOWED);
    Router::new()
        .route("/nic/update", methods)
        .with_state(Arc::new(door))
}

async fn update(State(door): State<Arc<Door>>, request: Request) -> Response {
    let version = request.version();
    let authorization = request
        .headers()
        .get(AUTHORIZATION)
        .map(HeaderValue::as_bytes);
    let Some(device) = Credentials::read(authorization).device(&door.directory) else {
        return reply(version, &[door.refused(Word::BadAuth)]);
    };
    let asked = UpdateRequest::parse(request.uri().query().unwrap_or_default());
    let visitor = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let visitor = visitor.map(|ConnectInfo(addr)| addr.ip());
    reply(version, &door.words(&device, &asked, visitor).await)
}

impl Door {
    /// One word for each host, or one for all.
    async fn words(
        &self,
        device: &Device,
        asked: &UpdateRequest,
        visitor: Option<IpAddr>,
    ) -> Vec<Word> {
        if asked.hosts.is_empty() {
            return vec![self.refused(Word::NotFqdn)];
        }
        if asked.hosts.len() > MAX_HOSTS {
            return vec![self.refused(Word::TooManyHosts)];
        }
        let change = self.change(&asked.wish, visitor);
        let mut words = Vec::with_capacity(asked.hosts.len());
        for host in &asked.hosts {
            words.push(self.word(device, host, &change).await);
        }
        words
    }

    fn change(&self, wish: &Wish, visitor: Option<IpAddr>) -> Result<ChangeSet, Word> {
        match wish {
            Wish::Change(change) => Ok(*change),
            Wish::Unreadable => Err(Word::BadAddress),
            Wish::VisitorsAddress => {
                let Some(visitor) = visitor else {
                    tracing::error!("the HTTP server does not say where requests come from");
                    return Err(Word::OurFault);
                };
                ChangeSet::default()
                    .set(visitor)
                    .map_err(|_| Word::BadAddress)
            }
        }
    }

    async fn word(&self, device: &Device, host: &str, change: &Result<ChangeSet, Word>) -> Word {
        if !host.contains('.') {
            return self.refused(Word::NotFqdn);
        }
        if !is_name_of(device, host, &self.directory) {
            return self.refused(Word::NoHost);
        }
        let change = match change {
            Ok(change) => *change,
            Err(word) => return self.refused(word.clone()),
        };
        match self
            .updater
            .update(device.registration, &device.name, change)
            .await
        {
            Ok(Outcome::Changed(_)) => Word::Good(self.shown(change)),
            Ok(Outcome::Unchanged(_)) => Word::NoChange(self.shown(change)),
            // Removed in this moment.
            Err(UpdateError::NotHeld) => {
                log_refusal("not_held");
                Word::NoHost
            }
            Err(UpdateError::NotPublic) => Word::BadAddress,
            // Not "abuse": ddclient would not try again, and inadyn would for ever; the next try is in time.
            Err(UpdateError::TooOften) => Word::OurFault,
            Err(error) => {
                tracing::warn!(device = %device.name, %error, "a DDNS update was not done");
                Word::OurFault
            }
        }
    }

    /// Counts and logs a refusal that the updater has not counted.
    fn refused(&self, word: Word) -> Word {
        self.metrics.update_refused(word.label());
        log_refusal(word.label());
        word
    }

    /// The addresses behind `good` and `nochg`: those asked for, or where the name leads without any.
    fn shown(&self, change: ChangeSet) -> Vec<IpAddr> {
        let asked: Vec<_> = change.addresses().collect();
        if asked.is_empty() {
            self.relay.iter().copied().take(1).collect()
        } else {
            asked
        }
    }
}

/// Says why, and not who or where: users, keys and hosts are strangers' texts, and some keys stand in the URL.
fn log_refusal(reason: &str) {
    tracing::info!(reason, "a DDNS update was refused");
}

/// Whether `host` is the device's own full name, and not one below it. The zone's normaliser decides.
fn is_name_of(device: &Device, host: &str, directory: &Reader) -> bool {
    credentials::own_name(host, directory.zone()).is_some_and(|name| name == device.name)
}

fn reply(version: Version, words: &[Word]) -> Response {
    let mut body = String::new();
    for word in words {
        body.push_str(&word.line());
        body.push('\n');
    }
    let unauthorised = words.contains(&Word::BadAuth);
    let status = if unauthorised {
        StatusCode::UNAUTHORIZED
    } else {
        StatusCode::OK
    };
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // HTTP/2 has no such header (RFC 9113 section 8.2.2).
    if version < Version::HTTP_2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if unauthorised {
        let challenge = HeaderValue::from_static("Basic realm=\"DDNS\"");
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    response
}
