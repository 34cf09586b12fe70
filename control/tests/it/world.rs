//! A server from the real binary, devices with the real agent, and what visitors use.

use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::Deserialize;
use tempfile::TempDir;

use crate::process::{Process, output_of, run};

/// Where programs run.
#[derive(Clone)]
pub(crate) enum Place {
    /// On this host.
    Host,
    /// In a network namespace that ends with the test.
    Namespace(Arc<Namespace>),
    /// In one where these files stand in the place of some of the system's, named second.
    Furnished(Arc<Namespace>, Arc<[(PathBuf, &'static str)]>),
    /// On this host, with a disk of its own for what is under this path, which goes with the program.
    SmallDisk(PathBuf),
    /// On this host, whose kernel refuses some system calls as strace(1) is told with `inject=`.
    Refusing(&'static str),
}

pub(crate) struct Namespace(String);

impl Place {
    /// A namespace with nothing but loopback.
    pub(crate) fn namespace() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "causeway-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        ip(&["netns", "add", &name]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        Self::Namespace(Arc::new(Namespace(name)))
    }

    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        match self {
            Self::Host => Command::new(program),
            Self::Namespace(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &namespace.0]).arg(program);
                command
            }
            Self::Furnished(namespace, files) => {
                let mounts: String = files
                    .iter()
                    .map(|(file, system)| format!("mount --bind {} {system} && ", file.display()))
                    .collect();
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &namespace.0, "unshare", "--mount"]);
                command.args(["sh", "-c", &format!("{mounts}exec \"$0\" \"$@\"")]);
                command.arg(program);
                command
            }
            Self::SmallDisk(path) => {
                let mut command = Command::new("unshare");
                let mounted = "mount -t tmpfs -o size=256k none \"$0\" && exec \"$@\"";
                command.args(["--mount", "sh", "-c", mounted]);
                command.arg(path).arg(program);
                command
            }
            Self::Refusing(calls) => {
                let mut command = Command::new("strace");
                // -D: what is started is the program, and strace ends with it.
                command.args(["-D", "-f", "-qq", "-o", "/dev/null", "--seccomp-bpf"]);
                let name = calls.split(':').next().unwrap_or_default();
                command.args([
                    "-e",
                    &format!("trace={name}"),
                    "-e",
                    &format!("inject={calls}"),
                ]);
                command.arg(program);
                command
            }
        }
    }

    /// A port of loopback here, at which this process listens.
    pub(crate) fn listen(&self) -> TcpListener {
        let bind = || TcpListener::bind(FREE).unwrap();
        match self {
            Self::Host | Self::SmallDisk(_) | Self::Refusing(_) => bind(),
            Self::Namespace(namespace) | Self::Furnished(namespace, _) => {
                // A socket is of the namespace of the thread that has made it.
                let there = std::fs::File::open(format!("/run/netns/{}", namespace.0)).unwrap();
                let bound = std::thread::spawn(move || {
                    let network = Some(LinkNameSpaceType::Network);
                    move_into_link_name_space(there.as_fd(), network).unwrap();
                    bind()
                });
                bound.join().unwrap()
            }
        }
    }

    /// The same place, with files in the place of some of the system's.
    pub(crate) fn furnished(
        &self,
        files: impl IntoIterator<Item = (PathBuf, &'static str)>,
    ) -> Self {
        Self::Furnished(Arc::clone(self.network()), files.into_iter().collect())
    }

    /// An interface `there` in the namespace `far`, at the other end of a wire from an interface `here` in this one.
    pub(crate) fn wire(&self, here: &str, far: &Self, there: &str) {
        let mut ip = self.command("ip");
        ip.args([
            "link", "add", "name", here, "type", "veth", "peer", "name", there,
        ]);
        ip.args(["netns", &far.network().0]);
        output_of(ip);
    }

    fn network(&self) -> &Arc<Namespace> {
        match self {
            Self::Namespace(namespace) | Self::Furnished(namespace, _) => namespace,
            Self::Host | Self::SmallDisk(_) | Self::Refusing(_) => {
                panic!("it is this host's network")
            }
        }
    }

    /// Drops every UDP datagram from now on.
    pub(crate) fn block_udp(&self) {
        let rules = "table inet block { chain drop_udp { type filter hook input priority 0; meta l4proto udp drop; }; }";
        let mut nft = self.command("nft");
        nft.arg(rules);
        output_of(nft);
    }

    /// Lets UDP through again.
    pub(crate) fn unblock_udp(&self) {
        let mut nft = self.command("nft");
        nft.args(["delete", "table", "inet", "block"]);
        output_of(nft);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.0]);
    }
}

