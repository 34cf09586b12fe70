//! As a service: what its manager hears of the programs, and how others ask whether the server works.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::process::{Process, SOON, run};
use crate::world::{Place, Server, causeway, causeway_agent};

/// A manager's socket in `folder`, and what it hears there.
struct Manager(UnixDatagram);

impl Manager {
    /// Starts `command` as a manager does that wants a sign of life each second.
    fn start(mut command: Command, folder: &Path) -> (Self, Process) {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        command
            .env("NOTIFY_SOCKET", path)
            .env("WATCHDOG_USEC", "1000000");
        (Self(socket), Process::start(command))
    }

    fn hears(&self) -> String {
        let mut notice = [0; 64];
        let length = self.0.recv(&mut notice).unwrap();
        String::from_utf8(notice[..length].to_vec()).unwrap()
    }

    /// Passes over signs of life.
    fn hears_at_last(&self, notice: &str) {
        while self.hears() != notice {}
    }
}

fn health(admin: &str) -> (Option<i32>, String) {
    let mut command = Command::new(causeway());
    command.args(["health", "--admin", admin]);
    let output = run(command);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn a_manager_hears_that_the_server_answers_that_it_lives_reloads_and_stops() {
    let folder = tempfile::tempdir().unwrap();
    let ready_file = folder.path().join("ready.json");
    let mut command = Command::new(causeway());
    command.args(["up", "--demo", "--state"]);
    command.arg(folder.path().join("state"));
    command.arg("--ready-file").arg(&ready_file);
    for option in ["--front", "--http", "--dns", "--dot", "--admin"] {
        command.args([option, "127.0.0.1:0"]);
    }
    let (manager, mut server) = Manager::start(command, folder.path());
    assert_eq!(manager.hears(), "READY=1");
    let ready: serde_json::Value =
        serde_json::from_slice(&std::fs::read(ready_file).unwrap()).unwrap();
    let (code, said) = health(ready["admin"].as_str().unwrap());
    assert_eq!((code, said.as_str()), (Some(0), "ready\n"));
    assert_eq!(manager.hears(), "WATCHDOG=1");
    assert_eq!(manager.hears(), "WATCHDOG=1");
    server.signal("-HUP");
    while !manager.hears().starts_with("RELOADING=1\nMONOTONIC_USEC=") {}
    manager.hears_at_last("READY=1");
    server.signal("-TERM");
    manager.hears_at_last("STOPPING=1");
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn a_manager_hears_of_a_paired_agent_that_reloads_though_its_relay_is_away_and_nothing_of_an_unpaired_one()
 {
    let server = Server::start();
    let device = server.pair("mynas");
    let _kept = Arc::clone(&server.folder); // the device's state is in it
    drop(server);
    let run_agent = |state: &Path, options: &[&str]| {
        let mut command = Place::Host.command(causeway_agent());
        command.arg("run").args(options).arg("--state").arg(state);
        command
    };
    let origin = ["--origin", "http://127.0.0.1:80"];
    let folder = tempfile::tempdir().unwrap();
    let unpaired = folder.path().join("unpaired");
    let (manager, mut agent) = Manager::start(run_agent(&unpaired, &origin), folder.path());
    assert_ne!(agent.ended().code(), Some(0));
    manager.0.set_nonblocking(true).unwrap();
    assert!(manager.0.recv(&mut [0; 64]).is_err());

    let folder = tempfile::tempdir().unwrap();
    let described = "[services.\"*\"]\norigin = \"http://127.0.0.1:80\"\n";
    std::fs::write(device.state.join("agent.toml"), described).unwrap();
    let (manager, mut agent) = Manager::start(run_agent(&device.state, &[]), folder.path());
    assert_eq!(manager.hears(), "READY=1");
    assert_eq!(manager.hears(), "WATCHDOG=1");
    agent.signal("-HUP");
    while !manager.hears().starts_with("RELOADING=1\nMONOTONIC_USEC=") {}
    manager.hears_at_last("READY=1");
    agent.signal("-TERM");
    manager.hears_at_last("STOPPING=1");
    assert_eq!(agent.ended().code(), Some(0));
}

#[test]
fn health_says_why_a_server_is_not_well() {
    let server = Server::start();
    let admin = server.ready.admin.to_string();
    let mut curl = server.curl();
    let download = server.url("demo", "/files/100-mebibytes.bin");
    curl.args(["--limit-rate", "1k", "--output", "/dev/null", &download]);
    let _visitor = Process::start(curl);
    while server.metric("causeway_relay_carriers_opened_total{kind=\"quic\"}") < 2 {}
    server.process.signal("-TERM");
    server.process.until_said("stopping");
    let (code, said) = loop {
        let (code, said) = health(&admin);
        if code != Some(0) {
            break (code, said);
        }
    };
    assert_eq!(code, Some(1));
    assert!(said.contains("draining"), "{said}");
    drop(server);
    let (code, said) = health(&admin);
    assert_eq!(code, Some(1));
    assert!(said.contains("no server answers at"), "{said}");
}
