//! `causeway-agent doctor` in a home of its own, between which and the server something is amiss: it is named, nothing else is, and
//! what to do is said.
//!
//! ```text
//!   device 192.168.1.2 ── router 192.168.1.1 │ 203.0.113.7 ── server 203.0.113.1, 198.51.100.1
//! ```

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::nginx::Nginx;
use crate::process::{Process, output_of, run};
use crate::world::{Device, Place, Server, causeway_agent};

const ZONE: &str = "nas.test";
const NAME: &str = "mynas.nas.test";
const SERVER: &str = "198.51.100.1";

/// Each wire from the device to the server: the address at its near end, and at its far one. Who stands between two translates.
const ONE_ROUTER: &[[&str; 2]] = &[
    ["192.168.1.2", "192.168.1.1"],
    ["203.0.113.7", "203.0.113.1"],
];

/// The same where what comes after the first is private too.
const TWO_ROUTERS: &[[&str; 2]] = &[
    ["192.168.1.2", "192.168.1.1"],
    ["10.0.0.2", "10.0.0.1"],
    ["203.0.113.7", "203.0.113.1"],
];

/// What a processor that has everything says.
const CPUINFO: &str = "processor\t: 0\nflags\t\t: fpu sse2 aes avx\n";

/// A device at home, its agent attached, with the server's network before it.
struct Home {
    agent: Process,
    service: Nginx,
    device: Device,
    server: Server,
    /// The device's, then each router's, then the server's.
    places: Vec<Place>,
    folder: TempDir,
}

impl Home {
    fn new() -> Self {
        Self::behind(ONE_ROUTER)
    }

    fn behind(wires: &[[&str; 2]]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let places: Vec<_> = (0..=wires.len()).map(|_| Place::namespace()).collect();
        for ((here, there), [near, far]) in places.iter().zip(&places[1..]).zip(wires) {
            here.wire("wan", there, "lan");
            sh(
                here,
                &format!("ip address add {near}/24 dev wan && ip link set wan up"),
            );
            sh(
                there,
                &format!("ip address add {far}/24 dev lan && ip link set lan up"),
            );
            sh(here, &format!("ip route add default via {far}"));
        }
        for router in &places[1..wires.len()] {
            sh(router, "echo 1 > /proc/sys/net/ipv4/ip_forward");
            let translates = "chain translates { type nat hook postrouting priority 100; oifname \"wan\" masquerade; };";
            nft(router, translates);
        }
        let there = places.last().unwrap();
        sh(there, &format!("ip address add {SERVER}/32 dev lo"));
        let (front, dns) = (format!("{SERVER}:443"), format!("{SERVER}:53"));
        let options = ["--zone", ZONE, "--front", &front, "--dns", &dns];
        let server = Server::start_with(there.clone(), &options);
        let code = server.verb(&["device", "add", "mynas"], "code");
        fs::write(folder.path().join("cpuinfo"), CPUINFO).unwrap();
        fs::write(
            folder.path().join("resolv.conf"),
            format!("nameserver {SERVER}\n"),
        )
        .unwrap();
        let own = |file: &str| folder.path().join(file);
        let at_home = places[0].furnished([
            (own("cpuinfo"), "/proc/cpuinfo"),
            (own("resolv.conf"), "/etc/resolv.conf"),
        ]);
        let device = Device {
            state: folder.path().join("mynas"),
            place: at_home.clone(),
        };
        output_of(device.pair_command(&server, &code));
        let service = Nginx::start(&at_home);
        let agent = device.run(&service.origin());
        Self {
            agent,
            service,
            device,
            server,
            places,
            folder,
        }
    }

    fn router(&self) -> &Place {
        &self.places[1]
    }

    /// What the doctor finds, run behind such words of another program.
    fn found_by(&self, words: &[&str]) -> Found {
        let place = &self.device.place;
        let mut doctor = match words.split_first() {
            None => place.command(causeway_agent()),
            Some((program, words)) => {
                let mut command = place.command(program);
                command.args(words).arg(causeway_agent());
                command
            }
        };
        doctor
            .args(["doctor", "--json", "--state"])
            .arg(&self.device.state);
        Found::of(&run(doctor))
    }

