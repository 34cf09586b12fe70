//! Clients that keep a name on an address.

use std::process::Command;

use super::{CLOUD, NAME, Scene, said_by};
use crate::process::output_of;

/// ddclient, run once.
fn ddclient(scene: &Scene, (protocol, host): (&str, &str), key: &str, address: &str) -> Command {
    scene.file("address", address);
    let config = format!(
        "ssl=yes\nssl_ca_file={}\nuse=cmd, cmd='cat address'\nprotocol={protocol}\nserver={CLOUD}\n\
         login=mynas\npassword={key}\n{host}\n",
        scene.ca().display()
    );
    let config = scene.file("ddclient.conf", &config);
    let mut ddclient = scene.client("ddclient");
    ddclient.args(["-daemon=0", "-verbose", "-noquiet", "-cache=cache"]);
    ddclient.arg("-file").arg(config);
    ddclient
}

fn forced(mut client: Command, option: &str) -> Command {
    client.arg(option);
    client
}

#[test]
fn ddclient_keeps_a_name_in_each_of_three_dialects() {
    let no_change = "nochg: No update required";
    for (dialect, again, refusal) in [
        (("dyndns2", NAME), no_change, "authorization failed"),
        (("noip", NAME), no_change, "authorization failed"),
        (("duckdns", "mynas"), "good: IP", "Server said: 'KO'"),
    ] {
        let scene = Scene::start();
        let client = |key, address| ddclient(&scene, dialect, key, address);
        let key = &scene.addresses.key;

        let said = said_by(client(key, "203.0.113.10"), true);
        let good = format!("{}: good: IP address set to 203.0.113.10", dialect.1);
        assert!(said.contains(&good), "{said}");
        assert_eq!(scene.dig(NAME, "A"), "203.0.113.10\n");

        let said = said_by(client(key, "203.0.113.10"), true);
        assert!(said.contains("skipped: IP address was already"), "{said}");
        // It wants to be forced to update again so soon.
        let said = said_by(forced(client(key, "203.0.113.10"), "-force"), true);
        assert!(said.contains(again), "{said}");
        said_by(forced(client(key, "2001:db8::10"), "-force"), true);
        assert_eq!(scene.dig(NAME, "AAAA"), "2001:db8::10\n");

        let said = said_by(forced(client("wrong", "203.0.113.11"), "-force"), false);
        assert!(said.contains(refusal), "{said}");
        assert_eq!(scene.dig(NAME, "A"), "203.0.113.10\n");
        let log = scene.server.process.said();
        assert!(!log.contains(key), "a key is in the log");
    }
}

/// inadyn, run once.
fn inadyn(scene: &Scene, key: &str, address: &str) -> Command {
    scene.file("address", address);
    let config = format!(
        "allow-ipv6 = true\nca-trust-file = {}\ncustom causeway {{\n  username = mynas\n  password = {key}\n  \
         checkip-command = \"cat address\"\n  ddns-server = {CLOUD}\n  \
         ddns-path = \"/nic/update?hostname=%h&myip=%i\"\n  hostname = {NAME}\n}}\n",
        scene.ca().display()
    );
    let config = scene.file("inadyn.conf", &config);
    let mut inadyn = scene.client("inadyn");
    inadyn.args(["--once", "--foreground", "--no-pidfile", "--loglevel=debug"]);
    inadyn.args(["--cache-dir=.", "--config"]).arg(config);
    inadyn
}

#[test]
fn inadyn_keeps_a_name_on_an_address_of_either_family() {
    let scene = Scene::start();
    let key = &scene.addresses.key;
    for (address, kind) in [("203.0.113.20", "A"), ("2001:db8::20", "AAAA")] {
        let said = said_by(inadyn(&scene, key, address), true);
        assert!(said.contains("Successful alias table update"), "{said}");
        assert_eq!(scene.dig(NAME, kind), format!("{address}\n"));
        let said = said_by(inadyn(&scene, key, address), true);
        assert!(said.contains("No IP# change detected"), "{said}");
        let said = said_by(forced(inadyn(&scene, key, address), "--force"), true);
        assert!(said.contains(&format!("nochg {address}")), "{said}");
    }
    let wrong = forced(inadyn(&scene, "wrong", "203.0.113.21"), "--force");
    let said = said_by(wrong, false);
    assert!(said.contains("Authentication failure"), "{said}");
    assert_eq!(scene.dig(NAME, "A"), "203.0.113.20\n");
}

