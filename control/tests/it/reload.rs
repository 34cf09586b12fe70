//! A hangup has the server read its configuration again, and nobody who is there notices.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::nginx::Nginx;
use crate::process::{Process, SOON, output_of, run};
use crate::transfer::{MIB, sha256, write_random};
use crate::world::{Place, Server, causeway};

/// The demo's, on free ports.
pub(crate) fn good() -> String {
    let mut text = include_str!("../../demo.toml").to_owned();
    for port in ["8443", "8080", "5300", "8853", "9400"] {
        text = text.replace(&format!("\"127.0.0.1:{port}\""), "\"127.0.0.1:0\"");
    }
    text
}

/// The same with one line more in [relay.limits].
fn limited(line: &str) -> String {
    good().replace("[relay.limits]\n", &format!("[relay.limits]\n{line}\n"))
}

/// A server that has everything from its file.
pub(crate) struct Operator {
    pub(crate) server: Server,
    file: PathBuf,
}

impl Operator {
    pub(crate) fn start(text: &str) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let file = folder.path().join("causeway.toml");
        fs::write(&file, text).unwrap();
        let mut command = up(&folder);
        command.arg("--config").arg(&file);
        let process = Process::start(command);
        process.until_said("ready");
        let ready = fs::read(folder.path().join("ready.json")).unwrap();
        let server = Server {
            process,
            ready: serde_json::from_slice(&ready).unwrap(),
            place: Place::Host,
            folder,
        };
        Self { server, file }
    }

    /// Has the server read this, which comes to `result`.
    pub(crate) fn reload(&self, text: &str, result: &str) {
        fs::write(&self.file, text).unwrap();
        self.hang_up(result);
    }

    /// `FILE:LINE` of the line that begins with this.
    fn place_of(&self, text: &str, start: &str) -> String {
        let line = text.lines().position(|line| line.starts_with(start));
        format!("{}:{}", self.file.display(), line.unwrap() + 1)
    }

    fn hang_up(&self, result: &str) {
        let counter = format!("causeway_config_reloads_total{{result=\"{result}\"}}");
        let before = self.server.metric(&counter);
        self.server.process.signal("-HUP");
        let deadline = Instant::now() + SOON;
        while self.server.metric(&counter) == before {
            let said = self.server.process.said();
            assert!(Instant::now() < deadline, "not {result}:\n{said}");
        }
    }

    /// Whether the last reload was good, and when the last good one was.
    fn last_reload(&self) -> (u64, u64) {
        (
            self.server.metric("causeway_config_last_reload_successful"),
            self.server
                .metric("causeway_config_last_reload_success_timestamp_seconds"),
        )
    }

    /// The certificate of `cloud.<zone>`, as visitors are shown it.
    fn certificate(&self) -> String {
        let mut curl = self.server.curl();
        curl.args(["--output", "/dev/null", "--write-out", "%{certs}"]);
        curl.arg(self.server.url("cloud", "/offline"));
        let shown = output_of(curl);
        assert!(shown.contains("BEGIN CERTIFICATE"), "{shown}");
        shown
    }

    fn refused(&self) -> u64 {
        self.server
            .metric("causeway_relay_visitors_refused_total{reason=\"device_full\"}")
    }
}

fn up(folder: &TempDir) -> Command {
    let mut command = Command::new(causeway());
    command.arg("up");
    command.arg("--state").arg(folder.path().join("state"));
    command
        .arg("--ready-file")
        .arg(folder.path().join("ready.json"));
    command
}

