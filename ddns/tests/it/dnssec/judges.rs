//! Validators: delv, and unbound.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// So long a resolver may take to begin.
const BEGINNING: Duration = Duration::from_secs(20);

/// Runs a program and returns all that it prints.
pub(super) async fn run(tool: &'static str, words: String) -> String {
    let run = move || {
        Command::new(tool)
            .args(words.split_ascii_whitespace())
            .output()
    };
    let output = tokio::task::spawn_blocking(run)
        .await
        .unwrap()
        .unwrap_or_else(|error| panic!("{tool} has to be installed: {error}"));
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

/// The KSKs that the zone has, as `257 3 13 key`.
pub(super) async fn anchors(server: SocketAddr) -> BTreeSet<String> {
    let words = format!(
        "@{} -p {} causeway.example DNSKEY +short",
        server.ip(),
        server.port()
    );
    let printed = run("dig", words).await;
    let keys = printed
        .lines()
        .filter_map(|line| line.strip_prefix("257 3 13 "));
    let anchors: BTreeSet<_> = keys
        .map(|key| format!("257 3 13 {}", key.replace(' ', "")))
        .collect();
    assert!(!anchors.is_empty(), "{printed}");
    anchors
}

/// What delv says of the answer to a question, asking `server` itself.
pub(super) async fn delv(server: SocketAddr, anchors: &BTreeSet<String>, question: &str) -> String {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("anchors");
    let anchors = anchors.iter().map(|anchor| {
        let key = anchor.strip_prefix("257 3 13 ").unwrap();
        format!("causeway.example. static-key 257 3 13 \"{key}\";")
    });
    let anchors = anchors.collect::<Vec<_>>().join(" ");
    std::fs::write(&file, format!("trust-anchors {{ {anchors} }};")).unwrap();
    let words = format!(
        "@{} -p {} -a {} +root=causeway.example {question}",
        server.ip(),
        server.port(),
        file.display()
    );
    run("delv", words).await
}

/// What dnsviz complains of when it looks at these names of a zone whose parent has this DS, and how it stands with each set.
pub(super) async fn dnsviz(server: SocketAddr, ds: &str, names: &[&str]) -> (String, Vec<String>) {
    let folder = TempDir::new().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    // With the DS given, it asks no parent.
    let probe = Command::new("timeout")
        .args([
            "60",
            "dnsviz",
            "probe",
            "-A",
            "-D",
            &format!("causeway.example:{ds}"),
        ])
        .args([
            "-x",
            &format!(
                "causeway.example+:[ns1.causeway.example]=127.0.0.1:{}",
                server.port()
            ),
        ])
        .args([
            "-N",
            &format!(
                "causeway.example:ns1.causeway.example=127.0.0.1:{}",
                server.port()
            ),
        ])
        .args(["-o", &place("probe")])
        .args(names)
        .output();
    let probe = probe.unwrap_or_else(|error| panic!("dnsviz has to be installed: {error}"));
    assert!(probe.status.success(), "{probe:?}");
    let grok = |arguments: &[&str]| {
        let output = Command::new("timeout")
            .args(["60", "dnsviz", "grok", "-r", &place("probe")])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let complaints = grok(&["-l", "warning"]);
    let whole = grok(&[]);
    let states = whole.lines().filter(|line| line.contains("\"status\":"));
    let states = states.map(|line| line.trim().trim_end_matches(',').to_owned());
    (complaints, states.collect())
}

/// A resolver that validates. It is killed when this is dropped.
pub(super) struct Unbound {
    process: Child,
    port: u16,
    _folder: TempDir,
}

impl Unbound {
    /// One that asks `server` for what is in `causeway.example`, and believes the zone by these KSKs.
    pub(super) async fn start(server: SocketAddr, anchors: &BTreeSet<String>) -> Self {
        let folder = TempDir::new().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free); // it cannot say which port it was given
        let anchors = anchors.iter();
        let anchors: String = anchors
            .map(|anchor| format!("  trust-anchor: \"causeway.example. DNSKEY {anchor}\"\n"))
            .collect();
        let config = format!(
            "server:\n  interface: 127.0.0.1@{port}\n  port: {port}\n  do-daemonize: no\n  username: \"\"\n  chroot: \"\"\n\
             \x20 directory: \"{folder}\"\n  pidfile: \"\"\n  use-syslog: no\n  do-not-query-localhost: no\n\
             \x20 module-config: \"validator iterator\"\n  aggressive-nsec: yes\n\
             \x20 num-threads: 1\n  val-log-level: 2\n{anchors}\
             stub-zone:\n  name: \"causeway.example\"\n  stub-addr: {}@{}\n\
             remote-control:\n  control-enable: no\n",
            server.ip(),
            server.port(),
            folder = folder.path().display(),
        );
        let file = folder.path().join("unbound.conf");
        std::fs::write(&file, config).unwrap();
        let process = Command::new("/usr/sbin/unbound")
            .arg("-d")
            .arg("-c")
            .arg(&file)
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("unbound has to be installed: {error}"));
        let unbound = Self {
            process,
            port,
            _folder: folder,
        };
        let begun = Instant::now();
        while !unbound
            .ask("causeway.example SOA")
            .await
            .contains("status: NOERROR")
        {
            assert!(begun.elapsed() < BEGINNING, "unbound does not answer");
        }
        unbound
    }

    /// What it answers, as dig shows it.
    pub(super) async fn ask(&self, question: &str) -> String {
        let words = format!(
            "@127.0.0.1 -p {} +dnssec +tries=1 +timeout=5 {question}",
            self.port
        );
        run("dig", words).await
    }
}

impl Drop for Unbound {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
