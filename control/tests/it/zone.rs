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
