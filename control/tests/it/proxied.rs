//! A proxy before the front that says who comes, and services that hear it.

use crate::haproxy::{self, Haproxy};
use crate::nginx::Nginx;
use crate::process::{output_of, run, until};
use crate::reload::{Operator, good};
use crate::world::Place;

/// A server that believes these.
fn believing(proxies: &str) -> String {
    good().replace("[relay]\n", &format!("[relay]\nproxy_from = [{proxies}]\n"))
}

const HEADERS: &str = "causeway_relay_proxy_headers_total";

/// What the service is to hear of somebody at these addresses.
const VISITORS: [&str; 2] = ["127.0.0.7", "::1"];

#[test]
fn a_service_hears_the_visitor_and_not_the_proxy() {
    let operator = Operator::start(&believing(&format!("\"{}\"", haproxy::ADDRESS)));
    let server = &operator.server;
    let options = "send-proxy-v2 proxy-v2-options crc32c,unique-id check inter 200";
    let proxy = Haproxy::before(server.ready.front, options);

    let behind_proxy_protocol = Nginx::behind_proxy_protocol(&Place::Host);
    let device = server.pair("first");
    let options = ["--visitor-address", "proxy-v2"];
    let _agent = device.run_with(&behind_proxy_protocol.origin(), &options);
    let over_tls = Nginx::over_tls(&Place::Host);
    let device = server.pair("second");
    let origin = over_tls.origin().replace("http://", "https://");
    let _other = device.run_with(&origin, &["--origin-insecure"]);
    for visitor in VISITORS {
        for version in ["--http1.1", "--http2"] {
            let mut curl = proxy.curl(server, visitor);
            curl.args([version, &server.url("first", "/")]);
            assert_eq!(output_of(curl), visitor);
            let mut curl = proxy.curl(server, visitor);
            curl.args([version, &server.url("second", "/")]);
            assert_eq!(output_of(curl), format!("{visitor} over https"));
        }
    }
    // The server's own pages come by it too, and who comes straight is who he is.
    let mut curl = proxy.curl(server, VISITORS[0]);
    curl.args(["--output", "/dev/null", &server.url("cloud", "/offline")]);
    output_of(curl);
    assert_eq!(server.get(&server.url("first", "/")), "127.0.0.1");
    assert_eq!(server.metric(&format!("{HEADERS}{{of=\"visitor\"}}")), 9);
    // Its checks are its own.
    until(
        || server.metric(&format!("{HEADERS}{{of=\"proxy\"}}")) > 2,
        || server.metrics("causeway_relay_"),
    );
    let refused = server.metrics("causeway_relay_visitors_refused_total{reason=\"proxy");
    assert_eq!(refused, "");
}

#[test]
fn a_proxy_that_is_not_believed_passes_nobody_on_until_it_is() {
    let operator = Operator::start(&good());
    let server = &operator.server;
    let proxy = Haproxy::before(server.ready.front, "send-proxy-v2");
    let refused = |reason: &str| {
        server.metric(&format!(
            "causeway_relay_visitors_refused_total{{reason=\"{reason}\"}}"
        ))
    };
    let page = || {
        let mut curl = proxy.curl(server, VISITORS[0]);
        curl.args(["--output", "/dev/null", &server.url("cloud", "/offline")]);
        run(curl).status.success()
    };
    assert!(!page());
    assert_eq!(refused("proxy_unexpected"), 1);
    operator.reload(&believing("\"127.0.0.8/31\""), "done");
    assert!(page());

    // Of those that are believed no header is no reason to guess.
    let mut straight = server.curl();
    straight.args(["--interface", haproxy::ADDRESS]);
    straight.arg(server.url("cloud", "/offline"));
    assert!(!run(straight).status.success());
    assert_eq!(refused("proxy_missing"), 1);
    let older = Haproxy::before(server.ready.front, "send-proxy");
    let mut curl = older.curl(server, VISITORS[0]);
    curl.arg(server.url("cloud", "/offline"));
    assert!(!run(curl).status.success());
    assert_eq!(refused("proxy_version"), 1);

    operator.reload(&good(), "done");
    assert!(!page());
    assert_eq!(refused("proxy_unexpected"), 2);
    let said = server.process.said();
    assert!(!said.contains("at the next start"), "{said}");
}

#[test]
fn a_proxy_on_the_same_host_does_not_keep_the_server_from_starting() {
    let operator = Operator::start(&believing("\"127.0.0.0/8\""));
    let own = format!("{HEADERS}{{of=\"proxy\"}}");
    assert_eq!(operator.server.metric(&own), 1);
}
