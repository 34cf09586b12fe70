//! Calls to the operator's API: a few, small, over HTTPS, each signed with the caller's key: a device's, or a relay's.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};
use wire::signed_request::{self, CONTENT_DIGEST, SIGNATURE, SIGNATURE_INPUT};

use crate::http_client::{self, Answer};
use crate::resolve::Resolver;
use crate::tls::{self, Roots};

use super::SOFTWARE;
use super::identity::{Identity, KeyError};

/// How long one call may take, all of it.
const CALL_TIME: Duration = Duration::from_secs(15);

/// The longest answer that is read, in octets.
const MAX_ANSWER: usize = 256 * 1024;

/// The operator's API, as an agent sees it.
#[derive(Clone)]
pub struct Cloud {
    /// `https://cloud.<zone>[:port]`
    base: String,
    host: String,
    port: u16,
    roots: Roots,
    resolver: Resolver,
    clock: Clock,
}

/// By how much the cloud's clock is ahead of this device's, as far as calls have shown: one that was signed at another time is refused, and
/// the refusal says which time it is. A device's clock may be wrong for a while after each start, and it is reached all the same.
/// Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock(Arc<AtomicI64>);

impl Clock {
    /// In seconds; negative if it is behind.
    pub(crate) fn ahead(&self) -> i64 {
        self.0.load(Relaxed)
    }

    /// The cloud's time, in seconds since 1970.
    pub(super) fn now(&self) -> u64 {
        seconds(SystemTime::now()).saturating_add_signed(self.ahead())
    }

    /// What the cloud says is its time.
    fn learn(&self, said: SystemTime) {
        let ahead = seconds(said).cast_signed() - seconds(SystemTime::now()).cast_signed();
        self.0.store(ahead, Relaxed);
    }
}

/// Since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The owner gave no address of a cloud.
    #[error("{0:?} is not the address of a cloud; it looks like https://cloud.example.com")]
    BadAddress(String),
    /// It cannot be reached.
    #[error("{host} cannot be reached: {cause}")]
    Unreachable {
        /// Which host.
        host: String,
        /// What went wrong.
        cause: io::Error,
    },
    /// It was reached, and said no.
    #[error("{detail} ({status})")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The cloud's word for programs; empty if it said none.
        code: String,
        /// What the cloud says, for a person.
        detail: String,
    },
    /// It was reached, and what it said makes no sense.
    #[error("{host} gave an answer that makes no sense: {cause}")]
    BadAnswer {
        /// Which host.
        host: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The device's own key failed.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl CallError {
    /// The call was signed at another time than the cloud's.
    fn is_of_clock(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "wrong_clock")
    }

    /// Whether the same call may succeed later.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::BadAnswer { .. } => true,
            Self::Refused { status, .. } => *status >= 500 || *status == 429,
            Self::BadAddress(_) | Self::Key(_) => false,
        }
    }
}

/// RFC 9457, as much as is read of it.
#[derive(Deserialize)]
struct Problem {
    detail: String,
    #[serde(default)]
    code: String,
}

impl Cloud {
    /// The API at `address`, whose certificate `roots` must vouch for.
    ///
    /// # Errors
    /// If `address` is no HTTPS address.
    pub fn new(address: &str, roots: Roots, resolver: Resolver) -> Result<Self, CallError> {
        let bad = || CallError::BadAddress(address.to_owned());
        let uri: Uri = address.parse().map_err(|_| bad())?;
        let authority = uri.authority().ok_or_else(bad)?;
        if uri.scheme_str() != Some("https")
            || authority.as_str().contains('@')
            || uri.path() != "/"
        {
            return Err(bad());
        }
        Ok(Self {
            base: format!("https://{authority}"),
            host: authority.host().to_owned(),
            port: authority.port_u16().unwrap_or(443),
            roots,
            resolver,
            clock: Clock::default(),
        })
    }

    /// The address without a path.
    pub fn address(&self) -> &str {
        &self.base
    }

    /// How its clock goes beside this device's.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Its host and port.
    pub(super) fn place(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// Sends `body` to `path`, signed by `identity`, and reads the JSON of the answer.
    ///
    /// # Errors
    /// If the cloud cannot be reached within [`CALL_TIME`], refuses, or answers nonsense.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
        identity: &Identity,
    ) -> Result<T, CallError> {
        let octets = self
            .tell(method, path, content_type, body, identity)
            .await?;
        serde_json::from_slice(&octets).map_err(|cause| CallError::BadAnswer {
            host: self.host.clone(),
            cause: cause.to_string(),
        })
    }

