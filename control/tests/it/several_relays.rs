//! A server and a relay with a process of its own: devices hold a tunnel to each, and either may die.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::dns::dig;
use crate::nginx::Nginx;
use crate::process::{Process, SOON, output_of, run, until};
use crate::world::{Place, Server, causeway, metric_at};

/// What control tells agents of a relay has its port, so it cannot be any. Not among those that the kernel gives to others, nor those that
/// devices are given.
fn fixed_port() -> u16 {
    loop {
        let port = rand::random_range(21_000..32_000);
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if free && std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// A relay that has joined a server on this host.
pub(crate) struct Relay {
    folder: PathBuf,
    port: u16,
    pub(crate) process: Process,
}

impl Relay {
    /// Names of its devices lead to 127.0.0.2, where nobody is: visitors here are told the way.
    fn join(server: &Server, name: &str) -> Self {
        Self::join_with(server, name, "")
    }

    /// The same with such lines more in its [relay].
    pub(crate) fn join_with(server: &Server, name: &str, lines: &str) -> Self {
        let (port, folder) = (fixed_port(), server.folder.path().join(name));
        std::fs::create_dir(&folder).unwrap();
        let join = folder.join("join");
        let add = [
            "relay",
            "add",
            name,
            join.to_str().unwrap(),
            "--public",
            "127.0.0.2",
            "--port",
            &port.to_string(),
        ];
        server.verb(&add, "relay");
        let config = format!(
            "zone = \"{}\"\n[relay]\nfront = \"127.0.0.1:{port}\"\npublic = [\"127.0.0.2\"]\njoin = \"{}\"\n{lines}[admin]\nlisten = \"127.0.0.1:0\"\n",
            server.ready.zone,
            join.display()
        );
        std::fs::write(folder.join("relay.toml"), config).unwrap();
        let process = start(&folder);
        Self {
            folder,
            port,
            process,
        }
    }

    pub(crate) fn kill_and_start(&mut self) {
        self.process.kill();
        self.process = start(&self.folder);
    }

    /// A page by way of this relay.
    pub(crate) fn get(&self, server: &Server, host: &str) -> std::process::Output {
        let mut curl = server.curl();
        curl.args([
            "--fail",
            "--connect-to",
            &format!("::127.0.0.1:{}", self.port),
        ]);
        curl.arg(format!(
            "https://{host}.{}:{}/page",
            server.ready.zone, self.port
        ));
        run(curl)
    }

    fn metric(&self, line: &str) -> u64 {
        let ready = std::fs::read(self.folder.join("ready.json")).unwrap();
        let ready: Value = serde_json::from_slice(&ready).unwrap();
        let admin = ready["admin"].as_str().unwrap();
        metric_at(admin.parse().unwrap(), line)
    }

    /// Control is away, and what was known is on the disk: that comes before the next try.
    pub(crate) fn until_control_is_missed(&self) {
        let unreachable = "causeway_follow_lost_total{reason=\"unreachable\"}";
        until(
            || self.metric(unreachable) > 0,
            || "control is not missed".to_owned(),
        );
    }

    pub(crate) fn until_metric(&self, line: &str, value: u64) {
        until(
            || self.metric(line) == value,
            || format!("{line} is {}", self.metric(line)),
        );
    }
}

fn start(folder: &Path) -> Process {
    let ready = folder.join("ready.json");
    let _ = std::fs::remove_file(&ready);
    let mut command = Command::new(causeway());
    command
        .arg("up")
        .arg("--config")
        .arg(folder.join("relay.toml"));
    command.arg("--state").arg(folder.join("state"));
    command.arg("--ready-file").arg(ready);
    command.env("CAUSEWAY_LOG", "debug");
    let process = Process::start(command);
    process.until_said("ready");
    process
}

const TUNNELS: &str = "causeway_relay_tunnels{transport=\"quic\"}";

/// The demo's device, which stays where it is, and this one.
const AT_THE_SERVER: u64 = 2;

/// The device, and the service it makes reachable, for as long as this is kept.
pub(crate) struct Device {
    _service: Nginx,
    _agent: Process,
}

/// A device that holds a tunnel to the server's own relay and to another.
pub(crate) fn world() -> (Server, Relay, Device) {
    let server = Server::start();
    let relay = Relay::join(&server, "eu1");
    let service = Nginx::start(&Place::Host);
    std::fs::write(service.file("page"), "a page\n").unwrap();
    let agent = server.pair("mynas").run(&service.origin());
    relay.until_metric(TUNNELS, 1);
    until(
        || server.metric(TUNNELS) == AT_THE_SERVER,
        || format!("{} tunnels", server.metric(TUNNELS)),
    );
    let device = Device {
        _service: service,
        _agent: agent,
    };
    (server, relay, device)
}

pub(crate) fn addresses(server: &Server) -> Vec<String> {
    let host = format!("mynas.{}", server.ready.zone);
    let mut addresses: Vec<_> = dig(server, &host, "A").lines().map(str::to_owned).collect();
    addresses.sort();
    addresses
}

pub(crate) fn leads_to(server: &Server, expected: &[&str]) {
    until(
        || addresses(server) == expected,
        || format!("{:?}", addresses(server)),
    );
}

fn is_served(output: &std::process::Output) -> bool {
    output.status.success()
}

#[test]
fn a_device_is_reached_through_either_relay_and_through_the_other_when_one_dies() {
    let (server, mut relay, _device) = world();
    assert!(is_served(&relay.get(&server, "mynas")));
    server.get(&server.url("mynas", "/page"));
    leads_to(&server, &["127.0.0.1", "127.0.0.2"]);
    let host = format!("eu1.relay.{}", server.ready.zone);
    assert_eq!(dig(&server, &host, "A"), "127.0.0.2\n");
    let listed = output_of(server.command(&["relay", "list"]));
    assert!(listed.contains("follows, 1 device "), "{listed}");

    relay.process.kill();
    let killed = Instant::now();
    server.get(&server.url("mynas", "/page"));
    let served = killed.elapsed();
    leads_to(&server, &["127.0.0.1"]);
    eprintln!(
        "after the kill: served in {served:?}, led elsewhere in {:?}",
        killed.elapsed()
    );
    // A connection that breaks is heard of at once; the rest is what a busy machine takes.
    assert!(killed.elapsed() < SOON / 6, "{:?}", killed.elapsed());

    relay.process = start(&relay.folder);
    leads_to(&server, &["127.0.0.1", "127.0.0.2"]);
    assert!(is_served(&relay.get(&server, "mynas")));
}

#[test]
fn names_leave_a_relay_that_stands_still_although_nothing_says_so() {
    /// Before it is taken for gone: two seconds without a report, and what a busy machine takes.
    const NOTICED: Duration = following::SILENCE;
    let (server, relay, _device) = world();
    leads_to(&server, &["127.0.0.1", "127.0.0.2"]);
    let times_late = || server.metric("causeway_control_relays_late_total");
    let before = times_late();
    relay.process.signal("-STOP");
    let stood_still = Instant::now();
    leads_to(&server, &["127.0.0.1"]);
    let noticed = stood_still.elapsed();
    assert!(times_late() > before);
    server.get(&server.url("mynas", "/page"));
    relay.process.signal("-CONT");
    leads_to(&server, &["127.0.0.1", "127.0.0.2"]);
    assert!(is_served(&relay.get(&server, "mynas")));
    assert!(noticed < NOTICED, "{noticed:?}");
}

/// A device with one tunnel, which comes to another relay because its own ends.
#[test]
fn the_name_follows_a_tunnel_within_a_second() {
    let server = Server::start();
    let relay = Relay::join(&server, "eu1");
    // Which of the relays is a device's first is drawn by lot.
    let agents: Vec<_> = (0..6)
        .map(|number| {
            server
                .pair(&format!("nas{number}"))
                .run_with("http://127.0.0.1:1", &["--tunnels", "1"])
        })
        .collect();
    let leads = |number: usize| dig(&server, &format!("nas{number}.{}", server.ready.zone), "A");
    let at_relay = |expected: &str| {
        (0..agents.len())
            .filter(|number| leads(*number) == expected)
            .count()
    };
    let all = agents.len();
    until(
        || relay.metric(TUNNELS) as usize == at_relay("127.0.0.2\n"),
        || relay.metric(TUNNELS).to_string(),
    );
    assert!(at_relay("127.0.0.2\n") > 0, "once in 64 times");
    relay.process.signal("-TERM");
    // All tunnels are at the server's own relay, and the demo's.
    until(
        || server.metric(TUNNELS) as usize == all + 1,
        || server.metric(TUNNELS).to_string(),
    );
    let moved = Instant::now();
    until(
        || at_relay("127.0.0.1\n") == all,
        || at_relay("127.0.0.1\n").to_string(),
    );
    let took = moved.elapsed();
    eprintln!("the names follow in {took:?}");
    assert!(took <= Duration::from_secs(1), "{took:?}");
}

#[test]
fn while_control_is_away_known_devices_are_served_even_by_a_relay_that_starts_meanwhile() {
    let (mut server, mut relay, _device) = world();
    leads_to(&server, &["127.0.0.1", "127.0.0.2"]);
    server.process.kill();
    for _ in 0..20 {
        let output = relay.get(&server, "mynas");
        assert!(
            is_served(&output),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    relay.kill_and_start();
    // Over whichever carrier it comes first, while everything is away.
    let tunnels = || relay.metric(TUNNELS) + relay.metric(&TUNNELS.replace("quic", "tls"));
    until(|| tunnels() == 1, || format!("{} tunnels", tunnels()));
    for _ in 0..20 {
        let output = relay.get(&server, "mynas");
        assert!(
            is_served(&output),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let server = server.restart();
    leads_to(&server, &["127.0.0.1", "127.0.0.2"]);
    server.get(&server.url("mynas", "/page"));
}

#[test]
fn a_device_that_is_removed_is_gone_at_every_relay() {
    let (server, relay, _device) = world();
    assert!(
        server
            .causeway(&["device", "remove", "mynas"])
            .status
            .success()
    );
    relay.until_metric(TUNNELS, 0);
    assert!(!is_served(&relay.get(&server, "mynas")));
    server.pair("second");
    let known = "causeway_follow_version";
    until(
        || relay.metric(known) > 1,
        || format!("version {}", relay.metric(known)),
    );
}

#[test]
fn a_relay_that_is_removed_ends_and_leaves_nothing_of_what_it_knew() {
    let (server, mut relay, _device) = world();
    leads_to(&server, &["127.0.0.1", "127.0.0.2"]);
    assert!(
        server
            .causeway(&["relay", "remove", "eu1"])
            .status
            .success()
    );
    leads_to(&server, &["127.0.0.1"]);
    let host = format!("eu1.relay.{}", server.ready.zone);
    assert_eq!(dig(&server, &host, "A"), "");
    assert_eq!(
        relay.process.ended().code(),
        Some(78),
        "{}",
        relay.process.said()
    );
    let state = std::fs::read_dir(relay.folder.join("state")).unwrap();
    let left: Vec<_> = state.map(|file| file.unwrap().file_name()).collect();
    assert!(
        left.iter()
            .all(|file| !file.to_string_lossy().contains("good")),
        "{left:?}"
    );
    server.get(&server.url("mynas", "/page"));
}
