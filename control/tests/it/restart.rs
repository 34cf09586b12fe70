//! A server that is stopped, and started again: while somebody else holds its listeners, and while names still lead to it.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::nginx::Nginx;
use crate::process::{Process, SOON, output_of, run};
use crate::reload::{Operator, good};
use crate::world::{Place, causeway};

const FREE_HTTP: [&str; 2] = ["--http", "127.0.0.1:0"];

/// An address of loopback that no other test uses, as each has a process of its own: there even a usual port is free.
fn own_address(port: u16) -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    (Ipv4Addr::new(127, 83, high, low), port).into()
}

/// The demo, by way of `launcher`, with its front where a listener is.
fn demo(mut launcher: Command, state: &Path, front: SocketAddr, options: &[&str]) -> Command {
    launcher.arg(causeway()).args(["up", "--demo", "--state"]);
    launcher.arg(state);
    launcher.args(["--front", &front.to_string()]);
    for option in ["--dns", "--dot", "--admin"] {
        launcher.args([option, "127.0.0.1:0"]);
    }
    launcher.args(options);
    launcher
}

/// A shell that hands over its standard input under `name`.
fn hands_over(name: &str) -> Command {
    let mut shell = Command::new("sh");
    let script = format!(
        "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES={name} exec \"$@\""
    );
    shell.args(["-c", &script, "sh"]);
    shell
}

/// Starts a server on a listener that stays ours.
fn start_on(listener: &TcpListener, launched: Command) -> Process {
    let handed_over = OwnedFd::from(listener.try_clone().unwrap());
    Process::start_with(launched, Stdio::from(handed_over))
}

/// A request to one of the server's own hosts, wherever that is.
fn request(state: &Path, front: SocketAddr, url: &str) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "50"]);
    curl.args(["--output", "/dev/null", "--cacert"]);
    curl.arg(state.join("ca.pem"));
    curl.args(["--connect-to", &format!("::{front}"), url]);
    curl
}

fn assert_served(output: &Output) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
}

#[test]
fn who_came_before_the_server_was_there_is_served_by_systemds_socket() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let (front, http) = (own_address(8443), own_address(8080));
    let mut launcher = Command::new("systemd-socket-activate");
    launcher.args(["--listen", &front.to_string()]);
    launcher.args(["--listen", &http.to_string()]);
    launcher.args(["--fdname", "front:http"]);
    let options = ["--http", &http.to_string()];
    let server = Process::start(demo(launcher, &state, front, &options));
    // It begins to listen a little later than we begin to ask.
    let mut early = loop {
        match TcpStream::connect(http) {
            Ok(early) => break early,
            Err(_) => std::thread::yield_now(),
        }
    };
    let mut redirected = String::new();
    early.set_read_timeout(Some(SOON)).unwrap();
    early
        .write_all(b"GET / HTTP/1.1\r\nHost: nas.localhost\r\n\r\n")
        .unwrap();
    early.read_to_string(&mut redirected).unwrap();
    assert!(
        redirected.starts_with("HTTP/1.1 308"),
        "{redirected}\n{}",
        server.said()
    );
    server.until_said("ready");
    let page = request(&state, front, "https://demo.nas.localhost:8443/");
    assert_served(&run(page));
}

#[test]
fn nobody_is_refused_while_the_server_is_stopped_and_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let front = held.local_addr().unwrap();
    let start = || start_on(&held, demo(hands_over("front"), &state, front, &FREE_HTTP));
    let url = format!("https://cloud.nas.localhost:{}/offline", front.port());
    let mut server = start();
    server.until_said("ready");
    assert_served(&run(request(&state, front, &url)));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let comers = scope.spawn(|| {
            let mut came = 0;
            while !over.load(Ordering::Relaxed) {
                TcpStream::connect_timeout(&front, SOON).unwrap();
                came += 1;
                std::thread::sleep(Duration::from_millis(2)); // not more than the queue holds
            }
            came
        });
        for _ in 0..3 {
            server.signal("-TERM");
            assert_eq!(server.ended().code(), Some(0), "{}", server.said());
            // In its queue, with nobody to accept.
            let early = scope.spawn(|| run(request(&state, front, &url)));
            let mut waits = TcpStream::connect_timeout(&front, SOON).unwrap();
            waits.write_all(b"no TLS\r\n").unwrap();
            waits.set_read_timeout(Some(SOON)).unwrap();
            server = start();
            assert_served(&early.join().unwrap());
            let end = waits.read(&mut [0]).map_err(|error| error.kind());
            assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)));
            server.until_said("ready");
        }
        over.store(true, Ordering::Relaxed);
        assert!(comers.join().unwrap() > 0);
    });
}

#[test]
fn a_socket_that_is_not_what_the_configuration_says_is_refused_by_both_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let bound = held.local_addr().unwrap();
    let elsewhere = own_address(bound.port());
    let refused = |name: &str, front: SocketAddr, sentences: &[&str]| {
        let mut server = start_on(&held, demo(hands_over(name), &state, front, &FREE_HTTP));
        assert_eq!(server.ended().code(), Some(1));
        for sentence in sentences {
            server.until_said(sentence);
        }
    };
    let says = format!("is at {bound}, but the configuration says {elsewhere}");
    refused("front", elsewhere, &[&says]);
    refused("frnot", bound, &["handed over as frnot", "front and http"]);
    refused("''", bound, &["FileDescriptorName="]);
}

#[test]
fn a_server_that_leaves_says_so_serves_newcomers_and_ends_at_once_when_told_again() {
    let text = good().replace("drain = \"2s\"", "drain = \"1h\"\nleave = \"1h\"");
    let operator = Operator::start(&text);
    let mut server = operator.server;
    let nginx = Nginx::start(&Place::Host);
    std::fs::write(nginx.file("page"), "here").unwrap();
    let agent = server.pair("mynas").run(&nginx.origin());
    server.process.signal("-TERM");
    server.process.until_said("a second signal ends at once");
    let status = || {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--output", "/dev/null", "--write-out"]);
        curl.args([
            "%{http_code}",
            &format!("http://{}/readyz", server.ready.admin),
        ]);
        output_of(curl)
    };
    let began = Instant::now();
    while status() != "503" {
        assert!(began.elapsed() < SOON, "still ready");
    }
    agent.until_said("the relay asks this agent to come back");
    for _ in 0..3 {
        assert_eq!(server.get(&server.url("mynas", "/page")), "here");
        server.get_file(&server.url("cloud", "/offline"));
    }
    let second = Instant::now();
    server.process.signal("-TERM");
    assert_eq!(server.process.ended().code(), Some(1));
    assert!(second.elapsed() < Duration::from_secs(10));
}
