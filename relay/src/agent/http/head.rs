//! What the head of a request loses and gains on its way to the origin, and that of an answer loses on its way back. The functions
//! stand in the order in which a request meets them.

use std::net::SocketAddr;

use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Uri, Version};

use crate::agent::origin::{Origin, Scheme, VisitorAddress};

/// RFC 9110 section 7.6.1: these concern one hop only. TE and trailers are passed on for gRPC's sake.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHORIZATION,
];

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What only the agent may say about a visitor; a visitor's own are dropped.
const ABOUT_THE_VISITOR: [HeaderName; 6] = [
    header::FORWARDED,
    X_FORWARDED_FOR,
    X_FORWARDED_HOST,
    X_FORWARDED_PROTO,
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-real-ip"),
];

/// The protocol that a request wants to change to (RFC 9110 section 7.8), if it asks properly. HTTP/1.1 only, and never to
/// HTTP/2 in clear (withdrawn by RFC 9113): what is said in that would reach the origin unseen, names and all.
pub(super) fn take_upgrade(request: &mut Request<Incoming>) -> Option<HeaderValue> {
    let asks = request
        .headers()
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|option| option.trim().eq_ignore_ascii_case("upgrade"));
    if !asks || request.version() != Version::HTTP_11 {
        return None;
    }
    let protocol = request.headers_mut().remove(header::UPGRADE)?;
    let to_http2 = protocol
        .to_str()
        .ok()?
        .split(',')
        .any(|protocol| protocol.trim().to_ascii_lowercase().starts_with("h2"));
    (!to_http2).then_some(protocol)
}

/// Makes the head of a `visitor`'s request for `host` into one for `origin`; `None` if its target makes no sense.
pub(super) fn for_origin(
    request: &mut Request<Incoming>,
    host: &str,
    upgrade: Option<HeaderValue>,
    origin: &Origin,
    visitor: SocketAddr,
) -> Option<()> {
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    let scheme = match origin.scheme() {
        Scheme::Https => "https",
        Scheme::Http | Scheme::Tcp | Scheme::Tls => "http",
    };
    let target = Uri::builder()
        .scheme(scheme)
        .authority(origin.authority())
        .path_and_query(path);
    *request.uri_mut() = target.build().ok()?;
    *request.version_mut() = Version::HTTP_11;
    let host = HeaderValue::from_str(host).ok()?;
    let request_body_ends = request.body().is_end_stream();
    let headers = request.headers_mut();
    strip_hop_by_hop(headers);
    join_cookies(headers);
    headers.remove(header::EXPECT); // answered here, as soon as the body is asked for
    remove_about_the_visitor(headers);
    if !request_body_ends && !headers.contains_key(header::CONTENT_LENGTH) {
        // The client would take a GET without a length for one without a body.
        headers.insert(
            header::TRANSFER_ENCODING,
            HeaderValue::from_static("chunked"),
        );
    }
    if origin.visitor_address() == VisitorAddress::Forwarded {
        let visitor = HeaderValue::from_str(&visitor.ip().to_canonical().to_string()).ok()?;
        headers.insert(X_FORWARDED_FOR, visitor);
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
        headers.insert(X_FORWARDED_HOST, host.clone());
    }
    headers.insert(header::HOST, host);
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    Some(())
}

/// Removes what concerns one hop only.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // What frames or routes the message is never up to the sender's list.
        .filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH)
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// RFC 9113 section 8.2.3: HTTP/2 may spread cookies over several fields, HTTP/1.1 may not.
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<_> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// Also those with `_` for `-`, which some services read as the same.
fn remove_about_the_visitor(headers: &mut HeaderMap) {
    let claimed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str().replace('_', "-");
            ABOUT_THE_VISITOR.iter().any(|about| *about == *name)
        })
        .cloned()
        .collect();
    for name in claimed {
        headers.remove(name);
    }
}
