//! How a certificate authority is spoken to: one HTTPS request after the other, each in time and with a short answer. What the ACME
//! library would stumble over in an answer never reaches it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::header::{HOST, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::http::response::Parts;
use hyper::{Method, Request, Response, Uri};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient, Problem};
use tokio::time::{Instant, timeout_at};

use super::error::AcmeError;
use crate::http_client;
use crate::resolve::Resolver;
use crate::tls::{self, Roots};

/// How long one request may take, all of it.
const REQUEST_TIME: Duration = Duration::from_secs(20);

/// The longest answer that is read, in octets: a chain is some thousands.
const MAX_ANSWER: usize = 256 * 1024;

/// When an authority is asked again when it wants a certificate renewed, in seconds, if it does not say (RFC 9773 section 4.3.3).
const ADVICE_AGAIN: u32 = 6 * 60 * 60;

/// Nobody waits longer for an authority that says when to come back.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// A way to one authority. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Http {
    roots: Roots,
    resolver: Resolver,
    /// When to come back, as it said last.
    wait: Arc<Mutex<Option<Duration>>>,
}

impl Http {
    pub(super) fn new(roots: Roots, resolver: Resolver) -> Self {
        Self {
            roots,
            resolver,
            wait: Arc::default(),
        }
    }

    /// How long the authority wants not to be asked, by its last answer.
    pub(super) fn wait(&self) -> Option<Duration> {
        *self.wait.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// If it does not go to an HTTPS address, or is not answered in time, or at too much length.
    pub(super) async fn send(
        &self,
        method: Method,
        uri: &Uri,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(Parts, Bytes), AcmeError> {
        let authority = uri.authority().filter(|_| is_https(uri));
        let authority = authority.ok_or(AcmeError::NoHttps)?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder()
            .method(&method)
            .uri(path)
            .body(Full::new(body))
            .map_err(io::Error::other)?;
        *request.headers_mut() = headers;
        let host = HeaderValue::from_str(authority.as_str()).map_err(io::Error::other)?;
        request.headers_mut().insert(HOST, host);
        let deadline = Instant::now() + REQUEST_TIME;
        let connected = async {
            let (host, port) = (authority.host(), authority.port_u16().unwrap_or(443));
            let stream = self.resolver.connect(host, port).await?;
            tls::connect_https(stream, host, &self.roots).await
        };
        let connected = timeout_at(deadline, connected).await;
        let stream = connected.map_err(io::Error::from)??;
        let answered = async {
            let answer = http_client::open(stream, request).await?;
            let mut parts = Response::new(()).into_parts().0;
            parts.status = answer.status();
            parts.headers = answer.headers().clone();
            Ok::<_, io::Error>((parts, answer.rest(MAX_ANSWER).await?))
        };
        let answered = timeout_at(deadline, answered).await;
        let answered = answered.map_err(|_| AcmeError::Silent)?;
        let (mut parts, body) = answered.map_err(unanswered)?;
        let wait = bound_wait(&mut parts.headers, SystemTime::now());
        *self.wait.lock().unwrap_or_else(PoisonError::into_inner) = wait;
        if method == Method::GET && !leads_to_https(&body) {
            return Err(AcmeError::NoHttps);
        }
        Ok((parts, body))
    }
}

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let http = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes());
            let body = body.unwrap_or_default(); // it is in memory
            let is_get = head.method == Method::GET;
            let answered = http.send(head.method, &head.uri, head.headers, body).await;
            let answered = answered.and_then(|(mut parts, body)| {
                if let Some(error) = refusal(&parts, &body, is_get) {
                    return Err(error);
                }
                if is_get {
                    let headers = &mut parts.headers;
                    headers
                        .entry(RETRY_AFTER)
                        .or_insert(HeaderValue::from(ADVICE_AGAIN));
                }
                let body = Box::new(body);
                Ok(BytesResponse { parts, body })
            });
            answered.map_err(|error| Error::Other(Box::new(error)))
        })
    }
}

