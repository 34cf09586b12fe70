//! Connection records as an operator meets them: a key, a section in the configuration, and a command that reads.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{SOON, output_of, run};
use crate::world::{Place, Server, causeway};

const WRITTEN: &str = "causeway_relay_records_written_total{stream=\"masked\"}";
const DISK_FULL: &str =
    "causeway_relay_records_dropped_total{reason=\"disk_full\",stream=\"masked\"}";

/// A folder with a key, and a configuration that has it.
struct Operator {
    folder: Arc<TempDir>,
    config: PathBuf,
    key: PathBuf,
}

impl Operator {
    fn new(keep_in: Option<&Path>) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let (config, key) = (
            folder.path().join("causeway.toml"),
            folder.path().join("records.key"),
        );
        let mut made = Command::new(causeway());
        made.args(["records", "key"]).arg(&key);
        let section = output_of(made);
        assert!(section.starts_with("[records]\nkey = \""), "{section}");
        let folder_line = keep_in.map(|folder| format!("folder = {folder:?}\n"));
        let text = [
            include_str!("../../demo.toml"),
            "\n",
            &section,
            &folder_line.unwrap_or_default(),
        ]
        .concat();
        std::fs::write(&config, text).unwrap();
        Self {
            folder,
            config,
            key,
        }
    }

    fn server(&self, place: Place) -> Server {
        let config = self.config.to_str().unwrap();
        Server::start_on(place, Arc::clone(&self.folder), &["--config", config])
    }

    fn show(&self, arguments: &[&str]) -> Output {
        let mut show = Command::new(causeway());
        show.args(["records", "show", "--state"])
            .arg(self.folder.path().join("state"))
            .arg("--key")
            .arg(&self.key)
            .args(arguments);
        run(show)
    }

    /// The records, and what was said beside them.
    fn records(&self, arguments: &[&str]) -> (Vec<Value>, String) {
        let output = self.show(&[&["--json"], arguments].concat());
        let beside = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{beside}");
        let lines = String::from_utf8(output.stdout).unwrap();
        let lines = lines.lines().map(serde_json::from_str);
        (lines.map(Result::unwrap).collect(), beside)
    }
}

#[test]
fn records_of_an_earlier_configuration_are_told_of_and_stay() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let records = folder.path().join("state/records");
    std::fs::create_dir_all(&records).unwrap();
    let old = records.join("2026-01-31-0199a6d5e4f31b2c.records");
    std::fs::write(&old, "").unwrap();
    let server = Server::start_on(Place::Host, folder, &[]);
    let said = server.process.until_said("do not expire");
    assert!(
        said.contains("state/records") && said.contains("files=1"),
        "{said}"
    );
    assert!(old.exists());
}

/// A visitor who finds the device, and its service down.
fn visit(server: &Server, name: &str) {
    let mut curl = server.curl();
    curl.args(["--write-out", "%{http_code}", "--output", "/dev/null"]);
    curl.arg(server.url(name, "/"));
    assert_eq!(output_of(curl), "502");
}

