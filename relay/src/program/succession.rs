//! One process of this program follows another on the same sockets, so that an upgrade refuses nobody: the older starts the
//! newer, hands over what it asks for, step by step, and serves whom it has until they have gone.
//!
//! ```text
//!   older                         newer
//!   start  ── a channel ─────────► reads its configuration
//!     ◄────── state ──────────────  nothing on the disk changes from now on
//!     ◄────── names ──────────────  the name server's log is given up, its sockets come
//!     ◄────── front ──────────────  the older accepts nobody any more, the sockets come
//!     ◄────── serving ────────────  the older answers no query any more, and says so; sends its agents over, and leaves
//! ```
//!
//! One that ends before it serves leaves the older as it was, as long as it has not asked for `names`.

mod channel;

use std::env;
use std::ffi::OsString;
use std::future::pending;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd, RawFd};
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitStatus};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::channel::{Channel, MESSAGE};
use super::inherited::{self, Inherited, InheritedError};
use crate::local::{self, DESCRIPTORS};
use crate::sys;

/// Where the newer finds its end of the channel: the older's process id, and the number of the descriptor.
const VARIABLE: &str = "CAUSEWAY_PREDECESSOR";

/// Under which name it is inherited.
pub(super) const PREDECESSOR: &str = "predecessor";

/// What a service manager has said to the older alone, and what is in the environment for others.
const NOT_FOR_IT: [&str; 4] = ["WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// How long either waits for the other in one step. A million names take a few seconds to be read.
const STEP: Duration = Duration::from_secs(120);

/// How often it is looked whether a successor has ended.
const LOOK: Duration = Duration::from_millis(250);

/// How long one that comes to nothing may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What the newer asks for, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// That nothing on the disk is changed any more, and the right to change it.
    State,
    /// The name server's log and sockets.
    Names,
    /// The relay's sockets, and whoever comes to them.
    Front,
    /// Nothing more: it serves.
    Serving,
}

/// What is known of the older process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// How many processes there have been before it, one after the other, modulo 256.
    pub generation: u8,
    /// How many workers it has; its sockets are made for so many.
    pub workers: usize,
    /// What its listeners are for, and where they are.
    pub listeners: Vec<(String, SocketAddr)>,
}

impl Facts {
    /// Whether the listener with this `name`, if there is one, is where the configuration `wants` it: of port 0, anywhere.
    ///
    /// # Errors
    /// If it is elsewhere.
    pub fn check(&self, name: &str, wanted: SocketAddr) -> Result<(), InheritedError> {
        let mut listeners = self.listeners.iter();
        match listeners.find(|(known, _)| known == name) {
            Some(&(_, bound)) => inherited::is_where(name, bound, wanted),
            None => Ok(()),
        }
    }
}

/// Descriptors, and what each is for.
pub type Named = Vec<(String, OwnedFd)>;

/// One message of the older: the last of an answer, or a part of it.
#[derive(Debug, Serialize, Deserialize)]
struct Given {
    names: Vec<String>,
    facts: Facts,
    is_last: bool,
}

/// Why the succession came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum SuccessionError {
    /// The system refuses.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The other process has ended, or has closed the channel.
    #[error("the other process has gone")]
    Gone,
    /// It takes too long.
    #[error("the other process has said nothing for {} s", STEP.as_secs())]
    Silent,
    /// It is of a version that says other things.
    #[error("the other process says what this one does not understand")]
    Nonsense,
    /// A socket that was handed over cannot be used.
    #[error(transparent)]
    Socket(#[from] InheritedError),
}

/// SIGUSR2, which asks for a successor.
#[derive(Debug)]
pub struct Succession(Signal);

impl Succession {
    /// Takes the signal over from the system's default, which is to end the program.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn new() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::user_defined2())?))
    }

    /// Waits for the next.
    pub async fn asked(&mut self) {
        let _ = self.0.recv().await;
    }
}

/// This program's file. To be asked for before it can have been replaced.
///
/// # Errors
/// If the system does not know it.
pub fn own_program() -> io::Result<PathBuf> {
    env::current_exe()
}

/// A newer process that does not serve yet.
#[derive(Debug)]
pub struct Successor {
    process: Child,
    channel: Channel,
}

