//! A browser's path, walked by curl: a name, a certificate that fits, a page from the device.

use std::process::Command;

use crate::process::{output_of, run};
use crate::world::{Place, Server};

#[test]
fn curl_reaches_the_demo_page_by_name() {
    let server = Server::start();
    let page = server.get(&server.url("demo", "/"));
    assert!(page.contains("<h1>Demo NAS</h1>"), "{page}");
    assert!(
        page.contains("<dd>127.0.0.1</dd>"),
        "the visitor's own address is told: {page}"
    );

    for (option, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let mut curl = server.curl();
        curl.args([
            option,
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_version} %{ssl_verify_result}",
        ]);
        curl.arg(server.url("demo", "/files/welcome.txt"));
        assert_eq!(output_of(curl), format!("{version} 0"));
    }
    // Without the authority nothing is trusted.
    let mut curl = Command::new("curl");
    curl.args(["--silent", &server.url("demo", "/")]);
    assert_eq!(run(curl).status.code(), Some(60));
}

#[test]
fn files_go_up_and_come_down() {
    let server = Server::start();
    let file = server.folder.path().join("file");
    let octets: Vec<u8> = (0..5_000_000_u32).map(|i| (i % 253) as u8).collect();
    std::fs::write(&file, &octets).unwrap();
    let mut curl = server.curl();
    curl.args(["--fail", "--upload-file"])
        .arg(&file)
        .arg(server.url("demo", "/files/holiday%20photos.bin"));
    assert_eq!(output_of(curl), "5000000 octets\n");
    let mut curl = server.curl();
    curl.args(["--fail", &server.url("demo", "/files/holiday%20photos.bin")]);
    assert!(run(curl).stdout == octets);
    assert!(
        server
            .get(&server.url("demo", "/files"))
            .contains(r#""name":"holiday photos.bin","size":5000000"#)
    );
    for bad in ["/files/..%2fetc", "/files/.profile"] {
        let mut curl = server.curl();
        curl.args([
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
            "--upload-file",
        ])
        .arg(&file);
        curl.arg(server.url("demo", bad));
        assert_eq!(output_of(curl), "400");
    }
}

#[test]
fn ready_tells_a_person_and_a_program_what_is_where() {
    let server = Server::start();
    let said = server.process.said();
    for expected in [
        server.url("demo", "/"),
        server.url("cloud", "/#sign-in="),
        format!("dig @127.0.0.1 -p {}", server.ready.dns.port()),
        format!("kdig @127.0.0.1 -p {}", server.ready.dot.port()),
        server.ready.ca.display().to_string(),
        server.ready.state.display().to_string(),
        "causeway device add".to_owned(),
    ] {
        assert!(said.contains(&expected), "no {expected} in {said}");
    }
    assert!(said.lines().any(|line| line == "ready"), "{said}");
    assert_eq!(server.ready.zone, "nas.localhost");
    for address in [
        server.ready.front,
        server.ready.http,
        server.ready.dns,
        server.ready.dot,
        server.ready.admin,
    ] {
        assert!(address.ip().is_loopback() && address.port() != 0);
    }
}

#[test]
fn every_listener_takes_ipv6() {
    let options = [
        "--front", "[::1]:0", "--http", "[::1]:0", "--dns", "[::1]:0", "--dot", "[::1]:0",
        "--admin", "[::1]:0",
    ];
    let server = Server::start_with(Place::Host, &options);
    assert!(
        server
            .get(&server.url("demo", "/"))
            .contains("<dd>::1</dd>")
    );
    let mut curl = Command::new("curl");
    curl.args(["--silent", &format!("http://{}/readyz", server.ready.admin)]);
    assert_eq!(output_of(curl), "ready\n");
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--write-out",
        "%{http_code}",
        "--output",
        "/dev/null",
    ]);
    curl.args([
        "--header",
        "Host: demo.nas.localhost",
        &format!("http://{}/", server.ready.http),
    ]);
    assert_eq!(output_of(curl), "308");
}

#[test]
fn the_authority_vouches_for_the_zone_alone() {
    let server = Server::start();
    let mut openssl = Command::new("openssl");
    openssl
        .args(["x509", "-noout", "-text", "-in"])
        .arg(&server.ready.ca);
    let text = output_of(openssl);
    assert!(text.contains("X509v3 Name Constraints: critical"), "{text}");
    assert!(text.contains("DNS:nas.localhost"), "{text}");
    assert!(
        text.contains("X509v3 Basic Constraints: critical"),
        "{text}"
    );

    // What the device shows verifies by OpenSSL's rules too, and its key is none of the server's.
    let target = server.ready.front.to_string();
    let mut openssl = Command::new("openssl");
    openssl.args([
        "s_client",
        "-connect",
        &target,
        "-servername",
        "demo.nas.localhost",
        "-verify_return_error",
    ]);
    openssl
        .args(["-verify_hostname", "demo.nas.localhost", "-CAfile"])
        .arg(&server.ready.ca);
    let handshake = String::from_utf8(run(openssl).stdout).unwrap();
    assert!(
        handshake.contains("Verify return code: 0 (ok)"),
        "{handshake}"
    );
    assert!(handshake.contains("TLSv1.3"), "{handshake}");
}

#[test]
fn a_name_without_a_device_is_an_alert() {
    let server = Server::start();
    let target = server.ready.front.to_string();
    for name in [
        &["-servername", "nobody.nas.localhost"][..],
        &["-noservername"],
        &["-servername", "example.com"],
    ] {
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-connect", &target]).args(name);
        let error = String::from_utf8(run(openssl).stderr).unwrap();
        assert!(error.contains("unrecognized name"), "{name:?}: {error}");
    }
    assert!(
        server
            .get(&server.url("cloud", "/offline"))
            .contains("unrecognized name")
    );
}

#[test]
fn the_cloud_describes_itself_and_lists_nothing_to_strangers() {
    let server = Server::start();
    let document: serde_json::Value =
        serde_json::from_str(&server.get(&server.url("cloud", "/api/openapi.json"))).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    for path in [
        "/api/pair",
        "/api/device/certificate",
        "/api/device/addresses",
        "/api/device/relays",
        "/api/devices",
        "/api/session",
    ] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    assert!(!server.get(&server.url("cloud", "/")).contains("demo"));
    for path in ["/api/devices", "/api/devices/events"] {
        let mut curl = server.curl();
        curl.args(["--write-out", " %{http_code}", &server.url("cloud", path)]);
        let answer = output_of(curl);
        assert!(
            answer.ends_with(" 401") && !answer.contains("demo"),
            "{answer}"
        );
    }
}

#[test]
fn the_cloud_answers_for_its_own_name_only() {
    let server = Server::start();
    for host in ["demo.nas.localhost", "example.com", "nas.localhost"] {
        let mut curl = server.curl();
        curl.args([
            "--header",
            &format!("Host: {host}"),
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
        ]);
        curl.arg(server.url("cloud", "/offline"));
        assert_eq!(output_of(curl), "421", "{host}");
    }
}

#[test]
fn another_zone_works_the_same() {
    let server = Server::start_with(Place::Host, &["--zone", "causeway.example"]);
    let mut curl = server.curl();
    let host = format!("demo.causeway.example:{}", server.ready.front.port());
    curl.args([
        "--connect-to",
        &format!("{host}:127.0.0.1:{}", server.ready.front.port()),
    ]);
    curl.args(["--fail", &format!("https://{host}/")]);
    assert!(output_of(curl).contains("Demo NAS"));
}
