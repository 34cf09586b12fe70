//! A server starts its successor, which takes over its sockets: nobody who comes is refused, and who is there may finish.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::nginx::Nginx;
use crate::process::{Process, SOON, output_of, run_for, until};
use crate::public_ports::{OFFERED, free_of_those_offered};
use crate::reload::{Operator, good};
use crate::several_relays::{self, Relay};
use crate::transfer::{MIB, sha256, write_random};
use crate::world::{Place, Server, causeway};

/// The server's processes, one after the other, of which the first is the test's child. All end with this.
struct Line<T> {
    server: T,
    process: fn(&T) -> &Process,
    /// Of the newest.
    id: u32,
    ids: Vec<u32>,
}

impl<T> Line<T> {
    fn of(server: T, process: fn(&T) -> &Process) -> Self {
        let id = process(&server).id();
        Self {
            server,
            process,
            id,
            ids: Vec::new(),
        }
    }

    fn said(&self) -> String {
        (self.process)(&self.server).said()
    }

    fn count(&self, said: &str) -> usize {
        let all = self.said();
        all.lines().filter(|line| line.contains(said)).count()
    }

    fn until_said_again(&self, said: &str, times: usize) {
        until(
            || self.count(said) >= times,
            || format!("no {said:?} for the {times}th time:\n{}", self.said()),
        );
    }

    /// Asks the newest for its successor, and gives the id of that.
    fn ask(&mut self) -> u32 {
        let before = self.starting().len();
        signal(self.id, "-USR2");
        until(
            || self.starting().len() > before,
            || format!("no successor:\n{}", self.said()),
        );
        let id = self.starting()[before];
        self.ids.push(id);
        id
    }

    fn starting(&self) -> Vec<u32> {
        let said = self.said();
        let starting = said.lines().filter_map(|line| {
            let (_, id) = line.split_once("a successor is starting process=")?;
            id.trim().parse().ok()
        });
        starting.collect()
    }

    /// The newest has one now that serves.
    fn succeed(&mut self) {
        let before = self.count(TAKEN_OVER);
        let id = self.ask();
        self.until_said_again(TAKEN_OVER, before + 1);
        self.id = id;
    }
}

impl<T> Drop for Line<T> {
    fn drop(&mut self) {
        for id in &self.ids {
            let name = fs::read_to_string(format!("/proc/{id}/comm"));
            if name.is_ok_and(|name| name.trim() == "causeway") {
                let _ = Command::new("kill")
                    .args(["-KILL", &id.to_string()])
                    .status();
            }
        }
    }
}

const TAKEN_OVER: &str = "another process has taken over";

fn signal(id: u32, signal: &str) {
    let sent = Command::new("kill")
        .args([signal, &id.to_string()])
        .status();
    assert!(sent.unwrap().success());
}

fn is_running(id: u32) -> bool {
    // One whose parent has not asked how it ended is none any more.
    let status = fs::read_to_string(format!("/proc/{id}/stat"));
    status.is_ok_and(|status| !status.contains(") Z "))
}

/// Whether all threads of a stopped process have heard that it is.
fn stands_still(id: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{id}/task")).unwrap();
    threads.into_iter().all(|thread| {
        let status = fs::read_to_string(thread.unwrap().path().join("stat"));
        status.is_ok_and(|status| status.contains(") T "))
    })
}

/// How often a server is succeeded: `CAUSEWAY_SUCCESSIONS` says it.
fn successions() -> usize {
    let said = std::env::var("CAUSEWAY_SUCCESSIONS");
    said.ok().and_then(|said| said.parse().ok()).unwrap_or(3)
}

/// Programs see the names of `server` at this host.
fn with_names(server: &Server, folder: &Path, names: &[&str]) -> Command {
    let hosts = folder.join("hosts");
    let zone = &server.ready.zone;
    let lines = names
        .iter()
        .map(|name| format!("127.0.0.1 {name}.{zone}\n"));
    fs::write(&hosts, lines.collect::<String>()).unwrap();
    let mut command = Command::new("unshare");
    let bound = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    command.args(["--mount", "sh", "-c", bound]).arg(hosts);
    command
}

/// What wrk says of its requests: how many there were, and nothing that failed.
fn assert_all_served(wrk: &Output) {
    let said = String::from_utf8_lossy(&wrk.stdout);
    assert!(wrk.status.success(), "{said}");
    assert!(!said.contains("Socket errors"), "{said}");
    assert!(!said.contains("Non-2xx"), "{said}");
    eprintln!("{said}");
}

/// A page that is asked for again and again, each time on a connection of its own.
struct Comers {
    ca: PathBuf,
    url: String,
    over: AtomicBool,
    served: AtomicUsize,
}

impl Comers {
    fn of(server: &Server, url: String) -> Self {
        Self {
            ca: server.ready.ca.clone(),
            url,
            over: AtomicBool::new(false),
            served: AtomicUsize::new(0),
        }
    }

