//! Who alone may have certificates for a device: CAA records with its account, as the agent says them before it orders.

use std::path::Path;

use serde_json::{Value, json};

use super::*;

const DNS_CHANGE: (&str, &str) = ("PATCH", "/api/device/dns");

impl World {
    /// The CAA records at a name, as dig prints them, in order.
    fn caa(&self, name: &str) -> Vec<String> {
        let mut dig = self.server.place.command("dig");
        dig.args(["@127.0.0.1", "-p", "5300", "+short", "+norecurse", "CAA"]);
        dig.arg(format!("{name}.nas.localhost"));
        let printed = output_of(dig);
        let mut lines: Vec<_> = printed.lines().map(|line| line.replace('\\', "")).collect();
        lines.sort();
        lines
    }

    fn change(&self, state: &Path, change: &Value) -> String {
        let identity = State::open(state).unwrap().identity().unwrap();
        let body = change.to_string();
        SignedRequest::new(&self.server, &identity, DNS_CHANGE, &body).send(&self.server)
    }
}

/// What is at a name for these accounts with one authority.
fn pair(issuer: &str, account: &str) -> Vec<String> {
    let value = format!("\"{issuer}; accounturi={account}; validationmethods=dns-01\"");
    ["issue", "issuewild"]
        .map(|tag| format!("0 {tag} {value}"))
        .to_vec()
}

/// The device's account with the authority at a directory.
fn account(device: &Device, directory: &str) -> String {
    let text = fs::read_to_string(device.state.join("acme.json")).unwrap();
    let state: Value = serde_json::from_str(&text).unwrap();
    state["accounts"][directory].as_str().unwrap().to_owned()
}

fn issued(agent: &Process) -> usize {
    agent.said().matches(ISSUED).count()
}

#[test]
fn a_devices_account_alone_may_have_certificates_until_its_owner_wants_others_to() {
    let pebble = Pebble {
        validity: Some(30),
        ..Pebble::default()
    };
    let mut world = World::start_with(pebble, "caa_identity = \"pebble.test\"");
    let device = world.server.pair("mynas");
    let other = world.server.pair("other");
    assert_eq!(world.caa("mynas"), [] as [&str; 0]);
    let agent = device.run("http://127.0.0.1:1");
    agent.until_said(ISSUED);
    let first = account(&device, DIRECTORY);
    for name in ["mynas", "photos.mynas"] {
        assert_eq!(world.caa(name), pair("pebble.test", &first), "{name}");
    }
    assert_eq!(world.caa("other"), [] as [&str; 0]);
    let told = status(&device);
    assert!(
        told.contains("caa         pebble.test alone may issue for the name"),
        "{told}"
    );
    // It stands there before the order is made, and once: nothing changes with the next.
    let made = world.made();
    assert_eq!(made.0, 1);

    // Another device says it for itself alone, and only of authorities that the operator asks.
    let caa = |directory: &str, issuer: &str| json!({ "caa": [{ "directory": directory, "issuer": issuer, "account": "https://a.test/7" }] });
    for (directory, issuer) in [
        ("https://a.test/dir", "pebble.test"),
        (DIRECTORY, "other.test"),
    ] {
        let told = world.change(&other.state, &caa(directory, issuer));
        assert!(told.contains("bad_issuer"), "{told}");
    }
    let told = world.change(&other.state, &caa(DIRECTORY, "pebble.test"));
    assert!(told.contains("\"changed\":true"), "{told}");
    assert_eq!(world.caa("other"), pair("pebble.test", "https://a.test/7"));
    assert_eq!(world.caa("mynas"), pair("pebble.test", &first));
    let refused = world
        .server
        .metric("causeway_control_refusals_total{code=\"bad_issuer\"}");
    assert_eq!(refused, 2);

    // An authority without its memory makes another account, and that is who may from then on.
    world.authority.kill();
    world.authority = pebble.start(&world.server.place, world.folder.path());
    let before = issued(&agent);
    until(|| issued(&agent) > before, || agent.said());
    let second = account(&device, DIRECTORY);
    assert_ne!(first, second);
    assert_eq!(world.caa("mynas"), pair("pebble.test", &second));

    // It outlasts the server.
    world.restart();
    assert_eq!(world.caa("mynas"), pair("pebble.test", &second));
    world.authority.kill();
    world.authority = pebble.start(&world.server.place, world.folder.path());

    // Whoever has a client of his own on the device says so.
    drop(agent);
    let agent = device.run_with("http://127.0.0.1:1", &["--caa", "any"]);
    agent.until_said(ISSUED);
    assert_eq!(world.caa("mynas"), [] as [&str; 0]);
    assert!(!status(&device).contains("caa   "), "{}", status(&device));

    // Nothing is left for the next who has the name.
    world.server.causeway(&["device", "remove", "other"]);
    assert_eq!(world.caa("other"), [] as [&str; 0]);
    world
        .server
        .causeway(&["device", "add", "--reclaim", "other"]);
    assert_eq!(world.caa("other"), [] as [&str; 0]);
}

