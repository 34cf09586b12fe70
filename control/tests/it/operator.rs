//! The operator's verbs, with a server and without, and the way into the pages.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dns::{dig, update};
use crate::process::{Process, output_of};
use crate::world::{Place, Server};

#[test]
fn devices_are_listed_with_their_state() {
    let server = Server::start();
    server.verb(&["device", "add", "mynas"], "code");
    let devices = server.devices();
    assert_eq!(devices[0]["host"], "demo.nas.localhost");
    assert_eq!(devices[0]["state"], "attached");
    assert_eq!(devices[0]["transport"], "quic");
    assert_eq!(devices[1]["state"], "not_paired");
    let table = String::from_utf8(server.causeway(&["device", "list"]).stdout).unwrap();
    assert!(
        table.contains("demo.nas.localhost   attached (quic)"),
        "{table}"
    );
}

#[test]
fn removing_a_device_cuts_its_tunnel_within_a_second_and_takes_its_name() {
    let server = Server::start();
    let device = server.pair("mynas");
    let agent = device.run("http://127.0.0.1:1");
    let key = server.verb(&["device", "key", "mynas"], "key");
    assert_eq!(
        update(
            &server,
            "mynas",
            &key,
            "hostname=mynas.nas.localhost&myip=203.0.113.7"
        ),
        "good 203.0.113.7\n"
    );

    let start = Instant::now();
    assert!(
        server
            .causeway(&["device", "remove", "mynas"])
            .status
            .success()
    );
    agent.until_said("this device has been removed");
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(dig(&server, "mynas.nas.localhost", "A"), "");
    let mut curl = server.curl();
    curl.args(["--fail", &server.url("mynas", "/")]);
    assert_eq!(crate::process::run(curl).status.code(), Some(35));
    assert!(
        !server
            .causeway(&["device", "remove", "mynas"])
            .status
            .success()
    );

    // Who gets the name next gets nothing of the old holder's.
    server.verb(&["device", "add", "mynas", "--reclaim"], "code");
    assert_eq!(dig(&server, "mynas.nas.localhost", "A"), "127.0.0.1\n");
    let old = update(
        &server,
        "mynas",
        &key,
        "hostname=mynas.nas.localhost&myip=203.0.113.7",
    );
    assert_eq!(old, "badauth\n");
}

#[test]
fn a_key_for_challenges_changes_no_addresses_and_leaves_the_address_key_alone() {
    let server = Server::start();
    server.verb(&["device", "add", "mynas"], "code");
    let addresses = server.verb(&["device", "key", "mynas"], "key");
    let made = server.causeway(&["device", "key", "mynas", "--for", "challenges"]);
    let said = String::from_utf8(made.stdout).unwrap();
    let advice = String::from_utf8(made.stderr).unwrap();
    assert!(
        said.contains("host: mynas.nas.localhost\nuser: mynas\nkey: "),
        "{said}"
    );
    for word in ["HTTPREQ_USERNAME", "/register", "and nothing else"] {
        assert!(advice.contains(word), "{advice}");
    }
    let challenges = said.lines().find_map(|line| line.strip_prefix("key: "));

    let query = "hostname=mynas.nas.localhost&myip=203.0.113.7";
    assert_eq!(
        update(&server, "mynas", challenges.unwrap(), query),
        "badauth\n"
    );
    assert_eq!(dig(&server, "mynas.nas.localhost", "A"), "127.0.0.1\n");
    assert_eq!(
        update(&server, "mynas", &addresses, query),
        "good 203.0.113.7\n"
    );
    let other = server.causeway(&["device", "key", "mynas", "--for", "everything"]);
    assert!(!other.status.success());
}

#[test]
fn a_name_that_was_given_up_rests_until_the_operator_reclaims_it() {
    let mut server = Server::start();
    server.verb(&["device", "add", "mynas"], "code");
    let removed = server.causeway(&["device", "remove", "mynas"]);
    let advice = String::from_utf8(removed.stderr).unwrap();
    assert!(advice.contains("rests for 90 days"), "{advice}");
    assert_eq!(dig(&server, "mynas.nas.localhost", "A"), "");

    let is_refused = |server: &Server, name| {
        let output = server.causeway(&["device", "add", name]);
        let error = String::from_utf8(output.stderr).unwrap();
        let until = error
            .split_once("rests until ")
            .map(|(_, rest)| &rest[..16]);
        let is_a_day = until.is_some_and(|until| {
            until.starts_with("20") && until.ends_with(" (UTC)") && until[4..5] == *"-"
        });
        assert!(!output.status.success() && is_a_day, "{name}: {error}");
        assert!(error.contains("--reclaim"), "{error}");
    };
    is_refused(&server, "mynas");
    is_refused(&server, "my-nas");
    assert_eq!(dig(&server, "mynas.nas.localhost", "A"), "");
    server.process.kill();
    is_refused(&server, "mynas");
    let server = server.restart();
    is_refused(&server, "mynas");
    server.verb(&["device", "add", "mynas", "--reclaim"], "code");
    assert_eq!(dig(&server, "mynas.nas.localhost", "A"), "127.0.0.1\n");
    // It is an ordinary name again: a new code for it needs nothing more.
    server.verb(&["device", "add", "mynas"], "code");
}

