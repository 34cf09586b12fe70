//! The zone as a file, by the operator's verb.

use std::fs;
use std::process::Command;

use crate::dns::update;
use crate::process::output_of;
use crate::world::Server;

/// More than the server says at once.
const DEVICES: usize = 2100;

#[test]
fn the_zone_is_exported_from_the_running_server_and_others_read_it() {
    let mut server = Server::start();
    let key = server.verb(&["device", "add", "mynas"], "code");
    assert!(!key.is_empty());
    server.process.kill();
    let refused = server.causeway(&["zone", "export"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && refused.stdout.is_empty());
    assert!(
        said.contains("a running server has the contents of the zone"),
        "{said}"
    );

    let list = server.folder.path().join("list");
    let names: String = (0..DEVICES).map(|number| format!("d{number}\n")).collect();
    fs::write(&list, names).unwrap();
    let imported = server.causeway(&["device", "import", list.to_str().unwrap()]);
    assert!(imported.status.success(), "{imported:?}");
    let server = server.restart();
    let key = server.verb(&["device", "key", "mynas"], "key");
    let asked = "hostname=mynas.nas.localhost&myip=203.0.113.7,2001:db8::7";
    assert!(update(&server, "mynas", &key, asked).starts_with("good"));

    let exported = server.causeway(&["zone", "export"]);
    assert!(exported.status.success(), "{exported:?}");
    assert!(exported.stderr.is_empty(), "a bar is for terminals");
    let text = String::from_utf8(exported.stdout).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines[0].starts_with("nas.localhost. 60 IN SOA "),
        "{}",
        lines[0]
    );
    for line in [
        "nas.localhost. 60 IN TXT \"Causeway demo\"",
        "mynas.nas.localhost. 60 IN A 203.0.113.7",
        "*.mynas.nas.localhost. 60 IN AAAA 2001:db8::7",
        "d0.nas.localhost. 60 IN A 127.0.0.1",
        "d999.nas.localhost. 60 IN A 127.0.0.1",
    ] {
        assert!(lines.contains(&line), "{line}");
    }
    let under_the_zone = lines.iter().filter(|line| line.starts_with('d')).count();
    assert!(under_the_zone > DEVICES, "{under_the_zone}");
    let file = server.folder.path().join("zone");
    fs::write(&file, &text).unwrap();
    let mut check = Command::new("named-checkzone");
    check.args(["-i", "local", "nas.localhost"]).arg(&file);
    assert!(output_of(check).contains("OK"));
}

/// A server gets what another has written, and what it does not know is said before anything is changed.
#[test]
fn devices_are_where_a_zones_file_says_that_they_are() {
    const MANY: usize = 1100; // more than the server takes at once
    let mut server = Server::start();
    server.process.kill();
    let list = server.folder.path().join("list");
    let names: String = (0..MANY).map(|number| format!("d{number}\n")).collect();
    fs::write(&list, names + "home\n").unwrap();
    let imported = server.causeway(&["device", "import", list.to_str().unwrap()]);
    assert!(imported.status.success(), "{imported:?}");
    let server = server.restart();
    let file = server.folder.path().join("zone");
    let write = |more: &str| {
        let devices = (0..MANY).map(|number| format!("d{number} A 203.0.113.{}\n", number % 250));
        let devices: String = devices.collect();
        let head =
            "$ORIGIN nas.localhost.\n@ 60 IN SOA ns1 hostmaster 1 2 3 4 5\nrelay A 198.51.100.1\n";
        fs::write(&file, format!("{head}home A 198.51.100.1\n{devices}{more}")).unwrap();
    };
    let import = |options: &[&str]| {
        let output =
            server.causeway(&[&["zone", "import", file.to_str().unwrap()], options].concat());
        let said = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
        (
            output.status.success(),
            said(&output.stdout),
            said(&output.stderr),
        )
    };
    let first = || crate::dns::dig(&server, "d0.nas.localhost", "A");

    // Nothing is half done.
    write("nobody A 203.0.113.1\nd1 A 203.0.113.255\n");
    let (is_done, out, error) = import(&[]);
    assert!(
        !is_done && error.contains("nobody: no device has this name here"),
        "{error}"
    );
    assert!(
        error.contains("d1: ") && error.contains("nothing was changed"),
        "{error}"
    );
    assert!(out.contains(&format!("to set: {}\n", MANY - 1)), "{out}");
    assert_eq!(first(), "127.0.0.1\n");
    write("nobody A 203.0.113.1 and more\n");
    let (is_done, out, error) = import(&["--skip"]);
    assert!(
        !is_done && out.is_empty() && error.contains("no master file"),
        "{error}"
    );
    fs::write(
        &file,
        "other.test. 60 IN SOA a. b. 1 2 3 4 5\nx.other.test. 60 IN A 203.0.113.1\n",
    )
    .unwrap();
    let (is_done, _, error) = import(&[]);
    assert!(
        !is_done && error.contains("this server's is nas.localhost"),
        "{error}"
    );

    write("nobody A 203.0.113.1\n");
    let (is_done, out, _) = import(&["--skip", "--dry-run", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(
        is_done && told["done"] == false && told["set"] == MANY,
        "{out}"
    );
    assert_eq!(first(), "127.0.0.1\n");
    let (is_done, out, error) = import(&["--skip"]);
    assert!(is_done, "{error}");
    for line in [
        format!("set: {MANY}\n"),
        "led to the file's relays: 1\n".to_owned(),
        "passed over: 1 A, 1 SOA\n".to_owned(),
    ] {
        assert!(out.contains(&line), "{out}");
    }
    assert_eq!(first(), "203.0.113.0\n");
    assert_eq!(
        crate::dns::dig(&server, "home.nas.localhost", "A"),
        "127.0.0.1\n"
    );

    // What this server writes down it takes again, and there is nothing to do.
    let exported = server.causeway(&["zone", "export"]);
    fs::write(&file, exported.stdout).unwrap();
    let (is_done, out, error) = import(&[]);
    assert!(
        is_done && out.contains(&format!("set already: {MANY}\n")),
        "{out}{error}"
    );
    assert!(out.starts_with("set: 0\n"), "{out}");
}
