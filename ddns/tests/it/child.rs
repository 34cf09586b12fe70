//! The server as a process of its own, which can be killed, traced, and given a small disk.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use directory::{Device, DeviceName, RegistrationId, TokenHash};
use prometheus::Registry;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::world::{self, Directory};

/// Devices, `d0` and so on. Every process has the same ones with the same keys.
pub(crate) const DEVICES: usize = 64;

const CONFIG: &str = r#"
    listen = "127.0.0.1:0"
    updates_per_minute = 0
    private_addresses = true
"#;
/// Where the process keeps its state.
const STATE: &str = "DDNS_TEST_STATE";
const TEST: &str = "child::a_process_of_its_own";

/// A process that serves. It is killed when this is dropped.
pub(crate) struct Server {
    process: Child,
    stdout: BufReader<ChildStdout>,
}

/// Where it is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) dns: SocketAddr,
    pub(crate) http: SocketAddr,
}

impl Server {
    /// Starts it with its state in `state`, by a program that starts others if there is one in `by`.
    pub(crate) fn spawn(state: &Path, by: &[&str]) -> Self {
        let this = std::env::current_exe().unwrap();
        let mut command = match by {
            [] => Command::new(this),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(this);
                command
            }
        };
        let mut process = command
            .args(["--ignored", "--exact", TEST, "--nocapture"])
            .env(STATE, state)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{by:?} has to be installed: {error}"));
        let stdout = BufReader::new(process.stdout.take().unwrap());
        Self { process, stdout }
    }

    /// Waits until it serves.
    pub(crate) fn ready(&mut self) -> Addresses {
        for line in (&mut self.stdout).lines() {
            let line = line.unwrap();
            if let Some(addresses) = line.strip_prefix("ready ") {
                let (dns, http) = addresses.split_once(' ').unwrap();
                let [dns, http] = [dns, http].map(|address| address.parse().unwrap());
                return Addresses { dns, http };
            }
        }
        panic!("it has ended before it was ready");
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Lets it end, and whatever has started it.
    pub(crate) fn end(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it may have ended
        let _ = self.process.wait();
    }
}

/// A new state directory on the disk that programs are built on: /tmp may be in memory, where a sync does nothing.
pub(crate) fn on_disk() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Who holds which name.
pub(crate) fn directory() -> Directory {
    let mut directory = Directory::new();
    for number in 0..DEVICES {
        directory.writer.put(Device {
            registration: RegistrationId(number as u64 + 1),
            name: DeviceName::parse(&format!("d{number}")).unwrap(),
            identity: None,
            ddns_key: Some(TokenHash::of(&password(number))),
            challenge_key: None,
        });
    }
    directory
}

/// What a device's owner gives over HTTP.
pub(crate) fn password(number: usize) -> String {
    format!("the-token-of-d{number}")
}

/// Not a test of its own: other tests run it in a process, until its input ends.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "other tests run it as a process of its own"]
async fn a_process_of_its_own() {
    let state = std::env::var_os(STATE).expect("the directory of the state in the environment");
    let state = PathBuf::from(state);
    let directory = directory();
    let (registry, stop) = (Registry::new(), CancellationToken::new());
    let server = world::start(&directory.reader, &state, CONFIG, &registry, &stop)
        .await
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let http = listener.local_addr().unwrap();
    let router = server.router();
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let serving = tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
    let ready = format!("\nready {} {http}\n", server.addr());
    std::io::stdout().write_all(ready.as_bytes()).unwrap();
    let until_end = || std::io::stdin().read_to_end(&mut Vec::new());
    tokio::task::spawn_blocking(until_end)
        .await
        .unwrap()
        .unwrap();
    serving.abort();
    server.shutdown().await.unwrap();
}
