//! The name servers that are compared: ours, others', and one that looks nothing up, each in processes that end with it. All
//! serve the same zone with one thread.

mod programs;
pub(super) mod signed_zone;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use directory::Token;
use relay::tls::Roots;
use tempfile::TempDir;
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::million::{Million, ZONE, address, host};
use super::peer::find_program;
use super::{READY, WorldError, read};
use crate::part::up::Denial;
use crate::part::{Part, empty_responder, up};
use crate::process::{Child, Memory, Namespace, ProcessId, Program};
use crate::question::{question, shows};

/// How long a server may take to load the zone.
const LOAD: Duration = Duration::from_secs(300);

/// How often it is asked meanwhile.
const ASK: Duration = Duration::from_millis(5);

/// What a process does after it has begun to answer is over by then.
const SETTLE: Duration = Duration::from_secs(1);

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NameServerKind {
    /// Ours
    Causeway,
    /// Our batches with a fixed answer: what no server can be faster than
    Empty,
    /// NLnet Labs NSD
    Nsd,
    /// Knot DNS of CZ.NIC
    Knot,
    /// BIND 9 of ISC
    Bind,
    /// PowerDNS with its BIND backend
    Pdns,
}

impl NameServerKind {
    /// As it is called on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Causeway => "causeway",
            Self::Empty => "empty",
            Self::Nsd => "nsd",
            Self::Knot => "knot",
            Self::Bind => "bind",
            Self::Pdns => "pdns",
        }
    }

    /// Whether it looks names up, so that there are misses.
    pub(crate) fn looks_up(self) -> bool {
        self != Self::Empty
    }

    /// Whether names can be moved while it runs.
    pub(crate) fn takes_updates(self) -> bool {
        match self {
            Self::Causeway | Self::Knot | Self::Bind => true,
            Self::Empty | Self::Nsd | Self::Pdns => false,
        }
    }

    /// Looks for its program in `folder`, and then where this system keeps programs.
    ///
    /// # Errors
    /// If it is not here: how to get it, in a sentence.
    pub(crate) fn find(self, folder: Option<&Path>) -> Result<FoundNameServer, String> {
        let (program, package) = match self {
            Self::Causeway | Self::Empty => (None, ""),
            Self::Nsd => (Some("nsd"), "nsd"),
            Self::Knot => (Some("knotd"), "knot"),
            Self::Bind => (Some("named"), "bind9"),
            Self::Pdns => (Some("pdns_server"), "pdns-server pdns-backend-bind"),
        };
        let program = match program {
            None => PathBuf::new(),
            Some(program) => find_program(program, folder).ok_or_else(|| {
                let name = self.name();
                format!("{name} is not here; to install it: apt-get install {package}")
            })?,
        };
        if self == Self::Pdns && !has_bind_backend(&program) {
            let install = "apt-get install pdns-backend-bind";
            return Err(format!(
                "{} is here without its BIND backend; to install it: {install}",
                self.name()
            ));
        }
        Ok(FoundNameServer {
            kind: self,
            program,
            signs: None,
        })
    }

    /// The same with a signed zone, by each denial with which it is measured.
    ///
    /// # Errors
    /// If what signs the zone for it is not here: how to get it, in a sentence.
    pub(crate) fn find_signed(self, folder: Option<&Path>) -> Result<Vec<FoundNameServer>, String> {
        let denials = match self {
            Self::Causeway => &[Denial::Compact, Denial::Nsec3][..],
            Self::Knot | Self::Nsd => &[Denial::Nsec3],
            Self::Empty | Self::Bind | Self::Pdns => return Ok(Vec::new()),
        };
        let found = self.find(folder)?;
        if self == Self::Nsd {
            signed_zone::is_possible(folder)?;
        }
        let with = |&denial| FoundNameServer {
            signs: Some(denial),
            ..found.clone()
        };
        Ok(denials.iter().map(with).collect())
    }
}

