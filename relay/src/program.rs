//! What every program here starts with: its log, its descriptors, the signals that stop it, and what a service manager hears
//! of it.

mod inherited;
pub mod succession;

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;
use tracing_subscriber::EnvFilter;

pub use inherited::{Inherited, InheritedError};

pub use crate::sys::give_back_memory;
use crate::workers::Workers;

/// How many signs of life come in the time after which a service manager takes the program for dead: one may be late.
const SIGNS_OF_LIFE: u32 = 3;

/// Starts the log, on standard error. `CAUSEWAY_LOG` says how much of it: `warn`, `info` (the default), `debug`, or more
/// finely `relay=debug,ddns=info`.
pub fn start_log() {
    let filter = EnvFilter::try_from_env("CAUSEWAY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        // It would say so on the same standard error, and panic.
        .log_internal_errors(false)
        .init();
}

/// Raises the soft limit on descriptors to the hard one, and says how many this process may have: each connection takes
/// one, and many systems begin with 1,024.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    current.unwrap_or(u64::MAX)
}

/// Interrupt and terminate, and the hangup of the terminal that this program was started at: from now on ours to handle.
#[derive(Debug)]
pub struct Termination {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    terminal: Terminal,
}

impl Termination {
    /// Takes the signals over from the system's default.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            terminal: Terminal::of_now(),
        })
    }

    /// Waits for the next of them. The first asks the program to end, a second means at once.
    pub async fn received(&mut self) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
                _ = self.hangup.recv() => if self.terminal.has_gone() {
                    return;
                }
            }
        }
    }
}

/// Hangups that ask for the configuration to be read again: all but that of the terminal, which is a [`Termination`].
#[derive(Debug)]
pub struct Reload {
    hangup: Signal,
    terminal: Terminal,
}

impl Reload {
    /// Takes the signal over from the system's default, which is to end the program.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminal: Terminal::of_now(),
        })
    }

    /// Waits for the next. Several that come at once are one.
    pub async fn asked(&mut self) {
        loop {
            let _ = self.hangup.recv().await;
            if !self.terminal.has_gone() {
                return;
            }
        }
    }
}

/// Whether this program has a terminal: its standard input or standard error. Whoever closes it wants what runs there to end, and the
/// kernel says so by the signal that others use for a reload.
#[derive(Clone, Copy, Debug)]
struct Terminal {
    had: bool,
}

impl Terminal {
    fn of_now() -> Self {
        Self {
            had: has_terminal(),
        }
    }

    fn has_gone(self) -> bool {
        self.had && !has_terminal()
    }
}

fn has_terminal() -> bool {
    io::stdin().is_terminal() || io::stderr().is_terminal()
}

/// The service manager that has started this program, or nobody. It is told as sd_notify(3) says, without ever being waited
/// for: what it does not take is lost.
#[derive(Clone, Debug)]
pub struct ServiceManager {
    notices: Option<Arc<Notices>>,
    /// After so long without a sign of life it ends the program.
    patience: Option<Duration>,
}

#[derive(Debug)]
struct Notices {
    socket: UnixDatagram,
    manager: SocketAddr,
}

impl ServiceManager {
    /// Who the environment says it is.
    pub fn of_environment() -> Self {
        Self::named(|variable| env::var_os(variable), process::id())
    }

    /// Who `variable` says it is, to the process `id`.
    fn named(variable: impl Fn(&str) -> Option<OsString>, id: u32) -> Self {
        let notices = variable("NOTIFY_SOCKET").and_then(|name| match Notices::to(&name) {
            Ok(notices) => Some(Arc::new(notices)),
            Err(error) => {
                tracing::warn!(%error, "NOTIFY_SOCKET names nothing that can be told anything");
                None
            }
        });
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        let is_meant = number("WATCHDOG_PID").is_none_or(|meant| meant == u64::from(id));
        let patience = number("WATCHDOG_USEC").filter(|&patience| is_meant && patience > 0);
        Self {
            notices,
            patience: patience.map(Duration::from_micros),
        }
    }

    /// From now on another process is the program: the manager is to look after that one.
    pub fn succeeded_by(&self, id: u32) {
        self.tell(&format!("MAINPID={id}"));
    }

    /// The program does now what it is there for.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// The program reads its configuration again; [`ready`](Self::ready) says that it has.
    pub fn reloading(&self) {
        let now = monotonic_microseconds();
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
    }

