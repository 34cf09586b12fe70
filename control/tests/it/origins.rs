//! Services that want more than plain HTTP.

use crate::nginx::Nginx;
use crate::process::output_of;
use crate::world::{Place, Server};

#[test]
fn an_origin_over_tls_is_trusted_by_its_certificate_or_not_at_all() {
    let server = Server::start();
    let nginx = Nginx::over_tls(&Place::Host);
    let origin = nginx.origin().replace("http://", "https://");
    let device = server.pair("mynas");
    let certificate = nginx.certificate();
    for trusting in [
        &["--origin-ca", certificate.to_str().unwrap()][..],
        &["--origin-insecure"],
    ] {
        let _agent = device.run_with(&origin, trusting);
        assert_eq!(
            server.get(&server.url("mynas", "/")),
            "127.0.0.1 over https"
        );
    }
    // One that the system does not know is not trusted, and the visitor hears that the service is not reached.
    let agent = device.run(&origin);
    let mut curl = server.curl();
    curl.args([
        "--write-out",
        "%{http_code}",
        "--output",
        "/dev/null",
        &server.url("mynas", "/"),
    ]);
    assert_eq!(output_of(curl), "502");
    let said = agent.until_said("the origin gave no answer");
    assert!(
        said.contains("certificate") && said.contains("--origin-ca"),
        "{said}"
    );
}

#[test]
fn visitors_of_a_service_that_is_away_do_not_fill_the_log() {
    let server = Server::start();
    let agent = server.pair("mynas").run("http://127.0.0.1:1");
    let mut curl = server.curl();
    // One connection, and a request after the other.
    let urls = server.url("mynas", "/[1-200]");
    curl.args([
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code} ",
        &urls,
    ]);
    assert_eq!(output_of(curl), "502 ".repeat(200));
    let said = agent.said();
    let lines = said.matches("the origin gave no answer").count();
    assert!((1..20).contains(&lines), "{lines} lines");
}

#[test]
fn a_service_hears_of_the_visitor_what_the_agent_says_and_nothing_that_the_visitor_says() {
    let server = Server::start();
    let nginx = Nginx::told_of_the_visitor(&Place::Host);
    let _agent = server.pair("mynas").run(&nginx.origin());
    let host = format!("mynas.{}:{}", server.ready.zone, server.ready.front.port());
    let expected = format!("for=127.0.0.1;host=\"{host}\";proto=https|127.0.0.1|https|{host}|");
    for version in ["--http1.1", "--http2"] {
        let mut curl = server.curl();
        curl.args([version, "--fail", "--header", "Forwarded: for=192.0.2.66"]);
        for name in [
            "X-Forwarded-For",
            "X-Forwarded-Proto",
            "X-Forwarded-Host",
            "X-Forwarded-Server",
            "X-Real-IP",
            "True-Client-IP",
            "CF-Connecting-IP",
            "X-Client-IP",
            "X-Cluster-Client-IP",
            "X-Original-Forwarded-For",
        ] {
            curl.args(["--header", &format!("{name}: 192.0.2.66")]);
        }
        curl.arg(server.url("mynas", "/"));
        assert_eq!(output_of(curl), expected, "{version}");
    }
}

#[test]
fn an_origin_behind_the_proxy_protocol_hears_the_visitors_address() {
    let server = Server::start();
    let nginx = Nginx::behind_proxy_protocol(&Place::Host);
    let _agent = server
        .pair("mynas")
        .run_with(&nginx.origin(), &["--visitor-address", "proxy-v2"]);
    for version in ["--http1.1", "--http2"] {
        let mut curl = server.curl();
        curl.args([version, "--fail", &server.url("mynas", "/")]);
        assert_eq!(output_of(curl), "127.0.0.1");
    }
}

#[test]
fn what_is_no_origin_is_refused_with_an_example() {
    for bad in ["127.0.0.1:80", "ftp://127.0.0.1", "tcp://127.0.0.1"] {
        let mut command = std::process::Command::new(crate::world::causeway_agent());
        command.args(["run", "--origin", bad]);
        let output = crate::process::run(command);
        assert_eq!(output.status.code(), Some(2));
        assert!(
            String::from_utf8(output.stderr)
                .unwrap()
                .contains("http://127.0.0.1:80"),
            "{bad}"
        );
    }
}