    fn found(&self) -> Found {
        self.found_by(&[])
    }

    /// The same with another file in the place of one of the system's.
    fn found_with(&self, content: &str, system: &'static str) -> Found {
        let file = self.folder.path().join("other");
        fs::write(&file, content).unwrap();
        let Place::Furnished(_, files) = &self.device.place else {
            panic!("a home has files of its own")
        };
        let others = files.iter().filter(|(_, replaced)| *replaced != system);
        let files: Vec<(PathBuf, &str)> = others.cloned().chain([(file, system)]).collect();
        let mut doctor = self.device.place.furnished(files).command(causeway_agent());
        doctor
            .args(["doctor", "--json", "--state"])
            .arg(&self.device.state);
        Found::of(&run(doctor))
    }
}

/// Runs a line of shell there.
fn sh(place: &Place, line: &str) {
    let mut sh: Command = place.command("sh");
    sh.args(["-c", line]);
    output_of(sh);
}

/// Adds a table of rules there.
fn nft(place: &Place, rules: &str) {
    let mut nft = place.command("nft");
    nft.arg(format!("table inet doctor {{ {rules} }}"));
    output_of(nft);
}

/// What the doctor has found.
struct Found {
    findings: Vec<Value>,
    succeeded: bool,
}

impl Found {
    fn of(output: &Output) -> Self {
        let findings = serde_json::from_slice(&output.stdout);
        let said = String::from_utf8_lossy(&output.stderr);
        Self {
            findings: findings.unwrap_or_else(|error| panic!("{error}: {said}")),
            succeeded: output.status.success(),
        }
    }

    /// What is not well, but for what the kernel of the machine that tests has or has not.
    fn amiss(&self) -> Vec<&Value> {
        let amiss = self.findings.iter().filter(|finding| {
            finding["health"] != "well" && finding["subject"] != "congestion control"
        });
        amiss.collect()
    }

    /// It is this and nothing else, at this hop, and both what was seen and what to do is said.
    fn is(&self, hop: &str, subject: &str, health: &str, words: &str, mend: &str) {
        let amiss = self.amiss();
        assert_eq!(amiss.len(), 1, "{amiss:#?}");
        self.has(hop, subject, health, words, mend);
        assert_eq!(self.succeeded, health != "ill");
    }

    /// It is among what is amiss.
    fn has(&self, hop: &str, subject: &str, health: &str, words: &str, mend: &str) {
        let text =
            |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        let found = self.amiss().into_iter().any(|finding| {
            finding["hop"] == hop
                && text(finding, "subject").contains(subject)
                && finding["health"] == health
                && text(finding, "words").contains(words)
                && text(finding, "mend").contains(mend)
        });
        assert!(
            found,
            "no {hop} {subject} {health} {words} {mend}: {:#?}",
            self.amiss()
        );
    }
}

#[test]
fn a_home_that_is_well_is_called_well_hop_by_hop() {
    let home = Home::new();
    let found = home.found();
    assert!(found.amiss().is_empty(), "{:#?}", found.amiss());
    assert!(found.succeeded);
    let mut hops: Vec<_> = found
        .findings
        .iter()
        .map(|finding| finding["hop"].as_str().unwrap())
        .collect();
    hops.dedup();
    assert_eq!(
        hops,
        ["device", "network", "way", "relay", "name", "service"]
    );
    // For a person, with a line at the end that says where to begin.
    let mut doctor = home.device.place.command(causeway_agent());
    doctor.args(["doctor", "--state"]).arg(&home.device.state);
    let text = output_of(doctor);
    assert!(text.contains("ok    service 127.0.0.1:8000"), "{text}");
    let last = text.lines().last().unwrap();
    assert!(
        last == "all that could be looked at is well" || last.contains("congestion control"),
        "{text}"
    );
}

