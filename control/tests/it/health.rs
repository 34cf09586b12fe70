//! Whether the server works, as monitoring systems ask, and as it is said.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::world::Server;

/// What the admin listener answers, with the status in front.
fn asked(server: &Server, path: &str) -> String {
    let mut curl = server.place.command("curl");
    curl.args(["--silent", "--write-out", "%{stderr}%{http_code} "]);
    curl.arg(format!("http://{}{path}", server.ready.admin));
    let output = crate::process::run(curl);
    let [status, body] =
        [output.stderr, output.stdout].map(|text| String::from_utf8(text).unwrap());
    status + &body
}

#[test]
fn each_check_has_a_line_and_the_build_is_told() {
    let server = Server::start();
    let all_well = "[+]listeners ok\n[+]certificates ok\n[+]newcomers ok\n[+]memory ok\n[+]upkeep ok\n[+]database ok\n[+]updates ok\nready\n";
    assert_eq!(asked(&server, "/readyz?verbose"), format!("200 {all_well}"));
    assert_eq!(asked(&server, "/readyz"), "200 ready\n");
    let build = asked(&server, "/buildinfo");
    let version = env!("CARGO_PKG_VERSION");
    assert!(build.starts_with("200 {") && build.contains(&format!("\"version\":\"{version}\"")));
    for check in [
        "listeners",
        "certificates",
        "newcomers",
        "memory",
        "upkeep",
        "database",
        "updates",
    ] {
        let line = format!("causeway_check_passes{{check=\"{check}\"}}");
        assert_eq!(server.metric(&line), 1, "{check}");
    }
    let end = server.metric("causeway_tls_certificate_expiry_timestamp_seconds{purpose=\"relay\"}");
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let days = (end - now.as_secs()) / 86_400;
    assert!((28..=30).contains(&days), "{days}");
    let descriptors = server.metric("process_open_fds");
    assert!(descriptors > 10 && descriptors < server.metric("process_max_fds"));
}

/// The same without a program to start: a server that drains has little time.
fn asked_at_once(server: &Server, path: &str) -> String {
    let mut stream = TcpStream::connect(server.ready.admin).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_server_that_drains_says_so_in_each_way() {
    let server = Server::start();
    assert_eq!(server.metric("causeway_relay_draining"), 0);
    // A visitor who says nothing is waited for, as long as the drain lasts.
    let accepted = "causeway_relay_visitors_accepted_total";
    let before = server.metric(accepted);
    let _visitor = TcpStream::connect(server.ready.front).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.metric(accepted) == before {
        assert!(Instant::now() < deadline, "no visitor has come");
    }
    server.process.signal("-TERM");
    let said = loop {
        let said = asked_at_once(&server, "/readyz?verbose");
        if said.starts_with("HTTP/1.1 503") {
            break said;
        }
        assert!(Instant::now() < deadline, "still ready: {said}");
    };
    assert!(
        said.contains("[-]newcomers failed: draining: this server is about to stop\n"),
        "{said}"
    );
    assert!(
        said.contains("[+]database ok\n") && said.ends_with("not ready\n"),
        "{said}"
    );
    let brief = asked_at_once(&server, "/readyz");
    assert!(
        brief.ends_with("\r\n\r\ndraining: this server is about to stop\n"),
        "{brief}"
    );
    loop {
        let metrics = asked_at_once(&server, "/metrics");
        assert!(metrics.contains("causeway_check_passes{check=\"newcomers\"} 0\n"));
        if metrics.contains("causeway_relay_draining 1\n") {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "the relay does not say that it drains"
        );
    }
}

#[test]
fn a_device_that_attaches_is_counted_with_its_handshake_and_its_time() {
    let server = Server::start();
    let done = "causeway_relay_handshakes_total{kind=\"quic\",outcome=\"done\"}";
    let attached = "causeway_relay_tunnel_attach_duration_seconds_count{transport=\"quic\"}";
    assert_eq!((server.metric(done), server.metric(attached)), (1, 1));
    let device = server.pair("mynas");
    let _agent = device.run("http://127.0.0.1:1");
    assert_eq!((server.metric(done), server.metric(attached)), (2, 2));
    // Pairing was over HTTPS, at the operator's own host.
    let pages = "causeway_relay_handshakes_total{kind=\"cloud\",outcome=\"done\"}";
    assert!(server.metric(pages) >= 1);
    // Who does not know the server's authority ends the handshake.
    let mut curl = server.place.command("curl");
    curl.args(["--silent", &server.url("cloud", "/offline")]);
    assert!(!crate::process::run(curl).status.success());
    let failed = "causeway_relay_handshakes_total{kind=\"cloud\",outcome=\"failed\"}";
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.metric(failed) == 0 {
        assert!(
            Instant::now() < deadline,
            "a handshake that failed is not counted"
        );
    }
}