#[test]
fn names_that_would_mislead_are_refused_with_a_reason_and_numbered_ones_are_not() {
    let server = Server::start();
    for (name, reason) in [
        ("wpad", "reserved: programs look it up by themselves"),
        ("postmaster", "RFC 2142"),
        ("mx2", "mail"),
        ("c1oud", "can be taken for \"cloud\", which is reserved"),
        ("dem0", "can be taken for one that is in use"),
        ("de-rno", "can be taken for one that is in use"),
        ("xn--dem-jua", "hyphens in third and fourth place"),
    ] {
        let output = server.causeway(&["device", "add", name]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && error.contains(reason),
            "{name}: {error}"
        );
        let host = format!("{name}.nas.localhost");
        assert_eq!(dig(&server, &host, "A"), "", "{name}");
    }
    for name in ["nas-1", "nas-11", "nas-1-1", "nas-10", "nas-101"] {
        server.verb(&["device", "add", name], "code");
    }
}

#[test]
fn without_a_server_the_verbs_work_on_the_database() {
    let mut server = Server::start();
    server.process.kill();
    let code = server.verb(&["device", "add", "mynas"], "code");
    let key = server.verb(&["device", "key", "mynas"], "key");
    assert_eq!(server.devices()[0]["state"], "unknown");
    assert_eq!(server.devices()[1]["state"], "not_paired");
    server.causeway(&["device", "remove", "demo"]);
    let refused = server.causeway(&["sign-in"]);
    assert!(
        String::from_utf8(refused.stderr)
            .unwrap()
            .contains("no causeway is running")
    );

    let again = server.restart();
    let device = crate::world::Device {
        state: again.folder.path().join("mynas"),
        place: Place::Host,
    };
    assert!(
        crate::process::run(device.pair_command(&again, &code))
            .status
            .success()
    );
    let good = update(
        &again,
        "mynas",
        &key,
        "hostname=mynas.nas.localhost&myip=203.0.113.7",
    );
    assert_eq!(good, "good 203.0.113.7\n");
}

#[test]
fn a_list_of_names_is_imported_while_no_server_runs_and_each_key_works() {
    let mut server = Server::start();
    let file = |name: &str| server.folder.path().join(name);
    let (list, keys) = (file("list"), file("keys"));
    std::fs::write(&list, "# moved from elsewhere\none\n\ntwo\n").unwrap();
    let [list, keys] = [&list, &keys].map(|path| path.to_str().unwrap());
    let import = ["device", "import", list, "--keys", keys];
    let refused = server.causeway(&import);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success());
    assert!(said.contains("a causeway is running on"), "{said}");

    server.process.kill();
    let imported = server.causeway(&import);
    assert!(imported.status.success(), "{imported:?}");
    let said = String::from_utf8(imported.stdout).unwrap();
    assert_eq!(said, format!("2 devices; their keys: {keys}\n"));
    let keys = std::fs::read_to_string(keys).unwrap();
    let key = keys.lines().nth(1).unwrap().strip_prefix("two,").unwrap();

    let mut again = server.command(&["device", "import", "-", "--json"]);
    again.stdin(std::fs::File::open(list).unwrap());
    let refused = again.output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("line 2: one is registered already"), "{said}");
    assert!(refused.stdout.is_empty());

    let server = server.restart();
    let asked = "hostname=two.nas.localhost&myip=203.0.113.7";
    assert_eq!(update(&server, "two", key, asked), "good 203.0.113.7\n");
    assert_eq!(dig(&server, "one.nas.localhost", "A"), "127.0.0.1\n");
}

