//! HAProxy before the front: it passes on whoever comes to it, and says who that is.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use tempfile::TempDir;

use crate::process::{Process, run, until};
use crate::world::Server;

/// Where it comes from when it goes to the front; everybody else here is at 127.0.0.1, or says where.
pub(crate) const ADDRESS: &str = "127.0.0.9";

pub(crate) struct Haproxy {
    _process: Process,
    port: u16,
    _folder: TempDir,
}

impl Haproxy {
    /// Before `front`, to which it says so with these words of its `server` line.
    pub(crate) fn before(front: SocketAddr, server: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [port, ready] = free.map(|free| free.local_addr().unwrap().port());
        let config = folder.path().join("haproxy.cfg");
        let lines = [
            "defaults",
            "    timeout connect 20s",
            "    timeout client 60s",
            "    timeout server 60s",
            "frontend visitors",
            &format!("    bind 127.0.0.1:{port}"),
            &format!("    bind [::1]:{port}"),
            "    unique-id-format %ci:%cp-%Ts",
            "    default_backend relay",
            "backend relay",
            &format!("    server relay {front} source {ADDRESS} {server}"),
            "frontend ready",
            "    mode http",
            &format!("    bind 127.0.0.1:{ready}"),
            "    http-request return status 200",
            "",
        ];
        std::fs::write(&config, lines.join("\n")).unwrap();
        let mut haproxy = Command::new("haproxy");
        haproxy.arg("-db").arg("-f").arg(&config); // one process, so that nothing of it is left when that is killed
        let process = Process::start(haproxy);
        let is_ready = || {
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--fail", &format!("http://127.0.0.1:{ready}")]);
            run(curl).status.success()
        };
        until(is_ready, || process.said());
        Self {
            _process: process,
            port,
            _folder: folder,
        }
    }

    /// curl from the address `from`, by way of this proxy whatever it asks for.
    pub(crate) fn curl(&self, server: &Server, from: &str) -> Command {
        let to = if from.contains(':') {
            "[::1]"
        } else {
            "127.0.0.1"
        };
        let mut curl = server.curl();
        curl.args(["--fail", "--interface", from]);
        curl.args(["--connect-to", &format!("::{to}:{}", self.port)]);
        curl
    }
}
