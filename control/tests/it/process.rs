//! Child processes that end with the test, and what they say.

use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Nothing here takes longer unless it is broken.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Waits for what only asking again and again can tell; if it never comes about, `what` says how it was at last.
pub(crate) fn until(is_so: impl Fn() -> bool, what: impl Fn() -> String) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "{}", what());
        std::thread::sleep(Duration::from_millis(10)); // leaves the processor to whom it waits for
    }
}

/// A running program whose lines, of both outputs, are collected as they come.
pub(crate) struct Process {
    child: Child,
    said: Arc<Said>,
}

#[derive(Default)]
struct Said {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    ended: usize,
}

impl Process {
    pub(crate) fn start(command: Command) -> Self {
        Self::start_with(command, Stdio::null())
    }

    pub(crate) fn start_with(mut command: Command, input: Stdio) -> Self {
        let mut child = command
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Said::default());
        collect(child.stdout.take().unwrap(), Arc::clone(&said));
        collect(child.stderr.take().unwrap(), Arc::clone(&said));
        Self { child, said }
    }

    /// Waits for a line that contains `text`.
    pub(crate) fn until_said(&self, text: &str) -> String {
        let mut lines = self.said.lines.lock().unwrap();
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(line) = lines.lines.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            assert!(
                lines.ended < 2,
                "it ended without saying {text:?}:\n{}",
                lines.lines.join("\n")
            );
            let patience = deadline.saturating_duration_since(Instant::now());
            assert!(
                !patience.is_zero(),
                "it does not say {text:?}:\n{}",
                lines.lines.join("\n")
            );
            lines = self.said.changed.wait_timeout(lines, patience).unwrap().0;
        }
    }

    /// Everything it has said so far.
    pub(crate) fn said(&self) -> String {
        self.said.lines.lock().unwrap().lines.join("\n")
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([signal, &self.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&self) -> bool {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", self.id()));
        state.map_or(true, |state| state.contains(") Z "))
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "it does not end:\n{}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Resident memory now and at most since [`forget_peak`](Self::forget_peak), in octets.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let value = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<u64>()
                .unwrap()
                * 1024
        };
        (value("VmRSS:"), value("VmHWM:"))
    }

    pub(crate) fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.id()), "5").unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn collect(output: impl Read + Send + 'static, said: Arc<Said>) {
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            let Ok(line) = line else { break };
            said.lines.lock().unwrap().lines.push(line);
            said.changed.notify_all();
        }
        said.lines.lock().unwrap().ended += 1;
        said.changed.notify_all();
    });
}

/// Runs a command to its end, at most for `time`.
pub(crate) fn run_for(mut command: Command, time: Duration) -> Output {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let id = child.id();
    let (done, is_done) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || done.send(child.wait_with_output()));
    match is_done.recv_timeout(time) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            Command::new("kill")
                .args(["-9", &id.to_string()])
                .status()
                .unwrap();
            panic!("{command:?} does not end");
        }
    }
}

/// Runs a command to its end.
pub(crate) fn run(command: Command) -> Output {
    run_for(command, SOON)
}

/// Runs a command that must succeed, and gives its standard output.
pub(crate) fn output_of(command: Command) -> String {
    let words = format!("{command:?}");
    let output = run(command);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{words}: {} {:?}\n{error}",
        output.status,
        output.status.signal()
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A script of these tests that needs a library of Python, as `.ci/run` has installed it.
pub(crate) fn with_library(library: &str, script: &str) -> Command {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", repository.join("target/python").join(library));
    python.arg(repository.join("control/tests/it").join(script));
    python
}