fn ip(arguments: &[&str]) {
    let mut ip = Command::new("ip");
    ip.args(arguments);
    output_of(ip);
}

/// What `--ready-file` says.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Ready {
    pub(crate) zone: String,
    pub(crate) front: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) dns: SocketAddr,
    pub(crate) dot: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) ca: PathBuf,
    pub(crate) state: PathBuf,
}

/// A running `causeway up --demo`.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) ready: Ready,
    pub(crate) place: Place,
    pub(crate) folder: Arc<TempDir>,
}

impl Server {
    /// On free ports of this host.
    pub(crate) fn start() -> Self {
        Self::start_with(Place::Host, &[])
    }

    pub(crate) fn start_with(place: Place, options: &[&str]) -> Self {
        Self::start_on(place, Arc::new(tempfile::tempdir().unwrap()), options)
    }

    /// On the state that an earlier server has left in `folder`.
    pub(crate) fn start_on(place: Place, folder: Arc<TempDir>, options: &[&str]) -> Self {
        let ready_file = folder.path().join("ready.json");
        let _ = std::fs::remove_file(&ready_file);
        let mut command = place.command(causeway());
        command.arg("up");
        if !options.contains(&"--config") {
            command.arg("--demo");
        }
        command.arg("--state").arg(folder.path().join("state"));
        command.arg("--ready-file").arg(&ready_file);
        for (option, address) in [
            ("--front", FREE),
            ("--http", FREE),
            ("--dns", FREE),
            ("--dot", FREE),
            ("--admin", FREE),
        ] {
            if !options.contains(&option) {
                command.args([option, address]);
            }
        }
        command.args(options).env("CAUSEWAY_LOG", "debug");
        let process = Process::start(command);
        process.until_said("ready");
        let ready = serde_json::from_slice(&std::fs::read(ready_file).unwrap()).unwrap();
        Self {
            process,
            ready,
            place,
            folder,
        }
    }

    /// The same server again, after this one has been killed, on the same ports.
    pub(crate) fn restart(&self) -> Self {
        self.restart_with(&[])
    }

    /// The same, with these options as well.
    pub(crate) fn restart_with(&self, more: &[&str]) -> Self {
        let Ready {
            front,
            http,
            dns,
            dot,
            admin,
            ..
        } = &self.ready;
        let [front, http, dns, dot, admin] =
            [front, http, dns, dot, admin].map(ToString::to_string);
        let options = [
            "--front", &front, "--http", &http, "--dns", &dns, "--dot", &dot, "--admin", &admin,
        ];
        let options = [&options[..], more].concat();
        Self::start_on(self.place.clone(), Arc::clone(&self.folder), &options)
    }

    /// `https://<name>.<zone>:<port><path>`
    pub(crate) fn url(&self, name: &str, path: &str) -> String {
        format!(
            "https://{name}.{}:{}{path}",
            self.ready.zone,
            self.ready.front.port()
        )
    }

    /// curl, trusting this server's authority and nothing else.
    pub(crate) fn curl(&self) -> Command {
        let mut curl = self.place.command("curl");
        curl.args(["--silent", "--show-error", "--max-time", "50", "--cacert"])
            .arg(&self.ready.ca);
        curl
    }

    /// A page, which must be there.
    pub(crate) fn get(&self, url: &str) -> String {
        let mut curl = self.curl();
        curl.args(["--fail", url]);
        output_of(curl)
    }

    /// A file, which must be there; its octets are not looked at.
    pub(crate) fn get_file(&self, url: &str) {
        let mut curl = self.curl();
        curl.args(["--fail", "--output", "/dev/null", url]);
        output_of(curl);
    }

