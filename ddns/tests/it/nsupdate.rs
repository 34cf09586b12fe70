//! What the clients that people have make of signed updates and queries: nsupdate and dig (BIND), knsupdate and kdig (Knot).

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use crate::dns::resolve;
use crate::signing::Signer;
use crate::world::World;

/// Runs a tool with this standard input.
async fn run(tool: &'static str, arguments: Vec<String>, input: String) -> Output {
    let ran = tokio::task::spawn_blocking(move || {
        let mut child = Command::new(tool)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{tool} has to be installed: {error}"));
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        child.wait_with_output().unwrap()
    });
    ran.await.unwrap()
}

/// Updates with the key of this name, by `nsupdate` or `knsupdate`, and returns what it says.
async fn update(world: &World, tool: &'static str, tcp: bool, key: &str, lines: &str) -> String {
    let signer = Signer::of(key, &world.directory);
    let server = world.v4();
    let secret = signer.secret();
    let input = format!(
        "server {} {}\nkey hmac-sha256:{key}.nas.test. {secret}\n{lines}\nsend\n",
        server.ip(),
        server.port(),
    );
    let arguments = if tcp { vec!["-v".into()] } else { Vec::new() };
    let output = run(tool, arguments, input).await;
    let told = [output.stdout, output.stderr].concat();
    String::from_utf8(told).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nsupdate_and_knsupdate_move_a_device() {
    let mut world = World::start().await;
    world.directory.add("home");
    let server = world.v4();
    let mut last = 0;
    for tool in ["nsupdate", "knsupdate"] {
        for tcp in [false, true] {
            for zone in ["zone nas.test", "zone home.nas.test", ""] {
                // knsupdate takes the name's parent for the zone when it is not told one.
                if zone.is_empty() && tool == "knsupdate" {
                    continue;
                }
                last += 1;
                let lines = format!(
                    "{zone}\nupdate delete home.nas.test. A\n\
                     update add home.nas.test. 300 A 192.0.2.{last}\n\
                     update add home.nas.test. 300 AAAA 2001:db8::{last}"
                );
                let told = update(&world, tool, tcp, "home", &lines).await;
                assert_eq!(told, "", "{tool} {tcp} {zone}");
                let v4 = resolve(server, "home.nas.test", "A").await;
                assert_eq!(v4, format!("192.0.2.{last}"), "{tool} {tcp} {zone}");
                let v6 = resolve(server, "home.nas.test", "AAAA").await;
                assert_eq!(v6, format!("2001:db8::{last}"), "{tool} {tcp} {zone}");
            }
        }
    }
    assert_eq!(
        world.metric(r#"dynamic_updates_total{rcode="noerror"}"#),
        10.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nsupdate_sets_a_challenge_and_is_told_why_it_may_not() {
    let mut world = World::start().await;
    world.directory.add("home");
    let server = world.v4();
    let key = "_acme-challenge.home";
    for tool in ["nsupdate", "knsupdate"] {
        let add = "zone nas.test\nprereq nxrrset _acme-challenge.home.nas.test. TXT\n\
                   update add _acme-challenge.home.nas.test. 60 TXT \"a-proof\"";
        assert_eq!(update(&world, tool, false, key, add).await, "", "{tool}");
        let challenge = resolve(server, "_acme-challenge.home.nas.test", "TXT").await;
        assert_eq!(challenge, "\"a-proof\"");
        let told = update(&world, tool, false, key, add).await;
        assert!(told.contains("YXRRSET"), "{tool}: {told}");

        let others = "zone nas.test\nupdate add home.nas.test. 60 A 192.0.2.66";
        let told = update(&world, tool, true, key, others).await;
        assert!(told.contains("REFUSED"), "{tool}: {told}");

        let delete = "zone nas.test\n\
                      update delete _acme-challenge.home.nas.test. TXT \"a-proof\"";
        assert_eq!(update(&world, tool, true, key, delete).await, "", "{tool}");
        let challenge = resolve(server, "_acme-challenge.home.nas.test", "TXT").await;
        assert_eq!(challenge, "NOERROR");
    }
    let told = update(
        &world,
        "nsupdate",
        false,
        "nobody",
        "zone nas.test\nupdate delete home.nas.test. A",
    )
    .await;
    assert!(told.contains("BADKEY"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dig_and_kdig_find_replies_rightly_signed() {
    let mut world = World::start().await;
    world.directory.add("home");
    world.set("home", &["192.0.2.7"]).await.unwrap();
    let port = world.server.addr().port();
    let secret = Signer::of("home", &world.directory).secret();
    // 127.0.0.2: the reply has to come from where the query went.
    for server in ["127.0.0.1", "127.0.0.2", "::1"] {
        for algorithm in ["hmac-sha256", "hmac-sha384", "hmac-sha512"] {
            for transport in ["+notcp", "+tcp"] {
                for tool in ["dig", "kdig"] {
                    let words = format!(
                        "@{server} -p {port} {transport} +norecurse -y {algorithm}:home.nas.test:{secret} home.nas.test A"
                    );
                    let arguments = words.split(' ').map(str::to_owned).collect();
                    let output = run(tool, arguments, String::new()).await;
                    let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
                    assert!(told.contains("192.0.2.7"), "{words}: {told}");
                    assert!(told.contains("TSIG"), "{words}: {told}");
                    let told = told.to_lowercase();
                    for complaint in ["warning", "verify", "error:", "failed", "malformed"] {
                        assert!(!told.contains(complaint), "{words}: {told}");
                    }
                }
            }
        }
    }
}
