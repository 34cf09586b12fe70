//! What validators make of the signed zone: delv, for every kind of answer.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use crate::world::World;

/// The zone, signed with this denial.
fn config(denial: &str) -> String {
    format!(
        r#"
        listen = "[::]:0"
        updates_per_minute = 0
        private_addresses = true
        record = [
            {{ name = "www", type = "A", value = "192.0.2.80" }},
            {{ name = "@", type = "TXT", value = "hello there" }},
            {{ name = "@", type = "MX", value = "10 Mail.Example.com" }},
            {{ name = "www", type = "HTTPS", value = "1 . alpn=h2,h3 port=8443" }},
            {{ name = "_ssh._tcp.www", type = "SRV", value = "0 5 22 WWW.nas.test" }},
        ]
        device_record = [{{ type = "CAA", value = '0 issue "ca.test"' }}]
        [dnssec]
        denial = "{denial}"
        "#
    )
}

/// Runs a validator's tool and returns all that it prints.
async fn run(tool: &'static str, arguments: Vec<String>) -> String {
    let output = tokio::task::spawn_blocking(move || Command::new(tool).args(arguments).output())
        .await
        .unwrap()
        .unwrap_or_else(|error| panic!("{tool} has to be installed: {error}"));
    let printed = [output.stdout, output.stderr].concat();
    String::from_utf8(printed).unwrap()
}

/// The zone's KSK as trust anchor in the form of BIND.
async fn anchor(server: SocketAddr) -> String {
    let arguments = format!(
        "@{} -p {} nas.test DNSKEY +noall +answer",
        server.ip(),
        server.port()
    );
    let arguments = arguments.split(' ').map(str::to_owned).collect();
    let printed = run("dig", arguments).await;
    let keys = printed.lines().filter_map(|line| {
        line.split_once(" 257 3 13 ")
            .or_else(|| line.split_once("\t257 3 13 "))
    });
    let keys = keys.map(|(_, key)| {
        let key = key.replace(' ', "");
        format!("nas.test. static-key 257 3 13 \"{key}\";")
    });
    let keys: Vec<_> = keys.collect();
    assert!(!keys.is_empty(), "{printed}");
    format!("trust-anchors {{ {} }};", keys.join(" "))
}

#[tokio::test(flavor = "multi_thread")]
async fn delv_believes_every_kind_of_answer_denied_compactly() {
    delv_believes("compact").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delv_believes_every_kind_of_answer_denied_by_hashes() {
    delv_believes("nsec3").await;
}

async fn delv_believes(denial: &str) {
    let mut world = World::with_config(&config(denial)).await;
    world.directory.add("home");
    world.directory.add("away");
    world.set("home", &["192.0.2.7"]).await.unwrap();
    let anchors = world.state.path().join("anchors");
    fs::write(&anchors, anchor(world.v4()).await).unwrap();
    let mut mistakes = Vec::new();
    for (question, verdict) in [
        ("nas.test SOA", "; fully validated"),
        ("nas.test NS", "; fully validated"),
        ("nas.test DNSKEY", "; fully validated"),
        ("nas.test MX", "; fully validated"),
        ("nas.test TXT", "; fully validated"),
        ("www.nas.test HTTPS", "; fully validated"),
        ("_ssh._tcp.www.nas.test SRV", "; fully validated"),
        ("home.nas.test A", "; fully validated"),
        ("HOME.nas.TEST A", "; fully validated"),
        ("away.nas.test AAAA", "; fully validated"),
        ("home.nas.test CAA", "; fully validated"),
        ("x.y.home.nas.test A", "; fully validated"),
        ("*.home.nas.test A", "; fully validated"),
        ("home.nas.test AAAA", "; negative response, fully validated"),
        (
            "home.nas.test TYPE1000",
            "; negative response, fully validated",
        ),
        (
            "x.home.nas.test AAAA",
            "; negative response, fully validated",
        ),
        (
            "x.home.nas.test TXT",
            "; negative response, fully validated",
        ),
        (
            "_tcp.www.nas.test A",
            "; negative response, fully validated",
        ),
        ("nobody.nas.test A", "; negative response, fully validated"),
        (
            "a.b.nobody.nas.test A",
            "; negative response, fully validated",
        ),
        ("x.cloud.nas.test A", "; negative response, fully validated"),
        ("nas.test TYPE1000", "; negative response, fully validated"),
    ] {
        let arguments = format!(
            "@127.0.0.1 -p {} -a {} +root=nas.test {question}",
            world.v4().port(),
            anchors.display()
        );
        let arguments = arguments.split(' ').map(str::to_owned).collect();
        let printed = run("delv", arguments).await;
        if printed.lines().all(|line| line != verdict) {
            mistakes.push(format!("{question}: {printed}"));
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}
