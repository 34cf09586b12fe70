//! What dig hears from the running server, and how fast an update is seen.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::process::output_of;
use crate::world::{Place, Server};

/// `dig +short` for a name in the zone.
pub(crate) fn dig(server: &Server, name: &str, kind: &str) -> String {
    dig_at(server.ready.dns, name, kind, &["+short"])
}

fn dig_at(dns: SocketAddr, name: &str, kind: &str, options: &[&str]) -> String {
    let mut dig = Command::new("dig");
    dig.args([
        &format!("@{}", dns.ip()),
        "-p",
        &dns.port().to_string(),
        name,
        kind,
        "+norecurse",
        "+tries=1",
    ]);
    output_of({
        dig.args(options);
        dig
    })
}

/// Sends a DDNS update and gives its answer.
pub(crate) fn update(server: &Server, user: &str, key: &str, query: &str) -> String {
    let mut curl = server.curl();
    curl.args([
        "--user",
        &format!("{user}:{key}"),
        &server.url("cloud", &format!("/nic/update?{query}")),
    ]);
    output_of(curl)
}

#[test]
fn every_kind_of_record_is_answered_over_ipv4_and_ipv6() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let server = Server::start_with(Place::Host, &["--dns", address]);
        let soa = dig(&server, "nas.localhost", "SOA");
        assert!(soa.starts_with("ns1.nas.localhost. "), "{soa}");
        assert_eq!(dig(&server, "nas.localhost", "NS"), "ns1.nas.localhost.\n");
        assert_eq!(dig(&server, "nas.localhost", "TXT"), "\"Causeway demo\"\n");
        for name in [
            "nas.localhost",
            "cloud.nas.localhost",
            "relay.nas.localhost",
            "demo.nas.localhost",
        ] {
            assert_eq!(dig(&server, name, "A"), "127.0.0.1\n", "{name}");
            assert_eq!(dig(&server, name, "AAAA"), "", "{name}");
        }
        assert_eq!(dig(&server, "a.b.demo.nas.localhost", "A"), "127.0.0.1\n");
        let full = |name: &str, kind: &str, options: &[&str]| {
            dig_at(server.ready.dns, name, kind, options)
        };
        assert!(full("nobody.nas.localhost", "A", &[]).contains("status: NXDOMAIN"));
        let nodata = full("demo.nas.localhost", "MX", &[]);
        assert!(
            nodata.contains("status: NOERROR") && nodata.contains("ANSWER: 0, AUTHORITY: 1"),
            "{nodata}"
        );
        assert!(nodata.contains("SOA\tns1.nas.localhost."), "{nodata}");
        assert!(full("example.com", "A", &[]).contains("status: REFUSED"));
        assert!(full("nas.localhost", "SOA", &["+tcp"]).contains("(TCP)"));
        assert!(
            full("nas.localhost", "SOA", &["+edns=1", "+noednsneg"]).contains("status: BADVERS")
        );
    }
}

#[test]
fn a_demo_on_every_address_leads_to_loopback() {
    for (any, v6) in [("0.0.0.0:0", ""), ("[::]:0", "::1\n")] {
        let server = Server::start_with(Place::Host, &["--front", any, "--dns", any]);
        for name in ["demo", "cloud", "ns1"].map(|label| format!("{label}.nas.localhost")) {
            assert_eq!(dig(&server, &name, "A"), "127.0.0.1\n", "{any} {name}");
            assert_eq!(dig(&server, &name, "AAAA"), v6, "{any} {name}");
        }
        assert!(server.get(&server.url("demo", "/")).contains("Demo NAS"));
    }
}

#[test]
fn an_update_is_seen_by_the_very_next_query() {
    let server = Server::start();
    let user = server
        .verb(&["device", "add", "mynas"], "name")
        .replace(".nas.localhost", "");
    let key = server.verb(&["device", "key", "mynas"], "key");
    let host = "hostname=mynas.nas.localhost";
    // Fewer than a device may change at once.
    for i in 1..=6 {
        let good = update(&server, &user, &key, &format!("{host}&myip=203.0.113.{i}"));
        assert_eq!(good, format!("good 203.0.113.{i}\n"));
        assert_eq!(
            dig(&server, "mynas.nas.localhost", "A"),
            format!("203.0.113.{i}\n")
        );
    }
    assert_eq!(
        update(&server, &user, &key, &format!("{host}&myip=203.0.113.6")),
        "nochg 203.0.113.6\n"
    );
    // The other family is left alone.
    assert_eq!(
        update(&server, &user, &key, &format!("{host}&myipv6=2001:db8::7")),
        "good 2001:db8::7\n"
    );
    assert_eq!(
        dig(&server, "photos.mynas.nas.localhost", "AAAA"),
        "2001:db8::7\n"
    );
    assert_eq!(dig(&server, "mynas.nas.localhost", "A"), "203.0.113.6\n");
    // Without an address, the visitor's own.
    assert_eq!(update(&server, &user, &key, host), "good 127.0.0.1\n");
}

