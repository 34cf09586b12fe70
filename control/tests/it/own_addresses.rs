//! An agent that leads its name to its own public addresses, as they change.

use std::process::Command;

use serde_json::Value;

use crate::process::{Process, output_of};
use crate::world::{Device, Place, Server, causeway_agent};

/// Runs `ip` in the namespace.
fn ip(place: &Place, arguments: &str) {
    let mut ip = place.command("ip");
    ip.args(arguments.split(' '));
    output_of(ip);
}

/// What the server answers, asked from where it is.
fn dig(server: &Server, kind: &str) -> String {
    let mut dig = server.place.command("dig");
    let dns = server.ready.dns;
    dig.args([&format!("@{}", dns.ip()), "-p", &dns.port().to_string()]);
    dig.args([
        "mynas.nas.localhost",
        kind,
        "+short",
        "+norecurse",
        "+tries=1",
    ]);
    output_of(dig)
}

fn status(device: &Device, options: &[&str]) -> String {
    let mut status: Command = device.place.command(causeway_agent());
    status.args(["status", "--state"]).arg(&device.state);
    output_of({
        status.args(options);
        status
    })
}

/// Waits until the zone has been told, and gives the version at which it has it.
fn told(agent: &Process, text: &str) -> u64 {
    let line = agent.until_said(text);
    let (_, version) = line.rsplit_once("version=").unwrap();
    version.trim().parse().unwrap()
}

#[test]
fn a_name_follows_the_devices_own_addresses() {
    let place = Place::namespace();
    ip(&place, "address add 203.0.113.7/32 dev lo");
    ip(&place, "route add default dev lo src 203.0.113.7");
    ip(&place, "-6 address add 2001:db8::7/128 dev lo nodad");
    ip(&place, "-6 route add default dev lo src 2001:db8::7");
    let server = Server::start_with(place.clone(), &[]);
    let device = server.pair("mynas");

    let agent = device.run_with("http://127.0.0.1:1", &["--dns", "report"]);
    let first = told(&agent, "the name leads to this device's own addresses");
    assert_eq!(
        (dig(&server, "A").as_str(), dig(&server, "AAAA").as_str()),
        ("203.0.113.7\n", "2001:db8::7\n")
    );
    let text = status(&device, &[]);
    let line = format!("name        leads to 203.0.113.7, 2001:db8::7 (version {first})");
    assert!(text.contains(&line), "{text}");

    ip(&place, "address add 203.0.113.8/32 dev lo");
    ip(&place, "route replace default dev lo src 203.0.113.8");
    let second = told(&agent, &format!("version={}", first + 1));
    assert_eq!(dig(&server, "A"), "203.0.113.8\n");

    // What it had and has no more is taken back; the other family stays.
    ip(&place, "route delete default");
    told(&agent, &format!("version={}", second + 1));
    assert_eq!(
        (dig(&server, "A").as_str(), dig(&server, "AAAA").as_str()),
        ("", "2001:db8::7\n")
    );
}

#[test]
fn at_home_a_name_of_its_own_leads_to_the_device() {
    let place = Place::namespace();
    ip(&place, "address add 192.168.7.8/32 dev lo");
    ip(&place, "route add default dev lo src 192.168.7.8");
    let server = Server::start_with(place.clone(), &[]);
    let device = server.pair("mynas");
    let at_home = |kind: &str| {
        let mut dig = server.place.command("dig");
        let dns = server.ready.dns;
        dig.args([&format!("@{}", dns.ip()), "-p", &dns.port().to_string()]);
        dig.args([
            "lan.mynas.nas.localhost",
            kind,
            "+short",
            "+norecurse",
            "+tries=1",
        ]);
        output_of(dig)
    };
    let mut agent = device.run_with("http://127.0.0.1:1", &["--lan", "report"]);
    agent.until_said("is where this device is at home");
    assert_eq!(at_home("A"), "192.168.7.8\n");
    assert_eq!(at_home("AAAA"), "");
    assert_eq!(dig(&server, "A"), "127.0.0.1\n");
    let text = status(&device, &[]);
    assert!(
        text.contains("at home     lan. in front of the name leads to 192.168.7.8"),
        "{text}"
    );
    agent.kill();
    assert_eq!(at_home("A"), "192.168.7.8\n", "what is set stays");
    let agent = device.run_with("http://127.0.0.1:1", &["--lan", "remove"]);
    agent.until_said("is where this device is at home");
    assert_eq!(at_home("A"), "127.0.0.1\n", "as any name below the device");
}

#[test]
fn an_agent_that_is_not_told_to_changes_no_name() {
    let place = Place::namespace();
    ip(&place, "address add 203.0.113.7/32 dev lo");
    ip(&place, "route add default dev lo src 203.0.113.7");
    let server = Server::start_with(place, &[]);
    let device = server.pair("mynas");
    let agent = device.run("http://127.0.0.1:1");
    let status: Value = serde_json::from_str(&status(&device, &["--json"])).unwrap();
    assert_eq!(status["dns"], Value::Null);
    assert_eq!(dig(&server, "A"), "127.0.0.1\n");
    assert!(!agent.said().contains("own addresses"));
}