/// A program without it, as one package brings it, ends as soon as it is to load a zone.
fn has_bind_backend(pdns: &Path) -> bool {
    let mut asked = Command::new(pdns);
    asked.args(["--launch=bind", "--config-dir=/nonexistent", "--help"]);
    asked.stdout(Stdio::null()).stderr(Stdio::null());
    asked.status().is_ok_and(|status| status.success())
}

/// A server that can be started.
#[derive(Clone, Debug)]
pub(crate) struct FoundNameServer {
    pub(crate) kind: NameServerKind,
    /// Nothing where it is this program.
    program: PathBuf,
    /// How its zone is signed, if it is.
    pub(crate) signs: Option<Denial>,
}

impl FoundNameServer {
    /// As its row is called: ours with the denial, of which it has two.
    pub(crate) fn name(&self) -> &'static str {
        match (self.kind, self.signs) {
            (NameServerKind::Causeway, Some(Denial::Compact)) => "causeway_compact",
            (NameServerKind::Causeway, Some(Denial::Nsec3)) => "causeway_nsec3",
            (kind, _) => kind.name(),
        }
    }
}

/// A server that has given a right answer.
#[derive(Debug)]
pub(crate) struct NameServer {
    pub(crate) kind: NameServerKind,
    /// As its row is called.
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) process: ProcessId,
    /// From the start of its process to the first right answer.
    pub(crate) loaded: Duration,
    /// Soon afterwards.
    pub(crate) memory: Memory,
    pub(crate) updates: Option<UpdateDoor>,
    /// Where ours tells what it counts.
    pub(crate) admin: Option<SocketAddr>,
    _process: Running,
    _folder: TempDir,
}

/// Where names are moved.
#[derive(Clone, Debug)]
pub(crate) enum UpdateDoor {
    /// dyn2 over HTTPS, for a user and his key; or signed updates where queries go.
    Dyn2 {
        front: SocketAddr,
        roots: Roots,
        key: Token,
        /// The secret that signs for every name, in base64.
        tsig: Zeroizing<String>,
    },
    /// RFC 2136, at the address where queries go.
    Rfc2136,
}

/// What runs for it; dropped before the folder.
#[derive(Debug)]
enum Running {
    Ours(Child),
    Others(Program),
}

impl Running {
    fn id(&self) -> ProcessId {
        match self {
            Self::Ours(child) => child.id(),
            Self::Others(program) => program.id(),
        }
    }

    fn check(&mut self) -> Result<(), WorldError> {
        match self {
            Self::Ours(child) => Ok(child.check()?),
            Self::Others(program) => Ok(program.check()?),
        }
    }
}

impl NameServer {
    /// Starts it, and waits until it has the zone.
    pub(crate) async fn start(
        found: &FoundNameServer,
        million: &Million,
    ) -> Result<Self, WorldError> {
        let folder = tempfile::tempdir()?;
        let kind = found.kind;
        let address = free_address()?;
        let begun = Instant::now();
        let mut running = match kind {
            NameServerKind::Causeway => {
                let order = up::Order {
                    state: million.state(),
                    front: (Ipv4Addr::LOCALHOST, 0).into(),
                    udp: true,
                    raw: true,
                    zone: Some(ZONE.to_owned()),
                    dns: Some(address),
                    dns_threads: Some(1),
                    denial: found.signs,
                    ports: None,
                    scarce: up::Scarce::default(),
                };
                let path = folder.path();
                Running::Ours(Child::start(Namespace::Here, Part::Up, &order, path)?)
            }
            NameServerKind::Empty => {
                let order = empty_responder::Order { listen: address };
                let (part, path) = (Part::EmptyResponder, folder.path());
                Running::Ours(Child::start(Namespace::Here, part, &order, path)?)
            }
            NameServerKind::Nsd
            | NameServerKind::Knot
            | NameServerKind::Bind
            | NameServerKind::Pdns => {
                let zone = match (kind, found.signs) {
                    (NameServerKind::Nsd, Some(_)) => million.signed_zone_file(),
                    _ => million.zone_file(),
                };
                let (program, path) = (&found.program, folder.path());
                let signs = found.signs.is_some();
                Running::Others(programs::start(kind, program, address, &zone, signs, path)?)
            }
        };
        until_right(kind, address, million.names - 1, &mut running).await?;
        let loaded = begun.elapsed();
        let mut admin = None;
        let updates = match &mut running {
            Running::Ours(up) if kind == NameServerKind::Causeway => {
                let ready = up.until_said(READY, |_: &up::Ready| true).await?;
                admin = Some(ready.admin);
                Some(UpdateDoor::Dyn2 {
                    front: ready.front,
                    roots: Roots::from_pem(&read(&ready.ca)?)?,
                    key: million.key().clone(),
                    tsig: million.tsig().clone(),
                })
            }
            Running::Ours(_) => None,
            Running::Others(_) => kind.takes_updates().then_some(UpdateDoor::Rfc2136),
        };
        sleep(SETTLE).await;
        Ok(Self {
            kind,
            name: found.name(),
            address,
            process: running.id(),
            loaded,
            memory: running.id().memory()?,
            updates,
            admin,
            _process: running,
            _folder: folder,
        })
    }
}