    /// The program ends, and may take its time.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Gives signs of life until the value is dropped, if the manager asks for them: one each time that this runtime and
    /// all of `workers` have had a turn. Where one of them hangs there are no more, and the manager starts the program anew.
    pub fn watch(&self, workers: Workers) -> Option<AbortOnDropHandle<()>> {
        let patience = self.patience?;
        let manager = self.clone();
        Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let mut turn = interval(patience / SIGNS_OF_LIFE);
            turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                turn.tick().await;
                if !workers.have_a_turn().await {
                    return; // they have been stopped
                }
                manager.tell("WATCHDOG=1");
            }
        })))
    }

    fn tell(&self, notice: &str) {
        if let Some(Notices { socket, manager }) = self.notices.as_deref()
            && let Err(error) = socket.send_to_addr(notice.as_bytes(), manager)
        {
            tracing::debug!(%error, notice, "the service manager does not hear");
        }
    }
}

/// Of the clock that the manager compares with its own.
fn monotonic_microseconds() -> u128 {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::try_from(now).unwrap_or_default().as_micros()
}

impl Notices {
    /// To a path, or where `@` stands first, to a name without a file.
    fn to(name: &OsStr) -> io::Result<Self> {
        let manager = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, manager })
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::mpsc;

    use super::*;
    use crate::workers::WorkerThreads;

    const SOON: Duration = Duration::from_secs(30);

    /// A manager at `name`, and what a program with these variables takes it for.
    fn manager(
        address: &SocketAddr,
        variables: &'static [(&str, &str)],
        name: impl Into<OsString>,
    ) -> (UnixDatagram, ServiceManager) {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let name = name.into();
        let told = ServiceManager::named(
            |variable| {
                let value = variables.iter().find(|(name, _)| *name == variable);
                let value = value.map(|(_, value)| OsString::from(value));
                value.or_else(|| (variable == "NOTIFY_SOCKET").then(|| name.clone()))
            },
            7,
        );
        (socket, told)
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut notice = [0; 64];
        let length = socket.recv(&mut notice).unwrap();
        String::from_utf8(notice[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_manager_hears_by_a_path_and_by_a_name_without_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let abstract_name = format!("causeway-test-{}", process::id());
        for (address, name) in [
            (
                SocketAddr::from_pathname(&path).unwrap(),
                path.into_os_string(),
            ),
            (
                SocketAddr::from_abstract_name(&abstract_name).unwrap(),
                format!("@{abstract_name}").into(),
            ),
        ] {
            let (socket, told) = manager(&address, &[], name);
            told.ready();
            assert_eq!(heard(&socket), "READY=1");
            let before = monotonic_microseconds();
            told.reloading();
            let reloading = heard(&socket);
            let said = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
            let said: u128 = said.unwrap().parse().unwrap();
            assert!((before..=monotonic_microseconds()).contains(&said));
            told.stopping();
            assert_eq!(heard(&socket), "STOPPING=1");
        }
    }

    #[test]
    fn without_a_manager_nobody_is_told_anything() {
        let alone = ServiceManager::named(|_| None, 7);
        assert!(alone.notices.is_none() && alone.patience.is_none());
        alone.ready();
        let to_nobody = ServiceManager::named(|_| Some("/nowhere/at/all".into()), 7);
        to_nobody.ready();
    }

    #[test]
    fn signs_of_life_are_for_whom_they_are_asked_of() {
        let patience = |id: &'static str| {
            let variable = move |name: &str| match name {
                "WATCHDOG_USEC" => Some("3000000".into()),
                "WATCHDOG_PID" => Some(id.into()),
                _ => None,
            };
            ServiceManager::named(variable, 7).patience
        };
        assert_eq!(patience("7"), Some(Duration::from_secs(3)));
        assert_eq!(patience("8"), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn signs_of_life_end_when_a_worker_hangs_and_come_back_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let address = SocketAddr::from_pathname(&path).unwrap();
        let (socket, told) = manager(&address, &[("WATCHDOG_USEC", "30000")], path);
        let threads = WorkerThreads::start(NonZeroUsize::new(2).unwrap()).unwrap();
        let _watch = told.watch(threads.workers()).unwrap();
        assert_eq!(heard(&socket), "WATCHDOG=1");
        assert_eq!(heard(&socket), "WATCHDOG=1");
        let (hung, hangs) = mpsc::sync_channel(0);
        let (go_on, may_go_on) = mpsc::sync_channel::<()>(0);
        threads.workers().next().runtime().spawn(async move {
            hung.send(()).unwrap();
            let _ = may_go_on.recv();
        });
        hangs.recv().unwrap();
        let mut notice = [0; 64];
        socket.set_nonblocking(true).unwrap();
        while socket.recv(&mut notice).is_ok() {}
        socket.set_nonblocking(false).unwrap();
        // One may be under way; then nothing comes for twenty times as long as it takes.
        socket
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let late = (0..SIGNS_OF_LIFE).take_while(|_| socket.recv(&mut notice).is_ok());
        assert!(late.count() <= 1);
        socket.set_read_timeout(Some(SOON)).unwrap();
        go_on.send(()).unwrap();
        assert_eq!(heard(&socket), "WATCHDOG=1");
    }
}