#[test]
fn udp_that_is_blocked_is_named() {
    let home = Home::new();
    let drops = "chain drops { type filter hook forward priority 0; udp dport 443 drop; };";
    nft(home.router(), drops);
    let found = home.found();
    found.is(
        "way",
        "over UDP",
        "slow",
        "no answer within 4 s",
        "let UDP to port 443 out",
    );
}

#[test]
fn tcp_that_is_blocked_is_named() {
    let home = Home::new();
    let drops = "chain drops { type filter hook forward priority 0; tcp dport 443 drop; };";
    nft(home.router(), drops);
    let found = home.found();
    found.has(
        "way",
        "over TCP",
        "slow",
        "no answer within 4 s",
        "let TCP to port 443 out",
    );
    found.has(
        "relay",
        "cloud",
        "slow",
        "certificates are not renewed",
        "TCP",
    );
    assert!(found.succeeded, "visitors come over QUIC");
}

#[test]
fn socket_buffers_that_a_kernel_clamps_are_named() {
    // As a limit does: the call succeeds, and the socket has what it had.
    let home = Home::new();
    let strace = [
        "strace",
        "-D",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "--seccomp-bpf",
        "-e",
        "trace=setsockopt",
        "-e",
        "inject=setsockopt:retval=0",
    ];
    let found = home.found_by(&strace);
    found.is(
        "device",
        "UDP buffers",
        "slow",
        "of 2048 KiB that are asked for",
        "net.core.rmem_max=2097152",
    );
}

#[test]
fn batches_that_are_damaged_within_the_device_are_named() {
    let home = Home::new();
    // What a faulty offload does: some octets of what was sent together come out as others.
    let damages = "chain damages { type filter hook output priority 0; oifname \"lo\" meta l4proto udp meta length > 2000 @th,64,32 set 0xbadbad; };";
    nft(&home.places[0], damages);
    let found = home.found();
    found.is(
        "device",
        "packets in batches",
        "slow",
        "UDP GSO",
        "another kernel",
    );
}

#[test]
fn batches_that_are_lost_on_the_way_are_named() {
    let home = Home::new();
    let drops = "chain drops { type filter hook output priority 0; oifname \"wan\" meta l4proto udp meta length > 2000 drop; };";
    nft(&home.places[0], drops);
    let found = home.found();
    let words =
        "of 8 packets sent together (UDP GSO) 0 are answered, of as many sent by themselves 8";
    found.is(
        "way",
        "batches to relay.nas.test:443",
        "slow",
        words,
        "--gso off",
    );
}

/// The wire between router and server takes no longer packets.
fn narrow(home: &Home, mtu: u16) {
    sh(home.router(), &format!("ip link set wan mtu {mtu}"));
    let server = home.places.last().unwrap();
    sh(server, &format!("ip link set lan mtu {mtu}"));
}

/// The same, and nobody hears of it.
fn black_hole(home: &Home, mtu: u16) {
    let silent = "chain silent { type filter hook output priority 0; icmp type destination-unreachable drop; };";
    nft(home.router(), silent);
    narrow(home, mtu);
}

#[test]
fn a_narrow_way_of_which_the_router_tells_is_no_black_hole() {
    let home = Home::new();
    narrow(&home, 1300);
    let found = home.found();
    let words = "packets of more than 1300 octets do not pass";
    found.is(
        "way",
        "packet size to relay.nas.test:443",
        "slow",
        words,
        "which tunnel or VPN on the way",
    );
    let told = found.amiss()[0]["words"].as_str().unwrap().to_owned();
    assert_eq!(told, words);
}

#[test]
fn a_black_hole_for_long_packets_is_named() {
    let home = Home::new();
    black_hole(&home, 1300);
    let found = home.found();
    let words = "packets of more than 1300 octets do not pass, and nobody on the way says so (a black hole): over TCP large transfers hang";
    found.is(
        "way",
        "packet size to relay.nas.test:443",
        "slow",
        words,
        "let ICMP \"fragmentation needed\" through",
    );
}

