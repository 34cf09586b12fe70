//! Names that lead to the device itself while it is found there, and else to its relay.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::nginx::Nginx;
use crate::process::{output_of, until};
use crate::reload::good;
use crate::world::{Device, Place, Server, causeway_agent};

/// Where the devices of a test are, as the server sees it.
const HOME: &str = "203.0.113.7";
/// A third party's.
const ELSEWHERE: &str = "203.0.113.50";

/// So soon a name leads elsewhere.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The server's own, and its relay's.
const SERVER: &str = "203.0.113.1";
const ZONE: &str = "nas.test";
const HOST: &str = "mynas.nas.test";

/// A server, and a network of devices at the other end of a wire.
struct World {
    server: Server,
    home: Place,
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        let (there, home) = (Place::namespace(), Place::namespace());
        home.wire("wan", &there, "lan");
        let ip = |place: &Place, words: &str| {
            let mut ip = place.command("ip");
            ip.args(words.split(' '));
            output_of(ip);
        };
        ip(&there, &format!("address add {SERVER}/24 dev lan"));
        ip(&there, "link set lan up");
        for address in [HOME, ELSEWHERE] {
            ip(&home, &format!("address add {address}/24 dev wan"));
        }
        ip(&home, "link set wan up");
        let (front, dns) = (format!("{SERVER}:443"), format!("{SERVER}:53"));
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("causeway.toml");
        let text = good()
            .replace("\n[ddns]\n", "\n[ddns]\nwhy = true\n")
            .replace("\nprivate_addresses = true", "");
        fs::write(&config, text).unwrap();
        let config = config.display().to_string();
        let options = [
            "--config", &config, "--zone", ZONE, "--front", &front, "--dns", &dns,
        ];
        let resolv_conf = folder.path().join("resolv.conf");
        fs::write(&resolv_conf, format!("nameserver {SERVER}\n")).unwrap();
        Self {
            server: Server::start_with(there, &options),
            home: home.furnished([(resolv_conf, "/etc/resolv.conf")]),
            folder,
        }
    }

    /// A device at home.
    fn pair(&self, name: &str) -> Device {
        let device = Device {
            state: self.folder.path().join(name),
            place: self.home.clone(),
        };
        let code = self.server.verb(&["device", "add", name], "code");
        output_of(device.pair_command(&self.server, &code));
        device
    }

    /// An update as a DDNS client at the server makes it.
    fn update(&self, key: &str, addresses: &str) {
        let mut curl = self.server.curl();
        curl.args(["--fail", "--user", &format!("mynas:{key}")]);
        curl.args(["--resolve", &format!("cloud.{ZONE}:443:{SERVER}")]);
        let url = format!("https://cloud.{ZONE}/nic/update?hostname={HOST}&myip={addresses}");
        let said = output_of({
            curl.arg(url);
            curl
        });
        assert!(said.starts_with("good"), "{said}");
    }
}

fn leads(server: &Server, kind: &str) -> String {
    let mut dig = server.place.command("dig");
    dig.args([
        &format!("@{SERVER}"),
        HOST,
        kind,
        "+short",
        "+norecurse",
        "+tries=1",
    ]);
    output_of(dig)
}

/// What the name itself says of why it leads where it does.
fn why(server: &Server) -> String {
    let mut dig = server.place.command("dig");
    let name = format!("_why.{HOST}");
    dig.args([
        &*format!("@{SERVER}"),
        &*name,
        "TXT",
        "+short",
        "+norecurse",
        "+tries=1",
    ]);
    output_of(dig)
}

fn leads_to_address(server: &Server, address: &str) {
    until(
        || leads(server, "A") == format!("{address}\n"),
        || leads(server, "A") + &server.metrics("causeway_control_steering"),
    );
}

/// Waits until devices were asked once more with this result.
fn until_checked(server: &Server, result: &str, before: u64) {
    until(
        || checks(server, result) > before,
        || server.metrics("causeway_control_steering"),
    );
}

/// How long it takes until the name leads there.
fn time_until(server: &Server, leads_to: &str) -> Duration {
    let begun = Instant::now();
    leads_to_address(server, leads_to);
    begun.elapsed()
}

/// What the device is told of where its name leads.
fn steered(device: &Device, mode: &str) -> Value {
    let mut steer = device.place.command(causeway_agent());
    steer
        .args(["steer", mode, "--json", "--state"])
        .arg(&device.state);
    serde_json::from_str(&output_of(steer)).unwrap()
}

fn checks(server: &Server, result: &str) -> u64 {
    server.metric(&format!(
        "causeway_control_steering_checks_total{{result=\"{result}\"}}"
    ))
}