impl Successor {
    /// Starts `program` with this process's arguments.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(program: &Path) -> io::Result<Self> {
        let (ours, theirs) = local::pair()?;
        let number = channel::keep_over_exec(&theirs)?;
        let mut command = Command::new(program);
        command.args(env::args_os().skip(1));
        command.env(VARIABLE, format!("{} {number}", process::id()));
        for name in NOT_FOR_IT {
            command.env_remove(name);
        }
        Ok(Self {
            process: command.spawn()?,
            channel: Channel::new(ours)?,
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it asks for next.
    ///
    /// # Errors
    /// If it has ended, or takes too long.
    pub async fn asks(&mut self) -> Result<Ask, SuccessionError> {
        let received = timeout(STEP, self.channel.receive()).await;
        let received = received.map_err(|_| SuccessionError::Silent)??;
        let received = received.ok_or(SuccessionError::Gone)?;
        serde_json::from_slice(&received.octets).map_err(|_| SuccessionError::Nonsense)
    }

    /// Gives it what it asked for.
    ///
    /// # Errors
    /// If it has ended.
    pub async fn give(&mut self, mut named: Named, facts: &Facts) -> Result<(), SuccessionError> {
        loop {
            let rest = named.split_off(named.len().min(DESCRIPTORS));
            let given = Given {
                names: named.iter().map(|(name, _)| name.clone()).collect(),
                facts: facts.clone(),
                is_last: rest.is_empty(),
            };
            let octets = serde_json::to_vec(&given).map_err(io::Error::other)?;
            let descriptors: Vec<_> = named.iter().map(|(_, given)| given.as_fd()).collect();
            let sent = timeout(STEP, self.channel.send(&octets, &descriptors)).await;
            sent.map_err(|_| SuccessionError::Silent)??;
            if rest.is_empty() {
                return Ok(());
            }
            named = rest;
        }
    }

    /// Waits until it has ended otherwise than well: so long as it has not, for ever.
    pub async fn crashed(mut self) -> ExitStatus {
        loop {
            match self.process.try_wait() {
                Ok(Some(status)) if !status.success() => return status,
                Ok(Some(_)) | Err(_) => return pending().await,
                Ok(None) => sleep(LOOK).await,
            }
        }
    }

    /// Ends it, if it has not ended when it has had time to say why it does.
    pub async fn end(mut self) {
        let ended = async {
            loop {
                match self.process.try_wait() {
                    Ok(Some(status)) => return status,
                    Ok(None) | Err(_) => sleep(LOOK).await,
                }
            }
        };
        if let Ok(status) = timeout(LAST_WORDS, ended).await {
            return tracing::info!(%status, "the successor has ended");
        }
        let _ = self.process.kill();
        match self.process.wait() {
            Ok(status) => tracing::info!(%status, "the successor was ended"),
            Err(error) => tracing::warn!(%error, "how the successor ended is not known"),
        }
    }
}

/// What this process begins with: what a service manager has for it, or what the older process gives, of which it takes over.
#[derive(Debug)]
pub struct Inheritance {
    /// What the service manager has.
    inherited: Inherited,
    predecessor: Option<Channel>,
}

impl Inheritance {
    /// What this process has `inherited`. On the runtime that calls.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn new(mut inherited: Inherited) -> io::Result<Self> {
        let predecessor = inherited.descriptors(PREDECESSOR).pop();
        Ok(Self {
            inherited,
            predecessor: predecessor.map(Channel::new).transpose()?,
        })
    }

    /// Whether there is an older process, of which this one takes over.
    pub fn is_succession(&self) -> bool {
        self.predecessor.is_some()
    }

    /// What the service manager has, where nobody was before.
    pub fn of_the_manager(&mut self) -> Inherited {
        mem::take(&mut self.inherited)
    }

    /// Asks the older process for something, and waits for it. Where there is none, nothing is given.
    ///
    /// # Errors
    /// If the older process has ended, or takes too long.
    pub async fn ask(&mut self, ask: Ask) -> Result<(Inherited, Option<Facts>), SuccessionError> {
        match &self.predecessor {
            Some(predecessor) => {
                let answered = timeout(STEP, asked(predecessor, ask)).await;
                let (given, facts) = answered.map_err(|_| SuccessionError::Silent)??;
                Ok((given, Some(facts)))
            }
            None => Ok((Inherited::default(), None)),
        }
    }

    /// Says to the older process, if there is one, that this one serves. When that answers no query any more, this one is `alone`,
    /// which is not waited for.
    pub fn serving(mut self, alone: Option<CancellationToken>) {
        if !self.is_succession() {
            return;
        }
        tokio::spawn(async move {
            if let Err(error) = self.ask(Ask::Serving).await {
                tracing::warn!(%error, "the process before this one has gone before it was told to");
            }
            drop(alone.map(CancellationToken::drop_guard));
        });
    }
}

async fn asked(predecessor: &Channel, ask: Ask) -> Result<(Inherited, Facts), SuccessionError> {
    let octets = serde_json::to_vec(&ask).map_err(io::Error::other)?;
    predecessor.send(&octets, &[]).await?;
    let mut inherited = Inherited::default();
    loop {
        let received = predecessor.receive().await?;
        let received = received.ok_or(SuccessionError::Gone)?;
        let given: Given =
            serde_json::from_slice(&received.octets).map_err(|_| SuccessionError::Nonsense)?;
        if given.names.len() != received.descriptors.len() {
            return Err(SuccessionError::Nonsense);
        }
        for (name, descriptor) in given.names.into_iter().zip(received.descriptors) {
            inherited.add(name, descriptor);
        }
        if given.is_last {
            return Ok((inherited, given.facts));
        }
    }
}

/// Which descriptor is the channel to the older process, if this one was started by one. The environment forgets it.
pub(super) fn predecessor() -> Result<Option<RawFd>, InheritedError> {
    let said = env::var_os(VARIABLE);
    if said.is_some() {
        sys::forget_variables(&[VARIABLE]).map_err(InheritedError::Environment)?;
    }
    announced(said.as_ref(), parent_id())
}

/// The same, to a process whose parent is `parent`. What is meant for another's child is none of ours.
fn announced(said: Option<&OsString>, parent: u32) -> Result<Option<RawFd>, InheritedError> {
    let Some(said) = said else {
        return Ok(None);
    };
    let both = said.to_str().and_then(|said| said.split_once(' '));
    let both = both.and_then(|(id, number)| Some((id.parse().ok()?, number.parse().ok()?)));
    let (id, number): (u32, RawFd) = both.ok_or(InheritedError::Variable(VARIABLE))?;
    Ok((id == parent).then_some(number))
}

const _: () = assert!(DESCRIPTORS * 64 < MESSAGE, "names are shorter");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant_for_another_process_is_left_to_it() {
        let said = |said: &str, parent| announced(Some(&said.into()), parent);
        assert_eq!(said("7 5", 7).unwrap(), Some(5));
        assert_eq!(said("7 5", 8).unwrap(), None);
        assert_eq!(announced(None, 7).unwrap(), None);
        for nonsense in ["", "7", "7 five", "-7 5", "7 5 3"] {
            let fault = said(nonsense, 7).unwrap_err().to_string();
            assert!(fault.starts_with(VARIABLE), "{fault}");
        }
    }
}