#[test]
fn a_way_that_is_too_narrow_for_http3_is_named() {
    let home = Home::new();
    black_hole(&home, 1260);
    let found = home.found();
    let words = "it is too little for HTTP/3";
    found.is(
        "way",
        "packet size to",
        "slow",
        words,
        "ip link set dev INTERFACE mtu 1260",
    );
}

#[test]
fn a_processor_without_aes_is_named() {
    let home = Home::new();
    let found = home.found_with(&CPUINFO.replace(" aes", ""), "/proc/cpuinfo");
    found.is(
        "device",
        "processor",
        "slow",
        "no instructions for AES",
        "CPU type `host`",
    );
}

#[test]
fn two_routers_that_translate_are_named() {
    let home = Home::behind(TWO_ROUTERS);
    let found = home.found();
    let words =
        "behind the router (192.168.1.1) there is another with a private address (10.0.0.1)";
    found.is(
        "network",
        "address translation",
        "slow",
        words,
        "bridge or modem mode",
    );
    found.has(
        "network",
        "",
        "slow",
        "visitors come through the relay all the same",
        "if the relay is enough",
    );
}

#[test]
fn a_router_that_says_it_has_a_private_address_outside_is_believed() {
    // NAT-PMP, as RFC 6886 section 3.2 has it: the answer to two octets of zeros.
    const ROUTER: &str = "
import socket
door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
door.bind(('192.168.1.1', 5351))
print('ready', flush=True)
while True:
    question, device = door.recvfrom(64)
    if question == bytes(2):
        door.sendto(bytes([0, 128, 0, 0, 0, 0, 0, 9, 10, 0, 0, 2]), device)
";
    let home = Home::new();
    let mut python = home.router().command("python3");
    python.args(["-c", ROUTER]);
    let router = Process::start(python);
    router.until_said("ready");
    let found = home.found();
    let words =
        "the router has a private address outside too (10.0.0.2), so another stands behind it";
    found.is(
        "network",
        "address translation",
        "slow",
        words,
        "bridge or modem mode",
    );
}

#[test]
fn without_root_as_much_is_found() {
    const NOBODY: &str = "65534";
    let home = Home::behind(TWO_ROUTERS);
    let state = home.device.state.display();
    sh(
        &home.places[0],
        &format!(
            "chown -R {NOBODY} {state} && chmod 755 {}",
            home.folder.path().display()
        ),
    );
    let found = home.found_by(&[
        "setpriv",
        "--reuid",
        NOBODY,
        "--regid",
        NOBODY,
        "--clear-groups",
    ]);
    found.has("network", "address translation", "slow", "double NAT", "");
    // What a kernel allows such a user is its own affair.
    let amiss = found.amiss().into_iter();
    let subjects: Vec<_> = amiss.map(|finding| &finding["subject"]).collect();
    let others = |subject: &&&Value| {
        !["address translation", "UDP buffers"].contains(&subject.as_str().unwrap())
    };
    assert_eq!(subjects.iter().find(others), None);
}

#[test]
fn a_network_that_answers_in_the_relays_place_is_named() {
    let home = Home::new();
    // As one does whose page has to be clicked through first.
    let portal = Nginx::over_tls(home.router());
    let router = home.router();
    sh(
        router,
        "echo 1 > /proc/sys/net/ipv4/conf/lan/route_localnet",
    );
    let there = format!("127.0.0.1:{}", portal.port);
    let diverts = format!(
        "chain diverts {{ type nat hook prerouting priority -100; iifname \"lan\" tcp dport 443 dnat ip to {there}; }};"
    );
    let mut nft = router.command("nft");
    nft.arg(format!("table inet portal {{ {diverts} }}"));
    output_of(nft);
    let found = home.found();
    let mend = "a network whose page has to be clicked through first";
    found.has("way", "over TCP", "slow", "stay on QUIC meanwhile", mend);
    found.has("relay", "cloud", "slow", "certificate", mend);
}