#[test]
fn certificate_clients_set_challenges_at_the_cloud_over_http_1_0_too() {
    let server = Server::start();
    server.verb(&["device", "add", "mynas"], "code");
    let key = server.verb(&["device", "key", "mynas", "--for", "challenges"], "key");
    let digest = "LPsIwTo7o8BoG0-vjCyGQGBWSVIPxI-i_X336eUOQZo";
    let post = |path: &str, headers: &[&str], body: &str| {
        let mut curl = server.curl();
        curl.args(["--http1.0", "--fail", "--data", body]);
        for header in headers {
            curl.args(["--header", header]);
        }
        curl.args(["--user", &format!("mynas:{key}")]);
        curl.arg(server.url("cloud", path));
        output_of(curl)
    };
    let host = "_acme-challenge.photos.mynas.nas.localhost";
    let body = format!(r#"{{"fqdn":"{host}.","value":"{digest}"}}"#);
    assert_eq!(post("/present", &[], &body), "{}");
    assert_eq!(dig(&server, host, "TXT"), format!("\"{digest}\"\n"));
    let without_host = "Host:"; // curl leaves it out then
    assert_eq!(post("/cleanup", &[without_host], &body), "{}");
    assert_eq!(dig(&server, host, "TXT"), "");

    let account: serde_json::Value = serde_json::from_str(&post("/register", &[], "")).unwrap();
    let text = |key: &str| account[key].as_str().unwrap().to_owned();
    let user = format!("X-Api-User: {}", text("username"));
    let password = format!("X-Api-Key: {}", text("password"));
    let body = format!(
        r#"{{"subdomain":"{}","txt":"{digest}"}}"#,
        text("subdomain")
    );
    let done = post("/update", &[&user, &password], &body);
    assert_eq!(done, format!(r#"{{"txt":"{digest}"}}"#));
    let found = dig(&server, &text("fulldomain"), "TXT");
    assert_eq!(found, format!("\"{digest}\"\n"));
    assert!(!server.process.said().contains(&key), "a key is in the log");
}

#[test]
fn wrong_keys_and_foreign_names_are_refused() {
    let server = Server::start();
    server.verb(&["device", "add", "mynas"], "code");
    let key = server.verb(&["device", "key", "mynas"], "key");
    let host = "hostname=mynas.nas.localhost&myip=203.0.113.9";
    for (user, key) in [
        ("mynas", "wrong"),
        ("demo", key.as_str()),
        ("nobody", &key),
        ("", ""),
    ] {
        assert_eq!(update(&server, user, key, host), "badauth\n", "{user}");
    }
    assert_eq!(
        server.metric(r#"causeway_ddns_updates_refused_total{door="dyn2",reason="badauth"}"#),
        4
    );
    server
        .process
        .until_said(r#"a DDNS update was refused door="dyn2" reason="badauth""#);
    assert!(!server.process.said().contains(&key), "a key is in the log");
    let foreign = "hostname=demo.nas.localhost&myip=203.0.113.9";
    assert_eq!(update(&server, "mynas", &key, foreign), "nohost\n");
    assert_eq!(dig(&server, "demo.nas.localhost", "A"), "127.0.0.1\n");

    // A key in the URL is in no log either.
    for path in [
        format!("/update?domains=demo&token={key}&ip=203.0.113.9"),
        format!("/update/demo/{key}/203.0.113.9"),
    ] {
        let mut curl = server.curl();
        curl.arg(server.url("cloud", &path));
        assert_eq!(output_of(curl), "KO");
    }
    server
        .process
        .until_said(r#"a DDNS update was refused door="duckdns" reason="badauth""#);
    assert!(!server.process.said().contains(&key), "a key is in the log");

    // A fresh key replaces the old one.
    let fresh = server.verb(&["device", "key", "mynas"], "key");
    assert_eq!(update(&server, "mynas", &key, host), "badauth\n");
    assert_eq!(update(&server, "mynas", &fresh, host), "good 203.0.113.9\n");
}

/// Sends an update by nsupdate with a key as `device key` prints it, and gives what is said about it: nothing if it is done.
fn nsupdate(server: &Server, key: &str, update: &str) -> String {
    let dns = server.ready.dns;
    let lines = format!(
        "server {} {}\nkey {key}\nzone nas.localhost\nupdate {update}\nsend\n",
        dns.ip(),
        dns.port()
    );
    let mut nsupdate = Command::new("nsupdate");
    let mut child = nsupdate
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nsupdate has to be installed");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(lines.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[test]
fn the_key_that_is_printed_signs_updates_also_after_a_restart() {
    let mut server = Server::start();
    server.verb(&["device", "add", "mynas"], "code");
    let addresses = server.verb(&["device", "key", "mynas"], "tsig");
    let made = server.causeway(&["device", "key", "mynas", "--for", "challenges", "--json"]);
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    let tsig = |part: &str| made["tsig"][part].as_str().unwrap();
    assert_eq!(tsig("name"), "_acme-challenge.mynas.nas.localhost");
    let challenges = format!("{}:{} {}", tsig("algorithm"), tsig("name"), tsig("secret"));

    let address = "add mynas.nas.localhost. 60 A 203.0.113.7";
    let challenge = "add _acme-challenge.mynas.nas.localhost. 60 TXT proof";
    assert!(nsupdate(&server, &challenges, address).contains("REFUSED"));
    assert!(nsupdate(&server, &addresses, challenge).contains("REFUSED"));
    assert_eq!(nsupdate(&server, &addresses, address), "");
    assert_eq!(nsupdate(&server, &challenges, challenge), "");
    assert_eq!(dig(&server, "mynas.nas.localhost", "A"), "203.0.113.7\n");
    let name = "_acme-challenge.mynas.nas.localhost";
    assert_eq!(dig(&server, name, "TXT"), "\"proof\"\n");
    let (_, secret) = addresses.split_once(' ').unwrap();
    for secret in [secret, tsig("secret")] {
        assert!(
            !server.process.said().contains(secret),
            "a secret in the log"
        );
    }

    server.process.kill();
    server = server.restart();
    let address = "add mynas.nas.localhost. 60 A 203.0.113.8";
    assert_eq!(nsupdate(&server, &addresses, address), "");
    assert_eq!(dig(&server, "mynas.nas.localhost", "A"), "203.0.113.8\n");
    let fresh = server.verb(&["device", "key", "mynas"], "tsig");
    assert!(nsupdate(&server, &addresses, address).contains("BADSIG"));
    assert_eq!(nsupdate(&server, &fresh, address), "");
}