#[test]
fn a_limit_is_in_force_for_the_next_visitor_and_who_is_there_stays_until_all_is_read() {
    let operator = Operator::start(&good());
    let server = &operator.server;
    let nginx = Nginx::start(&server.place);
    let device = server.pair("mynas");
    let _agent = device.run(&nginx.origin());
    let (large, small) = (nginx.file("large"), nginx.file("small"));
    write_random(&large, 32 * MIB);
    write_random(&small, 1000);
    let target = server.folder.path().join("download");
    let mut curl = server.curl();
    curl.args(["--fail", "--limit-rate", "8M", "--max-time", "300"]);
    curl.arg("--output").arg(&target);
    curl.arg(server.url("mynas", "/large"));
    let mut download = Process::start(curl);
    let come = || fs::metadata(&target).map_or(0, |file| file.len());
    let deadline = Instant::now() + SOON;
    while come() == 0 {
        assert!(Instant::now() < deadline, "nothing comes");
        std::thread::sleep(Duration::from_millis(10)); // there is no event; the outcome does not depend on it
    }
    download.signal("-STOP");
    assert!(come() < 32 * MIB);

    // A good limit in a file that is not: it is not in force.
    let broken = limited("visitors_per_device = 1\nunnamed = 3");
    operator.reload(&broken, "failed");
    let place = operator.place_of(&broken, "unnamed = 3");
    let said = format!("{place}: relay.limits.unnamed: 3 cannot be");
    server.process.until_said(&said);
    server.get_file(&server.url("mynas", "/small"));
    assert_eq!(operator.refused(), 0);

    operator.reload(&limited("visitors_per_device = 1"), "done");
    let mut second = server.curl();
    second.args(["--fail", &server.url("mynas", "/small")]);
    assert!(!run(second).status.success());
    assert!(operator.refused() > 0);

    download.signal("-CONT");
    assert_eq!(download.ended().code(), Some(0), "{}", download.said());
    assert_eq!(sha256(&target), sha256(&large));
    // There is room again, once the relay has seen it go.
    let deadline = Instant::now() + SOON;
    loop {
        let mut third = server.curl();
        third.args(["--fail", "--output", "/dev/null"]);
        third.arg(server.url("mynas", "/small"));
        if run(third).status.success() {
            break;
        }
        assert!(Instant::now() < deadline, "nobody is let in any more");
    }
}

#[test]
fn a_bad_file_changes_nothing_until_it_is_mended_and_metrics_say_so() {
    let operator = Operator::start(&good());
    let (good_one, at_start) = operator.last_reload();
    assert_eq!(good_one, 1);
    let certificate = operator.certificate();
    assert_eq!(operator.certificate(), certificate);

    let broken = good().replace("zone = ", "zome = ");
    operator.reload(&broken, "failed");
    let place = operator.place_of(&broken, "zome = ");
    let said = format!("{place}: unknown field `zome`");
    operator.server.process.until_said(&said);
    assert_eq!(operator.last_reload(), (0, at_start));
    fs::remove_file(&operator.file).unwrap();
    operator.hang_up("failed");
    operator.server.process.until_said("No such file");
    // A pipe to which nobody writes would be read for ever.
    let mut pipe = Command::new("mkfifo");
    pipe.arg(&operator.file);
    output_of(pipe);
    operator.hang_up("failed");
    operator
        .server
        .process
        .until_said("only a file can be read again");
    assert_eq!(operator.certificate(), certificate);

    fs::remove_file(&operator.file).unwrap();
    operator.reload(&good(), "done");
    let (good_one, mended) = operator.last_reload();
    assert!(good_one == 1 && mended >= at_start);
    assert_ne!(operator.certificate(), certificate);
}

