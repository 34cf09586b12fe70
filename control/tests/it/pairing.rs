//! An agent becomes a device: once, in time, and with its own key.

use std::io::Write as _;
use std::process::Stdio;

use crate::process::{output_of, run};
use crate::world::{Device, Server, causeway_agent};

fn fresh(server: &Server, name: &str) -> Device {
    Device {
        state: server.folder.path().join(name),
        place: server.place.clone(),
    }
}

#[test]
fn a_code_works_once_and_a_wrong_one_never() {
    let server = Server::start();
    let code = server.verb(&["device", "add", "mynas"], "code");
    for wrong in ["AAAA-AAAA-AAAA-AAAA", "nonsense"] {
        let output = run(fresh(&server, "wrong").pair_command(&server, wrong));
        assert!(!output.status.success());
    }
    let paired =
        run(fresh(&server, "mynas").pair_command(&server, &code.to_lowercase().replace('-', " ")));
    assert!(
        paired.status.success(),
        "{}",
        String::from_utf8_lossy(&paired.stderr)
    );
    // The same device may ask again, as after a lost answer; another may not.
    assert!(
        run(fresh(&server, "mynas").pair_command(&server, &code))
            .status
            .success()
    );
    let thief = run(fresh(&server, "thief").pair_command(&server, &code));
    assert!(!thief.status.success());
    let error = String::from_utf8(thief.stderr).unwrap();
    assert!(error.contains("wrong, used or expired"), "{error}");

    assert_eq!(
        server.metric("causeway_control_refusals_total{code=\"wrong_code\"}"),
        2
    );
    let said = server.process.said();
    assert!(
        said.contains("this code is wrong") && said.contains("this code has been used already"),
        "{said}"
    );
    assert!(!said.contains(&code), "a code is in the log");
}

#[test]
fn a_device_that_pairs_under_another_name_gets_its_certificate() {
    let server = Server::start();
    for name in ["mynas", "garage"] {
        let code = server.verb(&["device", "add", name], "code");
        let device = fresh(&server, "device");
        output_of(device.pair_command(&server, &code));
        let _agent = device.run("http://127.0.0.1:1");
        let mut curl = server.curl();
        curl.args(["--output", "/dev/null", "--write-out", "%{http_code}"]);
        curl.arg(server.url(name, "/"));
        assert_eq!(output_of(curl), "502", "{name}");
        output_of(server.command(&["device", "remove", name]));
    }
}

#[test]
fn the_code_can_come_by_standard_input() {
    let server = Server::start();
    let code = server.verb(&["device", "add", "mynas"], "code");
    let device = fresh(&server, "mynas");
    let mut child = device
        .pair_command(&server, "-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{code}").unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
    assert_eq!(server.devices()[1]["name"], "mynas");
}

#[test]
fn a_taken_name_and_a_reserved_one_are_refused_with_a_sentence() {
    let server = Server::start();
    for (name, sentence) in [
        ("demo", "taken by a paired device"),
        ("cloud", "reserved"),
        ("my_nas", "only the letters"),
        ("a-", "hyphen"),
    ] {
        let output = server.causeway(&["device", "add", name]);
        assert!(!output.status.success());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(sentence), "{name}: {error}");
    }
}

#[test]
fn an_agent_that_is_not_paired_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(causeway_agent());
    command
        .args(["run", "--origin", "http://127.0.0.1:1", "--state"])
        .arg(folder.path());
    let output = run(command);
    assert!(!output.status.success());
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("causeway-agent pair")
    );
}

#[test]
fn a_cloud_with_another_certificate_is_not_paired_with() {
    let (server, other) = (Server::start(), Server::start());
    let code = server.verb(&["device", "add", "mynas"], "code");
    let mut command = std::process::Command::new(causeway_agent());
    command
        .args([
            "pair",
            "--control",
            &server.url("cloud", ""),
            "--code",
            &code,
            "--ca",
        ])
        .arg(&other.ready.ca);
    command
        .arg("--state")
        .arg(server.folder.path().join("mynas"));
    let output = run(command);
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("certificate"), "{error}");
    // The code was not shown to the stranger and still works.
    assert!(
        run(fresh(&server, "mynas").pair_command(&server, &code))
            .status
            .success()
    );
}

#[test]
fn the_private_keys_stay_on_the_device() {
    let server = Server::start();
    let device = server.pair("mynas");
    let _agent = device.run("http://127.0.0.1:1");
    for name in ["identity.pem", "tls.pem"] {
        let pem = std::fs::read_to_string(device.state.join(name)).unwrap();
        let secret = pem.lines().nth(1).unwrap().to_owned();
        let mut grep = std::process::Command::new("grep");
        grep.args([
            "--recursive",
            "--binary-files=text",
            "--files-with-matches",
            "--fixed-strings",
            &secret,
        ]);
        grep.arg(&server.ready.state);
        assert_eq!(
            run(grep).status.code(),
            Some(1),
            "{name} is found on the server"
        );
    }
    let mut openssl = std::process::Command::new("openssl");
    openssl
        .args(["pkey", "-noout", "-text", "-in"])
        .arg(device.state.join("tls.pem"));
    assert!(output_of(openssl).contains("prime256v1"));
}