/// One that nobody here listens at now, over UDP or TCP. Who is told of it must be quicker than others.
fn free_address() -> io::Result<SocketAddr> {
    loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = udp.local_addr()?;
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
}

/// Asks for the last name of the zone until its address is the answer.
async fn until_right(
    kind: NameServerKind,
    server: SocketAddr,
    name: u32,
    running: &mut Running,
) -> Result<(), WorldError> {
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    client.connect(server)?;
    client.set_nonblocking(true)?;
    let expected = match kind {
        NameServerKind::Empty => empty_responder::ADDRESS,
        NameServerKind::Causeway
        | NameServerKind::Nsd
        | NameServerKind::Knot
        | NameServerKind::Bind
        | NameServerKind::Pdns => address(name),
    };
    let question = question(&host(name)).unwrap_or_default();
    let begun = Instant::now();
    let mut answer = [0; 512];
    loop {
        // Nobody listens there at first, which is told once.
        let _ = client.send(&question);
        sleep(ASK).await;
        while let Ok(length) = client.recv(&mut answer) {
            let octets = answer.get(..length).unwrap_or_default();
            if shows(octets, expected) {
                return Ok(());
            }
        }
        running.check()?;
        if begun.elapsed() > LOAD {
            let server = kind.name();
            return Err(WorldError::NoZone { server });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_found_or_named_with_what_installs_it() {
        for &kind in NameServerKind::value_variants() {
            let value = kind.to_possible_value().unwrap();
            assert_eq!(value.get_name(), kind.name());
            match kind.find(None) {
                Ok(found) if found.program == Path::new("") => {
                    assert!(!matches!(kind, NameServerKind::Nsd | NameServerKind::Bind));
                }
                Ok(found) => assert!(found.program.is_file()),
                Err(sentence) => {
                    assert!(kind.find_signed(None).is_err() || !has_signed_zone(kind));
                    let begins = format!("{} is not here; to install it: apt-get", kind.name());
                    assert!(sentence.starts_with(&begins), "{sentence}");
                }
            }
        }
    }

    fn has_signed_zone(kind: NameServerKind) -> bool {
        use NameServerKind::{Causeway, Knot, Nsd};
        [Causeway, Knot, Nsd].contains(&kind)
    }

    #[test]
    fn ours_is_there_with_each_denial() {
        let ours = NameServerKind::Causeway.find_signed(None).unwrap();
        let names: Vec<_> = ours.iter().map(FoundNameServer::name).collect();
        assert_eq!(names, ["causeway_compact", "causeway_nsec3"]);
        let empty = NameServerKind::Empty.find_signed(None).unwrap();
        assert!(empty.is_empty());
    }

    #[test]
    fn a_free_address_can_be_listened_at_over_both() {
        let address = free_address().unwrap();
        assert_ne!(address.port(), 0);
        UdpSocket::bind(address).unwrap();
        TcpListener::bind(address).unwrap();
    }
}
