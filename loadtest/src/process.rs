//! The processes under load: children that end with this one, and what any process costs.

mod firewall;
mod namespace;
mod program;

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child as StdChild, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, setpriority_pgrp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::part::Part;

pub(crate) use firewall::{Dropped, FirewallError};
pub(crate) use namespace::Namespace;
pub(crate) use program::Program;

/// How many of a child's last lines are shown when it has failed.
const LAST_LINES: usize = 5;

/// How nice who gives way is: as nice as can be (setpriority(2)).
const LAST: i32 = 19;

/// How often it is looked whether a child that was told to end has.
const PAUSE: Duration = Duration::from_millis(20);

/// Hands over what stands where standard error should be, as a service manager would (sd_listen_fds(3)), and has its log in the
/// file that is named first. It becomes the program.
const HANDS_OVER: &str = "exec 3<&2 2>\"$1\"; shift; \
                          LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=front exec \"$@\"";

/// Another process of this program that plays a part. It is killed when this is dropped, and ends by itself when this
/// process ends in any other way: its standard input closes then.
#[derive(Debug)]
pub(crate) struct Child {
    who: &'static str,
    process: StdChild,
    latest: watch::Receiver<Option<String>>,
    log: PathBuf,
}

/// Why a child is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChildError {
    /// The system did not start it.
    #[error("{who} could not be started: {cause}")]
    Start { who: &'static str, cause: io::Error },
    /// It ended too soon.
    #[error("{who} has ended by itself; its last words were: {last_words}")]
    Ended {
        who: &'static str,
        last_words: String,
    },
    /// It runs, and nothing comes of it.
    #[error("{who} was not ready within {} s; its last words were: {last_words}", .time.as_secs())]
    Late {
        who: &'static str,
        time: Duration,
        last_words: String,
    },
    /// It was told to end, and has not.
    #[error("{who} has not ended within {} s; its last words were: {last_words}", .time.as_secs())]
    Lingers {
        who: &'static str,
        time: Duration,
        last_words: String,
    },
    /// It speaks another language: two versions of this program are mixed.
    #[error("{who} said what makes no sense: {line}")]
    Nonsense { who: &'static str, line: String },
}

impl Child {
    /// Starts this program again in `namespace` and in the role of `part`, tells it `order`, and keeps its log in `folder`.
    pub(crate) fn start(
        namespace: Namespace,
        part: Part,
        order: &impl Serialize,
        folder: &Path,
    ) -> Result<Self, ChildError> {
        let log = log_of(part, folder);
        Self::spawn(part, order, &log, || {
            let mut command = namespace.command(std::env::current_exe()?);
            command.stderr(File::create(&log)?);
            Ok(command)
        })
    }

    /// The same here, and what arrives at `front` is for it. The listener stays ours too: what comes while there is no such
    /// process waits in its queue.
    pub(crate) fn start_at(
        front: &TcpListener,
        part: Part,
        order: &impl Serialize,
        folder: &Path,
    ) -> Result<Self, ChildError> {
        let log = log_of(part, folder);
        Self::spawn(part, order, &log, || {
            let mut command = Command::new("sh");
            command.args(["-c", HANDS_OVER, "sh"]).arg(&log);
            command.arg(std::env::current_exe()?);
            command.stderr(OwnedFd::from(front.try_clone()?));
            Ok(command)
        })
    }

    /// `command` runs this program.
    fn spawn(
        part: Part,
        order: &impl Serialize,
        log: &Path,
        command: impl FnOnce() -> io::Result<Command>,
    ) -> Result<Self, ChildError> {
        let (who, log) = (part.title(), log.to_owned());
        let started = (|| {
            let mut process = command()?
                .args(["part", part.name()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .process_group(0) // Ctrl-C is for this process to hear, which then ends the others
                .spawn()?;
            let mut order = serde_json::to_vec(order)?;
            order.push(b'\n');
            let told = match &mut process.stdin {
                Some(stdin) => stdin.write_all(&order),
                None => Ok(()),
            };
            Ok((process, told))
        })();
        let (mut process, told) = started.map_err(|cause| ChildError::Start { who, cause })?;
        let (sender, latest) = watch::channel(None);
        if let Some(stdout) = process.stdout.take() {
            // Ends with the child, at the latest when the child is dropped.
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    sender.send_replace(Some(line));
                }
            });
        }
        let child = Self {
            who,
            process,
            latest,
            log,
        };
        match told {
            Ok(()) => Ok(child),
            Err(_) => Err(child.ended()),
        }
    }

    pub(crate) fn id(&self) -> ProcessId {
        ProcessId(self.process.id())
    }

    /// What it said last; `None` before it has said anything.
    pub(crate) fn said<T: DeserializeOwned>(&self) -> Result<Option<T>, ChildError> {
        let line = self.latest.borrow().clone();
        line.map(|line| {
            serde_json::from_str(&line).map_err(|_| ChildError::Nonsense {
                who: self.who,
                line,
            })
        })
        .transpose()
    }

    /// Waits until it says something that is `enough`.
    pub(crate) async fn until_said<T: DeserializeOwned>(
        &mut self,
        time: Duration,
        enough: impl Fn(&T) -> bool,
    ) -> Result<T, ChildError> {
        let waited = timeout(time, async {
            loop {
                let changed = self.latest.changed().await;
                if let Some(said) = self.said()?
                    && enough(&said)
                {
                    return Ok(said);
                }
                changed.map_err(|_| self.ended())?;
            }
        });
        match waited.await {
            Ok(said) => said,
            Err(_) => Err(ChildError::Late {
                who: self.who,
                time,
                last_words: last_words(&self.log),
            }),
        }
    }

    /// Whether it still runs.
    pub(crate) fn check(&mut self) -> Result<(), ChildError> {
        match self.process.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(_)) | Err(_) => Err(self.ended()),
        }
    }

    /// Lets whoever else wants the processor have it first.
    pub(crate) fn give_way(&self) -> Result<(), ChildError> {
        // It is in a group of its own, whose threads all hear of it.
        let set = setpriority_pgrp(Some(Pid::from_child(&self.process)), LAST);
        set.map_err(|_| self.ended())
    }

    /// Lets it run no further, as if its machine stood still.
    pub(crate) fn stand_still(&self) -> Result<(), ChildError> {
        // Not waited for yet, so the number is nobody else's.
        let sent = kill_process(Pid::from_child(&self.process), Signal::STOP);
        sent.map_err(|_| self.ended())
    }

    /// Asks it to end, as service managers do.
    pub(crate) fn terminate(&self) {
        // Fails only if it has ended already.
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
    }

    /// Waits until it has ended.
    pub(crate) async fn end(&mut self, time: Duration) -> Result<ExitStatus, ChildError> {
        let ended = timeout(time, async {
            loop {
                match self.process.try_wait() {
                    Ok(Some(status)) => return Ok(status),
                    Ok(None) => sleep(PAUSE).await,
                    Err(_) => return Err(self.ended()),
                }
            }
        });
        match ended.await {
            Ok(ended) => ended,
            Err(_) => Err(ChildError::Lingers {
                who: self.who,
                time,
                last_words: last_words(&self.log),
            }),
        }
    }

    /// Ends it, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // Fails only if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    fn ended(&self) -> ChildError {
        ChildError::Ended {
            who: self.who,
            last_words: last_words(&self.log),
        }
    }
}