#[test]
fn a_provider_that_translates_for_many_homes_is_named() {
    let home = Home::behind(&[
        ["192.168.1.2", "192.168.1.1"],
        ["100.64.0.2", "100.64.0.1"],
        ["203.0.113.7", "203.0.113.1"],
    ]);
    let found = home.found();
    let words =
        "the provider translates addresses for many homes at once (100.64.0.1 is one of its own)";
    found.is(
        "network",
        "address translation",
        "slow",
        words,
        "ask the provider for a public address",
    );
}

#[test]
fn a_service_that_is_not_there_and_one_that_hangs_are_named() {
    let mut home = Home::new();
    home.service.process.signal("-STOP");
    let found = home.found();
    let words = "does not begin to answer within 8 s";
    found.is(
        "service",
        "service 127.0.0.1:8000",
        "ill",
        words,
        "see what the service waits for",
    );
    home.service.process.kill();
    let found = home.found();
    found.is(
        "service",
        "service 127.0.0.1:8000",
        "ill",
        "nobody listens there",
        "start the service",
    );
}

#[test]
fn a_service_that_is_slow_is_named() {
    const SERVICE: &str = "
import http.server, time
class Slow(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(3)
        self.send_response(204)
        self.end_headers()
server = http.server.ThreadingHTTPServer(('127.0.0.1', 8000), Slow)
print('ready', flush=True)
server.serve_forever()
";
    let mut home = Home::new();
    home.service.process.kill();
    let mut python = home.device.place.command("python3");
    python.args(["-c", SERVICE]);
    let service = Process::start(python);
    service.until_said("ready");
    let found = home.found();
    found.is(
        "service",
        "service 127.0.0.1:8000",
        "slow",
        "s to begin an answer, on this device itself",
        "see what keeps the service or its disks busy",
    );
}

#[test]
fn a_public_port_that_the_relay_does_not_offer_is_named() {
    let mut home = Home::new();
    home.agent.kill();
    let origin = home.service.origin();
    let port = "public = \"20080/tcp\"";
    home.agent = home.device.serve(&format!(
        "[services.\"@\"]\norigin = \"{origin}\"\nvisitor_address = \"hidden\"\n{port}\n"
    ));
    home.agent.until_said("this relay offers no public ports");
    home.found().is(
        "relay",
        "service @, port 20080/tcp",
        "ill",
        "it is not open at relay.nas.test:443: this relay offers no public ports",
        "ask your operator",
    );
}

#[test]
fn a_zone_that_leads_the_name_astray_is_named() {
    let home = Home::new();
    let key = home.server.verb(&["device", "key", "mynas"], "key");
    let mut curl = home.server.curl();
    curl.args(["--resolve", &format!("cloud.{ZONE}:443:{SERVER}")]);
    curl.args(["--user", &format!("mynas:{key}")]);
    curl.arg(home.server.url(
        "cloud",
        &format!("/nic/update?hostname={NAME}&myip=203.0.113.99"),
    ));
    let said = output_of(curl);
    assert!(said.contains("good"), "{said}");
    let found = home.found();
    let words = "the zone leads it to 203.0.113.99, which is neither the relay nor this device";
    found.is(
        "name",
        NAME,
        "ill",
        words,
        "an update client of this device says so",
    );
}

#[test]
fn a_name_server_that_leads_the_name_astray_is_named() {
    let home = Home::new();
    let found = home.found_with(
        &format!("127.0.0.1 localhost\n203.0.113.99 {NAME}\n"),
        "/etc/hosts",
    );
    let words = "this network's name server says 203.0.113.99, which is neither the relay nor this device; the zone says 198.51.100.1";
    found.is(
        "name",
        NAME,
        "slow",
        words,
        "empty that name server's cache",
    );
}

/// Unbound in the router, which holds back answers with private addresses, but of a name that is exempt.
fn filtering(home: &Home, exempt: &str) -> Process {
    let config = format!(
        "server:\n use-syslog: no\n logfile: \"\"\n verbosity: 1\n chroot: \"\"\n username: \"\"\n pidfile: \"\"\n \
         interface: 192.168.1.1\n access-control: 192.168.1.0/24 allow\n module-config: \"iterator\"\n local-zone: \"test.\" nodefault\n do-not-query-localhost: no\n \
         private-address: 192.168.0.0/16\n {exempt}\n\
         stub-zone:\n name: {ZONE}\n stub-addr: {SERVER}\nremote-control:\n control-enable: no\n"
    );
    let file = home.folder.path().join("unbound.conf");
    fs::write(&file, config).unwrap();
    let mut unbound = home.router().command("unbound");
    unbound.args(["-d", "-d", "-c"]).arg(file);
    let process = Process::start(unbound);
    process.until_said("start of service");
    process
}

#[test]
fn a_router_that_holds_back_what_leads_home_is_named_and_an_exemption_mends_it() {
    let lan = &format!("lan.{NAME}");
    let mut home = Home::new();
    let device = "192.168.1.2";
    home.agent.kill();
    let options = ["--lan", "report"];
    home.agent = home.device.run_with(&home.service.origin(), &options);
    home.agent
        .until_said("lan. in front of the name is where this device is at home");
    home.agent.until_said("attached");
    let router = "nameserver 192.168.1.1\n";
    let mut unbound = filtering(&home, "");
    let found = home.found_with(router, "/etc/resolv.conf");
    found.is(
        "name",
        lan,
        "slow",
        "the zone says 192.168.1.2, and this network's name server holds that back",
        &format!("exempt {lan} from the router's rebind protection"),
    );
    unbound.kill();
    let mut unbound = filtering(&home, &format!("private-domain: \"{lan}\""));
    let found = home.found_with(router, "/etc/resolv.conf");
    assert!(found.amiss().is_empty(), "{:#?}", found.amiss());
    let well = |finding: &&Value| finding["subject"] == **lan && finding["health"] == "well";
    let well = found.findings.iter().find(well).unwrap();
    assert_eq!(well["words"], format!("leads to {device}, at home"));
    unbound.kill();
}

#[test]
fn a_clock_that_is_wrong_is_named() {
    let home = Home::new();
    let found = home.found_by(&["faketime", "-f", "+2h"]);
    found.is(
        "device",
        "clock",
        "ill",
        "ahead of the cloud's",
        "timedatectl set-ntp true",
    );
    // So wrong that no certificate is good any more: it is the clock all the same.
    let found = home.found_by(&["faketime", "-f", "-4000d"]);
    found.has(
        "device",
        "clock",
        "ill",
        "behind the cloud's",
        "timedatectl set-ntp true",
    );
    found.has(
        "way",
        "over TCP",
        "ill",
        "certificate",
        "set this device's clock",
    );
    assert!(!found.succeeded);
}

#[test]
fn a_name_server_that_says_nothing_holds_nobody_up() {
    /// The doctor's own limit, and as much again for a slow machine. The C library would wait for more than a minute.
    const LIMIT: Duration = Duration::from_secs(30);
    let home = Home::new();
    let drops = "chain drops { type filter hook forward priority 0; udp dport 53 drop; };";
    nft(home.router(), drops);
    let silent =
        ["192.0.2.53", "192.0.2.54", "192.0.2.55"].map(|server| format!("nameserver {server}\n"));
    let begun = Instant::now();
    let found = home.found_with(&silent.concat(), "/etc/resolv.conf");
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    found.has(
        "network",
        "relay.nas.test:443",
        "ill",
        "no address found",
        "/etc/resolv.conf",
    );
    assert!(!found.succeeded);
}

#[test]
fn without_an_agent_it_says_what_it_cannot_look_at() {
    let mut home = Home::new();
    home.agent.kill();
    let found = home.found();
    let amiss = found.amiss();
    assert_eq!(amiss.len(), 2, "{amiss:#?}");
    found.has("device", "agent", "unknown", "no agent runs", "start it");
    found.has(
        "service",
        "service",
        "unknown",
        "only a running agent knows",
        "start the agent",
    );
    assert!(found.succeeded);
}