    fn come(&self) {
        while !self.over.load(Ordering::Relaxed) {
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--show-error", "--fail", "--max-time", "20"]);
            curl.args(["--output", "/dev/null", "--cacert"])
                .arg(&self.ca);
            curl.arg(&self.url);
            output_of(curl);
            self.served.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn of_server(server: &Server) -> &Process {
    &server.process
}

/// A server without the demo, from a file, which gives visitors time; and one device with a service.
fn world(leave: &str, drain: &str) -> (Line<Server>, Nginx, Process) {
    let demo = good();
    let text = demo.lines().map(|line| match line.split_once(" = ") {
        Some(("# leave", _)) => format!("leave = \"{leave}\"\n"),
        Some(("drain", _)) => format!("drain = \"{drain}\"\n"),
        _ => format!("{line}\n"),
    });
    let operator = Operator::start(&text.collect::<String>());
    let line = Line::of(operator.server, of_server);
    let service = Nginx::start(&Place::Host);
    fs::write(service.file("page"), "a page\n").unwrap();
    let agent = line.server.pair("mynas").run(&service.origin());
    (line, service, agent)
}

#[test]
fn nobody_is_refused_while_one_process_follows_another_and_downloads_are_whole() {
    let rounds = successions();
    let (mut line, service, _agent) = world("5s", "60s");
    let folder = tempfile::tempdir().unwrap();
    write_random(&service.file("film"), 24 * MIB);
    let expected = sha256(&service.file("film"));
    let film = line.server.url("mynas", "/film");
    let of_device = Comers::of(&line.server, line.server.url("mynas", "/page"));
    let of_cloud = Comers::of(&line.server, line.server.url("cloud", "/offline"));
    let mut wrk = with_names(&line.server, folder.path(), &["mynas"]);
    wrk.args([
        "wrk",
        "--threads",
        "1",
        "--connections",
        "8",
        "--timeout",
        "10",
    ]);
    wrk.args(["--duration", &(6 * rounds + 4).to_string(), &of_device.url]);
    thread::scope(|scope| {
        let wrk = scope.spawn(|| run_for(wrk, SOON * 10));
        let comers = [&of_device, &of_cloud].map(|comers| scope.spawn(|| comers.come()));
        let mut downloads = Vec::new();
        for round in 0..rounds {
            let file = folder.path().join(format!("film-{round}"));
            let mut curl = line.server.curl();
            curl.args([
                "--fail",
                "--max-time",
                "120",
                "--limit-rate",
                "4M",
                "--output",
            ]);
            curl.arg(&file).arg(&film);
            let to = file.clone();
            downloads.push(scope.spawn(move || {
                output_of(curl);
                sha256(&to)
            }));
            until(
                || fs::metadata(&file).is_ok_and(|file| file.len() > 0),
                || "the download does not begin".to_owned(),
            );
            let before = line.id;
            line.succeed();
            assert!(round > 0 || is_running(before), "its download goes on");
        }
        for download in downloads {
            assert_eq!(download.join().unwrap(), expected);
        }
        assert_all_served(&wrk.join().unwrap());
        of_device.end();
        of_cloud.end();
        for comers in comers {
            comers.join().unwrap();
        }
    });
    eprintln!(
        "{rounds} successions, {} visits of the device, {} of the cloud",
        of_device.served.into_inner(),
        of_cloud.served.into_inner()
    );
    // Once nobody is left there, each but the last ends by itself, and well.
    let newest = line.id;
    let mut older = vec![line.server.process.id()];
    older.extend(line.ids.iter().copied().filter(|id| *id != newest));
    until(
        || older.iter().all(|id| !is_running(*id)),
        || format!("they do not end:\n{}", line.said()),
    );
    assert_eq!(line.server.process.ended().code(), Some(0));
    assert!(is_running(newest));
}

#[test]
fn a_successor_that_cannot_start_leaves_the_server_as_it_was() {
    let (mut line, _service, _agent) = world("1s", "10s");
    let config = line.server.folder.path().join("causeway.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, "zone = 7\n").unwrap();
    line.ask();
    line.until_said_again("this process goes on", 1);
    line.server.get(&line.server.url("mynas", "/page"));
    line.server.verb(&["device", "add", "second"], "code");

    let moved = [
        ("front = \"127.0.0.1:0\"", "front is at"),
        ("listen = \"127.0.0.1:0\"", "admin is at"),
    ];
    for (line_of_it, sentence) in moved {
        let other = line_of_it.replace("127.0.0.1", "127.0.0.9");
        let elsewhere = text.replace(line_of_it, &other);
        assert_ne!(elsewhere, text);
        fs::write(&config, elsewhere).unwrap();
        let times = line.count("this process goes on");
        line.ask();
        line.until_said_again("this process goes on", times + 1);
        line.until_said_again(sentence, 1);
        let name = format!("second-{times}");
        line.server.verb(&["device", "add", &name], "code");
    }

    fs::write(&config, text).unwrap();
    line.succeed();
    assert!(is_running(line.id));
    line.server.verb(&["device", "add", "third"], "code");
    line.server.get(&line.server.url("mynas", "/page"));
}

#[test]
fn the_service_manager_hears_who_the_server_is_now() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(SOON)).unwrap();
    let mut command = Command::new(causeway());
    command
        .args(["up", "--demo", "--state"])
        .arg(folder.path().join("state"));
    for option in ["--front", "--http", "--dns", "--dot", "--admin"] {
        command.args([option, "127.0.0.1:0"]);
    }
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "60000000");
    let ready = folder.path().join("ready.json");
    command.arg("--ready-file").arg(&ready);
    let process = Process::start(command);
    process.until_said("ready");
    let ready = serde_json::from_slice(&fs::read(ready).unwrap()).unwrap();
    let folder = folder.into();
    let server = Server {
        process,
        ready,
        place: Place::Host,
        folder,
    };
    let mut line = Line::of(server, of_server);
    line.succeed();
    let told = format!("MAINPID={}", line.id);
    let mut notice = [0; 64];
    loop {
        let length = manager.recv(&mut notice).unwrap();
        let notice = String::from_utf8_lossy(&notice[..length]);
        assert!(!notice.contains("STOPPING"), "{notice}");
        if notice == told {
            break;
        }
    }
    // The demo's device is the newer's now, and the older one's has gone in peace.
    line.server.get(&line.server.url("demo", "/"));
}

#[test]
fn a_relay_with_a_process_of_its_own_is_followed_and_holds_its_devices_meanwhile() {
    let (server, relay, _device) = several_relays::world();
    let mut line = Line::of(relay, |relay| &relay.process);
    several_relays::leads_to(&server, &["127.0.0.1", "127.0.0.2"]);
    for _ in 0..2 {
        line.succeed();
        let served = line.server.get(&server, "mynas");
        let error = String::from_utf8_lossy(&served.stderr);
        assert!(served.status.success(), "{error}");
        // Nobody has heard that it was gone.
        let both = ["127.0.0.1", "127.0.0.2"].map(str::to_owned);
        assert_eq!(several_relays::addresses(&server), both);
    }
    line.server
        .until_metric("causeway_relay_tunnels{transport=\"quic\"}", 1);
    assert!(
        server
            .causeway(&["device", "remove", "mynas"])
            .status
            .success()
    );
    line.server
        .until_metric("causeway_relay_tunnels{transport=\"quic\"}", 0);
    assert!(!line.server.get(&server, "mynas").status.success());
}

/// The agent of a device with this public port, which leads to `service`.
fn at_port(server: &Server, port: u16, service: &Nginx) -> Process {
    fs::write(service.file("page"), "a page\n").unwrap();
    let origin = service.origin().replace("http://", "tcp://");
    let port = format!("{port}/tcp");
    let device = server.pair("mynas");
    server.verb(&["port", "add", "mynas", &port], "port");
    let agent = device.serve(&format!(
        "[services.page]\norigin = \"{origin}\"\npublic = \"{port}\"\n"
    ));
    agent.until_said(&format!("the public port is open port=\"{port}\""));
    agent
}

/// Many come to a public port while the process before stands still, so that it accepts none of them.
fn all_are_answered_while_the_process_before_stands_still<T>(line: &mut Line<T>, port: u16) {
    const VISITORS: usize = 64;
    let before = line.id;
    line.succeed();
    signal(before, "-STOP");
    until(
        || stands_still(before),
        || "the process before does not stand still".to_owned(),
    );
    let come = || {
        let mut visitor = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        visitor.set_read_timeout(Some(SOON)).unwrap();
        visitor.write_all(b"GET /page HTTP/1.0\r\n\r\n").unwrap();
        visitor
    };
    let visitors: Vec<_> = (0..VISITORS).map(|_| come()).collect();
    for mut visitor in visitors {
        let mut answer = String::new();
        let read = visitor.read_to_string(&mut answer);
        read.unwrap_or_else(|error| panic!("{error}\n{}", line.said()));
        assert!(answer.ends_with("\r\n\r\na page\n"), "{answer}");
    }
    signal(before, "-CONT");
    until(
        || !is_running(before),
        || format!("the process before does not end:\n{}", line.said()),
    );
}

#[test]
fn nobody_who_comes_to_a_public_port_depends_on_the_process_before() {
    let offering = format!("[relay]\nports = \"{OFFERED}\"");
    let Operator { server, .. } = Operator::start(&good().replacen("[relay]", &offering, 1));
    let (port, service) = (free_of_those_offered(), Nginx::start(&Place::Host));
    let _agent = at_port(&server, port, &service);
    let mut line = Line::of(server, of_server);
    for _ in 0..2 {
        all_are_answered_while_the_process_before_stands_still(&mut line, port);
    }
}

#[test]
fn nor_at_a_relay_with_a_process_of_its_own() {
    let server = Server::start();
    let offers = format!("ports = \"{OFFERED}\"\n");
    let relay = Relay::join_with(&server, "eu1", &offers);
    let (port, service) = (free_of_those_offered(), Nginx::start(&Place::Host));
    let _agent = at_port(&server, port, &service);
    let mut line = Line::of(relay, |relay| &relay.process);
    for _ in 0..2 {
        all_are_answered_while_the_process_before_stands_still(&mut line, port);
    }
}