/// What curl gets from an URL at the cloud that stands in a file, as DuckDNS tells its users: no list of processes shows the key.
fn curl(scene: &Scene, path: &str) -> String {
    let url = scene.file("url", &format!("url=\"https://{CLOUD}{path}\"\n"));
    let mut curl = scene.client("curl");
    curl.args(["--silent", "--show-error", "--max-time", "50", "--config"]);
    curl.arg(url).arg("--cacert").arg(scene.ca());
    output_of(curl)
}

#[test]
fn curl_keeps_a_name_by_duckdns() {
    let scene = Scene::start();
    let path = |key: &str, ip: &str| format!("/update?domains=mynas&token={key}&ip={ip}");
    let key = &scene.addresses.key;
    for _ in 0..2 {
        assert_eq!(curl(&scene, &path(key, "203.0.113.30")), "OK");
        assert_eq!(scene.dig(NAME, "A"), "203.0.113.30\n");
    }
    assert_eq!(curl(&scene, &path("wrong", "203.0.113.31")), "KO");
    assert_eq!(scene.dig(NAME, "A"), "203.0.113.30\n");
    // Where it asks from.
    assert_eq!(curl(&scene, &path(key, "")), "OK");
    assert_eq!(scene.dig(NAME, "A"), "127.0.0.1\n");
}

#[test]
fn a_fritzbox_url_moves_a_name_and_the_home_networks_prefix() {
    let scene = Scene::start();
    let path = |ip: &str, prefix: &str, key: &str| {
        format!(
            "/nic/update?hostname={NAME}&myip={ip}&myipv6={prefix}&username=mynas&password={key}"
        )
    };
    let key = &scene.addresses.key;
    let asked = path("203.0.113.40", "2001:db8:0:42::7", key);
    let good = "good 203.0.113.40,2001:db8:0:42::7\n";
    assert_eq!(curl(&scene, &asked), good);

    let moved = path("203.0.113.41", "2001:db8:1::/56", key);
    let now = "203.0.113.41,2001:db8:1:42::7\n";
    assert_eq!(curl(&scene, &moved), format!("good {now}"));
    assert_eq!(scene.dig(NAME, "A"), "203.0.113.41\n");
    assert_eq!(scene.dig(NAME, "AAAA"), "2001:db8:1:42::7\n");
    assert_eq!(curl(&scene, &moved), format!("nochg {now}"));

    let wrong = path("203.0.113.42", "2001:db8:2::/56", "wrong");
    assert_eq!(curl(&scene, &wrong), "badauth\n");
    assert_eq!(scene.dig(NAME, "A"), "203.0.113.41\n");
}

#[test]
fn nsupdate_and_knsupdate_keep_a_name_with_the_printed_key() {
    let scene = Scene::start();
    let tsig = &scene.addresses.tsig;
    let other = &scene.challenges.tsig.secret; // well formed, and another key's
    // nsupdate finds the zone by itself; knsupdate wants it said.
    let nsupdate = ("nsupdate", "", ["update delete", "update add"]);
    let knsupdate = ("knsupdate", "zone causeway.example", ["del", "add"]);
    for ((program, zone, [delete, add]), options, address) in [
        (nsupdate, &[][..], "203.0.113.50"),
        (nsupdate, &["-v"], "203.0.113.51"), // over TCP
        (knsupdate, &[], "203.0.113.52"),
        (knsupdate, &["-v"], "203.0.113.53"),
    ] {
        let client = |secret: &str, address: &str| {
            let key = format!("key {}:{} {secret}", tsig.algorithm, tsig.name);
            let change = format!("{delete} {NAME} A\n{add} {NAME} 60 A {address}");
            let text = format!("server {CLOUD}\n{zone}\n{key}\n{change}\nsend\n");
            let mut client = scene.client(program);
            client.args(options).arg(scene.file("update", &text));
            client
        };
        for _ in 0..2 {
            let said = said_by(client(&tsig.secret, address), true);
            assert_eq!(said, "", "{program} {options:?}");
            assert_eq!(scene.dig(NAME, "A"), format!("{address}\n"));
        }
        let said = said_by(client(other, "203.0.113.59"), false);
        assert!(said.contains("BADSIG"), "{program} {options:?}: {said}");
        assert_eq!(scene.dig(NAME, "A"), format!("{address}\n"));
    }
}