#[test]
fn a_name_leads_to_the_device_itself_while_it_is_found_there() {
    let world = World::new();
    let server = &world.server;
    let device = world.pair("mynas");
    let nginx = Nginx::start(&world.home);
    fs::write(nginx.file("page"), "at home").unwrap();
    let mut agent = device.run_with(&nginx.origin(), &["--direct", &format!("{HOME}:443")]);
    // The address of its tunnel was never said to be its name's: it is found there, and so it is.
    leads_to_address(server, HOME);
    assert!(checks(server, "found") >= 1);
    let alpn = "alpn=\"h2,http/1.1\"";
    let https = leads(server, "HTTPS");
    assert!(
        https.contains(&format!("1 . {alpn} ipv4hint={HOME}\n")),
        "{https}"
    );
    assert!(
        https.contains(&format!("2 relay.nas.test. {alpn}\n")),
        "{https}"
    );
    assert_eq!(leads(server, "AAAA"), "");
    let told = why(server);
    assert_eq!(told, "\"direct: the device is found at its own address\"\n");
    // And a visitor comes to it without the relay.
    let mut curl = server.place.command("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "10",
        "--cacert",
    ]);
    curl.arg(&server.ready.ca);
    curl.args(["--resolve", &format!("{HOST}:443:{HOME}")]);
    curl.arg(format!("https://{HOST}/page"));
    assert_eq!(output_of(curl), "at home");

    // It ends, and says so. The name leads to the relay, which tells visitors that it is not there.
    agent.signal("-TERM");
    let took = time_until(server, SERVER);
    eprintln!("a device that ends is left in {took:?}");
    assert!(took <= AT_ONCE, "{took:?}");
    let told = why(server);
    assert!(
        told.starts_with("\"relay: the device is not found"),
        "{told}"
    );
    assert_eq!(leads(server, "HTTPS"), "");
    agent.ended();

    // It is back within the minute. There is no way back to it before that has passed; what the device is told says why.
    let agent = device.run_with(&nginx.origin(), &["--direct", &format!("{HOME}:443")]);
    let found = checks(server, "found");
    until_checked(server, "found", found);
    let told = steered(&device, "auto");
    assert_eq!(
        (&told["mode"], &told["leads"]),
        (&"auto".into(), &"relay".into()),
        "{told}"
    );
    assert!(
        told["why"].as_str().unwrap().contains("once a minute"),
        "{told}"
    );
    assert_eq!(leads(server, "A"), format!("{SERVER}\n"));
    drop(agent);
}

#[test]
fn a_failed_check_is_enough_to_leave_a_device() {
    let world = World::new();
    let server = &world.server;
    let device = world.pair("mynas");
    let _agent = device.run_with("http://127.0.0.1:1", &["--direct", &format!("{HOME}:443")]);
    leads_to_address(server, HOME);
    // The router's owner has closed the port. That comes to light with the next thing that happens, or within a minute.
    let closed = "table inet router { chain closed { type filter hook input priority 0; tcp dport 443 reject with tcp reset; }; }";
    let mut nft = world.home.command("nft");
    nft.arg(closed);
    output_of(nft);
    let key = server.verb(&["device", "key", "mynas"], "key");
    let refused = checks(server, "refused");
    world.update(&key, &format!("{HOME},2001:db8::7"));
    until_checked(server, "refused", refused);
    let took = time_until(server, SERVER);
    assert!(took <= AT_ONCE, "{took:?}");
    assert_eq!(leads(server, "AAAA"), "");
}

/// Whoever has no key of the device is not taken for it, and nobody else's door is knocked at.
#[test]
fn nobody_else_is_taken_for_the_device_or_asked() {
    let world = World::new();
    let server = &world.server;
    let (device, other) = (world.pair("mynas"), world.pair("other"));
    let port = 8443;
    // Another device listens where this one says that it does.
    let _other = other.run_with(
        "http://127.0.0.1:1",
        &["--direct", &format!("{HOME}:{port}")],
    );
    let direct = format!("{HOME}:443");
    let options = ["--direct", &direct, "--direct-port", &port.to_string()];
    let _agent = device.run_with("http://127.0.0.1:1", &options);
    until_checked(server, "unproved", 0);
    assert_eq!(leads(server, "A"), format!("{SERVER}\n"));
    assert_eq!(leads(server, "HTTPS"), "");
    let told = steered(&device, "auto");
    assert_eq!(told["leads"], "relay");
    assert!(
        told["why"].as_str().unwrap().contains("did not prove"),
        "{told}"
    );

    // An address from where nobody was heard is the name's, and is not asked: a port at which everything is refused would have said so.
    let before = checks(server, "refused");
    let key = server.verb(&["device", "key", "mynas"], "key");
    let unproved = checks(server, "unproved");
    world.update(&key, ELSEWHERE);
    until_checked(server, "unproved", unproved);
    assert_eq!(checks(server, "refused"), before);
    assert_eq!(leads(server, "A"), format!("{SERVER}\n"));
}

#[test]
fn an_owner_says_which_way_and_it_stays_so() {
    let mut world = World::new();
    let server = &world.server;
    let device = world.pair("mynas");
    let agent = device.run_with("http://127.0.0.1:1", &["--direct", &format!("{HOME}:8443")]);
    // A and AAAA know no ports.
    until(
        || leads(server, "HTTPS").contains(&format!("port=8443 ipv4hint={HOME}")),
        || leads(server, "HTTPS"),
    );
    assert_eq!(leads(server, "A"), format!("{SERVER}\n"));
    let told = steered(&device, "relay");
    assert_eq!(
        (&told["leads"], &told["port"]),
        (&"relay".into(), &8443.into()),
        "{told}"
    );
    assert_eq!(leads(server, "HTTPS"), "");
    let said = server.verb(&["device", "steer", "mynas", "direct"], "leads to");
    assert_eq!(said, "device");
    assert!(leads(server, "HTTPS").contains("port=8443"));
    drop(agent);
    assert!(
        leads(server, "HTTPS").contains("port=8443"),
        "whatever is known"
    );

    world.server.process.kill();
    let server = &world.server.restart_with(&["--zone", ZONE]);
    let _agent = device.run_with("http://127.0.0.1:1", &["--direct", &format!("{HOME}:8443")]);
    assert!(leads(server, "HTTPS").contains("port=8443"));
    let refused = server.causeway(&["device", "steer", "nobody", "auto"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        !refused.status.success() && said.contains("no device named nobody"),
        "{said}"
    );
    // Without a port the name leads where its addresses say.
    let told = steered(&device, "auto");
    assert_eq!(told["mode"], "auto");
}
