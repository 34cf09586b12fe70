//! How the programs of others are told to serve the zone, each as its own documentation has it for speed, and with one thread.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::NameServerKind;
use crate::process::Program;
use crate::world::WorldError;
use crate::world::million::ZONE;

/// Starts one of them at `listen` with the zone of the file `zone`; if it is to be signed, Knot does that, and for others it has
/// been done. Everything it writes is in `folder`.
pub(super) fn start(
    kind: NameServerKind,
    program: &Path,
    listen: SocketAddr,
    zone: &Path,
    signs: bool,
    folder: &Path,
) -> Result<Program, WorldError> {
    let place = Place {
        ip: listen.ip().to_string(),
        port: listen.port(),
        zone: zone.display().to_string(),
        folder: folder.display().to_string(),
    };
    let file = folder.join("configuration");
    let path = file.display().to_string();
    let (text, arguments) = match kind {
        NameServerKind::Nsd => (nsd(&place), vec!["-d".to_owned(), "-c".to_owned(), path]),
        NameServerKind::Knot => (knot(&place, signs), vec!["-c".to_owned(), path]),
        NameServerKind::Bind => {
            // It writes the zone anew in the file's place when it has changed.
            let own = folder.join("zone");
            fs::hard_link(zone, &own).or_else(|_| fs::copy(zone, &own).map(drop))?;
            let place = Place {
                zone: own.display().to_string(),
                ..place
            };
            let arguments = ["-f", "-n", "1", "-c", &path].map(str::to_owned);
            (bind(&place), arguments.into())
        }
        NameServerKind::Pdns => {
            fs::write(folder.join("named.conf"), pdns_zone(&place))?;
            fs::write(folder.join("pdns.conf"), pdns(&place))?;
            let folder = format!("--config-dir={}", place.folder);
            let arguments = [
                folder.as_str(),
                "--daemon=no",
                "--guardian=no",
                "--disable-syslog",
                "--loglevel=3",
                "--write-pid=no",
            ];
            (String::new(), arguments.map(str::to_owned).into())
        }
        NameServerKind::Causeway | NameServerKind::Empty => (String::new(), Vec::new()),
    };
    fs::write(&file, text)?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder);
    Ok(Program::start(kind.name(), &mut command, folder)?)
}

/// What every configuration says.
struct Place {
    ip: String,
    port: u16,
    zone: String,
    folder: String,
}

fn nsd(place: &Place) -> String {
    let Place {
        ip,
        port,
        zone,
        folder,
    } = place;
    format!(
        r#"server:
    ip-address: {ip}@{port}
    server-count: 1
    username: ""
    chroot: ""
    database: ""
    zonesdir: "{folder}"
    pidfile: "{folder}/pid"
    xfrdfile: "{folder}/xfrd"
    zonelistfile: "{folder}/zones"
    rrl-ratelimit: 0
    hide-version: yes
remote-control:
    control-enable: no
zone:
    name: {ZONE}
    zonefile: "{zone}"
"#
    )
}

fn knot(place: &Place, signs: bool) -> String {
    let Place {
        ip,
        port,
        zone,
        folder,
    } = place;
    // Without salt and iterations it denies by NSEC3 as ours does.
    let policy = match signs {
        true => {
            "policy:
  - id: signed
    algorithm: ecdsap256sha256
    nsec3: on
    nsec3-iterations: 0
    nsec3-salt-length: 0
"
        }
        false => "",
    };
    let signing = match signs {
        true => "    dnssec-signing: on\n    dnssec-policy: signed\n",
        false => "",
    };
    format!(
        r#"server:
    rundir: "{folder}"
    listen: {ip}@{port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: warning
database:
    storage: "{folder}"
acl:
  - id: here
    address: {ip}
    action: update
{policy}zone:
  - domain: {ZONE}
    file: "{zone}"
    zonefile-sync: -1
    zonefile-load: whole
    journal-content: changes
    acl: here
{signing}"#
    )
}

fn bind(place: &Place) -> String {
    let Place {
        ip,
        port,
        zone,
        folder,
    } = place;
    format!(
        r#"options {{
    directory "{folder}";
    pid-file "{folder}/pid";
    session-keyfile "{folder}/key";
    listen-on port {port} {{ {ip}; }};
    listen-on-v6 {{ none; }};
    recursion no;
    dnssec-validation no;
    minimal-responses yes;
    allow-query {{ any; }};
    notify no;
    querylog no;
}};
controls {{ }};
logging {{ category default {{ default_stderr; }}; category update {{ null; }}; }};
zone "{ZONE}" {{ type primary; file "{zone}"; check-names ignore; allow-update {{ {ip}; }}; }};
"#
    )
}

fn pdns_zone(place: &Place) -> String {
    format!(
        "zone \"{ZONE}\" {{ type master; file \"{}\"; }};\n",
        place.zone
    )
}

fn pdns(place: &Place) -> String {
    let Place {
        ip, port, folder, ..
    } = place;
    format!(
        "launch=bind
bind-config={folder}/named.conf
local-address={ip}
local-port={port}
socket-dir={folder}
receiver-threads=1
distributor-threads=1
disable-axfr=yes
"
    )
}
