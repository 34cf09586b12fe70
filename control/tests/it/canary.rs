//! The promise above all: what passes through leaves no trace.

use std::process::Command;

use crate::process::{output_of, run};
use crate::world::{Place, Server};

const UP: &str = "canary-that-flew-up-7f3a9c41";
const DOWN: &str = "canary-that-flew-down-b20d5e88";

#[test]
fn a_canary_in_each_direction_is_found_nowhere() {
    for options in [&[][..], &["--no-udp"]] {
        let mut server = Server::start_with(Place::Host, options);
        let device = server.pair("mynas");
        let mut agent = device.run("tcp://127.0.0.1:1");
        let file = server.folder.path().join("canary");
        std::fs::write(&file, UP.repeat(1000)).unwrap();
        let mut curl = server.curl();
        curl.args([
            "--fail",
            "--user-agent",
            UP,
            "--cookie",
            &format!("c={UP}"),
            "--upload-file",
        ])
        .arg(&file);
        curl.arg(server.url("demo", &format!("/files/{DOWN}?{UP}")));
        output_of(curl);
        // Down: the upload itself, and a listing with the other canary in it.
        assert!(
            server
                .get(&server.url("demo", &format!("/files/{DOWN}")))
                .contains(UP)
        );
        assert!(server.get(&server.url("demo", "/files")).contains(DOWN));
        std::fs::remove_file(&file).unwrap();

        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            &format!("http://{}/metrics", server.ready.admin),
        ]);
        let metrics = output_of(curl);
        let logs = server.process.said() + &agent.said();
        for canary in [UP, DOWN] {
            assert!(!metrics.contains(canary), "in a metric");
            assert!(!logs.contains(canary), "in a log line");
        }
        // At rest and after a kill, when nothing has been tidied up.
        for _ in 0..2 {
            let mut grep = Command::new("grep");
            grep.args([
                "--recursive",
                "--binary-files=text",
                "--files-with-matches",
                "canary-that-flew",
            ]);
            grep.arg(&server.ready.state).arg(&device.state);
            let found = run(grep);
            assert_eq!(
                found.status.code(),
                Some(1),
                "{}",
                String::from_utf8_lossy(&found.stdout)
            );
            server.process.kill();
            agent.kill();
        }
    }
}
