//! How the programs of others are told to be two hops, each as its own documentation has it for much traffic.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::{PAUSE, Processes, Started};
use crate::entrance::Entrance;
use crate::process::{Namespace, Program};
use crate::world::peer::{self, Found, RatholeOver};
use crate::world::{Ends, READY, Watched, WorldError};

/// Connections that each hop may have at a time. HAProxy takes four descriptors for each where it splices.
const CONNECTIONS: u32 = 4000;

/// The port where bore's server expects its clients. It cannot be told another one.
const BORE: u16 = 7835;

/// What a visitor and its origin speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carries {
    Bytes,
    Datagrams,
}

/// What stands between two addresses.
struct Hop<'a> {
    namespace: Namespace,
    listen: SocketAddr,
    to: SocketAddr,
    carries: Carries,
    /// Its own, for its configuration and its log.
    folder: &'a Path,
}

impl Hop<'_> {
    /// As rathole's configurations have it.
    fn rathole_type(&self) -> &'static str {
        match self.carries {
            Carries::Bytes => "tcp",
            Carries::Datagrams => "udp",
        }
    }
}

/// Starts both hops of a peer.
pub(super) async fn start(
    found: &Found,
    ends: &Ends,
    origin: SocketAddr,
    carries: Carries,
    folder: &Path,
) -> Result<Started, WorldError> {
    let (near, far) = (ends.near, ends.far);
    // Where the two hops meet: a tunnel's agent dials, and of two proxies the first does.
    let meets = match &found.program {
        peer::Program::Rathole { .. }
        | peer::Program::Bore { .. }
        | peer::Program::Qbench { .. } => near,
        peer::Program::Haproxy { .. } | peer::Program::Nginx { .. } | peer::Program::Own => far,
    };
    let front = SocketAddr::from((near.address, free_port()?));
    let between = SocketAddr::from((meets.address, free_port()?));
    let folders = [folder.join("relay"), folder.join("agent")];
    for folder in &folders {
        fs::create_dir(folder)?;
    }
    let [relay, agent] = [
        Hop {
            namespace: near.namespace,
            listen: front,
            to: between,
            carries,
            folder: &folders[0],
        },
        Hop {
            namespace: far.namespace,
            listen: between,
            to: origin,
            carries,
            folder: &folders[1],
        },
    ];
    let (relay, agent) = match &found.program {
        peer::Program::Rathole { program, over } => {
            let transport = match over {
                RatholeOver::Tcp => Transport::default(),
                RatholeOver::Noise => Transport::noise(program)?,
                RatholeOver::Tls => Transport::tls(folder)?,
            };
            let started = rathole_server(program, &relay, &transport)?;
            (started, rathole_client(program, &agent, &transport)?)
        }
        peer::Program::Bore { program } => {
            let started = bore_server(program, &relay)?;
            until_listening((near.address, BORE).into()).await?;
            (started, bore_client(program, front, &agent)?)
        }
        peer::Program::Haproxy { program, splices } => {
            let started = haproxy(program, &relay, *splices)?;
            (started, haproxy(program, &agent, *splices)?)
        }
        peer::Program::Nginx { program, module } => {
            let started = nginx(program, module, &relay)?;
            (started, nginx(program, module, &agent)?)
        }
        peer::Program::Qbench { program, batch } => {
            let started = qbench(program, &relay, "relay", *batch)?;
            (started, qbench(program, &agent, "agent", *batch)?)
        }
        peer::Program::Own => return Err(io::Error::from(io::ErrorKind::Unsupported).into()),
    };
    let watched = Watched {
        relay: Some(relay.id()),
        agent: Some(agent.id()),
    };
    let processes = Processes::Programs { relay, agent };
    Ok((Entrance::plain(front), watched, processes))
}

/// One that nobody here listens at now; a new network namespace has none that is taken. Who is told of it must be quicker than others.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?
        .local_addr()?
        .port())
}

