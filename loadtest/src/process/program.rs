//! A program that is not ours, with whatever it starts in turn.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child as StdChild, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

use super::{ChildError, ProcessId, last_words};

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
}

impl Drop for Program {
    fn drop(&mut self) {
        // Fails only if all of them have ended already.
        let _ = kill_process_group(Pid::from_child(&self.process), Signal::KILL);
        let _ = self.process.wait();
    }
}
