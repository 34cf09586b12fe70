//! Programs that people have: what of them is bulk moves to a raw connection, and what is not does not.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::process::{Process, output_of, run_for};
use crate::sshd::{Sshd, free_port};
use crate::transfer::{MIB, Scene, sha256, write_random};
use crate::world::{Place, Server};

const CAME: &str = "causeway_relay_raw_connections_total{outcome=\"came\"}";

/// A file has gone one way by then.
const LONG: Duration = Duration::from_secs(240);

const FILE: u64 = 1024 * MIB;

/// Runs a program that has a file to bring, and says how many raw connections came for it.
fn moved(server: &Server, command: Command) -> (u64, String) {
    let before = server.metric(CAME);
    let output = run_for(command, LONG);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    (server.metric(CAME) - before, said)
}

fn assert_same(one: &Path, other: &Path) {
    assert!(sha256(one) == sha256(other), "{} differs", other.display());
}

#[test]
fn scp_moves_to_a_raw_connection_each_way() {
    let server = Server::start();
    let folder = server.folder.path();
    let sshd = Sshd::start(folder);
    let _agent = server
        .pair("mynas")
        .run(&format!("tcp://127.0.0.1:{}", sshd.port));
    let [original, there, back] = ["original", "there", "back"].map(|name| folder.join(name));
    write_random(&original, FILE);
    let user = output_of(Command::new("whoami"));
    let remote = format!("{}@mynas:{}", user.trim(), there.display());
    let [from, to] = [&original, &back].map(|path| path.display().to_string());
    // By way of TLS to the device.
    let way = format!(
        "openssl s_client -quiet -verify_return_error -CAfile {} -connect {} -servername mynas.{}",
        server.ready.ca.display(),
        server.ready.front,
        server.ready.zone
    );
    let scp = |from: &str, to: &str| {
        let mut scp = sshd.client("scp", Some(&way));
        scp.args([from, to]);
        scp
    };
    for (scp, received) in [(scp(&from, &remote), &there), (scp(&remote, &to), &back)] {
        let (raw, _) = moved(&server, scp);
        assert_eq!(raw, 1, "one connection, which serves both directions");
        assert_same(&original, received);
    }
}

#[test]
fn rclone_moves_to_a_raw_connection_under_http2() {
    let server = Server::start();
    let folder = server.folder.path();
    let [original, served, back] = ["original", "served", "back"].map(|name| folder.join(name));
    fs::create_dir(&served).unwrap();
    write_random(&original, FILE);
    let port = free_port();
    let mut webdav = Command::new("rclone");
    let address = format!("127.0.0.1:{port}");
    webdav.args(["serve", "webdav", "--verbose", "--addr", &address]);
    let webdav = Process::start({
        webdav.arg(&served);
        webdav
    });
    webdav.until_said("WebDav Server started");
    let _agent = server
        .pair("mynas")
        .run(&format!("http://127.0.0.1:{port}"));
    // rclone asks the system for addresses, which knows nothing of names below localhost.
    let hosts = folder.join("hosts");
    fs::write(
        &hosts,
        format!("127.0.0.1 localhost mynas.{}\n", server.ready.zone),
    )
    .unwrap();
    let rclone = |from: &str, to: &str| {
        let mut rclone = Command::new("unshare");
        let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
        rclone.args(["--mount", "sh", "-c", script]).arg(&hosts);
        rclone.args([
            "rclone",
            "--config",
            "",
            "--dump",
            "headers",
            "--webdav-url",
        ]);
        rclone.arg(server.url("mynas", "/"));
        rclone.arg("--ca-cert").arg(&server.ready.ca);
        rclone.args(["copyto", from, to]);
        rclone
    };
    let [from, to] = [&original, &back].map(|path| path.display().to_string());
    for (rclone, received) in [
        (rclone(&from, ":webdav:there"), served.join("there")),
        (rclone(":webdav:there", &to), back.clone()),
    ] {
        let (raw, said) = moved(&server, rclone);
        assert!(said.contains("HTTP/2.0 20"), "{said}");
        assert!(raw >= 1, "it stayed in the tunnel");
        assert_same(&original, &received);
    }
}

#[test]
fn small_requests_on_kept_connections_stay_in_the_tunnel() {
    let scene = Scene::start(Place::Host, &[]);
    write_random(&scene.nginx.file("small"), 1024);
    let mut h2load = scene.server.place.command("h2load");
    h2load.args(["--h1", "--requests", "64000", "--clients", "64"]);
    h2load.arg(format!("--connect-to={}", scene.server.ready.front));
    h2load.arg(scene.server.url("mynas", "/small"));
    let report = output_of(h2load);
    assert!(report.contains("64000 succeeded, 0 failed"), "{report}");
    assert_eq!(scene.server.metric(CAME), 0);
}