fn log_of(part: Part, folder: &Path) -> PathBuf {
    folder.join(format!("{}.log", part.title()))
}

fn last_words(log: &Path) -> String {
    let log = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    match lines.len() {
        0 => "none".to_owned(),
        count => lines[count.saturating_sub(LAST_LINES)..].join("\n"),
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A running process, ours or another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessId(pub(crate) u32);

/// What a process has cost cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("process {} cannot be measured: {cause}; does it still run, and is it yours?", .process.0)]
pub(crate) struct UsageError {
    process: ProcessId,
    cause: io::Error,
}

impl ProcessId {
    /// The processor time it and its children have used since they began, in user and kernel mode, all threads together.
    /// The kernel counts in ticks, mostly of 10 ms.
    pub(crate) fn cpu(self) -> Result<Duration, UsageError> {
        let children = self.children().into_iter().map(Self::cpu);
        Ok(self.own_cpu()? + children.sum::<Result<Duration, _>>()?)
    }

    /// The same without its children.
    pub(crate) fn own_cpu(self) -> Result<Duration, UsageError> {
        let stat = self.read("stat")?;
        cpu_of(&stat).ok_or_else(|| self.error(io::ErrorKind::InvalidData.into()))
    }

    /// This one.
    pub(crate) fn this() -> Self {
        Self(std::process::id())
    }

    /// Its resident memory and that of its children, in octets.
    pub(crate) fn resident(self) -> Result<u64, UsageError> {
        let status = self.read("status")?;
        let own =
            resident_of(&status).ok_or_else(|| self.error(io::ErrorKind::InvalidData.into()))?;
        let children = self.children().into_iter().map(Self::resident);
        Ok(own + children.sum::<Result<u64, _>>()?)
    }

    /// Its memory and that of its children.
    pub(crate) fn memory(self) -> Result<Memory, UsageError> {
        let rollup = self.read("smaps_rollup")?;
        let own =
            Memory::of(&rollup).ok_or_else(|| self.error(io::ErrorKind::InvalidData.into()))?;
        let mut children = self.children().into_iter().map(Self::memory);
        children.try_fold(own, |sum, child| Ok(sum.plus(child?)))
    }

    /// Those that its first thread has started, as nginx does its workers. None where the kernel does not say.
    fn children(self) -> Vec<Self> {
        let children = self.read(&format!("task/{}/children", self.0));
        let children = children.unwrap_or_default();
        let ids = children.split_whitespace().map(str::parse);
        ids.filter_map(Result::ok).map(Self).collect()
    }

    fn read(self, file: &str) -> Result<String, UsageError> {
        fs::read_to_string(format!("/proc/{}/{file}", self.0)).map_err(|cause| self.error(cause))
    }

    fn error(self, cause: io::Error) -> UsageError {
        UsageError {
            process: self,
            cause,
        }
    }
}

/// What a process holds, in octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// All that is in memory.
    pub(crate) resident: u64,
    /// The same, where what several processes share is divided among them.
    pub(crate) proportional: u64,
    /// What stands in no file.
    pub(crate) anonymous: u64,
}

impl Memory {
    /// proc_pid_smaps_rollup(5): `Rss:     12345 kB`.
    fn of(rollup: &str) -> Option<Self> {
        let octets = |field| {
            let mut lines = rollup.lines();
            let line = lines.find_map(|line| line.strip_prefix(field))?;
            let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
            Some(kibibytes * 1024)
        };
        Some(Self {
            resident: octets("Rss:")?,
            proportional: octets("Pss:")?,
            anonymous: octets("Anonymous:")?,
        })
    }

    fn plus(self, other: Self) -> Self {
        Self {
            resident: self.resident + other.resident,
            proportional: self.proportional + other.proportional,
            anonymous: self.anonymous + other.anonymous,
        }
    }
}

/// proc_pid_stat(5): the second field is a name in parentheses, which may hold anything; utime and stime are 14 and 15.
fn cpu_of(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    Some(Duration::from_secs_f64(
        (user + system) as f64 / ticks_per_second as f64,
    ))
}

/// proc_pid_status(5): `VmRSS:     12345 kB`.
fn resident_of(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 150 9 9 20 0 3 0 100 1 1";
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(cpu_of(stat), Some(Duration::from_secs_f64(400.0 / ticks)));
        assert_eq!(cpu_of("7 (a"), None);
    }

    #[test]
    fn resident_memory_is_in_octets() {
        let status = "Name:\tx\nVmHWM:\t 300 kB\nVmRSS:\t     200 kB\n";
        assert_eq!(resident_of(status), Some(200 * 1024));
        assert_eq!(resident_of("Name:\tx\n"), None);
    }

    #[test]
    fn this_process_can_be_measured() {
        let this = ProcessId::this();
        assert!(this.resident().unwrap() > 0);
        let memory = this.memory().unwrap();
        assert!(memory.resident >= memory.proportional, "{memory:?}");
        assert!(
            memory.resident > memory.anonymous && memory.anonymous > 0,
            "{memory:?}"
        );
        this.cpu().unwrap();
    }
}
