//! A log, as it is asked over HTTPS (RFC 6962 section 4): one question after the other, each in time and with a bounded answer.

use std::io;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use relay::http_client;
use relay::resolve::Resolver;
use relay::tls::{self, Roots};
use tokio::time::timeout;
use transparency::Nonsense;

use crate::config::LogConfig;

/// How long one answer may take, all of it.
const ANSWER_TIME: Duration = Duration::from_secs(20);

/// The longest answer that is read, in octets: some hundred entries with their chains.
const MAX_ANSWER: usize = 8 * 1024 * 1024;

/// Who asks.
const SOFTWARE: &str = concat!("causeway/", env!("CARGO_PKG_VERSION"));

/// Why a log was not followed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("it cannot be reached: {0}")]
    Unreachable(io::Error),
    #[error("it does not answer within {} seconds", ANSWER_TIME.as_secs())]
    Slow,
    #[error("it does not give what it has: it answers {0}")]
    Refused(StatusCode),
    #[error("an answer of it is longer than {} MiB", MAX_ANSWER / 1024 / 1024)]
    TooLong,
    #[error("what it says makes no sense: {0}")]
    Nonsense(#[from] Nonsense),
    #[error("it has fewer entries than before: it takes back what it has shown")]
    Shrunk,
    #[error(
        "what it shows is not what it has signed: it has rewritten its history, or shows another one here"
    )]
    Rewritten,
    #[error("its newest tree head is more than a day old: what it takes now is not seen")]
    Stale,
    #[error("what it shows cannot be kept: {0}")]
    Store(#[from] crate::store::StoreError),
}

impl Failure {
    /// All that a log, or what is on the way to it, can be at fault for.
    pub(super) const REASONS: [&str; 9] = [
        "unreachable",
        "slow",
        "refused",
        "too_long",
        "nonsense",
        "shrunk",
        "rewritten",
        "stale",
        "store",
    ];

    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Slow => "slow",
            Self::Refused(_) => "refused",
            Self::TooLong => "too_long",
            Self::Nonsense(_) => "nonsense",
            Self::Shrunk => "shrunk",
            Self::Rewritten => "rewritten",
            Self::Stale => "stale",
            Self::Store(_) => "store",
        }
    }
}

/// One log.
#[derive(Debug)]
pub(super) struct Log {
    base: String,
    host: String,
    port: u16,
    roots: Roots,
}

impl Log {
    pub(super) fn new(config: &LogConfig) -> io::Result<Self> {
        let no_place = || io::Error::other(format!("{} is no HTTPS address", config.url));
        let (host, port) = config.place().ok_or_else(no_place)?;
        Ok(Self {
            base: config.base().to_owned(),
            host,
            port,
            roots: config.roots()?,
        })
    }

    /// Where it is.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// The answer to `question`, such as `get-sth`.
    pub(super) async fn ask(&self, question: &str) -> Result<Bytes, Failure> {
        let target = format!("{}/ct/v1/{question}", self.base);
        let asked = timeout(ANSWER_TIME, self.exchange(&target)).await;
        asked.unwrap_or(Err(Failure::Slow))
    }

    async fn exchange(&self, target: &str) -> Result<Bytes, Failure> {
        let unreachable = |error: io::Error| Failure::Unreachable(error);
        let place = target.strip_prefix("https://").unwrap_or(target);
        let (authority, _) = place.split_once('/').unwrap_or((place, ""));
        let path = place.get(authority.len()..).unwrap_or("/");
        let request = Request::get(path)
            .header(HOST, authority)
            .header(USER_AGENT, SOFTWARE)
            .header(ACCEPT, "application/json")
            .body(Full::new(Bytes::new()))
            .map_err(|error| unreachable(io::Error::other(error)))?;
        let stream = Resolver::System.connect(&self.host, self.port).await;
        let stream = stream.map_err(unreachable)?;
        let stream = tls::connect_https(stream, &self.host, &self.roots).await;
        let answer = http_client::open(stream.map_err(unreachable)?, request).await;
        let answer = answer.map_err(unreachable)?;
        if answer.status() != StatusCode::OK {
            return Err(Failure::Refused(answer.status()));
        }
        let rest = answer.rest(MAX_ANSWER).await;
        rest.map_err(|error| match http_client::is_too_long(&error) {
            true => Failure::TooLong,
            false => Failure::Unreachable(error),
        })
    }
}