#[test]
fn a_device_has_limits_of_its_own_that_last_and_are_set_with_a_server_and_without() {
    let mut server = Server::start();
    let device = server.pair("mynas");
    let agent = device.run("http://127.0.0.1:1");
    agent.until_said("attached");
    let limit = |server: &Server, options: &[&str]| {
        let limit = [&["device", "limit", "mynas"][..], options].concat();
        server.verb(&limit, "limits")
    };
    let both = ["--bytes-per-second", "10MB", "--visitors", "50"];
    assert_eq!(limit(&server, &both), "10MB/s, 50 visitors");
    let list = String::from_utf8(server.causeway(&["device", "list"]).stdout).unwrap();
    assert!(list.contains("  at most 10MB/s, 50 visitors\n"), "{list}");
    let told = || {
        let mut status = std::process::Command::new(crate::world::causeway_agent());
        status.arg("status").arg("--state").arg(&device.state);
        String::from_utf8(crate::process::run(status).stdout).unwrap()
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    while !told().contains("at most     10MB a second, 50 visitors") {
        assert!(Instant::now() < deadline, "{}", told());
    }

    for (options, sentence) in [
        (
            ["--bytes-per-second", "1kB"],
            "from 16kB to 1000GB a second",
        ),
        (["--bytes-per-second", "10"], "such as 10MB"),
        (["--visitors", "0"], "invalid value '0'"),
    ] {
        let refused = server.causeway(&[&["device", "limit", "mynas"][..], &options].concat());
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(
            !refused.status.success() && said.contains(sentence),
            "{said}"
        );
    }
    let nobody = ["device", "limit", "nobody", "--none"];
    assert!(!server.causeway(&nobody).status.success());

    server.process.kill();
    let fewer = ["--visitors", "40"];
    assert_eq!(limit(&server, &fewer), "10MB/s, 40 visitors");
    let server = server.restart();
    let devices = server.devices();
    assert_eq!(devices[1]["limits"]["bytes_per_second"], 10_000_000);
    assert_eq!(devices[1]["limits"]["visitors"], 40);
    assert_eq!(limit(&server, &["--none"]), "as all devices");
}

#[test]
fn a_state_directory_may_have_a_long_name() {
    let folder = Arc::new(
        tempfile::Builder::new()
            .prefix(&"long".repeat(40))
            .tempdir()
            .unwrap(),
    );
    let server = Server::start_on(Place::Host, folder, &[]);
    assert_eq!(server.devices()[0]["state"], "attached");
}

#[test]
fn a_state_directory_without_a_server_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(crate::world::causeway());
    command
        .args(["device", "list", "--state"])
        .arg(folder.path());
    let output = crate::process::run(command);
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("holds no causeway state")
    );
}

#[test]
fn a_sign_in_link_works_once_and_only_from_our_own_page() {
    let server = Server::start();
    let link = output_of({
        let mut command = std::process::Command::new(crate::world::causeway());
        command
            .args(["sign-in", "--state"])
            .arg(&server.ready.state);
        command
    });
    let token = link.trim().split_once("#sign-in=").unwrap().1.to_owned();
    let jar = server.folder.path().join("jar");
    let sign_in = |headers: &[&str]| {
        let mut curl = server.curl();
        curl.args([
            "--write-out",
            "%{http_code}",
            "--output",
            "/dev/null",
            "--cookie-jar",
        ])
        .arg(&jar);
        curl.args([
            "--json",
            &format!(r#"{{"token":"{token}"}}"#),
            &server.url("cloud", "/api/session"),
        ]);
        for header in headers {
            curl.args(["--header", header]);
        }
        output_of(curl)
    };
    assert_eq!(sign_in(&[]), "403", "no word on where it comes from");
    assert_eq!(
        sign_in(&["Sec-Fetch-Site: same-site"]),
        "403",
        "from a sibling, such as a device's page"
    );
    assert_eq!(sign_in(&["Origin: https://demo.nas.localhost"]), "403");
    assert_eq!(sign_in(&["Sec-Fetch-Site: same-origin"]), "204");
    assert_eq!(
        sign_in(&["Sec-Fetch-Site: same-origin"]),
        "403",
        "a link works once"
    );

    let with_jar = |path: &str| {
        let mut curl = server.curl();
        curl.args(["--fail", "--cookie"])
            .arg(&jar)
            .arg(server.url("cloud", path));
        output_of(curl)
    };
    // The refused second attempt has not taken the first one's cookie from the jar file's owner: sign in anew.
    let link = String::from_utf8(server.causeway(&["sign-in"]).stdout).unwrap();
    let token = link.trim().split_once("#sign-in=").unwrap().1.to_owned();
    let mut curl = server.curl();
    curl.args(["--header", "Sec-Fetch-Site: same-origin", "--cookie-jar"])
        .arg(&jar);
    curl.args([
        "--json",
        &format!(r#"{{"token":"{token}"}}"#),
        &server.url("cloud", "/api/session"),
    ]);
    output_of(curl);
    assert!(with_jar("/api/devices").contains("demo.nas.localhost"));
    assert!(with_jar("/").contains("demo.nas.localhost"));
    assert!(
        !server.process.said().contains(&token),
        "a token is in the log"
    );

    // Signing out ends what still shows the devices.
    let mut curl = server.curl();
    curl.args(["--no-buffer", "--cookie"]).arg(&jar);
    curl.arg(server.url("cloud", "/api/devices/events"));
    let mut events = Process::start(curl);
    events.until_said("demo.nas.localhost");
    let mut curl = server.curl();
    curl.args(["--fail", "--request", "DELETE", "--cookie"])
        .arg(&jar);
    curl.args(["--header", "Sec-Fetch-Site: same-origin"]);
    curl.arg(server.url("cloud", "/api/session"));
    output_of(curl);
    assert!(events.ended().success(), "{}", events.said());
}
