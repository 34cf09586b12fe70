//! Ports of the relay that the operator gives to a device, whose owner leads them to services: real programs on both sides.

use std::net::{TcpListener, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use crate::process::{output_of, until};
use crate::reload::{Operator, good};
use crate::several_relays::Relay;
use crate::sshd::Sshd;
use crate::world::{Server, causeway_agent};

pub(crate) const OFFERED: &str = "20000-20999";

/// A port of those that nobody has now, neither of TCP nor of UDP, another one for each test. No program of this machine is given one of
/// them by itself.
pub(crate) fn free_of_those_offered() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = 20_000 + u16::try_from(std::process::id() % 800).unwrap();
    let begin = begin + 50 * NEXT.fetch_add(1, Relaxed);
    let is_free = |port: &u16| {
        let at = ("127.0.0.1", *port);
        TcpListener::bind(at).is_ok() && UdpSocket::bind(at).is_ok()
    };
    (begin..21_000).find(is_free).unwrap()
}

#[test]
fn ssh_and_dig_reach_a_device_at_ports_that_its_operator_has_given_it() {
    let offering = format!("[relay]\nports = \"{OFFERED}\"");
    let text = good().replacen("[relay]", &offering, 1);
    let Operator { server, .. } = Operator::start(&text);
    let sshd = Sshd::start(server.folder.path());
    let number = free_of_those_offered();
    let (tcp, udp) = (format!("{number}/tcp"), format!("{number}/udp"));
    let device = server.pair("mynas");
    let agent = device.serve(&format!(
        "[services.ssh]\norigin = \"tcp://127.0.0.1:{}\"\nreach = \"port\"\npublic = \"{tcp}\"\n\
         [services.names]\norigin = \"udp://{}\"\npublic = \"{udp}\"\n",
        sshd.port, server.ready.dns
    ));
    agent.until_said("this device has not been given it");

    let refused = |arguments: &[&str]| {
        let output = server.causeway(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let out = refused(&["port", "add", "mynas", "30022/tcp"]);
    assert!(out.contains("30022/tcp is none of 20000-20999"), "{out}");
    let nobody = refused(&["port", "add", "nobody", &tcp]);
    assert!(
        nobody.contains("there is no device named nobody"),
        "{nobody}"
    );
    for port in [&tcp, &udp] {
        let given = server.verb(&["port", "add", "mynas", port], "port");
        assert_eq!(given, format!("{port} of mynas.{}", server.ready.zone));
    }
    server.verb(&["device", "add", "other"], "code");
    let stolen = refused(&["port", "add", "other", &tcp]);
    assert!(stolen.contains("mynas's already"), "{stolen}");

    agent.until_said(&format!("the public port is open port=\"{tcp}\""));
    agent.until_said(&format!("the public port is open port=\"{udp}\""));
    let mut ssh = sshd.client("ssh", None);
    // The first of an option counts, and the relay's port is not sshd's own.
    let whoami = output_of(Command::new("whoami"));
    let there = format!("{}@127.0.0.1", whoami.trim());
    let relayed: Vec<_> = ssh.get_args().map(ToOwned::to_owned).collect();
    ssh = Command::new("ssh");
    ssh.arg("-p").arg(number.to_string()).args(relayed);
    ssh.args([&there, "echo", "hello", "there"]);
    assert_eq!(output_of(ssh), "hello there\n");
    let host = format!("demo.{}", server.ready.zone);
    let asked = |options: &[&str]| {
        let mut dig = Command::new("dig");
        dig.args(["@127.0.0.1", "-p", &number.to_string()]);
        dig.args(["+short", "+tries=5", "+timeout=1"]);
        dig.args(options);
        dig
    };
    let mut dig = asked(&["SOA"]);
    dig.arg(&server.ready.zone);
    let answer = output_of(dig);
    assert!(answer.contains("ns1."), "{host}: {answer}");

    // What the database keeps outlives the process.
    let listed = server.causeway(&["port", "list", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed[0]["device"], "mynas");
    assert_eq!(listed[0]["port"], tcp);
    assert_eq!(listed[1]["port"], udp);

    assert!(server.causeway(&["port", "remove", &tcp]).status.success());
    let refused_again = refused(&["port", "remove", &tcp]);
    assert!(refused_again.contains("is no device's"), "{refused_again}");
    let state = device.state.display().to_string();
    let status = || {
        let mut status = Command::new(causeway_agent());
        status.args(["status", "--state", &state]);
        output_of(status)
    };
    let is_closed = || {
        status().contains(&format!(
            "{tcp} is not open: this device has not been given it"
        ))
    };
    until(is_closed, status);
    assert!(std::net::TcpStream::connect(("127.0.0.1", number)).is_err());
    assert!(status().contains(&format!("{udp} is open")));
}

#[test]
fn a_relay_with_a_process_of_its_own_has_ports_for_devices_also_while_control_is_away() {
    const OPEN: &str = "causeway_relay_public_ports{protocol=\"udp\"}";
    let mut server = Server::start();
    let udp = format!("{}/udp", free_of_those_offered());
    let number = udp.trim_end_matches("/udp");
    // A name server that outlives the one that is killed below.
    let names = Server::start();
    let device = server.pair("mynas");
    let nobody_offers = server.causeway(&["port", "add", "mynas", &udp]);
    assert!(!nobody_offers.status.success());
    let said = String::from_utf8(nobody_offers.stderr).unwrap();
    assert!(said.contains("offers no ports"), "{said}");

    let offers = format!("ports = \"{OFFERED}\"\n");
    let mut relay = Relay::join_with(&server, "eu1", &offers);
    server.verb(&["port", "add", "mynas", &udp], "port");
    let agent = device.serve(&format!(
        "[services.names]\norigin = \"udp://{}\"\npublic = \"{udp}\"\n",
        names.ready.dns
    ));
    agent.until_said(&format!("the public port is open port=\"{udp}\""));
    agent.until_said("this relay offers no public ports"); // the server's own
    relay.until_metric(OPEN, 1);
    let asked = || {
        let mut dig = Command::new("dig");
        dig.args(["@127.0.0.1", "-p", number, "+short", "+tries=5"]);
        dig.args(["+timeout=1", "SOA", &names.ready.zone]);
        output_of(dig)
    };
    let answer = asked();
    assert!(answer.contains("ns1."), "{answer}");

    // Whose a port is it knows by itself.
    server.process.kill();
    relay.until_control_is_missed();
    relay.kill_and_start();
    relay.until_metric(OPEN, 1);
    let answer = asked();
    assert!(answer.contains("ns1."), "{answer}");

    // And what has changed meanwhile it hears when control is back.
    let server = server.restart();
    assert!(server.causeway(&["port", "remove", &udp]).status.success());
    relay.until_metric(OPEN, 0);
}
