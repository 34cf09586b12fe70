//! dyn2, the dialect of dyn.com that most routers and NAS speak, with what No-IP, deSEC and FRITZ!Box have added to it.
//!
//! One word and address a line, one line for each host, in order. `200` for every word but `badauth`, and `911` for what passes by
//! itself: inadyn gives up for good at other statuses.
//!
//! A key is one device's. Of the hosts in a list, those of other devices get `nohost`; a home with several devices sends one request
//! for each.

pub mod request;
mod word;

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use directory::{Device, Duty};

use self::request::{MAX_HOSTS, UpdateRequest, Wish};
use self::word::Word;
use super::credentials::{Credentials, own_name};
use super::{Doors, reply, visitor};
use crate::addresses::ChangeSet;
use crate::table::Held;
use crate::update::{Door, Outcome, UpdateError, Updater};

/// `GET /nic/update`
pub(super) async fn update(State(doors): State<Arc<Doors>>, request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let credentials = Credentials::of_header_or_query(request.headers(), query);
    let visitor = visitor(&request);
    let updater = doors.updater.at(Door::Dyn2).coming_from(visitor);
    let Some(device) = credentials.device(&doors.directory, Duty::Addresses) else {
        updater.refused(Word::BadAuth.label());
        let refusal = reply::text(StatusCode::UNAUTHORIZED, lines(&[Word::BadAuth]));
        return reply::asking_for_a_key(refusal);
    };
    let asking = Asking {
        doors: &doors,
        updater,
        device: &device,
        visitor,
    };
    let words = asking.words(&UpdateRequest::parse(query)).await;
    reply::text(StatusCode::OK, lines(&words))
}

/// A device that has proved itself.
struct Asking<'a> {
    doors: &'a Doors,
    updater: Updater,
    device: &'a Device,
    visitor: Option<IpAddr>,
}

impl Asking<'_> {
    /// One word for each host, or one for all.
    async fn words(&self, asked: &UpdateRequest) -> Vec<Word> {
        if asked.hosts.len() > MAX_HOSTS {
            return vec![self.refused(Word::TooManyHosts)];
        }
        let change = self.change(asked.wish);
        if asked.hosts.is_empty() {
            return vec![self.own_word(&change).await];
        }
        let mut words = Vec::with_capacity(asked.hosts.len());
        // Where the disk does not answer, the client waits for it once and not for each time that its name stands there.
        let mut later = None;
        for host in &asked.hosts {
            let word = match (self.refusal(host), later.clone()) {
                (Some(word), _) => self.refused(word),
                (None, Some(later)) => self.refused(later),
                (None, None) => self.own_word(&change).await,
            };
            if word == Word::Later {
                later = Some(word.clone());
            }
            words.push(word);
        }
        words
    }

    fn change(&self, wish: Wish) -> Result<ChangeSet, Word> {
        match wish {
            Wish::Change(change) => Ok(change),
            Wish::Unreadable => Err(Word::BadAddress),
            Wish::VisitorsAddress(besides) => {
                let visitor = self.visitor.ok_or(Word::Later)?;
                besides.set(visitor).map_err(|_| Word::BadAddress)
            }
        }
    }

    /// Why a host cannot be moved: it is not the device's own full name, or it is one below that.
    fn refusal(&self, host: &str) -> Option<Word> {
        if !host.contains('.') {
            return Some(Word::NotFqdn);
        }
        let name = own_name(host, self.doors.directory.zone());
        name.is_none_or(|name| name != self.device.name)
            .then_some(Word::NoHost)
    }

    async fn own_word(&self, change: &Result<ChangeSet, Word>) -> Word {
        let change = match change {
            Ok(change) => *change,
            Err(word) => return self.refused(word.clone()),
        };
        let (registration, name) = (self.device.registration, &self.device.name);
        match self.updater.update(registration, name, change).await {
            Ok(Outcome::Changed(held)) => Word::Good(self.shown(change, &held)),
            Ok(Outcome::Unchanged(held)) => Word::NoChange(self.shown(change, &held)),
            Err(UpdateError::NotPublic) => Word::BadAddress,
            Err(error) if error.may_pass() => Word::Later,
            // Removed in this moment.
            Err(_) => Word::NoHost,
        }
    }

    /// Counts and logs a refusal that the updater has not counted.
    fn refused(&self, word: Word) -> Word {
        self.updater.refused(word.label());
        word
    }

    /// The addresses behind `good` and `nochg`: those of the families that were named; if there are none, those that the name
    /// leads to all the same.
    fn shown(&self, change: ChangeSet, held: &Held) -> Vec<IpAddr> {
        let own = held.own.addresses;
        let named: Vec<_> = own.iter().filter(|own| change.touches(*own)).collect();
        if !named.is_empty() {
            named
        } else if !own.is_empty() {
            own.iter().collect()
        } else {
            self.doors.relay.iter().copied().take(1).collect()
        }
    }
}

fn lines(words: &[Word]) -> String {
    let mut body = String::new();
    for word in words {
        body.push_str(&word.line());
        body.push('\n');
    }
    body
}