/// What the library would not hear of a request that was not taken: it looks for a problem (RFC 7807) in what answers a POST only, and
/// finds another fault where there is none in it.
fn refusal(parts: &Parts, body: &[u8], is_get: bool) -> Option<AcmeError> {
    if parts.status.is_success() {
        return None;
    }
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => is_get.then(|| problem.into()),
        Err(_) => Some(AcmeError::Status(parts.status.as_u16())),
    }
}

/// Why there is no answer although it was reached.
fn unanswered(error: io::Error) -> AcmeError {
    match error {
        error if http_client::is_too_long(&error) => AcmeError::TooLong,
        error if http_client::is_no_http(&error) => AcmeError::Nonsense,
        error => AcmeError::Unreachable(error),
    }
}

fn is_https(uri: &Uri) -> bool {
    let authority = uri.authority().map(|authority| authority.as_str());
    uri.scheme_str() == Some("https") && authority.is_some_and(|name| !name.contains('@'))
}

/// Whether `uri` is where an authority can be.
pub(super) fn is_https_address(uri: &str) -> bool {
    uri.parse().is_ok_and(|uri| is_https(&uri))
}

/// Whether every address in a directory is one; the library takes them as they are, and panics. An answer that is no directory is
/// for others to read.
fn leads_to_https(body: &[u8]) -> bool {
    let Ok(serde_json::Value::Object(directory)) = serde_json::from_slice(body) else {
        return true;
    };
    !directory.contains_key("newNonce")
        || directory
            .values()
            .filter_map(|value| value.as_str())
            .all(is_https_address)
}

/// What Retry-After says, bounded: the library adds it to the time of day, and panics where that overflows.
fn bound_wait(headers: &mut HeaderMap, now: SystemTime) -> Option<Duration> {
    let said = headers.remove(RETRY_AFTER)?;
    let said = said.to_str().ok()?.trim();
    let wait = match said.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = httpdate::parse_http_date(said).ok()?;
            until.duration_since(now).unwrap_or_default()
        }
    };
    let wait = wait.min(LONGEST_WAIT);
    headers.insert(RETRY_AFTER, wait.as_secs().into());
    Some(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_bounded_however_it_is_said() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for (said, wait) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("18446744073709551615", Some(24 * 3600)),
            ("18446744073709551616", None),
            ("Sun, 09 Sep 2001 01:47:40 GMT", Some(60)),
            ("Sun, 09 Sep 2001 01:00:00 GMT", Some(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(24 * 3600)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(said));
            let wait = wait.map(Duration::from_secs);
            assert_eq!(bound_wait(&mut headers, now), wait, "{said}");
            let left = headers.get(RETRY_AFTER).map(|left| left.to_str().unwrap());
            let left = left.map(|left| left.parse().unwrap());
            assert_eq!(left.map(Duration::from_secs), wait, "{said}");
        }
        assert_eq!(bound_wait(&mut HeaderMap::new(), now), None);
    }

    #[test]
    fn a_directory_leads_to_https_addresses_only() {
        let good =
            r#"{"newNonce":"https://ca.test/n","newOrder":"https://ca.test:14000/o","meta":{}}"#;
        assert!(leads_to_https(good.as_bytes()));
        for no_directory in ["", "[]", "nonsense", r#"{"suggestedWindow":{"start":"x"}}"#] {
            assert!(leads_to_https(no_directory.as_bytes()));
        }
        for bad in [
            "",
            " ",
            "http://ca.test/n",
            "/n",
            "https://",
            "https://a b/",
            "https://ca@b/",
            "\u{e4}",
        ] {
            let directory = serde_json::json!({"newNonce": bad, "newOrder": "https://ca.test/o"});
            assert!(!leads_to_https(directory.to_string().as_bytes()), "{bad}");
        }
    }
}
