//! What a kill leaves behind: everything that was acknowledged.

use std::time::{Duration, Instant};

use crate::dns::{dig, update};
use crate::world::Server;

#[test]
fn a_killed_server_comes_back_with_its_state_and_its_agents() {
    let mut server = Server::start();
    let device = server.pair("mynas");
    let agent = device.run("http://127.0.0.1:1");
    let key = server.verb(&["device", "key", "mynas"], "key");
    update(
        &server,
        "mynas",
        &key,
        "hostname=mynas.nas.localhost&myip=203.0.113.7",
    );
    let authority = std::fs::read(&server.ready.ca).unwrap();

    server.process.kill();
    agent.until_said("the relay does not answer");
    let again = server.restart();
    let restarted = Instant::now();
    while again.devices()[1]["state"] != "attached" {
        assert!(
            restarted.elapsed() < Duration::from_secs(5),
            "{}",
            agent.said()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(std::fs::read(&again.ready.ca).unwrap(), authority);
    assert_eq!(dig(&again, "mynas.nas.localhost", "A"), "203.0.113.7\n");
    assert_eq!(
        update(
            &again,
            "mynas",
            &key,
            "hostname=mynas.nas.localhost&myip=203.0.113.7"
        ),
        "nochg 203.0.113.7\n"
    );
    assert!(again.get(&again.url("demo", "/")).contains("Demo NAS"));
}

#[test]
fn an_update_is_there_after_a_kill_right_behind_its_good() {
    let mut server = Server::start();
    server.verb(&["device", "add", "mynas"], "code");
    let key = server.verb(&["device", "key", "mynas"], "key");
    for i in 1..=5 {
        let good = update(
            &server,
            "mynas",
            &key,
            &format!("hostname=mynas.nas.localhost&myip=203.0.113.{i}"),
        );
        server.process.kill();
        assert_eq!(good, format!("good 203.0.113.{i}\n"));
        server = server.restart();
        assert_eq!(
            dig(&server, "mynas.nas.localhost", "A"),
            format!("203.0.113.{i}\n")
        );
    }
}

#[test]
fn a_pairing_is_there_after_a_kill_right_behind_its_answer() {
    let mut server = Server::start();
    let device = server.pair("mynas");
    server.process.kill();
    server = server.restart();
    let _agent = device.run("http://127.0.0.1:1");
    assert_eq!(server.devices()[1]["state"], "attached");
}

#[test]
fn a_killed_agent_is_back_within_two_seconds_of_its_restart() {
    let server = Server::start();
    let device = server.pair("mynas");
    let mut agent = device.run("http://127.0.0.1:1");
    agent.kill();
    let restarted = Instant::now();
    let _agent = device.run("http://127.0.0.1:1");
    let mut curl = server.curl();
    curl.args([
        "--write-out",
        "%{http_code}",
        "--output",
        "/dev/null",
        &server.url("mynas", "/"),
    ]);
    assert_eq!(
        crate::process::output_of(curl),
        "502",
        "reached, though its service is down"
    );
    assert!(
        restarted.elapsed() < Duration::from_secs(2),
        "{:?}",
        restarted.elapsed()
    );
}
