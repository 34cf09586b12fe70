//! An ssh server of our own, which a device has for apps, and the clients that go there with `causeway-connect` or without.

use std::env;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::timeout;

use super::tunnel::{Service, Tunnel};
use super::{Carrier, Ends, READY, Watched, WorldError, find_program};
use crate::part::up::Scarce;
use crate::process::{ChildError, Program};

const DEVICE: &str = "mynas";

/// The service's name for apps.
const SERVICE: &str = "ssh";

/// How long a file may be on its way.
const LONG: Duration = Duration::from_secs(300);

/// How a client gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    Connect,
}

/// Why there is no ssh.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SshError {
    #[error("{0} is not here; to install it: {1}")]
    NotInstalled(&'static str, &'static str),
    #[error(transparent)]
    World(#[from] WorldError),
    #[error(transparent)]
    Child(#[from] ChildError),
    #[error("{0} failed: {1}")]
    Failed(&'static str, String),
    #[error("files for ssh cannot be made or read: {0}")]
    Files(#[from] io::Error),
    #[error("{0} has taken more than {time} s", time = LONG.as_secs())]
    Late(&'static str),
}

/// The server, and the tunnel of the device that has it.
#[derive(Debug)]
pub(crate) struct Ssh {
    tunnel: Tunnel,
    _sshd: Program,
    sshd_at: SocketAddr,
    /// `causeway-connect` and its arguments, as a shell has them.
    proxy_command: String,
    user: String,
    folder: TempDir,
}

impl Ssh {
    pub(crate) async fn start(connect: Option<PathBuf>) -> Result<Self, SshError> {
        let beside = env::current_exe()?.parent().map(Path::to_owned);
        let found = connect.or_else(|| find_program("causeway-connect", beside.as_deref()));
        let connect = found.ok_or(SshError::NotInstalled(
            "causeway-connect",
            "cargo build --profile dist -p connect",
        ))?;
        let installs = "apt-get install openssh-server openssh-client";
        let sshd = find_program("sshd", None).ok_or(SshError::NotInstalled("sshd", installs))?;
        let folder = tempfile::tempdir()?;
        let (sshd, sshd_at) = start_sshd(&sshd, folder.path()).await?;
        let file = folder.path().join("agent.toml");
        let described =
            format!("[services.{SERVICE}]\norigin = \"tcp://{sshd_at}\"\nreach = \"apps\"\n");
        fs::write(&file, described)?;
        let service = Service {
            origin: format!("tcp://{sshd_at}"),
            http3: None,
            file: Some(file),
            public: None,
        };
        let (ends, path) = (Ends::together(), folder.path());
        let tunnel = Tunnel::start(
            path,
            Carrier::Quic,
            DEVICE,
            service,
            &ends,
            Scarce::default(),
        );
        let tunnel = tunnel.await?;
        let ready = &tunnel.server.ready;
        let proxy_command = format!(
            "{} --at {} --ca {} {DEVICE}.{} {SERVICE} -W",
            connect.display(),
            ready.front,
            ready.ca.display(),
            ready.zone
        );
        let user = said("whoami", Command::new("whoami"))?;
        Ok(Self {
            tunnel,
            _sshd: sshd,
            sshd_at,
            proxy_command,
            user: user.trim().to_owned(),
            folder,
        })
    }

    pub(crate) fn watched(&self) -> Watched {
        self.tunnel.watched()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A client that runs `command` there.
    pub(crate) fn run(&self, way: Way, command: &str) -> Command {
        let mut ssh = self.client("ssh", way);
        ssh.args([&format!("{}@127.0.0.1", self.user), command]);
        ssh
    }

    /// Brings `file` there, in the place of what may be there as `there`.
    pub(crate) async fn bring(&self, way: Way, file: &Path, there: &Path) -> Result<(), SshError> {
        let mut scp = self.client("scp", way);
        scp.arg("-q").arg(file);
        scp.arg(format!("{}@127.0.0.1:{}", self.user, there.display()));
        let mut scp = Program::start("scp", &mut scp, self.folder.path())?;
        let finished = timeout(LONG, scp.finished()).await;
        finished.map_err(|_| SshError::Late("scp"))??;
        Ok(())
    }

    fn client(&self, program: &str, way: Way) -> Command {
        let mut client = Command::new(program);
        client.args(["-F", "none"]);
        let way = match way {
            Way::Direct => format!("Port={}", self.sshd_at.port()),
            Way::Connect => format!("ProxyCommand={}", self.proxy_command),
        };
        for option in [
            "BatchMode=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            &format!("IdentityFile={}", self.folder.path().join("user").display()),
            &way,
        ] {
            client.args(["-o", option]);
        }
        client
    }
}

async fn start_sshd(sshd: &Path, folder: &Path) -> Result<(Program, SocketAddr), SshError> {
    let path = |name: &str| folder.join(name).display().to_string();
    for key in ["host", "user"] {
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", &path(key)]);
        said("ssh-keygen", keygen)?;
    }
    // Where it becomes another user as root; its service would make that.
    let _ = fs::create_dir_all("/run/sshd");
    // It cannot say which port it was given.
    let at = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let configuration = format!(
        "ListenAddress {at}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n\
         Subsystem sftp internal-sftp\n",
        path("host"),
        path("user.pub"),
    );
    fs::write(folder.join("sshd.conf"), configuration)?;
    let mut command = Command::new(sshd);
    command.args(["-D", "-e", "-f", &path("sshd.conf")]);
    let mut program = Program::start("sshd", &mut command, folder)?;
    let ready = timeout(READY, program.until_said("Server listening on")).await;
    ready.map_err(|_| SshError::Late("sshd"))??;
    Ok((program, at))
}

/// What a program says that ends at once.
fn said(who: &'static str, mut command: Command) -> Result<String, SshError> {
    let output = command.stdin(Stdio::null()).output()?;
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(SshError::Failed(who, text(&output.stderr))),
    }
}