fn until_metric(server: &Server, line: &str, value: u64) {
    let start = Instant::now();
    while server.metric(line) < value {
        assert!(start.elapsed() < SOON, "{line} does not get to {value}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_operator_reads_who_was_there_and_nobody_else_does() {
    let operator = Operator::new(None);
    let server = operator.server(Place::Host);
    let empty = operator.show(&[]);
    assert!(
        !empty.status.success() && said(&empty).contains("holds no records"),
        "{empty:?}"
    );
    let agents: Vec<_> = ["mynas", "other"]
        .iter()
        .map(|name| server.pair(name).run("http://127.0.0.1:1"))
        .collect();
    for name in ["mynas", "other", "mynas"] {
        visit(&server, name);
    }
    until_metric(&server, WRITTEN, 3);

    let names = |records: &[Value]| -> Vec<String> {
        let names = records.iter().map(|record| record["name"].as_str());
        names.map(|name| name.unwrap().to_owned()).collect()
    };
    let (all, beside) = operator.records(&[]);
    assert_eq!(names(&all), ["mynas", "other", "mynas"]);
    assert_eq!(beside, "");
    for record in &all {
        assert_eq!(record["visitor"], "127.0.0.0/24");
        assert_eq!(record["carrier"], "quic");
        assert!(record["to_visitor"].as_u64() > Some(0), "{record}");
    }
    let (one, _) = operator.records(&["--device", "other", "--since", "1h"]);
    assert_eq!(names(&one), ["other"]);
    let id = all[0]["device"].as_str().unwrap();
    let (by_id, _) = operator.records(&["--device", id]);
    assert_eq!(names(&by_id), ["mynas", "mynas"]);
    assert_eq!(operator.records(&["--until", "1h"]).0.len(), 0);
    let plain = operator.show(&[]);
    let plain = String::from_utf8(plain.stdout).unwrap();
    assert_eq!(plain.lines().count(), 3);
    assert!(plain.contains("  mynas  127.0.0.0/24 "), "{plain}");

    let another = operator.folder.path().join("another.key");
    let mut made = Command::new(causeway());
    made.args(["records", "key"]).arg(&another);
    output_of(made);
    let mut show = Command::new(causeway());
    show.args(["records", "show", "--key"]).arg(&another);
    show.arg(operator.folder.path().join("state/records"));
    let wrong = run(show);
    assert!(
        !wrong.status.success() && said(&wrong).contains("sealed to another key"),
        "{wrong:?}"
    );
    drop(agents);
}

#[test]
fn a_kill_costs_the_last_second_at_most_and_the_next_start_goes_on() {
    let operator = Operator::new(None);
    let mut server = operator.server(Place::Host);
    let agent = server.pair("mynas").run("http://127.0.0.1:1");
    let mut ended = Vec::new();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        visit(&server, "mynas");
        ended.push(SystemTime::now());
    }
    server.process.kill();
    let killed = SystemTime::now();
    let old_enough =
        |ended: &&SystemTime| killed.duration_since(**ended).unwrap() > Duration::from_secs(1);
    let expected = ended.iter().filter(old_enough).count();
    assert!(expected > 0);
    let (before, _) = operator.records(&[]);
    assert!(
        (expected..=ended.len()).contains(&before.len()),
        "{expected} of {}: {}",
        ended.len(),
        before.len()
    );

    let config = operator.config.to_str().unwrap();
    let again = server.restart_with(&["--config", config]);
    let restarted = Instant::now();
    while again.devices()[0]["state"] != "attached" {
        assert!(restarted.elapsed() < SOON, "{}", agent.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    visit(&again, "mynas");
    until_metric(&again, WRITTEN, 1);
    let (after, beside) = operator.records(&[]);
    assert_eq!(after.len(), before.len() + 1);
    assert_eq!(after[..before.len()], before[..]);
    assert!(
        beside.contains("do not end in order") && beside.lines().count() == 1,
        "{beside}"
    );
}

#[test]
fn a_full_disk_stops_records_and_no_visitor_until_there_is_room() {
    let disk = tempfile::tempdir().unwrap();
    let operator = Operator::new(Some(disk.path()));
    let server = operator.server(Place::SmallDisk(disk.path().to_owned()));
    // In the process's own view of the file system.
    let seen = format!(
        "/proc/{}/root{}",
        server.process.id(),
        disk.path().display()
    );
    let filler = format!("{seen}/filler");
    let mut file = File::create(&filler).unwrap();
    let full = std::iter::repeat_with(|| file.write_all(&[0; 4096]))
        .take(256)
        .find_map(Result::err);
    assert_eq!(full.map(|error| error.kind()), Some(ErrorKind::StorageFull));

    let _agent = server
        .pair("mynas")
        .at(Place::Host)
        .run("http://127.0.0.1:1");
    let start = Instant::now();
    let mut visits = 0;
    // Longer than from one try to the next.
    while start.elapsed() < Duration::from_secs(2) {
        visit(&server, "mynas");
        visits += 1;
    }
    until_metric(&server, DISK_FULL, visits);
    assert_eq!(server.metric(WRITTEN), 0);

    std::fs::remove_file(&filler).unwrap();
    drop(file);
    visit(&server, "mynas");
    until_metric(&server, WRITTEN, 1);
    let (kept, beside) = operator.records(&[&seen]);
    assert_eq!(kept.len(), 1);
    assert!(
        beside.contains(&format!("{visits} records could not be kept")),
        "{beside}"
    );
    assert_eq!(server.metric(DISK_FULL), visits);
}