    /// `causeway <arguments> --state <this server's>`
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.place.command(causeway());
        command
            .args(arguments)
            .arg("--state")
            .arg(&self.ready.state);
        command
    }

    /// The same, run to its end.
    pub(crate) fn causeway(&self, arguments: &[&str]) -> Output {
        run(self.command(arguments))
    }

    /// The same, which must succeed; what stands behind `label:` in its output.
    pub(crate) fn verb(&self, arguments: &[&str], label: &str) -> String {
        let output = self.causeway(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        let text = String::from_utf8(output.stdout).unwrap();
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(label)?.strip_prefix(": "));
        found
            .unwrap_or_else(|| panic!("no {label} in {text}"))
            .to_owned()
    }

    /// The devices as `causeway device list --json` gives them.
    pub(crate) fn devices(&self) -> serde_json::Value {
        let output = self.causeway(&["device", "list", "--json"]);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn metrics_text(&self) -> String {
        metrics_text(&self.place, self.ready.admin)
    }

    /// The metrics whose names begin like that and that are not 0, a line each.
    pub(crate) fn metrics(&self, prefix: &str) -> String {
        let text = self.metrics_text();
        let lines = text
            .lines()
            .filter(|line| line.starts_with(prefix) && !line.ends_with(" 0"));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// A metric's value, by its name and labels as the text format writes them.
    pub(crate) fn metric(&self, line: &str) -> u64 {
        value_of(&self.metrics_text(), line)
    }

    /// Registers a device and pairs an agent with it.
    pub(crate) fn pair(&self, name: &str) -> Device {
        let code = self.verb(&["device", "add", name], "code");
        let device = Device {
            state: self.folder.path().join(name),
            place: self.place.clone(),
        };
        let output = run(device.pair_command(self, &code));
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            said.contains(&format!("paired: {name}.{}", self.ready.zone)),
            "{said}"
        );
        device
    }
}

fn metrics_text(place: &Place, admin: SocketAddr) -> String {
    let mut curl = place.command("curl");
    curl.args(["--silent", "--fail", &format!("http://{admin}/metrics")]);
    output_of(curl)
}

fn value_of(text: &str, line: &str) -> u64 {
    let value = text
        .lines()
        .find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
    value
        .unwrap_or_else(|| panic!("no {line} in\n{text}"))
        .parse()
        .unwrap()
}

/// A metric's value at this admin listener of this host, by its name and labels.
pub(crate) fn metric_at(admin: SocketAddr, line: &str) -> u64 {
    value_of(&metrics_text(&Place::Host, admin), line)
}

/// Any port of loopback that is free.
const FREE: &str = "127.0.0.1:0";

/// A device's own disk.
pub(crate) struct Device {
    pub(crate) state: PathBuf,
    pub(crate) place: Place,
}

impl Device {
    pub(crate) fn pair_command(&self, server: &Server, code: &str) -> Command {
        let mut command = self.place.command(causeway_agent());
        let control = server.url("cloud", "");
        command
            .args(["pair", "--control", &control, "--code", code, "--ca"])
            .arg(&server.ready.ca);
        command.arg("--state").arg(&self.state);
        command
    }

    /// Somewhere else than its server is.
    pub(crate) fn at(self, place: Place) -> Self {
        Self { place, ..self }
    }

    /// Its agent, attached.
    pub(crate) fn run(&self, origin: &str) -> Process {
        self.run_with(origin, &[])
    }

    pub(crate) fn run_with(&self, origin: &str, options: &[&str]) -> Process {
        self.start_agent(&[&["--origin", origin], options].concat())
    }

    /// The same for what `configuration` describes.
    pub(crate) fn serve(&self, configuration: &str) -> Process {
        std::fs::write(self.state.join("agent.toml"), configuration).unwrap();
        self.start_agent(&[])
    }

    fn start_agent(&self, options: &[&str]) -> Process {
        let mut command = self.place.command(causeway_agent());
        command
            .arg("run")
            .args(options)
            .arg("--state")
            .arg(&self.state);
        command.env("CAUSEWAY_LOG", "debug");
        let process = Process::start(command);
        process.until_said("attached to the relay");
        process
    }
}

pub(crate) fn causeway() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_causeway"))
}

/// The agent's program.
pub(crate) fn causeway_agent() -> &'static Path {
    static AGENT: OnceLock<PathBuf> = OnceLock::new();
    AGENT.get_or_init(|| program_of("relay", "causeway-agent"))
}

/// The program beside an app.
pub(crate) fn causeway_connect() -> &'static Path {
    static CONNECT: OnceLock<PathBuf> = OnceLock::new();
    CONNECT.get_or_init(|| program_of("connect", "causeway-connect"))
}

/// One of another package, from beside the server's. `cargo test --workspace` has built it before any test runs; when only this
/// package is tested it is built here.
fn program_of(package: &str, name: &str) -> PathBuf {
    let program = causeway().with_file_name(name);
    if !program.exists() {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", package, "--bin", name]);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        let built = crate::process::run_for(cargo, std::time::Duration::from_secs(900));
        assert!(
            built.status.success(),
            "{}",
            String::from_utf8_lossy(&built.stderr)
        );
    }
    program
}
