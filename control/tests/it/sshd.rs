//! A real ssh server, and clients of it.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Process, output_of};

/// A port that nobody has now, for a program that cannot say which it was given.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// An ssh server with keys of its own, for whoever runs this.
pub(crate) struct Sshd {
    folder: PathBuf,
    pub(crate) port: u16,
    _process: Process,
}

impl Sshd {
    pub(crate) fn start(folder: &Path) -> Self {
        let path = |name: &str| folder.join(name).display().to_string();
        let port = free_port();
        for key in ["host", "user"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", &path(key)]);
            output_of(keygen);
        }
        fs::create_dir_all("/run/sshd").unwrap(); // where it becomes another user; the service would make it
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\n\
             UsePAM no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n",
            path("host"),
            path("user.pub"),
        );
        fs::write(folder.join("sshd.conf"), config).unwrap();
        let mut sshd = Command::new("/usr/sbin/sshd"); // it insists on a whole path
        sshd.args(["-D", "-e", "-f", &path("sshd.conf")]);
        let process = Process::start(sshd);
        process.until_said("Server listening on");
        Self {
            folder: folder.to_owned(),
            port,
            _process: process,
        }
    }

    /// `program` is ssh, scp or sftp; it goes there by way of what a command's input and output lead to, or straight.
    pub(crate) fn client(&self, program: &str, way: Option<&str>) -> Command {
        let mut client = Command::new(program);
        client.args(self.options(way));
        client
    }

    /// The options of such a client.
    pub(crate) fn options(&self, way: Option<&str>) -> Vec<String> {
        let way = match way {
            Some(way) => format!("ProxyCommand={way}"),
            None => format!("Port={}", self.port),
        };
        let options = [
            "BatchMode=yes".to_owned(),
            "StrictHostKeyChecking=no".to_owned(),
            "UserKnownHostsFile=/dev/null".to_owned(),
            "LogLevel=ERROR".to_owned(),
            format!("IdentityFile={}", self.folder.join("user").display()),
            way,
        ];
        let options = options.into_iter();
        let options = options.flat_map(|option| ["-o".to_owned(), option]);
        ["-F", "none"]
            .map(str::to_owned)
            .into_iter()
            .chain(options)
            .collect()
    }
}
