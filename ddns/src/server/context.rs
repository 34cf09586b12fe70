//! What an answer depends on besides the question and the table.

use std::net::IpAddr;

use serde::Deserialize;

use crate::Moment;
use crate::answer::Answer;
use crate::cookie::{Cookie, Judged, Secrets, Shown};
use crate::dnssec::Signer;
use crate::encode::MAX_NSID;
use crate::protocol::Rcode;
use crate::query::Head;
use crate::server::rate::Class;
use crate::server::{Client, Kind, Limiter, Transport};

/// Who asks, when, and whom.
#[derive(Clone, Copy, Debug)]
pub struct Context<'s> {
    /// The way of the message.
    pub transport: Transport,
    /// Where it says it comes from.
    pub client: IpAddr,
    /// When.
    pub moment: Moment,
    /// This server.
    pub identity: &'s Identity,
    /// Who signs answers; nobody where the zone is not signed.
    pub signer: Option<&'s Signer>,
    /// How much a network gets; without limit where it says nothing.
    pub limiter: Option<&'s Limiter>,
}

/// What a server says of itself.
#[derive(Debug)]
pub struct Identity {
    /// By which it knows its clients again.
    pub secrets: Secrets,
    /// Its name among the servers of the zone, if it tells.
    pub nsid: Option<Nsid>,
}

impl Context<'_> {
    /// The client's cookie looked at, if it has one.
    pub(super) fn judge(&self, head: &Head<'_>) -> Option<Judged> {
        let cookie = head.cookie()?;
        Some(
            self.identity
                .secrets
                .judge(&cookie, self.client, self.moment.unix_seconds),
        )
    }

    /// Whether the network has had its share of answers of this kind; a client that is surely where it says may ask as much as it likes.
    pub(super) fn is_over(&self, client: Client, kind: Kind) -> bool {
        self.limiter.is_some_and(|limiter| {
            client != Client::Proven
                && limiter.is_over(self.client, Class::of(kind), self.moment.nanoseconds)
        })
    }

    /// RFC 7873 section 5.4: who asks for nothing but a cookie is told with which code whether the one it has is good.
    pub(super) fn confirm(&self, cookie: &Cookie) -> Answer<'static> {
        let judged = self
            .identity
            .secrets
            .judge(cookie, self.client, self.moment.unix_seconds);
        let rcode = if judged.is_proven || cookie.server == Shown::Nothing {
            Rcode::NoError
        } else {
            Rcode::BadCookie
        };
        Answer::Refusal(rcode.into())
    }
}

/// A name that a server has for itself (RFC 5001): 1 to 64 octets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Nsid(Box<str>);

impl Nsid {
    /// The octets of the option.
    pub fn octets(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl TryFrom<String> for Nsid {
    type Error = NsidError;

    fn try_from(name: String) -> Result<Self, NsidError> {
        if (1..=MAX_NSID).contains(&name.len()) {
            Ok(Self(name.into()))
        } else {
            Err(NsidError(name.len()))
        }
    }
}

/// The text is no name for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name of {0} octets is not between 1 and {MAX_NSID}")]
pub struct NsidError(usize);