    /// The same, where the answer says no more than that the cloud has taken it.
    ///
    /// # Errors
    /// If the cloud cannot be reached within [`CALL_TIME`], or refuses.
    pub async fn tell(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
        identity: &Identity,
    ) -> Result<Bytes, CallError> {
        let (body, deadline) = (Bytes::from(body), Instant::now() + CALL_TIME);
        let answer = self
            .taken(&method, path, content_type, &body, identity, deadline)
            .await?;
        self.in_time(deadline, answer.rest(MAX_ANSWER)).await
    }

    /// The same, where the answer is read line by line for as long as it comes. The caller knows how long to wait for a line.
    ///
    /// # Errors
    /// If the cloud cannot be reached within [`CALL_TIME`], or refuses.
    pub async fn follow(
        &self,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
        identity: &Identity,
    ) -> Result<Answer, CallError> {
        let (body, deadline) = (Bytes::from(body), Instant::now() + CALL_TIME);
        self.taken(&Method::POST, path, content_type, &body, identity, deadline)
            .await
    }

    /// The beginning of the answer to a call that the cloud has taken. One that was signed at another time than the cloud's is made once
    /// more, by its clock.
    async fn taken(
        &self,
        method: &Method,
        path: &str,
        content_type: &str,
        body: &Bytes,
        identity: &Identity,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let request = self.request(method, path, content_type, body, identity)?;
            let answered = self.in_time(deadline, async {
                let answer = self.answer(request).await?;
                if answer.status().is_success() {
                    return Ok(Ok(answer));
                }
                let (status, said) = (answer.status(), answer.date());
                Ok(Err((
                    said,
                    refused(status, &answer.rest(MAX_ANSWER).await?),
                )))
            });
            match (answered.await?, tries) {
                (Ok(answer), _) => return Ok(answer),
                (Err((Some(said), error)), 1) if error.is_of_clock() => {
                    self.clock.learn(said);
                    tracing::warn!(
                        seconds = self.clock.ahead(),
                        "the cloud's clock is ahead of this device's, or behind it"
                    );
                }
                (Err((_, error)), _) => return Err(error),
            }
        }
    }

    async fn in_time<T>(
        &self,
        deadline: Instant,
        exchanged: impl Future<Output = io::Result<T>>,
    ) -> Result<T, CallError> {
        let exchanged = timeout_at(deadline, exchanged).await;
        exchanged
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|cause| CallError::Unreachable {
                host: self.host.clone(),
                cause,
            })
    }

    fn request(
        &self,
        method: &Method,
        path: &str,
        content_type: &str,
        body: &Bytes,
        identity: &Identity,
    ) -> Result<Request<Full<Bytes>>, CallError> {
        let target = format!("{}{path}", self.base);
        let signed = signed_request::Request {
            method: method.as_str(),
            target: &target,
            body,
        };
        let headers = identity.sign(&signed, self.clock.now(), rand::random())?;
        Request::builder()
            .uri(path)
            .header(HOST, self.base.trim_start_matches("https://"))
            .header(USER_AGENT, SOFTWARE)
            .header(CONTENT_TYPE, content_type)
            .header(CONTENT_LENGTH, body.len())
            .header(CONTENT_DIGEST, headers.content_digest)
            .header(SIGNATURE_INPUT, headers.signature_input)
            .header(SIGNATURE, headers.signature)
            .method(method)
            .body(body.clone().into())
            .map_err(|_| CallError::BadAddress(target))
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> io::Result<Answer> {
        let stream = self.resolver.connect(&self.host, self.port).await?;
        let stream = tls::connect_https(stream, &self.host, &self.roots).await?;
        http_client::open(stream, request).await
    }
}

fn refused(status: StatusCode, answer: &[u8]) -> CallError {
    let problem = serde_json::from_slice(answer).unwrap_or_else(|_| Problem {
        detail: "the cloud refused".to_owned(),
        code: String::new(),
    });
    CallError::Refused {
        status: status.as_u16(),
        code: problem.code,
        detail: problem.detail,
    }
}

impl fmt::Debug for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cloud").field(&self.base).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_addresses_without_a_path_are_clouds() {
        let roots = Roots::none;
        let cloud = Cloud::new(
            "https://cloud.nas.localhost:8443/",
            roots(),
            Resolver::System,
        )
        .unwrap();
        assert_eq!(
            (cloud.host.as_str(), cloud.port),
            ("cloud.nas.localhost", 8443)
        );
        assert_eq!(cloud.address(), "https://cloud.nas.localhost:8443");
        assert_eq!(
            Cloud::new("https://cloud.example.com", roots(), Resolver::System)
                .unwrap()
                .port,
            443
        );
        for bad in [
            "",
            "cloud.example.com",
            "http://cloud.example.com",
            "https://",
            "https://a@b",
            "https://a/b",
        ] {
            assert!(Cloud::new(bad, roots(), Resolver::System).is_err(), "{bad}");
        }
    }
}