/// Waits, but not for ever: who needs it says best why it is not there.
async fn until_listening(address: SocketAddr) -> io::Result<()> {
    let begun = Instant::now();
    while let Err(error) = TcpStream::connect(address).await {
        if begun.elapsed() > READY {
            return Err(error);
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Runs `program` with its arguments in the hop's folder.
fn run(
    who: &'static str,
    program: &Path,
    hop: &Hop<'_>,
    arguments: &[&str],
) -> Result<Program, WorldError> {
    let mut command = hop.namespace.command(program);
    command
        .args(arguments)
        .env("RUST_LOG", "warn")
        .current_dir(hop.folder);
    Ok(Program::start(who, &mut command, hop.folder)?)
}

/// The same with a configuration, whose file's name stands last.
fn run_configured(
    who: &'static str,
    program: &Path,
    hop: &Hop<'_>,
    option: &str,
    configuration: &str,
) -> Result<Program, WorldError> {
    let file = hop.folder.join("configuration.toml"); // rathole looks at the ending
    fs::write(&file, configuration)?;
    run(who, program, hop, &[option, &file.to_string_lossy()])
}

/// What rathole's two ends speak, in their configurations.
#[derive(Default)]
struct Transport {
    server: String,
    client: String,
}

impl Transport {
    fn noise(program: &Path) -> io::Result<Self> {
        let said = Command::new(program).arg("--genkey").output()?.stdout;
        let said = String::from_utf8_lossy(&said);
        let keys: Vec<_> = said
            .lines()
            .filter(|line| !line.is_empty() && !line.ends_with(':'))
            .collect();
        let [private, public] = keys[..] else {
            return Err(io::Error::other("rathole --genkey has not said two keys"));
        };
        let end = |end, key| {
            format!("[{end}.transport]\ntype = \"noise\"\n[{end}.transport.noise]\n{key}\n")
        };
        Ok(Self {
            server: end("server", format!("local_private_key = \"{private}\"")),
            client: end("client", format!("remote_public_key = \"{public}\"")),
        })
    }

    /// With a certificate for its own name that it has signed itself.
    fn tls(folder: &Path) -> io::Result<Self> {
        const HOST: &str = "relay.localhost";
        let path = |name: &str| folder.join(name).display().to_string();
        let (key, certificate, identity) = (
            path("key.pem"),
            path("certificate.pem"),
            path("identity.pfx"),
        );
        let name = format!("/CN={HOST}");
        let alternative = format!("subjectAltName=DNS:{HOST}");
        let sign = [
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", &name,
        ];
        let to = [
            "-addext",
            &alternative,
            "-keyout",
            &key,
            "-out",
            &certificate,
        ];
        openssl(&[&sign[..], &to].concat())?;
        let pack = ["pkcs12", "-export", "-inkey", &key, "-in", &certificate];
        openssl(&[&pack[..], &["-passout", "pass:measured", "-out", &identity]].concat())?;
        let end = |end, settings| {
            format!("[{end}.transport]\ntype = \"tls\"\n[{end}.transport.tls]\n{settings}\n")
        };
        let pack = format!("pkcs12 = \"{identity}\"\npkcs12_password = \"measured\"");
        let trust = format!("trusted_root = \"{certificate}\"\nhostname = \"{HOST}\"");
        Ok(Self {
            server: end("server", pack),
            client: end("client", trust),
        })
    }
}

fn openssl(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("openssl").args(arguments).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "openssl {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        ))),
    }
}

fn rathole_server(
    program: &Path,
    hop: &Hop<'_>,
    transport: &Transport,
) -> Result<Program, WorldError> {
    let configuration = format!(
        r#"[server]
bind_addr = "{}"
default_token = "measured"
{}[server.services.plain]
type = "{}"
bind_addr = "{}"
"#,
        hop.to,
        transport.server,
        hop.rathole_type(),
        hop.listen
    );
    run_configured("rathole's server", program, hop, "--server", &configuration)
}

fn rathole_client(
    program: &Path,
    hop: &Hop<'_>,
    transport: &Transport,
) -> Result<Program, WorldError> {
    let configuration = format!(
        r#"[client]
remote_addr = "{}"
default_token = "measured"
{}[client.services.plain]
type = "{}"
local_addr = "{}"
"#,
        hop.listen,
        transport.client,
        hop.rathole_type(),
        hop.to
    );
    run_configured("rathole's client", program, hop, "--client", &configuration)
}

fn bore_server(program: &Path, hop: &Hop<'_>) -> Result<Program, WorldError> {
    let address = hop.listen.ip().to_string();
    let arguments = ["server", "--bind-addr", &address];
    run("bore's server", program, hop, &arguments)
}

fn bore_client(program: &Path, front: SocketAddr, hop: &Hop<'_>) -> Result<Program, WorldError> {
    let [(server, port), (origin, origins_port)] =
        [front, hop.to].map(|address| (address.ip().to_string(), address.port().to_string()));
    let there = ["--to", &server, "--port", &port];
    let here = ["--local-host", &origin, &origins_port];
    let arguments = [&["local"], &there[..], &here[..]].concat();
    run("bore's client", program, hop, &arguments)
}

fn haproxy(program: &Path, hop: &Hop<'_>, splices: bool) -> Result<Program, WorldError> {
    let (memory, option) = if splices {
        ("", "option splice-auto")
    } else {
        ("tune.bufsize 65536\n  nosplice", "")
    };
    let configuration = format!(
        r"global
  maxconn {CONNECTIONS}
  nbthread 2
  {memory}
defaults
  mode tcp
  {option}
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen hop
  bind {} backlog 4096
  server next {}
",
        hop.listen, hop.to
    );
    run_configured("haproxy", program, hop, "-f", &configuration)
}

fn nginx(program: &Path, module: &Path, hop: &Hop<'_>) -> Result<Program, WorldError> {
    let configuration = format!(
        r"load_module {};
daemon off;
pid {folder}/pid;
error_log stderr;
worker_processes 2;
events {{ worker_connections {}; }}
stream {{
  server {{
    listen {} backlog=4096;
    proxy_pass {};
    proxy_timeout 1h;
    tcp_nodelay on;
  }}
}}
",
        module.display(),
        2 * CONNECTIONS,
        hop.listen,
        hop.to,
        folder = hop.folder.display(),
    );
    run_configured("nginx", program, hop, "-c", &configuration)
}

/// One end of it. Its packets are as large as an Ethernet has them.
fn qbench(program: &Path, hop: &Hop<'_>, end: &str, batch: bool) -> Result<Program, WorldError> {
    let (first, second) = match end {
        "relay" => (format!("tcp={}", hop.listen), format!("listen={}", hop.to)),
        _ => (format!("to={}", hop.listen), format!("origin={}", hop.to)),
    };
    let streams = match end {
        "relay" => "maxstreams=4",
        _ => "maxstreams=4096",
    };
    let batch = format!("batch={}", u8::from(batch));
    let settings = ["mtu=1472", "win=4194304", "threads=1", streams, &batch];
    let arguments = [&[end, &first, &second], &settings[..]].concat();
    run("qbench", program, hop, &arguments)
}
