//! DNS over TLS as its clients meet it: kdig and openssl, with the demo's own authority.

use std::process::{Command, Output};

use crate::dns::update;
use crate::process::{output_of, run};
use crate::world::Server;

/// kdig over TLS for a name in the zone, of a server that is to prove that it is `host`.
fn kdig(server: &Server, host: &str, question: &[&str]) -> Command {
    let dot = server.ready.dot;
    let mut kdig = Command::new("kdig");
    kdig.args([
        &format!("@{}", dot.ip()),
        "-p",
        &dot.port().to_string(),
        &format!("+tls-ca={}", server.ready.ca.display()),
        &format!("+tls-hostname={host}"),
        "+norecurse",
        "+retry=0",
    ]);
    kdig.args(question);
    kdig
}

/// A handshake of openssl, and nothing else.
fn s_client(server: &Server, options: &[&str]) -> Output {
    let mut openssl = Command::new("openssl");
    openssl
        .args(["s_client", "-connect", &server.ready.dot.to_string()])
        .arg("-CAfile")
        .arg(&server.ready.ca)
        .args(["-verify_return_error", "-verify_hostname"])
        .args(["ns1.nas.localhost", "-alpn", "dot"]);
    openssl.args(options);
    run(openssl)
}

#[test]
fn kdig_asks_over_tls_and_knows_the_server_by_its_name() {
    let server = Server::start();
    let ns1 = "ns1.nas.localhost";
    let soa = output_of(kdig(&server, ns1, &["nas.localhost", "SOA"]));
    assert!(soa.contains("TLS session (TLS1.3)"), "{soa}");
    assert!(soa.contains("status: NOERROR") && soa.contains("ns1.nas.localhost."));
    let nobody = output_of(kdig(&server, ns1, &["nobody.nas.localhost", "A"]));
    assert!(nobody.contains("status: NXDOMAIN"), "{nobody}");

    // An update by any door is in the next answer of this one.
    server.verb(&["device", "add", "mynas"], "code");
    let key = server.verb(&["device", "key", "mynas"], "key");
    let hosts = "hostname=mynas.nas.localhost&myip=203.0.113.7";
    assert_eq!(update(&server, "mynas", &key, hosts), "good 203.0.113.7\n");
    let question = ["+short", "mynas.nas.localhost", "A"];
    assert_eq!(output_of(kdig(&server, ns1, &question)), "203.0.113.7\n");

    // The certificate is for no other name.
    let other = run(kdig(&server, "cloud.nas.localhost", &question));
    let said = String::from_utf8(other.stdout).unwrap();
    assert!(!said.contains("203.0.113.7"), "{said}");

    let answered = r#"causeway_ddns_queries_total{rcode="noerror",transport="dot"}"#;
    assert_eq!(server.metric(answered), 2);
}

#[test]
fn openssl_agrees_on_tls_1_3_and_1_2_and_on_nothing_older() {
    let server = Server::start();
    for (option, version) in [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")] {
        let output = s_client(&server, &[option]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
        for expected in [version, "ALPN protocol: dot", "Verify return code: 0 (ok)"] {
            assert!(said.contains(expected), "no {expected} in {said}");
        }
    }
    let old = s_client(&server, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]);
    assert!(!old.status.success());
    let counted = r#"causeway_ddns_tls_handshakes_failed_total{reason="incompatible"}"#;
    assert_eq!(server.metric(counted), 1);
}