#[test]
fn of_an_authority_that_does_not_say_who_it_is_certificates_come_all_the_same() {
    let world = World::start(Pebble::default());
    let device = world.server.pair("mynas");
    let agent = device.run("http://127.0.0.1:1");
    agent.until_said(ISSUED);
    assert_eq!(world.caa("mynas"), [] as [&str; 0]);
    let told = status(&device);
    for expected in [
        "caa         others may have certificates for the name too: 127.0.0.1 does not say",
        "`caa_identity`",
    ] {
        assert!(told.contains(expected), "{told}");
    }
    assert!(!told.contains("not renewed"), "{told}");
}

/// In front of the authority: its directory says what it looks for in CAA records, as those of others do.
fn says_who_it_is(world: &World) -> Process {
    let folder = world.folder.path();
    let config = format!(
        "pid {0}/nginx.pid; error_log stderr notice; events {{}}\n\
         http {{ access_log off;\n\
         client_body_temp_path {0}/body; proxy_temp_path {0}/proxy; fastcgi_temp_path {0}/fastcgi;\n\
         uwsgi_temp_path {0}/uwsgi; scgi_temp_path {0}/scgi;\n\
         server {{ listen 127.0.0.1:14443 ssl; ssl_certificate {0}/pebble.pem; ssl_certificate_key {0}/pebble.key;\n\
         location / {{ proxy_pass https://127.0.0.1:14000; proxy_set_header Host 127.0.0.1:14000;\n\
         sub_filter_types application/json; sub_filter '\"meta\": {{' '\"meta\": {{ \"caaIdentities\": [\"Pebble.test\"],'; }} }} }}\n",
        folder.display()
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config).unwrap();
    let mut nginx = world.server.place.command("nginx");
    nginx.arg("-c").arg(file);
    nginx.args(["-g", "daemon off; master_process off;"]);
    let process = Process::start(nginx);
    process.until_said("event method");
    process
}

#[test]
fn where_the_first_authority_gives_nothing_the_next_ones_account_may_by_what_its_directory_says() {
    let pebble = Pebble {
        is_bound: true,
        ..Pebble::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("eab");
    fs::write(&key, EAB_KEY).unwrap();
    // The first wants to know whose the device is, and is not told.
    const NEXT: &str = "https://127.0.0.1:14443/dir";
    let ca = "ca_file = \"PEM\"";
    let next = format!(
        "[[acme.ca]]\ndirectory = \"{NEXT}\"\n{ca}\neab_key_id = \"kid-1\"\neab_key_file = \"{}\"",
        key.display()
    );
    let world = World::start_with(pebble, &next);
    let _nginx = says_who_it_is(&world);
    let device = world.server.pair("mynas");
    let agent = device.run("http://127.0.0.1:1");
    agent.until_said(ISSUED);
    let account = account(&device, NEXT);
    assert_eq!(world.caa("mynas"), pair("pebble.test", &account));
    let told = status(&device);
    assert!(told.contains("caa         pebble.test alone"), "{told}");
}
