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
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use tokio::time::timeout;

use crate::http_client;
use crate::resolve::Resolver;
use crate::tls::{self, Roots};

/// How long one request may take, all of it.
const REQUEST_TIME: Duration = Duration::from_secs(20);

/// The longest answer that is read, in octets: a chain is some thousands.
const MAX_ANSWER: usize = 256 * 1024;

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
    ) -> io::Result<(Parts, Bytes)> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        let authority = uri.authority().filter(|_| is_https(uri));
        let authority = authority.ok_or_else(|| invalid("this is no HTTPS address"))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder()
            .method(&method)
            .uri(path)
            .body(Full::new(body))
            .map_err(io::Error::other)?;
        *request.headers_mut() = headers;
        let host = HeaderValue::from_str(authority.as_str()).map_err(io::Error::other)?;
        request.headers_mut().insert(HOST, host);
        let exchanged = async {
            let (host, port) = (authority.host(), authority.port_u16().unwrap_or(443));
            let stream = self.resolver.connect(host, port).await?;
            let stream = tls::connect_https(stream, host, &self.roots).await?;
            let answer = http_client::open(stream, request).await?;
            let mut parts = Response::new(()).into_parts().0;
            parts.status = answer.status();
            parts.headers = answer.headers().clone();
            Ok::<_, io::Error>((parts, answer.rest(MAX_ANSWER).await?))
        };
        let exchanged = timeout(REQUEST_TIME, exchanged).await;
        let (mut parts, body) = exchanged.map_err(io::Error::from)??;
        let wait = bound_wait(&mut parts.headers, SystemTime::now());
        *self.wait.lock().unwrap_or_else(PoisonError::into_inner) = wait;
        if method == Method::GET && !leads_to_https(&body) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "its directory names what is no HTTPS address",
            ));
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
            let answered = http.send(head.method, &head.uri, head.headers, body).await;
            let (parts, body) = answered.map_err(|error| Error::Other(Box::new(error)))?;
            let body = Box::new(body);
            Ok(BytesResponse { parts, body })
        })
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
