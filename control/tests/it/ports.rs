//! Every port under nonsense, ports that are taken, and configurations that are wrong.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::process::run;
use crate::world::{Server, causeway};

/// Sends `portions` a second apart until the other side closes; how long that took.
fn until_closed(address: SocketAddr, portions: &[&[u8]]) -> Duration {
    let start = Instant::now();
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let mut portions = portions.iter().cycle();
    loop {
        if let Some(portion) = portions.next()
            && stream.write_all(portion).is_err()
        {
            return start.elapsed();
        }
        match stream.read(&mut [0; 4096]) {
            Ok(0) => return start.elapsed(),
            Err(error)
                if !matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                return start.elapsed();
            }
            Ok(_) | Err(_) => {}
        }
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{address} never closes"
        );
    }
}

#[test]
fn garbage_silence_and_a_byte_a_second_are_closed_on_every_port() {
    let server = Server::start();
    let ready = &server.ready;
    let before = server.process.memory().0;
    std::thread::scope(|scope| {
        for address in [ready.front, ready.http, ready.admin, ready.dns, ready.dot] {
            scope.spawn(move || {
                assert!(
                    until_closed(address, &[&[]]) < Duration::from_secs(15),
                    "{address} silence"
                );
            });
            scope.spawn(move || {
                let took = until_closed(address, &[b"G"]);
                assert!(
                    took < Duration::from_secs(15),
                    "{address} a byte a second: {took:?}"
                );
            });
            scope.spawn(move || {
                let took = until_closed(address, &[&[0x55; 4000]]);
                assert!(
                    took < Duration::from_secs(15),
                    "{address} garbage: {took:?}"
                );
            });
        }
        // A TLS handshake with the cloud, and then nothing.
        scope.spawn(|| {
            let mut openssl = Command::new("openssl");
            openssl.args(["s_client", "-quiet", "-connect", &ready.front.to_string()]);
            openssl.args(["-servername", "cloud.nas.localhost", "-alpn", "http/1.1"]);
            let start = Instant::now();
            run(openssl);
            assert!(start.elapsed() < Duration::from_secs(30));
        });
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for length in [0, 1, 11, 12, 13, 100, 512, 1232, 1500, 9000] {
            for octet in [0, 0x45, 0xc3, 0xff] {
                udp.send_to(&vec![octet; length], ready.front).unwrap();
                udp.send_to(&vec![octet; length], ready.dns).unwrap();
            }
        }
    });
    let after = server.process.memory().0;
    assert!(
        after < before + 16 * 1024 * 1024,
        "{before} before, {after} after"
    );
    assert!(server.get(&server.url("demo", "/")).contains("Demo NAS"));
}

#[test]
fn a_port_in_use_is_named_with_the_option_that_changes_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for option in ["--front", "--http", "--dns", "--dot", "--admin"] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(causeway());
        command.args(["up", "--demo", "--state"]).arg(folder.path());
        for free in ["--front", "--http", "--dns", "--dot", "--admin"] {
            command.args([
                free,
                if free == option {
                    &address
                } else {
                    "127.0.0.1:0"
                },
            ]);
        }
        let output = run(command);
        assert!(!output.status.success());
        let error = String::from_utf8(output.stderr).unwrap();
        let said = error
            .lines()
            .find(|line| line.starts_with("causeway: "))
            .unwrap();
        assert!(
            said.contains(&address) && said.contains(option),
            "{option}: {said}"
        );
        assert_eq!(said.matches("in use").count(), 1, "{option}: {said}");
    }
}

#[test]
fn a_state_directory_in_use_and_one_of_another_zone_are_named() {
    let mut server = Server::start();
    let start = |options: &[&str]| {
        let mut command = Command::new(causeway());
        command.args([
            "up",
            "--demo",
            "--front",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
            "--dot",
            "127.0.0.1:0",
        ]);
        command
            .args(["--dns", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--state"])
            .arg(&server.ready.state);
        String::from_utf8(
            run({
                command.args(options);
                command
            })
            .stderr,
        )
        .unwrap()
    };
    assert!(start(&[]).contains("another causeway uses the state directory"));
    server.process.kill();
    assert!(start(&["--zone", "other.localhost"]).contains("belongs to the zone nas.localhost"));
}

#[test]
fn a_configuration_is_checked_with_file_line_and_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("causeway.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(causeway());
        command.arg("check").arg(&file);
        let output = run(command);
        (
            output.status.success(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    let good = "zone = \"nas.example.com\"\n[relay]\nfront = \"127.0.0.1:8443\"\n[ddns]\nlisten = \"127.0.0.1:5300\"\n";
    let (passed, said) = check(good);
    assert!(passed, "{said}");
    for (bad, line) in [
        (good.replace("front", "frond"), 3),
        (good.replace("[ddns]", "[ddsn]"), 4),
        (good.replace("127.0.0.1:8443", "192.0.2.7:8443"), 3),
        (good.replace("nas.example.com", "nas..example"), 1),
        (format!("{good}threads = 0\n"), 6),
        (
            format!(
                "{good}[[ddns.record]]\nname = \"demo\"\ntype = \"A\"\nvalue = \"192.0.2.1\"\n"
            ),
            6,
        ),
        (
            good.replace("listen = \"127.0.0.1:5300\"", "listen = \"127.0.0.1:8443\""),
            5,
        ),
    ] {
        let (passed, said) = check(&bad);
        assert!(!passed, "{bad}");
        assert!(
            said.contains(&format!("{}:{line}: ", file.display())),
            "{bad}{said}"
        );
    }
}
