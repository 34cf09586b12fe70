//! A program that is not ours, with whatever it starts in turn.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child as StdChild, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::time::sleep;

use super::{ChildError, ProcessId, last_words};

/// How often it is looked whether it has ended.
const PAUSE: Duration = Duration::from_millis(20);

/// A running program. It and its children are killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Program {
    who: &'static str,
    process: StdChild,
    log: PathBuf,
}

impl Program {
    /// Starts `command` in a process group of its own, and keeps what it says in `folder`.
    pub(crate) fn start(
        who: &'static str,
        command: &mut Command,
        folder: &Path,
    ) -> Result<Self, ChildError> {
        let log = folder.join(format!("{who}.log"));
        let started = (|| {
            let file = File::create(&log)?;
            command
                .stdin(Stdio::null())
                .stdout(file.try_clone()?)
                .stderr(file)
                .process_group(0)
                .spawn()
        })();
        let process = started.map_err(|cause| ChildError::Start { who, cause })?;
        Ok(Self { who, process, log })
    }

    pub(crate) fn id(&self) -> ProcessId {
        ProcessId(self.process.id())
    }

    /// Whether it still runs.
    pub(crate) fn check(&mut self) -> Result<(), ChildError> {
        match self.process.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(_)) | Err(_) => Err(ChildError::Ended {
                who: self.who,
                last_words: last_words(&self.log),
            }),
        }
    }

    /// Waits until it says `text`.
    pub(crate) async fn until_said(&mut self, text: &str) -> Result<(), ChildError> {
        while !fs::read_to_string(&self.log).is_ok_and(|said| said.contains(text)) {
            self.check()?;
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Waits until it has ended well, and returns what it has said.
    pub(crate) async fn finished(&mut self) -> Result<String, ChildError> {
        loop {
            match self.process.try_wait() {
                Ok(None) => sleep(PAUSE).await,
                Ok(Some(status)) if status.success() => {
                    return Ok(fs::read_to_string(&self.log).unwrap_or_default());
                }
                Ok(Some(_)) | Err(_) => return self.check().map(|()| String::new()),
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Fails only if all of them have ended already.
        let _ = kill_process_group(Pid::from_child(&self.process), Signal::KILL);
        let _ = self.process.wait();
    }
}
