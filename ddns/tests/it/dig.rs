//! What dig and kdig make of the answers, over IPv4 and IPv6, UDP and TCP.

use std::net::SocketAddr;
use std::process::Command;

use crate::world::World;

/// Runs a resolver's tool and returns its standard output.
async fn run(tool: &'static str, arguments: Vec<String>) -> String {
    let output = tokio::task::spawn_blocking(move || Command::new(tool).args(arguments).output())
        .await
        .unwrap()
        .unwrap_or_else(|error| panic!("{tool} has to be installed: {error}"));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The answer section as `type data`, a line each, in order of text.
async fn answers(tool: &'static str, server: SocketAddr, words: &str) -> Vec<String> {
    let mut arguments = vec![
        format!("@{}", server.ip()),
        "-p".into(),
        server.port().to_string(),
        "+noall".into(),
        "+answer".into(),
    ];
    arguments.extend(words.split(' ').map(str::to_owned));
    let output = run(tool, arguments).await;
    let mut lines: Vec<_> = output
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with(';'))
        .map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            words[3..].join(" ")
        })
        .collect();
    lines.sort();
    lines
}

const CONFIG: &str = r#"
    listen = "[::]:0"
    record = [
        { name = "www", type = "A", value = "192.0.2.80" },
        { name = "www", type = "AAAA", value = "2001:db8::80" },
        { name = "@", type = "TXT", value = "hello there" },
        { name = "@", type = "MX", value = "10 mail.example.com" },
        { name = "www", type = "HTTPS", value = "1 . alpn=h2,h3 port=8443" },
        { name = "_ssh._tcp.www", type = "SRV", value = "0 5 22 www.nas.test" },
    ]
    device_record = [
        { type = "CAA", value = '0 issue "ca.test"', ttl_seconds = 300 },
        { type = "CAA", value = '0 iodef "mailto:a@nas.test"', ttl_seconds = 300 },
    ]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn dig_agrees_about_every_kind_of_record() {
    let mut world = World::with_config(CONFIG).await;
    world.directory.add("home");
    world.directory.add("away");
    world
        .set("home", &["192.0.2.7", "2001:db8::7"])
        .await
        .unwrap();
    let port = world.server.addr().port();
    // 127.0.0.2: the reply has to come from where the query went, or dig does not take it.
    let servers = ["127.0.0.1", "127.0.0.2", "::1"];
    let caa = vec![
        "CAA 0 iodef \"mailto:a@nas.test\"",
        "CAA 0 issue \"ca.test\"",
    ];
    let expected = [
        ("nas.test NS", vec!["NS ns1.nas.test."]),
        ("nas.test A", vec!["A 192.0.2.250"]),
        ("nas.test AAAA", vec!["AAAA 2001:db8::250"]),
        ("nas.test TXT", vec!["TXT \"hello there\""]),
        ("ns1.nas.test A", vec!["A 192.0.2.53"]),
        ("ns1.nas.test AAAA", vec!["AAAA 2001:db8::53"]),
        ("cloud.nas.test A", vec!["A 192.0.2.250"]),
        ("relay.nas.test AAAA", vec!["AAAA 2001:db8::250"]),
        ("www.nas.test A", vec!["A 192.0.2.80"]),
        ("www.nas.test AAAA", vec!["AAAA 2001:db8::80"]),
        ("home.nas.test A", vec!["A 192.0.2.7"]),
        ("home.nas.test AAAA", vec!["AAAA 2001:db8::7"]),
        ("photos.home.nas.test A", vec!["A 192.0.2.7"]),
        ("away.nas.test A", vec!["A 192.0.2.250"]),
        ("away.nas.test AAAA", vec!["AAAA 2001:db8::250"]),
        ("nas.test MX", vec!["MX 10 mail.example.com."]),
        (
            "_ssh._tcp.www.nas.test SRV",
            vec!["SRV 0 5 22 www.nas.test."],
        ),
        ("home.nas.test CAA", caa.clone()),
        ("photos.away.nas.test CAA", caa.clone()),
        // Without a challenge it is one name below the device like all others.
        ("_acme-challenge.home.nas.test CAA", caa),
        ("_acme-challenge.home.nas.test TXT", vec![]),
        ("home.nas.test TXT", vec![]),
        ("nobody.nas.test A", vec![]),
    ];
    for server in servers {
        let server = SocketAddr::new(server.parse().unwrap(), port);
        for tool in ["dig", "kdig"] {
            for transport in ["+notcp", "+tcp"] {
                for (question, answer) in &expected {
                    let heard = answers(tool, server, &format!("{transport} {question}")).await;
                    assert_eq!(heard, *answer, "{tool} @{server} {transport} {question}");
                }
                // kdig and dig write the same in different words.
                let https = answers(tool, server, &format!("{transport} www.nas.test HTTPS")).await;
                let https = https.join("\n").replace('"', "");
                assert_eq!(https, "HTTPS 1 . alpn=h2,h3 port=8443");
                let soa = answers(tool, server, &format!("{transport} nas.test SOA")).await;
                let [soa] = &soa[..] else {
                    panic!("{tool} @{server} {transport}: {soa:?}");
                };
                assert!(
                    soa.starts_with("SOA ns1.nas.test. hostmaster.nas.test. "),
                    "{soa}"
                );
                assert!(soa.ends_with(" 3600 600 604800 60"), "{soa}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dig_warns_of_nothing() {
    let mut world = World::with_config(CONFIG).await;
    world.directory.add("home");
    for (words, status) in [
        ("home.nas.test A", "NOERROR"),
        ("home.nas.test TXT", "NOERROR"),
        ("x.y.home.nas.test AAAA +dnssec", "NOERROR"),
        ("nobody.nas.test A", "NXDOMAIN"),
        ("nas.test ANY +notcp", "NOERROR"),
        ("nas.test AXFR +noall +comments", "REFUSED"),
        ("nas.test SOA +edns=1 +noednsnegotiation", "BADVERS"),
        (
            "nas.test SOA +ednsopt=100 +nsid +cookie +subnet=0.0.0.0/0",
            "NOERROR",
        ),
        ("+noedns +opcode=15 +header-only", "NOTIMP"),
        ("example.com A", "REFUSED"),
    ] {
        let mut arguments = vec![
            "@::1".to_owned(),
            "-p".into(),
            world.server.addr().port().to_string(),
            "+norecurse".into(),
        ];
        arguments.extend(words.split(' ').map(str::to_owned));
        let output = run("dig", arguments).await;
        let transfer_failed = output.contains("; Transfer failed.");
        assert!(
            output.contains(&format!("status: {status},")) || transfer_failed,
            "{words}: {output}"
        );
        for complaint in ["WARNING", "Warning", "malformed", "error", "unexpected"] {
            assert!(!output.contains(complaint), "{words}: {output}");
        }
    }
}

/// All that the tool prints for these words.
async fn printed(tool: &'static str, server: SocketAddr, words: &str) -> String {
    let mut arguments = vec![
        format!("@{}", server.ip()),
        "-p".into(),
        server.port().to_string(),
    ];
    arguments.extend(words.split(' ').map(str::to_owned));
    run(tool, arguments).await
}

#[tokio::test(flavor = "multi_thread")]
async fn dig_and_kdig_read_our_options() {
    let world = World::with_config("listen = \"[::]:0\"\nnsid = \"ns1-here\"").await;
    let port = world.server.addr().port();
    for server in ["127.0.0.1", "::1"] {
        let server = SocketAddr::new(server.parse().unwrap(), port);
        for (tool, words, expected) in [
            (
                "dig",
                "nas.test SOA +cookie +nsid",
                &["status: NOERROR", "(good)", "(\"ns1-here\")"][..],
            ),
            (
                "dig",
                "nas.test SOA +tcp +cookie +nsid +expire +subnet=0.0.0.0/0",
                &["status: NOERROR", "(good)", "(\"ns1-here\")"],
            ),
            (
                "dig",
                "+header-only +cookie",
                &["status: NOERROR", "(good)", "QUERY: 0"],
            ),
            (
                "dig",
                "nas.test SOA +edns=1 +noednsnegotiation +cookie +nsid",
                &["status: BADVERS", "EDNS: version: 0", "ANSWER: 0"],
            ),
            (
                "dig",
                "+noedns +opcode=15 +header-only",
                &["status: NOTIMP", "opcode: RESERVED15"],
            ),
            (
                "dig",
                "example.com A",
                &["status: REFUSED", "EDE: 20 (Not Authoritative)"],
            ),
            (
                "dig",
                "nas.test TXT -c CH",
                &["status: REFUSED", "EDE: 21 (Not Supported)"],
            ),
            (
                "kdig",
                "nas.test SOA +edns +cookie +nsid",
                &["status: NOERROR", "ns1-here", "COOKIE"],
            ),
            (
                "kdig",
                "nas.test SOA +tcp +edns +cookie +nsid",
                &["status: NOERROR", "ns1-here"],
            ),
            ("kdig", "nas.test SOA +edns=1", &["BADVERS"]),
        ] {
            let output = printed(tool, server, words).await;
            for expected in expected {
                assert!(output.contains(expected), "{tool} {words}: {output}");
            }
        }
    }
}

/// Whoever is limited comes again by itself, with the cookie that it got or over TCP.
#[tokio::test(flavor = "multi_thread")]
async fn dig_and_kdig_find_their_way_past_the_limit() {
    let config = "listen = \"127.0.0.1:0\"\nthreads = 1\nresponses_per_second = 1\nslip = 1";
    let world = World::with_config(config).await;
    let message = crate::dns::query(&["nas.test", "A"]);
    for _ in 0..50 {
        crate::dns::ask_udp(world.v4(), &message).await;
    }
    let by_cookie = r#"limited_total{action="badcookie"}"#;
    let by_tcp = r#"queries_total{rcode="noerror",transport="tcp"}"#;
    for (tool, words, way) in [
        ("dig", "nas.test A +cookie", by_cookie),
        ("dig", "nas.test A +nocookie", by_tcp),
        ("kdig", "nas.test A +edns +cookie +badcookie", by_cookie),
        ("kdig", "nas.test A", by_tcp),
    ] {
        let before = world.metric(way);
        let output = printed(tool, world.v4(), words).await;
        let is_answered = output.contains("status: NOERROR") && output.contains("192.0.2.250");
        assert!(is_answered, "{tool} {words}: {output}");
        // One more, so that the batch of those before is counted.
        crate::dns::ask_udp(world.v4(), &message).await;
        assert_eq!(world.metric(way), before + 1.0, "{tool} {words}: {output}");
    }
}
