//! Update clients as Debian has them, with the settings that their manuals name: the server has the ports 53 and 443, and the
//! system knows where the cloud is.

mod addresses;
mod certificates;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use tempfile::TempDir;

use crate::process::{output_of, run};
use crate::world::{Place, Server};

const ZONE: &str = "causeway.example";
const CLOUD: &str = "cloud.causeway.example";
const NAME: &str = "mynas.causeway.example";

/// A server in a namespace of its own, and a device there with both its keys.
struct Scene {
    server: Server,
    /// What clients have for `/etc/hosts`.
    hosts: PathBuf,
    /// What they leave behind goes with the test.
    folder: TempDir,
    addresses: Keys,
    challenges: Keys,
}

/// What `causeway device key --json` prints for one duty.
#[derive(Deserialize)]
struct Keys {
    key: String,
    tsig: Tsig,
}

/// The same key, for clients that sign.
#[derive(Deserialize)]
struct Tsig {
    algorithm: String,
    name: String,
    secret: String,
}

impl Scene {
    fn start() -> Self {
        let options = [
            "--zone",
            ZONE,
            "--front",
            "127.0.0.1:443",
            "--dns",
            "127.0.0.1:53",
        ];
        let server = Server::start_with(Place::namespace(), &options);
        server.verb(&["device", "add", "mynas"], "code");
        let keys = |duty| {
            let verb = ["device", "key", "mynas", "--for", duty, "--json"];
            serde_json::from_slice(&server.causeway(&verb).stdout).unwrap()
        };
        let (addresses, challenges) = (keys("addresses"), keys("challenges"));
        let folder = tempfile::tempdir().unwrap();
        let hosts = folder.path().join("hosts");
        let known = format!("127.0.0.1 localhost {CLOUD} ns1.{ZONE}\n");
        fs::write(&hosts, known).unwrap();
        Self {
            server,
            hosts,
            folder,
            addresses,
            challenges,
        }
    }

    /// A client's program, where the cloud's name is known.
    fn client(&self, program: &str) -> Command {
        let mut command = self.server.place.command("sh");
        let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
        command.args(["-c", script]).arg(&self.hosts).arg(program);
        command.current_dir(self.folder.path());
        command
    }

    /// A file of a client, for its owner alone: some have keys in them, and insist.
    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// The authority that clients have to trust.
    fn ca(&self) -> &Path {
        &self.server.ready.ca
    }

    /// What the next query hears.
    fn dig(&self, name: &str, kind: &str) -> String {
        let mut dig = self.client("dig");
        let server = format!("@{CLOUD}");
        dig.args([&server, name, kind, "+norecurse", "+tries=1", "+short"]);
        output_of(dig)
    }
}

/// Runs a client to its end, and gives what it has said.
fn said_by(client: Command, is_content: bool) -> String {
    let output = run(client);
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert_eq!(output.status.success(), is_content, "{said}");
    said
}
