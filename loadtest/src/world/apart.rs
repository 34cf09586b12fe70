//! A relay with a process of its own, which has joined a server of ours as `causeway relay add` has it join.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use control::operator::{Answer, RelayVerb, Verb};

use super::server::{Server, ask, why_not};
use super::{Carrier, READY, WorldError, port};
use crate::part::{Part, relay_apart};
use crate::process::{Child, Namespace, ProcessId};

/// How long it lets visitors finish when it is asked to end.
const DRAIN: Duration = Duration::from_secs(1);

/// How long it may take to end, the drain included.
const END: Duration = Duration::from_secs(30);

/// The relay. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct RelayApart {
    running: Option<(Child, relay_apart::Ready)>,
    /// `host:port`, as agents are told it.
    name: String,
    /// Where visitors and agents arrive.
    front: SocketAddr,
    /// The same, if it is ours: nobody is refused then while there is no process.
    held: Option<TcpListener>,
    public: Ipv4Addr,
    config: PathBuf,
    folder: PathBuf,
}

/// What it is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    /// What the operator calls it.
    pub(super) name: &'a str,
    /// To where names of its devices lead. Nobody need be there: visitors are told the way.
    pub(super) public: Ipv4Addr,
    /// Whether this program holds its front, as a socket unit does.
    pub(super) is_held: bool,
}

impl RelayApart {
    /// Registers it at `server`, and returns when it answers. It has its certificate and its devices then.
    pub(super) async fn join(
        server: &Server,
        wish: Wish<'_>,
        folder: PathBuf,
    ) -> Result<Self, WorldError> {
        let listener = port::listener(Ipv4Addr::LOCALHOST).map_err(WorldError::NoPort)?;
        let front = listener.local_addr()?;
        fs::create_dir(&folder)?;
        let (ready, carrier) = (&server.ready, server.carrier);
        let (host, join) = register(&ready.state, wish, front.port()).await?;
        let join_file = folder.join("join");
        write_secret(&join_file, &join)?;
        let config = folder.join("relay.toml");
        let text = format!(
            "zone = {:?}\nstate = {:?}\n[relay]\nfront = \"{front}\"\npublic = [\"{}\"]\njoin = {:?}\n\
             udp = {}\nraw = {}\n\
             drain = \"{}s\"\n[admin]\nlisten = \"127.0.0.1:0\"\n",
            ready.zone,
            folder.join("state"),
            wish.public,
            join_file,
            carrier != Carrier::Tls,
            carrier != Carrier::QuicOnly,
            DRAIN.as_secs()
        );
        fs::write(&config, text)?;
        let mut relay = Self {
            running: None,
            name: format!("{host}:{}", front.port()),
            front,
            held: Some(listener).filter(|_| wish.is_held),
            public: wish.public,
            config,
            folder,
        };
        relay.start().await?;
        Ok(relay)
    }

    /// Anew if it does not run.
    pub(super) async fn start(&mut self) -> Result<(), WorldError> {
        if let Some((child, _)) = &mut self.running {
            child.check()?;
            return Ok(());
        }
        let order = relay_apart::Order {
            config: self.config.clone(),
        };
        let (part, folder) = (Part::RelayApart, &self.folder);
        let mut child = match &self.held {
            Some(front) => Child::start_at(front, part, &order, folder)?,
            None => Child::start(Namespace::Here, part, &order, folder)?,
        };
        let ready = child.until_said(READY, |_: &relay_apart::Ready| true);
        let ready = ready.await?;
        self.running = Some((child, ready));
        Ok(())
    }

    /// Asks it to end, and starts it again when it has.
    pub(crate) async fn restart(&mut self) -> Result<(), WorldError> {
        if let Some((mut child, _)) = self.running.take() {
            child.terminate();
            child.end(END).await?;
        }
        self.start().await
    }

    /// Without a word.
    pub(super) fn kill(&mut self) {
        self.running = None;
    }

    /// From now on it does nothing any more, and nobody is told so.
    pub(super) fn stand_still(&self) -> Result<(), WorldError> {
        if let Some((child, _)) = &self.running {
            child.stand_still()?;
        }
        Ok(())
    }

    /// `host:port`, as agents are told it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where visitors and agents arrive.
    pub(super) fn front(&self) -> SocketAddr {
        self.front
    }

    /// To where names of its devices lead.
    pub(super) fn public(&self) -> Ipv4Addr {
        self.public
    }

    /// Where it says what it counts, and its process, if it runs.
    pub(crate) fn running(&self) -> Option<(SocketAddr, ProcessId)> {
        let running = self.running.as_ref();
        running.map(|(child, ready)| (ready.admin, child.id()))
    }
}

/// Its host, and what stands in the file with which it joins.
async fn register(state: &Path, wish: Wish<'_>, port: u16) -> Result<(String, String), WorldError> {
    let verb = Verb::Relay(RelayVerb::Add {
        name: wish.name.to_owned(),
        addresses: vec![wish.public.into()],
        port,
    });
    let answer = ask(state, &verb).await?;
    let Answer::RelayAdded { host, join } = answer else {
        return Err(WorldError::NotRegistered {
            name: wish.name.to_owned(),
            reason: why_not(answer),
        });
    };
    Ok((host, join.reveal().to_owned()))
}

/// For its owner alone.
fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}
