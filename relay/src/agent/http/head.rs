//! What the head of a request loses and gains on its way to the origin, and that of an answer loses on its way back. The functions
//! stand in the order in which a request meets them.

use std::net::{IpAddr, SocketAddr};

use hyper::body::Body;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Uri, Version};

use crate::agent::origin::{Origin, VisitorAddress};

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

/// What only the agent may say about a visitor; a visitor's own are dropped. Beside what standards and the agent itself use, these are
/// the fields that proxies and services believe. All that begin with `x-forwarded-` are such too.
const ABOUT_THE_VISITOR: [&str; 20] = [
    "forwarded",
    "forwarded-for",
    "x-forwarded",
    "x-original-forwarded-for",
    "x-original-host",
    "x-host",
    "x-scheme",
    "x-url-scheme",
    "front-end-https",
    "x-real-ip",
    "x-client-ip",
    "client-ip",
    "x-cluster-client-ip",
    "x-originating-ip",
    "x-remote-addr",
    "x-remote-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "fastly-client-ip",
];

const X_FORWARDED: &str = "x-forwarded-";

/// The protocol that a request wants to change to (RFC 9110 section 7.8), if it asks properly. HTTP/1.1 only, and never to
/// HTTP/2 in clear (withdrawn by RFC 9113): what is said in that would reach the origin unseen, names and all.
pub(super) fn take_upgrade<B>(request: &mut Request<B>) -> Option<HeaderValue> {
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

/// Whether it says that it is a call of gRPC.
pub(super) fn is_call<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Makes the head of a `visitor`'s request for `host` into one for `origin`; `None` if its target makes no sense.
pub(super) fn for_origin(
    request: &mut Request<impl Body>,
    host: &str,
    upgrade: Option<HeaderValue>,
    origin: &Origin,
    visitor: SocketAddr,
) -> Option<()> {
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    let to_http2 = origin.scheme().is_http2();
    let (version, authority) = match to_http2 {
        true => (Version::HTTP_2, host.to_owned()), // RFC 9113 section 8.3.1: there it stands for Host
        false => (Version::HTTP_11, origin.authority()),
    };
    let scheme = match origin.scheme().has_tls_of_ours() {
        true => "https",
        false => "http",
    };
    let target = Uri::builder()
        .scheme(scheme)
        .authority(authority)
        .path_and_query(path);
    *request.uri_mut() = target.build().ok()?;
    *request.version_mut() = version;
    let host = HeaderValue::from_str(host).ok()?;
    let request_body_ends = request.body().is_end_stream();
    let headers = request.headers_mut();
    strip_hop_by_hop(headers);
    join_cookies(headers);
    headers.remove(header::EXPECT); // answered here, as soon as the body is asked for
    remove_about_the_visitor(headers);
    if !to_http2 && !request_body_ends && !headers.contains_key(header::CONTENT_LENGTH) {
        // The client would take a GET without a length for one without a body.
        headers.insert(
            header::TRANSFER_ENCODING,
            HeaderValue::from_static("chunked"),
        );
    }
    if origin.visitor_address() == VisitorAddress::Forwarded {
        let visitor = visitor.ip().to_canonical();
        headers.insert(header::FORWARDED, forwarded(visitor, &host)?);
        let visitor = HeaderValue::from_str(&visitor.to_string()).ok()?;
        headers.insert(X_FORWARDED_FOR, visitor);
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
        headers.insert(X_FORWARDED_HOST, host.clone());
    }
    match to_http2 {
        true => headers.remove(header::HOST),
        false => headers.insert(header::HOST, host),
    };
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    Some(())
}

/// What `Forwarded` says (RFC 7239 section 4): `for=192.0.2.7;host=mynas.example;proto=https`. What is no token is quoted, such as an
/// address of IPv6 (section 6), or a host with a port.
fn forwarded(visitor: IpAddr, host: &HeaderValue) -> Option<HeaderValue> {
    let visitor = match visitor {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("\"[{ip}]\""),
    };
    let host = host.to_str().ok()?;
    let host = match host.bytes().all(is_token) {
        true => host.to_owned(),
        false if host.contains(['"', '\\']) => return None, // no host has one
        false => format!("\"{host}\""),
    };
    HeaderValue::try_from(format!("for={visitor};host={host};proto=https")).ok()
}

/// RFC 9110 section 5.6.2.
fn is_token(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet)
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
            name.starts_with(X_FORWARDED) || ABOUT_THE_VISITOR.contains(&name.as_str())
        })
        .cloned()
        .collect();
    for name in claimed {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_quotes_what_is_no_token() {
        for (visitor, host, said) in [
            (
                "192.0.2.7",
                "mynas.example",
                "for=192.0.2.7;host=mynas.example;proto=https",
            ),
            (
                "2001:db8::7",
                "mynas.example:8443",
                "for=\"[2001:db8::7]\";host=\"mynas.example:8443\";proto=https",
            ),
        ] {
            let host = HeaderValue::from_static(host);
            assert_eq!(forwarded(visitor.parse().unwrap(), &host).unwrap(), said);
        }
        let host = HeaderValue::from_static("a\";for=192.0.2.66");
        assert_eq!(forwarded("192.0.2.7".parse().unwrap(), &host), None);
    }

    #[test]
    fn what_a_visitor_says_of_itself_is_dropped_in_any_spelling_and_the_rest_stays() {
        let mut headers = HeaderMap::new();
        let more = [
            "x-forwarded-for",
            "x-forwarded-server",
            "x-forwarded-ssl",
            "x-forwarded-prefix",
        ];
        for name in ABOUT_THE_VISITOR.iter().chain(&more) {
            for name in [(*name).to_owned(), name.replace('-', "_")] {
                let name: HeaderName = name.parse().unwrap();
                headers.append(&name, HeaderValue::from_static("192.0.2.66"));
                headers.append(name, HeaderValue::from_static("192.0.2.67"));
            }
        }
        let kept = ["via", "x-forward", "x-request-id", "host", "client"];
        for name in kept {
            headers.insert(name, HeaderValue::from_static("kept"));
        }
        remove_about_the_visitor(&mut headers);
        let left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left.len(), kept.len(), "{left:?}");
        assert!(headers.values().all(|value| value == "kept"));
    }
}