#[test]
fn an_authority_that_no_server_could_use_changes_nothing_and_another_waits_for_the_next_start() {
    let operator = Operator::start(&good());
    let certificate = operator.certificate();
    let key = operator.server.ready.state.join("ca.key");
    let kept = fs::read(&key).unwrap();
    fs::write(&key, "no key").unwrap();
    operator.hang_up("failed");
    operator
        .server
        .process
        .until_said("with this authority no server would start");
    assert_eq!(operator.certificate(), certificate);
    fs::write(&key, kept).unwrap();
    operator.hang_up("done");
    assert_ne!(operator.certificate(), certificate);

    // One that is good and another's: this server goes on with its own, which agents and browsers trust.
    let other = Operator::start(&good()).server;
    let trusted = operator.server.folder.path().join("trusted.pem");
    fs::copy(&operator.server.ready.ca, &trusted).unwrap();
    for name in ["ca.pem", "ca.key"] {
        let (from, to) = (&other.ready.state, &operator.server.ready.state);
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
    operator.hang_up("done");
    let said = format!(
        "the authority in {} has changed",
        operator.server.ready.ca.display()
    );
    operator.server.process.until_said(&said);
    let mut curl = operator.server.curl();
    curl.arg("--cacert").arg(&trusted);
    curl.args(["--fail", "--output", "/dev/null"]);
    curl.arg(operator.server.url("cloud", "/offline"));
    output_of(curl);
}

#[test]
fn what_only_a_start_puts_in_force_is_named_and_the_rest_is_in_force() {
    let operator = Operator::start(&good());
    let certificate = operator.certificate();
    let elsewhere = good()
        .replace(
            "listen = \"127.0.0.1:0\"       # UDP",
            "listen = \"127.0.0.2:0\" # UDP",
        )
        .replace("drain = \"2s\"", "workers = 1\ndrain = \"2s\"");
    operator.reload(&elsewhere, "done");
    for key in ["`listen` in [ddns]", "`workers` in [relay]"] {
        let said = format!("{key} has changed: it takes effect at the next start");
        operator.server.process.until_said(&said);
    }
    let said = operator.server.process.said();
    assert_eq!(said.matches("at the next start").count(), 2, "{said}");
    assert_ne!(operator.certificate(), certificate);
    let mut dig = Command::new("dig");
    dig.arg("@127.0.0.1");
    dig.args(["-p", &operator.server.ready.dns.port().to_string()]);
    dig.args(["+short", "TXT", &operator.server.ready.zone]);
    assert_eq!(output_of(dig), "\"Causeway demo\"\n");
    // As it was, nothing waits for a start.
    operator.reload(&good(), "done");
    let said = operator.server.process.said();
    assert_eq!(said.matches("at the next start").count(), 2, "{said}");
}

#[test]
fn how_long_visitors_may_take_at_the_end_is_what_was_said_last() {
    let patient = good().replace("drain = \"2s\"", "drain = \"1h\"");
    let mut operator = Operator::start(&patient);
    operator.reload(
        &good().replace("drain = \"2s\"", "drain = \"10ms\""),
        "done",
    );
    let device = operator.server.pair("mynas");
    let nginx = Nginx::start(&operator.server.place);
    let _agent = device.run(&nginx.origin());
    write_random(&nginx.file("large"), 32 * MIB);
    let mut curl = operator.server.curl();
    curl.args(["--limit-rate", "1k", "--max-time", "600"]);
    curl.args(["--output", "/dev/null"]);
    curl.arg(operator.server.url("mynas", "/large"));
    let _visitor = Process::start(curl);
    let opened = "causeway_relay_carriers_opened_total{kind=\"quic\"}";
    let deadline = Instant::now() + SOON;
    while operator.server.metric(opened) == 0 {
        assert!(Instant::now() < deadline, "nobody comes");
    }
    operator.server.process.signal("-TERM");
    assert_eq!(operator.server.process.ended().code(), Some(0));
}

#[test]
fn a_demo_and_an_agent_have_nothing_to_reload_and_go_on() {
    let server = Server::start();
    let nginx = Nginx::start(&server.place);
    write_random(&nginx.file("small"), 1000);
    let agent = server.pair("mynas").run(&nginx.origin());
    for process in [&server.process, &agent] {
        process.signal("-HUP");
        process.until_said("there is no configuration file, so there is nothing to reload");
    }
    server.get_file(&server.url("mynas", "/small"));
    let counter = "causeway_config_reloads_total{result=\"nothing\"}";
    assert_eq!(server.metric(counter), 1);
    assert_eq!(server.metric("causeway_config_last_reload_successful"), 1);
}

#[test]
fn a_terminal_that_is_closed_ends_what_runs_there_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut inside = up(&folder);
    inside.arg("--demo");
    for option in ["--front", "--http", "--dns", "--dot", "--admin"] {
        inside.args([option, "127.0.0.1:0"]);
    }
    let words = inside.get_args().map(|word| word.to_str().unwrap());
    let words = words.collect::<Vec<_>>().join(" ");
    let id = folder.path().join("id");
    let shell = format!(
        "echo $$ > {}; exec {} {words}",
        id.display(),
        causeway().display()
    );
    let mut script = Command::new("script");
    script.args(["--quiet", "--command", &shell, "/dev/null"]);
    let mut terminal = Process::start(script);
    terminal.until_said("ready");
    terminal.kill();
    let ready = folder.path().join("ready.json");
    let deadline = Instant::now() + SOON;
    while ready.exists() {
        if Instant::now() > deadline {
            let mut kill = Command::new("kill");
            kill.args(["-KILL", fs::read_to_string(id).unwrap().trim()]);
            output_of(kill);
            panic!("it goes on without its terminal");
        }
        std::thread::sleep(Duration::from_millis(10)); // there is no event; the outcome does not depend on it
    }
}
